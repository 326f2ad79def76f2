"""Money is reserved before it is spent, and metered while it is.

An attempt reserves rate x (its time limit + the machine's overhead), and settles what it used. A reservation that
would pass the cap, counted with every open one, is refused before anything starts. No attempt is metered more than it
reserved. One document per scope, changed by compare-and-set, so two processes can't both get the last dollar. It may
hold a cap of its own, which can be lowered while a run spends: the lowest cap counts. A scope that is stated with
`{month}` is another one, with its whole cap, in each month. Amounts are whole micro-dollars: sums of floats drift.
Everything here is metered by our own clock at a stated price; it is not a bill.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from engine.errors import BudgetExceeded, RetainError
from engine.faults import fault
from engine.process import Holder, this_process
from engine.store import ABSENT, Conflict, Store

MICRO = 1_000_000
MONTH = "{month}"  # in a scope as it is stated
# Seconds from a reservation within which an attempt has its claim. A subprocess has it after one or two, a container
# after 5 to 12, unless its image has to be pulled; one that doesn't start is given up after 600 (flows/witness.py).
STARTS_S = 30.0
CONTAINER_STARTS_S = 900.0


class Entry(BaseModel):
    """One attempt's money. `seconds` and `metered` are set once it is settled."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_by_name=True)

    # <experiment>/<stage>/<fingerprint>/<number>; stored as "attempt" (see engine/records.py)
    attempt_id: str = Field(validation_alias="attempt", serialization_alias="attempt")
    experiment: str
    stage: str
    holder: Holder  # the process that settles it
    owner: str = ""  # the run that settles it, if that run comes back after it was killed: a flow run of Prefect
    machine_type: str = ""  # documents of earlier versions don't name it
    pool: str = ""  # the work pool of its rented machine; empty for the machine of the run itself
    micro_usd_per_hour: int
    overhead_s: float
    reserved_at: float  # seconds since 1970, by the clock of whoever reserved
    reserved_s: float
    reserved_micro_usd: int
    state: Literal["open", "settled"] = "open"
    seconds: float = 0.0
    metered_micro_usd: int = 0
    estimated: bool = False
    preempted: bool = False  # its machine was taken or lost: it neither completed nor failed, nor did its run stop it
    overrun_s: float = 0.0  # seconds that it lived beyond its reservation; nothing is metered for them

    @property
    def artifact(self) -> str:
        """What the attempt tries to make: <experiment>/<stage>/<fingerprint>."""
        return self.attempt_id.rpartition("/")[0]

    def of_run(self, owner: str) -> bool:
        """Whether the attempt is one of the run that has this owner, or of this process where a run has none."""
        return self.owner == owner if owner else self.holder == this_process()

    @property
    def rate_usd_per_hour(self) -> float:
        return self.micro_usd_per_hour / MICRO

    @property
    def reserved_usd(self) -> float:
        return self.reserved_micro_usd / MICRO

    @property
    def metered_usd(self) -> float:
        return self.metered_micro_usd / MICRO


@dataclass(frozen=True)
class Standing:
    """Where a scope stands, in micro-dollars. `cap` is the lowest of the caps, `own_cap` the ledger's own."""

    scope: str
    metered: int
    reserved: int  # by attempts that are still open
    cap: int
    own_cap: int | None

    @property
    def committed(self) -> int:
        """What has been spent, or may be without another reservation."""
        return self.metered + self.reserved

    @property
    def share(self) -> float:
        """Of the cap that is committed."""
        return self.committed / self.cap if self.cap else math.inf if self.committed else 0.0

    @property
    def over(self) -> bool:
        """Reservations never lead there, but a cap that was lowered does."""
        return self.committed > self.cap

    def __str__(self) -> str:
        return (
            f"{self.scope}: metered ${self.metered / MICRO:.4f}, reserved by running attempts "
            f"${self.reserved / MICRO:.4f}, cap ${self.cap / MICRO:g}"
        )


class Held(Exception):
    """Another run has just reserved money for an attempt at the same artifact."""


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    scope: str
    revision: int
    cap_micro_usd: int | None = None
    entries: dict[str, Entry]


def scope_of(stated: str, began: datetime) -> str:
    """The scope of a run that began then: `{month}` stands for its year and month by UTC, such as 2026-12."""
    return stated.replace(MONTH, f"{began.astimezone(UTC):%Y-%m}")


