"""The shape of ops/messages/cues.yaml. What doesn't fit is refused before a stage runs, by its key.

The order of the entries of a list is part of what is made of it; the order of keys is not.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from retain.message import SITUATIONS


class _Block(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def _covering(known: Collection[str], what: str) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
    """Refuses a mapping whose keys aren't exactly those that are known."""

    def check(mapping: Mapping[str, Any]) -> Mapping[str, Any]:
        if lacking := [key for key in known if key not in mapping]:
            raise ValueError(f"the {what} {lacking[0]!r} is missing")
        if unknown := [key for key in mapping if key not in known]:
            raise ValueError(f"{unknown[0]!r} is no {what}; known are {', '.join(known)}")
        return mapping

    return check


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


class CuePair(_Block):
    first: WordLine
    second: WordLine
    within: Annotated[int, Field(ge=1, le=10)]
    weight: Annotated[float, Field(gt=0, le=1)]


class HarmLists(_Block):
    cues: CueLine
    pairs: tuple[CuePair, ...]


class Harm(_Block):
    guarantee: HarmLists
    pressure: HarmLists
    risk: HarmLists
    protected: HarmLists
    insult: HarmLists
    secrets: HarmLists
    gifts: HarmLists
    reductions: HarmLists


class Manners(_Block):
    courtesy: CueLine
    invitation: CueLine


class WordSets(_Block):
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


class CuesConfig(_Block):
    """ops/messages/cues.yaml: the rule judge's lists. Each line of cues stands under its weight, commas between."""

    harm: Harm
    manners: Manners
    topics: Annotated[dict[str, CueLine], AfterValidator(_covering(SITUATIONS, "situation"))]
    sets: WordSets
