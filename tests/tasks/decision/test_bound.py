from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from retain.wallet import Offers, Wallet
from tasks.decision.baselines import Nobody
from tasks.decision.bound import FeaturePolicy, Histories, bound, price_of, solve
from tasks.decision.simulator import Cap, Cohort, Parameters, Simulator, World, parameters, play

Made = Callable[..., Cohort]


def by_hand(cohort: Cohort, drawn: Parameters, world: World, offers: Offers, cap: Cap, price: float, who: int) -> float:
    """The best year of one customer, written as the simulator tells it: forwards, one state at a time."""
    charge, months = cohort.charge[who], len(drawn.rate)

    def worth(month: int, contacts: tuple[int, ...], running: int, left: int, tired: float, startled: int) -> float:
        if month == months:
            return 0.0

        def rest(contacted: bool, offer: int, still: int) -> float:
            f = tired + contacted
            awake = world.dogs_months if contacted else startled
            rate = drawn.rate[month, who] * drawn.effect[offer, who] * np.exp(world.tired_rate * f)
            stays = np.exp(-rate * (drawn.dog[who] if awake > 0 else 1.0))
            pays = charge * (1 - (1 + price) * offers.discounts[offer])
            after = max(0, still - 1)
            made = (*contacts, month) if contacted else contacts
            onward = worth(month + 1, made, offer if after else 0, after, f * world.decay, max(0, awake - 1))
            return pays * (1 + stays) / 2 + stays * onward - (1 + price) * offers.contact_cost * contacted

        options = [rest(False, running, left)]
        within = sum(at > month - cap.window for at in contacts)
        if not left and within < cap.max_contacts and not cohort.opted_out[who]:
            for offer in range(1, 1 + len(offers.levels)):
                odds = drawn.odds[offer - 1, who] - drawn.fatigue[offer - 1, who] * tired
                yes = min(1.0, world.acceptance_factor / (1 + np.exp(-odds)))
                options.append(yes * rest(True, offer, offers.months) + (1 - yes) * rest(True, 0, 0))
        return float(max(options))

    return worth(0, (), 0, 0, 0.0, 0)


@pytest.mark.parametrize(
    ("months", "offers", "cap", "factor"),
    [
        (5, Offers((0, 10, 20), 2, 1.0, "EUR"), Cap(2, 3), 1.0),
        (5, Offers((10,), 3, 0.0, "EUR"), Cap(1, 2), 1.0),
        (5, Offers((5, 20), 1, 0.5, "EUR"), Cap(3, 3), 2.0),
        (6, Offers((20,), 4, 0.2, "EUR"), Cap(2, 4), 0.8),
    ],
)
def test_every_best_year_is_that_of_an_exhaustive_search(
    months: int, offers: Offers, cap: Cap, factor: float, cohort: Made, world: World
) -> None:
    leaving = cohort(6, months=months).margin + 2.0  # so that within a few months an offer can pay
    customers = cohort(6, months=months, margin=leaving, opted_out=np.arange(6) == 5)
    changed = replace(world, effect=(0.8, 1.6, 2.4)[: len(offers.levels)], acceptance_factor=factor, dogs_level=0.0)
    drawn = parameters(customers, changed, offers, np.random.default_rng(1))
    for price in (0.0, 0.7):
        found = solve(customers, drawn, changed, offers, cap, price)
        wanted = [by_hand(customers, drawn, changed, offers, cap, price, who) for who in range(6)]
        assert np.allclose(found.value, wanted, rtol=1e-12)
        assert found.cost[5] == 0
        assert price > 0 or (found.cost[:5] > 0).sum() >= 2


def test_a_year_has_as_many_histories_as_the_cap_allows(world: World, offers: Offers) -> None:
    tree = Histories.of(12, world, offers, Cap(2, 3))
    assert [len(free) for free in tree.free] == [1, 2, 4, 7, 13, 24, 44, 81, 149, 274, 504, 927]
    assert sum(len(free) for free in tree.free) == 2030


