"""What to write into a description, or to mend in the file, where cells are no such values as it says."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import yaml

from retain.dataset import LARGEST_INTEGER, Column, DatasetSpec, bounds, total_and_tenure
from retain.needs import CHARGE
from tasks.data.cells import looks_like, number, other_sign, spells_none

LISTED = 12  # values in a message, or new ones in a line to write
LONGEST_LINE = 600


def ignoring(name: str) -> str:
    """How to leave a column out."""
    return f"take its line out of the description and write `ignore: {_flow([name])}`"


def of_target(values: set[str], wrong: set[str]) -> str:
    """For cells of the target, of whose `values` some are `wrong`."""
    if all(map(spells_none, wrong)):
        return "of a customer who may still stay or leave nothing can be learnt: take these rows out of the file"
    line = f"write {' and '.join(map(repr, sorted(values)))}, in quotes, as `positive` and `negative` under `target`"
    return line if len(values) == 2 and len(line) <= LONGEST_LINE else ""


def of_nothing(column: Column, empty: set[str], spec: DatasetSpec) -> str:
    """For the cells `empty`, which say that there is no value."""
    if not empty:
        return ""
    names = total_and_tenure(spec)
    if column.blank != "error" and names is not None and names[0] == column.name:
        return f"a total is blank only where {names[1]!r} is 0: fill these cells, or take the rows out of the file"
    drop = f"to leave out the rows without a value, write: - {_described(column, blank='drop') or '{..., blank: drop}'}"
    if column.name == spec.roles.get(CHARGE):
        return drop
    if column.kind == "number":
        keep = _described(column, missing=_unused(column) if column.missing is None else column.missing, blank="keep")
    else:
        keep = _described(column, kind="category", values=_with(column, empty))
    return f"{drop}; to keep them: - {keep}" if keep else drop


def _unused(column: Column) -> float:
    """A number that no customer has."""
    return -1.0 if column.minimum is not None and column.minimum > -1 else -999_999.0


def of_texts(column: Column, texts: set[str], others: set[str], spec: DatasetSpec, *, most: bool) -> str:
    """For cells `texts` of a number that are no numbers, beside the `others` of its column; `most` if most of its cells
    are so, and not a few slips."""
    if not texts:
        return ""
    decimal, other = spec.source.decimal, other_sign(spec.source.decimal)
    kinds = looks_like(texts, decimal)
    if "date" in kinds:
        return (
            "no kind of column is a date: put a number in its place, such as the months from then until the table was "
            f"made, or {ignoring(column.name)}"
        )
    if "decimal" in kinds and not any(decimal in value for value in others):
        between = f"; if {other!r} parts thousands, take it out of the file" if "thousands" in kinds else ""
        return f'the decimal sign is {other!r}: write `decimal: "{other}"` under `source`{between}'
    if "thousands" in kinds:
        return "a number has no separators of thousands: take them out of the file"
    if "decimal" in kinds:
        return f"other cells have {decimal!r} before the decimals: mend these in the file"
    if "sign" in kinds:
        return f"a number has no currency, percent sign or unit: take it out of the file, or {ignoring(column.name)}"
    if not most:
        return ""
    if len(texts) <= LISTED:
        return (
            f"if these are what it may be, write `kind: category` and all of its `values`; else {ignoring(column.name)}"
        )
    return f"a text is no feature: {ignoring(column.name)}"


def of_numbers(column: Column, wrong: Sequence[str], spec: DatasetSpec) -> str:
    """For numbers that the description doesn't take: wider bounds, or `missing` for the one that stands out."""
    counts = Counter(wrong)
    numbers = [number(value, spec.source.decimal) for value in counts]
    if not numbers or not all(abs(found) <= LARGEST_INTEGER for found in numbers):  # too large to be read
        return ""
    if column.name == spec.roles.get(CHARGE) and min(numbers) <= 0:
        return "an offer is a share of the charge, which is above 0: take these rows out of the file"
    if len(counts) == 1 and len(wrong) > 1:
        return _as_it_is(column, missing=numbers[0])
    low, high = bounds(column)
    return _as_it_is(
        column,
        integer=column.integer and not any(found % 1 for found in numbers),
        minimum=None if column.minimum is None else min(low, *numbers),
        maximum=None if column.maximum is None else max(high, *numbers),
    )


def of_values(column: Column, others: Sequence[str]) -> str:
    """For values that a flag or a category doesn't list: a line that lists them, or a number's if they are many."""
    if len(others) > LISTED and all(math.isfinite(number(value)) for value in others):
        return _as_it_is(column, kind="number", values=None)
    if len(others) > LISTED:
        return f"it holds {len(others):,} values that are not listed: list them, or {ignoring(column.name)}"
    if not others or len(column.values) + len(others) > 2 * LISTED:
        return ""
    return _as_it_is(column, kind="category", values=_with(column, others))


def _with(column: Column, others: Iterable[str]) -> list[str | int]:
    """The column's values and others, all texts or all integers."""
    values: list[str | int] = [*column.values, *sorted(others)]
    if any(isinstance(value, int) for value in column.values):
        return [int(v) for v in values] if all(str(v).isdecimal() for v in values) else [str(v) for v in values]
    return values


def _as_it_is(column: Column, **changes: object) -> str:
    line = _described(column, **changes)
    return f"to take it as it is, write: - {line}" if line else ""


def _described(column: Column, **changes: object) -> str:
    """The column's line with `changes`, a key that becomes false or None left out; "" if it is too long to be read."""
    stated = column.model_dump(mode="json", exclude_defaults=True) | changes
    wanted = {
        key: _plain(stated[key])
        for key in Column.model_fields
        if stated.get(key) is not None and stated[key] is not False
    }
    line = _flow(wanted)
    return line if len(line) <= LONGEST_LINE else ""


def _plain(value: object) -> object:
    return int(value) if isinstance(value, float) and value % 1 == 0 else value


def _flow(value: object) -> str:
    """YAML on one line."""
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=math.inf).strip()
