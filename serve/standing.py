"""Where a rollout stands for one process of the service: from the store, looked at once a second, to who decides.

What can't be known is taken for the worst: where the rollout is damaged, gone after it was seen, or hasn't been
readable for LEASE_SECONDS, the baseline decides about everybody. A lease that isn't renewed runs out on the process's
own clock, whatever has become of the looks.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from engine.clock import elapsed
from engine.document import Document
from engine.errors import RetainError
from engine.store import ABSENT, Store, open_store
from retain.lease import LEASE_SECONDS, Lease, Sighting, fresh_until, sighted
from retain.rollout import BASELINE_ONLY, Rollout, Served, continues, effective, lease_key, rollout_key

log = logging.getLogger("retain.serve")


@dataclass(frozen=True)
class Seen:
    """What a look has found. `rollout`: the last that could be read, None where none ever was. `problem`: why it counts
    no more. `looked`: when, by elapsed(); -inf before the first look."""

    rollout: Rollout | None = None
    sighting: Sighting | None = None
    problem: str | None = None
    looked: float = -math.inf


class Looks:
    """At the rollout of one experiment, one after the other. `store`: its URL."""

    def __init__(self, store: str, experiment: str, clock: Callable[[], float] = elapsed) -> None:
        self._url = store
        self._store: Store | None = None  # once it was opened: if its folder goes away, none is made in its place
        self._experiment = experiment
        self._clock = clock
        self._rollout: tuple[Rollout | None, str] = (None, ABSENT)
        self._seen = Seen()

    def look(self) -> Seen:
        """What is there now; it may take long."""
        now = self._clock()
        try:
            if self._store is None:
                self._store = open_store(self._url)
            rollout = self._rollout_of(self._store)
            lease = None if rollout is None else _lease(Document(self._store, lease_key(self._experiment), Lease))
            self._seen = Seen(rollout, sighted(self._seen.sighting, lease, now), None, now)
        except RetainError as error:
            self._seen = replace(self._seen, problem=str(error), looked=now)
        return self._seen

    def _rollout_of(self, store: Store) -> Rollout | None:
        """Raises RetainError for one that is gone, or is another than was seen, such as an older copy of it."""
        key, before = rollout_key(self._experiment), self._rollout[0]
        version = Document(store, key, Rollout).look(self._rollout)
        rollout = version[0]
        if rollout is None and (before is not None or store.read(lease_key(self._experiment)) is not None):
            raise RetainError(f"{store.url}/{key}: is gone, though it was there before")
        if rollout is not None and before is not None and not continues(before, rollout):
            raise RetainError(
                f"{store.url}/{key}: is not what it was, perhaps an older copy. Roll back what shouldn't be there, and "
                "restart the service, which goes by it from then on"
            )
        self._rollout = version
        return rollout


def _lease(document: Document[Lease]) -> Lease | None:
    try:
        return document.read()
    except RetainError as error:
        log.warning("the lease of the rollout can't be read, so no challenger is served: %s", error)
        return None


@dataclass(frozen=True)
class Standing:
    """`served` is what this process does, `until` when the lease runs out, by elapsed(), and `problem` why the baseline
    decides about everybody, whatever the rollout says."""

    rollout: Rollout | None
    served: Served
    until: float
    problem: str | None

    @property
    def rules(self) -> bool:
        """Whether the rollout does; otherwise the settings do."""
        return self.rollout is not None or self.problem is not None


# Where there is no rollout.
SETTINGS_RULE: Final = Standing(None, BASELINE_ONLY, math.inf, None)


def standing(seen: Seen, force_baseline: bool, canary_percent: float | None, now: float) -> Standing:
    """What follows from a look at the time `now`, by elapsed(). `canary_percent`: None where it isn't set."""
    problem = seen.problem
    if problem is None and now - seen.looked > LEASE_SECONDS:
        problem = f"the store hasn't answered for {LEASE_SECONDS:.0f} s and more"
    if problem is not None:
        return Standing(seen.rollout, BASELINE_ONLY, -math.inf, f"the rollout can't be followed: {problem}")
    if seen.rollout is None:
        return SETTINGS_RULE
    until = fresh_until(seen.sighting, seen.rollout.generation)
    served = effective(seen.rollout, now <= until, force_baseline, canary_percent)
    return Standing(seen.rollout, served, until, None)
