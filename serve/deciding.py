"""One decision, inside the transaction that records it: from what is known of a customer to the answer about her.

The transaction holds the wallet's lock, so what is decided here about budget, cap and opt-out holds for every worker
and replica. Nothing here waits: the learned arm was asked before (canary), or is asked afterwards (shadow).
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import orjson

from retain.contact import Bar
from retain.decision import (
    NO_CONTACT,
    Arm,
    Case,
    Decision,
    Wanted,
    affordable,
    baseline_wants,
    forbidden,
    granted,
    merged,
    pace,
    price,
)
from retain.message import Message
from retain.record import propensity
from retain.release import Assessment, Release
from retain.wallet import Wallet
from serve.learned import LearnedArm, Wish
from serve.operations import Choice, Past
from serve.router import Router
from serve.schema import Asked
from serve.spoken import of_banks

SECOND = 1_000_000  # in the microseconds that the state counts in


@dataclass(frozen=True)
class Bound:
    """What every decision follows from, until approvals or settings change. `versions` are those of the release and its
    parts, `learned` is None where there is no learned arm."""

    release: Release
    versions: Mapping[str, str]
    router: Router
    learned: LearnedArm | None
    _banks: dict[tuple[str, int], bytes] = field(default_factory=dict, init=False)

    @property
    def trial(self) -> str | None:
        """The version whose learned arm decides about a share of customers, if one does."""
        return self.learned.release_version if self.learned is not None and self.router.learned_percent else None

    def banks(self, situation: str, offer: int) -> bytes:
        """What the release's language models say there, as JSON: it is made once for each of some twenty cases."""
        if (situation, offer) not in self._banks:
            self._banks[situation, offer] = of_banks(self.release, situation, offer).record
        return self._banks[situation, offer]


