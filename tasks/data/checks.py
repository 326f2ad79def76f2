"""Whether a file's cells are as the description says; the faults of a column are told together.

The checks run on the text of the file, so a fault is shown as it stands there: line, column, value, what is expected,
and the line of the description that would take the column as it is, where there is one. Work and memory grow with the
cells of the file, never with the faults, and a message stays short: a description may list thousands of values, and
every cell of a large file may be wrong.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import yaml

from engine.errors import DataError
from retain.dataset import (
    LARGEST_INTEGER,
    MAX_ID,
    MAX_TEXT,
    Column,
    DatasetSpec,
    bounds,
    feature_columns,
    is_blank,
    is_id,
    total_and_tenure,
)
from retain.dataset import column as column_of
from retain.features import Featurizer, is_missing
from tasks.data import text

TAKE_OUT = "take it out of the table and out of the description"
EXAMPLES = 3  # of a column's faults
REPORTED = 20  # columns
SHOWN = 60  # characters of a cell or a value
LISTED = 12  # values in a message, or new ones in a line to write
LONGEST_LINE = 600
# Numbers that a model sees in all: 1 GB as float32, of which a training holds more than one copy. The bank's calls are
# 2.6 million.
MOST_FEATURES = 250_000_000


@dataclass(frozen=True)
class Fault:
    """A column's cells that are not as described: how many, and of the first of them row, line of the file, text."""

    column: str
    count: int
    examples: tuple[tuple[int, int, str], ...]
    expected: str
    remedy: str  # what to write into the description to take the column as it is; "" where nothing should


def check(cells: text.Text, spec: DatasetSpec) -> None:
    """Raises DataError with the faults of each column, in the file's order."""
    _check_informative(cells, spec)
    faults = [fault for name in cells.columns if (fault := _fault(cells, spec, name)) is not None]
    if faults:
        raise DataError(_report(faults, spec))


def check_size(rows: int, spec: DatasetSpec) -> None:
    """Raises DataError for a table whose features no machine that this runs on could hold."""
    features = len(Featurizer.fit(spec).names)
    if rows * features <= MOST_FEATURES:
        return
    widest = max(feature_columns(spec), key=lambda column: len(column.values))
    raise DataError(
        f"{spec.source.files[0]}: {rows:,} rows of {features:,} features are more than {MOST_FEATURES:,} numbers. "
        f"Every value of a category is a feature, and column {widest.name!r} has {len(widest.values):,}: give it fewer "
        f"values, {TAKE_OUT}, or lower `max_rows`"
    )


def check_known(columns: Mapping[str, Any], spec: DatasetSpec) -> None:
    """Raises DataError for a number that is missing in all rows of the training part: no median stands for it."""
    train = np.asarray(columns["split"]) == "train"
    for column in feature_columns(spec):
        if column.missing is not None and is_missing(column, np.asarray(columns[column.name])[train]).all():
            raise DataError(
                f"{spec.source.files[0]}: column {column.name!r} is {column.missing:g}, which stands for none, in "
                f"every row of the training part, so nothing can be learnt from it. Fill it, or {TAKE_OUT}"
            )


def _check_informative(cells: text.Text, spec: DatasetSpec) -> None:
    name = spec.source.files[0]
    texts = {column.name for column in spec.columns if column.kind == "text"}
    for column, values in cells.columns.items():
        if column in texts:  # nothing is learnt from it, and who has no name has none
            continue
        distinct = set(values)
        if all(is_blank(value) for value in distinct):
            raise DataError(f"{name}: column {column!r} is empty in every row. Fill it, or {TAKE_OUT}")
        if len(distinct) == 1 and cells.rows > 1:
            only = _short(next(iter(distinct)))
            what = "the target has one class" if column == spec.target.column else "the column is constant"
            raise DataError(
                f"{name}: column {column!r} is {only} in every row: {what}, so nothing can be learnt from it. "
                f"Give a table in which it varies{'' if column == spec.target.column else f', or {TAKE_OUT}'}"
            )


