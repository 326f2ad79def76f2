"""What the admin process looks after in the database: wallet, shadow, deletion, and that old records go."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from engine.errors import RetainError
from engine.releases import find
from engine.store import store_url
from retain.record import Record
from retain.release import Release
from retain.rollout import Rollout
from retain.shadow import Tally, figures, verdict
from serve.database import Database, StateUnavailable, wall_clock
from serve.keep import exported, forget, prune
from serve.loading import Challenger, challenger, load_release, with_budget
from serve.periods import Standing
from serve.place import database_url
from serve.settings import Settings
from serve.standing import Looks
from serve.state import State
from serve.worth import TrialGauges

SHADOW_SECONDS = 30.0  # for which a look at all records is good
PRUNE_SECONDS = 86_400.0
CHECKPOINT_SECONDS = 0.3  # each takes the disk for 10 ms, in which writers may wait for it
PRUNE_AGAIN_SECONDS = 600.0  # after a failure

log = logging.getLogger("retain.serve")


class Oversight:
    """Of one database, for the release that answers. `keep_days`: how long records stay. `challenger`: whose learned
    arm is in the shadow, or decides about a share of the customers if it is `on_trial`, where it isn't the release's
    own and `looks` find no rollout that says so."""

    def __init__(
        self,
        database: Database,
        version: str,
        release: Release,
        keep_days: int,
        challenger: Challenger | None = None,
        on_trial: bool = False,
        looks: Looks | None = None,
    ) -> None:
        self.currency = release.terms.offers.currency
        self._database = database
        self._version = version
        self._release = release
        self._own = Challenger(version, release.reference)
        self._learned = challenger or self._own
        self._on_trial = on_trial
        self._looks = looks
        self._looked = threading.Lock()
        self._keep_days = keep_days
        self._state = State(database, release.terms)
        self._lock = threading.Lock()  # of the state
        self._looking = asyncio.Lock()  # at the shadow
        self.worth = TrialGauges(database, self.on_trial)
        # When a shadow was looked at, whose and since when, and what was seen.
        self._shadow: tuple[float, tuple[Challenger, int], dict[str, Any]] | None = None

    def wallet(self) -> Standing | None:
        """Of the running period; None while the database doesn't answer."""
        with self._lock:
            try:
                self._state.carry_out([])
            except StateUnavailable:
                return None
            return self._state.standing

    def on_trial(self) -> str | None:
        """The version whose learned arm decides about a share of the customers, if one does. Raises RetainError."""
        rollout = self._rollout()
        if rollout is None:
            return self._learned.version if self._on_trial else None
        return None if rollout.challenger is None or not rollout.percent else rollout.challenger.release

    async def shadow(self) -> dict[str, Any]:
        """What the learned arm that is tried has shown. Raises StateUnavailable, and RetainError where the rollout or
        its challenger can't be read.

        A look takes a minute for some 300,000 records. One thread at most looks, so that others are left for /metrics.
        """
        async with self._looking:
            return await asyncio.to_thread(self._look)

    def _rollout(self) -> Rollout | None:
        """None where the settings rule. Raises RetainError."""
        if self._looks is None:
            return None
        with self._looked:
            seen = self._looks.look()
        if seen.problem is not None:
            raise RetainError(seen.problem)
        return seen.rollout

    def _tried(self) -> tuple[Challenger, int]:
        """Whose learned arm is tried, and since when, in microseconds since 1970: what a release has shown before it
        was rolled back counts no more once it is forgiven and proposed again. Raises RetainError."""
        rollout = self._rollout()
        if rollout is None or rollout.challenger is None:
            return self._learned, 0
        since = [event.at for event in rollout.history if event.action == "propose"][-1]
        version = rollout.challenger.release
        if version == self._version:
            return self._own, since
        if version != self._learned.version:
            self._learned = challenger(find(version, self._release.experiment))
        return self._learned, since

    def _look(self) -> dict[str, Any]:
        tried = self._tried()
        if self._shadow is None or self._shadow[1] != tried or time.monotonic() - self._shadow[0] > SHADOW_SECONDS:
            seen = self._look_at(*tried)
            self._shadow = time.monotonic(), tried, seen
        return self._shadow[2]

    def _look_at(self, learned: Challenger, since: int) -> dict[str, Any]:
        tally = Tally(self._version, learned.version)
        for line in exported(self._database, None, since):
            tally.add(Record.model_validate_json(line))
        found = figures(tally, self._release.monitoring, learned.reference)
        return {
            "release": self._version,
            "learned": learned.version,
            "verdict": verdict(found),
            "decisions": tally.decisions,
            "figures": [figure.model_dump() for figure in found],
        }

    def forget(self, customer: str) -> int:
        """How many decisions about the customer were deleted. Raises StateUnavailable."""
        return forget(self._database, customer)

    def close(self) -> None:
        """Closes the database."""
        self._database.close()

    async def checkpoint_often(self) -> None:
        """Keeps SQLite's write-ahead log short, so that no request waits for that."""
        while True:
            try:
                await asyncio.to_thread(self._database.checkpoint)
            except StateUnavailable:
                pass  # the workers say so
            except Exception:
                log.exception("SQLite's write-ahead log could not be shortened")
            await asyncio.sleep(CHECKPOINT_SECONDS)

    async def prune_daily(self) -> None:
        """Deletes what is older than it may be, at the start and once a day; if that fails, it is tried again sooner,
        whatever the reason."""
        while True:
            pause = PRUNE_AGAIN_SECONDS
            try:
                await asyncio.to_thread(prune, self._database, self._keep_days, wall_clock())
                pause = PRUNE_SECONDS
            except StateUnavailable as error:
                log.warning("old records could not be deleted: %s", error)
            except Exception:
                log.exception("old records could not be deleted")
            await asyncio.sleep(pause)


def oversight_of(settings: Settings, folder: Path) -> Oversight:
    """Of the database, which need not be there yet. `folder`: of the service's processes. Raises RetainError."""
    version, release = load_release(settings)
    release = with_budget(release, settings.budget)
    database = Database(database_url(settings.database_url), settings.sqlite_synchronous, folder=folder)
    with suppress(StateUnavailable):
        database.open()
    tried = None if settings.challenger is None else challenger(settings.challenger)
    looks = Looks(store_url(), release.experiment)
    on_trial = settings.router.learned_percent > 0
    return Oversight(database, version, release, settings.keep_days, tried, on_trial, looks)
