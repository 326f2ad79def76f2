"""What a trial is worth: means of both arms, and what makes them comparable."""

from __future__ import annotations

import numpy as np
import pytest

from retain.trial import Comparison, Worth


def difference(comparison: Comparison) -> float:
    worth = comparison.worth()
    assert worth["learned"].nrr is not None
    assert worth["baseline"].nrr is not None
    return worth["learned"].nrr - worth["baseline"].nrr


def test_at_one_percentage_they_are_counts_and_plain_means() -> None:
    comparison = Comparison()
    for proxy in (0.2, 0.4, 0.9):
        comparison.add(5.0, "baseline", proxy)
    comparison.add(5.0, "learned", 0.3)
    worth = comparison.worth()
    assert worth == {"baseline": Worth(pytest.approx(3.0), pytest.approx(0.5)), "learned": Worth(1.0, 0.3)}


def test_without_both_arms_nothing_is_compared() -> None:
    comparison, nothing = Comparison(), Worth(0.0, None)
    assert comparison.worth() == {"baseline": nothing, "learned": nothing}
    comparison.add(5.0, "baseline", 0.5)
    comparison.add(100.0, "learned", 0.7)  # everybody's, so there is nobody to compare with
    assert comparison.worth() == {"baseline": nothing, "learned": nothing}
    comparison.add(5.0, "learned", 0.6)
    assert comparison.worth() == {"baseline": Worth(1.0, 0.5), "learned": Worth(1.0, 0.6)}


def test_a_rising_percentage_in_a_falling_market_is_no_loss() -> None:
    """Nobody makes a difference to anybody. But the weeks at 5 % were better ones than those at 50 %."""
    rng = np.random.default_rng(3)
    comparison, seen = Comparison(), {"baseline": [0.0], "learned": [0.0]}
    for percent, mean in ((5.0, 0.8), (50.0, 0.5)):
        for proxy in rng.normal(mean, 0.2, 40_000):
            arm = "learned" if rng.random() < percent / 100 else "baseline"
            comparison.add(percent, arm, float(proxy))
            seen[arm].append(float(proxy))
    assert difference(comparison) == pytest.approx(0, abs=0.01)
    assert np.mean(seen["learned"]) - np.mean(seen["baseline"]) < -0.15


def test_the_baseline_s_mean_is_worth_what_its_variance_says() -> None:
    """At 95 % few are the baseline's, and most of its mean rests on these."""
    rng = np.random.default_rng(4)
    counts = {5.0: (100, 1900), 95.0: (9_500, 500)}
    means = []
    for _ in range(400):
        comparison = Comparison()
        for percent, (learned, baseline) in counts.items():
            for _ in range(learned):
                comparison.add(percent, "learned", 0.0)
            mean = float(rng.normal(0, 1 / np.sqrt(baseline)))  # as of so many with a standard deviation of 1
            for _ in range(baseline):
                comparison.add(percent, "baseline", mean)
        worth = comparison.worth()["baseline"]
        means.append(worth.nrr)
    assert worth.matured == pytest.approx(9_600**2 / (100**2 / 1900 + 9_500**2 / 500))
    assert worth.matured == pytest.approx(510, abs=1)
    assert np.var(means) == pytest.approx(1 / worth.matured, rel=0.25)