# -- one column
# ----------------------------------------------------------------------------------------------------------


def _fault(cells: text.Text, spec: DatasetSpec, name: str) -> Fault | None:
    """What is wrong in the column, or None. A value that stands in many rows is looked at once."""
    values = cells.columns[name]
    wrong = _wrong_rows(cells, spec, name)
    if not wrong:
        return None
    first = tuple((row, cells.lines[row], values[row]) for row in wrong[:EXAMPLES])
    return Fault(name, len(wrong), first, _expected(spec, name), _remedy(spec, name, [values[row] for row in wrong]))


def _wrong_rows(cells: text.Text, spec: DatasetSpec, name: str) -> list[int]:
    values = cells.columns[name]
    if name == spec.target.column:
        allowed = {str(spec.target.negative), str(spec.target.positive)}
        return [row for row, value in enumerate(values) if value not in allowed]
    column = column_of(spec, name)
    if column.kind == "id":
        return _wrong_ids(values)
    if column.kind == "number":
        fits = {value: number_fits(column, value) for value in set(values)}
        wrong = [row for row, value in enumerate(values) if not fits[value]]
        return _without_blanks(wrong, cells, spec, column) if column.blank == "drop" else wrong
    if column.kind == "text":
        return [row for row, value in enumerate(values) if len(value) > MAX_TEXT]
    allowed = {str(value) for value in column.values}
    return [row for row, value in enumerate(values) if value not in allowed]


def _wrong_ids(values: Sequence[str]) -> list[int]:
    seen: set[str] = set()
    wrong = []
    for row, value in enumerate(values):
        if not is_id(value) or value in seen:
            wrong.append(row)
        seen.add(value)
    return wrong


def number_fits(column: Column, value: str) -> bool:
    """Whether a cell is a number that the column may hold, or the one that stands for none."""
    found = number(value)
    low, high = bounds(column)
    return (low <= found <= high and not (column.integer and found % 1)) or (
        column.missing is not None and found == column.missing
    )


def _without_blanks(wrong: Sequence[int], cells: text.Text, spec: DatasetSpec, column: Column) -> list[int]:
    """The wrong rows but those whose blank cell is taken: of a total charge, where tenure is 0; else all."""
    values, names = cells.columns[column.name], total_and_tenure(spec)
    tenure = cells.columns[names[1]] if names is not None and names[0] == column.name else None
    return [row for row in wrong if not is_blank(values[row]) or (tenure is not None and number(tenure[row]) != 0)]


def number(value: str) -> float:
    """A cell as float64; NaN for what is no number (Python would read "1_0" and full-width digits, too)."""
    try:
        return float(value) if value.isascii() and "_" not in value else math.nan
    except ValueError:
        return math.nan


# -- what is said of it
# ----------------------------------------------------------------------------------------------------------


def _expected(spec: DatasetSpec, name: str) -> str:
    if name == spec.target.column:
        return _one_of((spec.target.negative, spec.target.positive))
    column = column_of(spec, name)
    if column.kind == "id":
        return (
            f"an id that stands in no row above, of 1 to {MAX_ID} characters, without space around it or control "
            "characters"
        )
    if column.kind == "number":
        names = total_and_tenure(spec)
        return _expected_number(column, f" where {names[1]!r} is 0" if names and names[0] == name else "")
    if column.kind == "text":
        return f"at most {MAX_TEXT} characters"
    return _one_of(column.values)


def _one_of(values: Sequence[str | int]) -> str:
    listed = ", ".join(_short(str(value)) for value in values[:LISTED])
    return f"one of {listed}" + (f" and {len(values) - LISTED:,} more" if len(values) > LISTED else "")


def _expected_number(column: Column, where: str) -> str:
    low, high = map(_bound, bounds(column))
    what = f"{'an integer' if column.integer else 'a number'} from {low} to {high}"
    if column.missing is not None:
        what += f", or {column.missing:g} for none"
    return what + (f", or blank{where}" if column.blank == "drop" else "")


