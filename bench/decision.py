"""How fast a policy learns and decides, against the limit of the same machine in the same minutes.

    python -m bench.decision [--threads 2] [--years 12] [--rounds 5]

A step is one customer-month simulated and learned from. Its limit: a year simulated alone, the network asked alone, and
the optimiser's updates alone (forward, backward and Adam of the same network on minibatches of the same size), added
up. A round measures years of all of them, one after the other, and what counts is the best year of each, so that
others' work on the machine disturbs all alike. The cohort is made: speed doesn't depend on who the customers are.

Prints a table and writes bench/results/decision.json. Exits with 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from retain.wallet import Acceptance, Offers
from tasks.decision.ppo_lagrangian import Learner, Network, Settings
from tasks.decision.simulator import Cap, Cohort, Simulator, World

RESULTS = Path(__file__).parent / "results" / "decision.json"
CUSTOMERS, FEATURES, MONTHS, BUDGET = 4155, 36, 12, 0.03  # the training part of exp_001_mvp
LIMITS = {"share_of_limit": (">=", 0.7), "decision_us": ("<=", 15.0)}
DECISIONS = 20_000


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--years", type=int, default=12, help="iterations of PPO in a round")
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args(arguments)
    found = measure(made(CUSTOMERS), asked.threads, asked.years, asked.rounds) | {"threads": asked.threads}
    met = {name: found[name] >= limit if op == ">=" else found[name] <= limit for name, (op, limit) in LIMITS.items()}
    show(found, met)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")
    return 0 if all(met.values()) else 1


def made(customers: int) -> Simulator:
    """Customers drawn at random in the world of exp_001_mvp's assumptions."""
    rng = np.random.default_rng(0)
    margin = rng.normal(-1.5, 1.5, customers)[:, None] - 0.03 * np.arange(MONTHS)
    cohort = Cohort(
        ids=np.arange(customers),
        charge=rng.uniform(18, 118, customers),
        margin=margin,
        risk=1 / (1 + np.exp(-margin)),
        acceptance=rng.uniform(0.02, 0.4, customers),
        spread=np.full(customers, 0.8),
        features=rng.normal(size=(customers, FEATURES)).astype(np.float32),
        growth=np.tile(np.eye(1, FEATURES, dtype=np.float32), (customers, 1)),
        names=tuple(f"feature_{at}" for at in range(FEATURES)),
        opted_out=np.zeros(customers, np.bool_),
        groups={},
    )
    world = World(
        label_months=3,
        effect=(0.25, 0.55, 0.85, 1.25),
        effect_sd=0.2,
        hazard_sd=0.3,
        acceptance=Acceptance(level=-1.3, shrink=0.5, slope=1.1, unit=5.0, slope_sd=0.2, fatigue=0.4),
        dogs_level=-2.5,
        dogs_loyalty=0.5,
        dogs_rate=0.5,
        dogs_months=3,
        decay=0.6,
        tired_rate=0.05,
        answered=4,
    )
    return Simulator(cohort, world, Offers((0, 5, 10, 20), 6, 1.0, "USD"), Cap(2, 3), BUDGET * cohort.revenue)


def settings(simulator: Simulator) -> Settings:
    return Settings(
        iterations=1000,
        epochs=4,
        minibatches=12,
        hidden=(64, 64),
        learning_rate=2e-3,
        gae_lambda=0.95,
        clip=0.2,
        entropy=0.01,
        value_weight=0.5,
        limits=(simulator.budget / simulator.customers, 6.0),
        multipliers=(0.5, 0.0),
        pid=(0.0, 0.1, 0.0),
        price_spread=0.3,
        validate_every=1000,
        checkpoint_every=1000,
    )


