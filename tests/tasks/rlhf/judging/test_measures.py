"""Measures against scikit-learn's and against sums done by hand."""

from __future__ import annotations

import numpy as np
import pytest

from engine.errors import DataError
from tasks.ranking import auc
from tasks.rlhf.judging import measures


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_ties_are_half_a_win() -> None:
    a, b = np.array([1.0, 2.0, 3.0, 0.0]), np.array([0.0, 2.0, 4.0, 0.0])
    assert measures.wins(a, b).tolist() == [1, 0.5, 0, 0.5]
    assert (1 - measures.wins(b, a)).tolist() == measures.wins(a, b).tolist()
    assert measures.pair_accuracy(a, b, 100, rng())["value"] == 0.5


def test_bootstrap_is_that_of_the_mean_and_seeded() -> None:
    values = rng().normal(2, 3, 400)
    mean, low, high = measures.paired_bootstrap(values, 4000, rng(1))
    error = values.std() / 20
    assert mean == pytest.approx(values.mean())
    assert (low, high) == pytest.approx((mean - 1.96 * error, mean + 1.96 * error), abs=0.03)
    assert measures.paired_bootstrap(values, 500, rng(2)) == measures.paired_bootstrap(values, 500, rng(2))
    assert measures.paired_bootstrap(values, 500, rng(2)) != measures.paired_bootstrap(values, 500, rng(3))


def test_interval_of_the_auc_is_that_of_resampled_pairs() -> None:
    draw = rng(4)
    chosen, rejected = draw.integers(0, 9, 60) + 1.0, draw.integers(0, 9, 60) + 0.0
    found = measures.pair_auc(chosen, rejected, 300, rng(5))
    same, slow = rng(5), []
    for size in (256, 44):
        slow += [auc(chosen[rows], rejected[rows]) for rows in same.integers(60, size=(size, 60))]
    assert found["value"] == auc(chosen, rejected)
    assert found["ci"] == pytest.approx(np.quantile(slow, [0.025, 0.975]).tolist())


def test_accuracy_comes_with_its_interval() -> None:
    chosen, rejected = rng(1).normal(1, 1, 300), rng(2).normal(0, 1, 300)
    found = measures.pair_accuracy(chosen, rejected, 500, rng())
    low, high = found["ci"]  # type: ignore[misc]
    assert found["value"] == (chosen > rejected).mean()
    assert low < found["value"] < high


@pytest.mark.parametrize("bad", [np.array([]), np.array([1.0, np.nan])])
def test_nothing_and_nan_are_refused(bad: np.ndarray) -> None:  # type: ignore[type-arg]
    with pytest.raises(DataError):
        measures.wins(bad, bad)
    with pytest.raises(DataError):
        measures.paired_bootstrap(bad, 100, rng())


def test_pairs_want_as_many_of_each() -> None:
    with pytest.raises(ValueError, match="2 scores against 3"):
        measures.wins(np.zeros(2), np.zeros(3))


def test_distinct_counts_n_grams_over_all_texts() -> None:
    assert measures.distinct(["a b c", "a b d"], 2) == 3 / 4
    assert measures.distinct(["same words here"] * 10, 2) == 2 / 20
    assert measures.distinct(["one"], 2) == measures.distinct([], 2) == 0


def test_commonest_ending_looks_past_case_and_punctuation() -> None:
    texts = ["Well, do let us know now.", "Do LET us, know now!", "Something else in the end.", "Let us."]
    assert measures.commonest_ending(texts) == 0.5
    assert measures.commonest_ending(texts, words=1) == 0.5
    assert measures.commonest_ending([]) == 0


def test_accuracy_by_flaw_is_that_of_its_pairs_and_has_a_width_where_all_are_right() -> None:
    chosen, rejected = np.array([1.0, 2.0, 0.0, 3.0, 5.0]), np.array([0.0, 1.0, 1.0, 3.0, 9.0])
    found = measures.accuracy_by_flaw(chosen, rejected, ["cut off", "cut off", "insult", "insult", ""])
    assert {name: metric["value"] for name, metric in found.items()} == {"accuracy_cut_off": 1, "accuracy_insult": 0.25}
    low, high = found["accuracy_cut_off"]["ci"]  # type: ignore[misc]
    assert low < 0.5 < high == 1
