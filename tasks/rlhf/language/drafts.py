"""Replies and their scores by the thousand, batch by batch, each a part that the stage's checkpoints keep.

A batch has a generator of its own, seeded by what the batch is for, so no generator's state has to be kept: what is
drawn after a resume is what would have been drawn without one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engine.errors import DataError
from engine.finished import Finished
from tasks.rlhf.language import decode, lm

if TYPE_CHECKING:
    from engine.stage import Workspace


@dataclass(frozen=True)
class Sampling:
    """At most `limit` tokens a reply, `batch` replies at once."""

    limit: int
    temperature: float
    batch: int

    def batches(self, count: int) -> int:
        return -(-count // self.batch)


@dataclass(frozen=True)
class Draft:
    """A reply as it was drawn. `tokens` counts the end token too, `ended` says that there is one."""

    text: str
    tokens: int
    ended: bool


def adapters(base: Path, bits: lm.Bits, device: str, folders: Mapping[str, Path]) -> lm.Lm:
    """The base weights, loaded once, with an adapter of each folder beside them."""
    language = lm.load(base, bits, device)
    for name, folder in folders.items():
        lm.load_adapter(language, folder, name)
    return language


def sample(
    language: lm.Lm,
    adapter: str,
    prompts: Sequence[str],
    how: Sampling,
    seed: Sequence[int],
    finished: Finished,
    workspace: Workspace,
) -> list[Draft]:
    """One reply of `adapter` to each prompt; every batch is a part that `finished` keeps. Raises Preempted.

    A prompt that leaves too little room loses its beginning, as in training.
    """
    room = language.text.context - how.limit
    lm.check_room(language.text, how.limit + 1, "max_tokens with one of a prompt")
    ids = [language.text.prompt(prompt)[-room:] for prompt in prompts]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    replies: dict[int, list[int]] = {}  # place of the prompt -> ids
    with lm.using(language, adapter), lm.interruptible(language, workspace):
        for batch in range(how.batches(len(order))):
            chosen = order[batch * how.batch : (batch + 1) * how.batch]
            draw = partial(_draw, language, [ids[i] for i in chosen], how, [*seed, batch])
            replies |= dict(zip(chosen, finished.make(workspace, f"{adapter}/{batch}", draw), strict=True))
    text = language.text
    return [Draft(text.decode(replies[i]), len(replies[i]), replies[i][-1] == text.eos) for i in range(len(ids))]


def scores(
    language: lm.Lm,
    reward_model: str,
    asked: Sequence[tuple[str, str]],
    batch: int,
    finished: Finished,
    workspace: Workspace,
) -> dict[tuple[str, str], float]:
    """(prompt, reply) -> its score by the reward model `reward_model`; every batch is a part. Raises Preempted.

    A reply is scored as a person reads it: its text, ended, whether or not it came to its end. Equal ones are scored
    once, so they are equal to the last bit: with other rows beside it in a batch a score differs by rounding.
    """
    rows = {pair: language.text.row(*pair, language.text.context) for pair in dict.fromkeys(asked)}
    order = sorted(rows, key=lambda pair: (sum(map(len, rows[pair])), pair))
    scored: dict[tuple[str, str], float] = {}
    with lm.interruptible(language, workspace):
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            score = partial(finite_scores, language, reward_model, [rows[pair] for pair in chosen])
            scored |= dict(
                zip(chosen, finished.make(workspace, f"{reward_model}/{start // batch}", score), strict=True)
            )
    return scored


def _draw(language: lm.Lm, prompts: list[list[int]], how: Sampling, seed: Sequence[int]) -> list[list[int]]:
    replies = decode.sample(language, prompts, how.limit, how.temperature, decode.generator(seed), how.batch)
    return [reply.ids for reply in replies]


def finite_scores(language: lm.Lm, reward_model: str, rows: Sequence[lm.Row]) -> list[float]:
    """Raises DataError for a score that is no number: nothing is better or worse than it."""
    values: list[float] = lm.scores(language, reward_model, rows).tolist()
    if not np.isfinite(values).all():
        raise DataError(f"reward model {reward_model}: gave a score that is not a finite number; train it again")
    return values
