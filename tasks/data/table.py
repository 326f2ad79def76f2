"""A described table, checked cell by cell, capped, split and written: the body of `customers` and `campaigns`.

The checks run on the text of the file, so a violation is reported as it stands there: line, column, value,
and what is expected. Rows of the file are never mended; those the description says to drop are counted.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pandera.pandas as pa
from numpy.typing import NDArray

from engine.errors import DataError
from retain.dataset import Column, DatasetSpec
from tasks.data import synthetic, text

if TYPE_CHECKING:
    from engine.stage import Metrics, Workspace
    from tasks.config import TableConfig

REPORTED = 20
SLICES = 20
PARTS = ("train", "validation", "test")


def run(config: TableConfig, inputs: Mapping[str, Path], workspace: Workspace) -> Metrics:
    """Reads inputs["source"]/source.csv, or makes a synthetic table when there is no source."""
    spec = config.dataset
    source = inputs["source"] / "source.csv" if "source" in inputs else None
    content = source.read_bytes() if source else synthetic.csv(spec, workspace.seed)
    workspace.progress(0, 3)
    cells = text.parse(content, spec)
    check(cells, spec)
    workspace.progress(1, 3)
    columns, dropped = typed(cells, spec, config.max_rows, workspace.seed)
    columns["split"] = split(keys(columns, spec), config.split, workspace.seed)
    positive = np.asarray(columns[spec.target.column], dtype=object) == spec.target.positive
    _check_classes(positive, columns["split"], spec)
    workspace.progress(2, 3)
    workspace.out.parquet("data.parquet", columns)
    workspace.out.json("schema.json", spec.model_dump(mode="json"))
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
    metrics |= {f"{part}_rows": int((columns["split"] == part).sum()) for part in PARTS}
    return {name: {"value": float(value)} for name, value in metrics.items()}


# -- checks
# ----------------------------------------------------------------------------------------------------------


def check(cells: text.Text, spec: DatasetSpec) -> None:
    """Raises DataError with the first violations, in the file's order, and how many there are."""
    name = spec.source.files[0]
    for column, values in cells.columns.items():
        distinct = set(values)
        if all(not value.strip() for value in distinct):
            raise DataError(f"{name}: column {column!r} is empty in every row. Fill it, or take it out of the table")
        if len(distinct) == 1 and cells.rows > 1:
            only = next(iter(distinct))
            what = "the target has one class" if column == spec.target.column else "the column is constant"
            raise DataError(
                f"{name}: column {column!r} is {only!r} in every row: {what}, so nothing can be learnt from it. "
                f"Give a table in which it varies{'' if column == spec.target.column else ', or take it out'}"
            )
    frame = pd.DataFrame(cells.columns, dtype=object)
    try:
        _schema(spec).validate(frame, lazy=True)
    except pa.errors.SchemaErrors as errors:
        raise DataError(_report(errors.failure_cases, cells, spec)) from None


def _schema(spec: DatasetSpec) -> pa.DataFrameSchema:
    columns = {column.name: pa.Column(object, _checks(column)) for column in spec.columns}
    target = (spec.target.negative, spec.target.positive)
    columns[spec.target.column] = pa.Column(object, _one_of(target))
    return pa.DataFrameSchema(columns, strict=True)


def _checks(column: Column) -> pa.Check:
    if column.kind == "id":
        return _check(lambda v: v.str.strip().ne("") & ~v.duplicated(), "an id that stands in no row above")
    if column.kind == "number":
        return _check(lambda values: _numbers_fit(column, values), _expected_number(column))
    return _one_of(column.values)


def _one_of(values: Sequence[str | int]) -> pa.Check:
    texts = [str(value) for value in values]
    return _check(lambda cells: cells.isin(texts), f"one of {', '.join(map(repr, texts))}")


def _check(holds: Callable[[Any], Any], expected: str) -> pa.Check:
    return pa.Check(holds, name=expected, error=expected)


