"""`sft`: the base model learns to answer as people do, and as a retention message reads.

TRL's SFTTrainer, LoRA, loss on replies alone: all retention targets of training customers, and a sample of the public
dialogues. Afterwards the same dialogues that nobody trained on are put to the untouched model and to the trained one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from trl import SFTConfig as TrlConfig
from trl import SFTTrainer

from engine.errors import DataError
from engine.finished import Finished
from retain.intervals import bootstrap
from tasks.public_tables import DIALOGUES
from tasks.rlhf.language import decode, lm, training, upstream
from tasks.rlhf.language.losses import training_loss
from tasks.rlhf.language.training import ExactTrainer, Job, Trained
from tasks.rlhf.prompt_tables import PROMPTS, TARGETS
from tasks.rlhf.retention.pairs import sample

if TYPE_CHECKING:
    from engine.stage import Metrics, Workspace
    from tasks.config import SftConfig

# Random streams, whose numbers never change (tests/tasks/test_streams.py).
SFT_INTERVALS_STREAM = 3
SFT_SAMPLES_STREAM = 4

NAME = "sft"  # of the training in the checkpoint
OASST1 = "OASST1"
# What is measured of the trained model, in this order; each result is kept as soon as there is one.
MEASURED = (
    "untouched",
    "untouched_own",
    "public",
    "targets",
    "samples",
)


@dataclass(frozen=True)
class Example:
    id: str
    prompt: str
    reply: str
    source: str = ""


def run(config: SftConfig, inputs: Mapping[str, Path], workspace: Workspace) -> Metrics:
    """Writes the adapter, curves.parquet, evidence/perplexity.parquet and evidence/samples.parquet."""
    torch.set_num_threads(workspace.threads)
    lm.check_device(workspace.device)
    examples = training_examples(config, inputs, workspace.seed)
    held_out = {
        "public": public(inputs["dialogues"], "validation", config.held_out_public, workspace.seed, OASST1),
        "targets": sample(
            targets(inputs["prompts"], "validation", flawed=False), config.held_out_targets, workspace.seed
        ),
    }
    for name, examples_held_out in held_out.items():
        if not examples_held_out:
            raise DataError(
                f"sft: no {name} are held out for validation; look at the counts of the stages that feed it"
            )
    text = lm.load_text(inputs["base"])
    lm.check_room(text, config.max_length + len(text.frame), "stages.sft.max_length")
    finished = Finished.resume(workspace, config.max_steps + len(MEASURED))
    trained = train(config, inputs["base"], examples, finished, workspace)
    measured = measure(config, inputs, trained, held_out, finished, workspace)
    for file, content in trained.files.items():
        workspace.out.bytes(file, content)
    workspace.out.parquet("curves.parquet", {key: [row[key] for row in trained.curve] for key in trained.curve[0]})
    plain, own, after = (np.array(measured[name]["nll"]) for name in ("untouched", "untouched_own", "public"))
    tokens = np.array(measured["public"]["tokens"])
    workspace.out.parquet(
        "evidence/perplexity.parquet",
        {
            "id": [example.id for example in held_out["public"]],
            "tokens": measured["public"]["tokens"],
            "nll_untouched": measured["untouched"]["nll"],
            "nll_untouched_own": measured["untouched_own"]["nll"],
            "nll": measured["public"]["nll"],
        },
    )
    workspace.out.parquet("evidence/samples.parquet", measured["samples"])
    draws = np.random.default_rng([workspace.seed, SFT_INTERVALS_STREAM])
    return {
        "training_loss": training_loss([row["loss"] for row in trained.curve]),
        "held_out_loss": {"value": sum(measured["targets"]["nll"]) / sum(measured["targets"]["tokens"])},
        "perplexity": {"value": perplexity(after, tokens)},
        "perplexity_untouched": {"value": perplexity(plain, tokens)},
        "perplexity_untouched_own": {"value": perplexity(own, tokens)},
        # Against the better of the two: what a foreign format cost the untouched model is no merit of the training.
        "perplexity_change": perplexity_change(min(plain, own, key=np.sum), after, tokens, config.bootstrap, draws),
        "oasst1": {"value": float(all(example.source == OASST1 for example in held_out["public"]))},
        "tokens": {"value": float(tokens.sum())},
        "examples": {"value": float(len(examples))},
        "truncated": {"value": float(truncated(text, examples, config.max_length))},
        "truncated_held_out": {"value": float(truncated(text, held_out["public"], config.max_length))},
    }


def train(
    config: SftConfig, base: Path, examples: Sequence[Example], finished: Finished, workspace: Workspace
) -> Trained:
    """An adapter that imitates the replies; adapter, order and dropout are drawn with the workspace's seed."""
    if (trained := training.done(finished, NAME)) is not None:
        return trained
    language = lm.load(base, config.bits, workspace.device)
    lm.new_adapter(language, config.lora, workspace.seed)
    job = Job(config, language, len(examples), workspace.seed, workspace, finished, NAME, 0, finished.total)
    return training.train(job, _SftTrainer(job, examples, args=TrlConfig(**training.arguments(job))))


