"""The operations of one transaction: what they need is read at once, what they change is kept and written at the end.

Each kind of statement runs once for the whole batch, so a request costs a fraction of a transaction. An operation sees
what those before it have done.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from sqlalchemy import bindparam, delete, insert, literal_column, select, update

from retain.decision import Terms, pace
from serve.history import MONTH, OPEN_FOR, Answer, Kept, history_of
from serve.operations import (
    Answered,
    Ask,
    Complete,
    Find,
    KeyConflict,
    Look,
    Looked,
    Noted,
    Operation,
    Outcome,
    Past,
    Record,
    Status,
    Suppress,
    Withdraw,
)
from serve.periods import Periods, left
from serve.statements import Statement, Transaction, among
from serve.tables import decision, outcome, request_key, suppression

KEY_KEPT = 30 * 86_400_000_000  # microseconds: how long an Idempotency-Key is known
EXPIRE_AT_ONCE = 1000  # offers: after a jump of the clock there may be many, and requests wait

Result = Any  # what the operation's docstring says, or the exception that ended it


@dataclass(slots=True)
class _Key:
    """An Idempotency-Key on record."""

    body: bytes
    decision: str
    at: int
    repeated: bool


class Batch:
    """`now` in microseconds since 1970. One `carry_out`."""

    def __init__(self, transaction: Transaction, salt: bytes, periods: Periods, terms: Terms, now: int) -> None:
        self._transaction = transaction
        self._salt = salt
        self._periods = periods
        self._terms = terms
        self._now = now
        self._kept: dict[str, Kept] = {}
        self._contacts: defaultdict[bytes, list[Kept]] = defaultdict(list)
        self._keys: dict[bytes, _Key] = {}
        self._suppressed: set[bytes] = set()
        self._outcomes: defaultdict[str, dict[tuple[str, int], dict[str, Any]]] = defaultdict(dict)
        # To be written.
        self._new: list[tuple[Kept, str]] = []  # with its `detail`
        self._changed: dict[str, Kept] = {}
        self._new_keys: dict[bytes, _Key] = {}
        self._old_keys: set[bytes] = set()
        self._keyless: list[str] = []  # decisions whose keys are to be forgotten
        self._new_outcomes: list[dict[str, Any]] = []
        self._given_back: list[dict[str, Any]] = []
        self._new_suppressed: list[dict[str, Any]] = []
        self._shadows: list[dict[str, Any]] = []

    def carry_out(self, operations: Sequence[Operation]) -> list[Result]:
        """Their results, in their order: see serve/operations.py."""
        self._expire(self._keep(self._transaction.select(_OVERDUE, now=self._now)))
        self._read(operations)
        results = [self._result(operation) for operation in operations]
        self._write()
        # What is found is as the whole batch leaves it.
        return [
            self._find(operation) if isinstance(operation, Find) else result
            for operation, result in zip(operations, results)
        ]

    def _result(self, operation: Operation) -> Result:
        match operation:
            case Ask():
                return self._ask(operation)
            case Look():
                return self._look(operation)
            case Outcome():
                return self._outcome(operation)
            case Withdraw():
                return self._withdraw(operation)
            case Suppress():
                return self._suppress(operation)
            case Complete():
                self._shadows.append({"of": operation.decision_id, "shadow": operation.shadow.decode()})
        return None

    # -- reading ---------------------------------------------------------------------------------------------------

    def _read(self, operations: Sequence[Operation]) -> None:
        select = self._transaction.select_among
        asked = [operation for operation in operations if isinstance(operation, Ask)]
        seen = [operation for operation in operations if isinstance(operation, Ask | Look)]
        told = {operation.decision_id for operation in operations if isinstance(operation, Outcome)}
        ids = told | {operation.decision_id for operation in operations if isinstance(operation, Withdraw)}
        if keys := [self._key(ask.key) for ask in asked if ask.key is not None]:
            self._keys = {
                key: _Key(body, decision, at, bool(repeated))  # SQLite keeps a number
                for key, body, decision, at, repeated in select(_KEYS, keys)
            }
            ids |= {key.decision for key in self._keys.values()}
        if customers := {self._customer(one.customer) for one in seen if one.customer is not None}:
            self._keep(select(_CONTACTS, [*customers]))
        customers |= {self._customer(operation.customer) for operation in operations if isinstance(operation, Suppress)}
        if customers:
            self._suppressed = {customer for (customer,) in select(_SUPPRESSED, [*customers])}
        if ids := ids - self._kept.keys():
            self._keep(select(_DECISIONS, [*ids]))
        if told:
            for row in map(_outcome_row, select(_OUTCOMES, [*told])):
                self._outcomes[row["decision"]][row["kind"], row["month"]] = row
        given = {key.decision for key in self._keys.values()}
        given |= {contact.id for mine in self._contacts.values() for contact in mine if contact.is_open(self._now)}
        if given:
            for name, answer, wording in select(_ANSWERS, [*given]):
                self._kept[name].answer, self._kept[name].wording = answer, wording

    def _keep(self, rows: Iterable[tuple[Any, ...]]) -> list[Kept]:
        """The decisions of these rows; one that was read before is the same object."""
        kept = []
        for row in rows:
            known = self._kept.get(row[0])
            if known is None:
                known = self._kept[row[0]] = Kept(*row)
                if known.customer is not None and known.offer is not None:
                    self._contacts[known.customer].append(known)
            kept.append(known)
        return kept

    # -- decisions -------------------------------------------------------------------------------------------------

    def _ask(self, ask: Ask) -> Result:
        customer = None if ask.customer is None else self._customer(ask.customer)
        suppressed = customer in self._suppressed
        key, body = None, b""
        if ask.key is not None:
            key, body = self._key(ask.key), _digest(ask.body, self._salt, b"body")
            known = self._keys.get(key)
            if known is not None and self._now - known.at < KEY_KEPT:
                if known.body != body:
                    return KeyConflict()
                return self._again(self._kept[known.decision], known.repeated, True, suppressed)
        contacts = self._contacts_of(customer)
        waiting = next((contact for contact in contacts if contact.is_open(self._now)), None)
        if waiting is not None and not suppressed and not ask.opted_out:
            answered = self._again(waiting, True, False, False)
        else:
            try:
                kept, answer = self._choose(ask, customer, contacts, suppressed)
            except Exception as error:  # this request's alone
                return error
            answered = Answered(answer, kept.id, False, False, suppressed, kept.wording, self._now)
        if key is not None:
            if key in self._keys:
                self._old_keys.add(key)
            self._keys[key] = self._new_keys[key] = _Key(body, answered.decision_id, self._now, answered.repeated)
        return answered

    def _contacts_of(self, customer: bytes | None) -> list[Kept]:
        """The offers made to a customer that were not taken back; none where the table has no ids."""
        return [] if customer is None else [kept for kept in self._contacts[customer] if not kept.withdrawn]

    def _look(self, look: Look) -> Looked:
        customer = None if look.customer is None else self._customer(look.customer)
        period = self._periods.running(self._now, self._terms)
        history = history_of(self._contacts_of(customer), self._now, self._terms)
        past = Past(history, customer in self._suppressed)
        return Looked(past, pace(period.wallet, left(period, self._now)))

    def _again(self, kept: Kept, repeated: bool, replayed: bool, suppressed: bool) -> Answered:
        """The answer that is on record."""
        assert kept.answer is not None  # it was read, or has been made in this transaction
        if not kept.given_again:
            kept.given_again = True
            self._changed[kept.id] = kept
        return Answered(kept.answer.encode(), kept.id, repeated, replayed, suppressed, kept.wording, self._now)

    def _choose(
        self, ask: Ask, customer: bytes | None, contacts: Sequence[Kept], suppressed: bool
    ) -> tuple[Kept, bytes]:
        period = self._periods.running(self._now, self._terms)
        wallet = period.wallet.copy()
        history = history_of(contacts, self._now, self._terms)
        choice = ask.choose(Past(history, suppressed), wallet, left(period, self._now), self._now)
        is_offer = choice.offer is not None
        if is_offer and wallet.open != period.wallet.open + 1:
            raise ValueError(f"decision {choice.decision_id} makes an offer that the wallet didn't admit")
        kept = Kept(
            id=choice.decision_id,
            customer=customer,
            at=self._now,
            period=period.start,
            arm=choice.arm,
            offer=choice.offer,
            cost=choice.cost,
            liability=choice.liability,
            acceptance=choice.acceptance,
            charge=choice.charge,
            months=choice.months,
            open_until=self._now + OPEN_FOR if is_offer else None,
            answered=None,
            answered_at=None,
            withdrawn=False,
            given_again=False,
            answer=choice.answer.decode(),
            wording=choice.wording,
        )
        self._new.append((kept, choice.detail.decode()))
        if is_offer:
            self._periods.replace(period, wallet)
        self._kept[kept.id] = kept
        if customer is not None and is_offer:
            self._contacts[customer].append(kept)
        return kept, choice.answer

    def _withdraw(self, withdraw: Withdraw) -> bool:
        kept = self._kept.get(withdraw.decision_id)
        if kept is None or kept.withdrawn or kept.answered or kept.given_again:
            return False
        if kept.offer is not None:
            self._periods.of(kept).withdraw(kept.cost, kept.liability, kept.acceptance)
        kept.withdrawn, kept.open_until = True, None
        self._changed[kept.id] = kept
        self._keyless.append(kept.id)
        self._keys = {name: key for name, key in self._keys.items() if key.decision != kept.id}
        self._new_keys = {name: key for name, key in self._new_keys.items() if key.decision != kept.id}
        return True

    # -- outcomes --------------------------------------------------------------------------------------------------

    def _outcome(self, told: Outcome) -> Noted:
        kept = self._kept.get(told.decision_id)
        if kept is None:
            return Noted("unknown")
        at = max(kept.at, self._now if told.at is None else min(told.at, self._now))
        outcomes = self._outcomes[kept.id]
        if told.kind in ("accepted", "declined"):
            status = self._answered(kept, told.kind, at)
        elif (known := outcomes.get((told.kind, told.month or 0))) is not None:
            same = told.kind != "revenue" or known["amount"] == told.amount
            status = "repeated" if same else "contradicts"
        else:
            status = "recorded"
        if status in ("recorded", "late"):
            row = {
                "decision": kept.id,
                "kind": told.kind,
                "month": told.month or 0,
                "amount": told.amount,
                "at": at,
                "received_at": self._now,
            }
            outcomes[told.kind, told.month or 0] = row
            self._new_outcomes.append(row)
            if told.kind in ("accepted", "churned"):
                self._give_back(kept, outcomes.get(("churned", 0)))
        return Noted(status, kept.arm, kept.offer)

    def _answered(self, kept: Kept, answer: Answer, at: int) -> Status:
        if kept.offer is None:
            return "no_offer"
        if kept.answered in ("accepted", "declined"):
            return "repeated" if kept.answered == answer else "contradicts"
        if kept.open_until is not None and not kept.is_open(self._now):
            self._expire([kept])
        late = kept.open_until is None
        if kept.withdrawn:  # somebody received it after all
            self._periods.of(kept).committed += kept.cost
            kept.withdrawn = False
        if not late:
            self._periods.settle([kept], answer == "accepted")
        elif answer == "accepted":
            self._periods.of(kept).settle_late(kept.liability)
        kept.answered, kept.answered_at, kept.open_until = answer, at, None
        self._changed[kept.id] = kept
        return "late" if late else "recorded"

    def _expire(self, offers: Sequence[Kept]) -> None:
        """Offers that nobody answered in time."""
        if not offers:
            return
        self._periods.settle(offers, False)
        for offer in offers:
            offer.answered, offer.answered_at, offer.open_until = "expired", offer.open_until, None
            self._changed[offer.id] = offer

    def _give_back(self, kept: Kept, churned: dict[str, Any] | None) -> None:
        """What an accepted offer costs no more, since the customer left; the month in which she did is paid."""
        if churned is None or kept.answered != "accepted":
            return
        paid = max(0, churned["at"] - (kept.answered_at or kept.at)) // MONTH + 1
        churned["amount"] = kept.liability * max(0, kept.months - paid) / max(1, kept.months)
        self._periods.of(kept).release(churned["amount"])
        if all(row is not churned for row in self._new_outcomes):
            self._given_back.append({"of": kept.id, "amount": churned["amount"]})

    def _suppress(self, suppress: Suppress) -> Noted:
        customer = self._customer(suppress.customer)
        if customer in self._suppressed:
            return Noted("repeated")
        self._suppressed.add(customer)
        self._new_suppressed.append({"customer": customer, "reason": suppress.reason, "at": self._now})
        return Noted("recorded")

    # -- writing ---------------------------------------------------------------------------------------------------

    def _write(self) -> None:
        new = {kept.id for kept, _ in self._new}
        changed = [_update(kept) for kept in self._changed.values() if kept.id not in new]
        keys = [
            {"key": name, "body": key.body, "decision": key.decision, "at": key.at, "repeated": key.repeated}
            for name, key in self._new_keys.items()
        ]
        write = self._transaction.write
        write(_NEW, [_insert(kept, detail) for kept, detail in self._new])
        write(_CHANGED, changed)
        write(_SHADOW, self._shadows)
        write(_NO_KEYS, [{"of": name} for name in self._keyless])
        write(_NO_KEY, [{"of": name} for name in self._old_keys])
        write(_NEW_KEY, keys)
        write(_NEW_OUTCOME, self._new_outcomes)
        write(_GIVEN_BACK, self._given_back)
        write(_NEW_SUPPRESSED, self._new_suppressed)
        self._periods.write(self._transaction)

    def _find(self, find: Find) -> Record | None:
        rows = self._transaction.select(_RECORD, of=find.decision_id)
        if not rows:
            return None
        values = dict(zip(_RECORD_FIELDS, rows[0]))
        texts = {name: values[name] and values[name].encode() for name in ("answer", "detail", "shadow")}
        outcomes = tuple(map(_outcome_row, self._transaction.select_among(_OUTCOMES, [find.decision_id])))
        return Record(**(values | texts | {"withdrawn": bool(values["withdrawn"])}), outcomes=outcomes)

    # -- digests ---------------------------------------------------------------------------------------------------

    def _customer(self, name: str) -> bytes:
        return digest_of(name, self._salt)

    def _key(self, key: str) -> bytes:
        return _digest(key.encode("utf-8", "surrogatepass"), self._salt, b"key")


def digest_of(customer: str, salt: bytes) -> bytes:
    """What a customer's id is kept as."""
    return _digest(customer.encode("utf-8", "surrogatepass"), salt, b"customer")


