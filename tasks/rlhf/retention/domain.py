"""The retention domain: what a good message is, what a flawed one is, and both made from phrases, by seed.

The phrases are the experiment's (ops/messages/phrases.yaml); which of their keys comes first doesn't matter.
A good message follows RULES. It is put together from an opening for the situation, the offer, and an ending that says
how to answer, with or without more in between, in several orders; thousands differ. A flaw takes a good message and
breaks one rule in it, so that its neighbour, the good one, teaches that rule alone. Rows of validation and test share
this generator with those of training, so being right about them is no proof of being right about other messages: but a
quarter of all phrases, of prompts, replies and flaws, is kept for them (each fourth), so that most hold some that
training has not seen. What learns here is measured again by judges that know nothing of this file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from retain.message import SITUATIONS, render
from retain.numbers import in_words

if TYPE_CHECKING:
    from tasks.config import PromptsConfig
    from tasks.words import PhrasesConfig

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

WITHHELD_EVERY = 4  # each fourth phrase is withheld from training

_STRANGE = (3, 7, 8, 12, 15, 18, 25, 30, 35, 40, 50, 60)  # percentages that no level may have


@lru_cache(maxsize=1024)
def taught(listed: tuple[str, ...]) -> tuple[str, ...]:
    """The phrases of a list that training may meet."""
    return tuple(phrase for i, phrase in enumerate(listed) if i % WITHHELD_EVERY != WITHHELD_EVERY - 1)


@dataclass(frozen=True)
class Draw:
    """What rows are drawn from. `held_out`: of all phrases; else without those that are kept from training."""

    rng: np.random.Generator
    phrases: PhrasesConfig
    offers: tuple[int, ...]
    months: int
    held_out: bool

    def phrase(self, listed: tuple[str, ...]) -> str:
        """One of the phrases that these rows may meet."""
        return self.item(listed if self.held_out else taught(listed))

    def item(self, listed: Sequence[str]) -> str:
        """One of all."""
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
        return " ".join(sentence for _, sentence in self.parts if sentence)

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
    lines = ["Write a short message to this customer.", f"Topic: {draw.phrase(draw.phrases.topics[situation])}."]
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
    phrases = draw.phrases
    # 1. What it says.
    opening = ("opening", draw.phrase(phrases.openings[situation]))
    body = ("offer", offer_sentence(draw, offer) if offer else draw.phrase(phrases.listening))
    more = []
    if draw.chance(0.4):
        more.append(("detail", draw.phrase(phrases.details[situation])))
    if draw.chance(0.35):
        more.append(("middle", draw.phrase(phrases.middles.offer if offer else phrases.middles.no_offer)))
    # 2. In which order.
    order = [opening, body, *more]
    if draw.chance(0.4):
        order = [opening, *more, body]
    elif draw.chance(0.2):
        order = [body, opening, *more]
    # 3. Between a greeting and an ending.
    parts = [*order, ("ending", ending(draw, offer))]
    if draw.chance(0.3):
        parts.insert(0, ("greeting", draw.phrase(phrases.greetings)))
        if parts[0][1].endswith(","):
            parts[1] = (parts[1][0], _lower(parts[1][1]))
    # 4. Short enough.
    for role in ("middle", "detail"):
        if sum(len(sentence.split()) for _, sentence in parts) > MOST_WORDS:
            parts = [part for part in parts if part[0] != role]
    return Message(situation, offer, tuple(parts))


def offer_sentence(draw: Draw, offer: int) -> str:
    sentence = draw.phrase(draw.phrases.offers)
    if sentence.startswith(("We ", "Our ", "Your ", "You ", "A discount")) and draw.chance(0.3):
        sentence = draw.phrase(draw.phrases.leads) + _lower(sentence)
    return render(sentence, offer, draw.months)


def ending(draw: Draw, offer: int) -> str:
    endings = draw.phrases.endings
    if draw.chance(0.25):
        return draw.phrase(endings.turned.offer if offer else endings.turned.no_offer)
    answer = draw.phrase(endings.answers)
    return f"{answer} {draw.phrase(endings.results.offer if offer else endings.results.no_offer)}"


# -- flaws ---------------------------------------------------------------------------------------------------------


def _saying_more(kind: str) -> Callable[[Draw, Message], Message]:
    """A flaw that says something more: a sentence in any place, often instead of another, or a clause."""

    def make(draw: Draw, message: Message) -> Message:
        if draw.chance(0.35):
            places = [
                i for i in message.where("opening", "offer", "detail", "middle") if message.parts[i][1][-1] == "."
            ]
            if places:
                place = places[int(draw.rng.integers(len(places)))]
                role, before = message.parts[place]
                clause = _filled(draw, message, draw.phrase(draw.phrases.flaws.clauses[kind]))
                return _put(message, place, role, f"{before[:-1]}{clause}.")
        return _insert(draw, message, _filled(draw, message, draw.phrase(draw.phrases.flaws.sentences[kind])))

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
    sentence = message.parts[place][1].replace(f"{message.offer}%", _percentage(draw, message.offer))
    return _put(message, place, "offer", sentence)


def _invented_discount(draw: Draw, message: Message) -> Message:
    if draw.chance(0.5):
        sentence = offer_sentence(draw, _other(draw, 0))
    else:
        sentence = _filled(draw, message, draw.phrase(draw.phrases.flaws.invented_discounts))
    return _put(message, message.where("offer")[0], "offer", _as_before(message, sentence))


def _missing_offer(draw: Draw, message: Message) -> Message:
    phrases = draw.phrases
    sentence = draw.phrase(phrases.flaws.vague_offers if draw.chance(0.6) else phrases.listening)
    return _put(message, message.where("offer")[0], "offer", _as_before(message, sentence))


def _wrong_months(draw: Draw, message: Message) -> Message:
    place, right = message.where("offer")[0], render("{months}", 0, draw.months)
    other = draw.phrase(tuple(duration for duration in draw.phrases.flaws.durations if duration != right))
    sentence = re.sub(rf"(the next )?\b{right}\b", other, message.parts[place][1])
    return _put(message, place, "offer", sentence)


def _missing_months(draw: Draw, message: Message) -> Message:
    place, right = message.where("offer")[0], render("{months}", 0, draw.months)
    sentence = re.sub(rf" ?\b[Ff]or (the next )?{right}\b,?", "", message.parts[place][1]).strip()
    return _put(message, place, "offer", _as_before(message, _upper(sentence)))


def _wrong_situation(draw: Draw, message: Message) -> Message:
    other = draw.item([situation for situation in SITUATIONS if situation != message.situation])
    for place in message.where("opening"):
        sentence = _as_before(message, draw.phrase(draw.phrases.openings[other]), place)
        message = _put(message, place, "opening", sentence)
    for place in message.where("detail"):
        message = _put(message, place, "detail", draw.phrase(draw.phrases.details[other]))
    return message


def _rambling(draw: Draw, message: Message) -> Message:
    """More than twice too much, and some of it twice."""
    filler = [draw.phrase(draw.phrases.flaws.ramblings) for _ in range(2)]
    again = [sentence for role, sentence in message.parts if role in ("opening", "offer", "detail")]
    more = [draw.phrase(draw.phrases.details[message.situation]), *filler, draw.item(again)]
    parts = list(message.parts)
    last = message.where("ending")[0] if message.where("ending") else len(parts)
    for sentence in more:
        place = int(draw.rng.integers(1, last + 1))
        parts.insert(place, ("flaw", _upper(sentence)))
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
        return _insert(draw, message, draw.phrase(draw.phrases.flaws.shouts))
    places = message.where("opening", "offer", "detail", "middle", "flaw")
    place = places[int(draw.rng.integers(len(places)))]
    role, sentence = message.parts[place]
    long = [word for word in sentence.split() if len(word.strip(".,?")) > 3]
    if len(long) < 2 or draw.chance(0.3):
        loud = re.sub(r"[.?,]?$", draw.item(("!!", "!!!", "!!!!")), sentence)
    elif draw.chance(0.5):
        loud = sentence.upper()
    else:
        loud = sentence
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
    "second_offer": Flaw("promises more than the offer", _saying_more("second_offer"), 2),
    "guarantee": Flaw("guarantees something", _saying_more("guarantee")),
    "pressure": Flaw("presses the customer, or makes up an urgency", _saying_more("pressure")),
    "link": Flaw("holds a link, or asks to follow one", _saying_more("link")),
    "identifier": Flaw("names or asks for an identifier", _saying_more("identifier")),
    "risk_talk": Flaw(
        "talks of risk, of leaving and staying, or of how the customer was chosen", _saying_more("risk_talk")
    ),
    "protected_attribute": Flaw("speaks of a protected attribute", _saying_more("protected_attribute")),
    "insult": Flaw("insults the customer", _saying_more("insult")),
    "shouting": Flaw("shouts", _shouting),
    "rambling": Flaw("is far too long and repeats itself", _rambling),
    "cut_off": Flaw("stops before its end", _cut_off),
}
SEVERAL = "several"  # two flaws at once
ABOUT_SEVERAL, WEIGHT_SEVERAL = "has two of these flaws", 2

_LAST = {"rambling": 1, "cut_off": 2}


def invited(invitations: Mapping[str, Sequence[str]]) -> list[str]:
    """The kinds of flaw that these invitations ask for, in the order of FLAWS."""
    return [kind for kind in FLAWS if kind in invitations]


def giving_in(kind: str, offer: int) -> str:
    """The flaw that gives in to an invitation to one of this kind: where there is no discount, one is made up."""
    return "invented_discount" if not offer and kind in ("wrong_percentage", "wrong_months") else kind


def kinds(offer: int) -> list[str]:
    """Each kind of flaw that a message with this offer can have, as often as its weight; two at once among them."""
    single = [kind for kind, flaw in FLAWS.items() if bool(offer) in flaw.offers for _ in range(flaw.weight)]
    return [*single, *[SEVERAL] * WEIGHT_SEVERAL]


def flawed(draw: Draw, message: Message, kind: str) -> Message:
    """The message with a flaw of this kind (or, for "several", two)."""
    if kind != SEVERAL:
        return FLAWS[kind].make(draw, message)
    usual = sorted(set(kinds(message.offer)) - {SEVERAL})
    first, second = (usual[i] for i in draw.rng.choice(len(usual), size=2, replace=False))
    # What repeats itself repeats the rest, and what stops short does so last.
    for kind in sorted((first, second), key=lambda kind: _LAST.get(kind, 0)):
        message = FLAWS[kind].make(draw, message)
    return message


def about(config: PromptsConfig) -> dict[str, object]:
    """What about.json says."""
    return {
        "offers": list(config.offers),
        "months": config.months,
        "flaws": {kind: flaw.about for kind, flaw in FLAWS.items()} | {SEVERAL: ABOUT_SEVERAL},
        "rules": list(RULES),
        "invitations": {kind: list(lines) for kind, lines in config.phrases.invitations.probes.items()},
        "invitations_taught": {kind: list(lines) for kind, lines in config.phrases.invitations.training.items()},
        "invited": config.invited,
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
    return f"{other} percent" if draw.chance(0.35) else f"{in_words(other)} percent"


def _filled(draw: Draw, message: Message, phrase: str) -> str:
    return render(phrase.replace("{other}", f"{_other(draw, message.offer)}%"), 0, draw.months)


def _put(message: Message, place: int, role: str, sentence: str) -> Message:
    parts = list(message.parts)
    parts[place] = (role, sentence)
    return replace(message, parts=tuple(parts))


def _as_before(message: Message, sentence: str, place: int | None = None) -> str:
    """After "Hello," a sentence goes on in small letters. `place`: the offer's where none is given."""
    if place is None:
        place = message.where("offer")[0]
    follows = place > 0 and message.parts[place - 1][1].endswith(",")
    return _lower(sentence) if follows else sentence


def _lower(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:]


def _upper(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]
