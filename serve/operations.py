"""What is asked of the service's memory, and what it answers. serve/state.py carries these out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from retain.decision import History
from retain.wallet import Wallet

Kind = Literal["accepted", "declined", "churned", "complained", "revenue"]
Status = Literal["recorded", "repeated", "late", "contradicts", "unknown", "no_offer"]


class Past(NamedTuple):
    """What is on record of a customer. `suppressed`: she opted out with /suppress."""

    history: History
    suppressed: bool


@dataclass(frozen=True, slots=True)
class Choice:
    """A decision to put on record.

    `offer` in percent, None without contact; then `cost`, `liability` and `acceptance`, which the wallet was asked
    with, are 0. `charge` is the customer's for a month, `months` how long the discount lasts. `answer` and `detail` are
    JSON, UTF-8; `answer` is what is sent, before its message is greeted by name, and `wording` the text of that message
    as people approve it; None without one.
    """

    decision_id: str
    arm: str
    offer: int | None
    cost: float
    liability: float
    acceptance: float
    charge: float
    months: int
    answer: bytes
    detail: bytes
    wording: str | None = None


# (what is on record, wallet, share of the wallet's period that is to come, now in microseconds) -> decision.
Choose = Callable[[Past, Wallet, float, int], Choice]


@dataclass(frozen=True, slots=True)
class Ask:
    """A decision for a request. -> Answered or KeyConflict.

    `key` is the Idempotency-Key, with whatever scopes it. `opted_out`: the request says itself that she may not be
    contacted, so an offer that is open isn't repeated.

    `choose` runs while all other writers wait: it may not wait for anything. The offer it decides on has been admitted
    by the wallet. What it raises becomes this request's result, and the wallet is as before. It may be called again
    for the same request, if the transaction has to be repeated; then nothing of the first call stays.
    """

    customer: str | None
    key: str | None
    body: bytes
    choose: Choose
    opted_out: bool = False


@dataclass(frozen=True, slots=True)
class Answered:
    """`answer` and `wording` are those of the Choice, as stored; `at` is now, in microseconds since 1970.

    `repeated`: asked again while the offer was open. `replayed`: the request's key was known, and `repeated` is what it
    was the first time. `suppressed`: the customer has opted out.
    """

    answer: bytes
    decision_id: str
    repeated: bool
    replayed: bool
    suppressed: bool
    wording: str | None
    at: int


@dataclass(frozen=True, slots=True)
class KeyConflict:
    """The key came with another body before."""


@dataclass(frozen=True, slots=True)
class Look:
    """What is on record of a customer, for an arm that is asked before the transaction that decides. -> Looked."""

    customer: str | None


class Looked(NamedTuple):
    """`pace`: of the wallet, as retain.decision.pace has it."""

    past: Past
    pace: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a decision. -> Noted.

    `month` from 1 and `amount` belong to `revenue` alone. `at`: when it happened, None for now.
    """

    decision_id: str
    kind: Kind
    month: int | None = None
    amount: float | None = None
    at: int | None = None


@dataclass(frozen=True, slots=True)
class Suppress:
    """The customer opted out of every contact. -> Noted."""

    customer: str
    reason: str


@dataclass(frozen=True, slots=True)
class Noted:
    """`late`: recorded, though the offer had expired. `unknown`: no such decision. `no_offer`: there is nothing that
    could be accepted or declined. `arm` and `offer` are the decision's, where it is known."""

    status: Status
    arm: str | None = None
    offer: int | None = None


@dataclass(frozen=True, slots=True)
class Complete:
    """JSON of the arm in shadow for a decision. -> None, also if the decision is gone."""

    decision_id: str
    shadow: bytes


@dataclass(frozen=True, slots=True)
class Withdraw:
    """An answer that nobody received: its hold and its contact are taken back. -> bool: False if it stands, since it
    was answered, or given again to somebody else."""

    decision_id: str


@dataclass(frozen=True, slots=True)
class Find:
    """-> Record or None."""

    decision_id: str


@dataclass(frozen=True, slots=True)
class Record:
    """A decision with its outcomes, oldest first; columns as in serve/tables.py."""

    id: str
    customer: bytes | None
    at: int
    period: int
    arm: str
    offer: int | None
    cost: float
    liability: float
    acceptance: float
    charge: float
    months: int
    open_until: int | None
    answered: str | None
    answered_at: int | None
    withdrawn: bool
    answer: bytes
    detail: bytes
    shadow: bytes | None
    outcomes: tuple[dict[str, Any], ...]


Operation = Ask | Look | Outcome | Suppress | Complete | Withdraw | Find
