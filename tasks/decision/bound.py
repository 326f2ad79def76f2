"""The two lines that every policy is read against: what none can pass, and what features tell of the best year.

**The bound.** A policy that keeps cost <= B earns no more than max over policies of E[return] + price x (B - E[cost])
for any price >= 0, and without B that maximum falls apart into one for each customer: cost is what a unit of it is
worth, 1 + price, and a dynamic program finds the best year (weak duality; Adelman and Mersereau, Operations Research
56, 2008, for weakly coupled programs). The bound is the least over prices. It knows every latent of every customer,
no answer before it is given, and needs no wallet: no policy of this world that stays within B passes it.

**DP on features.** The same program with the mean parameters that features tell (`simulator.parameters` without a
generator) gives a policy that a service could run, if the world were known and the year had an end: the aim for what is
learned. It takes means for the truth (certainty equivalence) and learns nothing from answers, so it is no bound.

The state of a customer is which months she was contacted in (fatigue, cap, sleeping dogs and the months left of an
offer all follow from those), and the offer that runs. That is exact: no memory is cut off. Of 12 months with at most 2
contacts in any 3 there are 2,030 histories.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retain.offers import Cap, Offers
from tasks.decision.simulator import Actions, Bools, Cohort, Floats, Parameters, Singles, World

BLOCK = 64  # customers at once: the arrays of a month then stay within the processor's cache
HIGHEST = 60.0  # a unit of cost that has to bring back 60 buys nothing


@dataclass(frozen=True)
class Histories:
    """The contact histories at the start of each month, one row of months x (h,) arrays.

    `tired`: F; `startled`: whether a contact before still wakes sleeping dogs; `left`: months that an offer accepted at
    the last contact still runs; `free`: whether the cap allows a contact; `quiet`, `contacted`: the row at the next
    month's start without and with one (of the free ones; -1 elsewhere).
    """

    tired: tuple[Floats, ...]
    startled: tuple[Bools, ...]
    left: tuple[NDArray[np.int64], ...]
    free: tuple[Bools, ...]
    quiet: tuple[NDArray[np.int64], ...]
    contacted: tuple[NDArray[np.int64], ...]

    @classmethod
    def of(cls, months: int, world: World, offers: Offers, cap: Cap) -> Histories:
        parts: tuple[list[Any], ...] = ([], [], [], [], [], [])
        before: list[tuple[int, ...]] = [()]  # the months of the contacts
        for month in range(months):
            free = [sum(month - at < cap.window for at in past) < cap.max_contacts for past in before]
            after = before + [(*past, month) for past, may in zip(before, free) if may]
            contacted = np.full(len(before), -1)
            contacted[free] = len(before) + np.arange(sum(free))
            last = np.array([past[-1] if past else -months - offers.months - world.dogs_months for past in before])
            parts[0].append(np.array([sum(world.decay ** (month - at) for at in past) for past in before]))
            parts[1].append(month - last < world.dogs_months)
            parts[2].append(np.maximum(0, offers.months - (month - last)))
            parts[3].append(np.array(free))
            parts[4].append(np.arange(len(before)))
            parts[5].append(contacted)
            before = after
        return cls(*(tuple(part) for part in parts))


@dataclass(frozen=True)
class Solution:
    """The best years at one price. `value` (n,) = return - price x cost, `cost` (n,), both expected, in currency units;
    `actions`, if asked for: for each month (h, n), what to do when no offer runs."""

    price: float
    value: Floats
    cost: Floats
    actions: tuple[NDArray[np.int8], ...]

    def bound(self, cohort: Cohort, budget: float) -> Floats:
        """(n,) whose sum no policy of expected cost `budget` or less passes: value + price x budget (weak duality).

        A customer's is what her best year earns; what that leaves of the budget is spread by charge over those who may
        be contacted.
        """
        left = self.price * (budget - self.cost.sum())
        charge = np.where(cohort.opted_out, 0.0, cohort.charge)
        return np.asarray(self.value + self.price * self.cost + left * charge / max(charge.sum(), 1e-12))


def solve(
    cohort: Cohort,
    drawn: Parameters,
    world: World,
    offers: Offers,
    cap: Cap,
    price: float,
    actions: bool = False,
) -> Solution:
    """Each customer's best year at `price`, knowing `drawn`."""
    tree = Histories.of(len(drawn.rate), world, offers, cap)
    n = len(cohort)
    value, cost = np.empty(n), np.empty(n)
    table = tuple(np.zeros((len(free), n), np.int8) for free in tree.free) if actions else ()
    for start in range(0, n, BLOCK):
        block = slice(start, min(start + BLOCK, n))
        of_block = tuple(part[:, block] for part in table)
        value[block], cost[block] = _block(cohort, drawn, world, offers, tree, price, block, of_block)
    return Solution(price, value, cost, table)


