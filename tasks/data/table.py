"""A described table, checked, capped, split and written: the body of `customers` and `campaigns`.

Rows of the file are never mended; those the description says to drop are counted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import DataError
from retain.dataset import Column, DatasetSpec
from retain.intervals import wilson
from tasks.data import checks, suspicions, synthetic, text
from tasks.data.cells import is_empty, number
from tasks.split import SPLIT_PARTS

if TYPE_CHECKING:
    from engine.stage import Metrics, Workspace
    from tasks.config import TableConfig

SLICES = 20


def run(
    config: TableConfig,
    inputs: Mapping[str, Path],
    workspace: Workspace,
    asked_later: Callable[[text.Text, DatasetSpec], list[str]] = lambda cells, spec: [],
) -> Metrics:
    """Reads inputs["source"]/source.csv, or makes a synthetic table when there is no source.

    `asked_later` tells what later stages would refuse of the table. Raises DataError for that and for what is not as
    described, all at once.
    """
    spec = config.dataset
    source = inputs["source"] / "source.csv" if "source" in inputs else None
    content = _read(source, spec) if source else synthetic.csv(spec, workspace.seed)
    workspace.progress(0, 3)
    cells = text.parse(content, spec)
    checks.check(cells, spec, asked_later(cells, spec))
    checks.check_size(min(cells.rows, config.max_rows), spec)
    workspace.progress(1, 3)
    columns, dropped = typed(cells, spec, config.max_rows, workspace.seed)
    columns["split"] = split(keys(columns, spec), config.split, workspace.seed)
    positive = np.asarray(columns[spec.target.column], dtype=object) == spec.target.positive
    _check_parts(positive, columns, spec)
    checks.check_known(columns, spec)
    workspace.progress(2, 3)
    workspace.out.parquet("data.parquet", columns)
    workspace.out.json("schema.json", spec.model_dump(mode="json"))
    workspace.out.warnings(suspicions.warnings(columns, cells.lines, spec, config.max_rows))
    digest = hashlib.sha256(content).hexdigest()
    workspace.out.json(
        "catalog.json",
        {
            "name": spec.name,
            "title": spec.title,
            "file": spec.source.files[0] if source else None,
            "url": spec.source.url if source else None,
            "licence": spec.source.licence if source else None,
            "rows": len(positive),
            "rows_dropped": dropped,
            "sha256": digest if source else None,
            "published": digest == spec.source.sha256,
            "synthetic": source is None,
            "generator": None if source else synthetic.GENERATOR_VERSION,
        },
    )
    workspace.out.parquet("curves.parquet", _positive_rate(positive))
    workspace.progress(3, 3, rows=float(len(positive)))
    metrics = {"rows": len(positive), "rows_dropped": dropped, "positive_rate": float(positive.mean())}
    metrics |= {f"{part}_rows": int((columns["split"] == part).sum()) for part in SPLIT_PARTS}
    return {name: {"value": float(value)} for name, value in metrics.items()}


def _read(source: Path, spec: DatasetSpec) -> bytes:
    try:
        return source.read_bytes()
    except OSError as error:
        raise DataError(
            f"{spec.source.files[0]}: its copy {source} can't be read ({error.strerror}). Run this again"
        ) from None


# -- values
# ----------------------------------------------------------------------------------------------------------


def typed(cells: text.Text, spec: DatasetSpec, max_rows: int, seed: int) -> tuple[dict[str, Any], int]:
    """The table's columns with types, and how many rows were dropped as the description says.

    Of a longer file, a seeded sample of `max_rows` rows is taken, in the file's order: the first rows of a
    table in date order would be another population. `row` is the position in the file, from 0.
    """
    rows = np.arange(cells.rows, dtype=np.int64)
    if cells.rows > max_rows:
        rows = np.sort(np.argsort(shares([f"cap:{row}" for row in rows], seed), kind="stable")[:max_rows])
    blank = np.zeros(cells.rows, dtype=bool)
    for column in spec.columns:
        if column.blank == "drop":
            values = cells.columns[column.name]
            empty = {value for value in set(values) if is_empty(column, value)}
            blank |= [value in empty for value in values]
    kept = rows[~blank[rows]]
    columns: dict[str, Any] = {}
    for column in spec.columns:
        values = [cells.columns[column.name][row] for row in kept]
        columns[column.name] = _column(column, values, spec.source.decimal)
    target = {str(value): value for value in (spec.target.negative, spec.target.positive)}
    columns[spec.target.column] = [target[cells.columns[spec.target.column][row]] for row in kept]
    columns["row"] = kept
    return columns, len(rows) - len(kept)


def _column(column: Column, values: list[str], decimal: str) -> Any:
    if column.kind == "id":
        return values
    if column.kind == "number":
        numbers = {value: _number(column, value, decimal) for value in set(values)}  # most columns have few values
        return np.array([numbers[value] for value in values], dtype=np.int64 if column.integer else np.float64)
    if column.kind == "text":
        return [""] * len(values)  # a name is for the greeting of a request; none is kept here
    as_is = {str(value): value for value in column.values}
    return [as_is[value] for value in values]


def _number(column: Column, value: str, decimal: str) -> float:
    """A cell as a number; an empty one of a row that is kept is what stands for none."""
    if column.blank == "keep" and is_empty(column, value):
        instead = column.missing if column.blank_value is None else column.blank_value
        assert instead is not None  # as Column sees to
        return instead
    return number(value, decimal)


def _check_parts(positive: NDArray[np.bool_], columns: Mapping[str, Any], spec: DatasetSpec) -> None:
    """Raises DataError for a part that has not all that is learnt from it, or measured on it."""
    name, parts = spec.source.files[0], columns["split"]
    if not len(parts):
        raise DataError(
            f"{name}: `blank: drop` leaves every row out. Write `blank: keep` where most rows have no value"
        )
    if "validation" not in parts:
        raise DataError(f"{name}: the validation part has no rows. More rows are needed")
    for part in ("train", "test"):
        if len(set(positive[parts == part].tolist())) < 2:
            raise DataError(
                f"{spec.source.files[0]}: the {part} part has {int((parts == part).sum())} rows and one class of "
                f"{spec.target.column!r}. More rows are needed"
            )


# -- split
# -----------------------------------------------------------------------------------------------------------


def keys(columns: Mapping[str, Any], spec: DatasetSpec) -> list[str]:
    """What the split hashes: the id, or the row number of a table without one."""
    return [str(value) for value in columns[spec.roles.get("id", "row")]]


def shares(names: Sequence[str], seed: int) -> NDArray[np.float64]:
    """A number in [0, 1) for each name: the same for ever, whatever other names there are."""
    digests = [hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest() for name in names]
    return np.frombuffer(b"".join(digests), dtype=">u8").astype(np.float64) / 2.0**64


def split(names: Sequence[str], parts: Any, seed: int) -> NDArray[Any]:
    """train, validation or test for each name, in the shares of `parts`."""
    share = shares(names, seed)
    bounds = (parts.train, parts.train + parts.validation)
    return np.select([share < bounds[0], share < bounds[1]], SPLIT_PARTS[:2], SPLIT_PARTS[2]).astype(object)


def _positive_rate(positive: NDArray[np.bool_]) -> dict[str, list[Any]]:
    """The share of positives along the file, with 95 % Wilson intervals: it tells a table whose order is time."""
    curve: dict[str, list[Any]] = {name: [] for name in ("curve", "x", "y", "low", "high", "group")}
    for index, part in enumerate(np.array_split(positive, SLICES)):
        interval = wilson(int(part.sum()), len(part))
        row = ("positive_rate", (index + 0.5) / SLICES, float(part.mean()), *interval, "all")
        for name, value in zip(curve, row):
            curve[name].append(value)
    return curve
