"""Tables of text that one stage writes and others read: what is said of each, and rows as its columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """`file` of an artifact, and its columns in their order. `id` is unique; `part`, or `split` of public texts, is
    train, validation or test."""

    file: str
    columns: tuple[str, ...]

    def of(self, rows: Iterable[Row]) -> dict[str, list[Any]]:
        """The rows as columns, ready to be written. Raises KeyError for a row that lacks a column, or has others."""
        every = list(rows)
        if undeclared := {name for row in every for name in row} - set(self.columns):
            raise KeyError(f"{self.file} has no column {min(undeclared)}")
        return as_columns(every, self.columns)


def as_columns(rows: Iterable[Row], names: Sequence[str] = ()) -> dict[str, list[Any]]:
    """Rows as columns: those of `names`, which has to be given where there may be no row, or all of the first row."""
    every = list(rows)
    return {name: [row[name] for row in every] for name in (names or every[0])}
