from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tasks.decision.comparison import Comparison, Resamples, Returns, metric, share
from tasks.decision.simulator import Cohort

Made = Callable[..., Cohort]


def line(net: np.ndarray, cost: float = 0.0, seeds: int = 1, years: int = 4) -> Returns:
    """`seeds` policies, each customer's net given, the same cost for each; of the offers a tenth is refused."""
    nets = np.tile(net, (seeds, 1))
    costs, counts = np.full_like(nets, cost), np.ones((seeds, years))
    played = {
        "run_rate": nets / 12,
        "contacts": costs,
        "attempted": np.repeat(costs[:, None], years, axis=1),
        "peak": 0.5 * counts,
        "most_contacts": 2 * counts,
        "made": 90 * counts,
        "refused": 10 * counts,
        "wanted": 100 * counts,
        "forbidden": 25 * counts,
        "fell_back": 0 * counts,
    }
    return Returns(nets, costs, nets, 0.0, played)


def table(cohort: Cohort, policies: dict[str, Returns], resamples: int = 400) -> Comparison:
    return Comparison(cohort, 0.03, 2, 0.25, policies, resamples, np.random.default_rng(0))


def test_figures_are_sums_over_sums(cohort: Made) -> None:
    customers = cohort(300)
    revenue = 12 * customers.charge
    found = table(customers, {"nobody": line(0.6 * revenue), "policy": line(0.7 * revenue, cost=2.0)})
    row = found.row("policy")
    assert row["nrr"]["value"] == pytest.approx(0.7)
    assert row["lift"]["value"] == pytest.approx(0.1)
    assert row["nrr_at_risk"]["value"] == pytest.approx(0.7)
    assert row["exit_nrr"]["value"] == pytest.approx(0.7)
    assert row["offer_cost"]["value"] == pytest.approx(600 / revenue.sum())
    assert row["attempted_overspend"]["value"] == 0
    assert row["refused"]["value"] == pytest.approx(0.1)
    assert row["attempted_contacts"]["value"] == pytest.approx(0.25)
    assert row["executed_violations"]["value"] == row["over_cap"]["value"] == 0
    assert found.gain(found.nrr, "policy", "nobody")["value"] == pytest.approx(1 / 6)


def test_a_paired_interval_is_narrower_than_the_figures_own(cohort: Made) -> None:
    """Two policies share the luck of who the customers are; their difference is what is left."""
    customers, rng = cohort(500), np.random.default_rng(1)
    stays = rng.random(500) * 12 * customers.charge
    found = table(
        customers,
        {"nobody": line(0.5 * stays), "a": line(0.8 * stays), "b": line(0.8 * stays + 0.2 * customers.charge)},
    )
    width = {name: np.ptp(found.row(name)["nrr"]["ci"]) for name in ("a", "b")}
    gain = found.gain(found.nrr, "b", "a")
    assert gain["ci"][0] > 0
    assert np.ptp(gain["ci"]) < 0.2 * min(width.values())


def test_intervals_cover_the_truth(cohort: Made) -> None:
    """Of 200 samples of customers of a known mean, about 95 % of the intervals hold it."""
    customers, rng, hits = cohort(200), np.random.default_rng(2), 0
    charge = customers.charge
    for _ in range(200):
        nets = 12 * charge * (0.6 + 0.3 * rng.standard_normal(200))
        low, high = table(customers, {"nobody": line(nets)}, 300).row("nobody")["nrr"]["ci"]
        hits += low <= 0.6 <= high
    assert 0.90 <= hits / 200 <= 0.99


def test_seeds_widen_the_interval_of_what_was_trained(cohort: Made) -> None:
    customers = cohort(400)
    revenue = 12 * customers.charge
    nets = np.stack([(0.6 + 0.02 * at) * revenue for at in range(5)])
    spread = Returns(nets, np.zeros((5, 400)), nets, 0.0, {})
    found = table(customers, {"nobody": line(0.6 * revenue), "policy": spread})
    assert found.row("policy")["nrr"]["value"] == pytest.approx(0.64)
    low, high = found.row("policy")["nrr"]["ci"]
    assert low < 0.63
    assert high > 0.65
    assert np.ptp(found.row("nobody")["nrr"]["ci"]) == pytest.approx(0, abs=1e-9)


def test_a_year_below_the_budget_makes_good_for_none_above(cohort: Made) -> None:
    customers = cohort(100)
    policy = line(customers.charge)
    budget = 0.03 * customers.revenue
    policy.played["attempted"][:] = (budget / 100 * np.array([0.5, 1.5, 1.0, 1.1]))[None, :, None]
    found = table(customers, {"nobody": line(customers.charge), "policy": policy})
    assert found.row("policy")["attempted_overspend"]["value"] == pytest.approx((0.5 + 0.1) / 4)


def test_a_world_counts_once_however_many_seeds_met_it(cohort: Made) -> None:
    customers = cohort(50)
    policy = line(customers.charge, seeds=5, years=20)
    policy.played["peak"][:, 3] = 1.2
    policy.played["most_contacts"][2, [1, 4]] = 3
    row = table(customers, {"nobody": line(customers.charge), "policy": policy}).row("policy")
    assert row["executed_violations"]["value"] == pytest.approx(1 / 20)
    assert row["over_cap"]["value"] == pytest.approx(2 / 20)


def test_the_first_resample_counts_everybody_once(cohort: Made) -> None:
    drawn = Resamples.draw(50, 3, 20, np.random.default_rng(0))
    assert (drawn.customers[0] == 1).all()
    assert (drawn.customers.sum(axis=1) == 50).all()
    assert (drawn.seeds.sum(axis=1) == 3).all()
    values = np.random.default_rng(1).random((3, 50))
    assert drawn.sums(values)[0] == pytest.approx(values.sum() / 3)
    who = np.arange(50) < 10
    assert drawn.sums(values[0], who)[0] == pytest.approx(values[0, :10].sum())


def test_no_violation_in_a_few_years_is_not_none_for_ever() -> None:
    assert share(0, 100) == {"value": 0.0, "ci": [0.0, pytest.approx(0.037, abs=1e-3)]}
    assert share(50, 100)["ci"] == [pytest.approx(0.404, abs=1e-3), pytest.approx(0.596, abs=1e-3)]


def test_a_metric_is_its_first_value_and_the_middle_95_percent_of_the_rest() -> None:
    assert metric(np.array([7.0, *np.arange(1001.0)])) == {"value": 7.0, "ci": [25.0, 975.0]}


def test_groups_are_measured_by_their_own_revenue(cohort: Made) -> None:
    customers = cohort(100)
    revenue, who = 12 * customers.charge, np.arange(100) < 50
    nets = np.where(who, 0.8, 0.6) * revenue
    found = table(customers, {"nobody": line(0.6 * revenue), "policy": line(nets)})
    assert found.lift_of("policy", who)["value"] == pytest.approx(0.2)
    assert found.lift_of("policy", ~who)["value"] == pytest.approx(0.0)
