"""When the learned arm is asked no more, and when it is tried again.

Two misses in a row open the circuit: nobody waits for an arm that has just shown that it can't answer. After a pause
one question is let through as a probe. Its success closes the circuit; its miss opens it again for twice as long. The
circuit lives in the worker, so a new process of the arm finds it as its predecessor left it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

MISSES = 2
FIRST_PAUSE, LONGEST_PAUSE = 30.0, 600.0  # seconds

State = Literal["closed", "open", "half_open"]


class Circuit:
    """Asked with permit() before each question, and told with succeeded() or missed() what became of it.

    A permit is a number that changes with the state. What becomes of a question that was asked in an earlier state
    tells nothing of the present one, so it is ignored: not the questions that were under way when the circuit opened
    decide about it, but the probe alone.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` gives seconds that never run backwards."""
        self.state: State = "closed"
        self.reason = ""  # of the last miss that opened it
        self._clock = clock
        self._misses = 0
        self._pause = FIRST_PAUSE
        self._until = 0.0
        self._number = 0

    @property
    def retry_in(self) -> float:
        """Seconds until a probe may be sent; 0 unless the circuit is open."""
        return max(0.0, self._until - self._clock()) if self.state == "open" else 0.0

    def permit(self) -> int | None:
        """A permit for one question, or None where it must not be asked. Whoever has one has to say what came of it."""
        if self.state == "closed":
            return self._number
        if self.state == "half_open" or self._clock() < self._until:
            return None
        self._enter("half_open")
        return self._number

    def succeeded(self, permit: int) -> bool:
        """Whether this closed the circuit."""
        if permit != self._number:
            return False
        self._misses = 0
        if self.state == "closed":
            return False
        self._pause = FIRST_PAUSE
        self._enter("closed")
        return True

    def missed(self, permit: int, reason: str) -> None:
        """`reason` is kept if this miss opens the circuit."""
        if permit != self._number:
            return
        self._misses += 1
        if self.state == "half_open":
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
        elif self._misses < MISSES:
            return
        self.reason = reason
        self._until = self._clock() + self._pause
        self._enter("open")

    def _enter(self, state: State) -> None:
        self.state = state
        self._misses = 0
        self._number += 1
