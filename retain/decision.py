"""Customer, history and wallet -> contact or not, with which offer, and why.

One place for every policy: the playbook's first baseline (a risk threshold and one fixed offer) and the learned one.
They differ only in what they want to do. What may not be done is the same for both and comes first: nobody is contacted
who opted out, whose offer still runs, who was contacted in the month that ends now, or as often as the cap allows. What
can't be paid for is the same as well and comes last: the wallet admits an offer, or it is not made. Learned policies
observe what the simulated year let them observe, number for number. Nothing here reads a clock or a file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from retain.contact import Bar, barred
from retain.dataset import DatasetSpec, cell, feature_columns
from retain.frozen import Frozen
from retain.offers import Acceptance, Cap, Decay, Months, NotNegative, Offers, tiredness
from retain.policy import Policy
from retain.wallet import Mode, Wallet

Singles = NDArray[np.float32]

CONTACT: Literal["contact"] = "contact"
NO_CONTACT: Literal["no_contact"] = "no_contact"

Arm = Literal["baseline", "learned"]
Action = Literal["contact", "no_contact"]
Why = Literal[
    "risk_at_threshold",
    "risk_below_threshold",
    "policy_contact",
    "policy_no_contact",
    "exploration",
    "do_not_contact",
    "hold_out",
    "running_offer",
    "contact_cap",
    "contacted_this_month",
    "offer_limit",
    "offer_budget",
    "state_unavailable",
]

# Months of contacts that a learned policy observes, the last one ending now: those of the simulated year.
CONTACTS = 3


class DecisionError(ValueError):
    """A bridge, terms or a policy that can't be used: what is wrong in it."""


@dataclass(frozen=True)
class History:
    """What the caller knows of earlier contacts; empty when a request brings none.

    `contacts`: how often the customer was contacted in each of the last months, oldest first, the last one ending now.
    `running_offer` in percent with `months_left`; None or 0, and no months, when none runs (0 with months left: an
    accepted contact without a discount). `accepted`, `declined`: answers of the last `Terms.months`, one decision a
    month; a policy never learned from more.
    """

    contacts: tuple[int, ...] = ()
    running_offer: int | None = None
    months_left: int = 0
    accepted: int = 0
    declined: int = 0


NO_HISTORY = History()


def merged(given: History, own: History) -> History:
    """What a request tells of a customer's history together with what the service has on record.

    Both know of the service's own contacts, and the caller maybe of more, so the larger count of each month holds, and
    of the answers. An offer that either knows of is running, and the caller's word on it holds if both do.
    """
    if own == NO_HISTORY:
        return given
    months = max(len(given.contacts), len(own.contacts))
    padded = ((0,) * (months - len(contacts)) + contacts for contacts in (given.contacts, own.contacts))
    running = given if given.running_offer or given.months_left else own
    return History(
        contacts=tuple(map(max, *padded)),
        running_offer=running.running_offer,
        months_left=running.months_left,
        accepted=max(given.accepted, own.accepted),
        declined=max(given.declined, own.declined),
    )


class Bridge:
    """Acceptance of a customer who was never asked: the mean calibrated score of the bank's clients in her cell.

    `warning` says so when the table lacks one of the bridge's roles: then everybody gets the overall mean.
    """

    def __init__(self, content: Mapping[str, Any], spec: DatasetSpec) -> None:
        try:
            self.roles = tuple(str(role) for role in content["roles"])
            self.overall = float(content["overall"])
            cells = {
                str(key): (float(stated["acceptance"]), float(stated["sd"]), int(stated["rows"]))
                for key, stated in content["cells"].items()
            }
        except (KeyError, TypeError, ValueError, AttributeError):
            raise DecisionError("bridge.json: wants roles, overall, and cells with acceptance, sd and rows") from None
        if not all(0 < value < 1 for value in (self.overall, *(mean for mean, _, _ in cells.values()))):
            raise DecisionError("bridge.json: an acceptance is no probability between 0 and 1")
        if not all(0 <= sd < math.inf and rows >= 0 for _, sd, rows in cells.values()):
            raise DecisionError("bridge.json: an sd or a number of rows is below 0, or not finite")
        missing = [role for role in self.roles if role not in {part.role for part in spec.bridge}]
        self.warning = (
            f"{spec.name} has no column for {', '.join(missing)}: every customer gets the overall acceptance"
            if missing
            else None
        )
        self._spec = spec
        self._cells = {key: (mean, _spread(mean, sd)) for key, (mean, sd, rows) in cells.items() if rows}
        total = sum(rows for _, _, rows in cells.values())
        variance = sum(rows * (sd**2 + (mean - self.overall) ** 2) for mean, sd, rows in cells.values())
        self._everybody = (self.overall, _spread(self.overall, math.sqrt(variance / total) if total else 0.0))

    def score(self, values: Mapping[str, object]) -> tuple[float, float]:
        """The acceptance, and how its log-odds spread within the cell (standard deviation). A cell nobody was seen in
        counts as the overall mean."""
        if self.warning is not None:
            return self._everybody
        return self._cells.get(cell(self._spec, values, self.roles), self._everybody)


