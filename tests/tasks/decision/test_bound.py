from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from retain.offers import Cap, Offers
from retain.wallet import Wallet
from tasks.decision.baselines import Nobody
from tasks.decision.bound import FeaturePolicy, Histories, Solution, price_of, solve
from tasks.decision.simulator import Cohort, Parameters, Simulator, World, parameters, play

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


def tightest(
    cohort: Cohort, drawn: Parameters, world: World, offers: Offers, cap: Cap, budget: float, rounds: int = 12
) -> Solution:
    """The best years at the price for a `budget` that is a share of revenue, searched for in so many rounds."""
    price = price_of(
        lambda at: float(solve(cohort, drawn, world, offers, cap, at).cost.sum()), budget * cohort.revenue, rounds
    )
    return solve(cohort, drawn, world, offers, cap, price)


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
        # Its price is a twentieth from the best at most: a bound of .62 is then .00002 higher than it could be.
        found = tightest(customers, drawn, world, offers, cap, budget, rounds=8)
        limit.append(found.bound(customers, simulator.budget).sum() / customers.revenue)
    assert np.mean(idle) < np.mean(nrr) < np.mean(limit)


def test_any_price_bounds_any_budget_and_its_own_one_tightest(
    cohort: Made, world: World, offers: Offers, cap: Cap
) -> None:
    customers = cohort(60)
    drawn = parameters(customers, world, offers, np.random.default_rng(0))
    budget = 0.02 * customers.revenue
    found = tightest(customers, drawn, world, offers, cap, 0.02)
    line = found.bound(customers, budget).sum()
    # What its years earn, and no more than what is left of the budget is worth.
    assert found.cost.sum() <= budget
    earned = (found.value + found.price * found.cost).sum()
    assert earned <= line <= earned + found.price * 0.05 * budget
    for price in (0.0, 0.5 * found.price, 2 * found.price):
        other = solve(customers, drawn, world, offers, cap, price)
        assert other.bound(customers, budget).sum() >= line
        assert (other.cost.sum() <= found.cost.sum()) == (price >= found.price)


def test_nothing_of_the_bound_falls_to_who_may_not_be_contacted(
    cohort: Made, world: World, offers: Offers, cap: Cap
) -> None:
    """For some customers alone: all others opt out, and the whole budget is theirs."""
    customers = cohort(60)
    some = np.arange(60) < 20
    alone = replace(customers, opted_out=~some)
    drawn = parameters(customers, world, offers, np.random.default_rng(0))
    budget = 0.01 * customers.revenue
    of_all, of_some = (tightest(who, drawn, world, offers, cap, 0.01) for who in (customers, alone))
    assert of_some.cost[~some].sum() == 0
    assert of_some.bound(alone, budget)[some].sum() >= of_all.bound(customers, budget)[some].sum()
    free = solve(alone, drawn, world, offers, cap, 0.0)
    assert of_some.bound(alone, budget)[~some] == pytest.approx(free.value[~some])


def test_a_budget_that_no_year_reaches_costs_nothing_more(cohort: Made, world: World, offers: Offers, cap: Cap) -> None:
    customers = cohort(20)
    drawn = parameters(customers, world, offers, np.random.default_rng(0))
    found = tightest(customers, drawn, world, offers, cap, 0.9)
    assert found.price == 0.0
    assert found.bound(customers, 0.9 * customers.revenue).sum() == found.value.sum()
