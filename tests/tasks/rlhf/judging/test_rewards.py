"""The shaped reward against sums done by hand, with the weights of exp_001_mvp."""

from __future__ import annotations

import numpy as np
import pytest

from flows.plan import load_experiment
from tasks.config import RewardWeights
from tasks.rlhf.judging.rewards import Scale, shaped

WEIGHTS = load_experiment("exp_001_mvp").stages.ppo_text.rewards


def test_the_experiment_weighs_as_the_playbook_says() -> None:
    assert (WEIGHTS.rm, WEIGHTS.safety, WEIGHTS.brevity) == (1.0, 2.0, 0.5)


@pytest.mark.parametrize(
    ("score", "unsafe", "tokens", "ended", "parts"),
    [
        (1.5, False, 90, True, (1.5, 0.0, 0.25, 0.0)),  # half of 180 tokens
        (1.5, True, 90, True, (1.5, -2.0, 0.25, 0.0)),
        (0.0, False, 180, False, (0.0, 0.0, 0.0, -1.0)),
        (0.0, False, 45, True, (0.0, 0.0, 0.375, 0.0)),
        (7.0, False, 180, True, (4.0, 0.0, 0.0, 0.0)),  # clipped
        (-7.0, True, 180, False, (-4.0, -2.0, 0.0, -1.0)),
    ],
)
def test_rewards_are_those_of_the_formula(
    score: float, unsafe: bool, tokens: int, ended: bool, parts: tuple[float, ...]
) -> None:
    found = shaped(WEIGHTS, score, unsafe, tokens, ended, 180)
    assert (found.rm, found.safety, found.brevity, found.ending) == pytest.approx(parts)
    assert found.total == pytest.approx(sum(parts))


def test_every_weight_weighs_its_own_part() -> None:
    other = RewardWeights(rm=2.0, safety=3.0, brevity=5.0, ending=7.0, clip=1.0)
    found = shaped(other, 4.0, True, 10, False, 40)
    assert (found.rm, found.safety, found.brevity, found.ending) == pytest.approx((2.0, -3.0, 3.75, -7.0))


def test_a_scale_makes_its_own_scores_standard() -> None:
    scores = [1.0, 4.0, 7.0, 12.0]
    scale = Scale.of(scores)
    made = [scale(one) for one in scores]
    assert np.mean(made) == pytest.approx(0)
    assert np.std(made) == pytest.approx(1)
    assert scale(6.0 + scale.sd) == pytest.approx(1)


def test_scores_that_are_all_equal_are_not_divided_by_nothing() -> None:
    assert Scale.of([2.0, 2.0])(3.0) == 1.0
