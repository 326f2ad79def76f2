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
from retain.dataset import (
    LARGEST_INTEGER,
    MAX_ID,
    MAX_TEXT,
    Column,
    DatasetSpec,
    bounds,
    is_blank,
    is_id,
    total_and_tenure,
)
from retain.dataset import column as column_of
from retain.intervals import wilson
from tasks.data import synthetic, text
from tasks.split import SPLIT_PARTS

if TYPE_CHECKING:
    from engine.stage import Metrics, Workspace
    from tasks.config import TableConfig

TAKE_OUT = "take it out of the table and out of the description"
REPORTED = 20
SLICES = 20


def run(config: TableConfig, inputs: Mapping[str, Path], workspace: Workspace) -> Metrics:
    """Reads inputs["source"]/source.csv, or makes a synthetic table when there is no source."""
    spec = config.dataset
    source = inputs["source"] / "source.csv" if "source" in inputs else None
    content = _read(source, spec) if source else synthetic.csv(spec, workspace.seed)
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
    metrics |= {f"{part}_rows": int((columns["split"] == part).sum()) for part in SPLIT_PARTS}
    return {name: {"value": float(value)} for name, value in metrics.items()}


def _read(source: Path, spec: DatasetSpec) -> bytes:
    try:
        return source.read_bytes()
    except OSError as error:
        raise DataError(
            f"{spec.source.files[0]}: its copy {source} can't be read ({error.strerror}). Run this again"
        ) from None


# -- checks
# ----------------------------------------------------------------------------------------------------------


def check(cells: text.Text, spec: DatasetSpec) -> None:
    """Raises DataError with the first violations, in the file's order, and how many there are."""
    name = spec.source.files[0]
    texts = {column.name for column in spec.columns if column.kind == "text"}
    for column, values in cells.columns.items():
        if column in texts:  # nothing is learnt from it, and who has no name has none
            continue
        distinct = set(values)
        if all(is_blank(value) for value in distinct):
            raise DataError(f"{name}: column {column!r} is empty in every row. Fill it, or {TAKE_OUT}")
        if len(distinct) == 1 and cells.rows > 1:
            only = next(iter(distinct))
            what = "the target has one class" if column == spec.target.column else "the column is constant"
            raise DataError(
                f"{name}: column {column!r} is {only!r} in every row: {what}, so nothing can be learnt from it. "
                f"Give a table in which it varies{'' if column == spec.target.column else f', or {TAKE_OUT}'}"
            )
    frame = pd.DataFrame(cells.columns, dtype=object)
    try:
        _schema(spec, frame).validate(frame, lazy=True)
    except pa.errors.SchemaErrors as errors:
        raise DataError(_report(errors.failure_cases, cells, spec)) from None


def _schema(spec: DatasetSpec, frame: pd.DataFrame) -> pa.DataFrameSchema:
    columns = {column.name: pa.Column(object, _checks(column)) for column in spec.columns}
    if names := total_and_tenure(spec):
        total, tenure = names
        new = pd.Series(_numbers(frame[tenure]), index=frame.index).eq(0)
        columns[total] = pa.Column(object, _checks(column_of(spec, total), f" where {tenure!r} is 0", new))
    target = (spec.target.negative, spec.target.positive)
    columns[spec.target.column] = pa.Column(object, _one_of(target))
    return pa.DataFrameSchema(columns, strict=True)


def _checks(column: Column, where: str = "", blank: pd.Series[bool] | bool = True) -> pa.Check:
    """`blank`: the rows in which a number that may be blank may be so; `where` says which those are."""
    if column.kind == "id":
        return _check(
            _ids_fit,
            f"an id that stands in no row above, of 1 to {MAX_ID} characters, without space around it or control "
            "characters",
        )
    if column.kind == "number":
        return _check(lambda values: _numbers_fit(column, values, blank), _expected_number(column, where))
    if column.kind == "text":
        return _check(lambda cells: cells.str.len() <= MAX_TEXT, f"at most {MAX_TEXT} characters")
    return _one_of(column.values)


def _one_of(values: Sequence[str | int]) -> pa.Check:
    texts = [str(value) for value in values]
    return _check(lambda cells: cells.isin(texts), f"one of {', '.join(map(repr, texts))}")


def _check(holds: Callable[[Any], Any], expected: str) -> pa.Check:
    return pa.Check(holds, name=expected, error=expected)


def _ids_fit(values: pd.Series[Any]) -> pd.Series[bool]:
    return values.map(is_id) & ~values.duplicated()


def _numbers_fit(column: Column, values: pd.Series[Any], blank: pd.Series[bool] | bool) -> pd.Series[bool]:
    numbers = pd.Series(_numbers(values), index=values.index)
    fits = numbers.between(*bounds(column))
    if column.integer:
        fits &= numbers.mod(1).eq(0)
    if column.missing is not None:
        fits |= numbers.eq(column.missing)
    if column.blank == "drop":
        fits |= values.map(is_blank) & blank
    return fits


def _expected_number(column: Column, where: str) -> str:
    low, high = map(_shown, bounds(column))
    what = f"{'an integer' if column.integer else 'a number'} from {low} to {high}"
    if column.missing is not None:
        what += f", or {column.missing:g} for none"
    return what + (f", or blank{where}" if column.blank == "drop" else "")


def _shown(bound: float) -> str:
    return f"{bound:.0f}" if abs(bound) == LARGEST_INTEGER else f"{bound:g}"


def _report(failures: pd.DataFrame, cells: text.Text, spec: DatasetSpec) -> str:
    names = list(cells.columns)
    places = zip(failures["index"], failures["column"], failures["check"])
    violations = sorted({(int(row), names.index(column), expected) for row, column, expected in places})
    lines = []
    for row, position, expected in violations[:REPORTED]:
        value = cells.columns[names[position]][row][:60]
        lines.append(f"  row {cells.lines[row]}, column {names[position]!r}: {value!r}; expected is {expected}")
    if len(violations) > REPORTED:
        lines.append(f"  and {len(violations) - REPORTED:,} more")
    count = "1 cell is" if len(violations) == 1 else f"{len(violations):,} cells are"
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
    """Texts as float64; NaN for what is no number (Python would read "1_0" and full-width digits, too)."""
    known = {value: _number(value) for value in set(values)}  # most columns have few values, and are read twice
    return [known[value] for value in values]


def _number(value: str) -> float:
    try:
        return float(value) if value.isascii() and "_" not in value else math.nan
    except ValueError:
        return math.nan


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
            blank |= [is_blank(value) for value in cells.columns[column.name]]
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
    if column.kind == "text":
        return [""] * len(values)  # a name is for the greeting of a request; none is kept here
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
