"""The simulated year of an experiment, and the years in which its assumptions are wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from retain.offers import Cap, Offers
from retain.wallet import Mode
from tasks.decision import baselines, cohort
from tasks.decision.simulator import Cohort, Policy, Simulator, World, Year

if TYPE_CHECKING:
    from tasks.config import Assumptions, DecisionConfig


@dataclass(frozen=True)
class Setting:
    """What every policy is given alike. `budget` is a share of months x the starting monthly revenue."""

    world: World
    offers: Offers
    cap: Cap
    budget: float
    mode: Mode

    @classmethod
    def of(cls, config: DecisionConfig, training: Cohort) -> Setting:
        offers, cap = config.offers, config.cap
        return cls(
            world=cohort.world(config.assumptions, training),
            offers=Offers(offers.levels, offers.months, offers.contact_cost, offers.currency),
            cap=Cap(cap.max_contacts, cap.window),
            budget=config.budget,
            mode=config.wallet,
        )

    def simulator(self, customers: Cohort, latents: bool = True, world: World | None = None) -> Simulator:
        """A year of `customers`; in another `world` wallets go on believing in this one."""
        budget = self.budget * customers.revenue
        happens = self.world if world is None else world
        return Simulator(customers, happens, self.offers, self.cap, budget, self.world, latents=latents)

    def play(self, simulator: Simulator, policy: Policy, years: int, seed: int, free: bool = False) -> list[Year]:
        """The same years for every policy; `free` of the wallet."""
        return baselines.compete(simulator, policy, years, seed, None if free else self.mode)


def changed(
    setting: Setting, assumptions: Assumptions, training: Cohort, customers: Cohort, change: Mapping[str, float]
) -> tuple[Cohort, World]:
    """Customers and world in which an assumption is wrong by `change`; levels that the assumptions set are set again.

    `acceptance` multiplies probabilities, `sleeping_dogs` their share, `fatigue` what a contact does to acceptance and
    to leaving; `label_months` is the other reading of the label; `risk_shuffled` shows policies somebody else's risk.
    """
    tired, dogs = assumptions.fatigue, assumptions.sleeping_dogs
    more = change.get("fatigue", 1.0)
    acceptance = assumptions.acceptance.model_copy(update={"fatigue": assumptions.acceptance.fatigue * more})
    other = assumptions.model_copy(
        update={
            "label_months": change.get("label_months", assumptions.label_months),
            "fatigue": tired.model_copy(update={"rate": tired.rate * more}),
            "sleeping_dogs": dogs.model_copy(
                update={"share": min(0.999, dogs.share * change.get("sleeping_dogs", 1.0))}
            ),
            "acceptance": acceptance,
        }
    )
    world = replace(cohort.world(other, training), acceptance_factor=change.get("acceptance", 1.0))
    if change.get("risk_shuffled"):
        order = np.random.default_rng([len(customers), 7]).permutation(len(customers))
        customers = replace(customers, risk=customers.risk[order])
    return customers, world
