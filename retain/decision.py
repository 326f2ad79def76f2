"""Customer and history -> contact or not, with which offer, and why.

The playbook's first baseline: contact whoever's risk reaches a threshold, with one fixed offer. Learned policies will
stand beside it and share what comes before any policy: nobody is contacted who opted out, whose offer still runs, or
who was contacted as often as the cap allows. Pure functions of what they are given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from retain.dataset import DatasetSpec, cell

CONTACT: Literal["contact"] = "contact"
NO_CONTACT: Literal["no_contact"] = "no_contact"

Action = Literal["contact", "no_contact"]
Why = Literal["risk_at_threshold", "risk_below_threshold", "do_not_contact", "running_offer", "contact_cap"]


class DecisionError(ValueError):
    """A bridge or a rule that can't be used: what is wrong in it."""


@dataclass(frozen=True)
class History:
    """What the caller knows of earlier contacts; empty when a request brings none.

    `contacts`: how often the customer was contacted in each of the last months, oldest first. `running_offer` in
    percent with `months_left`; None or 0, and no months, when no discount runs. `accepted`, `declined`: answers so far.
    """

    contacts: tuple[int, ...] = ()
    running_offer: int | None = None
    months_left: int = 0
    accepted: int = 0
    declined: int = 0


NO_HISTORY = History()


class Bridge:
    """Acceptance of a customer who was never asked: the mean calibrated score of the bank's clients in her cell.

    `warning` says so when the table lacks one of the bridge's roles: then everybody gets the overall mean.
    """

    def __init__(self, content: Mapping[str, Any], spec: DatasetSpec) -> None:
        try:
            self.roles = tuple(str(role) for role in content["roles"])
            self.overall = float(content["overall"])
            self.cells = {str(key): float(found["acceptance"]) for key, found in content["cells"].items()}
        except (KeyError, TypeError, ValueError, AttributeError):
            raise DecisionError("bridge.json: wants roles, cells with their acceptance, overall") from None
        if not all(0 <= value <= 1 for value in (self.overall, *self.cells.values())):
            raise DecisionError("bridge.json: an acceptance is no probability")
        missing = [role for role in self.roles if role not in {part.role for part in spec.bridge}]
        self.warning = (
            f"{spec.name} has no column for {', '.join(missing)}: every customer gets the overall acceptance"
            if missing
            else None
        )
        self._spec = spec

    def acceptance(self, values: Mapping[str, object]) -> float:
        """A cell nobody was seen in counts as the overall mean."""
        if self.warning is not None:
            return self.overall
        return self.cells.get(cell(self._spec, values, self.roles), self.overall)


@dataclass(frozen=True)
class ThresholdRule:
    """Propensity threshold + one fixed offer. Percentages are whole numbers; `offers` are all that may be made."""

    threshold: float
    offer: int
    offers: tuple[int, ...]
    offer_months: int
    max_contacts: int
    cap_months: int
    reasons: int

    @classmethod
    def from_json(cls, content: object) -> ThresholdRule:
        """From a release's decision.json. Raises DecisionError."""
        wanted = set(cls.__dataclass_fields__) | {"rule"}
        if not isinstance(content, dict) or set(content) != wanted or content["rule"] != "threshold":
            raise DecisionError(f"decision.json: wants rule: threshold and the keys {', '.join(sorted(wanted))}")
        offers, threshold = content["offers"], content["threshold"]
        counts = [content[key] for key in ("offer_months", "max_contacts", "cap_months", "reasons")]
        if not isinstance(offers, list) or any(type(offer) is not int for offer in offers):
            raise DecisionError("decision.json: offers are whole percentages")
        if type(threshold) not in (int, float) or not 0 < threshold < 1:
            raise DecisionError("decision.json: threshold is no probability between 0 and 1")
        if content["offer"] not in offers or not all(0 <= offer <= 100 for offer in offers):
            raise DecisionError("decision.json: offer is not one of offers, or one of them is no percentage")
        if any(type(count) is not int or not 1 <= count <= 120 for count in counts) or counts[0] > 12:
            raise DecisionError("decision.json: months, contacts and reasons are whole numbers from 1")
        return cls(
            threshold=float(threshold), offer=content["offer"], offers=tuple(offers), offer_months=counts[0],
            max_contacts=counts[1], cap_months=counts[2], reasons=counts[3],
        )  # fmt: skip


@dataclass(frozen=True)
class Decision:
    """`offer` in percent, None without contact; `why` is what the action follows from."""

    risk: float
    acceptance: float
    action: Action
    offer: int | None
    why: Why


def barred(rule: ThresholdRule, history: History, opted_out: bool) -> Why | None:
    """What forbids a contact, whatever any policy wants; the customer's own word first."""
    if opted_out:
        return "do_not_contact"
    if history.running_offer or history.months_left:  # either alone is a contradiction: nobody is contacted on one
        return "running_offer"
    if sum(history.contacts[-rule.cap_months :]) >= rule.max_contacts:
        return "contact_cap"
    return None


def decide(
    rule: ThresholdRule,
    risk: float,
    acceptance: float,
    history: History = NO_HISTORY,
    opted_out: bool = False,
) -> Decision:
    """The baseline's decision. A risk that is NaN reaches no threshold, so it contacts nobody."""
    why = barred(rule, history, opted_out)
    if why is None and risk >= rule.threshold:
        return Decision(risk, acceptance, CONTACT, rule.offer, "risk_at_threshold")
    return Decision(risk, acceptance, NO_CONTACT, None, why or "risk_below_threshold")


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
