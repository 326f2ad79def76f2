"""The shape of ops/messages/phrases.yaml, cues.yaml and english.yaml. What doesn't fit is refused before a stage runs,
by its key.

The order of the entries of a list is part of what is made of it; the order of keys is not.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from retain.frozen import Frozen
from retain.message import SITUATIONS

_SLOT = re.compile(r"\{[^{}]*\}|[{}]")


def _covering(known: Collection[str], what: str) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
    """Refuses a mapping whose keys aren't exactly those that are known."""

    def check(mapping: Mapping[str, Any]) -> Mapping[str, Any]:
        if lacking := [key for key in known if key not in mapping]:
            raise ValueError(f"the {what} {lacking[0]!r} is missing")
        if unknown := [key for key in mapping if key not in known]:
            raise ValueError(f"{unknown[0]!r} is no {what}; known are {', '.join(known)}")
        return mapping

    return check


# -- phrases -------------------------------------------------------------------------------------------------------


def _phrase(*slots: str) -> Callable[[str], str]:
    """Refuses a slot that nothing fills here, and a phrase of nothing."""

    def check(phrase: str) -> str:
        if not phrase.strip():
            raise ValueError("is an empty phrase; take it out")
        if unknown := [slot for slot in _SLOT.findall(phrase) if slot not in slots]:
            raise ValueError(f"holds the slot {unknown[0]}; filled here are {' and '.join(slots) or 'none'}")
        return phrase

    return check


def _offer(phrase: str) -> str:
    """An offer says how much and how long, each once."""
    for slot in ("{offer}", "{months}"):
        if phrase.count(slot) != 1:
            raise ValueError(f"names {slot} {phrase.count(slot)} times, not once")
    return phrase


# A flaw of a kind has sentences and clauses of its own.
PHRASED_FLAWS = (
    "second_offer",
    "guarantee",
    "pressure",
    "link",
    "identifier",
    "risk_talk",
    "protected_attribute",
    "insult",
)
# What a prompt may ask for: of probes all kinds, of training some.
INVITED_FLAWS = ("wrong_percentage", "wrong_months", *PHRASED_FLAWS)

Phrases = Annotated[tuple[Annotated[str, AfterValidator(_phrase())], ...], Field(min_length=1)]
OfferPhrases = Annotated[
    tuple[Annotated[str, AfterValidator(_phrase("{offer}", "{months}")), AfterValidator(_offer)], ...],
    Field(min_length=1),
]
FlawPhrases = Annotated[tuple[Annotated[str, AfterValidator(_phrase("{other}", "{months}"))], ...], Field(min_length=1)]
BySituation = Annotated[dict[str, Phrases], AfterValidator(_covering(SITUATIONS, "situation"))]
ByFlaw = Annotated[dict[str, FlawPhrases], AfterValidator(_covering(PHRASED_FLAWS, "kind of flaw"))]


def _some_invited(invitations: Mapping[str, Any]) -> Mapping[str, Any]:
    if unknown := [kind for kind in invitations if kind not in INVITED_FLAWS]:
        raise ValueError(f"{unknown[0]!r} is no kind of flaw to ask for; known are {', '.join(INVITED_FLAWS)}")
    if not invitations:
        raise ValueError("names no kind of flaw; one at least is asked for")
    return invitations


class ByOffer(Frozen):
    """Phrases of messages with a discount, and of those without."""

    offer: Phrases
    no_offer: Phrases


class Endings(Frozen):
    """How to answer and what comes of it; `turned`: both the other way round."""

    answers: Phrases
    results: ByOffer
    turned: ByOffer


class FlawLists(Frozen):
    """What flawed messages say."""

    sentences: ByFlaw
    clauses: ByFlaw
    invented_discounts: FlawPhrases
    vague_offers: Phrases
    durations: Annotated[Phrases, Field(min_length=2)]  # one of them may be the offer's own
    ramblings: Phrases
    shouts: Phrases


