"""Where cues stand in a text, and how much those that do weigh."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence

from tasks.rlhf.judging.rule_judge.amounts import Amount
from tasks.rlhf.judging.rule_judge.cues import HarmCues, Pair, WeightedCues, WordSet


def saturated(weight: float) -> float:
    """A component of harm, 0 to 1: 0 for nothing, .7 for one clear case, never quite 1: ten are worse than nine."""
    return 1 - math.exp(-1.2 * weight)


def harm_weight(tokens: Sequence[str], told_by: HarmCues, negation: WordSet | None) -> float:
    """Weights of the cues and pairs that occur, each time; with `negation`, where none stands before them."""
    return cue_weight(tokens, told_by.cues, negation) + pair_weight(tokens, told_by.pairs, negation)


def cue_weight(tokens: Sequence[str], cues: WeightedCues, negation: WordSet | None = None) -> float:
    """Weights of the cues that occur, each time. With `negation` one of its words, among the three before, undoes a
    cue."""
    places = defaultdict(list)  # a cue is looked for where its first letter stands
    for place, token in enumerate(tokens):
        places[token[0]].append(place)
    total = 0.0
    for cue, weight in cues.items():
        parts = cue.split()
        for place in places[cue[0]]:
            stands_there = place + len(parts) <= len(tokens) and all(
                matches(token, part) for token, part in zip(tokens[place:], parts)
            )
            if stands_there and not (negation is not None and _denied(tokens, place, cue, negation)):
                total += weight
    return total


def pair_weight(tokens: Sequence[str], pairs: Sequence[Pair], negation: WordSet | None = None) -> float:
    """Weights of the pairs that occur, each time."""
    total = 0.0
    for pair in pairs:
        for place, token in enumerate(tokens):
            if token not in pair.second:
                continue
            if not pair.first & set(itertools.islice(_clause(tokens[:place][-pair.within :]), pair.within)):
                continue
            denied = negation is not None and _denied(tokens, place, token, negation)
            total += 0.0 if denied else pair.weight
    return total


def different_weight(words: Collection[str], cues: WeightedCues) -> float:
    """Weights of the different cues that occur, each once."""
    different = set(words)
    return sum(weight for cue, weight in cues.items() if any(matches(word, cue) for word in different))


def matches(word: str, cue: str) -> bool:
    """Whether a word is what one word of a cue stands for."""
    return word.startswith(cue[:-1]) if cue.endswith("*") else word == cue


def words_around(tokens: Sequence[str], amount: Amount, reach: int) -> Iterator[str]:
    """The words of the amount's own sentence, up to `reach` away."""
    for step, first in ((-1, amount.start - 1), (1, amount.end)):
        for place in range(first, first + step * reach, step):
            if not 0 <= place < len(tokens) or tokens[place] in (".", "!", "?"):
                break
            yield tokens[place]


def _denied(tokens: Sequence[str], place: int, cue: str, negation: WordSet) -> bool:
    """ "no deadline", "can't promise"; a cue that begins with a negation itself is meant."""
    if cue.split()[0] in negation or "never" in cue:
        return False
    return any(token in negation or token.endswith("n't") for token in _clause(tokens[max(0, place - 3) : place]))


def _clause(tokens: Sequence[str]) -> Iterator[str]:
    """The words since the last stop, backwards."""
    for token in reversed(tokens):
        if token in (".", "!", "?", ";", ":", ",", "but"):
            return
        yield token
