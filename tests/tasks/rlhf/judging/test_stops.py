"""Each sign of reward hacking shows when it is there for a whole window, and not otherwise."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from tasks.config import StopsConfig
from tasks.rlhf.judging import stops

STOPS = StopsConfig(
    window=4,
    kl_errors=4.0,
    kl_margin=0.01,
    max_kl_ratio=4.0,
    min_distinct=0.15,
    max_length_ratio=1.5,
    min_length_ratio=0.4,
    max_validation_drop=1.0,
)
TARGET, TOKENS = 0.15, 30.0
SOUND = {
    "kl": 0.15,
    "kl_error": 0.005,
    "distinct_2": 0.4,
    "tokens": 28.0,
    "validation_score": math.nan,
    "training_score": math.nan,
}


def reason(traces: Sequence[dict[str, float]]) -> str:
    return stops.reason(STOPS, TARGET, TOKENS, traces)


def like(**figures: float) -> dict[str, float]:
    return {**SOUND, **figures}


def test_a_sound_training_goes_on() -> None:
    assert reason([]) == ""
    assert reason([SOUND] * 50) == ""


@pytest.mark.parametrize(
    ("name", "bad", "fine", "words"),
    [
        ("kl", -0.02, -0.005, "below 0"),
        ("kl", 0.61, 0.59, "above 0.600"),
        ("distinct_2", 0.14, 0.16, "distinct-2"),
        ("tokens", 46.0, 44.0, "tokens"),
        ("tokens", 11.0, 13.0, "tokens"),
    ],
)
def test_a_sign_stops_when_it_holds_for_a_window(name: str, bad: float, fine: float, words: str) -> None:
    assert words in reason([SOUND] * 5 + [like(**{name: bad})] * 4)
    assert reason([SOUND] * 5 + [like(**{name: fine})] * 4) == ""
    assert reason([like(**{name: bad})] * 3) == "", "there is no window yet"
    assert reason([SOUND] * 5 + [like(**{name: bad})]) == "", "one iteration is no sign"


def test_a_kl_below_zero_by_chance_is_no_sign() -> None:
    # Four errors of .08 / sqrt(4) are .16.
    assert reason([like(kl=-0.15, kl_error=0.08)] * 4) == ""
    assert "below 0" in reason([like(kl=-0.17, kl_error=0.08)] * 4)


def looked(validation: float, training: float) -> dict[str, float]:
    return like(validation_score=validation, training_score=training)


def test_the_training_rm_rising_while_the_validation_rm_falls_stops() -> None:
    before = [SOUND, looked(1.5, 1.5), SOUND, SOUND]
    assert "validation RM is 1.10 sd below" in reason([*before, SOUND, looked(0.4, 2.0), SOUND, SOUND])
    assert reason([*before, SOUND, looked(0.6, 2.0), SOUND, SOUND]) == "", "it fell by less"
    assert reason([*before, SOUND, looked(0.4, 1.4), SOUND, SOUND]) == "", "both fell: that is no gaming"
    assert reason([*before, looked(0.4, 2.0), SOUND, SOUND, looked(1.2, 2.0)]) == "", "it came back within the window"


def test_the_reference_itself_counts_as_what_the_validation_rm_liked_best() -> None:
    assert "1.20 sd below" in reason([SOUND, SOUND, SOUND, looked(-1.2, 0.5)])


def test_between_two_looks_the_last_one_counts() -> None:
    assert reason([looked(-1.2, 0.5), *[SOUND] * 6])
