"""What a customer is told: situations, the bank of messages, and the rules that every message keeps.

A bank is a list of {situation, offer, text, source, score}: templates now, texts of a language model later, in the
same place. A text has slots ({offer}, {months}), so no amount is ever written by hand or by a model. The rules
(retain.rules) are asked about a whole bank when it is released, and again about each message when it is sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from retain.rules import MAX_LENGTH, MIN_LENGTH, broken_rules, check, unsafe

__all__ = [
    "MAX_LENGTH",
    "MIN_LENGTH",
    "SITUATIONS",
    "TEMPLATES",
    "Bank",
    "Entry",
    "MessageError",
    "broken_rules",
    "check",
    "render",
    "situation",
    "template_bank",
    "unsafe",
]

SITUATIONS = ("price", "support", "contract", "payment", "new", "default")

# Which role's column, when it is what raises the risk most, makes which situation.
SITUATION_OF_ROLE = {
    "monthly_charge": "price",
    "total_charge": "price",
    "internet": "support",
    "support": "support",
    "contract": "contract",  # its kind: when one ends, no table says so far
    "payment": "payment",
    "tenure": "new",
}
NEW_MONTHS = 3  # whoever came this recently is new, whatever the reasons say
SETTLED_MONTHS = 12  # beyond it a short tenure explains nothing to the customer


class MessageError(ValueError):
    """A bank or a text that can't be used: which entry, what is wrong."""


@dataclass(frozen=True)
class Entry:
    """One message of a bank; `offer` in percent, `score` ranks the entries of one situation and offer."""

    situation: str
    offer: int
    text: str
    source: str
    score: float

    def as_dict(self) -> dict[str, Any]:
        return {
            "situation": self.situation,
            "offer": self.offer,
            "text": self.text,
            "source": self.source,
            "score": self.score,
        }


def situation(roles: Mapping[Any, str], reasons: Iterable[tuple[str, float]], values: Mapping[str, object]) -> str:
    """The situation of a customer: what raises the risk most, in terms that can be talked about.

    `roles` is the table's (role -> column), `reasons` are (column, contribution) largest first, `values` the row.
    """
    months = values.get(roles.get("tenure", ""))
    known = isinstance(months, int | float)
    if known and months <= NEW_MONTHS:  # type: ignore[operator]
        return "new"
    of_column = {roles[role]: name for role, name in SITUATION_OF_ROLE.items() if role in roles}
    for column, contribution in reasons:
        found = of_column.get(column)
        if contribution <= 0 or found is None:
            continue
        if found == "new" and not (known and months <= SETTLED_MONTHS):  # type: ignore[operator]
            continue
        return found
    return "default"


# -- the bank ------------------------------------------------------------------------------------------------------

_SLOT = re.compile(r"\{([^{}]*)\}")
_MONTHS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]


def render(text: str, offer: int, months: int) -> str:
    """The text with its slots filled. Raises MessageError for a slot that doesn't exist."""
    slots = {"offer": f"{offer}%", "months": "one month" if months == 1 else f"{_MONTHS[months]} months"}

    def fill(match: re.Match[str]) -> str:
        if match[1] not in slots:
            raise MessageError(f"slot {match[0][:20]!r} is none of {', '.join(slots)}")
        return slots[match[1]]

    return _SLOT.sub(fill, text)


