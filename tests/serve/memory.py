"""A state on a database, whose clock and choices a test decides."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

from sqlalchemy import select

from retain import wallet as wallets
from retain.decision import Terms
from serve.database import Database
from serve.operations import Answered, Ask, Choice, Choose, Find, Noted, Outcome, Past, Record
from serve.state import State
from serve.tables import decision, outcome, wallet

DAY = 86_400_000_000
MONTH = 2_629_746_000_000
START = 1_780_000_000_000_000
# Not those of tests/releases.py, which imports what trains: processes that race begin in a third of the time.
TERMS = Terms.from_json(
    {
        "offers": {"levels": [0, 10], "months": 6, "contact_cost": 1.0, "currency": "EUR"},
        "cap": {"max_contacts": 2, "window": 3},
        "acceptance": {"level": -1.3, "shrink": 0.5, "slope": 1.1, "unit": 5.0, "slope_sd": 0.2, "fatigue": 0.4},
        "decay": 0.6,
        "wallet": "expected",
        "budget": {"share": 0.03, "months": 12, "amount": 1000.0},
        "offer": 10,
        "threshold": 0.5,
        "rule": {"rule": "threshold", "reasons": 5},
    }
)
_numbers = count()


def terms(budget: float = 1000.0, **others: Any) -> Terms:
    return replace(TERMS, budget=budget, **others)


class Clock:
    def __init__(self, now: int = START) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


def offer(liability: float = 30.0, cost: float = 1.0, level: int = 10, seen: list[Past] | None = None) -> Choose:
    """Makes this offer if mask and wallet let it."""

    def choose(past: Past, wallet: wallets.Wallet, period_left: float, now: int) -> Choice:
        if seen is not None:
            seen.append(past)
        history = past.history
        barred = past.suppressed or history.months_left or sum(history.contacts) >= 2 or sum(history.contacts[-1:])
        made = not barred and wallet.admit_one(cost, liability, 0.25)
        return choice(level if made else None, cost, liability)

    return choose


def choice(level: int | None, cost: float = 1.0, liability: float = 30.0) -> Choice:
    name = f"decision-{os.getpid()}-{time.monotonic_ns()}-{next(_numbers)}"
    asked = (cost, liability, 0.25) if level is not None else (0.0, 0.0, 0.0)
    text = f'{{"decision_id":"{name}"}}'.encode()
    return Choice(name, "baseline", level, *asked, 50.0, 6, text, b'{"risk":0.5}')


def nobody(past: Past, wallet: wallets.Wallet, period_left: float, now: int) -> Choice:
    return choice(None)


class Memory:
    """`State`, one operation at a time; what it raises for one is raised."""

    def __init__(self, url: str, budget: float = 1000.0, clock: Callable[[], int] | None = None, **others: Any) -> None:
        self.clock = Clock() if clock is None else clock
        self.database = Database(url, clock=self.clock)
        self.state = State(self.database, terms(budget, **others), self.clock)

    def do(self, operation: Any) -> Any:
        (result,) = self.state.carry_out([operation])
        if isinstance(result, Exception):
            raise result
        return result

    def ask(
        self, customer: str | None = None, choose: Choose | None = None, key: str | None = None, body: bytes = b""
    ) -> Answered:
        answered: Answered = self.do(Ask(customer, key, body, choose or offer()))
        return answered

    def tell(self, decision_id: str, kind: Any, **others: Any) -> str:
        noted: Noted = self.do(Outcome(decision_id, kind, **others))
        return noted.status

    def find(self, decision_id: str) -> Record:
        record: Record = self.do(Find(decision_id))
        return record

    def close(self) -> None:
        self.database.close()


def balance(database: Database) -> tuple[float, int]:
    """What the wallets have committed and how many offers they hold for; both have to be what the records say."""
    with database.reading() as connection:
        rows = connection.execute(select(decision).where(decision.c.offer >= 0, decision.c.withdrawn.is_(False))).all()
        given_back = dict(
            connection.execute(select(outcome.c.decision, outcome.c.amount).where(outcome.c.kind == "churned")).all()
        )
        kept = connection.execute(select(wallet)).all()
    for row in kept:
        made = [one for one in rows if one.period == row.start]
        opened = [one for one in made if one.open_until is not None]
        state = json.loads(row.state)
        spent = sum(
            one.cost + one.liability * (one.answered == "accepted") - (given_back.get(one.id) or 0.0) for one in made
        )
        assert same(row.committed, state["committed"])
        assert same(row.committed, spent)
        assert (row.open, state["open"]) == (len(opened), len(opened))
        assert same(state["liability"], sum(one.liability for one in opened))
        assert same(state["mean"], sum(one.liability * one.acceptance for one in opened))
        assert {one.answered for one in opened} <= {None}
    return round(sum(row.committed for row in kept), 2), sum(row.open for row in kept)


def same(amount: float, other: float) -> bool:
    """To a tenth of a cent. Rounded to cents, sums of other orders differ where they end in half a cent: what is given
    back for a customer who left may, and then one in sixty runs took two equal sums for others."""
    return abs(amount - other) < 0.001
