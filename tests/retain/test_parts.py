"""What becomes of a part that missed criteria."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from retain.parts import JUDGED_BY, Acceptance, Missed, Part, Standing, shown, standing_of


@pytest.mark.parametrize(
    ("missed", "standing"),
    [
        ([], "served"),
        (["value"], "shadow_only"),
        (["value", "value"], "shadow_only"),
        (["safety"], "left_out"),
        (["value", "safety", "value"], "left_out"),
        ([None], "left_out"),
        (["value", None], "left_out"),
        (["something"], "left_out"),
    ],
)
def test_a_part_stands_where_the_worst_that_it_missed_puts_it(missed: Sequence[str | None], standing: str) -> None:
    assert standing_of(missed) == standing


def part(standing: Standing, *criteria: str) -> Part:
    missed = tuple(Missed(criterion=name, kind="value", verdict=name) for name in criteria)
    return Part(standing=standing, digest="a" * 12, artifact="b" * 12, missed=missed)


def accepted(name: str, *criteria: str, digest: str = "a" * 12) -> Acceptance:
    return Acceptance(part=name, by="Ann", reason="a trial", criteria=criteria, digest=digest)


def test_what_is_served_is_shown_and_the_shadow_once_it_is_accepted() -> None:
    parts = {
        "sft": part("served"),
        "decision": part("shadow_only", "decision.lift_gain", "decision.lift_gain_low"),
        "rlhf": part("left_out", "text_eval.unsafe"),
    }
    every = ("decision.lift_gain", "decision.lift_gain_low")
    assert shown(parts) == {"sft"}
    assert shown(parts, [accepted("decision", *every)]) == {"sft", "decision"}
    assert shown(parts, [accepted("sft"), accepted("decision", *every, "rm.auc")]) == {"sft", "decision"}
    for lacking in (
        accepted("decision", "decision.lift_gain"),
        accepted("decision", *every, digest="b" * 12),
        accepted("sft", *every),
        accepted("rlhf", "text_eval.unsafe"),
    ):
        assert shown(parts, [lacking]) == {"sft"}
    halves = [accepted("decision", criterion) for criterion in every]
    assert shown(parts, halves) == {"sft"}


def test_rlhf_is_judged_by_what_it_was_trained_from_as_well() -> None:
    assert set(JUDGED_BY["sft"]) < set(JUDGED_BY["rlhf"])
