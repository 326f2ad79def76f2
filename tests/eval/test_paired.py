"""Differences of two models on the same rows, and their intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import brier_score_loss, roc_auc_score

from eval.paired import Difference, auc_difference, brier_difference, differences
from retain.intervals import bootstrap

Floats = NDArray[np.float64]


def sample(rows: int, noise: float, seed: int = 1) -> tuple[Floats, Floats, Floats]:
    """Outcomes, a model that knows their probabilities, and one that sees them through noise; with ties."""
    rng = np.random.default_rng(seed)
    margin = rng.normal(-1, 1.2, rows)
    y = (rng.random(rows) < 1 / (1 + np.exp(-margin))).astype(np.float64)
    worse = margin + noise * rng.normal(size=rows)
    exact, noisy = (np.round(1 / (1 + np.exp(-each)), 2) for each in (margin, worse))
    return y, exact, noisy


def test_the_measures_are_those_of_scikit_learn() -> None:
    y, exact, noisy = sample(700, 1.0)
    auc, brier = differences(y, exact, noisy)
    assert (auc.before, auc.now) == pytest.approx([roc_auc_score(y, each) for each in (exact, noisy)])
    assert (brier.before, brier.now) == pytest.approx([brier_score_loss(y, each) for each in (exact, noisy)])


def test_the_intervals_are_as_wide_as_a_bootstrap_s() -> None:
    y, exact, noisy = sample(2_000, 0.4)
    auc, brier = differences(y, exact, noisy)
    rng = np.random.default_rng(2)

    def of_auc(drawn: NDArray[np.int64]) -> Floats:
        return np.array([roc_auc_score(y[row], noisy[row]) - roc_auc_score(y[row], exact[row]) for row in drawn])

    def of_brier(drawn: NDArray[np.int64]) -> Floats:
        return np.asarray(((noisy - y) ** 2 - (exact - y) ** 2)[drawn].mean(axis=1))

    for found, statistic in ((auc, of_auc), (brier, of_brier)):
        low, high = bootstrap(statistic, len(y), 400, rng)
        assert found.high - found.low == pytest.approx(high - low, rel=0.15)
        assert (found.low, found.high) == pytest.approx((low, high), abs=0.2 * (high - low))


def test_the_same_scores_differ_by_nothing() -> None:
    y, exact, _ = sample(100, 0.0)
    for difference in differences(y, exact, exact.copy()):
        assert (difference.low, difference.high, difference.within(0.0001)) == (0.0, 0.0, True)


def test_a_model_with_noise_is_not_within_a_small_margin() -> None:
    y, exact, noisy = sample(2_000, 1.5)
    assert [each.within(0.01) for each in differences(y, exact, noisy)] == [False, False]
    assert [each.within(0.01) for each in differences(y, noisy, exact)] == [True, True]
    few = slice(0, 40)  # on so few rows the better one isn't told to be no worse
    assert [each.within(0.01) for each in differences(y[few], noisy[few], exact[few])] != [True, True]


@pytest.mark.parametrize(
    ("rows", "share", "passes"), [(2_100, 0.3, 0.03), (2_100, 0.005, 0.05), (2_100, 0.002, 0.08), (12_000, 0.002, 0.06)]
)
def test_how_often_a_loss_of_just_the_margin_passes_grows_where_it_sits_in_few_rows(
    rows: int, share: float, passes: float
) -> None:
    """As within() and docs/CONTAINERS.md say."""
    rng, y, margin = np.random.default_rng(7), np.zeros(rows), 0.002
    damaged = np.full(rows, math.sqrt(margin / share))
    found = [
        brier_difference(y, y, np.where(rng.random(rows) < share, damaged, y)).within(margin) for _ in range(4_000)
    ]
    assert np.mean(found) == pytest.approx(passes, abs=0.012)


@pytest.mark.parametrize(
    ("low", "high", "more_is_better", "within"),
    [
        (-0.009, -0.001, True, True),  # worse, but by less than the margin
        (-0.011, 0.05, True, False),  # perhaps better, but it isn't known to be no worse
        (-0.01, 0.0, True, False),
        (0.001, 0.009, False, True),
        (-0.05, 0.011, False, False),
        (0.0, 0.01, False, False),
        (math.nan, math.nan, True, False),
        (math.nan, math.nan, False, False),
        (0.0, 0.0, True, True),
    ],
)
def test_the_whole_interval_has_to_be_within_the_margin(
    low: float, high: float, more_is_better: bool, within: bool
) -> None:
    assert Difference("it", 0.5, 0.5, low, high, more_is_better).within(0.01) is within


def test_how_often_one_that_is_worse_by_its_margin_passes() -> None:
    """In a fortieth of all samples: of 300 rows of a model with noise and one with more, whose true distance is known
    from 400,000 rows."""

    def scores(rows: int, rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
        margin = rng.normal(size=rows)
        y = (rng.random(rows) < 1 / (1 + np.exp(-margin))).astype(np.float64)
        one, other = (1 / (1 + np.exp(-margin - size * rng.normal(size=rows))) for size in (0.5, 0.7))
        return y, one, other

    auc, brier = differences(*scores(400_000, np.random.default_rng(1)))
    margins = auc.before - auc.now, brier.now - brier.before
    assert min(margins) > 0.005
    seen = [
        [each.within(margin) for each, margin in zip(differences(*scores(300, np.random.default_rng(seed))), margins)]
        for seed in range(400)
    ]
    shares = np.mean(seen, axis=0)
    assert ((shares > 0.005) & (shares < 0.055)).all(), shares


def test_one_class_is_refused() -> None:
    with pytest.raises(ValueError, match="two rows of each class"):
        differences(np.array([0.0, 0, 0, 1]), np.full(4, 0.5), np.full(4, 0.5))


def test_it_says_both_values_and_the_interval() -> None:
    y, exact, noisy = sample(2_000, 1.5)
    assert str(auc_difference(y, exact, noisy)).startswith(f"AUC {roc_auc_score(y, exact):.4f} -> ")
