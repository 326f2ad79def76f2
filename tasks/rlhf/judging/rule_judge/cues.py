"""The lists of ops/messages/cues.yaml, made ready for looking up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# The situations that it tells apart; cues.yaml has words for each. Sums run in this order.
SITUATIONS = ("price", "support", "contract", "payment", "new", "default")

WeightedCues = Mapping[str, float]  # stems: "hurr*" is every word that begins so, "last chance" two words in a row
WordSet = frozenset[str]


@dataclass(frozen=True)
class Pair:
    """A word of `first`, and at most `within` words after it one of `second`, say together what neither says alone."""

    first: WordSet
    second: WordSet
    within: int
    weight: float


@dataclass(frozen=True)
class HarmCues:
    """By what one kind of harm is told."""

    cues: WeightedCues
    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class Sets:
    """Words that are looked up one by one; cues.yaml says what each set is for."""

    dates: WordSet
    reduction: WordSet
    increase: WordSet
    bounds: WordSet
    stacking: WordSet
    lasting: WordSet
    past: WordSet
    negation: WordSet
    greetings: WordSet
    small: WordSet
    dangling: WordSet


@dataclass(frozen=True)
class Cues:
    """All lists. `harm`: by kind of harm; `topics`: by situation, in the order of SITUATIONS."""

    harm: Mapping[str, HarmCues]
    courtesy: WeightedCues
    invitation: WeightedCues
    topics: Mapping[str, WeightedCues]
    sets: Sets


def compile_cues(lists: Mapping[str, Any]) -> Cues:
    """The lists as the experiment holds them (tasks.words.CuesConfig has checked them). No key's place matters."""
    return Cues(
        harm={kind: _harm_cues(harm) for kind, harm in lists["harm"].items()},
        courtesy=_weighted(lists["manners"]["courtesy"]),
        invitation=_weighted(lists["manners"]["invitation"]),
        topics={situation: _weighted(lists["topics"][situation]) for situation in SITUATIONS},
        sets=Sets(**{name: _words(words) for name, words in lists["sets"].items()}),
    )


def _harm_cues(harm: Mapping[str, Any]) -> HarmCues:
    pairs = [Pair(_words(p["first"]), _words(p["second"]), p["within"], p["weight"]) for p in harm["pairs"]]
    return HarmCues(_weighted(harm["cues"]), tuple(pairs))


def _weighted(by_weight: Mapping[str, str]) -> dict[str, float]:
    """Cue -> weight, heaviest first: sums of floats depend on their order."""
    heaviest_first = sorted(by_weight.items(), key=lambda item: -float(item[0]))
    return {cue.strip(): float(weight) for weight, cues in heaviest_first for cue in cues.split(",")}


def _words(words: str) -> WordSet:
    return frozenset(words.split())
