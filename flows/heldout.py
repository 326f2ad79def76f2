"""On which rows two releases are compared: those that neither of them has learned from.

A row is held out for the newer release if it is in the test part of its table. For the older one that isn't promised:
its table may have been split by another seed or in other shares, and where the split is by row number, a row that was
put in at the front moves all others. So it is looked up: a row doesn't count if one of the two has it among those of
its own table that are not in the test part there; in the newer table that is a second row that says the same. The same
is the same customer, by her id, or where a table has no id, a row with the same value in every column.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from engine.artifact import ArtifactStore, open_artifact
from engine.errors import RetainError
from engine.fingerprint import Identity
from engine.releases import RELEASE
from engine.stage import IDENTITY
from retain.dataset import DatasetSpec
from tasks.stages import STAGES

TEST = "test"


@dataclass(frozen=True)
class Rows:
    """n rows: their columns by name, `y` (n,) 1.0 for the positive class, and what tells each from the others."""

    columns: dict[str, NDArray[Any]]
    y: NDArray[np.float64]
    keys: list[Hashable]


@dataclass(frozen=True)
class Table:
    """What a part of a release was trained on and measured by; `test` (n,): which rows are of the test part."""

    rows: Rows
    test: NDArray[np.bool_]


def data_of(artifacts: ArtifactStore, release: str, part: str) -> tuple[str, str]:
    """The data stage behind the part, `risk` or `accept`, of the release with this fingerprint, and the fingerprint of
    its artifact: by the hashes of what each stage read. Raises RetainError if one of these artifacts is gone."""
    (data,) = STAGES[part].inputs
    return data, _input(artifacts, part, _input(artifacts, RELEASE, release, part), data)


def table_of(artifacts: ArtifactStore, release: str, part: str) -> Table:
    """The table behind that part. Raises RetainError if one of these artifacts is gone from the store or damaged."""
    return read_table(artifacts.folder(*data_of(artifacts, release, part)))


def read_table(folder: Path) -> Table:
    """Of the artifact of a data stage. Raises RetainError."""
    files = open_artifact(folder)
    try:
        spec = DatasetSpec.model_validate_json(files["schema.json"].read_bytes())
        table = pq.read_table(files["data.parquet"])
        columns = {name: table[name].to_numpy() for name in table.column_names}
        y = (columns[spec.target.column] == spec.target.positive).astype(np.float64)
        return Table(Rows(columns, y, _keys(spec, columns)), np.asarray(columns["split"] == TEST))
    except (KeyError, ValueError, OSError) as error:
        raise RetainError(f"{folder}: holds no table ({error}); run that stage again") from None


def held_out(newer: Table, older: Table) -> Rows:
    """The test rows of the newer table from which neither release has learned, in their order."""
    learned = {key for table in (newer, older) for key, test in zip(table.rows.keys, table.test) if not test}
    kept = [index for index in np.flatnonzero(newer.test).tolist() if newer.rows.keys[index] not in learned]
    columns = {name: values[kept] for name, values in newer.rows.columns.items()}
    return Rows(columns, newer.rows.y[kept], [newer.rows.keys[index] for index in kept])


def _keys(spec: DatasetSpec, columns: dict[str, NDArray[Any]]) -> list[Hashable]:
    name = spec.roles.get("id")
    if name is not None:
        return list(map(str, columns[name].tolist()))
    described = [columns[column].tolist() for column in (*(c.name for c in spec.columns), spec.target.column)]
    return list(zip(*described))


def _input(artifacts: ArtifactStore, stage: str, fingerprint: str, name: str) -> str:
    """The fingerprint of what an artifact of `stage` read from the stage `name`."""
    prefix = artifacts.prefix(stage, fingerprint)
    stored = artifacts.store.read(f"{prefix}/{IDENTITY}")
    try:
        digest = Identity.model_validate_json(stored[0]).inputs[name] if stored else None
    except (ValueError, KeyError):
        digest = None
    if digest is None:
        raise RetainError(f"{artifacts.store.url}/{prefix}: its {IDENTITY} doesn't say which {name} it was made from")
    for found in artifacts.fingerprints(name):
        manifest = artifacts.manifest(name, found)
        if manifest is not None and manifest.digest == digest:
            return found
    raise RetainError(f"{artifacts.store.url}/{prefix}: the {name} that it was made from is gone from the store")
