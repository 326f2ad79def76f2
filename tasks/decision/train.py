"""`decision`: learns whom to contact with what, and shows what that is worth.

In this order, each part kept in the checkpoint once it is finished: the baselines learn from a random test and are
tuned, all on training customers; PPO is trained once per seed, and of each training the checkpoint that did best on
validation customers is taken; then everything meets the customers of `evaluation.part`, once.

Nothing is tuned on those. One scalar of every policy is refitted there without any outcome, in years of mean
parameters: a baseline's for the most NRR that is foreseen; the price of PPO and of the DP on features for what they may
cost. On validation customers that is `evaluation.cost` x what the best baseline costs; on those compared, what a year
would have been foreseen to cost there. The best baseline is the one of highest NRR on training customers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.errors import DataError
from engine.finished import Finished
from retain.policy import Policy
from tasks.decision import baselines, cohort, evaluation, ppo_lagrangian
from tasks.decision.baselines import Fitted, Tuned
from tasks.decision.evaluation import Customers, Learned, Rivals
from tasks.decision.simulator import Cohort
from tasks.decision.worlds import Setting

if TYPE_CHECKING:
    from engine.stage import Metrics, Workspace
    from tasks.config import DecisionConfig

LEARNER = "learner/"  # where a checkpoint keeps the seed in hand


def load(config: DecisionConfig, inputs: Mapping[str, Path]) -> Customers:
    """Raises DataError for customers that no policy can be trained on."""
    training, validation = (cohort.load(inputs, part, config.months) for part in ("train", "validation"))
    if len(training) < config.ppo.minibatches:
        raise DataError(
            f"{len(training)} training customers for {config.ppo.minibatches} minibatches: wants one each or more"
        )
    part = config.evaluation.part
    return Customers(
        training, validation, validation if part == "validation" else cohort.load(inputs, part, config.months)
    )


def run(config: DecisionConfig, inputs: Mapping[str, Path], workspace: Workspace) -> Metrics:
    """Writes policy.json, terms.json, tuning.json, curves.parquet and what evaluation.evaluate writes."""
    customers = load(config, inputs)
    revenue = cohort.revenue(inputs, config.months)  # now: it refuses charges that nothing else looks at
    setting = Setting.of(config, customers.training)
    finished = Finished.resume(workspace)
    steps = Steps(config)

    fitted = fit_baselines(config, setting, customers.training, finished, workspace, steps)
    tuned = tune_baselines(config, setting, customers.training, fitted, finished, workspace, steps)
    trained = {
        training.name: train_policy(config, training, customers, finished, workspace, steps, steps.of_training(at))
        for at, training in enumerate(trainings(config, setting, workspace.seed))
    }

    keep = keeper(finished, workspace, steps)
    rivals = price_all(config, setting, customers, fitted, tuned, trained, workspace.seed, keep)
    policy = replace(rivals.learned[rivals.chosen].validation, medians=customers.training.medians)
    workspace.out.bytes("policy.json", policy.to_json())
    workspace.out.json("terms.json", terms(config, setting, revenue, tuned["threshold"].best["threshold"]))
    workspace.out.json("tuning.json", {name: _searched(found) for name, found in tuned.items()})
    of_seeds = [trained[f"seed-{at}"][1] for at in range(config.seeds)]
    workspace.out.parquet("curves.parquet", curves(of_seeds, customers.training, config))
    return evaluation.evaluate(config, setting, customers, rivals, workspace, keep)


class Steps:
    """How far the stage is: an iteration of PPO is a step, and so is every other part that is kept."""

    def __init__(self, config: DecisionConfig) -> None:
        self.iterations = config.ppo.iterations
        self.before = 1 + len(config.baselines)  # the random test, and each baseline's search
        asked = config.evaluation
        others = sum(budget != config.budget for budget in asked.budgets)
        self.trained = self.of_training(config.seeds + others)
        # Of the evaluation: each scalar, each policy and line, each world, each budget, looking back.
        scalars, lines = len(config.baselines) + config.seeds, 1 + len(config.baselines) + 3
        self.total = self.trained + scalars + lines + 1 + len(asked.worlds) + len(asked.budgets) + 1

    def of_training(self, at: int) -> int:
        """How many come before it."""
        return self.before + at * self.iterations


def keeper(finished: Finished, workspace: Workspace, steps: Steps) -> evaluation.Keep:
    """Keeps the parts of the evaluation; one that is kept already isn't made again."""
    at = steps.trained

    def keep(name: str, make: Callable[[], bytes]) -> bytes:
        nonlocal at
        at += 1
        key = f"evaluation/{name}"
        if key not in finished.files:
            finished.keep(workspace, at, {key: make()})
            workspace.progress(at, steps.total)
        return finished.files[key]

    return keep