def test_the_simulator_pays_what_the_program_promises(cohort: Made, world: World, offers: Offers, cap: Cap) -> None:
    """Without latents, the mean of simulated years under the program's own policy is its value and its cost."""
    customers = cohort(200)
    known = replace(
        world,
        effect_sd=0.0,
        hazard_sd=0.0,
        dogs_level=-60.0,
        acceptance=replace(world.acceptance, shrink=0.0, slope_sd=0.0),
    )
    drawn = parameters(customers, known, offers, None)
    simulator = Simulator(customers, known, offers, cap, 1e4)
    column = simulator.observed.index("contacts_1_months_ago")
    policy = FeaturePolicy.at(customers, drawn, known, offers, cap, 0.3, column)
    years = [play(simulator, policy, np.random.default_rng(seed), None) for seed in range(200)]
    assert not any(year.forbidden for year in years)
    for simulated, promised in (
        ([year.cost.sum() for year in years], policy.solution.cost.sum()),
        ([(year.net - 0.3 * year.cost).sum() for year in years], policy.solution.value.sum()),
    ):
        error = np.std(simulated, ddof=1) / np.sqrt(len(years))
        assert abs(np.mean(simulated) - promised) < 4 * error
        assert error < 0.01 * promised


def test_nothing_passes_the_bound_and_it_is_no_lower_than_doing_nothing(
    cohort: Made, world: World, offers: Offers, cap: Cap
) -> None:
    customers = cohort(150)
    budget = 0.02
    simulator = Simulator(customers, world, offers, cap, budget * customers.revenue)
    mean = parameters(customers, world, offers, None)
    price = price_of(
        lambda at: solve(customers, mean, world, offers, cap, at).cost.sum() / customers.revenue, 0.9 * budget, 8
    )
    column = simulator.observed.index("contacts_1_months_ago")
    policy = FeaturePolicy.at(customers, mean, world, offers, cap, price, column)
    nrr, idle, limit = [], [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        years = [
            play(simulator, one, np.random.default_rng(seed), Wallet(simulator.budget)) for one in (policy, Nobody())
        ]
        nrr.append(years[0].net.sum() / customers.revenue)
        idle.append(years[1].net.sum() / customers.revenue)
        latent = rng.spawn(2)[0].spawn(4)[0]  # as play and reset spawn them: the latents of that very year
        drawn = parameters(customers, world, offers, latent)
        assert np.array_equal(simulator.drawn.dog, drawn.dog)
        limit.append(bound(customers, drawn, world, offers, cap, budget, 6).nrr(budget))
    assert np.mean(idle) < np.mean(nrr) < np.mean(limit)


def test_the_bound_rises_with_the_budget_and_its_prices_fall(
    cohort: Made, world: World, offers: Offers, cap: Cap
) -> None:
    customers = cohort(60)
    drawn = parameters(customers, world, offers, np.random.default_rng(0))
    found = bound(customers, drawn, world, offers, cap, 0.02)
    order = found.price.argsort()
    assert (np.diff(found.cost[order]) <= 1e-12).all()
    levels = [found.nrr(budget) for budget in (0.0, 0.01, 0.02, 0.03)]
    assert (np.diff(levels) > 0).all()
    # At the best price, cost is all but the budget, and the bound all but what those years earn.
    close = np.abs(found.cost - 0.02).argmin()
    earned = found.value[close] + found.price[close] * found.cost[close]
    assert found.nrr(0.02) == pytest.approx(earned, abs=1e-3)


def test_a_budget_that_no_year_reaches_costs_nothing_more(cohort: Made, world: World, offers: Offers, cap: Cap) -> None:
    customers = cohort(20)
    drawn = parameters(customers, world, offers, np.random.default_rng(0))
    found = bound(customers, drawn, world, offers, cap, 0.9)
    free = solve(customers, drawn, world, offers, cap, 0.0)
    assert found.price.tolist() == [0.0]
    assert found.nrr(0.9) == free.value.sum() / customers.revenue
