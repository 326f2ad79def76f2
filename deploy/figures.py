"""What was last measured of the challenger, for whoever can't wait for Prometheus: a rollback."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from deploy.calls import Unanswered
from deploy.candidate import Candidate, of_version
from deploy.measured import Prometheus, measured
from engine.document import Document
from engine.errors import RetainError
from retain.rollout import Rollout
from retain.signals import Figure

MEASURE_SECONDS = 60.0  # each takes a dozen questions about all that was counted since the challenger was first served
FIRST_SECONDS = 15.0  # after a change: by then a lease has vouched for it, and Prometheus has taken a sample
LOOK_SECONDS = 5.0  # between looks at the rollout
OLD_SECONDS = 120.0  # figures from before are not told

log = logging.getLogger("retain.deploy")


class _Last(NamedTuple):
    """`at`: on the monotonic clock, before Prometheus was asked."""

    generation: int
    at: float
    figures: tuple[Figure, ...]


class Figures:
    """Of one experiment's rollout. `clock` is monotonic, `now` in microseconds since 1970."""

    def __init__(
        self,
        experiment: str,
        rollout: Document[Rollout],
        prometheus: Prometheus,
        clock: Callable[[], float],
        now: Callable[[], int],
    ) -> None:
        self._experiment = experiment
        self._rollout = rollout
        self._prometheus = prometheus
        self._clock = clock
        self._now = now
        self._lock = threading.Lock()
        self._last: _Last | None = None
        self._candidate: Candidate | None = None
        self._next: tuple[int, float] | None = None  # of which generation figures are wanted, and when

    def of(self, rollout: Rollout) -> tuple[Figure, ...]:
        """Of that generation, if they are not old; asks nobody."""
        with self._lock:
            last = self._last
        if last is None or last.generation != rollout.generation or self._clock() - last.at > OLD_SECONDS:
            return ()
        return last.figures

    def look(self) -> None:
        """Asks Prometheus, if it is time to, while there is a challenger that decides about customers. Raises
        RetainError."""
        now = self._clock()
        rollout = self._rollout.read()
        if rollout is None or rollout.challenger is None or not rollout.percent:
            return
        if self._next is None or self._next[0] != rollout.generation:
            self._next = rollout.generation, now + FIRST_SECONDS
        if now >= self._next[1]:
            self._next = rollout.generation, now + MEASURE_SECONDS
            self._measure(rollout, rollout.challenger.release, now)

    def _measure(self, rollout: Rollout, release: str, began: float) -> None:
        if self._candidate is None or self._candidate.version != release:
            self._candidate = of_version(release, self._experiment)
        figures = measured(self._prometheus, rollout, self._candidate.limits, self._now()).figures
        with self._lock:
            self._last = _Last(rollout.generation, began, figures)

    def forever(self) -> None:
        """Looks again and again. What goes wrong is told by whoever renews the lease."""
        while True:
            try:
                self.look()
            except Unanswered:
                pass
            except RetainError as error:
                log.warning("the challenger's figures can't be told: %s", error)
            except Exception:
                log.exception("the challenger's figures can't be told")
            time.sleep(LOOK_SECONDS)