def fit_baselines(
    config: DecisionConfig, setting: Setting, training: Cohort, finished: Finished, workspace: Workspace, steps: Steps
) -> Fitted:
    """Thompson's and uplift's models, of one random test on training customers."""
    simulator = setting.simulator(training)
    if "thompson.npz" not in finished.files:
        learnt = baselines.log(simulator, config.search.log_years, np.random.default_rng([workspace.seed, 2]))
        thompson = baselines.Thompson.fit(learnt, simulator.observed, len(setting.offers.levels))
        trees = {f"uplift/{name}": data for name, data in baselines.Uplift.fit(learnt).to_files().items()}
        finished.keep(workspace, 1, {"thompson.npz": thompson.to_bytes(), **trees})
        workspace.progress(1, steps.total)
    # Also when just fitted: what was kept is what is used, interrupted or not.
    return Fitted(
        baselines.fixed(simulator, config.threshold_offer),
        baselines.Thompson.from_bytes(finished.files["thompson.npz"]),
        baselines.Uplift.from_files(finished.part("uplift/")),
    )


def tune_baselines(
    config: DecisionConfig,
    setting: Setting,
    training: Cohort,
    fitted: Fitted,
    finished: Finished,
    workspace: Workspace,
    steps: Steps,
) -> dict[str, Tuned]:
    """name -> the tuned baseline; each with the same number of evaluations, in the same years."""
    simulator, search, found = setting.simulator(training), config.search, dict[str, Tuned]()
    for at, name in enumerate(config.baselines, start=2):
        key = f"tuning/{name}.json"
        if key not in finished.files:
            done = baselines.search(
                simulator, fitted, name, search.evaluations, search.years, workspace.seed, setting.mode
            )
            finished.keep(workspace, at, {key: json.dumps([dict(one) for one in done.evaluations]).encode()})
            workspace.progress(at, steps.total, nrr=done.best["nrr"], cost=done.best["cost"])
        tried = json.loads(finished.files[key])
        best = max(tried, key=lambda one: one["nrr"])
        found[name] = Tuned(fitted.policy(name, best), best, tuple(tried))
    return found


@dataclass(frozen=True)
class Training:
    """One policy to train: for a seed, and one more for each other budget of the budget-to-lift curve."""

    name: str
    setting: Setting
    seed: int


def trainings(config: DecisionConfig, setting: Setting, seed: int) -> list[Training]:
    others = [budget for budget in config.evaluation.budgets if budget != config.budget]
    return [Training(f"seed-{at}", setting, seed + at) for at in range(config.seeds)] + [
        Training(f"budget-{budget:g}", replace(setting, budget=budget), seed) for budget in others
    ]


def train_policy(
    config: DecisionConfig,
    training: Training,
    customers: Customers,
    finished: Finished,
    workspace: Workspace,
    steps: Steps,
    before: int,
) -> tuple[Policy, list[dict[str, float]]]:
    """The policy that did best on validation customers, and its curves; `before` steps come before its first."""
    key, setting = f"{training.name}/", training.setting
    if f"{key}policy.json" not in finished.files:
        unit = len(customers.training) / customers.training.revenue
        result = ppo_lagrangian.train(
            setting.simulator(customers.training),
            settings(config, setting, customers.training),
            seed=training.seed,
            threads=workspace.threads,
            validate=lambda policy: evaluation.on_validation(
                setting, customers.validation, Learned(policy), workspace.seed
            )[0],
            resume=finished.part(LEARNER) or None,
            save=lambda iteration, files: workspace.save(
                before + iteration, finished.files | {LEARNER + name: data for name, data in files.items()}
            ),
            should_stop=workspace.should_stop,
            checkpoint_due=workspace.checkpoint_due,
            progress=lambda iteration, _, figures: workspace.progress(
                before + iteration,
                steps.total,
                nrr=figures["reward"] * unit,
                cost=figures["cost_offer_cost"] * unit,
            ),
        )
        # The next save keeps it; until then the learner's own last one does.
        finished.drop(LEARNER)
        content = {"policy.json": result.policy.to_json(), "curves.json": json.dumps(result.curves).encode()}
        finished.files |= {key + name: data for name, data in content.items()}
    policy = Policy.from_json(finished.files[f"{key}policy.json"])
    return policy, json.loads(finished.files[f"{key}curves.json"])


