"""`rm`: the training and the validation reward model, of half A of the preferences.

Bradley-Terry (TRL's RewardTrainer): the chosen reply is to score higher. Both models draw from all retention pairs of
the half and a sample of the public ones; the second has another seed, and with it another head, order and sample. PPO
is rewarded by the first; the second, which no gradient of PPO sees, picks its checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from trl import RewardConfig, RewardTrainer
from trl.trainer.reward_trainer import DataCollatorForPreference

from engine.errors import DataError
from engine.finished import Finished
from tasks.rlhf.judging import measures
from tasks.rlhf.language import drafts, lm, training
from tasks.rlhf.language.training import ExactTrainer, Job, Trained
from tasks.rlhf.retention.pairs import RETENTION, Pair, public, retention, tokenised

if TYPE_CHECKING:
    from engine.stage import Metrics, Workspace
    from tasks.config import RewardModelConfig

# A random stream, whose number never changes (tests/tasks/test_streams.py).
RM_INTERVALS_STREAM = 0  # of the first model; those of the second have the next number
RETENTION_DRAW, PUBLIC_DRAW = 0, 1  # of an INTERVALS_STREAM: by what the pairs are

HALF = "A"
MODELS = ("training", "validation")
BLOCK = 8  # batches of scores that a checkpoint keeps together


def run(config: RewardModelConfig, inputs: Mapping[str, Path], workspace: Workspace) -> Metrics:
    """Writes training/ and validation/ (adapters), curves.parquet and evidence/scores.parquet."""
    torch.set_num_threads(workspace.threads)
    lm.check_device(workspace.device)
    base, preferences, prompts = inputs["base"], inputs["preferences"], inputs["prompts"]
    held_out = held_out_pairs(config, preferences, prompts, workspace.seed)
    total = steps(config, len(MODELS), held_out)
    trained: dict[str, Trained] = {}
    for number, name in enumerate(MODELS):
        seed = workspace.seed + number
        pairs = [*retention(prompts, "train", HALF), *public(preferences, HALF, "train", config.public, seed)]
        trained[name] = train_reward(config, base, pairs, seed, workspace, name, number * config.max_steps, total)
    metrics, rows = measure(config, base, {name: model.files for name, model in trained.items()}, held_out, workspace)
    for name, model in trained.items():
        for file, content in model.files.items():
            workspace.out.bytes(f"{name}/{file}", content)
    workspace.out.parquet("curves.parquet", curves({name: model.curve for name, model in trained.items()}))
    workspace.out.parquet("evidence/scores.parquet", rows)
    # The training model's carry no name: they are what the release is asked about.
    return {name.removeprefix("training_"): metric for name, metric in metrics.items()}


def train_reward(
    config: RewardModelConfig,
    base: Path,
    pairs: Sequence[Pair],
    seed: int,
    workspace: Workspace,
    prefix: str,
    before: int,
    total: int,
) -> Trained:
    """A reward model of `pairs`; head, adapter, order and dropout are drawn with `seed`.

    `prefix` names it in the checkpoint, `before` steps of the stage's `total` come before its first. What an earlier
    attempt finished is not trained again.
    """
    finished = Finished.resume(workspace)
    if (trained := training.done(finished, prefix)) is not None:
        return trained
    lm.check_room(lm.load_text(base), config.max_length, f"max_length of the {prefix} reward model")
    language = lm.load_reward(base, config.bits, workspace.device, seed)
    lm.new_adapter(language, config.lora, seed)
    job = Job(config, language, len(pairs), seed, workspace, finished, prefix, before, total)
    settings = RewardConfig(
        **training.arguments(job),
        center_rewards_coefficient=config.center_rewards,
        disable_dropout=False,
        pad_to_multiple_of=None,
    )
    return training.train(job, _RewardTrainer(job, pairs, args=settings))


def held_out_pairs(config: RewardModelConfig, preferences: Path, prompts: Path, seed: int) -> list[Pair]:
    """Retention's pairs of test customers, and public ones of prompts that nobody trained on."""
    return [*retention(prompts, "test"), *public(preferences, "", "test", config.held_out_public, seed)]


def steps(config: RewardModelConfig, models: int, pairs: Sequence[Pair]) -> int:
    """Of `models` trainings, and of the blocks in which each model then scores `pairs`."""
    return models * (config.max_steps + math.ceil(2 * len(pairs) / (BLOCK * config.batch)))


def measure(
    config: RewardModelConfig,
    base: Path,
    models: Mapping[str, Mapping[str, bytes]],
    pairs: Sequence[Pair],
    workspace: Workspace,
) -> tuple[Metrics, dict[str, list[Any]]]:
    """Metrics, named after the model, and the score of every pair by every model (columns of evidence).

    <model>_auc and _accuracy are of retention pairs, _auc_public and _accuracy_public of the public ones, and
    _accuracy_<flaw> of retention pairs whose rejected reply has that flaw.
    """
    if not any(pair.source == RETENTION for pair in pairs):
        raise DataError("prompts/pairs.parquet: no pair of part test; raise prompts.held_out_pairs")
    scored = score(config, base, models, pairs, workspace)
    metrics: Metrics = {}
    for number, (name, values) in enumerate(scored.items()):
        metrics |= {
            f"{name}_{key}": metric
            for key, metric in _measured(config, pairs, values, [workspace.seed, RM_INTERVALS_STREAM + number])
        }
    count = len(scored)
    return metrics, {
        "model": [name for name in scored for _ in pairs],
        "id": [pair.id for pair in pairs] * count,
        "source": [pair.source for pair in pairs] * count,
        "flaw": [pair.flaw for pair in pairs] * count,
        "chosen": [float(value) for values in scored.values() for value in values[:, 0]],
        "rejected": [float(value) for values in scored.values() for value in values[:, 1]],
    }


