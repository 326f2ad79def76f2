"""Whether a file's cells are as the description says; the faults of a column are told together.

The checks run on the text of the file, so a fault is shown as it stands there: line, column, value, what is expected,
and the line of the description that would take the column as it is, where there is one. Work and memory grow with the
cells of the file, never with the faults, and a message stays short: a description may list thousands of values, and
every cell of a large file may be wrong.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from engine.errors import DataError
from retain.dataset import (
    LARGEST_INTEGER,
    MAX_ID,
    MAX_TEXT,
    Column,
    DatasetSpec,
    bounds,
    feature_columns,
    is_id,
    total_and_tenure,
)
from retain.dataset import column as column_of
from retain.features import Featurizer, is_missing
from retain.needs import CHARGE
from tasks.data import remedies, text
from tasks.data.cells import is_empty, number, spells_none
from tasks.data.remedies import LISTED, ignoring

EXAMPLES = 3  # of a column's faults
REPORTED = 20  # columns
SHOWN = 60  # characters of a cell or a value
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


def check(cells: text.Text, spec: DatasetSpec, more: Sequence[str] = ()) -> None:
    """Raises DataError with all that is wrong: columns that say nothing, the faults of each other column, in the file's
    order, and `more`, which was found elsewhere."""
    empty, constant = _empty(cells, spec), _constant(cells, spec)
    faults = [fault for name in cells.columns if name not in empty and (fault := _fault(cells, spec, name)) is not None]
    silent = {name: constant[name] for name in constant.keys() - {fault.column for fault in faults}} | empty
    lines = [f"column {name!r} {silent[name]}" for name in cells.columns if name in silent]
    if faults:
        lines.append(_report(faults, spec))
    lines += more
    if lines:
        raise DataError("\n".join(f"{spec.source.files[0]}: {line}" for line in lines))


def check_size(rows: int, spec: DatasetSpec) -> None:
    """Raises DataError for a table whose features no machine that this runs on could hold."""
    features = len(Featurizer.fit(spec).names)
    if rows * features <= MOST_FEATURES:
        return
    widest = max(feature_columns(spec), key=lambda column: len(column.values))
    raise DataError(
        f"{spec.source.files[0]}: {rows:,} rows of {features:,} features are more than {MOST_FEATURES:,} numbers. "
        f"Every value of a category is a feature, and column {widest.name!r} has {len(widest.values):,}: give it fewer "
        f"values, lower `max_rows`, or {ignoring(widest.name)}"
    )


def check_known(columns: Mapping[str, Any], spec: DatasetSpec) -> None:
    """Raises DataError for a number that is missing in all rows of the training part: no median stands for it."""
    train = np.asarray(columns["split"]) == "train"
    for column in feature_columns(spec):
        if column.missing is not None and is_missing(column, np.asarray(columns[column.name])[train]).all():
            raise DataError(
                f"{spec.source.files[0]}: column {column.name!r} is {column.missing:g}, which stands for none, in "
                f"every row of the training part, so nothing can be learnt from it. Fill it, or {ignoring(column.name)}"
            )


def _empty(cells: text.Text, spec: DatasetSpec) -> dict[str, str]:
    """Column -> what is wrong with one that has no value in any row; who has no name has none."""
    texts = {column.name for column in spec.columns if column.kind == "text"}
    return {
        name: "is empty in every row. Fill it" + _or_ignore(spec, name)
        for name, values in cells.columns.items()
        if name not in texts and all(spells_none(value) and value not in _known(spec, name) for value in set(values))
    }


def _constant(cells: text.Text, spec: DatasetSpec) -> dict[str, str]:
    """Column -> what is wrong with one that has the same value in every row."""
    # Nothing is learnt from a text. A charge that all pay is a price, an opt-out that nobody has made yet still is one,
    # and a role of the bridge may hold for everybody.
    may_be = {column.name for column in spec.columns if column.kind == "text"} | {part.column for part in spec.bridge}
    may_be |= {spec.roles[role] for role in (CHARGE, "do_not_contact") if role in spec.roles}
    constant = {}
    for name, values in cells.columns.items():
        if name not in may_be and cells.rows > 1 and len(set(values)) == 1:
            what = "the target has one class" if name == spec.target.column else "the column is constant"
            constant[name] = (
                f"is {_short(values[0])} in every row: {what}, so nothing can be learnt from it. Give a table in which "
                f"it varies{_or_ignore(spec, name)}"
            )
    return constant


def _or_ignore(spec: DatasetSpec, name: str) -> str:
    return "" if name == spec.target.column else f", or {ignoring(name)}"


def _known(spec: DatasetSpec, name: str) -> set[str]:
    """The texts that a flag, a category or the target may be."""
    target = (spec.target.negative, spec.target.positive)
    return set(map(str, target if name == spec.target.column else column_of(spec, name).values))


# -- one column
# ----------------------------------------------------------------------------------------------------------


def _fault(cells: text.Text, spec: DatasetSpec, name: str) -> Fault | None:
    """What is wrong in the column, or None. A value that stands in many rows is looked at once."""
    values = cells.columns[name]
    wrong = _wrong_rows(cells, spec, name)
    if not wrong:
        return None
    first = tuple((row, cells.lines[row], values[row]) for row in wrong[:EXAMPLES])
    return Fault(name, len(wrong), first, _expected(spec, name), _remedy(cells, spec, name, wrong))


def _wrong_rows(cells: text.Text, spec: DatasetSpec, name: str) -> list[int]:
    values = cells.columns[name]
    if name == spec.target.column:
        allowed = _known(spec, name)
        return [row for row, value in enumerate(values) if value not in allowed]
    column = column_of(spec, name)
    if column.kind == "id":
        return _wrong_ids(values)
    if column.kind == "text":
        return [row for row, value in enumerate(values) if len(value) > MAX_TEXT]
    distinct = set(values)
    if column.kind == "number":
        fits = {value for value in distinct if number_fits(column, value, spec.source.decimal)}
    else:
        fits = distinct & _known(spec, name)
    wrong = [row for row, value in enumerate(values) if value not in fits]
    return wrong if column.blank == "error" else _without_empty(wrong, cells, spec, column)


def _wrong_ids(values: Sequence[str]) -> list[int]:
    seen: set[str] = set()
    wrong = []
    for row, value in enumerate(values):
        if not is_id(value) or value in seen:
            wrong.append(row)
        seen.add(value)
    return wrong


def number_fits(column: Column, value: str, decimal: str = ".") -> bool:
    """Whether a cell is a number that the column may hold, or the one that stands for none."""
    found = number(value, decimal)
    low, high = bounds(column)
    return (low <= found <= high and not (column.integer and found % 1)) or (
        column.missing is not None and found == column.missing
    )


def _without_empty(wrong: Sequence[int], cells: text.Text, spec: DatasetSpec, column: Column) -> list[int]:
    """The wrong rows but those whose empty cell is taken: of a total charge, where tenure is 0; else all."""
    values, names = cells.columns[column.name], total_and_tenure(spec)
    empty = {value for value in {values[row] for row in wrong} if is_empty(column, value)}
    if names is None or names[0] != column.name:
        return [row for row in wrong if values[row] not in empty]
    tenure, decimal = cells.columns[names[1]], spec.source.decimal
    return [row for row in wrong if values[row] not in empty or number(tenure[row], decimal) != 0]


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
    return _one_of(column.values) + (", or blank" if column.blank != "error" else "")


def _one_of(values: Sequence[str | int]) -> str:
    listed = ", ".join(_short(str(value)) for value in values[:LISTED])
    return f"one of {listed}" + (f" and {len(values) - LISTED:,} more" if len(values) > LISTED else "")


def _expected_number(column: Column, where: str) -> str:
    low, high = map(_bound, bounds(column))
    what = f"{'an integer' if column.integer else 'a number'} from {low} to {high}"
    if column.missing is not None:
        what += f", or {column.missing:g} for none"
    return what + (f", or blank{where}" if column.blank != "error" else "")


def _bound(bound: float) -> str:
    return f"{bound:.0f}" if abs(bound) == LARGEST_INTEGER else f"{bound:g}"


def _remedy(cells: text.Text, spec: DatasetSpec, name: str, rows: Sequence[int]) -> str:
    """What to write into the description, or to mend in the file, for the wrong `rows`; "" where there is nothing to
    say."""
    values = cells.columns[name]
    wrong = [values[row] for row in rows]
    if name == spec.target.column:
        return remedies.of_target(set(values), set(wrong))
    column = column_of(spec, name)
    if column.kind not in ("number", "flag", "category"):
        return ""
    empty = {value for value in set(wrong) if is_empty(column, value)}
    rest = [value for value in wrong if value not in empty]
    lines = [remedies.of_nothing(column, empty, spec)]
    if column.kind == "number":
        texts = {value for value in rest if not math.isfinite(number(value, spec.source.decimal))}
        numbers = [value for value in rest if value not in texts]
        others = set(values) - texts - empty
        lines.append(remedies.of_texts(column, texts, others, spec, most=len(rest) - len(numbers) > cells.rows / 2))
        lines.append(remedies.of_numbers(column, numbers, spec))
    else:
        lines.append(remedies.of_values(column, sorted(set(rest))))
    return "\n    ".join(filter(None, lines))


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
        f"{count} not as the description of {spec.name!r} says. Mend the file, or describe the table as it is\n"
        + "\n".join(lines)
    )