def _digest(content: bytes, salt: bytes, what: bytes) -> bytes:
    return blake2b(content, digest_size=16, key=salt, person=what).digest()


def _insert(kept: Kept, detail: str) -> dict[str, Any]:
    return {
        "id": kept.id,
        "customer": kept.customer,
        "at": kept.at,
        "period": kept.period,
        "arm": kept.arm,
        "offer": kept.offer,
        "cost": kept.cost,
        "liability": kept.liability,
        "acceptance": kept.acceptance,
        "charge": kept.charge,
        "months": kept.months,
        "answer": kept.answer,
        "wording": kept.wording,
        "detail": detail,
        "shadow": None,
        **_state_of(kept),
    }


def _update(kept: Kept) -> dict[str, Any]:
    return {"of": kept.id, **_state_of(kept)}


def _state_of(kept: Kept) -> dict[str, Any]:
    """What may still change of a decision."""
    return {
        "open_until": kept.open_until,
        "answered": kept.answered,
        "answered_at": kept.answered_at,
        "withdrawn": kept.withdrawn,
        "given_again": kept.given_again,
    }


def _outcome_row(row: tuple[Any, ...]) -> dict[str, Any]:
    return dict(zip(outcome.c.keys(), row))


_CHANGING = ("open_until", "answered", "answered_at", "withdrawn", "given_again")
_RECORD_FIELDS = [name for name in Record.__slots__ if name != "outcomes"]
_OF: Any = bindparam("of")

