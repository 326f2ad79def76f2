from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from tasks.tabular import calibration


def logistic(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Margins and outcomes that follow them exactly."""
    rng = np.random.default_rng(seed)
    margin = rng.normal(-1.0, 1.5, rows).astype(np.float32)
    return margin, (rng.random(rows) < 1 / (1 + np.exp(-margin.astype(np.float64)))).astype(np.float64)


def test_twisted_margins_become_probabilities() -> None:
    margin, y = logistic(20_000, 1)
    fitted = calibration.isotonic(3 * margin + 5, y)
    truth = 1 / (1 + np.exp(-margin.astype(np.float64)))
    assert np.abs(fitted(3 * margin + 5) - truth).mean() < 0.02
    # Uncalibrated, the same margins are far off.
    assert np.abs(1 / (1 + np.exp(-(3.0 * margin + 5))) - truth).mean() > 0.2


def test_each_step_of_isotonic_regression_is_met_at_its_centre() -> None:
    margin, y = logistic(500, 2)
    fitted = calibration.isotonic(margin, y)
    steps = IsotonicRegression().fit(margin.astype(np.float64), y).predict(margin.astype(np.float64))
    inner = np.unique(steps)[1:-1]
    assert len(inner) > 5
    for step in inner:
        centre = margin[steps == step].astype(np.float64).mean()
        assert fitted(np.array([centre]))[0] == pytest.approx(step, abs=1e-12)


@given(st.integers(0, 10_000), st.integers(20, 300))
def test_scores_rise_with_the_margin_and_stay_off_0_and_1(seed: int, rows: int) -> None:
    margin, y = logistic(rows, seed)
    y[:2] = [0, 1]
    fitted = calibration.isotonic(margin, y)
    assert (np.diff(fitted.margin) > 0).all()
    assert (np.diff(fitted.score) >= 0).all()
    scores = fitted(np.linspace(-50, 50, 101))
    assert (np.diff(scores) >= 0).all()
    assert scores.min() > 0
    assert scores.max() < 1


def test_ece_by_hand() -> None:
    # Bins of .5: scores .1 and .3 against one of two positive, .8 against none, 1.0 with .8 in the last bin.
    y, score = np.array([0.0, 1.0, 0.0, 1.0]), np.array([0.1, 0.3, 0.8, 1.0])
    assert calibration.ece(y, score, 2) == pytest.approx((abs(0.4 - 1.0) + abs(1.8 - 1.0)) / 4)


def test_chance_is_the_ece_of_scores_that_are_right() -> None:
    rng = np.random.default_rng(3)
    score = rng.beta(1, 3, 4000)
    honest = [calibration.ece((rng.random(4000) < score).astype(float), score, 15) for _ in range(50)]
    assert calibration.chance_ece(score, 15, 200, rng) == pytest.approx(np.mean(honest), rel=0.1)
    wrong = calibration.ece((rng.random(4000) < score**2).astype(float), score, 15)
    assert wrong > 3 * np.mean(honest)


def test_reliability_covers_the_truth_and_counts_every_row() -> None:
    margin, y = logistic(30_000, 4)
    score = 1 / (1 + np.exp(-margin.astype(np.float64)))
    bars = calibration.reliability(y, score, 15)
    assert bars["rows"].sum() == 30_000
    inside = (bars["low"] < bars["score"]) & (bars["score"] < bars["high"])
    assert inside.mean() > 0.8
    assert (bars["low"] < bars["rate"]).all()
    assert (bars["rate"] < bars["high"]).all()
    assert len(calibration.reliability(y[:10], np.full(10, 0.5), 15)["rows"]) == 1