def scope_before(stated: str, began: datetime) -> str | None:
    """The scope of the month before; None where a scope is the same in every month."""
    first = began.astimezone(UTC).replace(day=1)
    return scope_of(stated, first - timedelta(days=1)) if MONTH in stated else None


def reserve(
    store: Store,
    scope: str,
    *,
    cap_usd: float,
    attempt_id: str,
    experiment: str,
    stage: str,
    usd_per_hour: float,
    limit_s: float,
    overhead_s: float,
    machine_type: str = "",
    pool: str = "",
    owner: str = "",
) -> Entry:
    """Writes nothing, and raises BudgetExceeded when metered + open + this would pass the lower of `cap_usd` and the
    ledger's own cap, or Held when another run's attempt at the artifact is starting (starting_elsewhere())."""
    fault("ledger.reserve")
    rate = round(usd_per_hour * MICRO)
    needed = amount(usd_per_hour, limit_s + overhead_s)
    entry = Entry(
        attempt_id=attempt_id,
        experiment=experiment,
        stage=stage,
        holder=this_process(),
        owner=owner,
        machine_type=machine_type,
        pool=pool,
        micro_usd_per_hour=rate,
        overhead_s=overhead_s,
        reserved_at=round(time.time(), 3),
        reserved_s=limit_s + overhead_s,
        reserved_micro_usd=needed,
    )
    while True:
        document, version = _read(store, scope)
        if attempt_id in document.entries:
            raise RetainError(f"ledger {scope}: attempt {attempt_id} is reserved already")
        if starting_elsewhere(document.entries.values(), entry.artifact, owner):
            raise Held
        now = _standing(document, cap_usd)
        if now.committed + needed > now.cap:
            lowered = now.cap == now.own_cap
            remedy = (
                "It was lowered by `make budget`, which raises it, too" if lowered else "Raise it (costs.budget_usd)"
            )
            raise BudgetExceeded(
                f"{stage}: refused before it started. It reserves ${needed / MICRO:.4f} "
                f"({limit_s + overhead_s:.0f} s at ${usd_per_hour:g} an hour); metered so far "
                f"${now.metered / MICRO:.4f}, reserved by running attempts ${now.reserved / MICRO:.4f}, cap of {scope} "
                f"${now.cap / MICRO:g}. {remedy}, or lower the stage's time limit"
            )
        if _write(store, document, version, entries={**document.entries, attempt_id: entry}):
            fault("ledger.reserved")
            return entry


def amount(usd_per_hour: float, seconds: float) -> int:
    """What an attempt reserves that may take so long, in micro-dollars."""
    return _amount(round(usd_per_hour * MICRO), seconds)


def starting_elsewhere(attempts: Iterable[Entry], artifact: str, owner: str) -> bool:
    """Whether an attempt of another run at this artifact has been reserved so lately that it may not have got its claim
    yet. From then on the claim says who is at work."""
    now = time.time()
    return any(
        each.state == "open"
        and each.artifact == artifact
        and not each.of_run(owner)
        and abs(now - each.reserved_at) < (CONTAINER_STARTS_S if each.owner else STARTS_S)
        for each in attempts
    )


def settle(
    store: Store,
    scope: str,
    attempt_id: str,
    seconds: float,
    *,
    estimated: bool,
    preempted: bool = False,
    began: bool = True,
) -> Entry:
    """Charges the seconds from the attempt's start to its end and its overhead, but never more than it reserved; and
    nothing for one that never `began`.

    Settling an attempt again changes nothing. Until then its reservation counts, so an attempt that may still be alive
    somewhere is to be left open until its end is known or the time that it reserved has passed.
    """
    fault("ledger.settle")
    while True:
        document, version = _read(store, scope)
        entry = document.entries.get(attempt_id)
        if entry is None:
            raise RetainError(f"ledger {scope}: attempt {attempt_id} was never reserved")
        if entry.state == "settled":
            return entry
        charged_s = min(seconds, entry.reserved_s - entry.overhead_s)
        charged = _amount(entry.micro_usd_per_hour, charged_s + entry.overhead_s) if began else 0
        settled = entry.model_copy(
            update={
                "state": "settled",
                "seconds": round(charged_s, 3),
                "metered_micro_usd": min(charged, entry.reserved_micro_usd),
                "estimated": estimated,
                "preempted": preempted,
                "overrun_s": 0.0 if estimated else round(seconds - charged_s, 3),
            }
        )
        if _write(store, document, version, entries={**document.entries, attempt_id: settled}):
            fault("ledger.settled")
            return settled