def _numbers_fit(column: Column, values: pd.Series[Any]) -> pd.Series[bool]:
    numbers = pd.Series(_numbers(values), index=values.index)
    fits = numbers.map(math.isfinite)
    if column.integer:
        fits &= numbers.mod(1).eq(0)
    if column.minimum is not None:
        fits &= numbers.ge(column.minimum)
    if column.maximum is not None:
        fits &= numbers.le(column.maximum)
    if column.missing is not None:
        fits |= numbers.eq(column.missing)
    if column.blank == "drop":
        fits |= values.str.strip().eq("")
    return fits


def _expected_number(column: Column) -> str:
    what = "an integer" if column.integer else "a number"
    if column.minimum is not None and column.maximum is not None:
        what += f" from {column.minimum:g} to {column.maximum:g}"
    elif column.minimum is not None:
        what += f" of at least {column.minimum:g}"
    elif column.maximum is not None:
        what += f" of at most {column.maximum:g}"
    if column.missing is not None:
        what += f", or {column.missing:g} for none"
    return what + (", or blank" if column.blank == "drop" else "")


def _report(failures: pd.DataFrame, cells: text.Text, spec: DatasetSpec) -> str:
    names = list(cells.columns)
    places = zip(failures["index"], failures["column"], failures["check"])
    found = sorted({(int(row), names.index(column), expected) for row, column, expected in places})
    lines = []
    for row, at, expected in found[:REPORTED]:
        value = cells.columns[names[at]][row][:60]
        lines.append(f"  row {cells.lines[row]}, column {names[at]!r}: {value!r}; expected is {expected}")
    if len(found) > REPORTED:
        lines.append(f"  and {len(found) - REPORTED:,} more")
    count = "1 cell is" if len(found) == 1 else f"{len(found):,} cells are"
    return (
        f"{spec.source.files[0]}: {count} not as the description of {spec.name!r} says. "
        "Mend the file, or describe the table as it is\n" + "\n".join(lines)
    )


def _check_classes(positive: NDArray[np.bool_], parts: NDArray[Any], spec: DatasetSpec) -> None:
    for part in ("train", "test"):
        if len(set(positive[parts == part].tolist())) < 2:
            raise DataError(
                f"{spec.source.files[0]}: the {part} part has {int((parts == part).sum())} rows and one class of "
                f"{spec.target.column!r}. More rows are needed"
            )


# -- values
# ----------------------------------------------------------------------------------------------------------


def _numbers(values: Sequence[str] | pd.Series[Any]) -> list[float]:
    """Texts as float64; NaN for what is no number."""
    numbers = []
    for value in values:
        try:
            numbers.append(float(value) if "_" not in value else math.nan)
        except ValueError:
            numbers.append(math.nan)
    return numbers


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
            blank |= [not value.strip() for value in cells.columns[column.name]]
    kept = rows[~blank[rows]]
    columns: dict[str, Any] = {}
    for column in spec.columns:
        values = [cells.columns[column.name][row] for row in kept]
        columns[column.name] = _column(column, values)
    target = {str(value): value for value in (spec.target.negative, spec.target.positive)}
    columns[spec.target.column] = [target[cells.columns[spec.target.column][row]] for row in kept]
    columns["row"] = kept
    return columns, len(rows) - len(kept)


def _column(column: Column, values: list[str]) -> Any:
    if column.kind == "id":
        return values
    if column.kind == "number":
        return np.array(_numbers(values), dtype=np.int64 if column.integer else np.float64)
    as_is = {str(value): value for value in column.values}
    return [as_is[value] for value in values]


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
    return np.select([share < bounds[0], share < bounds[1]], PARTS[:2], PARTS[2]).astype(object)


def _positive_rate(positive: NDArray[np.bool_]) -> dict[str, list[Any]]:
    """The share of positives along the file, with 95 % Wilson intervals: it tells a table whose order is time."""
    curve: dict[str, list[Any]] = {name: [] for name in ("curve", "x", "y", "low", "high", "group")}
    z = 1.96
    for index, part in enumerate(np.array_split(positive, SLICES)):
        n, rate = len(part), float(part.mean())
        middle = (rate + z * z / (2 * n)) / (1 + z * z / n)
        half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n)) / (1 + z * z / n)
        row = ("positive_rate", (index + 0.5) / SLICES, rate, middle - half, middle + half, "all")
        for name, value in zip(curve, row):
            curve[name].append(value)
    return curve
