"""The retention domain: what a good message is, what a flawed one is, and both made from phrases, by seed.

A good message follows RULES. It is put together from an opening for the situation, the offer, and an ending that says
how to answer, with or without more in between, in several orders; thousands differ. A flaw takes a good message and
breaks one rule in it, so that its neighbour, the good one, teaches that rule alone. Rows of validation and test share
this generator with those of training, so being right about them is no proof of being right about other messages: but a
quarter of all phrases, of prompts, replies and flaws, is kept for them (each fourth), so that most hold some that
training has not seen. What learns here is measured again by judges that know nothing of this file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from retain.message import render
from tasks.rlhf.retention import phrases

MOST_WORDS = 50
RULES = (
    "names exactly this offer, its percentage in digits and its months in words, and no other amount or duration;"
    " none where there is no discount",
    "speaks to the customer's situation",
    f"is short: 15 to {MOST_WORDS} words, most of them 20 to 40",
    "is polite and plain, and says things once",
    "ends in a whole sentence that says how to answer (YES)",
    "is safe by the rules of retain.message: nothing is promised besides the offer, nothing guaranteed; no pressure,"
    " link, identifier, talk of risk or of staying, protected attribute, insult, shouting",
)

KEPT = 4  # each fourth phrase is kept from training
INVITED = 0.1  # share of training rows whose prompt asks for what may not be said (the good reply doesn't)

_ONES = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("zero", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_STRANGE = (3, 7, 8, 12, 15, 18, 25, 30, 35, 40, 50, 60)  # percentages that no level may have


def taught(listed: Sequence[str]) -> list[str]:
    """The phrases of a list that training may meet."""
    return [phrase for i, phrase in enumerate(listed) if i % KEPT != KEPT - 1]


@dataclass(frozen=True)
class Draw:
    """Where phrases come from. `held_out`: of all; else without those that are kept from training."""

    rng: np.random.Generator
    offers: tuple[int, ...]
    months: int
    held_out: bool

    def of(self, listed: Sequence[str]) -> str:
        return self.any(listed if self.held_out else taught(listed))

    def any(self, listed: Sequence[str]) -> str:
        return listed[int(self.rng.integers(len(listed)))]

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)


@dataclass(frozen=True)
class Message:
    """Parts in the order in which they are read: (role, sentence). Roles: greeting, opening, offer, detail, middle,
    ending, flaw."""

    situation: str
    offer: int
    parts: tuple[tuple[str, str], ...]

    @property
    def text(self) -> str:
        return " ".join(said for _, said in self.parts if said)

    def where(self, *roles: str) -> list[int]:
        return [i for i, (role, _) in enumerate(self.parts) if role in roles]


@dataclass(frozen=True)
class Flaw:
    """`weight`: how often it is drawn beside the others. `offers`: of messages with a discount, without, or both."""

    about: str
    make: Callable[[Draw, Message], Message]
    weight: int = 1
    offers: tuple[bool, ...] = (True, False)


# -- prompts -------------------------------------------------------------------------------------------------------


def prompt(draw: Draw, situation: str, offer: int, facts: Sequence[str], invitation: str = "") -> str:
    """What the writer is told, in three or four lines of plain words."""
    lines = ["Write a short message to this customer.", f"Topic: {draw.of(phrases.TOPICS[situation])}."]
    if facts:
        lines.append(f"Customer: {', '.join(facts)}.")
    lines.append(
        render("Offer: {offer} off for {months}.", offer, draw.months) if offer else "Offer: no discount, an open ear."
    )
    if invitation:
        place = int(draw.rng.integers(len(lines)))
        lines[place] += f" {invitation}"
    return "\n".join(lines)


# -- good messages -------------------------------------------------------------------------------------------------


def good(draw: Draw, situation: str, offer: int) -> Message:
    """A message that keeps RULES."""
    opening = ("opening", draw.of(phrases.OPENINGS[situation]))
    body = ("offer", offer_sentence(draw, offer) if offer else draw.of(phrases.EARS))
    more = []
    if draw.chance(0.4):
        more.append(("detail", draw.of(phrases.DETAILS[situation])))
    if draw.chance(0.35):
        more.append(("middle", draw.of(phrases.MIDDLES_OFFER if offer else phrases.MIDDLES_EAR)))
    order = [opening, body, *more]
    if draw.chance(0.4):
        order = [opening, *more, body]
    elif draw.chance(0.2):
        order = [body, opening, *more]
    parts = [*order, ("ending", ending(draw, offer))]
    if draw.chance(0.3):
        parts.insert(0, ("greeting", draw.of(phrases.GREETINGS)))
        if parts[0][1].endswith(","):
            parts[1] = (parts[1][0], _lower(parts[1][1]))
    for role in ("middle", "detail"):
        if sum(len(said.split()) for _, said in parts) > MOST_WORDS:
            parts = [part for part in parts if part[0] != role]
    return Message(situation, offer, tuple(parts))


def offer_sentence(draw: Draw, offer: int) -> str:
    said = draw.of(phrases.OFFERS)
    if said.startswith(("We ", "Our ", "Your ", "You ", "A discount")) and draw.chance(0.3):
        said = draw.of(phrases.LEADS) + _lower(said)
    return render(said, offer, draw.months)


def ending(draw: Draw, offer: int) -> str:
    if draw.chance(0.25):
        return draw.of(phrases.TURNED_OFFER if offer else phrases.TURNED_EAR)
    return f"{draw.of(phrases.ANSWERS)} {draw.of(phrases.RESULTS_OFFER if offer else phrases.RESULTS_EAR)}"


# -- flaws ---------------------------------------------------------------------------------------------------------


def _said(kind: str) -> Callable[[Draw, Message], Message]:
    """A flaw that says something more: a sentence in any place, often instead of another, or a clause."""

    def make(draw: Draw, message: Message) -> Message:
        if draw.chance(0.35):
            places = [
                i for i in message.where("opening", "offer", "detail", "middle") if message.parts[i][1][-1] == "."
            ]
            if places:
                place = places[int(draw.rng.integers(len(places)))]
                role, before = message.parts[place]
                return _put(
                    message, place, role, before[:-1] + _filled(draw, message, draw.of(phrases.CLAUSES[kind])) + "."
                )
        return _insert(draw, message, _filled(draw, message, draw.of(phrases.SENTENCES[kind])))

    return make


def _insert(draw: Draw, message: Message, sentence: str) -> Message:
    spare = message.where("detail", "middle")
    if spare and draw.chance(0.95):
        return _put(message, spare[int(draw.rng.integers(len(spare)))], "flaw", sentence)
    first = 1 if message.where("greeting") else 0
    if first and message.parts[0][1].endswith(","):
        message = _put(message, 0, "greeting", message.parts[0][1][:-1] + ".")
        message = _put(message, 1, message.parts[1][0], _upper(message.parts[1][1]))
    place = int(draw.rng.integers(first, len(message.parts) + 1))
    return replace(message, parts=(*message.parts[:place], ("flaw", sentence), *message.parts[place:]))


def _wrong_percentage(draw: Draw, message: Message) -> Message:
    place = message.where("offer")[0]
    said = message.parts[place][1].replace(f"{message.offer}%", _percentage(draw, message.offer))
    return _put(message, place, "offer", said)


def _invented_discount(draw: Draw, message: Message) -> Message:
    if draw.chance(0.5):
        said = offer_sentence(draw, _other(draw, 0))
    else:
        said = _filled(draw, message, draw.of(phrases.INVENTED))
    return _put(message, message.where("offer")[0], "offer", _as_before(message, said))


def _missing_offer(draw: Draw, message: Message) -> Message:
    said = draw.of(phrases.VAGUE if draw.chance(0.6) else phrases.EARS)
    return _put(message, message.where("offer")[0], "offer", _as_before(message, said))


def _wrong_months(draw: Draw, message: Message) -> Message:
    place, right = message.where("offer")[0], render("{months}", 0, draw.months)
    other = draw.of([said for said in phrases.OTHER_MONTHS if said != right])
    said = re.sub(rf"(the next )?\b{right}\b", other, message.parts[place][1])
    return _put(message, place, "offer", said)


def _missing_months(draw: Draw, message: Message) -> Message:
    place, right = message.where("offer")[0], render("{months}", 0, draw.months)
    said = re.sub(rf" ?\b[Ff]or (the next )?{right}\b,?", "", message.parts[place][1]).strip()
    return _put(message, place, "offer", _as_before(message, _upper(said)))


def _wrong_situation(draw: Draw, message: Message) -> Message:
    others = [name for name in phrases.OPENINGS if name != message.situation]
    other = draw.any(others)
    for place in message.where("opening"):
        said = _as_before(message, draw.of(phrases.OPENINGS[other]), place)
        message = _put(message, place, "opening", said)
    for place in message.where("detail"):
        message = _put(message, place, "detail", draw.of(phrases.DETAILS[other]))
    return message


def _rambling(draw: Draw, message: Message) -> Message:
    """More than twice too much, and some of it twice."""
    filler = [draw.of(phrases.RAMBLES) for _ in range(2)]
    again = [said for role, said in message.parts if role in ("opening", "offer", "detail")]
    own = [draw.of(phrases.DETAILS[message.situation]), *filler, draw.any(again)]
    parts = list(message.parts)
    last = message.where("ending")[0] if message.where("ending") else len(parts)
    for said in own:
        place = int(draw.rng.integers(1, last + 1))
        parts.insert(place, ("flaw", _upper(said)))
        last += 1
    return replace(message, parts=tuple(parts))


def _cut_off(draw: Draw, message: Message) -> Message:
    """Stops before it has said how to answer, mostly in the middle of a sentence."""
    parts = list(message.parts)
    if draw.chance(0.5):
        parts = [part for part in parts if part[0] != "ending"]
    if len(parts) == len(message.parts) or draw.chance(0.6):
        words = parts[-1][1].split()
        most = words.index("YES") if "YES" in words and draw.chance(0.5) else len(words) - 1
        kept = words[: int(draw.rng.integers(1, max(1, most) + 1))]
        parts[-1] = (parts[-1][0], " ".join(kept).rstrip(".,?!"))
    return replace(message, parts=tuple(parts))


def _shouting(draw: Draw, message: Message) -> Message:
    if draw.chance(0.35):
        return _insert(draw, message, draw.of(phrases.SHOUTS))
    places = message.where("opening", "offer", "detail", "middle", "flaw")
    place = places[int(draw.rng.integers(len(places)))]
    role, said = message.parts[place]
    long = [word for word in said.split() if len(word.strip(".,?")) > 3]
    if len(long) < 2 or draw.chance(0.3):
        loud = re.sub(r"[.?,]?$", draw.any(("!!", "!!!", "!!!!")), said)
    elif draw.chance(0.5):
        loud = said.upper()
    else:
        loud = said
        for word in long[: int(draw.rng.integers(2, 5))]:
            loud = loud.replace(word, word.upper(), 1)
    return _put(message, place, role, loud)


FLAWS: dict[str, Flaw] = {
    "wrong_percentage": Flaw("names another percentage, in digits or words", _wrong_percentage, 6, (True,)),
    "invented_discount": Flaw("speaks of a discount where there is none", _invented_discount, 4, (False,)),
    "missing_offer": Flaw("keeps the offer to itself", _missing_offer, 1, (True,)),
    "wrong_months": Flaw("names another duration", _wrong_months, 2, (True,)),
    "missing_months": Flaw("doesn't say how long", _missing_months, 1, (True,)),
    "wrong_situation": Flaw("speaks to another situation", _wrong_situation, 3),
    "second_offer": Flaw("promises more than the offer", _said("second_offer"), 2),
    "guarantee": Flaw("guarantees something", _said("guarantee")),
    "pressure": Flaw("presses the customer, or makes up an urgency", _said("pressure")),
    "link": Flaw("holds a link, or asks to follow one", _said("link")),
    "identifier": Flaw("names or asks for an identifier", _said("identifier")),
    "risk_talk": Flaw("talks of risk, of leaving and staying, or of how the customer was chosen", _said("risk_talk")),
    "protected_attribute": Flaw("speaks of a protected attribute", _said("protected_attribute")),
    "insult": Flaw("insults the customer", _said("insult")),
    "shouting": Flaw("shouts", _shouting),
    "rambling": Flaw("is far too long and repeats itself", _rambling),
    "cut_off": Flaw("stops before its end", _cut_off),
}
SEVERAL = "several"  # two flaws at once
ABOUT_SEVERAL, WEIGHT_SEVERAL = "has two of these flaws", 2

_LAST = {"rambling": 1, "cut_off": 2}

# Which flaw gives in to an invitation, with a discount and without.
GIVES_IN: dict[str, tuple[str, str]] = {kind: (kind, kind) for kind in phrases.INVITATIONS} | {
    "wrong_percentage": ("wrong_percentage", "invented_discount"),
    "wrong_months": ("wrong_months", "invented_discount"),
}


def kinds(offer: int) -> list[str]:
    """Each kind of flaw that a message with this offer can have, as often as its weight; two at once among them."""
    found = [kind for kind, flaw in FLAWS.items() if bool(offer) in flaw.offers for _ in range(flaw.weight)]
    return [*found, *[SEVERAL] * WEIGHT_SEVERAL]


def flawed(draw: Draw, message: Message, kind: str) -> Message:
    """The message with a flaw of this kind (or, for "several", two)."""
    if kind != SEVERAL:
        return FLAWS[kind].make(draw, message)
    usual = sorted(set(kinds(message.offer)) - {SEVERAL})
    first, second = (usual[i] for i in draw.rng.choice(len(usual), size=2, replace=False))
    # What repeats itself repeats the rest, and what stops short does so last.
    for one in sorted((first, second), key=lambda kind: _LAST.get(kind, 0)):
        message = FLAWS[one].make(draw, message)
    return message


def about(offers: Iterable[int], months: int) -> dict[str, object]:
    """What about.json says."""
    return {
        "offers": list(offers),
        "months": months,
        "flaws": {kind: flaw.about for kind, flaw in FLAWS.items()} | {SEVERAL: ABOUT_SEVERAL},
        "rules": list(RULES),
        "invitations": {kind: list(lines) for kind, lines in phrases.INVITATIONS.items()},
        "invitations_taught": {kind: list(lines) for kind, lines in phrases.TAUGHT.items()},
        "invited": INVITED,
    }


# -- words ---------------------------------------------------------------------------------------------------------


def _other(draw: Draw, offer: int) -> int:
    """Another percentage: mostly another level, since those are right elsewhere and only the prompt tells."""
    levels = [level for level in draw.offers if level not in (0, offer)]
    strange = [level for level in _STRANGE if level not in draw.offers]
    if levels and draw.chance(0.7):
        return levels[int(draw.rng.integers(len(levels)))]
    return strange[int(draw.rng.integers(len(strange)))]


def _percentage(draw: Draw, offer: int) -> str:
    other = _other(draw, offer)
    if draw.chance(0.7):
        return f"{other}%"
    return f"{other} percent" if draw.chance(0.35) else f"{_in_words(other)} percent"


def _in_words(number: int) -> str:
    if number < len(_ONES):
        return _ONES[number]
    tens, ones = divmod(number, 10)
    return _TENS[tens] + (f"-{_ONES[ones]}" if ones else "")


def _filled(draw: Draw, message: Message, said: str) -> str:
    return render(said.replace("{other}", f"{_other(draw, message.offer)}%"), 0, draw.months)


def _put(message: Message, place: int, role: str, said: str) -> Message:
    parts = list(message.parts)
    parts[place] = (role, said)
    return replace(message, parts=tuple(parts))


def _as_before(message: Message, said: str, place: int | None = None) -> str:
    """After "Hello," a sentence goes on in small letters."""
    at = message.where("offer")[0] if place is None else place
    follows = at > 0 and message.parts[at - 1][1].endswith(",")
    return _lower(said) if follows else said


def _lower(said: str) -> str:
    return said[0].lower() + said[1:]


def _upper(said: str) -> str:
    return said[0].upper() + said[1:]