def _spread(score: float, sd: float) -> float:
    return sd / (score * (1 - score))


# -- terms ---------------------------------------------------------------------------------------------------------


class _Budget(Frozen):
    share: NotNegative
    months: Months
    amount: NotNegative


class _Rule(Frozen):
    rule: Literal["threshold"]
    reasons: Annotated[int, Field(ge=1, le=120)]


# Keys of a decision.json from when the baseline was all there was.
_OLDER = ("max_contacts", "cap_months", "offer_months")


class _Terms(Frozen):
    offers: Offers
    cap: Cap
    acceptance: Acceptance
    decay: Decay
    wallet: Mode
    budget: _Budget
    threshold: Annotated[float, Field(gt=0, lt=1)]
    offer: int
    rule: _Rule


def _is_older(content: object) -> bool:
    """Whether it has keys that decision.json had before, and has no more."""
    if not isinstance(content, dict):
        return False
    rule = content.get("rule")
    return not content.keys().isdisjoint(_OLDER) or (isinstance(rule, dict) and "offer" in rule)


@dataclass(frozen=True)
class Terms:
    """What holds for every policy, and the threshold baseline.

    `acceptance` is what the wallet believes, with `decay` of earlier contacts a month. `budget` in the offers' currency
    for `months`. The baseline makes its one `offer` (percent) from `threshold` on; `reasons` of a risk are shown.
    """

    offers: Offers
    cap: Cap
    acceptance: Acceptance
    decay: float
    wallet: Mode
    budget: float
    months: int
    threshold: float
    offer: int
    reasons: int

    @classmethod
    def from_json(cls, content: object) -> Terms:
        """From a release's decision.json. Raises DecisionError."""
        if _is_older(content):
            raise DecisionError("decision.json: is of an older format; a new run of its experiment makes a new release")
        try:
            # Through JSON: what is said of a fault then names no class.
            read = _Terms.model_validate_json(json.dumps(content))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            unknown = first["type"] in ("extra_forbidden", "unexpected_keyword_argument")
            what = "is no key of it" if unknown else first["msg"].removeprefix("Value error, ")
            raise DecisionError(f"decision.json: {where or 'as a whole'}: {what}") from None
        if read.offer not in read.offers.levels:
            raise DecisionError(
                f"decision.json: offer {read.offer} is not one of the offers {list(read.offers.levels)}"
            )
        return cls(
            offers=read.offers,
            cap=read.cap,
            acceptance=read.acceptance,
            decay=read.decay,
            wallet=read.wallet,
            budget=read.budget.amount,
            months=read.budget.months,
            threshold=read.threshold,
            offer=read.offer,
            reasons=read.rule.reasons,
        )

    @property
    def history_months(self) -> int:
        """Months of contacts that decisions follow from: what the cap counts, and what a policy observes."""
        return max(CONTACTS, self.cap.window)

    @property
    def actions(self) -> tuple[str, ...]:
        """What the outputs of a learned policy mean."""
        return ("no_contact", *(f"offer_{level}" for level in self.offers.levels))

    def new_wallet(self) -> Wallet:
        """The budget, whole."""
        return Wallet(self.budget, self.wallet)


