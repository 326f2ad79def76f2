from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from retain.decision import observed
from retain.offers import Cap, Offers
from retain.policy import Policy
from tasks.decision import evaluation
from tasks.decision.baselines import Nobody, Threshold
from tasks.decision.evaluation import EVALUATED, Learned, clairvoyant, foreseen_cost, on_validation, play, prices
from tasks.decision.simulator import Cohort, World
from tasks.decision.worlds import Setting

Made = Callable[..., Cohort]


@pytest.fixture(scope="module")
def customers(cohort: Made) -> Cohort:
    return cohort(250)


@pytest.fixture(scope="module")
def setting(world: World, offers: Offers, cap: Cap) -> Setting:
    return Setting(world, offers, cap, budget=0.03, mode="expected")


def keen(customers: Cohort, offers: Offers, prices: tuple[float, float] = (0.0, 9.0)) -> Policy:
    """Offers the more, the riskier a customer and the lower its price."""
    names = observed(customers.names)
    weight = np.zeros((len(names) + 1, 1 + len(offers.levels)), np.float32)
    weight[names.index("risk"), 3] = 8.0
    weight[-1, 3] = -1.0
    bias = np.zeros(1 + len(offers.levels), np.float32)
    bias[[1, 2, 4]] = -50.0
    flat = np.zeros(len(names), np.float32), np.ones(len(names), np.float32)
    actions = ("no_contact", *(f"offer_{level}" for level in offers.levels))
    return Policy(names, actions, *flat, ((weight, bias),), prices[0], prices)


def test_a_price_is_found_for_what_may_be_spent(customers: Cohort, cohort: Made, setting: Setting) -> None:
    others, network = cohort(400, seed=9), keen(customers, setting.offers)
    dearest = on_validation(setting, customers, Learned(network), 0)[1]
    there, here = (Learned(network.at(at)) for at in prices(setting, customers, others, network, 0.5 * dearest, 0))
    assert 0.42 * dearest <= on_validation(setting, customers, there, 0)[1] <= 0.5 * dearest
    foreseen = foreseen_cost(setting, customers, there, 0)
    assert 0.9 * foreseen <= foreseen_cost(setting, others, here, 0) <= foreseen


def test_the_highest_price_is_taken_where_none_is_high_enough(customers: Cohort, setting: Setting) -> None:
    network = keen(customers, setting.offers, prices=(0.0, 0.1))
    assert prices(setting, customers, customers, network, 1e-6, 0)[0] == 0.1


def test_nobody_passes_the_bound_and_the_dp_comes_nearest(customers: Cohort, setting: Setting) -> None:
    years, seed = 6, EVALUATED
    simulator = setting.simulator(customers)
    rule = Threshold(simulator.observed.index("risk"), 3, 0.3)
    nets = {
        "nobody": play(setting, simulator, years, seed, (Nobody(),)),
        "threshold": play(setting, simulator, years, seed, (rule,)),
        "dp": play(setting, simulator, years, seed, (evaluation.by_features(setting, customers, customers, 0.03, 0),)),
        "bound": clairvoyant(setting, simulator, years, seed, 0.25),
    }
    total = {name: float(found.net.sum()) / customers.revenue for name, found in nets.items()}
    assert total["nobody"] < total["threshold"] < total["dp"] < total["bound"]
    # Its price is the first year's, so its cost is the budget's only nearly; the bound holds at any price.
    assert nets["bound"].cost.sum() == pytest.approx(0.03 * customers.revenue, rel=0.05)


def test_more_budget_lets_the_bound_rise(customers: Cohort, setting: Setting, world: World) -> None:
    found = []
    for share in (0.005, 0.02, 0.05):
        other = Setting(world, setting.offers, setting.cap, share, "expected")
        found.append(float(clairvoyant(other, other.simulator(customers), 1, 0, 0.25).net.sum()))
    assert found == sorted(found)


def test_what_is_kept_comes_back_the_same(customers: Cohort, setting: Setting) -> None:
    kept: dict[str, bytes] = {}
    asked: list[str] = []

    def keep(name: str, make: Callable[[], bytes]) -> bytes:
        if name not in kept:
            asked.append(name)
            kept[name] = make()
        return kept[name]

    for make in (play, clairvoyant):
        arguments = (setting, setting.simulator(customers), 1, 0, ((Nobody(),) if make is play else 0.25))
        first, again = (evaluation._kept_returns(keep, make.__name__, make, *arguments) for _ in range(2))
        for name in ("net", "cost"):
            assert (getattr(first, name) == getattr(again, name)).all()
        assert {name: of.tolist() for name, of in first.played.items()} == {
            name: of.tolist() for name, of in again.played.items()
        }
        assert bool(first.played) == (make is play)
        assert first.price == again.price
    assert asked == ["returns/play.npz", "returns/clairvoyant.npz"]


def test_all_of_the_budget_for_customers_at_risk_keeps_more_of_them(customers: Cohort, setting: Setting) -> None:
    """Their part of the whole cohort's best years is no bound for them."""
    found = clairvoyant(setting, setting.simulator(customers), 3, 0, 0.25)
    risky = customers.risk[:, 0] >= 0.25
    assert found.net_at_risk[:, risky].sum() > found.net[:, risky].sum()
