from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from tasks.tabular import calibration, measures


def sample(rows: int, seed: int, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    score = rng.beta(1, 2, rows)
    y = (rng.random(rows) < score).astype(np.float64)
    y[:2] = [0, 1]
    return y, np.round(score, 1) if ties else score


def reference(y: np.ndarray, score: np.ndarray) -> dict[str, float]:
    return {
        "auc": metrics.roc_auc_score(y, score),
        "average_precision": metrics.average_precision_score(y, score),
        "brier": metrics.brier_score_loss(y, score),
        "ece": calibration.ece(y, score, 15),
        "log_loss": metrics.log_loss(y, np.clip(score, 1e-15, 1 - 1e-15)),
    }


@given(st.integers(0, 10_000), st.integers(4, 200), st.booleans())
def test_measures_are_scikit_learns(seed: int, rows: int, ties: bool) -> None:
    y, score = sample(rows, seed, ties)
    found = measures.measure(y, score, 15, 100, 200, np.random.default_rng(0))
    for name, expected in reference(y, score).items():
        assert found[name]["value"] == pytest.approx(expected, abs=1e-9)


@given(st.integers(0, 10_000), st.booleans())
@settings(max_examples=30)
def test_counting_rows_is_resampling_them(seed: int, ties: bool) -> None:
    y, score = sample(60, seed, ties)
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, 60, 60)
    drawn[:2] = [0, 1]  # both classes
    counts = np.bincount(drawn, minlength=60)
    found = measures.Sorted(y, score, 15).measures(counts[None, :])
    for name, expected in reference(y[drawn], score[drawn]).items():
        assert found[name][0] == pytest.approx(expected, abs=1e-9)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    # AUC of normal scores half a standard deviation apart in each class: Phi(1 / sqrt 2).
    truth, covered = 0.7602, 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        y = (rng.random(600) < 0.4).astype(np.float64)
        margin = rng.normal(0, 1, 600) + y
        low, high = measures.measure(y, 1 / (1 + np.exp(-margin)), 15, 200, 200, rng)["auc"]["ci"]
        covered += low < truth < high
    assert covered >= 52  # 95 % of 60 is 57; below 52 happens once in 100 times


def test_an_interval_holds_its_own_value_and_narrows_with_rows() -> None:
    widths = []
    for rows in (300, 4800):
        found = measures.measure(*sample(rows, 1), 15, 300, 200, np.random.default_rng(1))
        for name in measures.NAMES:
            low, high = found[name]["ci"]
            assert low <= found[name]["value"] <= high
        widths.append(found["auc"]["ci"][1] - found["auc"]["ci"][0])
    assert widths[1] == pytest.approx(widths[0] / 4, rel=0.35)


def test_one_class_leaves_out_what_needs_two() -> None:
    found = measures.measure(np.zeros(50), np.linspace(0, 0.5, 50), 15, 100, 200, np.random.default_rng(0))
    assert set(found) == {"brier", "ece", "log_loss", "rows"}
    assert found["rows"] == {"value": 50.0}


def test_the_same_seed_measures_the_same() -> None:
    y, score = sample(500, 5)
    first, again = (measures.measure(y, score, 15, 150, 200, np.random.default_rng(9)) for _ in range(2))
    assert first == again
    assert first["ece"]["chance"] > 0


def test_curves_end_where_they_must() -> None:
    y, score = sample(5000, 6)
    x, height = measures.roc(y, score)
    assert (x[0], height[0], x[-1], height[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(height, x) == pytest.approx(metrics.roc_auc_score(y, score), abs=0.003)
    recall, precision = measures.precision_recall(y, score)
    assert recall[-1] == 1
    assert precision[-1] == pytest.approx(y.mean())
    assert len(x) <= 201