def measure(
    config: SftConfig,
    inputs: Mapping[str, Path],
    trained: Trained,
    held_out: Mapping[str, Sequence[Example]],
    finished: Finished,
    workspace: Workspace,
) -> dict[str, Any]:
    """name of MEASURED -> what was measured, each a part that `finished` keeps; the model is loaded as its users do."""
    language: lm.Lm | None = None

    def load() -> lm.Lm:
        nonlocal language
        if language is None:
            folder = workspace.scratch / NAME
            folder.mkdir(parents=True, exist_ok=True)
            for file, content in trained.files.items():
                (folder / file).write_bytes(content)
            language = lm.load(inputs["base"], config.bits, workspace.device)
            lm.load_adapter(language, folder, NAME)
        return language

    public, room = held_out["public"], config.max_length
    parts: dict[str, Callable[[], Any]] = {
        "untouched": lambda: nll(load(), public, room, workspace, adapted=False),
        # With what they were taught to read before a prompt, where there is anything.
        "untouched_own": lambda: (
            nll(load(), public, room, workspace, adapted=False, frame=load().text.frame)
            if load().text.frame
            else measured["untouched"]
        ),
        "public": lambda: nll(load(), public, room, workspace),
        "targets": lambda: nll(load(), held_out["targets"], room, workspace),
        "samples": lambda: samples(config, load(), inputs["prompts"], workspace),
    }
    measured: dict[str, Any] = {}
    for name in MEASURED:
        measured[name] = finished.make(workspace, name, parts[name])
    return measured


def training_examples(config: SftConfig, inputs: Mapping[str, Path], seed: int) -> list[Example]:
    return [
        *targets(inputs["prompts"], "train", flawed=True),
        *public(inputs["dialogues"], "train", config.public, seed),
    ]


def targets(prompts: Path, part: str, *, flawed: bool) -> list[Example]:
    """Retention messages to imitate; those that are flawed are part of what is imitated, not of what is measured."""
    rows = upstream.read(prompts, TARGETS)
    return [
        Example(row["id"], row["prompt"], row["response"])
        for row in rows
        if row["part"] == part and (flawed or not row["flaw"])
    ]


def public(dialogues: Path, split: str, most: int, seed: int, source: str | None = None) -> list[Example]:
    """At most `most` dialogues; of `source` alone, where there are any of it."""
    rows = upstream.read(dialogues, DIALOGUES)
    fits = [row for row in rows if row["split"] == split]
    fits = [row for row in fits if row["source"] == source] or fits
    return [Example(row["id"], row["prompt"], row["response"], row["source"]) for row in sample(fits, most, seed)]


def truncated(text: lm.Text, examples: Sequence[Example], room: int) -> int:
    """How many lost something to max_length."""
    return sum(len(text.prompt(example.prompt)) + len(text.reply(example.reply)) > room for example in examples)


