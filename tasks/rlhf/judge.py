"""`judge`: what text_eval asks, and nothing before it: the final reward model, and the rule judge as it stands.

The final reward model is made as `rm` makes its two, of half B of the preferences and with a seed of its own. The rule
judge has nothing to be trained; its rules, weights and digest are written down, and what it says of the held-out
retention pairs is measured beside. The experiment states its digest, so that nobody changes it unseen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from engine.errors import DataError, RetainError
from tasks.rlhf import rm, streams
from tasks.rlhf.judging import measures, rule_judge
from tasks.rlhf.language import lm
from tasks.rlhf.language import upstream as artifacts
from tasks.rlhf.retention.pairs import RETENTION, Pair, public, retention

if TYPE_CHECKING:
    from engine.stage import Metrics, Workspace
    from tasks.config import JudgeConfig

HALF = "B"
FINAL, RULES = "final", "rules"
SEED_OFFSET = 2  # `rm` trains its two models with the workspace's seed and the next one


def run(config: JudgeConfig, inputs: Mapping[str, Path], workspace: Workspace) -> Metrics:
    """Writes final/ (adapter), rules.json, curves.parquet and evidence/scores.parquet."""
    torch.set_num_threads(workspace.threads)
    lm.check_device(workspace.device)
    check_rules(config.rules)
    base, preferences, prompts = inputs["base"], inputs["preferences"], inputs["prompts"]
    held_out = rm.held_out_pairs(config, preferences, prompts, workspace.seed)
    asked = load_asked(prompts, held_out)
    seed = workspace.seed + SEED_OFFSET
    pairs = [*retention(prompts, "train", HALF), *public(preferences, HALF, "train", config.public, seed)]
    if not pairs:
        raise DataError(f"no pair of half {HALF} to learn from: raise judge.public or prompts.pairs")
    trained = rm.train_reward(config, base, pairs, seed, workspace, FINAL, 0, config.max_steps)
    metrics, rows = rm.measure(config, base, {FINAL: trained.files}, held_out, workspace)
    of_rules, rows_of_rules = measure_rules(asked, config.bootstrap, workspace.seed)
    for file, content in trained.files.items():
        workspace.out.bytes(f"{FINAL}/{file}", content)
    workspace.out.json("rules.json", describe_rules())
    workspace.out.parquet("curves.parquet", rm.curves({FINAL: trained.curve}))
    workspace.out.parquet("evidence/scores.parquet", {name: [*rows[name], *rows_of_rules[name]] for name in rows})
    return metrics | of_rules | {"pairs": {"value": float(len(pairs))}}


def check_rules(frozen: str) -> None:
    """Raises RetainError unless the rule judge is the one whose digest begins like that."""
    if not rule_judge.digest().startswith(frozen):
        raise RetainError(
            f"judge.rules: the rule judge is {rule_judge.digest()[:16]}, the experiment froze {frozen}: a judge is "
            "changed before PPO is trained, on purpose: state the new digest"
        )


@dataclass(frozen=True)
class Asked:
    """A held-out retention pair, and what its two replies are to be about."""

    pair: Pair
    offer: int
    situation: str
    months: int


def load_asked(prompts: Path, pairs: Sequence[Pair]) -> list[Asked]:
    """The retention pairs among `pairs`. Raises DataError for a situation that the rule judge has no words for."""
    columns = {row["id"]: row for row in artifacts.table(prompts / "pairs.parquet", ("id", "offer", "situation"))}
    months = artifacts.about(prompts)["months"]
    own = [(pair, columns[pair.id]) for pair in pairs if pair.source == RETENTION]
    if unknown := sorted({row["situation"] for _, row in own} - set(rule_judge.SITUATIONS)):
        raise DataError(
            f"prompts/pairs.parquet: situation {unknown[0]!r} is none that the rule judge knows "
            f"({', '.join(rule_judge.SITUATIONS)}); give it words in tasks/rlhf/judging/rule_judge.py"
        )
    return [Asked(pair, row["offer"], row["situation"], months) for pair, row in own]


def measure_rules(asked: Sequence[Asked], resamples: int, seed: int) -> tuple[Metrics, dict[str, list[Any]]]:
    """rules_accuracy and rules_accuracy_<flaw>, and the scores, as rm.measure gives those of a reward model."""
    scores = np.array([[_score(one, one.pair.chosen), _score(one, one.pair.rejected)] for one in asked])
    flaws = [one.pair.flaw for one in asked]
    draws = np.random.default_rng([seed, streams.RULES_INTERVALS, 0])
    chosen, rejected = scores[:, 0], scores[:, 1]
    found = {"accuracy": measures.pair_accuracy(chosen, rejected, resamples, draws)}
    found |= measures.accuracy_by_flaw(chosen, rejected, flaws)
    return {f"{RULES}_{name}": metric for name, metric in found.items()}, {
        "model": [RULES] * len(asked),
        "id": [one.pair.id for one in asked],
        "source": [one.pair.source for one in asked],
        "flaw": flaws,
        "chosen": chosen.tolist(),
        "rejected": rejected.tolist(),
    }


def describe_rules() -> dict[str, Any]:
    """What the rule judge looks at, and the digest by which anyone sees that it is still the same."""
    rules = {name: {"weight": weight, "measures": what} for name, (weight, what) in rule_judge.RULES.items()}
    return {"digest": rule_judge.digest(), "rules": rules, "situations": list(rule_judge.SITUATIONS)}


def _score(asked: Asked, reply: str) -> float:
    return rule_judge.score(asked.pair.prompt, reply, asked.offer, asked.situation, asked.months)