def _block(
    cohort: Cohort,
    drawn: Parameters,
    world: World,
    offers: Offers,
    tree: Histories,
    price: float,
    block: slice,
    table: tuple[NDArray[np.int8], ...],
) -> tuple[Floats, Floats]:
    """Backwards through the year. Arrays are (running action, history, customer); 0 runs nothing."""
    charge, dog, effect = cohort.charge[block], drawn.dog[block], drawn.effect[:, None, block]
    discount = offers.discounts[:, None] * charge  # (1 + offers, m) a month
    paid = (charge - (1 + price) * discount)[:, None]
    months, kinds, m = len(drawn.rate), len(offers.levels), len(charge)
    value = np.zeros((1 + kinds, len(tree.free[-1]) + int(tree.free[-1].sum()), m))
    cost = np.zeros_like(value)
    for month in reversed(range(months)):
        tired, startled = tree.tired[month][:, None], tree.startled[month][:, None]
        rate = drawn.rate[month, block] * np.exp(world.tired_rate * tired)
        # Nothing is done: what runs goes on, or ends with this month.
        after, spent = value[:, tree.quiet[month]], cost[:, tree.quiet[month]]
        ends = tree.left[month] <= 1
        after[1:, ends], spent[1:, ends] = after[0, ends], spent[0, ends]
        stays = np.exp(-effect * np.where(startled, rate * dog, rate))
        there = (1 + stays) / 2
        quiet, quiet_cost = paid * there + stays * after, discount[:, None] * there + stays * spent
        # A contact: accepted or declined.
        may = np.flatnonzero(tree.free[month])
        then = tree.contacted[month][may]
        after, spent = value[:, then], cost[:, then]
        if offers.months == 1:
            after[1:], spent[1:] = after[:1], spent[:1]
        stays = np.exp(-effect * (rate[may] * (np.exp(world.tired_rate) * dog)))
        there = (1 + stays) / 2
        after, spent = paid * there + stays * after, discount[:, None] * there + stays * spent
        odds = drawn.odds[:, None, block] - drawn.fatigue[:, None, block] * tired[may]
        yes = np.minimum(1.0, world.acceptance_factor / (1 + np.exp(-odds)))
        worth = yes * after[1:] + (1 - yes) * after[0] - (1 + price) * offers.contact_cost
        worth[:, :, cohort.opted_out[block]] = -np.inf
        best = worth.argmax(axis=0)[None]
        top = np.take_along_axis(worth, best, axis=0)[0]
        contact = top > quiet[0, may]
        paying = yes * spent[1:] + (1 - yes) * spent[0] + offers.contact_cost
        quiet_cost[0, may] = np.where(contact, np.take_along_axis(paying, best, axis=0)[0], quiet_cost[0, may])
        quiet[0, may] = np.where(contact, top, quiet[0, may])
        if table:
            table[month][may] = np.where(contact, best[0] + 1, 0)
        value, cost = quiet, quiet_cost
    return value[0, 0], cost[0, 0]


def price_of(cost: Callable[[float], float], target: float, rounds: int) -> float:
    """The lowest price found, 0 or more, at which `cost`, falling with the price, is at most `target`."""
    if cost(0.0) <= target:
        return 0.0
    low, high = 0.0, float(np.log1p(HIGHEST))
    for _ in range(rounds):
        middle = (low + high) / 2
        if cost(float(np.expm1(middle))) <= target:
            high = middle
        else:
            low = middle
    return float(np.expm1(high))


@dataclass(frozen=True)
class FeaturePolicy:
    """The best years of mean parameters as a policy; it knows the month, and its customers' histories."""

    tree: Histories
    solution: Solution
    last_contact: int  # the observation's column that says whether there was a contact a month ago

    @classmethod
    def at(
        cls, cohort: Cohort, drawn: Parameters, world: World, offers: Offers, cap: Cap, price: float, column: int
    ) -> FeaturePolicy:
        tree = Histories.of(len(drawn.rate), world, offers, cap)
        return cls(tree, solve(cohort, drawn, world, offers, cap, price, actions=True), column)

    def start(self, rng: np.random.Generator) -> Callable[[Singles, Bools], Actions]:
        """Decides month after month; nothing here is random."""
        month, at = -1, np.zeros(len(self.solution.value), np.int64)
        everybody = np.arange(len(at))

        def decide(observation: Singles, mask: Bools) -> Actions:
            nonlocal month, at
            if month >= 0:
                contacted = observation[:, self.last_contact] > 0
                at = np.where(contacted, self.tree.contacted[month][at], self.tree.quiet[month][at])
            month += 1
            wanted = self.solution.actions[month][at, everybody].astype(np.int64)
            return np.where(mask[everybody, wanted], wanted, 0)

        return decide