@torch.no_grad()
def nll(
    language: lm.Lm,
    examples: Sequence[Example],
    room: int,
    workspace: Workspace,
    *,
    adapted: bool = True,
    frame: Sequence[int] = (),
) -> dict[str, list[float]]:
    """Of each example: negative log-likelihood of its reply (nats), and its tokens. `frame` comes before the prompt."""
    cut = [language.text.row(example.prompt, example.reply, room) for example in examples]
    rows = [([*frame, *prompt], reply) for prompt, reply in cut]
    sums = [0.0] * len(rows)
    groups = lm.passes(language, rows)
    without = nullcontext() if adapted else language.model.disable_adapter()
    with without, lm.interruptible(language, workspace):
        for group in groups:
            chosen = [rows[i] for i in group]
            values = torch.split(lm.losses(language, chosen), [len(reply) for _, reply in chosen])
            for i, value in zip(group, values):
                sums[i] = float(value.double().sum())
    return {"nll": sums, "tokens": [float(len(reply)) for _, reply in rows]}


def samples(config: SftConfig, language: lm.Lm, prompts: Path, workspace: Workspace) -> dict[str, list[Any]]:
    """A few messages for validation customers, as they come."""
    rows = [row for row in upstream.read(prompts, PROMPTS) if row["part"] == "validation"]
    chosen = sample(rows, config.samples, workspace.seed)
    limit = min(config.sample_tokens, config.max_length // 2)
    ids = [language.text.prompt(row["prompt"])[limit - config.max_length :] for row in chosen]
    with lm.interruptible(language, workspace):
        replies = decode.sample(
            language,
            ids,
            limit,
            config.sample_temperature,
            decode.generator([workspace.seed, SFT_SAMPLES_STREAM]),
            config.batch,
        )
    return {
        "id": [row["id"] for row in chosen],
        "prompt": [row["prompt"] for row in chosen],
        "text": [reply.text for reply in replies],
        "tokens": [len(reply.ids) for reply in replies],
        "ended": [reply.ended for reply in replies],
    }


def perplexity(nll: NDArray[np.float64], tokens: NDArray[np.float64]) -> float:
    return float(np.exp(nll.sum() / tokens.sum()))


def perplexity_change(
    before: NDArray[np.float64],
    after: NDArray[np.float64],
    tokens: NDArray[np.float64],
    resamples: int,
    draws: np.random.Generator,
) -> dict[str, Any]:
    """A metric: by which share the perplexity changed, with its interval; whole dialogues are resampled.

    `before` and `after` (n,) are negative log-likelihoods of n replies in nats, `tokens` (n,) their lengths.
    """
    gain = after - before
    low, high = bootstrap(
        lambda rows: np.exp(gain[rows].sum(1) / tokens[rows].sum(1)) - 1, len(tokens), resamples, draws
    )
    return {"value": float(np.exp(gain.sum() / tokens.sum()) - 1), "ci": [low, high]}


class _SftTrainer(ExactTrainer, SFTTrainer):  # type: ignore[misc]
    """The head sees no token of a prompt; TRL's own entropy and accuracy of every token are left out."""

    def __init__(self, job: Job, examples: Sequence[Example], **of_trl: Any) -> None:
        self.examples = examples
        super().__init__(job, **of_trl)

    def read(self, example: int) -> lm.Row:
        prompt, reply = self.examples[example].prompt, self.examples[example].reply
        return self.job.language.text.row(prompt, reply, self.job.config.max_length)

    def length(self, row: lm.Row) -> int:
        return len(row[0]) + len(row[1])

    def weight(self, row: lm.Row) -> float:
        return float(len(row[1]))

    def batch(self, group: Sequence[lm.Row]) -> dict[str, Any]:
        return {"rows": group}

    def compute_loss(self, model: Any, inputs: dict[str, Any], *_: Any, **__: Any) -> Any:
        return lm.losses(self.job.language, inputs["rows"]).mean()