def score(
    config: RewardModelConfig,
    base: Path,
    models: Mapping[str, Mapping[str, bytes]],
    pairs: Sequence[Pair],
    workspace: Workspace,
) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
    """model -> (pairs, 2): chosen, rejected, as whoever loads the adapter scores them. Raises Preempted.

    The checkpoint keeps them block by block, each of BLOCK batches.
    """
    finished = Finished.resume(workspace, steps(config, len(models), pairs))
    text = lm.load_text(base)
    rows = [row for pair in pairs for row in tokenised(pair, text, config.max_length)]  # chosen and rejected in turns
    places = sorted(range(len(rows)), key=lambda i: sum(map(len, rows[i])))
    blocks = [places[start : start + BLOCK * config.batch] for start in range(0, len(places), BLOCK * config.batch)]
    language: lm.Lm | None = None

    def block_scores(name: str, block: Sequence[int]) -> list[float]:
        nonlocal language
        adapter = f"rm_{name}"  # torch lets no module be called `training`
        language = language or lm.load(base, config.bits, workspace.device)
        if adapter not in language.heads:
            folder = workspace.scratch / "models" / name
            folder.mkdir(parents=True, exist_ok=True)
            for file, content in models[name].items():
                (folder / file).write_bytes(content)
            lm.load_adapter(language, folder, adapter)
        with lm.interruptible(language, workspace):
            return drafts.finite_scores(language, adapter, [rows[i] for i in block])

    scored = {}
    for name in models:
        values = np.zeros(len(rows))
        for number, block in enumerate(blocks):
            values[block] = finished.make(workspace, f"scores/{name}/{number}", partial(block_scores, name, block))
        scored[name] = values.reshape(-1, 2)
    return scored


def curves(of_models: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, list[Any]]:
    """One row for each model and step."""
    rows = [{"model": name, **row} for name, curve in of_models.items() for row in curve]
    return {key: [row[key] for row in rows] for key in sorted(rows[0])}


def _measured(
    config: RewardModelConfig, pairs: Sequence[Pair], values: Any, seed: Sequence[int]
) -> Iterator[tuple[str, dict[str, Any]]]:
    own = np.array([pair.source == RETENTION for pair in pairs])
    for draw, suffix, rows in ((RETENTION_DRAW, "", own), (PUBLIC_DRAW, "_public", ~own)):
        if rows.any():
            chosen, rejected = values[rows, 0], values[rows, 1]
            draws = np.random.default_rng([*seed, draw])
            yield f"auc{suffix}", measures.pair_auc(chosen, rejected, config.bootstrap, draws)
            yield f"accuracy{suffix}", measures.pair_accuracy(chosen, rejected, config.bootstrap, draws)
    flaws = [pair.flaw for pair in pairs if pair.source == RETENTION]
    if flaws:
        yield from measures.accuracy_by_flaw(values[own, 0], values[own, 1], flaws).items()


class _RewardTrainer(ExactTrainer, RewardTrainer):  # type: ignore[misc]
    """TRL's loss; the scores it is made of are those of lm.scores."""

    def __init__(self, job: Job, pairs: Sequence[Pair], **of_trl: Any) -> None:
        self.pairs = pairs
        self.pad = DataCollatorForPreference(pad_token_id=job.language.text.pad)
        super().__init__(job, **of_trl)

    def read(self, example: int) -> dict[str, list[int]]:
        chosen, rejected = tokenised(self.pairs[example], self.job.language.text, self.job.config.max_length)
        return {"chosen_ids": [*chosen[0], *chosen[1]], "rejected_ids": [*rejected[0], *rejected[1]]}

    def length(self, row: dict[str, list[int]]) -> int:
        return 2 * max(map(len, row.values()))

    def weight(self, row: dict[str, list[int]]) -> float:
        return 1.0

    def batch(self, group: Sequence[dict[str, list[int]]]) -> dict[str, Any]:
        return {name: value.to(self.job.language.device) for name, value in self.pad(group).items()}

    def compute_loss(self, model: Any, inputs: dict[str, Any], *_: Any, **__: Any) -> Any:
        return super().compute_loss(self.scored, inputs)

    def scored(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, use_cache: bool) -> SimpleNamespace:
        """(b, 1) float32, of the last token: the head is no part of the frozen weights and keeps its precision."""
        language = self.job.language
        hidden = language.trunk(
            input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache
        ).last_hidden_state
        last = hidden[torch.arange(len(hidden), device=hidden.device), attention_mask.sum(1) - 1]
        return SimpleNamespace(logits=getattr(language.model.get_base_model(), lm.HEAD)(last.float()))
