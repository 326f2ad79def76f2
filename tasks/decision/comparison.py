"""Policies side by side: what each brought on the same worlds, with intervals, and what one gains on another.

A policy's figures are sums over customers of means over years, divided by sums; their 95 % intervals come from a paired
bootstrap over customers, and over training seeds where a policy was trained more than once. Every policy is resampled
by the same draws, so a difference keeps what two policies have in common out of its interval.

NRR: net revenue / (12 x starting monthly revenue). Lift: NRR less that of no contact. Offer cost: discounts and
contacts, same base. Exit NRR: what the month after the last one is charged, of the starting monthly revenue. Attempted
overspend: what a policy costs beyond the budget where no wallet stands in its way, as a share of the budget, mean over
years (a year below it makes good for none). Attempted contacts: of the offers it would make if it knew no mask, those
that cap, running offers and opt-outs forbid. Refused: of the offers it wants and may make, those that the wallet
doesn't admit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retain.intervals import percentiles, wilson
from tasks.decision.simulator import Cohort, Floats, Year

Metric = dict[str, Any]
# Figures that only a policy has, and no line.
OF_POLICIES = (
    "exit_nrr",
    "attempted_overspend",
    "attempted_contacts",
    "refused",
    "executed_violations",
    "over_cap",
)


@dataclass(frozen=True)
class Returns:
    """What a policy brought: `net` and `cost` (seeds, n), means over years, in currency units; one seed for what isn't
    trained. A line that is no policy has a `price`, and nets of its own for customers at risk.

    `played`, of a policy: `run_rate`, `contacts` (seeds, n) means over years; `attempted` (seeds, years, n) cost
    without a wallet; and (seeds, years): `peak`, the most that was committed, as a share of the budget; `most_contacts`
    of any customer within a window of the cap; offers `made`, `refused` by the wallet, and, of a policy that knows no
    mask, `wanted` and `forbidden`; `fell_back`, 1 if the wallet went over to worst_case.
    """

    net: Floats
    cost: Floats
    net_at_risk: Floats
    price: float
    played: Mapping[str, Floats]


def returns(budget: float, held: Sequence[Sequence[Year]], free: Sequence[Sequence[Year]]) -> Returns:
    """Of the years that each seed played `held` by mask and wallet, and `free` of both."""

    def of(years: Sequence[Sequence[Year]], figure: Callable[[Year], Any]) -> Floats:
        return np.array([[figure(year) for year in of_seed] for of_seed in years], dtype=np.float64)

    net = of(held, lambda year: year.net).mean(axis=1)
    cost = of(held, lambda year: year.cost).mean(axis=1)
    played = {
        "run_rate": of(held, lambda year: year.run_rate).mean(axis=1),
        "contacts": of(held, lambda year: year.contacts).mean(axis=1),
        "attempted": of(free, lambda year: year.cost),
        "peak": of(held, lambda year: year.peak / budget),
        "most_contacts": of(held, lambda year: year.most_contacts),
        "made": of(held, lambda year: year.offers.sum()),
        "refused": of(held, lambda year: year.refused),
        "wanted": of(free, lambda year: year.offers.sum() + year.forbidden),
        "forbidden": of(free, lambda year: year.forbidden),
        "fell_back": of(held, lambda year: year.mode == "worst_case"),
    }
    return Returns(net, cost, net, 0.0, played)


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

    def by_seed(self, values: Floats) -> Floats:
        """(1 + b, seeds) sums over customers of (seeds, n) or (n,)."""
        return np.asarray(self.customers @ np.atleast_2d(values).T)

    def mean(self, of_seeds: Floats) -> Floats:
        """(1 + b,) means over seeds of (1 + b, seeds); what was not trained has one."""
        if of_seeds.shape[1] == 1:
            return np.asarray(of_seeds[:, 0])
        return np.asarray((of_seeds * self.seeds).sum(axis=1) / self.seeds.sum(axis=1))

    def sums(self, values: Floats, who: NDArray[np.bool_] | None = None) -> Floats:
        """(1 + b,) sums over customers (those of `who`), mean over seeds, of (seeds, n) or (n,)."""
        return self.mean(self.by_seed(values if who is None else values * who))


class Comparison:
    """The policies of one cohort by name; the first is no contact, from which lift is measured."""

    def __init__(
        self,
        cohort: Cohort,
        budget: float,
        max_contacts: int,
        at_risk_from: float,
        policies: Mapping[str, Returns],
        resamples: int,
        rng: np.random.Generator,
    ) -> None:
        self.budget, self.max_contacts, self.policies = budget, max_contacts, dict(policies)
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
        return self.drawn.sums(self.policies[name].net_at_risk, self.at_risk) / np.maximum(revenue, 1e-12)

    def row(self, name: str) -> dict[str, Any]:
        """One line of the table: each figure with its interval, None where a line has no such figure."""
        row = {
            "policy": name,
            "nrr": metric(self.nrr[name]),
            "lift": metric(self.lift[name]),
            "nrr_at_risk": metric(self.nrr_at_risk(name)),
            "offer_cost": metric(self.cost[name]),
        }
        of = self.policies[name].played
        if not of:
            return row | dict.fromkeys(OF_POLICIES)
        return row | {
            "exit_nrr": metric(self.drawn.sums(of["run_rate"]) / self.drawn.sums(self.charge)),
            "attempted_overspend": metric(self.attempted_overspend(name)),
            "attempted_contacts": over_years(of["forbidden"], of["wanted"]),
            "refused": over_years(of["refused"], of["refused"] + of["made"]),
            "executed_violations": hit(of["peak"] > 1 + 1e-9),
            "over_cap": hit(of["most_contacts"] > self.max_contacts),
        }

    def attempted_overspend(self, name: str) -> Floats:
        """(1 + b,)"""
        limit = self.budget * self.revenue[:, None]
        years = self.policies[name].played["attempted"].swapaxes(0, 1)
        over = [np.maximum(0.0, self.drawn.by_seed(of_year) / limit - 1) for of_year in years]
        return self.drawn.mean(np.mean(over, axis=0))

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
    return {"value": float(values[0]), "ci": list(percentiles(values[1:]))}


def share(hits: int, of: int) -> Metric:
    """A share of independent trials, with Wilson's interval: 0 of 100 still leaves up to .037."""
    return {"value": hits / of, "ci": list(wilson(hits, of))}


def hit(years: NDArray[np.bool_]) -> Metric:
    """Share of the simulated worlds in which any seed's (seeds, years) did it: seeds meet the same worlds."""
    return share(int(years.any(axis=0).sum()), years.shape[1])


def over_years(hits: Floats, of: Floats) -> Metric:
    """A share of counts (seeds, years), with the range of the middle 95 % of the years."""
    each = hits / np.maximum(of, 1)
    return {"value": float(hits.sum() / max(of.sum(), 1.0)), "ci": list(percentiles(each))}


def _nonzero(values: Floats) -> Floats:
    return np.where(np.abs(values) > 1e-12, values, 1e-12)
