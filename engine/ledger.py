"""Money is reserved before it is spent, and metered while it is.

An attempt reserves rate x (its time limit + the machine's overhead), and settles what it used. A reservation that
would pass the cap, counted with every open one, is refused before anything starts. No attempt is metered more than it
reserved. One document per scope, changed by compare-and-set, so two processes can't both get the last dollar. Amounts
are whole micro-dollars: sums of floats drift. Everything here is metered by our own clock at a stated price; it is not
a bill.
"""

from __future__ import annotations

import math
import time
from pathlib import PurePosixPath
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from engine.errors import BudgetExceeded, RetainError
from engine.faults import fault
from engine.process import Holder, this_process
from engine.store import ABSENT, Conflict, Store

MICRO = 1_000_000


class Entry(BaseModel):
    """One attempt's money. `seconds` and `metered` are set once it is settled."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_by_name=True)

    # <experiment>/<stage>/<fingerprint>/<number>; stored as "attempt" (see engine/records.py)
    attempt_id: str = Field(validation_alias="attempt", serialization_alias="attempt")
    experiment: str
    stage: str
    holder: Holder  # the process that settles it
    owner: str = ""  # the run that settles it, if that run comes back after it was killed: a flow run of Prefect
    micro_usd_per_hour: int
    overhead_s: float
    reserved_at: float  # seconds since 1970, by the clock of whoever reserved
    reserved_s: float
    reserved_micro_usd: int
    state: Literal["open", "settled"] = "open"
    seconds: float = 0.0
    metered_micro_usd: int = 0
    estimated: bool = False

    @property
    def rate_usd_per_hour(self) -> float:
        return self.micro_usd_per_hour / MICRO

    @property
    def reserved_usd(self) -> float:
        return self.reserved_micro_usd / MICRO

    @property
    def metered_usd(self) -> float:
        return self.metered_micro_usd / MICRO


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    scope: str
    revision: int
    entries: dict[str, Entry]


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
    owner: str = "",
) -> Entry:
    """Raises BudgetExceeded, and writes nothing, when metered + open + this would pass the cap."""
    fault("ledger.reserve")
    rate = round(usd_per_hour * MICRO)
    amount = _amount(rate, limit_s + overhead_s)
    entry = Entry(
        attempt_id=attempt_id,
        experiment=experiment,
        stage=stage,
        holder=this_process(),
        owner=owner,
        micro_usd_per_hour=rate,
        overhead_s=overhead_s,
        reserved_at=round(time.time(), 3),
        reserved_s=limit_s + overhead_s,
        reserved_micro_usd=amount,
    )
    while True:
        document, version = _read(store, scope)
        if attempt_id in document.entries:
            raise RetainError(f"ledger {scope}: attempt {attempt_id} is reserved already")
        metered = sum(e.metered_micro_usd for e in document.entries.values())
        held = sum(e.reserved_micro_usd for e in document.entries.values() if e.state == "open")
        if metered + held + amount > round(cap_usd * MICRO):
            raise BudgetExceeded(
                f"{stage}: refused before it started. It reserves ${amount / MICRO:.4f} "
                f"({limit_s + overhead_s:.0f} s at ${usd_per_hour:g} an hour); metered so far ${metered / MICRO:.4f}, "
                f"reserved by running attempts ${held / MICRO:.4f}, cap of {scope} ${cap_usd:g}. "
                "Raise the cap (costs.budget_usd) or lower the stage's time limit"
            )
        if _write(store, scope, document, version, entry):
            fault("ledger.reserved")
            return entry


def settle(store: Store, scope: str, attempt_id: str, seconds: float, *, estimated: bool) -> Entry:
    """Charges the seconds from the attempt's start to its end, but never more than it reserved.

    Settling an attempt again changes nothing.
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
        amount = _amount(entry.micro_usd_per_hour, charged_s + entry.overhead_s)
        settled = entry.model_copy(
            update={
                "state": "settled",
                "seconds": round(charged_s, 3),
                "metered_micro_usd": min(amount, entry.reserved_micro_usd),
                "estimated": estimated,
            }
        )
        if _write(store, scope, document, version, settled):
            fault("ledger.settled")
            return settled


def stamp_again(store: Store, scope: str, attempt_id: str) -> Entry:
    """Stamps an open reservation with the present time, because its own stamp lies in the future.

    The clock that stamped it was wrong. It was reserved before now, so its attempt ends before now + `reserved_s`.
    """
    while True:
        document, version = _read(store, scope)
        entry = document.entries[attempt_id]
        now = round(time.time(), 3)
        if entry.state == "settled" or entry.reserved_at <= now:
            return entry
        stamped = entry.model_copy(update={"reserved_at": now})
        if _write(store, scope, document, version, stamped):
            return stamped


def entries(store: Store, scope: str) -> list[Entry]:
    """Every attempt of the scope, in the order they were reserved."""
    return list(_read(store, scope)[0].entries.values())


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


def _write(store: Store, scope: str, document: _Document, version: str, entry: Entry) -> bool:
    # The revision makes every version differ, which compare-and-set on content needs.
    changed = _Document(
        scope=scope,
        revision=document.revision + 1,
        entries={**document.entries, entry.attempt_id: entry},
    )
    # Entry order is the order of reservation, so keys are not sorted here.
    data = changed.model_dump_json(indent=1, by_alias=True).encode() + b"\n"
    try:
        store.write(_key(scope), data, expect=version)
    except Conflict:
        return False
    return True
