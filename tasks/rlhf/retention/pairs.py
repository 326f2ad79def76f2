"""Preference pairs, retention's and the public ones, and how they become rows of ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks.public_tables import PREFERENCES
from tasks.rlhf.language import upstream
from tasks.rlhf.language.lm import Row, Text
from tasks.rlhf.prompt_tables import PAIRS

# A random stream, whose number never changes (tests/tasks/test_streams.py).
ROWS_STREAM = 1  # which rows are taken where there are more than wanted

RETENTION = "retention"  # the source of pairs that were made here


@dataclass(frozen=True)
class Pair:
    """Two replies to one prompt; `flaw` is what is wrong with the rejected one, "" where nobody said."""

    id: str
    prompt: str
    chosen: str
    rejected: str
    flaw: str
    source: str


def retention(prompts: Path, part: str, half: str = "") -> list[Pair]:
    """The pairs of a part of `prompts`; of `train`, those of a half."""
    rows = upstream.read(prompts, PAIRS)
    return [
        Pair(row["id"], row["prompt"], row["chosen"], row["rejected"], row["flaw"], RETENTION)
        for row in rows
        if row["part"] == part and (not half or row["half"] == half)
    ]


def public(preferences: Path, half: str, split: str, most: int, seed: int) -> list[Pair]:
    """At most `most` pairs of `preferences`, drawn with `seed`, in the file's order; `half` "" takes both."""
    rows = upstream.read(preferences, PREFERENCES)
    fits = [row for row in rows if row["split"] == split and (not half or row["half"] == half)]
    return [
        Pair(row["id"], row["prompt"], row["chosen"], row["rejected"], "", row["source"])
        for row in sample(fits, most, seed)
    ]


def sample(rows: Sequence[Any], most: int, seed: int) -> list[Any]:
    """At most `most` of them, drawn with `seed`, in their order."""
    if len(rows) <= most:
        return list(rows)
    drawn = np.random.default_rng([seed, ROWS_STREAM]).choice(len(rows), most, replace=False)
    return [rows[i] for i in np.sort(drawn)]


def tokenised(pair: Pair, text: Text, room: int) -> tuple[Row, Row]:
    """The rows of the chosen and of the rejected reply, each in at most `room` tokens, after the same prompt."""
    chosen, rejected = text.rows(pair.prompt, (pair.chosen, pair.rejected), room)
    return chosen, rejected
