"""A data stage's artifact, read back: the table, its description, its split."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from retain.dataset import Column, DatasetSpec, protected_columns
from retain.features import is_missing


@dataclass(frozen=True)
class Rows:
    """n rows in the source's order. `y` is 1.0 for the positive class; `part` is train, validation or test."""

    spec: DatasetSpec
    columns: dict[str, NDArray[Any]]
    y: NDArray[np.float64]
    part: NDArray[Any]

    @property
    def ids(self) -> list[str | None]:
        name = self.spec.roles.get("id")
        return [None] * len(self.y) if name is None else list(self.columns[name])

    def train(self) -> NDArray[np.bool_]:
        return np.asarray(self.part == "train")


def read(folder: Path) -> Rows:
    spec = DatasetSpec.model_validate_json((folder / "schema.json").read_bytes())
    table = pq.read_table(folder / "data.parquet")
    columns = {name: table[name].to_numpy() for name in table.column_names}
    y = (columns[spec.target.column] == spec.target.positive).astype(np.float64)
    return Rows(spec, columns, y, columns["split"])


def groups(rows: Rows) -> dict[tuple[str, str], NDArray[np.bool_]]:
    """(column, group) -> which rows, for each protected column: by value, or by band of a number."""
    found: dict[tuple[str, str], NDArray[np.bool_]] = {}
    for column in protected_columns(rows.spec):
        values = rows.columns[column.name]
        if column.kind == "number":
            found |= {(column.name, name): member for name, member in _bands(column, values).items()}
        else:
            found |= {(column.name, str(value)): np.asarray(values == value) for value in column.values}
    return found


def _bands(column: Column, values: NDArray[Any]) -> dict[str, NDArray[np.bool_]]:
    edges = [f"{edge:g}" for edge in column.bands]
    names = [
        f"below {edges[0]}",
        *(f"{low} to below {high}" for low, high in pairwise(edges)),
        f"from {edges[-1]}",
    ]
    at = np.searchsorted(column.bands, values.astype(np.float64), side="right")
    missing = is_missing(column, values)
    bands = {name: (at == index) & ~missing for index, name in enumerate(names)}
    return bands | ({"missing": missing} if missing.any() else {})
