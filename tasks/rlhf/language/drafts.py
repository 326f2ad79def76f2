"""Replies by the thousand, part by part: each part is made once, and a checkpoint keeps those that are finished.

A batch has a generator of its own, seeded by what the batch is for, so no generator's state has to be kept: what is
drawn after a resume is what would have been drawn without one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.checkpoint import Preempted, save_and_stop
from engine.errors import DataError
from tasks.rlhf.language import decode, lm

if TYPE_CHECKING:
    from engine.stage import Workspace

PARTS = "parts.jsonl"  # the one file of a checkpoint: [name, content] of each finished part


@dataclass
class Parts:
    """Finished parts by name. `total`: how many there will be."""

    workspace: Workspace
    total: int
    lines: dict[str, bytes] = field(default_factory=dict)

    @classmethod
    def resume(cls, workspace: Workspace, total: int) -> Parts:
        found = workspace.checkpoints.load()
        lines = [] if found is None else found.files[PARTS].splitlines()
        return cls(workspace, total, {json.loads(line)[0]: line for line in lines})

    def make(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make` returns, as JSON gives it back. Raises Preempted, after saving, when asked to stop."""
        if name not in self.lines:
            self.lines[name] = json.dumps([name, make()], allow_nan=False).encode()
            content = {PARTS: b"\n".join(self.lines.values())}
            if self.workspace.should_stop():
                save_and_stop(self.workspace.checkpoints.save, len(self.lines), content)
            self.workspace.checkpoints.save(len(self.lines), content)
            self.workspace.progress(len(self.lines), self.total)
            if self.workspace.should_stop():
                raise Preempted
        return json.loads(self.lines[name])[1]


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
    found = lm.load(base, bits, device)
    for name, folder in folders.items():
        lm.load_adapter(found, folder, name)
    return found


def sample(
    language: lm.Lm, adapter: str, prompts: Sequence[str], how: Sampling, seed: Sequence[int], parts: Parts
) -> list[Draft]:
    """One reply to each prompt. A prompt that leaves too little room loses its beginning, as in training."""
    room = language.text.context - how.limit
    lm.check_room(language.text, how.limit + 1, "max_tokens with one of a prompt")
    ids = [language.text.prompt(prompt)[-room:] for prompt in prompts]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    found: dict[int, list[int]] = {}
    with lm.using(language, adapter), lm.interruptible(language, parts.workspace):
        for at in range(how.batches(len(order))):
            chosen = order[at * how.batch : (at + 1) * how.batch]
            draw = partial(_draw, language, [ids[i] for i in chosen], how, [*seed, at])
            found |= dict(zip(chosen, parts.make(f"{adapter}/{at}", draw), strict=True))
    text = language.text
    return [Draft(text.decode(found[i]), len(found[i]), found[i][-1] == text.eos) for i in range(len(ids))]


def scores(
    language: lm.Lm, judge: str, asked: Sequence[tuple[str, str]], batch: int, parts: Parts
) -> dict[tuple[str, str], float]:
    """(prompt, reply) -> what the reward model `judge` thinks of it.

    A reply is scored as a person reads it: its text, ended, whether or not it came to its end. Equal ones are scored
    once, so they are equal to the last bit: with other rows beside it in a batch a score differs by rounding.
    """
    rows = {pair: language.text.row(*pair, language.text.context) for pair in dict.fromkeys(asked)}
    order = sorted(rows, key=lambda pair: (sum(map(len, rows[pair])), pair))
    found: dict[tuple[str, str], float] = {}
    with lm.interruptible(language, parts.workspace):
        for at in range(-(-len(order) // batch)):
            chosen = order[at * batch : (at + 1) * batch]
            score = partial(_score, language, judge, [rows[pair] for pair in chosen])
            found |= dict(zip(chosen, parts.make(f"{judge}/{at}", score), strict=True))
    return found


def _draw(language: lm.Lm, prompts: list[list[int]], how: Sampling, seed: Sequence[int]) -> list[list[int]]:
    found = decode.sample(language, prompts, how.limit, how.temperature, decode.generator(seed), how.batch)
    return [reply.ids for reply in found]


def _score(language: lm.Lm, judge: str, rows: Sequence[lm.Row]) -> list[float]:
    """Raises DataError for a score that is no number: nothing is better or worse than it."""
    found: list[float] = lm.scores(language, judge, rows).tolist()
    if not np.isfinite(found).all():
        raise DataError(f"judge {judge}: gave a score that is not a finite number; train it again")
    return found


def columns(rows: Iterable[Mapping[str, Any]], names: Sequence[str] = ()) -> dict[str, list[Any]]:
    """Rows as columns; `names` where there may be no row."""
    found = list(rows)
    return {name: [row[name] for row in found] for name in (names or found[0])}