def stamp_again(store: Store, scope: str, attempt_id: str) -> Entry:
    """Stamps an open reservation with the present time: its attempt ends before now + `reserved_s`.

    Its own stamp lies in the future, since the clock that stamped it was wrong; or the attempt has not begun, since it
    waits for a machine, or only now.
    """
    while True:
        document, version = _read(store, scope)
        entry = document.entries[attempt_id]
        if entry.state == "settled":
            return entry
        stamped = entry.model_copy(update={"reserved_at": round(time.time(), 3)})
        if _write(store, document, version, entries={**document.entries, attempt_id: stamped}):
            return stamped


def set_cap(store: Store, scope: str, cap_usd: float | None) -> None:
    """Gives the ledger a cap of its own, or takes it away (None). Runs that are at work notice within seconds."""
    cap = None if cap_usd is None else round(cap_usd * MICRO)
    while True:
        document, version = _read(store, scope)
        if document.cap_micro_usd == cap or _write(store, document, version, cap_micro_usd=cap):
            return


def entries(store: Store, scope: str) -> list[Entry]:
    """Every attempt of the scope, in the order they were reserved."""
    return list(_read(store, scope)[0].entries.values())


def look(store: Store, scope: str, cap_usd: float) -> tuple[Standing, list[Entry]]:
    """Where the scope stands beneath `cap_usd`, and its attempts; both of one moment."""
    document = _read(store, scope)[0]
    return _standing(document, cap_usd), list(document.entries.values())


def mean_hours_between_preemptions(
    attempts: Iterable[Entry], prior_hours: float, machine_type: str | None = None, pool: str = ""
) -> float:
    """Hours of run time from one preemption to the next: of machines of one type in one pool, or of all.

    Preemptions as a Poisson process whose rate has a Gamma prior that counts as one preemption in `prior_hours`
    (shape 1): the inverse of the rate's posterior mean, (prior_hours + hours) / (1 + preemptions). Attempts that are
    still open, or whose type isn't known, don't count.
    """
    counted = [
        each
        for each in attempts
        if each.state == "settled" and (machine_type is None or (each.machine_type, each.pool) == (machine_type, pool))
    ]
    hours = sum(each.seconds for each in counted) / 3600
    return (prior_hours + hours) / (1 + sum(each.preempted for each in counted))


def _standing(document: _Document, cap_usd: float) -> Standing:
    attempts = document.entries.values()
    cap = round(cap_usd * MICRO)
    return Standing(
        scope=document.scope,
        metered=sum(each.metered_micro_usd for each in attempts),
        reserved=sum(each.reserved_micro_usd for each in attempts if each.state == "open"),
        cap=cap if document.cap_micro_usd is None else min(cap, document.cap_micro_usd),
        own_cap=document.cap_micro_usd,
    )


def _amount(micro_usd_per_hour: int, seconds: float) -> int:
    return math.ceil(micro_usd_per_hour * seconds / 3600)


def _key(scope: str) -> str:
    return str(PurePosixPath("ledger") / f"{scope}.json")


def _read(store: Store, scope: str) -> tuple[_Document, str]:
    stored = store.read(_key(scope))
    if stored is None:
        return _Document(scope=scope, revision=0, entries={}), ABSENT
    try:
        document = _Document.model_validate_json(stored[0])
        if document.scope != scope:
            raise ValueError
        return document, stored[1]
    except ValueError:
        raise RetainError(f"{store.url}/{_key(scope)}: not a ledger; restore it before spending more") from None


def _write(store: Store, document: _Document, version: str, **changes: Any) -> bool:
    # The revision makes every version differ, which compare-and-set on content needs.
    changed = document.model_copy(update={"revision": document.revision + 1, **changes})
    # Entry order is the order of reservation, so keys are not sorted here.
    data = changed.model_dump_json(indent=1, by_alias=True).encode() + b"\n"
    try:
        store.write(_key(document.scope), data, expect=version)
    except Conflict:
        return False
    return True
