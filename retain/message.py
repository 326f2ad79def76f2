"""What a customer is told: situations, and the bank of messages.

A bank is a list of {situation, offer, text, source, score, tokens}: templates, or texts of a language model. A text has
slots ({offer}, {months}), so no amount is ever written by hand or by a model. The guard (retain.guard) is asked about a
whole bank when it is released, and again about each message when it is sent, with the greeting that a known name puts
before it. Who writes and how to opt out stand below every message (footer): fixed text, no writer's.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from retain.bounds import MAX_PERCENT
from retain.numbers import in_words, number, numbers_in

if TYPE_CHECKING:  # the stages that judge by the rules alone don't run again for a change of the guard's code
    from retain.guard import Guard
    from retain.rules import Rules

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


class Message(NamedTuple):
    """What is said in a contact, not greeted yet; source, score and tokens are the bank entry's.

    `characters` counts those of the entry's text, slots filled, as its `tokens` do: without the footer. `wording`: that
    text with its slots, which is what people approve.
    """

    situation: str
    text: str
    source: str
    score: float | None
    tokens: int | None
    characters: int
    wording: str

    def answer(self) -> dict[str, str]:
        """What a caller is told of it."""
        return {"situation": self.situation, "text": self.text, "source": self.source}


@dataclass(frozen=True)
class Entry:
    """One message of a bank; `offer` in percent, `score` ranks the entries of one situation and offer.

    `tokens`: how long the text is, slots filled, in the tokenizer of the model that wrote it, its end counted as
    everywhere; None for a template.
    """

    situation: str
    offer: int
    text: str
    source: str
    score: float
    tokens: int | None = None

    def as_dict(self) -> dict[str, Any]:
        return {
            "situation": self.situation,
            "offer": self.offer,
            "text": self.text,
            "source": self.source,
            "score": self.score,
            "tokens": self.tokens,
        }


def situation(roles: Mapping[Any, str], reasons: Iterable[tuple[str, float]], months: float | None) -> str:
    """The situation of a customer: what raises the risk most, in terms that can be talked about.

    `roles` is the table's (role -> column), `reasons` are (column, contribution) largest first, `months` her tenure;
    None if it isn't known.
    """
    if months is not None and months <= NEW_MONTHS:
        return "new"
    of_column = {roles[role]: name for role, name in SITUATION_OF_ROLE.items() if role in roles}
    for column, contribution in reasons:
        name = of_column.get(column)
        if contribution <= 0 or name is None:
            continue
        if name == "new" and (months is None or months > SETTLED_MONTHS):
            continue
        return name
    return "default"


# -- the bank ------------------------------------------------------------------------------------------------------

_SLOT = re.compile(r"\{([^{}]*)\}")


MAX_SENDER, MAX_ADDRESS = 60, 120
# A message that begins so greets by itself.
_GREETS = re.compile(r"(?:dear|good (?:day|evening|morning)|greetings|hello|hey|hi)\b", re.IGNORECASE)


def render(text: str, offer: int, months: int) -> str:
    """The text with its slots filled. Raises MessageError for a slot that doesn't exist."""

    def fill(match: re.Match[str]) -> str:
        if match[1] == "offer":
            return f"{offer}%"
        if match[1] == "months":
            return "one month" if months == 1 else f"{in_words(months)} months"
        raise MessageError(f"slot {match[0][:20]!r} is none of offer, months")

    return _SLOT.sub(fill, text)


def greeted(text: str, offer: int, months: int, name: str, guard: Guard) -> str:
    """A rendered message to somebody of that name: with a greeting, if the whole keeps the rules; else as it is."""
    clean = guard.names.clean(name)
    if clean is None or _GREETS.match(text):
        return text
    whole = f"Hello {clean}. {text}"
    return text if guard.rules.check(whole, offer, months) else whole  # broken_rules would remember names


_PERCENTAGE = re.compile(
    r"(?<![\w.,%-])(?P<number>\d{1,3}|[a-z]+(?:[ -][a-z]+)?) ?-?(?:%|per ?-?cent\b)", re.IGNORECASE
)
_MONTHS_SAID = re.compile(r"(?<![\w.,%-])(?P<number>\d{1,2}|[a-z]+)[ -](?P<unit>months?)\b(?!-)", re.IGNORECASE)


