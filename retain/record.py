"""The decision record: what is kept of a decision, and the same as a line of an export.

One line holds what was answered, what the record adds to it, what the learned arm would have done (its shadow), and
what became of it. Who the customer is it doesn't say: a pseudonym stands for her.
"""

from __future__ import annotations

from typing import Any, Literal

from retain.decision import Arm
from retain.frozen import Frozen
from retain.parts import Withheld

OutcomeKind = Literal["accepted", "declined", "churned", "complained", "revenue"]


class Said(Frozen):
    """Of a message: who wrote it, how long it is, and what the reward model gave it; None where nothing did. `text` has
    neither greeting nor footer; None where the answer has the message, or its bank's beside it is the same."""

    source: str
    text: str | None
    characters: int
    tokens: int | None
    score: float | None


class BankMessage(Frozen):
    """The best message that the bank of a language model has for an offer; None where it has none. `withheld`: why no
    customer is shown it, since its bank is "left_out" of the release, "damaged" or "shadow_only", somebody "rejected"
    the text or nobody read it ("unread"); or why there is none ("no_message" for the case)."""

    text: str | None
    characters: int | None
    tokens: int | None
    score: float | None
    withheld: Withheld | None


class Banks(Frozen):
    """What SFT says with an offer, and what RLHF says, whoever speaks to the customer."""

    sft: BankMessage
    rlhf: BankMessage


class Intent(Frozen):
    """What an arm wants before offer limit and wallet: an offer in percent, None for no contact, and why."""

    offer: int | None
    why: str


class Detail(Frozen):
    """What a record adds to the answer. `seconds`: from the request's arrival to the decision. `wanted`: what the arm
    wanted; None where a rule forbade all contact. `usual`: the offer that the arm would have made without exploration,
    as the wallet lets it. `pscore`: the chance with which the action was taken; None where a rule forbade
    all contact. `actions`: those that could have been drawn, as offers; None where nothing is explored.
    `risk_if_accepted`: what the risk model says of her at the charge that she pays once she has accepted the offer;
    None without an offer, and where nothing is compared, since nobody is treated by chance. `banks`: what the release
    has for the offer that was made. `unasked`: why the learned arm wasn't asked in its shadow: "forbidden" (a rule
    forbids all contact), "left_out" (the release has none), "served" (it decided itself), or what kept it from deciding
    about a customer of its own: "other_release" (customers may not meet what it has loaded), or a kind of failure.

    `trial`: the version whose learned arm decided about `percent` of the customers at that time, None where none did;
    `assigned`: whose the customer was then, whoever decided about her in the end. `risk`: what the risk model of the
    release that answers says of her; the answer has that of the arm that decided, which may be another release's."""

    release: str
    seconds: float
    wanted: Intent | None
    usual: int | None
    pscore: float | None
    explored: bool
    actions: tuple[int | None, ...] | None
    risk_if_accepted: float | None
    unasked: str | None
    history: dict[str, Any]
    pace: float
    said: Said | None
    banks: Banks | None
    trial: str | None = None  # records of before there were trials have none of these
    percent: float | None = None
    assigned: Arm | None = None
    risk: float | None = None


class Shadow(Frozen):
    """What the learned arm would have done: `wanted`, or `missing`, the reason why nobody knows. `version` is that of
    its release, which may be another one than answers; None where its files don't say.

    `said`: the message that it would send with its offer, `banks` what its release has for that offer. `chosen`: what
    the reward model ranked first before the guard was asked, `breaks` the rules that this breaks. `seconds` are its
    own, `waited` those from the question until it was heard, or until nobody waited any more. `replied`: seconds from
    the request's arrival until its answer was on record and on its way.
    """

    version: str | None
    wanted: Intent | None
    missing: str | None
    risk: float | None
    probabilities: tuple[float, ...]
    said: Said | None
    banks: Banks | None
    chosen: Said | None
    breaks: tuple[str, ...]
    seconds: float | None
    waited: float
    replied: float


class RecordedOutcome(Frozen):
    """`amount`: the revenue of a `month`. `given_back`: what the accepted offer of a customer who left won't cost any
    more."""

    kind: OutcomeKind
    month: int | None
    amount: float | None
    given_back: float | None
    at: str


class Record(Frozen):
    """A decision on record. Times are UTC; `period` is when that of the wallet began. `answer` is what /retain said,
    before its message was greeted by name.

    `answered` is "expired" where nobody answered an offer within 14 days. `withdrawn`: nobody received the answer, so
    its hold and contact were taken back. `customer` is a pseudonym, None for a table without ids.

    `cost` is that of the contact, `liability` what the discount costs in all its `months` if it is accepted. So the
    wallet has committed the one, the other once it was accepted, and not what was `given_back`; nothing of an answer
    that was withdrawn.
    """

    decision_id: str
    at: str
    customer: str | None
    period: str
    arm: Arm
    offer: int | None
    cost: float
    liability: float
    charge: float
    months: int
    answer: dict[str, Any]
    detail: Detail
    shadow: Shadow | None
    answered: Literal["accepted", "declined", "expired"] | None
    answered_at: str | None
    withdrawn: bool
    outcomes: tuple[RecordedOutcome, ...]

    @property
    def risk(self) -> float:
        return float(self.answer["risk"])

    @property
    def acceptance(self) -> float:
        return float(self.answer["acceptance"])

    @property
    def why(self) -> str:
        return str(self.answer["why"])

    @property
    def nrr_proxy(self) -> float | None:
        """By the risk model of the release that answered, whichever release's arm decided."""
        return nrr_proxy(
            offer=self.offer,
            cost=self.cost,
            charge=self.charge,
            accepted=self.answered == "accepted",
            churned=any(outcome.kind == "churned" for outcome in self.outcomes),
            risk=self.risk if self.detail.risk is None else self.detail.risk,
            risk_if_accepted=self.detail.risk_if_accepted,
        )


def nrr_proxy(
    *,
    offer: int | None,
    cost: float,
    charge: float,
    accepted: bool,
    churned: bool,
    risk: float,
    risk_if_accepted: float | None,
) -> float | None:
    """What is left of a month's charge after discount, churn and the contact's cost, as a share of that charge.

    [charge x (1 - discount, if accepted) x (1 - p_churn) - contact cost] / charge. p_churn is what the risk model says
    of her, at the lower charge if she accepted, and 1 once she was reported to have left. An unanswered offer counts as
    declined, so decisions are compared once no offer of their age is open. None for one that was accepted where nothing
    is compared.
    """
    churn = 1.0 if churned else risk_if_accepted if accepted else risk
    if churn is None:
        return None
    discount = (offer or 0) / 100 if accepted else 0.0
    return (1 - discount) * (1 - churn) - (cost / charge if charge else 0.0)


def propensity(exploration: float, actions: int, usual: bool) -> float:
    """The chance of an action where the share `exploration` of decisions takes one of so many `actions` at random:
    that of the arm's `usual` one is what is left, too."""
    return exploration / actions + (1 - exploration) * usual