def measure(simulator: Simulator, threads: int, years: int, rounds: int) -> dict[str, float]:
    """Steps a second of PPO and of its parts, each in its best year of all `rounds`."""
    learner = Learner(simulator, settings(simulator), seed=0, threads=threads)
    steps = simulator.customers * simulator.months
    parts: dict[str, Callable[[], object]] = {
        "ppo": learner.iterate,
        "simulator": lambda: simulated(simulator),
        "inference": asked(learner),
        "updates": updated(learner),
    }
    learner.iterate()
    best = dict.fromkeys(parts, float("inf"))
    for _ in range(rounds):
        for name, run in parts.items():
            for _ in range(years):
                started = time.perf_counter()
                run()
                best[name] = min(best[name], time.perf_counter() - started)
    found = {f"{name}_steps_per_s": steps / seconds for name, seconds in best.items()}
    limit = best["simulator"] + best["inference"] + best["updates"]
    return found | {
        "limit_steps_per_s": steps / limit,
        "share_of_limit": limit / best["ppo"],
        "decision_us": decision_us(learner, simulator),
    }


def simulated(simulator: Simulator) -> None:
    """A year of offers made to whoever may get one."""
    simulator.reset(np.random.default_rng(0))
    for month in range(simulator.months):
        simulator.step(np.where(simulator.mask()[:, 1], 1 + month % (len(simulator.actions) - 1), 0))


def asked(learner: Learner) -> Callable[[], None]:
    """The network's logits and values of a whole year."""
    workers = learner.workers
    months = [list(of_month.tensor_split(workers.threads)) for of_month in _inputs(learner)]

    def ask(month: int, part: torch.Tensor) -> None:
        with torch.no_grad():
            learner.network.month(part, month)

    def run() -> None:
        for month, parts in enumerate(months):
            workers(partial(ask, month), parts)

    return run


def updated(learner: Learner) -> Callable[[], None]:
    """An iteration's updates without an objective: forward, backward, Adam; shared by the same threads."""
    env, settings, workers = learner.env, learner.settings, learner.workers
    network = Network(len(env.observed) + 1, len(env.actions), env.months, 1 + len(env.constraints), settings.hidden)
    network.initialise(np.random.default_rng(0))
    parameters = network.parameters()
    optimizer = torch.optim.Adam(parameters, lr=1e-5, fused=True)
    minibatches = [
        [part.contiguous() for part in minibatch.tensor_split(workers.threads, dim=1)]
        for minibatch in _inputs(learner).tensor_split(settings.minibatches, dim=1)
    ]

    def descend(part: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs = network(part)
        return torch.autograd.grad(outputs, parameters, torch.ones_like(outputs))

    def run() -> None:
        for _ in range(settings.epochs):
            for minibatch in minibatches:
                for parameter, *by_part in zip(parameters, *workers(descend, minibatch)):
                    parameter.grad = sum(by_part[1:], by_part[0]).contiguous()
                optimizer.step()

    return run


def _inputs(learner: Learner) -> torch.Tensor:
    shape = (learner.env.months, learner.env.customers, len(learner.env.observed) + 1)
    return torch.from_numpy(np.random.default_rng(0).normal(size=shape).astype(np.float32))


def decision_us(learner: Learner, simulator: Simulator) -> float:
    """Microseconds of one decision, mask included, as the service makes it."""
    policy = learner.policy()
    observation, mask = simulator.reset(np.random.default_rng(0)), simulator.mask()
    rows = [(observation[at], mask[at]) for at in range(min(200, simulator.customers))]
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        for at in range(DECISIONS // 5):
            policy.choose(*rows[at % len(rows)])
        best = min(best, (time.perf_counter() - started) / (DECISIONS // 5))
    return 1e6 * best


def show(found: dict[str, float], met: dict[str, bool]) -> None:
    table = Table("figure", "measured", "target", title="The decision: speed")
    for name, value in found.items():
        target = " ".join(map(str, LIMITS[name])) if name in LIMITS else ""
        shown = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
        table.add_row(name, shown, target, style="" if met.get(name, True) else "red")
    Console().print(table)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