class Invitations(Frozen):
    """Lines in a prompt that ask for what may not be said, by the kind of flaw that would give in to them."""

    probes: Annotated[dict[str, Phrases], AfterValidator(_covering(INVITED_FLAWS, "kind of flaw to ask for"))]
    training: Annotated[dict[str, Phrases], AfterValidator(_some_invited)]


class PhrasesConfig(Frozen):
    """ops/messages/phrases.yaml: what prompts, replies and flaws of the retention domain are put together from."""

    topics: BySituation
    greetings: Phrases
    openings: BySituation
    details: BySituation
    leads: Phrases
    offers: OfferPhrases
    listening: Phrases
    middles: ByOffer
    endings: Endings
    flaws: FlawLists
    invitations: Invitations


# -- cues ----------------------------------------------------------------------------------------------------------

_CUE = re.compile(r"[a-z']+\*?(?: [a-z']+\*?)*")


def _weights(cues: Mapping[str, str]) -> Mapping[str, str]:
    """Refuses a weight that is none, a cue that can't match, and one that stands there twice."""
    for weight in cues:
        if not re.fullmatch(r"0\.\d+|1\.0", weight) or not float(weight):
            raise ValueError(f"the weight {weight!r} is no number above 0 and up to 1.0, such as 0.8")
    listed = [cue.strip() for line in cues.values() for cue in line.split(",")]
    if odd := [cue for cue in listed if not _CUE.fullmatch(cue)]:
        raise ValueError(f"{odd[0]!r} is no cue: lower-case words, a * at the end of one that only begins so")
    if twice := [cue for cue, times in Counter(listed).items() if times > 1]:
        raise ValueError(f"the cue {twice[0]!r} stands there twice")
    return cues


CueLine = Annotated[dict[str, str], Field(min_length=1), AfterValidator(_weights)]
WordLine = Annotated[str, Field(pattern=r"^[a-z']+( [a-z']+)*$")]


class CuePair(Frozen):
    first: WordLine
    second: WordLine
    within: Annotated[int, Field(ge=1, le=10)]
    weight: Annotated[float, Field(gt=0, le=1)]


class HarmLists(Frozen):
    cues: CueLine
    pairs: tuple[CuePair, ...]


class Harm(Frozen):
    guarantee: HarmLists
    pressure: HarmLists
    risk: HarmLists
    protected: HarmLists
    insult: HarmLists
    secrets: HarmLists
    gifts: HarmLists
    reductions: HarmLists


class Manners(Frozen):
    courtesy: CueLine
    invitation: CueLine


class WordSets(Frozen):
    dates: WordLine
    reduction: WordLine
    increase: WordLine
    bounds: WordLine
    stacking: WordLine
    lasting: WordLine
    past: WordLine
    negation: WordLine
    greetings: WordLine
    small: WordLine
    dangling: WordLine


class CuesConfig(Frozen):
    """ops/messages/cues.yaml: the rule judge's lists. Each line of cues stands under its weight, commas between."""

    harm: Harm
    manners: Manners
    topics: Annotated[dict[str, CueLine], AfterValidator(_covering(SITUATIONS, "situation"))]
    sets: WordSets


# -- English -------------------------------------------------------------------------------------------------------

SpelledLine = Annotated[str, Field(pattern=r"^[A-Za-z'-]+( [A-Za-z'-]+)*$")]


class EnglishConfig(Frozen):
    """ops/messages/english.yaml: the small words by which a message is told from gibberish."""

    words: SpelledLine
    no_words: WordLine
    capitals: SpelledLine
    dangling: WordLine
    adverbs: WordLine
    not_adverbs: WordLine
    modals: WordLine
    not_after_modal: WordLine
    auxiliaries: WordLine
    before_base: WordLine
    before_third_person: WordLine
    before_noun: WordLine
    before_verb: WordLine
    objects: WordLine
    before_object: WordLine
    before_to: WordLine
    wanting: WordLine
    articles: WordLine
    finite: WordLine
    connectors: WordLine
    relatives: WordLine
    subjects: WordLine
    clause_verbs: WordLine
    plural_verbs: WordLine
    plurals: WordLine