def _bound(bound: float) -> str:
    return f"{bound:.0f}" if abs(bound) == LARGEST_INTEGER else f"{bound:g}"


def _remedy(spec: DatasetSpec, name: str, wrong: Sequence[str]) -> str:
    """What to write into the description to take the column as it is, or "" where nothing should be."""
    if name == spec.target.column:
        return ""
    column = column_of(spec, name)
    if column.kind == "number":
        line = _number_line(column, wrong)
    elif column.kind in ("flag", "category"):
        others = sorted({value for value in wrong if not is_blank(value)})
        line = _category_line(column, others)
        if not line and len(others) > LISTED:
            return f"it holds {len(others):,} values that are not listed: list them, or {TAKE_OUT}"
    else:
        line = ""
    return f"to take it as it is, write: - {line}" if line else ""


def _category_line(column: Column, others: Sequence[str]) -> str:
    """The column with the `others` among its values, or as a number if they are many numbers."""
    if len(others) > LISTED and all(math.isfinite(number(value)) for value in others):
        return _described(column, kind="number", values=None)
    if not others or len(others) > LISTED or len(column.values) + len(others) > 2 * LISTED:
        return ""
    values: list[str | int] = [*column.values, *others]
    if all(isinstance(value, int) for value in column.values):
        values = [int(v) for v in values] if all(map(str.isdecimal, others)) else [str(v) for v in values]
    return _described(column, kind="category", values=values)


def _number_line(column: Column, wrong: Sequence[str]) -> str:
    """Wider bounds, `missing` for the one value that stands out, or `blank: drop`; "" for what is no number."""
    counts = Counter(wrong)
    if all(is_blank(value) for value in counts):
        return _described(column, blank="drop") if column.blank != "drop" else ""
    numbers = [number(value) for value in counts]
    if not all(abs(found) <= LARGEST_INTEGER for found in numbers):  # nor for what is too large to be read
        return ""
    if len(counts) == 1 and len(wrong) > 1:
        return _described(column, missing=numbers[0])
    low, high = bounds(column)
    return _described(
        column,
        integer=column.integer and not any(found % 1 for found in numbers),
        minimum=None if column.minimum is None else min(low, *numbers),
        maximum=None if column.maximum is None else max(high, *numbers),
    )


def _described(column: Column, **changes: object) -> str:
    """The column's line with `changes`, a key that becomes false or None left out; "" if it is too long to be read."""
    stated = column.model_dump(mode="json", exclude_defaults=True) | changes
    wanted = {
        key: _plain(stated[key])
        for key in Column.model_fields
        if stated.get(key) is not None and stated[key] is not False
    }
    line = yaml.safe_dump(wanted, default_flow_style=True, sort_keys=False, allow_unicode=True, width=math.inf).strip()
    return line if len(line) <= LONGEST_LINE else ""


def _plain(value: object) -> object:
    return int(value) if isinstance(value, float) and value % 1 == 0 else value


def _short(value: str) -> str:
    return repr(value if len(value) <= SHOWN else value[:SHOWN] + "...")


def _report(faults: Sequence[Fault], spec: DatasetSpec) -> str:
    lines = []
    for fault in islice(faults, REPORTED):
        more = fault.count - len(fault.examples)
        shown = ", ".join(f"row {line} {_short(value)}" for _, line, value in fault.examples)
        shown += f" and {more:,} more" if more else ""
        lines.append(f"  column {fault.column!r}: {shown}; expected is {fault.expected}")
        if fault.remedy:
            lines.append(f"    {fault.remedy}")
    if len(faults) > REPORTED:
        lines.append(f"  and {len(faults) - REPORTED:,} more columns")
    total = sum(fault.count for fault in faults)
    count = "1 cell is" if total == 1 else f"{total:,} cells are"
    return (
        f"{spec.source.files[0]}: {count} not as the description of {spec.name!r} says. "
        "Mend the file, or describe the table as it is\n" + "\n".join(lines)
    )