def price_all(
    config: DecisionConfig,
    setting: Setting,
    customers: Customers,
    fitted: Fitted,
    tuned: Mapping[str, Tuned],
    trained: Mapping[str, tuple[Policy, list[dict[str, float]]]],
    seed: int,
    keep: evaluation.Keep,
) -> Rivals:
    """Sets everybody's one scalar, and picks the policy to deploy: the best of the seeds on validation customers."""
    validation, target = customers.validation, customers.target
    best = max(tuned, key=lambda name: tuned[name].best["nrr"])
    limit = config.evaluation.cost * evaluation.on_validation(setting, validation, tuned[best].policy, seed)[1]
    refitted = {}
    for name, found in tuned.items():
        scalar = evaluation.kept_json(
            keep, f"refit/{name}", evaluation.refit, setting, target, fitted, name, found.best, seed
        )
        refitted[name] = fitted.policy(name, scalar)
    learned = []
    for at in range(config.seeds):
        network = trained[f"seed-{at}"][0]
        prices = evaluation.kept_json(
            keep, f"prices/{at}", evaluation.prices, setting, validation, target, network, limit, seed
        )
        learned.append(evaluation.Priced(*(network.at(price) for price in prices)))
    nrr = [evaluation.on_validation(setting, validation, Learned(of.validation), seed)[0] for of in learned]
    chosen = int(np.argmax(nrr))
    of_budget = {share: trained.get(f"budget-{share:g}") for share in config.evaluation.budgets}
    return Rivals(
        baselines=refitted,
        fitted=fitted,
        best=best,
        learned=tuple(learned),
        chosen=chosen,
        by_budget={share: found[0] for share, found in of_budget.items() if found is not None},
        limit=limit,
    )


def settings(config: DecisionConfig, setting: Setting, training: Cohort) -> ppo_lagrangian.Settings:
    """PPO's, its limits in currency units and contacts of one customer and year."""
    limits = (setting.budget * training.revenue / len(training), config.ppo.contacts)
    return ppo_lagrangian.Settings(**config.ppo.model_dump(exclude={"contacts"}), limits=limits)


def terms(config: DecisionConfig, setting: Setting, revenue: float, threshold: float) -> dict[str, Any]:
    """What holds for whoever decides in service; the budget in currency, of all customers of the table."""
    acceptance = setting.world.acceptance
    return {
        "offers": config.offers.model_dump(mode="json"),
        "cap": config.cap.model_dump(mode="json"),
        "acceptance": {name: getattr(acceptance, name) for name in acceptance.__dataclass_fields__},
        "decay": setting.world.decay,
        "wallet": setting.mode,
        "budget": {"share": setting.budget, "months": config.months, "amount": setting.budget * revenue},
        "threshold": threshold,
        "offer": config.threshold_offer,
    }


def curves(of_seeds: list[list[dict[str, float]]], training: Cohort, config: DecisionConfig) -> dict[str, list[Any]]:
    """One row for each seed and iteration: PPO's figures, and what they mean in shares of revenue and of limits.

    It is trained without a wallet, so overspend is attempted. `validation` is NaN where nobody looked.
    """
    unit = len(training) / training.revenue
    rows = [
        {
            **figures,
            "seed": at,
            "iteration": iteration,
            "nrr": figures["reward"] * unit,
            "offer_cost": figures["cost_offer_cost"] * unit,
            "attempted_overspend": figures["cost_offer_cost"] * unit / config.budget - 1,
            "attempted_contacts": figures["cost_contacts"] / config.ppo.contacts - 1,
            "validation": figures.get("validation", float("nan")),
        }
        for at, of_seed in enumerate(of_seeds)
        for iteration, figures in enumerate(of_seed, start=1)
    ]
    # In order of their names: a checkpoint doesn't keep another.
    return {name: [row[name] for row in rows] for name in sorted(rows[0])}


def _searched(found: Tuned) -> dict[str, Any]:
    setting = {name: value for name, value in found.best.items() if name not in ("nrr", "cost")}
    evaluations = [dict(one) for one in found.evaluations]
    return {"setting": setting, "nrr": found.best["nrr"], "cost": found.best["cost"], "evaluations": evaluations}
