"""Intervals against their definitions, and how often they hold what they should."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest

from retain import intervals


def test_the_quantile_is_that_of_a_normal_distribution() -> None:
    assert pytest.approx(NormalDist().inv_cdf(0.975), abs=1e-15) == intervals.NORMAL


@pytest.mark.parametrize(("hits", "trials"), [(1, 10), (7, 9), (2.5, 40), (300, 1000)])
def test_wilsons_ends_are_as_far_from_the_share_as_the_normal_test_allows(hits: float, trials: int) -> None:
    """What the interval is by definition: each end is a probability that the share just doesn't contradict."""
    for end in intervals.wilson(hits, trials):
        error = math.sqrt(end * (1 - end) / trials)
        assert abs(hits / trials - end) == pytest.approx(intervals.NORMAL * error)


def test_wilson_has_a_width_where_nothing_or_all_was_hit() -> None:
    assert intervals.wilson(0, 200) == (0.0, pytest.approx(0.0188, abs=2e-4))
    assert intervals.wilson(0, 100) == (0.0, pytest.approx(0.037, abs=2e-4))
    low, high = intervals.wilson(10, 10)
    assert low < 0.8
    assert high == 1.0
    with pytest.raises(ValueError, match="share of nothing"):
        intervals.wilson(0, 0)


def test_percentiles_leave_a_fortieth_out_at_each_end() -> None:
    assert intervals.percentiles(np.arange(1001.0)[::-1]) == (25.0, 975.0)


def test_the_bootstrap_of_a_mean_is_as_wide_as_its_error_says() -> None:
    values = np.random.default_rng(0).normal(2, 3, 400)
    low, high = intervals.bootstrap(lambda rows: values[rows].mean(1), 400, 4000, np.random.default_rng(1))
    error = values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.03)


@pytest.mark.parametrize("block", [1, 7, 100, 256])
def test_the_draws_do_not_depend_on_the_block(block: int) -> None:
    blocks = list(intervals.resampled(30, 100, np.random.default_rng(3), block))
    assert max(map(len, blocks)) <= block
    one_by_one = np.random.default_rng(3)
    assert np.concatenate(blocks).tolist() == [one_by_one.integers(0, 30, 30).tolist() for _ in range(100)]