def check_policy(policy: Policy, terms: Terms, features: Sequence[str]) -> None:
    """Raises DecisionError for a policy that learned other actions, or from other columns, than there are here."""
    if policy.actions != terms.actions:
        raise DecisionError(
            f"policy.json: decides between {', '.join(policy.actions)}; the terms have {', '.join(terms.actions)}"
        )
    wanted = observed(features)
    if len(policy.observed) != len(wanted):
        raise DecisionError(f"policy.json: observes {len(policy.observed)} columns, where a customer has {len(wanted)}")
    for name, here in zip(policy.observed, wanted):
        if name != here:
            raise DecisionError(f"policy.json: observes {name!r}, where a customer has {here!r}")


# -- what a policy observes ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """What is known of a customer when a decision is due.

    `features` (f,) are those that a policy may see, `charge` hers for a month in currency units, `spread` that of the
    log-odds of `acceptance` within her cell.
    """

    features: Singles
    risk: float
    acceptance: float
    spread: float
    charge: float
    history: History
    opted_out: bool


def seen_columns(spec: DatasetSpec) -> list[str]:
    """The columns whose features a policy may see: the protected ones are not among them."""
    return [column.name for column in feature_columns(spec) if not column.protected]


def layout(
    risk: Any,
    acceptance: Any,
    contacts: Iterable[Any],
    running_offer: Any,
    months_left: Any,
    accepted: Any,
    declined: Any,
    pace: Any,
) -> tuple[Any, ...]:
    """The columns of an observation that follow a customer's features, in their order, wherever one is made.

    They are given as names, as the numbers of one customer (service), or as arrays (n,) of many (simulated year).
    `contacts` are those of the last CONTACTS months, oldest first; `running_offer` is in percent.
    """
    return (risk, acceptance, *contacts, running_offer, months_left, accepted, declined, pace)


def observed(features: Sequence[str]) -> tuple[str, ...]:
    """Names of an observation's columns."""
    contacts = (f"contacts_{ago}_months_ago" for ago in reversed(range(CONTACTS)))
    columns = layout("risk", "acceptance", contacts, "running_offer", "months_left", "accepted", "declined", "pace")
    return (*features, *columns)


def told(case: Case, pace: float) -> tuple[Any, ...]:
    """The columns of a customer's observation that follow her features: what is told of scores, history and budget."""
    history = case.history
    contacts = ((0,) * CONTACTS + history.contacts)[-CONTACTS:]
    return layout(
        case.risk, case.acceptance, contacts, history.running_offer or 0, history.months_left,
        history.accepted, history.declined, pace,
    )  # fmt: skip


def observe(case: Case, pace: float) -> Singles:
    """(o,) float32: what a learned policy sees of a customer."""
    columns, features = told(case, pace), len(case.features)
    seen = np.empty(features + len(columns), np.float32)
    seen[:features] = case.features
    seen[features:] = columns
    return seen


def pace(wallet: Wallet, left: float) -> float:
    """Share of the budget not expected to be spent, less the share of its period that is `left`; between -1 and 1.

    In the simulated year every answer is in when a policy decides, so it learned from what is committed. In a service
    offers are open; what is held for them is what they cost at most, so they count as what they cost on average.
    """
    free = 1 - wallet.expected / wallet.budget if wallet.budget > 0 else 0.0
    return min(1.0, max(-1.0, free - left))


# -- decisions -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Decision:
    """`offer` in percent, None without contact; `why` is what the action follows from, `arm` whose decision it is."""

    risk: float
    acceptance: float
    action: Action
    offer: int | None
    why: Why
    arm: Arm = "baseline"


class Wanted(NamedTuple):
    """What an arm wants to do: an offer in percent, None for no contact, and why."""

    offer: int | None
    why: Why


