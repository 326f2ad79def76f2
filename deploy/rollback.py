"""Rolls back on an alert: at once, waiting for nobody but the store, and again until that has taken it.

An alert that could not be put on record is kept in memory, and keeps the lease from being renewed meanwhile.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable

from deploy.alerts import Alert, blamed, why
from engine.document import Document
from engine.errors import RetainError
from retain.rollout import Rollout, describe, roll_back
from retain.signals import Figure

BY = "controller"
AGAIN_SECONDS = 1.0
# Of an alert that would roll back where nothing was ever proposed: a challenger may be served by settings alone.
NO_ROLLOUT = (
    "No rollout: nothing was rolled back. Where CANARY_PERCENT alone serves a challenger, set FORCE_BASELINE=true and "
    "start the services anew (docs/OPERATOR_RUNBOOK.md, Alerts)."
)

log = logging.getLogger("retain.deploy")


class Rollbacks:
    """Of one rollout. `figures`: what was last measured of a rollout's challenger; they are not waited for. `clock`:
    microseconds since 1970. `done` is called with the rollout after each."""

    def __init__(
        self,
        rollout: Document[Rollout],
        figures: Callable[[Rollout], tuple[Figure, ...]],
        clock: Callable[[], int],
        done: Callable[[Rollout], None] = lambda _: None,
    ) -> None:
        self._rollout = rollout
        self._figures = figures
        self._clock = clock
        self._done = done
        self._lock = threading.Lock()  # of what is owed
        self._owed: dict[str, Alert] = {}
        self._wake = threading.Event()
        self.count = 0

    def owing(self) -> bool:
        """Whether an alert has not been judged by the rollout yet."""
        with self._lock:
            return bool(self._owed)

    def judge(self, alerts: Iterable[Alert]) -> None:
        """Rolls back if one of them blames the challenger. Raises RetainError while the store doesn't take it."""
        suspects = {alert.id: alert for alert in alerts if alert.firing and alert.rolls_back}
        if not suspects:
            return
        with self._lock:
            self._owed |= suspects
        try:
            self._judge(list(suspects.values()))
        except BaseException:
            self._wake.set()
            raise
        with self._lock:
            for settled in suspects:
                self._owed.pop(settled, None)

    def again(self) -> None:
        """Judges what is owed, whenever there is something, for ever."""
        logged = ""
        while True:
            self._wake.wait()
            self._wake.clear()
            with self._lock:
                owed = list(self._owed.values())
            try:
                self.judge(owed)
                logged = ""
            except RetainError as error:
                if str(error) != logged:
                    log.error("a rollback could not be put on record, and is tried again: %s", error)
                logged = str(error)
                time.sleep(AGAIN_SECONDS)
            except Exception:
                log.exception("a rollback failed, and is tried again")
                time.sleep(AGAIN_SECONDS)

    def _judge(self, suspects: list[Alert]) -> None:
        if self._rollout.read() is None:
            names = ", ".join(sorted({alert.name for alert in suspects}))
            log.error("%s would roll a challenger back. %s", names, NO_ROLLOUT)
            return
        rolled_back: list[Rollout] = []

        def transition(rollout: Rollout | None) -> Rollout:
            rolled_back.clear()
            if rollout is None:
                raise RetainError("the rollout went away")
            alert = blamed(suspects, rollout)
            if alert is None:
                return rollout
            figures = self._figures(rollout)
            after = roll_back(rollout, by=BY, why=why(alert), at=self._clock(), figures=figures)
            rolled_back.append(after)
            return after

        self._rollout.change(transition)
        for rollout in rolled_back:
            self.count += 1
            event = rollout.history[-1]
            log.error("ROLLED BACK %s, %s. Now: %s", event.before, event.reason, describe(rollout))
            self._done(rollout)