def slots(text: str, offer: int, months: int, rules: Rules) -> str | None:
    """A model's text as a bank's: {offer} for every mention of exactly that percentage, {months} for the duration.

    None if it holds a number besides (but for the word "one"), a slot or a brace of its own, or if what it renders to
    breaks a rule: amounts come from slots alone.
    """
    if "{" in text or "}" in text:
        return None

    def percentage(match: re.Match[str]) -> str:
        # "off ten percent": the word before a number was matched as its tens.
        before, _, last = match["number"].rpartition(" ")
        for words, kept in ((match["number"], ""), (last, f"{before} " if before else "")):
            if offer and number(words) == offer:
                return f"{kept}{{offer}}"
        return match[0]

    def duration(match: re.Match[str]) -> str:
        plural = match["unit"].lower().endswith("s")
        return "{months}" if number(match["number"]) == months and plural == (months != 1) else match[0]

    slotted = _MONTHS_SAID.sub(duration, _PERCENTAGE.sub(percentage, text))
    if numbers_in(_SLOT.sub(" ", slotted)):
        return None
    return None if rules.check(render(slotted, offer, months), offer, months) else slotted


def footer(sender_name: str, sender_address: str) -> str:
    """What stands below every message: how to opt out, and who writes. Raises MessageError for what can't be shown."""
    for what, text, most in (("name", sender_name, MAX_SENDER), ("address", sender_address, MAX_ADDRESS)):
        if type(text) is not str or not 0 < len(text) <= most or text != text.strip():
            raise MessageError(f"the sender's {what} wants 1 to {most} characters, without spaces around them")
        if not text.isprintable() or set("<>{}") & set(text):
            raise MessageError(f"the sender's {what} holds a character that can't be shown, or one of <>{{}}")
    return f"Reply STOP to opt out. {sender_name}, {sender_address}"


class Review(NamedTuple):
    """Of the messages of a bank: how many it lists, and what a person who read them said."""

    listed: int
    approved: int
    rejected: int
    unread: int


