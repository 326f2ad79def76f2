"""A simulated year of a cohort, one month a step, all customers at once.

A customer may be offered something at the beginning of a month, answers at once, and stays or leaves within the month;
who leaves is charged for half of it. Leaving is integrated out instead of drawn: `weight` is the probability that a
customer is still there, so that returns carry no noise of who happened to leave (`sampled=True` draws it, for logs and
for overdraws). Answers are drawn, after the wallet has admitted the offer.

Each month, in this order: the mask forbids, the wallet admits in order of arrival (a random one), the contact is paid
for, the answer is drawn, the charge less the running discount is paid, and survival is
exp(-rate x exp(-s eta) x sleeping dogs x fatigue), rate that of the churn score (`Cohort`), eta that of the accepted
offer. This is a proportional hazard: no factor can carry a probability past 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.errors import DataError
from retain import contact
from retain.decision import CONTACTS, layout, observed
from retain.offers import Acceptance, Cap, Offers, logit, mean_probability
from retain.wallet import Wallet

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Bools = NDArray[np.bool_]
Actions = NDArray[np.int64]

# What a policy may be limited in.
CONSTRAINTS = ("offer_cost", "contacts")


@dataclass(frozen=True)
class Cohort:
    """n customers as they are at the start, and as they age over `months`.

    `margin` (n, months) is the truth: log-odds of leaving within a label's period, re-scored as tenure grows. `risk`
    (n, months) is what a policy is shown: the calibrated score of the same. `acceptance` is the bridge's score of the
    customer's cell, `spread` the standard deviation of its log-odds within that cell. Features are float32 without
    protected columns; `growth` is what a month adds to each. `medians` stand for missing numbers, by column.
    """

    ids: NDArray[Any]
    charge: Floats
    margin: Floats
    risk: Floats
    acceptance: Floats
    spread: Floats
    features: Singles
    growth: Singles
    names: tuple[str, ...]
    opted_out: Bools
    groups: Mapping[tuple[str, str], Bools]
    medians: Mapping[str, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.charge)

    @property
    def revenue(self) -> float:
        """12 x the starting monthly revenue (months x, in general): what NRR, lift and cost are shares of."""
        return float(self.margin.shape[1] * self.charge.sum())


@dataclass(frozen=True)
class World:
    """Every assumption about how customers answer and leave; one key each of the experiment's `assumptions`.

    `label_months`: the period in which the label counts a customer as gone. `effect` (one for each offer): an accepted
    offer multiplies the monthly rate of leaving by exp(-s effect), s of mean 1 and standard deviation `effect_sd`.
    Sleeping dogs, a share of P(dog) = logistic(dogs_level - dogs_loyalty x margin), leave at a rate exp(dogs_rate)
    times as high for `dogs_months` from a contact on. Earlier contacts add up to F, decayed by `decay` a month, and
    raise the rate by exp(tired_rate F). `hazard_sd`: of the log-rate between customers who look the same.
    Customers come in any order over a month, and answers come in `answered` times in it, evenly spaced: a wallet has
    to admit the offers of a month's first part before it learns of any answer. `acceptance_factor` multiplies
    probabilities: 1 but in a changed world.
    """

    label_months: float
    effect: tuple[float, ...]
    effect_sd: float
    hazard_sd: float
    acceptance: Acceptance
    dogs_level: float
    dogs_loyalty: float
    dogs_rate: float
    dogs_months: int
    decay: float
    tired_rate: float
    answered: int
    acceptance_factor: float = 1.0


@dataclass(frozen=True)
class Parameters:
    """One draw of what a cohort's customers are like; arrays have one column per customer.

    `rate` (months, n) of leaving a month; `effect` (1 + offers, n) factor on it while an offer of that level runs;
    `dog` (n,) factor after a contact; `odds` (offers, n) log-odds of acceptance by the not yet contacted, falling by
    `fatigue` (offers, n) for each unit of F.
    """

    rate: Floats
    effect: Floats
    dog: Floats
    odds: Floats
    fatigue: Floats


@dataclass(frozen=True)
class Step:
    """What happened in a month. Amounts (n,) are those of a customer who was there at its start.

    `reward`: charge less discount less contact cost. `costs` (n, 2), one column for each of CONSTRAINTS: discount and
    contact cost; contacts. `weight`: probability of being there at the month's start; `survival`: of staying to its
    end. `action`: what was executed; `forbidden` by the mask and `refused` by the wallet are what a policy wanted
    beyond that.
    """

    observation: Singles
    reward: Floats
    costs: Floats
    weight: Floats
    survival: Floats
    action: Actions
    accepted: Bools
    forbidden: Bools
    refused: Bools
    done: bool


def parameters(cohort: Cohort, world: World, offers: Offers, rng: np.random.Generator | None) -> Parameters:
    """One draw of the latents that no policy sees, or with no `rng` what features tell: means over them."""
    n, kinds = len(cohort), len(offers.levels)
    rate = np.logaddexp(0, cohort.margin).T / world.label_months  # -ln(1 - p) = ln(1 + e^margin)
    effect = np.array([0.0, *world.effect])[:, None]
    percent = np.array(offers.levels, dtype=np.float64)[:, None]
    odds = world.acceptance.log_odds(cohort.acceptance, percent)
    wild = dog_probability(cohort, world)
    if rng is None:
        sd = world.acceptance.sd(cohort.spread, percent)
        centre = logit(mean_probability(odds, sd))
        return Parameters(
            rate=rate,
            effect=np.exp(-effect + (world.effect_sd * effect) ** 2 / 2) + np.zeros(n),
            dog=1 + wild * np.expm1(world.dogs_rate),
            odds=centre,
            # The mean of logistic functions is flatter than each (MacKay 1992).
            fatigue=world.acceptance.fatigue / np.sqrt(1 + np.pi * sd**2 / 8),
        )
    draws = rng.standard_normal((4, n))
    odds = odds + world.acceptance.shrink * cohort.spread * draws[0]
    odds += world.acceptance.slope_sd * world.acceptance.slope * np.log1p(percent / world.acceptance.unit) * draws[1]
    return Parameters(
        rate=rate * np.exp(world.hazard_sd * draws[2] - world.hazard_sd**2 / 2),
        effect=np.exp(-effect * (1 + world.effect_sd * draws[3])),
        dog=np.where(rng.random(n) < wild, np.exp(world.dogs_rate), 1.0),
        odds=odds,
        fatigue=np.full((kinds, n), world.acceptance.fatigue),
    )


def dog_probability(cohort: Cohort, world: World) -> Floats:
    """(n,) of being a sleeping dog: likelier, the less likely a customer is to leave."""
    return np.asarray(1 / (1 + np.exp(-(world.dogs_level - world.dogs_loyalty * cohort.margin[:, 0]))))


class Simulator:
    """A cohort through its months. `world` is what happens, `believed` (the same, if not given) what the wallet's holds
    are computed from; `budget` in currency units. `sampled` draws who leaves; without `latents` customers are what
    their features tell, on average."""

    def __init__(
        self,
        cohort: Cohort,
        world: World,
        offers: Offers,
        cap: Cap,
        budget: float,
        believed: World | None = None,
        sampled: bool = False,
        latents: bool = True,
    ) -> None:
        check(cohort, world, offers, budget)
        self.cohort, self.world, self.offers, self.cap, self.budget = cohort, world, offers, cap, budget
        self.believed = world if believed is None else believed
        self.sampled = sampled
        self.latents = latents
        self.months = cohort.margin.shape[1]
        self.customers = len(cohort)
        self.actions = ("no_contact", *(f"offer_{level}" for level in offers.levels))
        self.observed = observed(cohort.names)
        self.constraints = CONSTRAINTS
        n, f = cohort.features.shape
        self._grows = np.flatnonzero((cohort.growth != 0).any(axis=0))
        self._f = f
        self._risk = np.ascontiguousarray(cohort.risk.T, dtype=np.float32)
        self._acceptance = cohort.acceptance.astype(np.float32)
        self._observation = np.zeros((n, len(self.observed)), np.float32)
        self._observation[:, :f] = cohort.features
        self._percent = np.array([0.0, *offers.levels])
        self._discount = offers.discounts
        self._weights = np.ones(n)
        self._rows = np.arange(n)

    def reset(self, rng: np.random.Generator, wallet: Wallet | None = None) -> Singles:
        """The first observation (n, o) of a new draw of the world. Latents, answers, arrivals and departures come
        from `rng` alone, and the same for whatever is done: two policies can be compared on the same worlds."""
        latent, self._answers, self._arrivals, self._leaving = rng.spawn(4)
        self.drawn = parameters(self.cohort, self.world, self.offers, latent if self.latents else None)
        n = len(self.cohort)
        self.wallet = wallet
        self.month = 0
        self.weight = np.ones(n)
        self.months_left = np.zeros(n, np.int64)
        self.running = np.zeros(n, np.int64)  # the action whose offer runs
        self.contacts = np.zeros((n, max(CONTACTS, self.cap.window)), np.int64)
        self.tired = np.zeros(n)
        self.startled = np.zeros(n, np.int64)  # months that a contact still wakes sleeping dogs
        self.accepted = np.zeros(n, np.int64)
        self.declined = np.zeros(n, np.int64)
        # In currency units: paid so far; with what running offers may still cost; the same before this month's leaving.
        self.spent = self.committed = self.most_committed = 0.0
        return self._observe()

    def mask(self) -> Bools:
        """(n, actions): what may be done now."""
        return contact.mask(
            self.contacts,
            self.months_left,
            self.cohort.opted_out,
            len(self.offers.levels),
            self.cap.max_contacts,
            self.cap.window,
        )

    def step(self, actions: Actions) -> Step:
        """One month. `actions` (n,) are what the policy wants; the mask and the wallet decide what is done."""
        charge, weight, drawn = self.cohort.charge, self.weight, self.drawn
        wanted = (actions > 0) & (weight > 0)
        may = wanted & self.mask()[:, 1]
        answers = self._answers.random(len(charge))
        who = np.flatnonzero(may)
        if self.wallet is not None:
            who = self._admit(who, actions, answers, self.wallet)
        what = actions[who]
        yes = self._accepts(who, what, answers)

        contacted = np.zeros(len(charge), np.bool_)
        contacted[who] = True
        accepts = np.zeros(len(charge), np.bool_)
        accepts[who[yes]] = True
        done = np.zeros(len(charge), np.int64)
        done[who] = what
        self.running[who[yes]] = what[yes]
        self.months_left[who[yes]] = self.offers.months
        self.accepted += accepts
        self.declined += contacted
        self.declined -= accepts
        self.tired += contacted
        self.startled[who] = self.world.dogs_months
        self.contacts[:, -1] = contacted

        discount = self._discount[self.running] * charge
        contact_cost = self.offers.contact_cost * contacted
        rate = drawn.rate[self.month] * drawn.effect[self.running, self._rows]
        rate *= np.where(self.startled > 0, drawn.dog, 1.0)
        rate *= np.exp(self.world.tired_rate * self.tired)
        survival = np.exp(-rate)
        if self.sampled:
            survival = (self._leaving.random(len(charge)) < survival).astype(np.float64)
        after, there = weight * survival, (1 + survival) / 2
        cost = discount * there + contact_cost

        self.months_left -= self.months_left > 0
        due = discount * np.minimum(self.months_left, self.months - self.month - 1)
        self.most_committed = self.spent + float(weight @ (contact_cost + discount + due))
        self.spent += float(weight @ cost)
        self.committed = self.spent + float(after @ due)
        if self.wallet is not None:
            self.wallet.release(self.most_committed - self.committed)
        self.running[self.months_left == 0] = 0
        self.startled -= self.startled > 0
        self.tired *= self.world.decay
        self.contacts[:, :-1] = self.contacts[:, 1:]
        self.contacts[:, -1] = 0
        self.weight = after
        self.month += 1
        return Step(
            observation=self._observe(),
            reward=charge * there - cost,
            costs=np.stack((cost, contacted), axis=1),
            weight=weight,
            survival=survival,
            action=done,
            accepted=accepts,
            forbidden=wanted & ~may,
            refused=may & ~contacted,
            done=self.month == self.months,
        )

    def _accepts(self, who: Actions, what: Actions, answers: Floats) -> Bools:
        odds = self.drawn.odds[what - 1, who] - self.drawn.fatigue[what - 1, who] * self.tired[who]
        return np.asarray(answers[who] < self.world.acceptance_factor / (1 + np.exp(-odds)))

    def _admit(self, who: Actions, actions: Actions, answers: Floats, wallet: Wallet) -> Actions:
        """Those of `who` whose offers the wallet lets be made, in order of arrival."""
        arrivals = self._arrivals.random(self.customers)
        who = who[np.argsort(arrivals[who])]
        what = actions[who]
        # Only as many months as are left of the year are paid for in it.
        months = min(self.offers.months, self.months - self.month)
        liability = self.weight[who] * self._discount[what] * self.cohort.charge[who] * months
        p = self.believed.acceptance.probability(
            self.cohort.acceptance[who], self.cohort.spread[who], self._percent[what], self.tired[who]
        )
        p = np.minimum(1.0, self.believed.acceptance_factor * p)
        yes = self._accepts(who, what, answers)
        made = np.zeros(len(who), np.bool_)
        ends = np.searchsorted(arrivals[who], np.arange(1, self.world.answered + 1) / self.world.answered)
        for start, end in pairwise((0, *ends.tolist())):
            part = slice(start, end)
            admitted = wallet.admit(self.weight[who[part]] * self.offers.contact_cost, liability[part], p[part])
            wallet.settle(liability[part][admitted], p[part][admitted], yes[part][admitted])
            made[part] = admitted
        return who[made]

    def _observe(self) -> Singles:
        """What a policy sees at the start of a month; after the last one, a view that no decision follows from."""
        seen = self._observation
        month = min(self.month, self.months - 1)
        seen[:, self._grows] = (
            self.cohort.features[:, self._grows] + np.float32(month) * self.cohort.growth[:, self._grows]
        )
        columns = layout(
            self._risk[month], self._acceptance, self.contacts[:, -CONTACTS:].T, self._percent[self.running],
            self.months_left, self.accepted, self.declined, self.pace,
        )  # fmt: skip
        for position, column in enumerate(columns, self._f):
            seen[:, position] = column
        return seen.copy()

    @property
    def pace(self) -> float:
        """Share of the budget that is free, less share of the period that is left; between -1 and 1."""
        free = 1 - self.committed / self.budget if self.budget > 0 else 0.0
        return float(np.clip(free - (1 - self.month / self.months), -1, 1))


class Policy(Protocol):
    """What decides. `start` begins a year: what it returns is asked once a month, with observation and mask."""

    def start(self, rng: np.random.Generator) -> Callable[[Singles, Bools], Actions]: ...


@dataclass(frozen=True)
class Year:
    """What a policy made of a year; arrays (n,) in currency units, leaving integrated out.

    `net`: charges less discounts less contacts; `cost`: discounts and contacts; `run_rate`: what is charged for the
    month after the last one, discounts taken off; `contacts` (n,): their expected number. `offers`: made, by action.
    `refused`, `forbidden`: offers that wallet or mask kept from being made, of those wanted. `peak`: the most that was
    ever committed, to be held against the budget. `most_contacts`: of any customer within any window of the cap.
    """

    net: Floats
    cost: Floats
    run_rate: Floats
    contacts: Floats
    offers: NDArray[np.int64]
    refused: int
    forbidden: int
    peak: float
    most_contacts: int
    mode: str


def play(
    simulator: Simulator, policy: Policy, rng: np.random.Generator, wallet: Wallet | None, masked: bool = True
) -> Year:
    """One year. The world comes from `rng` alone, whatever the policy draws: two policies meet the same one.

    One that isn't `masked` is told that everything is allowed; the simulator still forbids, and counts what it would
    have done.
    """
    world, own = rng.spawn(2)
    observation = simulator.reset(world, wallet)
    decide = policy.start(own)
    n = simulator.customers
    net, cost, expected = np.zeros(n), np.zeros(n), np.zeros(n)
    contacts: list[Bools] = []
    offers = np.zeros(len(simulator.actions), np.int64)
    refused = forbidden = 0
    peak = 0.0
    for _ in range(simulator.months):
        mask = simulator.mask()
        step = simulator.step(decide(observation, mask if masked else np.ones_like(mask)))
        observation = step.observation
        net += step.weight * step.reward
        cost += step.weight * step.costs[:, 0]
        expected += step.weight * step.costs[:, 1]
        offers += np.bincount(step.action, minlength=len(offers))
        refused += int(step.refused.sum())
        forbidden += int(step.forbidden.sum())
        peak = max(peak, simulator.most_committed)
        contacts.append(step.action > 0)
    offers[0] = 0
    window = simulator.cap.window
    within = [np.sum(contacts[at : at + window], axis=0) for at in range(len(contacts))]
    return Year(
        net=net,
        cost=cost,
        run_rate=simulator.weight * simulator.cohort.charge * (1 - simulator.offers.discounts[simulator.running]),
        contacts=expected,
        offers=offers,
        refused=refused,
        forbidden=forbidden,
        peak=peak,
        most_contacts=int(max(part.max() for part in within)),
        mode="" if wallet is None else wallet.mode,
    )


def check_charges(charge: Floats, ids: NDArray[Any]) -> None:
    """Raises DataError, naming the customer, for a charge (n,) that is missing or not above 0."""
    bad = np.flatnonzero(~(np.isfinite(charge) & (charge > 0)))
    if len(bad):
        raise DataError(
            f"customer {ids[bad[0]]}: a monthly charge of {charge[bad[0]]:g}: NRR is a share of revenue, so every "
            "charge is above 0"
        )


def check(cohort: Cohort, world: World, offers: Offers, budget: float) -> None:
    """Raises DataError for customers or money that no year can be simulated with."""
    if not len(cohort):
        raise DataError("the cohort has no customers")
    for name, values in (("charge", cohort.charge), ("risk", cohort.risk), ("acceptance", cohort.acceptance)):
        bad = np.flatnonzero(~np.isfinite(values).reshape(len(cohort), -1).all(axis=1))
        if len(bad):
            raise DataError(f"customer {cohort.ids[bad[0]]}: {name} is not finite")
    for feature in np.flatnonzero(~(np.isfinite(cohort.features) & np.isfinite(cohort.growth)).all(axis=0)):
        known = np.isfinite(cohort.features[:, feature]) & np.isfinite(cohort.growth[:, feature])
        raise DataError(f"customer {cohort.ids[np.argmin(known)]}: feature {cohort.names[feature]!r} is not finite")
    check_charges(cohort.charge, cohort.ids)
    if ((cohort.acceptance <= 0) | (cohort.acceptance >= 1)).any():
        raise DataError("an acceptance of 0 or 1 has no odds: the bridge's cells lie between")
    if not np.isfinite(cohort.margin).all() or ((cohort.risk < 0) | (cohort.risk > 1)).any():
        raise DataError("a risk is no probability")
    if len(world.effect) != len(offers.levels):
        raise DataError(f"effect has {len(world.effect)} numbers for {len(offers.levels)} offers")
    if not 0 <= budget <= cohort.revenue:
        raise DataError(
            f"a budget of {budget:g} {offers.currency} against revenue of {cohort.revenue:g}: wants 0 or more, and less"
        )
