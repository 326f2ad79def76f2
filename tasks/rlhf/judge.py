"""`judge`: what text_eval asks, and nothing before it: the final reward model, and the rule judge as it stands.

The final reward model is made as `rm` makes its two, of half B of the preferences and with a seed of its own. The rule
judge has nothing to be trained; its components, weights, cues and digest are written down, and what it says of the
held-out retention pairs is measured beside. The experiment states its digest, so that nobody changes it unseen, and
whoever scores by rules later reads the cues of this artifact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from engine.errors import DataError, RetainError
from tasks.rlhf import rm
from tasks.rlhf.judging import measures
from tasks.rlhf.judging.rule_judge import frozen
from tasks.rlhf.judging.rule_judge.cues import SITUATIONS
from tasks.rlhf.judging.rule_judge.scoring import COMPONENTS, RuleJudge
from tasks.rlhf.language import lm, upstream
from tasks.rlhf.prompt_tables import PAIRS
from tasks.rlhf.retention.pairs import RETENTION, Pair, public, retention

if TYPE_CHECKING:
    from engine.stage import Metrics, Workspace
    from tasks.config import JudgeConfig

# A random stream, whose number never changes (tests/tasks/test_streams.py).
RULES_INTERVALS_STREAM = 2

HALF = "B"
FINAL, RULES = "final", "rules"
SEED_OFFSET = 2  # `rm` trains its two models with the workspace's seed and the next one


def run(config: JudgeConfig, inputs: Mapping[str, Path], workspace: Workspace) -> Metrics:
    """Writes final/ (adapter), rules.json, cues.json, curves.parquet and evidence/scores.parquet."""
    torch.set_num_threads(workspace.threads)
    lm.check_device(workspace.device)
    lists = config.cues.model_dump(mode="json")
    refuse_another(config.rule_judge, lists)
    base, preferences, prompts = inputs["base"], inputs["preferences"], inputs["prompts"]
    held_out = rm.held_out_pairs(config, preferences, prompts, workspace.seed)
    retention_pairs = load_retention_pairs(prompts, held_out)
    seed = workspace.seed + SEED_OFFSET
    pairs = [*retention(prompts, "train", HALF), *public(preferences, HALF, "train", config.public, seed)]
    if not pairs:
        raise DataError(f"no pair of half {HALF} to learn from: raise judge.public or prompts.pairs")
    trained = rm.train_reward(config, base, pairs, seed, workspace, FINAL, 0, rm.steps(config, 1, held_out))
    metrics, rows = rm.measure(config, base, {FINAL: trained.files}, held_out, workspace)
    of_rules, rows_of_rules = measure_rules(
        RuleJudge.from_lists(lists), retention_pairs, config.bootstrap, workspace.seed
    )
    for file, content in trained.files.items():
        workspace.out.bytes(f"{FINAL}/{file}", content)
    workspace.out.json("rules.json", describe_rules(lists))
    workspace.out.json("cues.json", lists)
    workspace.out.parquet("curves.parquet", rm.curves({FINAL: trained.curve}))
    workspace.out.parquet("evidence/scores.parquet", {name: [*rows[name], *rows_of_rules[name]] for name in rows})
    return metrics | of_rules | {"pairs": {"value": float(len(pairs))}}


def refuse_another(stated: str, lists: Mapping[str, Any]) -> None:
    """Raises RetainError unless the rule judge with these lists is the one whose digest begins with `stated`."""
    digest = frozen.digest(lists)
    if not digest.startswith(stated):
        raise RetainError(
            "stages.judge.rule_judge: the code of tasks/rlhf/judging/rule_judge and words.cues have the digest "
            f"{digest[:16]}, the experiment froze {stated}. A judge is changed before PPO is trained, or not at all: "
            f'take the change back, or state rule_judge: "{digest[:16]}" and lock the experiment again (make lock)'
        )


@dataclass(frozen=True)
class HeldOutPair:
    """A held-out retention pair, and what its two replies are to be about."""

    pair: Pair
    offer: int
    situation: str
    months: int


def load_retention_pairs(prompts: Path, pairs: Sequence[Pair]) -> list[HeldOutPair]:
    """The retention pairs among `pairs`. Raises DataError for a situation that the rule judge has no words for."""
    rows = {row["id"]: row for row in upstream.read(prompts, PAIRS)}
    months = upstream.about(prompts)["months"]
    own = [(pair, rows[pair.id]) for pair in pairs if pair.source == RETENTION]
    if unknown := sorted({row["situation"] for _, row in own} - set(SITUATIONS)):
        raise DataError(
            f"prompts/pairs.parquet: situation {unknown[0]!r} is none that the rule judge knows "
            f"({', '.join(SITUATIONS)}); name it in tasks/rlhf/judging/rule_judge/cues.py and give it words in "
            "ops/messages/cues.yaml"
        )
    return [HeldOutPair(pair, row["offer"], row["situation"], months) for pair, row in own]


def measure_rules(
    rule_judge: RuleJudge, retention_pairs: Sequence[HeldOutPair], resamples: int, seed: int
) -> tuple[Metrics, dict[str, list[Any]]]:
    """rules_accuracy and rules_accuracy_<flaw>, and the scores, as rm.measure gives those of a reward model."""

    def score(about: HeldOutPair, reply: str) -> float:
        return rule_judge.score(about.pair.prompt, reply, about.offer, about.situation, about.months)

    scores = np.array(
        [[score(about, about.pair.chosen), score(about, about.pair.rejected)] for about in retention_pairs]
    )
    flaws = [about.pair.flaw for about in retention_pairs]
    draws = np.random.default_rng([seed, RULES_INTERVALS_STREAM, rm.RETENTION_DRAW])
    chosen, rejected = scores[:, 0], scores[:, 1]
    accuracies = {"accuracy": measures.pair_accuracy(chosen, rejected, resamples, draws)}
    accuracies |= measures.accuracy_by_flaw(chosen, rejected, flaws)
    return {f"{RULES}_{name}": metric for name, metric in accuracies.items()}, {
        "model": [RULES] * len(retention_pairs),
        "id": [about.pair.id for about in retention_pairs],
        "source": [about.pair.source for about in retention_pairs],
        "flaw": flaws,
        "chosen": chosen.tolist(),
        "rejected": rejected.tolist(),
    }


def describe_rules(lists: Mapping[str, Any]) -> dict[str, Any]:
    """What the rule judge looks at, and the digest by which anyone sees that it is still the same."""
    rules = {name: {"weight": weight, "measures": what} for name, (weight, what) in COMPONENTS.items()}
    return {"digest": frozen.digest(lists), "rules": rules, "situations": list(SITUATIONS)}
