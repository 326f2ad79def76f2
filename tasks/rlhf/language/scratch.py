"""A small language model from nothing: next-token prediction on dialogues and messages, resumed exactly.

Every batch is a function of seed and step, there is no dropout, and weights, moments and losses are in the checkpoint:
what is computed after a resume is what an undisturbed training would have computed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load as read_tensors
from safetensors.torch import save as write_tensors
from torch import Tensor

from engine.errors import DataError, RetainError
from tasks.rlhf.language import lm

if TYPE_CHECKING:
    from engine.stage import Workspace
    from tasks.config import Pretraining

# Random streams, whose numbers never change (tests/tasks/test_streams.py).
PRETRAINING_DIALOGUES_STREAM = 6  # which blocks a step takes
PRETRAINING_MESSAGES_STREAM = 7

TENSORS, STATE = "tensors.safetensors", "state.json"


def train(
    config: Pretraining,
    model: Any,
    text: lm.Text,
    dialogues: Sequence[tuple[str, str]],
    messages: Sequence[tuple[str, str]],
    workspace: Workspace,
) -> list[float]:
    """Trains `model` in place on (prompt, reply) pairs; the loss of every step, in nats a token.

    `config.messages` of each batch is of the retention domain: what a million weights have not seen here, a LoRA
    adapter can't teach them afterwards (SFT ended at 3.5 nats a token on dialogues alone).
    """
    of_messages = round(config.messages * config.batch)
    kinds = [
        (to_blocks(text, pairs, config.length, name), count, stream)
        for pairs, name, count, stream in (
            (dialogues, "dialogues", config.batch - of_messages, PRETRAINING_DIALOGUES_STREAM),
            (messages, "prompts", of_messages, PRETRAINING_MESSAGES_STREAM),
        )
        if count
    ]
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay
    )
    losses = _restore(model, optimizer, workspace)
    saved = len(losses)
    model.train()
    for step in range(len(losses), config.steps):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * _schedule(step, config)
        drawn = [blocks[_batch(len(blocks), n, step, (workspace.seed, stream))] for blocks, n, stream in kinds]
        ids = torch.from_numpy(np.concatenate(drawn)).to(model.device)
        loss = model(input_ids=ids, labels=ids).loss
        if not math.isfinite(loss.item()):
            raise RetainError(
                f"base: the loss is {loss.item()} at step {step + 1} of {config.steps}; the last good checkpoint is "
                f"that of step {saved}. Lower stages.base.pretraining.learning_rate"
            )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_gradient)
        optimizer.step()
        losses.append(loss.item())
        workspace.progress(step + 1, config.steps, loss=loss.item())
        if workspace.checkpoint_due() or workspace.should_stop():
            workspace.save(step + 1, _files(model, optimizer, losses))
            saved = step + 1
    model.eval()
    return losses


@torch.no_grad()
def held_out(config: Pretraining, model: Any, text: lm.Text, pairs: Sequence[tuple[str, str]]) -> list[float]:
    """Nats a token of blocks of held-out pairs."""
    blocks = to_blocks(text, pairs, config.length, "held-out text")[: config.held_out_blocks]
    losses: list[float] = []
    for start in range(0, len(blocks), config.batch):
        ids = torch.from_numpy(blocks[start : start + config.batch]).to(model.device)
        logs = model(input_ids=ids).logits[:, :-1].float().log_softmax(-1)
        losses += (-logs.gather(2, ids[:, 1:, None])[..., 0].mean(1)).tolist()
    return losses


def to_blocks(text: lm.Text, pairs: Sequence[tuple[str, str]], length: int, name: str) -> NDArray[np.int64]:
    """(n, length) ids: one pair after another, cut into pieces; what is left at the end is dropped."""
    ids = [token for prompt, reply in pairs for token in (*text.prompt(prompt), *text.reply(reply))]
    if len(ids) < length:
        raise DataError(
            f"{name}: {len(ids):,} tokens, fewer than the {length} of one block (stages.base.pretraining.length). "
            "Give more"
        )
    return np.array(ids[: len(ids) // length * length], dtype=np.int64).reshape(-1, length)


def _batch(blocks: int, batch: int, step: int, seed: Sequence[int]) -> list[int]:
    """Places of a step's blocks: epoch after epoch, each in an order of its own."""
    places = []
    for place in range(step * batch, (step + 1) * batch):
        epoch, index = divmod(place, blocks)
        places.append(int(_order(blocks, epoch, seed)[index]))
    return places


@lru_cache(maxsize=4)
def _order(blocks: int, epoch: int, seed: Sequence[int]) -> NDArray[np.int64]:
    return np.random.default_rng([*seed, epoch]).permutation(blocks)


def _schedule(step: int, config: Pretraining) -> float:
    """The learning rate of a step, as a share of the highest."""
    warmup = max(1, round(config.warmup * config.steps))
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, config.steps - warmup)
    return config.final_rate + (1 - config.final_rate) * 0.5 * (1 + math.cos(math.pi * done))


def _files(model: Any, optimizer: torch.optim.AdamW, losses: list[float]) -> dict[str, bytes]:
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        tensors[f"weight.{name}"] = parameter.detach()
        tensors |= {f"{kind}.{name}": value for kind, value in optimizer.state[parameter].items()}
    content = {name: value.cpu().contiguous() for name, value in sorted(tensors.items())}
    return {TENSORS: write_tensors(content), STATE: json.dumps({"losses": losses}).encode()}


def _restore(model: Any, optimizer: torch.optim.AdamW, workspace: Workspace) -> list[float]:
    """Takes up the newest checkpoint, and returns the losses until then."""
    checkpoint = workspace.checkpoints.load()
    if checkpoint is None:
        return []
    tensors = read_tensors(checkpoint.files[TENSORS])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"weight.{name}"])
            moments = {kind: tensors[f"{kind}.{name}"] for kind in ("step", "exp_avg", "exp_avg_sq")}
            # The count of steps stays on the CPU, where AdamW keeps it.
            optimizer.state[parameter] = {
                kind: value if kind == "step" else value.to(parameter.device) for kind, value in moments.items()
            }
    losses: list[float] = json.loads(checkpoint.files[STATE])["losses"]
    return losses
