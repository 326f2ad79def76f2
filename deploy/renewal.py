"""Renews the lease, round by round, while the chain of the alerts shows that it is alive.

A round asks Prometheus, looks at the watchdog, and raises the lease's count by compare-and-set, for the generation of
the rollout that is there. Whatever is in doubt, it doesn't: then the challenger is served to nobody within seconds.
Another controller that renews the lease is left to it, and this one stays a spare, which still rolls back.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from deploy.alerts import Alert
from deploy.calls import Unanswered
from deploy.measured import REPLICAS, Sample
from deploy.watch import Gap, Link, Sign, arrived, gap, sign
from engine.document import Document
from engine.errors import RetainError
from retain.lease import Lease, LeaseError, Sighting, renewed, sighted
from retain.rollout import Rollout, continues, describe

RENEW_SECONDS = 5.0
# What a round has found counts for so long; a process that was paused in between begins anew.
ROUND_SECONDS = 4.0
STUCK_SECONDS = 20.0  # a round that takes as long waits for the store
LOST_SECONDS = 60.0  # without a renewal that should have been: somebody is told
QUIET = (None, "starting", "no_challenger", "spare")  # outcomes of which nobody has to be told

Refusal = Literal["starting", "no_challenger", "rollback", "spare", "store", "paused", "gone", "other_rollout"] | Link

log = logging.getLogger("retain.deploy")


class Outcome(NamedTuple):
    """Of a round: the generation that was vouched for, or why none was."""

    generation: int | None
    why: Refusal | None
    says: str


class _Paused(Exception):
    """Too much time has passed since Prometheus was asked."""


class Renewal:
    """Of one rollout's lease, by the controller `holder`. `ask`: Prometheus, by a query; `replicas`: as it calls them;
    `owing`: whether a rollback is still to be put on record.

    `round` is called by one thread, `hear` by others. `clock` is monotonic.
    """

    def __init__(
        self,
        rollout: Document[Rollout],
        lease: Document[Lease],
        ask: Callable[[str], list[Sample]],
        replicas: Sequence[str],
        holder: str,
        owing: Callable[[], bool],
        clock: Callable[[], float],
    ) -> None:
        self._rollout = rollout
        self._lease = lease
        self._ask = ask
        self._replicas = replicas
        self._holder = holder
        self._owing = owing
        self._clock = clock
        self._lock = threading.Lock()  # of the watchdog
        self._watchdog: Sign | None = None
        self._samples: dict[str, Sign] = {}
        self._sighting: Sighting | None = None
        self._seen: Rollout | None = None  # the last that continued those before it
        self._outcome = Outcome(None, "starting", "The first round is not over yet")
        self._ended = clock()  # the last round
        self._well = clock()  # when the last round was one of which nobody has to be told
        self.renewals = 0

    def hear(self, watchdog: Alert) -> None:
        """The alerts' watchdog has arrived."""
        now = self._clock()
        with self._lock:
            if watchdog.evaluated is None:
                self._watchdog = arrived(self._watchdog, now)
            else:
                self._watchdog = sign(self._watchdog, watchdog.evaluated, now)

    @property
    def watchdog_age(self) -> float | None:
        """Seconds since the watchdog last showed life; None if it never did."""
        with self._lock:
            watchdog = self._watchdog
        return None if watchdog is None or watchdog.after is None else self._clock() - watchdog.after

    @property
    def outcome(self) -> Outcome:
        """Of the last round, unless that is long ago."""
        ago = self._clock() - self._ended
        if ago > STUCK_SECONDS:
            return Outcome(None, "paused", f"The lease isn't renewed: no round has ended for {ago:.0f} s")
        return self._outcome

    @property
    def lost(self) -> str | None:
        """What there is to tell somebody of a lease that has not been renewed for long, though there is a challenger:
        if Prometheus or Alertmanager is what is dead, no alert does."""
        seconds = self._clock() - self._well
        return None if seconds < LOST_SECONDS else self.outcome.says

    def round(self) -> Outcome:
        """Renews the lease, or not; never raises. A change of the reason is logged."""
        before, outcome = self._outcome, self._round()
        self._outcome, self._ended = outcome, self._clock()
        self.renewals += outcome.why is None
        if outcome.why in QUIET:
            self._well = self._ended
        if (before.generation, before.why) != (outcome.generation, outcome.why):
            log.log(logging.INFO if outcome.why in (None, "no_challenger", "spare") else logging.WARNING, outcome.says)
        return outcome

    def _round(self) -> Outcome:
        began = self._clock()
        try:
            unanswered = self._look(began)
            rollout = self._rollout.read()
            doubt = self._doubt(rollout)
            if doubt is None and rollout is not None:
                self._seen = rollout
            if doubt is not None or rollout is None or rollout.challenger is None:
                self._sighting = sighted(self._sighting, self._lease.read(), began)
                return doubt or Outcome(None, "no_challenger", "There is no challenger to vouch for")
            if self._owing():
                return Outcome(None, "rollback", "The lease isn't renewed: a rollback could not be put on record yet")
            with self._lock:
                watchdog = self._watchdog
            missing = gap(unanswered, self._samples, self._replicas, watchdog, self._clock())
            if missing is not None:
                self._sighting = sighted(self._sighting, self._lease.read(), began)
                return _refused(missing)
            self._renew(rollout.generation, began)
        except LeaseError as error:
            return Outcome(None, "spare", f"This controller is a spare: {error}")
        except _Paused:
            return Outcome(None, "paused", "The lease isn't renewed: this process, or the store, was paused")
        except RetainError as error:
            return Outcome(None, "store", f"The lease isn't renewed: {error}")
        except Exception:  # whatever it is, the next round may do better
            log.exception("a round failed")
            return Outcome(None, "store", "The lease isn't renewed: a round failed")
        return Outcome(rollout.generation, None, f"The lease is renewed for generation {rollout.generation}")

    def _doubt(self, rollout: Rollout | None) -> Outcome | None:
        """Whether this is still the rollout that was watched; what a restart forgets."""
        before = self._seen
        if rollout is None:
            if before is None and self._lease.read() is None:
                return None
            says = "is gone from the store, though it was there: put it back, or propose a release anew"
            return Outcome(None, "gone", f"The lease isn't renewed: {self._rollout.key} {says}")
        if before is None or continues(before, rollout):
            return None
        says = (
            f"{self._rollout.key} is an older copy, or was begun anew. It was {describe(before)} (generation "
            f"{before.generation}), and is {describe(rollout)} (generation {rollout.generation}). Roll back what "
            "should not be there, then restart the controller and the services"
        )
        return Outcome(None, "other_rollout", f"The lease isn't renewed: {says}")

    def _look(self, began: float) -> str | None:
        """Asks Prometheus; what there is to say if it doesn't answer."""
        try:
            samples = self._ask(REPLICAS)
        except Unanswered as error:
            return str(error)
        newest: dict[str, float] = {}
        for sample in samples:
            name = sample.labels.get("instance", "")
            newest[name] = max(sample.value, newest.get(name, sample.value))
        # A replica that can't be reached now begins anew.
        self._samples = {name: sign(self._samples.get(name), number, began) for name, number in newest.items()}
        return None

    def _renew(self, generation: int, began: float) -> None:
        def in_time() -> None:
            if self._clock() - began > ROUND_SECONDS:
                raise _Paused

        def transition(lease: Lease | None) -> Lease:
            in_time()
            now = self._clock()
            self._sighting = sighted(self._sighting, lease, now)
            return renewed(self._sighting, self._holder, generation, now)

        after = self._lease.change(transition, last_look=in_time)  # a write may hang, and what was found grows old
        self._sighting = sighted(self._sighting, after, self._clock())


def _refused(missing: Gap) -> Outcome:
    return Outcome(None, missing.link, f"The lease isn't renewed: {missing.says}")
