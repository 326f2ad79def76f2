"""On which rows two releases are compared: those that neither of them has learned from.

A row is held out for the newer release if it is in the test part of its table. For the older one that isn't promised:
its table may have been split by another seed or in other shares, and where the split is by row number, a row that was
put in at the front moves all others. So it is looked up: a row doesn't count if one of the two has it among those of
its own table that are not in the test part there; in the newer table that is a second row that says the same. The same
is the same customer, by her id, or where a table has no id, a row with the same value in every column.

Tables may grow without a cap, and a run in a container has little memory: of both tables it holds 9 bytes a row, and
whole rows only where they are held out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
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
BATCH_ROWS = 4096


@dataclass(frozen=True)
class Rows:
    """n rows: their columns by name, and `y` (n,) 1.0 for the positive class."""

    columns: dict[str, NDArray[Any]]
    y: NDArray[np.float64]


@dataclass(frozen=True)
class Table:
    """What a part of a release was trained on and measured by, which lies in the artifact `folder` as `file`.

    `keys` (n,): what tells each row from others, in 64 bits. Two that are different by chance have the same in one of
    10^19 pairs, which may leave out a row. `test` (n,): which rows are of the test part.
    """

    folder: Path
    file: Path
    spec: DatasetSpec
    keys: NDArray[np.uint64]
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
        name = spec.roles.get("id")
        told = [name] if name else [*(column.name for column in spec.columns), spec.target.column]
        keys, test = [], []
        for batch in _batches(files["data.parquet"], [*told, "split"]):
            cells = zip(*(batch[column].to_pylist() for column in told))
            keys.append(np.fromiter(map(_key, cells), np.uint64, batch.num_rows))
            test.append(np.array([part == TEST for part in batch["split"].to_pylist()], dtype=np.bool_))
        return Table(folder, files["data.parquet"], spec, _joined(keys, np.uint64), _joined(test, np.bool_))
    except (KeyError, ValueError, OSError) as error:
        raise _no_table(folder, error) from None


def held_out(newer: Table, older: Table) -> Rows:
    """The test rows of the newer table from which neither release has learned, in their order. Raises RetainError."""
    learned = np.concatenate([table.keys[~table.test] for table in (newer, older)])
    kept = newer.test & ~np.isin(newer.keys, learned)
    try:
        columns = _columns(newer.file, kept)
        y = (columns[newer.spec.target.column] == newer.spec.target.positive).astype(np.float64)
    except (KeyError, ValueError, OSError) as error:
        raise _no_table(newer.folder, error) from None
    return Rows(columns, y)


def _batches(file: Path, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(file) as table:
        yield from table.iter_batches(BATCH_ROWS, columns=columns)


def _columns(file: Path, kept: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
    """By name, of the rows that are kept (n,)."""
    batches, start = [], 0
    for batch in _batches(file):
        batches.append(batch.filter(pa.array(kept[start : start + batch.num_rows])))
        start += batch.num_rows
    table = pa.Table.from_batches(batches, schema=pq.read_schema(file))
    return {name: _values(table[name]) for name in table.column_names}


def _values(column: pa.ChunkedArray) -> NDArray[Any]:
    """As to_numpy(), but rows with the same word share it."""
    if not pa.types.is_string(column.type):
        return np.asarray(column.to_numpy())
    encoded = column.combine_chunks().dictionary_encode()
    words = np.array([*encoded.dictionary.to_pylist(), None], dtype=object)  # the last one: missing
    return np.asarray(words[encoded.indices.fill_null(len(words) - 1).to_numpy()])


def _key(cells: tuple[Any, ...]) -> int:
    """Of a whole number as of the same one in a column with fractions, and of a gap as of NaN."""
    alike = [float(cell) if isinstance(cell, int) else cell for cell in cells]
    said = repr([float("nan") if cell is None else cell for cell in alike])
    return int.from_bytes(blake2b(said.encode(), digest_size=8).digest())


def _joined(pieces: list[NDArray[Any]], kind: type[np.generic]) -> NDArray[Any]:
    return np.concatenate(pieces) if pieces else np.zeros(0, kind)


def _no_table(folder: Path, error: Exception) -> RetainError:
    return RetainError(f"{folder}: holds no table ({error}); run that stage again")


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
