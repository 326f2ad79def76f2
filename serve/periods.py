"""The wallets of the budget's periods, as a process keeps them between transactions.

A row of the database is read again when another process has written it. Nothing here is true outside of a transaction
that writes (serve/database.py), nor after one that failed: others take its place then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import orjson
from sqlalchemy import bindparam, insert, select, update

from retain.decision import Terms
from retain.wallet import Mode, Wallet
from serve.history import MONTH, Kept
from serve.statements import Statement, Transaction
from serve.tables import meta, wallet


@dataclass(slots=True)
class Period:
    """Of the budget; `start` and `end` in microseconds since 1970."""

    start: int
    end: int
    wallet: Wallet


@dataclass(frozen=True, slots=True)
class Standing:
    """The wallet of the running period, as of the last transaction. Amounts in currency units."""

    start: int
    end: int
    period_left: float  # share
    budget: float
    committed: float
    held: float
    expected: float
    free: float
    open: int
    mode: Mode


class Periods:
    """`started_at`: when the database was made, and the first period began, in microseconds since 1970."""

    def __init__(self, started_at: int) -> None:
        self._started_at = started_at
        self._periods: dict[int, Period] = {}
        self._version = -1
        self._new: set[int] = set()
        self._changed: set[int] = set()

    def refresh(self, transaction: Transaction) -> None:
        """Reads what others have written since."""
        if transaction.version == self._version:
            return
        for start, end, state in transaction.select(_WRITTEN_SINCE, seen=self._version):
            self._periods[start] = Period(start, end, Wallet.restored(orjson.loads(state)))
        self._version = transaction.version

    def running(self, now: int, terms: Terms) -> Period:
        """The period that `now` lies in; a new one if there is none yet, with the budget and the months of `terms`. One
        that runs takes over the budget and keeps its end. A time before the first start counts as the first start."""
        now = max(now, self._started_at)
        for period in self._periods.values():
            if period.start <= now < period.end:
                break
        else:
            period = self._begin(now, terms)
        if period.wallet.budget != terms.budget:
            period.wallet.budget = terms.budget
            self._changed.add(period.start)
        if terms.wallet == "worst_case" != period.wallet.mode:
            period.wallet.mode = "worst_case"
            self._changed.add(period.start)
        return period

    def _begin(self, now: int, terms: Terms) -> Period:
        """One of the periods that follow on the last one before `now`, each as long as the terms say. Clocks jump, so
        there may be one after it, too."""
        length = terms.months * MONTH
        earlier = max((period.end for period in self._periods.values() if period.end <= now), default=self._started_at)
        later = min((period.start for period in self._periods.values() if period.start > now), default=None)
        start = earlier + (now - earlier) // length * length
        end = start + length if later is None else min(start + length, later)
        period = self._periods[start] = Period(start, end, terms.new_wallet())
        self._new.add(start)
        return period

    def replace(self, period: Period, wallet: Wallet) -> None:
        """What the period's wallet has become."""
        period.wallet = wallet
        self._changed.add(period.start)

    def of(self, decision: Kept) -> Wallet:
        """The wallet that made the offer, to be changed."""
        self._changed.add(decision.period)
        return self._periods[decision.period].wallet

    def settle(self, decisions: Sequence[Kept], accepted: bool) -> None:
        """Answers of open offers, all the same."""
        for start in {decision.period for decision in decisions}:
            those = [decision for decision in decisions if decision.period == start]
            liability = np.array([decision.liability for decision in those])
            acceptance = np.array([decision.acceptance for decision in those])
            self.of(those[0]).settle(liability, acceptance, np.full(len(those), accepted))

    def write(self, transaction: Transaction) -> None:
        """Puts what was changed on record."""
        if not self._new | self._changed:
            return
        self._version += 1
        transaction.write(_COUNT, [{"next": self._version}])
        transaction.write(_BEGUN, [self._row(start) for start in self._new])
        transaction.write(_CHANGED, [self._row(start) for start in self._changed - self._new])
        self._new, self._changed = set(), set()

    def _row(self, start: int) -> dict[str, object]:
        period = self._periods[start]
        return {
            "start": period.start,
            "of": period.start,
            "end": period.end,
            "budget": period.wallet.budget,
            "committed": period.wallet.committed,
            "held": period.wallet.held,
            "open": period.wallet.open,
            "state": orjson.dumps(period.wallet.state()).decode(),
            "version": self._version,
        }

    def standing(self, now: int, terms: Terms) -> Standing:
        period = self.running(now, terms)
        held = period.wallet.held
        return Standing(
            start=period.start,
            end=period.end,
            period_left=left(period, now),
            budget=period.wallet.budget,
            committed=period.wallet.committed,
            held=held,
            expected=period.wallet.expected,
            free=period.wallet.budget - period.wallet.committed - held,
            open=period.wallet.open,
            mode=period.wallet.mode,
        )


def left(period: Period, now: int) -> float:
    """The share of the period that is to come."""
    return min(1.0, max(0.0, (period.end - now) / (period.end - period.start)))


_CHANGING = ("budget", "committed", "held", "open", "state", "version")
_WRITTEN_SINCE = Statement(
    select(wallet.c.start, wallet.c.end, wallet.c.state).where(wallet.c.version > bindparam("seen"))
)
_COUNT = Statement(update(meta).values(version=bindparam("next")))
_BEGUN = Statement(insert(wallet))
_CHANGED = Statement(
    update(wallet).where(wallet.c.start == bindparam("of")).values({name: bindparam(name) for name in _CHANGING})
)