@dataclass(slots=True)
class Deciding:
    """A request on its way through the transaction, which calls it once, or again if it has to be repeated.

    `assigned` is the customer's arm, `arm` the one that decides about her, and `heard` what the learned arm wants about
    one of its own; None: the baseline decides, because of what `failure` says where the learned arm is hers. `unsafe`:
    whether what that arm chose to say may not be sent, None where it chose nothing. After the call `decision`,
    `message`, `pace` and `bar` (what forbade a contact) are those of the decision, and the assessment holds the history
    on record, too.
    """

    bound: Bound
    asked: Asked
    assessment: Assessment
    customer: str | None
    opted_out: bool  # by the request itself
    arrived: float  # by time.perf_counter()
    assigned: Arm = "baseline"
    arm: Arm = "baseline"
    heard: Wish | None = None
    failure: str | None = None
    unsafe: bool | None = None
    decision: Decision | None = None
    message: Message | None = None
    pace: float = 0.0
    bar: Bar | None = None
    actions: list[int | None] | None = None  # among which exploration draws

    def __call__(self, past: Past, wallet: Wallet, period_left: float, now: int) -> Choice:
        release, terms = self.bound.release, self.bound.release.terms
        decision_id = new_id(now)
        case = self.merge(past)
        self.pace = pace(wallet, period_left)
        self.bar = self.forbidden()
        chance, usual, self.actions = None, None, None
        priced = case if self.heard is None else replace(self.heard.case, history=case.history)
        if self.bar is not None:
            wanted = Wanted(None, self.bar)
            decision = Decision(case.risk, case.acceptance, NO_CONTACT, None, self.bar, self.arm)
        elif self.heard is not None:
            wanted, chance = Wanted(self.heard.offer, self.heard.why), 1.0
            decision = granted(terms, priced, wanted, wallet, "learned", release.offer_limit)
            usual = decision.offer
        else:
            wanted, usual, chance = self._baseline(decision_id, case, wallet)
            decision = granted(terms, case, wanted, wallet, "baseline", release.offer_limit)
            usual = usual if decision.why == "exploration" else decision.offer
        self.decision = decision
        message = self.message = self._message(decision)
        asked = (0.0, 0.0, 0.0) if decision.offer is None else price(terms, priced, decision.offer)
        return Choice(
            decision_id,
            decision.arm,
            decision.offer,
            *asked,
            charge=case.charge,
            months=terms.offers.months,
            answer=orjson.dumps(self._answer(decision_id, decision, message, now)),
            detail=orjson.dumps(self._detail(wanted, usual, chance, decision.offer, message)),
            wording=None if message is None else message.wording,
        )

    def merge(self, past: Past) -> Case:
        """The customer with what is on record of her."""
        history, opted_out = merged(self.asked.history, past.history), self.opted_out or past.suppressed
        case = self.assessment.case
        if history is not case.history or opted_out != case.opted_out:
            case = self.assessment.case = replace(case, history=history, opted_out=opted_out)
        return case

    def forbidden(self) -> Bar | None:
        """What forbids a contact with her."""
        case, router = self.assessment.case, self.bound.router
        return forbidden(self.bound.release.terms, case.history, case.opted_out, router.held_out(self.customer))

    @property
    def _unasked(self) -> str | None:
        """Why the learned arm isn't asked in its shadow; None: it is."""
        if self.bar is not None:
            return "forbidden"
        if self.bound.learned is None:
            return "left_out"
        return "served" if self.heard is not None else self.failure

    @property
    def in_shadow(self) -> bool:
        """Whether the learned arm is asked after the answer what it would have done."""
        return self._unasked is None

    def _baseline(self, decision_id: str, case: Case, wallet: Wallet) -> tuple[Wanted, int | None, float]:
        """What the baseline wants, or the action that this decision explores; the offer that it would make otherwise;
        and with which chance the action that follows is taken."""
        release, router = self.bound.release, self.bound.router
        own = baseline_wants(release.terms, case)
        if not router.exploration:
            return own, own.offer, 1.0
        actions = self.actions = affordable(release.terms, case, wallet, release.offer_limit)
        place = router.explored(decision_id, len(actions))
        usual = own.offer if own.offer in actions else None
        if place is None:
            return own, usual, propensity(router.exploration, len(actions), True)
        action = actions[place]
        return Wanted(action, "exploration"), usual, propensity(router.exploration, len(actions), action == usual)

    def _message(self, decision: Decision) -> Message | None:
        learned = self.bound.learned
        if decision.offer is None:
            return None
        if self.heard is not None and learned is not None:
            return learned.message(self.heard)
        return self.bound.release.message(self.assessment, decision)

    def _answer(self, decision_id: str, decision: Decision, message: Message | None, now: int) -> dict[str, Any]:
        versions = self.bound.versions
        if self.heard is not None and self.bound.trial not in (None, versions["release"]):
            versions = {**versions, "challenger": self.bound.trial}
        return answer(self.bound, self.asked, self.assessment, decision, message) | {
            "versions": versions,
            "decision_id": decision_id,
            "send_after": None if message is None else self.send_after(now),
        }

    def send_after(self, now: int) -> str:
        """From when on her message may be sent. `now` in microseconds since 1970."""
        seconds = self.bound.release.quiet_hours.send_after(now / SECOND, self.asked.time_zone)
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def _banks(self, offer: int) -> bytes:
        """What the release of the arm that decides has for the offer."""
        if self.heard is not None:
            return self.heard.banks.record
        return self.bound.banks(self.assessment.situation, offer)

    def _risk_if_accepted(self, offer: int | None) -> float | None:
        # 12 us, which nobody has to spend where nothing is compared.
        return None if offer is None or not self.bound.router.compares else self.assessment.risk_if_accepted(offer)

    def _detail(
        self, wanted: Wanted, usual: int | None, chance: float | None, offer: int | None, message: Message | None
    ) -> dict[str, Any]:
        """What the record holds besides the answer (retain.record)."""
        return {
            "release": self.bound.versions["release"],
            "seconds": time.perf_counter() - self.arrived,
            "wanted": None if self.bar else {"offer": wanted.offer, "why": wanted.why},
            "usual": usual,
            "pscore": chance,
            "explored": wanted.why == "exploration",
            "actions": self.actions,
            "risk_if_accepted": self._risk_if_accepted(offer),
            "unasked": self._unasked,
            "trial": self.bound.trial,
            "percent": self.bound.router.learned_percent if self.bound.trial else None,
            "assigned": self.assigned,
            "risk": self.assessment.case.risk,
            "history": self.assessment.case.history,
            "pace": self.pace,
            "said": None if message is None else said(message),
            "banks": None if offer is None else orjson.Fragment(self._banks(offer)),
        }


def new_id(now: int) -> str:
    """A UUID of version 7 (RFC 9562): it begins with the time, so that in the database's index new decisions lie beside
    one another. `now` in microseconds since 1970."""
    digits = f"{max(0, now) // 1000:012x}7{os.urandom(10).hex()[1:]}"
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{variant}{digits[17:20]}-{digits[20:]}"


def said(message: Message) -> dict[str, Any]:
    """Of a message, what is compared with training."""
    return {
        "source": message.source,
        "text": None,  # the answer has it
        "characters": message.characters,
        "tokens": message.tokens,
        "score": message.score,
    }


def answer(
    bound: Bound, asked: Asked, assessment: Assessment, decision: Decision, message: Message | None
) -> dict[str, Any]:
    """What /retain answers, in the order of its keys; a decision that is on record adds its id."""
    return {
        "decision_id": None,
        "repeated": False,
        "risk": decision.risk,
        "acceptance": decision.acceptance,
        "acceptance_full": assessment.full_acceptance,
        "action": decision.action,
        "offer": decision.offer,
        "why": decision.why,
        "message": None if message is None else message.answer(),
        "send_after": None,
        "reasons": [
            {"feature": name, "value": asked.values[name], "contribution": contribution}
            for name, contribution in assessment.reasons[: bound.release.terms.reasons]
        ],
        "mode": decision.arm,
        "versions": bound.versions,
    }