class Bank:
    """Messages by situation and offer, best first."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = tuple(entries)
        self._found: dict[tuple[str, int], list[Entry]] = {}
        for entry in sorted(entries, key=lambda entry: -entry.score):
            self._found.setdefault((entry.situation, entry.offer), []).append(entry)

    @classmethod
    def from_json(cls, content: object, where: str = "messages.json") -> Bank:
        if not isinstance(content, list):
            raise MessageError(f"{where}: is no list of messages")
        return cls([_entry(item, f"{where}: message {i}") for i, item in enumerate(content)])

    def to_json(self) -> list[dict[str, Any]]:
        return [entry.as_dict() for entry in self.entries]

    def message(self, situation: str, offer: int, months: int) -> tuple[str, str] | None:
        """(situation, text) of the best message that keeps the rules; the default situation's when there is none.

        None only for an offer that the bank doesn't cover.
        """
        for name in (situation, "default"):
            for entry in self._found.get((name, offer), ()):
                text = render(entry.text, offer, months)
                if not check(text, offer, months):
                    return name, text
        return None

    def problems(self, offers: Sequence[int], months: int) -> list[str]:
        """Everything that keeps this bank from being released: broken rules, and what it has no message for."""
        found = []
        for i, entry in enumerate(self.entries):
            where = f"message {i} ({entry.situation}, {entry.offer} %)"
            try:
                broken = check(render(entry.text, entry.offer, months), entry.offer, months)
            except MessageError as error:
                broken = [str(error)]
            found += [f"{where}: {rule}" for rule in broken]
        for name in SITUATIONS:
            missing = [str(offer) for offer in offers if (name, offer) not in self._found]
            if missing:
                found.append(f"situation {name}: no message for {', '.join(missing)} %")
        return found


def _entry(item: object, where: str) -> Entry:
    if not isinstance(item, dict) or set(item) != {"situation", "offer", "text", "source", "score"}:
        raise MessageError(f"{where}: wants situation, offer, text, source, score")
    if item["situation"] not in SITUATIONS:
        raise MessageError(f"{where}: situation is none of {', '.join(SITUATIONS)}")
    if type(item["offer"]) is not int or not 0 <= item["offer"] <= 100:
        raise MessageError(f"{where}: offer is no whole percentage")
    if type(item["text"]) is not str or type(item["source"]) is not str:
        raise MessageError(f"{where}: text and source are texts")
    if type(item["score"]) not in (int, float) or item["score"] != item["score"]:
        raise MessageError(f"{where}: score is no number")
    return Entry(item["situation"], item["offer"], item["text"], item["source"], float(item["score"]))


# Two texts a situation: with a discount, and with nothing but an open ear.
TEMPLATES = {
    "price": (
        "Your bill should feel right for what you get. We would like to take {offer} off your monthly charge for"
        " {months}; nothing else about your plan changes. Reply YES and we will set it up for you.",
        "Your bill should feel right for what you get. We are happy to go through your plan with you and see whether"
        " another one suits you better. Reply YES and we will call you at a time that you choose.",
    ),
    "support": (
        "Good help should be easy to reach. One of our specialists would be glad to check that your service runs as"
        " it should, and we would like to take {offer} off your monthly charge for {months}. Reply YES to have both.",
        "Good help should be easy to reach. One of our specialists would be glad to check that your service runs as"
        " it should and to answer your questions. Reply YES and we will call you at a time that you choose.",
    ),
    # For every kind of contract: of the 711 customers of exp_001_mvp whom it concerns, none has one with a term.
    "contract": (
        "Your plan should fit the way you live. We would be glad to go through its terms with you, and to take {offer}"
        " off your monthly charge for {months} whichever terms suit you. Reply YES to have both.",
        "Your plan should fit the way you live. We would be glad to go through its terms with you and explain the"
        " choices in plain words. Reply YES and we will call you at a time that you choose.",
    ),
    "payment": (
        "Paying your bill should take no effort. We can help you find the way to pay that suits you, and we would"
        " like to take {offer} off your monthly charge for {months}. Reply YES and we will set up both.",
        "Paying your bill should take no effort. We can help you find the way to pay that suits you, in a short call."
        " Reply YES and we will ring you at a time that you choose.",
    ),
    "new": (
        "Welcome, and thank you for choosing us. To help you settle in, we would like to take {offer} off your"
        " monthly charge for {months}. Reply YES and we will add it to your account.",
        "Welcome, and thank you for choosing us. If something about your service is not yet as you would like it, we"
        " are glad to help. Reply YES and someone from our team will be in touch.",
    ),
    "default": (
        "Thank you for being with us. As a small sign of our thanks, we would like to take {offer} off your monthly"
        " charge for {months}. Reply YES and we will add it to your account.",
        "Thank you for being with us. If there is something that we could do better, we would be glad to hear it."
        " Reply YES and someone from our team will be in touch.",
    ),
}


def template_bank(offers: Sequence[int]) -> Bank:
    """A checked template for every situation and offer."""
    return Bank(
        [
            Entry(name, offer, TEMPLATES[name][0 if offer else 1], "template", 0.0)
            for name in SITUATIONS
            for offer in offers
        ]
    )
