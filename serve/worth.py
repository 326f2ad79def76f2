"""What the trial that runs is worth (retain/trial.py), from the records of decisions that have matured: as gauges.

Outcomes may come long after a decision, so each look goes through the trial's records anew, in pages, so that nobody
who writes waits. 300,000 of them, 800 MB of SQLite, take 3.3 s of a core and 16 MB; a look is followed by a pause of
twenty times as long. Meanwhile /metrics has what was seen last, with its age.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import orjson
from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import and_, select, tuple_

from engine.errors import RetainError
from retain.decision import Arm
from retain.record import nrr_proxy
from retain.trial import Comparison, Worth
from serve.database import Database, StateUnavailable, wall_clock
from serve.history import OPEN_FOR
from serve.tables import decision, outcome

AT_ONCE = 500  # rows that are read in one transaction
MARGIN = 30 * 86_400_000_000  # microseconds, by which clocks of services may have been wrong
PAUSE, SHORTEST_PAUSE = 20.0, 10.0  # times a look, and seconds
FORGOTTEN_SECONDS = 3600.0  # after which nothing is told any more, if all looks fail
PLACES = 1 << 27

log = logging.getLogger("retain.serve")

_PLACE = tuple_(decision.c.at, decision.c.id)
_PAGE = (
    select(
        decision.c.at,
        decision.c.id,
        decision.c.customer,
        decision.c.offer,
        decision.c.cost,
        decision.c.charge,
        decision.c.answered,
        decision.c.detail,
        outcome.c.kind,
    )
    .outerjoin(outcome, and_(outcome.c.decision == decision.c.id, outcome.c.kind == "churned"))
    .where(decision.c.withdrawn.is_(False), decision.c.customer.is_not(None))
    .order_by(decision.c.at, decision.c.id)
)


class Looked(NamedTuple):
    """What a look has seen of the trial of a `release` (its version). `at` by time.monotonic()."""

    release: str
    worth: Mapping[Arm, Worth]
    at: float


class TrialGauges(Collector):
    """Of the trial whose version `tried` names whenever it is asked, None where nothing is on trial. `clock` gives
    microseconds since 1970."""

    def __init__(
        self, database: Database, tried: Callable[[], str | None], clock: Callable[[], int] = wall_clock
    ) -> None:
        self._database = database
        self._tried = tried
        self._clock = clock
        self._begin: tuple[str, int] = ("", 0)  # of a release, from when on its trial's records are looked at
        self._looked: Looked | None = None

    def collect(self) -> Iterator[Metric]:
        looked = self._looked
        if looked is None:
            return
        matured = GaugeMetricFamily(
            "retain_nrr_matured",
            "Matured decisions of the running trial, one a customer, by whose she was drawn to be; release: on trial",
            labels=["arm", "release"],
        )
        nrr = GaugeMetricFamily(
            "retain_nrr_proxy", "Mean NRR proxy of these, as a share of a month's charge", labels=["arm", "release"]
        )
        for arm, worth in looked.worth.items():
            matured.add_metric([arm, looked.release], worth.matured)
            if worth.nrr is not None:
                nrr.add_metric([arm, looked.release], worth.nrr)
        yield matured
        yield nrr
        age = time.monotonic() - looked.at
        yield GaugeMetricFamily("retain_nrr_age_seconds", "Since the records of the trial were looked at", age)

    async def keep_looking(self) -> None:
        """One look after the other, each in a thread. Whatever fails is tried again."""
        while True:
            begun = time.monotonic()
            try:
                await asyncio.to_thread(self.look)
            except (StateUnavailable, RetainError):
                self._forget()  # others say so
            except Exception:
                self._forget()
                log.exception("the trial's records could not be looked at")
            await asyncio.sleep(max(SHORTEST_PAUSE, PAUSE * (time.monotonic() - begun)))

    def _forget(self) -> None:
        """Tells nothing more once the last look is too long ago: what has changed since nobody knows."""
        if self._looked is not None and time.monotonic() - self._looked.at > FORGOTTEN_SECONDS:
            self._looked = None

    def look(self) -> None:
        """Raises StateUnavailable, and RetainError where it isn't known what is on trial."""
        release = self._tried()
        if release is None:
            self._looked = None
            return
        until = self._clock() - OPEN_FOR
        since = self._begin[1] if self._begin[0] == release else 0
        comparison, first = compared(self._database, release, since, until)
        self._begin = (release, (until if first is None else first) - MARGIN)
        self._looked = Looked(release, comparison.worth(), time.monotonic())


def compared(database: Database, release: str, since: int, until: int) -> tuple[Comparison, int | None]:
    """The decisions of a trial that were made from `since` until `until`, and when the first one was. Raises
    StateUnavailable."""
    comparison, seen, first = Comparison(), bytearray(PLACES // 8), None
    for row in _rows(database, since, until):
        detail = orjson.loads(row.detail)
        if detail.get("trial") != release:
            continue
        first = row.at if first is None else first
        percent = detail["percent"]
        if not _is_first(seen, row.customer, percent) or detail["explored"]:
            continue
        proxy = nrr_proxy(
            offer=row.offer,
            cost=row.cost,
            charge=row.charge,
            accepted=row.answered == "accepted",
            churned=row.kind is not None,
            risk=detail["risk"],
            risk_if_accepted=detail["risk_if_accepted"],
        )
        if proxy is not None:
            comparison.add(percent, detail["assigned"], proxy)
    return comparison, first


def _rows(database: Database, since: int, until: int) -> Iterator[Any]:
    """Oldest first."""
    after: tuple[int, str] = (since, "")
    while True:
        with database.reading() as connection:
            rows = connection.execute(_PAGE.where(after < _PLACE, decision.c.at <= until).limit(AT_ONCE)).all()
        yield from rows
        if len(rows) < AT_ONCE:
            return
        after = (rows[-1].at, rows[-1].id)


def _is_first(seen: bytearray, customer: bytes, percent: float) -> bool:
    """Whether none of the customer was seen at that percentage; notes that one is now.

    Two customers may have the same place, one of them is then left out: with a million, one of 130, drawn by chance.
    A set of them would want 70 MB.
    """
    byte, bit = divmod(hash((customer, percent)) % PLACES, 8)
    known = seen[byte] >> bit & 1
    seen[byte] |= 1 << bit
    return not known