class Bank:
    """Messages by situation and offer, best first."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = tuple(entries)
        self._cells: dict[tuple[str, int], list[Entry]] = {}
        for entry in sorted(entries, key=lambda entry: -entry.score):
            self._cells.setdefault((entry.situation, entry.offer), []).append(entry)

    @classmethod
    def from_json(cls, content: object, where: str = "messages.json") -> Bank:
        if not isinstance(content, list):
            raise MessageError(f"{where}: is no list of messages")
        return cls([entry_of(item, f"{where}: message {i}") for i, item in enumerate(content)])

    def to_json(self) -> list[dict[str, Any]]:
        return [entry.as_dict() for entry in self.entries]

    def best(self, situation: str, offer: int, months: int, rules: Rules) -> Entry | None:
        """The best entry of exactly that situation and offer that keeps the rules."""
        for entry in self._cells.get((situation, offer), ()):
            if not rules.broken_rules(render(entry.text, offer, months), offer, months):
                return entry
        return None

    def ranked(self, scores: Mapping[tuple[str, int], Mapping[str, float]]) -> Bank:
        """The same messages by other scores, (situation, offer) -> text -> score; one without keeps its own, behind
        all that have one."""
        given = [scores.get((entry.situation, entry.offer), {}).get(entry.text) for entry in self.entries]
        lowest = min((score for score in given if score is not None), default=0.0)
        highest = max((entry.score for entry, score in zip(self.entries, given) if score is None), default=0.0)
        return Bank(
            [
                replace(entry, score=lowest - 1.0 + min(0.0, entry.score - highest) if score is None else score)
                for entry, score in zip(self.entries, given)
            ]
        )

    def gaps(self, offers: Sequence[int]) -> list[str]:
        """What the bank has no message for."""
        gaps = []
        for name in SITUATIONS:
            missing = [str(offer) for offer in offers if (name, offer) not in self._cells]
            if missing:
                gaps.append(f"situation {name}: no message for {', '.join(missing)} %")
        return gaps

    def coverage(self, offers: Sequence[int]) -> float:
        """The share of situations with each offer that it has a message for."""
        cells = [(name, offer) for name in SITUATIONS for offer in offers]
        return sum(cell in self._cells for cell in cells) / len(cells)

    def approved(self, verdicts: Mapping[str, str]) -> Bank:
        """The messages whose text a person approved: text -> "approved" or "rejected"."""
        return Bank([entry for entry in self.entries if verdicts.get(entry.text) == "approved"])

    def review(self, verdicts: Mapping[str, str]) -> Review:
        """How many of its messages were read, and what was said of them."""
        said = Counter(verdicts.get(entry.text, "unread") for entry in self.entries)
        return Review(len(self.entries), said["approved"], said["rejected"], said["unread"])

    def without_refused(self, months: int, rules: Rules) -> tuple[Bank, list[tuple[Entry, tuple[str, ...]]]]:
        """The messages that keep the rules; and those that don't, with what is said of each. `months`: how long an
        offer runs."""
        judged = [(entry, _broken(entry, months, rules)) for entry in self.entries]
        refused = [(entry, broken) for entry, broken in judged if broken]
        return Bank([entry for entry, broken in judged if not broken]), refused

    def problems(self, months: int, rules: Rules) -> list[str]:
        """The rules that its messages break."""
        return [
            f"message {place} ({entry.situation}, {entry.offer} %): {rule}"
            for place, entry in enumerate(self.entries)
            for rule in _broken(entry, months, rules)
        ]


def _broken(entry: Entry, months: int, rules: Rules) -> tuple[str, ...]:
    try:
        return rules.broken_rules(render(entry.text, entry.offer, months), entry.offer, months)
    except MessageError as error:
        return (str(error),)


def find(banks: Sequence[Bank], situation: str, offer: int, months: int, rules: Rules) -> Entry | None:
    """The best entry of the first bank that has one for the situation, or else for the default one.

    None only for an offer that no bank covers.
    """
    for wanted in (situation, "default"):
        for bank in banks:
            if (entry := bank.best(wanted, offer, months, rules)) is not None:
                return entry
    return None


def said(entry: Entry, months: int) -> Message:
    """An entry as it is said: its slots filled. That is what was checked if the entry is one of best() or find()."""
    text = render(entry.text, entry.offer, months)
    return Message(entry.situation, text, entry.source, entry.score, entry.tokens, len(text), entry.text)


_SCORES = 'scores.json: wants a number for each text, by "situation/offer"; run the messages stage again'


def scores_of(content: object) -> dict[tuple[str, int], dict[str, float]]:
    """(situation, offer) -> text -> score, of what `messages` writes as scores.json. Raises MessageError."""
    if not isinstance(content, dict):
        raise MessageError(_SCORES)
    by_cell = {}
    for cell, scores in content.items():
        situation, _, offer = cell.partition("/")
        if situation not in SITUATIONS or not re.fullmatch("0|[1-9][0-9]?", offer) or int(offer) > MAX_PERCENT:
            raise MessageError(_SCORES)
        if not isinstance(scores, dict):
            raise MessageError(_SCORES)
        if not all(type(score) in (int, float) for score in scores.values()):
            raise MessageError(_SCORES)
        try:
            by_cell[situation, int(offer)] = {text: float(score) for text, score in scores.items()}
        except OverflowError:  # an integer beyond floats
            raise MessageError(_SCORES) from None
    if not all(math.isfinite(score) for scores in by_cell.values() for score in scores.values()):
        raise MessageError(_SCORES)
    return by_cell


def entry_of(item: object, where: str) -> Entry:
    """Raises MessageError, which begins with `where`, for what is no entry."""
    if not isinstance(item, dict) or set(item) != {"situation", "offer", "text", "source", "score", "tokens"}:
        raise MessageError(f"{where}: wants situation, offer, text, source, score, tokens")
    if item["situation"] not in SITUATIONS:
        raise MessageError(f"{where}: situation is none of {', '.join(SITUATIONS)}")
    if type(item["offer"]) is not int or not 0 <= item["offer"] <= MAX_PERCENT:
        raise MessageError(f"{where}: offer is no whole percentage from 0 to {MAX_PERCENT}")
    if type(item["text"]) is not str or type(item["source"]) is not str:
        raise MessageError(f"{where}: text and source are texts")
    if type(item["score"]) not in (int, float) or item["score"] != item["score"]:
        raise MessageError(f"{where}: score is no number")
    tokens = item["tokens"]
    if tokens is not None and (type(tokens) is not int or tokens < 1):
        raise MessageError(f"{where}: tokens is no number from 1, nor null")
    return Entry(item["situation"], item["offer"], item["text"], item["source"], float(item["score"]), tokens)