def decide(
    terms: Terms,
    case: Case,
    wallet: Wallet,
    policy: Policy | None = None,
    left: float = 1.0,
    limit: float = math.inf,
) -> Decision:
    """The decision of `policy`, of whose wallet's period the share `left` is to come; with none, the baseline's.

    An offer that would cost more than `limit` (its liability, in currency units) isn't made, whoever wants it. An offer
    that is decided on has been admitted by `wallet` and is open from now on. Raises PolicyError before that if the
    policy can't decide. A risk that is NaN reaches no threshold, so the baseline contacts nobody on one.
    """
    bar = forbidden(terms, case.history, case.opted_out)
    if bar is not None:
        wanted = Wanted(None, bar)
    else:
        wanted = (
            baseline_wants(terms, case) if policy is None else policy_wants(policy, terms, case, pace(wallet, left))
        )
    return granted(terms, case, wanted, wallet, "baseline" if policy is None else "learned", limit)


def baseline_wants(terms: Terms, case: Case) -> Wanted:
    """What the threshold baseline wants."""
    if case.risk >= terms.threshold:
        return Wanted(terms.offer, "risk_at_threshold")
    return Wanted(None, "risk_below_threshold")


def policy_wants(policy: Policy, terms: Terms, case: Case, pace: float) -> Wanted:
    """What a learned policy wants. Raises PolicyError if it can't decide."""
    action = policy.best(observe(case, pace))
    return Wanted(terms.offers.levels[action - 1], "policy_contact") if action else Wanted(None, "policy_no_contact")


def granted(terms: Terms, case: Case, wanted: Wanted, wallet: Wallet, arm: Arm, limit: float = math.inf) -> Decision:
    """What becomes of what an arm wants and no rule forbids: an offer is made if it costs at most `limit` and the
    wallet admits it."""
    offer, why = wanted
    if offer is not None:
        asked = price(terms, case, offer)
        if asked[1] > limit:
            offer, why = None, "offer_limit"
        elif not wallet.admit_one(*asked):
            offer, why = None, "offer_budget"
    return Decision(case.risk, case.acceptance, NO_CONTACT if offer is None else CONTACT, offer, why, arm)


def affordable(terms: Terms, case: Case, wallet: Wallet, limit: float = math.inf) -> list[int | None]:
    """The actions that granted() would carry out now: no contact (None), and offers in percent. Nothing is held for."""
    actions: list[int | None] = [None]
    for offer in terms.offers.levels:
        asked = price(terms, case, offer)
        if asked[1] <= limit and wallet.would_admit(*asked):
            actions.append(offer)
    return actions


def forbidden(terms: Terms, history: History, opted_out: bool, held_out: bool = False) -> Bar | None:
    """What forbids a contact, whatever any policy wants."""
    # Either alone is a contradiction, and nobody is contacted on one.
    running = bool(history.running_offer or history.months_left)
    return barred(history.contacts, running, opted_out, terms.cap.max_contacts, terms.cap.window, held_out)


def price(terms: Terms, case: Case, offer: int) -> tuple[float, float, float]:
    """What the wallet asks of an `offer` in percent: contact cost, liability, and how likely it is to be accepted."""
    tired = tiredness(case.history.contacts, terms.decay)
    probability = _acceptance(terms.acceptance, case.acceptance, case.spread, offer, tired)
    return terms.offers.contact_cost, liability(terms, case.charge, offer), probability


def liability(terms: Terms, charge: float, offer: int) -> float:
    """What an `offer` in percent costs if it is accepted, in currency units: its discount on a monthly `charge`, over
    all its months, also those beyond the budget's period."""
    return offer / 100 * charge * terms.offers.months


@lru_cache(maxsize=4096)  # cells, offers and histories are few
def _acceptance(model: Acceptance, score: float, spread: float, offer: int, tired: float) -> float:
    return float(model.probability(np.array([score]), np.array([spread]), float(offer), tired)[0])


def opted_out(spec: DatasetSpec, values: Mapping[str, object]) -> bool:
    """Whether the customer's row says not to contact her; a table without that role never says so.

    The role's column is a flag, whose second value is true, or a number, where anything but 0 is. A blank counts as
    an opt-out: nobody may be contacted who was not asked.
    """
    name = spec.roles.get("do_not_contact")
    if name is None:
        return False
    value = values.get(name)
    if value is None:
        return True
    for column in spec.columns:
        if column.name == name and column.values:
            return value != column.values[0]
    return bool(value)