COLUMNS = [decision.c[field] for field in Kept.__slots__ if field not in ("answer", "wording")]
_OVERDUE = Statement(
    select(*COLUMNS).where(decision.c.open_until <= bindparam("now")).limit(literal_column(str(EXPIRE_AT_ONCE)))
)
_KEYS = Statement(
    select(request_key.c.key, *(request_key.c[name] for name in _Key.__slots__)).where(among(request_key.c.key))
)
# `offer >= 0` rather than `is not null`: the index on both columns serves it.
_CONTACTS = Statement(select(*COLUMNS).where(among(decision.c.customer), decision.c.offer >= literal_column("0")))
_DECISIONS = Statement(select(*COLUMNS).where(among(decision.c.id)))
_ANSWERS = Statement(select(decision.c.id, decision.c.answer, decision.c.wording).where(among(decision.c.id)))
_OUTCOMES = Statement(
    select(outcome).where(among(outcome.c.decision)).order_by(outcome.c.received_at, outcome.c.at, outcome.c.month)
)
_SUPPRESSED = Statement(select(suppression.c.customer).where(among(suppression.c.customer)))
_RECORD = Statement(select(*(decision.c[name] for name in _RECORD_FIELDS)).where(decision.c.id == _OF))

_NEW = Statement(insert(decision))
_CHANGED = Statement(update(decision).where(decision.c.id == _OF).values({name: bindparam(name) for name in _CHANGING}))
_SHADOW = Statement(update(decision).where(decision.c.id == _OF).values(shadow=bindparam("shadow")))
_NEW_KEY = Statement(insert(request_key))
_NO_KEY = Statement(delete(request_key).where(request_key.c.key == _OF))
_NO_KEYS = Statement(delete(request_key).where(request_key.c.decision == _OF))
_NEW_OUTCOME = Statement(insert(outcome))
_GIVEN_BACK = Statement(
    update(outcome)
    .where(outcome.c.decision == _OF, outcome.c.kind == literal_column("'churned'"))
    .values(amount=bindparam("amount"))
)
_NEW_SUPPRESSED = Statement(insert(suppression))
