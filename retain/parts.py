"""The parts of a release, and what becomes of one that missed criteria.

A part that met all gating criteria is `served`. One that missed some of value alone, which say how much it brings, is
`shadow_only`: it lies in the release, and what it would decide or say is computed and logged, but no customer is shown
that unless a person accepted the part. One that missed a criterion of safety, which says what it must never do, is
`left_out`: it is not in the release. A criterion of neither kind counts as one of safety.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from retain.frozen import Frozen

# Each part of a release, with the stages whose criteria decide about it. RLHF begins at what SFT reached: where SFT
# missed a criterion, so did what was trained from it.
JUDGED_BY = {
    "risk": ("risk",),
    "accept": ("accept",),
    "decision": ("decision",),
    "sft": ("sft",),
    "rlhf": ("sft", "rm", "text_eval", "messages"),
}
# Without these there is nothing to serve: where one missed a criterion of any kind there is no release.
REQUIRED = ("risk", "accept")

Standing = Literal["served", "shadow_only", "left_out"]
# Why no customer is shown what a part that writes messages has: where the part stands, what people said of the text.
Withheld = Literal["left_out", "damaged", "shadow_only", "unread", "rejected", "no_message"]
VALUE, SAFETY = KINDS = ("value", "safety")  # of the criteria that decide about parts

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
Words = Annotated[str, Field(min_length=1)]


class Missed(Frozen):
    """A gating criterion that a part missed: its "stage.metric", and in `verdict` its value and limit, in words."""

    criterion: Words
    kind: str | None
    verdict: Words


class Part(Frozen):
    """What release.json says of a part. `digest` is of its files as the release has them, `artifact` of those that its
    stage made: they differ for a bank of which the guard dropped messages."""

    standing: Standing
    digest: Digest
    artifact: Digest
    missed: tuple[Missed, ...]


class Acceptance(Frozen):
    """That a person lets customers be shown a part that is `shadow_only`: who, why, for which missed criteria
    ("stage.metric"), and for which digest of the part alone."""

    part: Words
    by: Words
    reason: Words
    criteria: tuple[str, ...]
    digest: Digest


_PARTS = TypeAdapter(dict[str, Part])


def read_parts(release: bytes) -> dict[str, Part]:
    """What the bytes of a release.json say of its parts. Raises ValueError, in one line."""
    try:
        about = json.loads(release)
    except ValueError:
        raise ValueError("is no JSON") from None
    return parts_of(about.get("parts") if isinstance(about, dict) else None)


def parts_of(content: object) -> dict[str, Part]:
    """What release.json has as `parts`. Raises ValueError, in one line."""
    try:
        parts = _PARTS.validate_json(json.dumps(content))
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, ('parts', *first['loc'])))}: {first['msg']}") from None
    if parts.keys() != JUDGED_BY.keys():
        raise ValueError(f"its parts are {', '.join(parts)}, not {', '.join(JUDGED_BY)}")
    return {part: parts[part] for part in JUDGED_BY}  # the file has its keys by letter


def standing_of(missed: Iterable[str | None]) -> Standing:
    """Of a part that missed gating criteria of these kinds."""
    kinds = set(missed)
    if not kinds:
        return "served"
    return "shadow_only" if kinds == {VALUE} else "left_out"


def shown(parts: Mapping[str, Part], accepted: Iterable[Acceptance] = ()) -> frozenset[str]:
    """Names of the parts that customers may be shown: those that are served, and those in the shadow that a person
    accepted as they are, with all that they missed."""
    accepted = tuple(accepted)
    return frozenset(
        name
        for name, part in parts.items()
        if part.standing == "served"
        or (part.standing == "shadow_only" and any(_accepts(acceptance, name, part) for acceptance in accepted))
    )


def _accepts(acceptance: Acceptance, name: str, part: Part) -> bool:
    return (
        acceptance.part == name
        and acceptance.digest == part.digest
        and {missed.criterion for missed in part.missed} <= set(acceptance.criteria)
    )
