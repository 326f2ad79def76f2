"""Policies side by side: what each brought on the same worlds, with intervals, and what one gains on another.

A policy's figures are sums over customers of means over years, divided by sums; their 95 % intervals come from a paired
bootstrap over customers, and over training seeds where a policy was trained more than once. Every policy is resampled
by the same draws, so a difference keeps what two policies have in common out of its interval.

NRR: net revenue / (12 x starting monthly revenue). Lift: NRR less that of no contact. Offer cost: discounts and
contacts, same base. Exit NRR: what the month after the last one is charged, of the starting monthly revenue. Attempted
overspend: what a policy would cost beyond the budget if no wallet stood in its way, as a share of the budget; below 0
it keeps to it by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.decision.simulator import Cohort, Floats, Year

NORMAL = 1.959963984540054  # 97.5 % of a normal distribution lie below
Metric = dict[str, Any]


@dataclass(frozen=True)
class Returns:
    """What a policy brought: (seeds, n) means over years, in currency units; one seed for what isn't trained.

    `attempted`: its cost without a wallet. `overdrawn`, `over_cap`, `fell_back` of `years` x seeds years each;
    `peak`: the most that was ever committed, as a share of the budget. A line that is no policy has no years, and
    None for what only a policy has; `price` is that of its budget.
    """

    net: Floats
    cost: Floats
    run_rate: Floats | None
    contacts: Floats | None
    attempted: Floats | None
    overdrawn: int
    over_cap: int
    fell_back: int
    peak: float
    years: int
    price: float = 0.0


def returns(
    budget: float, max_contacts: int, played: Sequence[Sequence[Year]], free: Sequence[Sequence[Year]]
) -> Returns:
    """Of the years each seed `played` with a wallet of `budget`, and `free` of one."""
    years = [year for of_seed in played for year in of_seed]
    return Returns(
        net=_means(played, "net"),
        cost=_means(played, "cost"),
        run_rate=_means(played, "run_rate"),
        contacts=_means(played, "contacts"),
        attempted=_means(free, "cost") if free else None,
        overdrawn=sum(year.peak > budget * (1 + 1e-9) for year in years),
        over_cap=sum(year.most_contacts > max_contacts for year in years),
        fell_back=sum(year.mode == "worst_case" for year in years),
        peak=max(year.peak for year in years) / budget,
        years=len(years),
    )


def _means(years: Sequence[Sequence[Year]], name: str) -> Floats:
    return np.array([np.mean([getattr(year, name) for year in of_seed], axis=0) for of_seed in years])


@dataclass(frozen=True)
class Resamples:
    """How often each customer (1 + b, n), and each seed (1 + b, seeds), counts; the first row counts each once."""

    customers: Floats
    seeds: Floats

    @classmethod
    def draw(cls, customers: int, seeds: int, resamples: int, rng: np.random.Generator) -> Resamples:
        def counts(size: int) -> Floats:
            drawn = rng.multinomial(size, np.full(size, 1 / size), size=resamples)
            return np.concatenate((np.ones((1, size)), drawn)).astype(np.float64)

        return cls(counts(customers), counts(seeds))

    def sums(self, values: Floats, who: NDArray[np.bool_] | None = None) -> Floats:
        """(1 + b,) sums over customers (those of `who`), mean over seeds, of (seeds, n) or (n,)."""
        values = np.atleast_2d(values)
        if who is not None:
            values = values * who
        of_seeds = self.customers @ values.T
        if len(values) == 1:
            return np.asarray(of_seeds[:, 0])
        return np.asarray((of_seeds * self.seeds).sum(axis=1) / self.seeds.sum(axis=1))


class Comparison:
    """The policies of one cohort by name; the first is no contact, from which lift is measured."""

    def __init__(
        self,
        cohort: Cohort,
        budget: float,
        at_risk_from: float,
        policies: Mapping[str, Returns],
        resamples: int,
        rng: np.random.Generator,
    ) -> None:
        self.budget, self.policies = budget, dict(policies)
        self.at_risk = np.asarray(cohort.risk[:, 0] >= at_risk_from)
        self.months = cohort.margin.shape[1]
        self.charge = cohort.charge
        self.base = next(iter(self.policies))
        seeds = max(len(found.net) for found in self.policies.values())
        self.drawn = Resamples.draw(len(cohort), seeds, resamples, rng)
        self.revenue = self.drawn.sums(self.months * self.charge)
        self.nrr = {name: self.drawn.sums(found.net) / self.revenue for name, found in self.policies.items()}
        self.cost = {name: self.drawn.sums(found.cost) / self.revenue for name, found in self.policies.items()}
        self.lift = {name: nrr - self.nrr[self.base] for name, nrr in self.nrr.items()}

    def nrr_at_risk(self, name: str) -> Floats:
        """(1 + b,) of the customers at risk alone."""
        revenue = self.drawn.sums(self.months * self.charge, self.at_risk)
        return self.drawn.sums(self.policies[name].net, self.at_risk) / np.maximum(revenue, 1e-12)

    def row(self, name: str) -> dict[str, Any]:
        """One line of the table: each figure with its interval, None where a line has no such figure."""
        found = self.policies[name]
        exits, tried = found.run_rate, found.attempted
        revenue = self.drawn.sums(self.charge)
        return {
            "policy": name,
            "nrr": metric(self.nrr[name]),
            "lift": metric(self.lift[name]),
            "nrr_at_risk": metric(self.nrr_at_risk(name)),
            "exit_nrr": None if exits is None else metric(self.drawn.sums(exits) / revenue),
            "offer_cost": metric(self.cost[name]),
            "attempted_overspend": None if tried is None else metric(self.attempted_overspend(tried)),
            "executed_violations": share(found.overdrawn, found.years) if found.years else None,
            "over_cap": share(found.over_cap, found.years) if found.years else None,
        }

    def attempted_overspend(self, attempted: Floats) -> Floats:
        return self.drawn.sums(attempted) / self.revenue / self.budget - 1

    def gain(self, values: Mapping[str, Floats], name: str, against: str) -> Metric:
        """By how much `name` passes `against`, as a share of it."""
        return metric(values[name] / _nonzero(values[against]) - 1)

    def share_of(self, name: str, line: str) -> Metric:
        """What `name` reaches of the lift of `line`."""
        return metric(self.lift[name] / _nonzero(self.lift[line]))

    def lift_of(self, name: str, who: NDArray[np.bool_]) -> Metric:
        """Lift of some customers, as a share of their own revenue."""
        revenue = np.maximum(self.drawn.sums(self.months * self.charge, who), 1e-12)
        nets = [self.drawn.sums(self.policies[policy].net, who) for policy in (name, self.base)]
        return metric((nets[0] - nets[1]) / revenue)


def metric(values: Floats) -> Metric:
    """Of the value and its resamples."""
    low, high = np.quantile(values[1:], (0.025, 0.975))
    return {"value": float(values[0]), "ci": [float(low), float(high)]}


def share(hits: int, of: int) -> Metric:
    """A share of independent trials, with Wilson's interval (1927): 0 of 100 still leaves up to .037."""
    p, z = hits / of, NORMAL
    centre = (p + z**2 / (2 * of)) / (1 + z**2 / of)
    half = z * np.sqrt(p * (1 - p) / of + z**2 / (4 * of**2)) / (1 + z**2 / of)
    # At the ends the formula is 0 or 1 but for rounding.
    low, high = (0.0 if hits == 0 else centre - half), (1.0 if hits == of else centre + half)
    return {"value": p, "ci": [float(low), float(high)]}


def _nonzero(values: Floats) -> Floats:
    return np.where(np.abs(values) > 1e-12, values, 1e-12)
