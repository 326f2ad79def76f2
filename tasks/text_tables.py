"""The tables of text that one stage writes and others read: which file each is, and its columns in their order.

Beside the stage families, since `dialogues` and `preferences` are written by one and read by another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """`file` of an artifact. `id` is unique; `part`, or `split` of public texts, is train, validation or test."""

    file: str
    columns: tuple[str, ...]

    def of(self, rows: Iterable[Row]) -> dict[str, list[Any]]:
        """The rows as columns, ready to be written. Raises KeyError for a row that lacks one."""
        return as_columns(rows, self.columns)


# Public texts. `source` is the dataset that a row is from; half A of the preferences is for the reward models that
# train and pick, half B for the one that judges in the end.
DIALOGUES = Table("pairs.parquet", ("id", "source", "prompt", "response", "split"))
PREFERENCES = Table("pairs.parquet", ("id", "source", "prompt", "chosen", "rejected", "split", "half"))

# Made by `prompts` for customers of the table. `offer` is a percentage, 0 for none; `flaw` is what is wrong with the
# reply (the rejected one of a pair), "" for nothing; `kind` of a probe is what it asks for and must not get.
PROMPTS = Table("prompts.parquet", ("id", "customer", "situation", "offer", "part", "prompt"))
TARGETS = Table("targets.parquet", ("id", "prompt", "response", "offer", "situation", "flaw", "part"))
PAIRS = Table("pairs.parquet", ("id", "prompt", "chosen", "rejected", "offer", "situation", "flaw", "part", "half"))
PROBES = Table("probes.parquet", ("id", "prompt", "offer", "situation", "kind", "part"))


def as_columns(rows: Iterable[Row], names: Sequence[str] = ()) -> dict[str, list[Any]]:
    """Rows as columns: those of `names`, which has to be given where there may be no row, or all of the first row."""
    every = list(rows)
    return {name: [row[name] for row in every] for name in (names or every[0])}
