"""How fast a policy learns and decides: against the limit of the same machine, and beside Stable-Baselines3.

    python -m bench.decision [--threads 2] [--years 12] [--rounds 5]

A step is one customer-month simulated and learned from. Its limit: a year simulated alone, the network asked alone, and
the optimiser's updates alone (forward, backward and Adam of the same network on minibatches of the same size), added
up; all by the same threads, who share them in the same way. A round measures years of all of them, one after the other,
and what counts is the best year of each, so that others' work on the machine disturbs all alike.

Beside it Stable-Baselines3's PPO on the same simulator, twice. `whole_cohort`: a VecEnv with an environment for each
customer and n_steps of a year, its network 64-64 with one body as ours, minibatches and epochs as ours; torch's threads
are one or all, whichever is faster. `documented`: make_vec_env of four environments of one customer each, everything
else by default (10 epochs of minibatches of 64), on one thread. Neither has constraints, masks or more than one value
to learn.

Customers are made (speed doesn't depend on who they are); everything else is stated by exp_001_mvp. Lift is that of the
likeliest actions under the wallet, over no contact; `time_to_98_s` are seconds of training until 98 % of the final one,
from when on it stays there, `peak_memory_gb` the process' until then. `decision_us` is what the service does to have a
learned decision about a customer whose case is known: what forbids a contact, what the policy observes, its likeliest
action; the wallet is measured by bench/serving.py.

Prints a table and writes bench/results/decision.json. Exits with 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from engine import config
from retain.decision import Case, History, Terms, forbidden, observe, pace
from retain.policy import Policy
from tasks.config import DecisionConfig, Experiment
from tasks.decision import train
from tasks.decision.baselines import Nobody, compete
from tasks.decision.evaluation import Learned
from tasks.decision.ppo_lagrangian import Learner, Network, Settings
from tasks.decision.simulator import Cohort, Simulator
from tasks.decision.worlds import Setting

RESULTS = Path(__file__).parent / "results" / "decision.json"
CUSTOMERS, FEATURES = 4155, 36  # the training part of exp_001_mvp
LIMITS = {
    "share_of_limit": (">=", 0.7),
    "times_whole_cohort": (">=", 3.0),
    "times_documented": (">=", 20.0),
    "time_to_98_s": ("<=", 60.0),
    "peak_memory_gb": ("<=", 2.0),
    "decision_us": ("<=", 15.0),
}
DECISIONS = 20_000
LOOK_EVERY = 4  # iterations, when lift is followed


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--years", type=int, default=12, help="iterations of PPO in a round")
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args(arguments)
    stated = config.validate(config.load(config.experiment_path("exp_001_mvp")), Experiment).stages.decision
    simulator, settings = made(stated, CUSTOMERS)
    found = {"threads": float(asked.threads)}
    found |= measure(simulator, settings, asked.threads, asked.years, asked.rounds)
    found |= followed(simulator, settings, asked.threads)
    found["decision_us"] = decision_us(stated, simulator, Learner(simulator, settings, 0, asked.threads).policy())
    found["peak_memory_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    beside = stable_baselines(simulator, settings, asked.threads, partial(made, stated, 1))
    for name, speed in beside.items():
        found |= {f"sb3_{name}_steps_per_s": speed, f"times_{name}": found["ppo_steps_per_s"] / speed}
    met = {
        name: found[name] >= limit if op == ">=" else found[name] <= limit
        for name, (op, limit) in LIMITS.items()
        if name in found
    }
    show(found, met)
    if not beside:
        Console().print("Stable-Baselines3 is not installed, so nothing is measured beside: pip install -e '.[bench]'")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return 0 if all(met.values()) else 1


def made(stated: DecisionConfig, customers: int) -> tuple[Simulator, Settings]:
    """The simulated year of customers drawn at random, and how it is learned."""
    rng = np.random.default_rng(0)
    margin = rng.normal(-1.5, 1.5, customers)[:, None] - 0.03 * np.arange(stated.months)
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
    setting = Setting.of(stated, cohort)
    return setting.simulator(cohort), train.settings(stated, setting, cohort)


def measure(simulator: Simulator, settings: Settings, threads: int, years: int, rounds: int) -> dict[str, float]:
    """Steps a second of PPO and of its parts, each in its best year of all `rounds`."""
    learner = Learner(simulator, settings, seed=0, threads=threads)
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


def decision_us(stated: DecisionConfig, simulator: Simulator, policy: Policy) -> float:
    """Microseconds of one learned decision, as the service makes it, up to the wallet; the best of five rounds."""
    cohort, setting = simulator.cohort, Setting.of(stated, simulator.cohort)
    terms = Terms.from_json(
        train.terms(stated, setting, cohort.revenue, 0.3) | {"rule": {"rule": "threshold", "reasons": 5}}
    )
    wallet, history = terms.new_wallet(), History(contacts=(1, 0, 0), declined=1)  # free to be contacted
    cases = [
        Case(
            features=cohort.features[at],
            risk=float(cohort.risk[at, 0]),
            acceptance=float(cohort.acceptance[at]),
            spread=float(cohort.spread[at]),
            charge=float(cohort.charge[at]),
            history=history,
            opted_out=False,
        )
        for at in range(min(200, len(cohort)))
    ]
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        for at in range(DECISIONS // 5):
            case = cases[at % len(cases)]
            if forbidden(terms, case.history, case.opted_out) is None:
                policy.best(observe(case, pace(wallet, 1.0)))
        best = min(best, (time.perf_counter() - started) / (DECISIONS // 5))
    return 1e6 * best


def followed(simulator: Simulator, settings: Settings, threads: int) -> dict[str, float]:
    """A whole training, and when its policy had got where it ends."""
    started, looking, lifts = time.perf_counter(), 0.0, list[tuple[float, float]]()
    learner = Learner(simulator, settings, seed=0, threads=threads)
    base = lift_of(simulator, None)
    while learner.iteration < settings.iterations:
        learner.iterate()
        if learner.iteration % LOOK_EVERY == 0 or learner.iteration == settings.iterations:
            seconds = time.perf_counter() - started - looking
            lifts.append((seconds, lift_of(simulator, learner.policy()) - base))
            looking = time.perf_counter() - started - seconds
    final = lifts[-1][1]
    short = [at for at, (_, lift) in enumerate(lifts) if lift < 0.98 * final]
    return {"training_s": lifts[-1][0], "time_to_98_s": lifts[short[-1] + 1 if short else 0][0], "final_lift": final}


def lift_of(simulator: Simulator, policy: Policy | None) -> float:
    """NRR under the wallet of the likeliest actions, or of no contact, in the same two years."""
    years = compete(simulator, Nobody() if policy is None else Learned(policy), 2, 1, "expected")
    return float(np.mean([year.net.sum() for year in years])) / simulator.cohort.revenue


def stable_baselines(
    simulator: Simulator,
    settings: Settings,
    threads: int,
    single: Callable[[], tuple[Simulator, Settings]],
    iterations: int = 5,
) -> dict[str, float]:
    """Steps a second of Stable-Baselines3's PPO in its best iteration; nothing if it isn't installed."""
    try:
        import gymnasium
        from stable_baselines3 import PPO
        from stable_baselines3.common.callbacks import BaseCallback
        from stable_baselines3.common.env_util import make_vec_env
        from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
        from stable_baselines3.common.vec_env import VecEnv
    except ImportError:
        return {}
    spaces = gymnasium.spaces
    box = spaces.Box(-np.inf, np.inf, (len(simulator.observed),), np.float32)
    choice = spaces.Discrete(len(simulator.actions))

    class Year:
        """The simulator, its reward less what offers cost at a price; a new year follows each."""

        def __init__(self, simulator: Simulator) -> None:
            self.simulator, self.rng, self.nothing = simulator, np.random.default_rng(0), {}

        def reset(self) -> Any:
            return self.simulator.reset(self.rng.spawn(1)[0])

        def step(self, actions: Any) -> tuple[Any, Any, bool]:
            step = self.simulator.step(actions)
            return step.observation, (step.reward - 0.5 * step.costs[:, 0]).astype(np.float32), step.done

    class WholeCohort(VecEnv):
        """An environment for each customer; all of them are at the same month."""

        def __init__(self) -> None:
            super().__init__(simulator.customers, box, choice)
            self.year, self.infos = Year(simulator), [{} for _ in range(simulator.customers)]

        def reset(self) -> Any:
            return self.year.reset()

        def step_async(self, actions: Any) -> None:
            self.actions = actions

        def step_wait(self) -> Any:
            observation, reward, done = self.year.step(self.actions)
            return (self.reset() if done else observation), reward, np.full(self.num_envs, done), self.infos

        def close(self) -> None: ...

        def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
            return [getattr(self, attr_name, None)] * self.num_envs

        def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None: ...

        def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
            return []

        def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
            return [False] * self.num_envs

    class OneCustomer(gymnasium.Env):  # type: ignore[type-arg]
        observation_space, action_space = box, choice

        def __init__(self) -> None:
            self.year = Year(single()[0])

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            return self.year.reset()[0], {}

        def step(self, action: Any) -> Any:
            observation, reward, done = self.year.step(np.array([action]))
            return observation[0], float(reward[0]), done, False, {}

    class Body(BaseFeaturesExtractor):
        """The hidden layers, which policy and value share."""

        def __init__(self, space: Any) -> None:
            super().__init__(space, settings.hidden[-1])
            layers: list[torch.nn.Module] = []
            for width, wider in pairwise([*space.shape, *settings.hidden]):
                layers += [torch.nn.Linear(width, wider), torch.nn.Tanh()]
            self.layers = torch.nn.Sequential(*layers)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.layers(inputs)

    class Clock(BaseCallback):
        """When each rollout begins: from one to the next is an iteration."""

        def __init__(self) -> None:
            super().__init__()
            self.starts: list[float] = []

        def _on_rollout_start(self) -> None:
            self.starts.append(time.perf_counter())

        def _on_step(self) -> bool:
            return True

    def speed(model: PPO, iterations: int) -> float:
        steps, clock = model.n_envs * model.n_steps, Clock()
        model.learn(iterations * steps, callback=clock)
        return steps / min(np.diff([*clock.starts, time.perf_counter()]))

    whole = []
    for used in sorted({1, threads}):
        torch.set_num_threads(used)
        model = PPO(
            "MlpPolicy",
            WholeCohort(),
            n_steps=simulator.months,
            batch_size=simulator.customers * simulator.months // settings.minibatches,
            n_epochs=settings.epochs,
            policy_kwargs={"features_extractor_class": Body, "net_arch": []},
            device="cpu",
        )
        whole.append(speed(model, iterations))
    torch.set_num_threads(1)  # nothing in minibatches of 64 is worth sharing, and waiting for others is slow
    documented = PPO("MlpPolicy", make_vec_env(OneCustomer, n_envs=4), device="cpu")
    return {"whole_cohort": max(whole), "documented": speed(documented, 1)}


def show(found: dict[str, float], met: dict[str, bool]) -> None:
    table = Table("figure", "measured", "target", title="The decision: speed")
    for name, value in found.items():
        target = " ".join(map(str, LIMITS[name])) if name in LIMITS else ""
        shown = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
        table.add_row(name, shown, target, style="" if met.get(name, True) else "red")
    Console().print(table)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
