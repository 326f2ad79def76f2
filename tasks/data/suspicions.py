"""What may be wrong with a table that is as its description says: too good, too few, cut off, or in the wrong unit.

Nothing here refuses a table, as all of it can be right. Each warning is one line that says what was seen and what to
write if it is wrong. They lie in the artifact, and a run shows them in red.

This is about the whole columns of a training table, by limits that are fixed here. retain/plausible.py is about one
customer of a request, by ranges told from that table.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retain.dataset import Column, DatasetSpec, feature_columns
from retain.dataset import column as column_of
from retain.features import is_missing
from tasks.leakage import TOO_GOOD
from tasks.ranking import auc

LEAST_ROWS = 1000
LEAST_OF_A_CLASS = 100
LEAST_TO_RANK = 10  # rows of each class; an AUC of fewer says nothing
MOST_POSITIVE = 0.5
DISTINCT = 0.99  # share of rows with a value of their own, from which a whole number looks like an id
BINS = 64
# In the units of most currencies that a charge is stated in. What is above is in cents, for a year, or a salary.
PLAUSIBLE_CHARGE = (1.0, 1000.0)
FAR_CHARGE = 50.0  # times the median; a third of the rows in cents are about 100 times
PLAUSIBLE_TENURE = (24.0, 600.0)  # months of the longest of a firm's customers
FAR = 10.0  # interquartile ranges of a column's distinct values, from which one that repeats looks like a stand-in
# The total charge as a multiple of tenure x charge: what lies within is a change of price, or a discount.
PLAUSIBLE_TOTAL = (0.5, 2.0)
ROW_TOTAL = (0.1, 10.0)  # of one customer
ROW_SHARE = 0.01  # of customers outside of it that are still no wonder
CAUSES = {
    100.0: "is the total in cents?",
    0.01: "is the charge in cents?",
    12.0: "is tenure in years?",
    1 / 12: "is the charge that of a year?",
    1 / 30: "is tenure in days?",
}
CAUSE_WITHIN = 1.6  # a factor; tenure in whole years is cut short, so that the total is up to 18 times
EXAMPLES = 3

Floats = NDArray[np.float64]
Columns = Mapping[str, Any]  # as table.typed() makes them, with the split


def warnings(columns: Columns, lines: Sequence[int], spec: DatasetSpec, max_rows: int) -> list[str]:
    """What the table is to be warned of. `lines` are those of the file on which its rows end, by `columns["row"]`."""
    positive = np.asarray(columns[spec.target.column], dtype=object) == spec.target.positive
    train = np.asarray(columns["split"]) == "train"
    here = [lines[row] for row in columns["row"]]
    warned = [*_cut(len(lines), max_rows), *_few(positive, spec)]
    for column in feature_columns(spec):
        values = columns[column.name]
        warned += [*_too_good(column, values, positive, train, spec), *_looks_like_an_id(column, values)]
        if column.kind == "number":
            warned += _stand_in(column, np.asarray(values, dtype=np.float64))
    return [*warned, *_units(columns, here, spec)]


def _cut(rows: int, max_rows: int) -> Iterator[str]:
    if rows > max_rows:
        yield (
            f"only a sample of {max_rows:,} of the file's {rows:,} rows is used. To use all of them, write "
            f"`max_rows: {rows}` for this stage"
        )


def _few(positive: NDArray[np.bool_], spec: DatasetSpec) -> Iterator[str]:
    rows, leaving = len(positive), int(positive.sum())
    target = spec.target
    if rows < LEAST_ROWS or min(leaving, rows - leaving) < LEAST_OF_A_CLASS:
        yield (
            f"{rows:,} rows, {leaving:,} of them with {target.column!r} {target.positive!r}: what is measured on fewer "
            f"than {LEAST_ROWS:,} rows, or {LEAST_OF_A_CLASS} of either class, is mostly chance. Get more rows"
        )
    if leaving > MOST_POSITIVE * rows:
        yield (
            f"{leaving / rows:.0%} of the rows have {target.column!r} {target.positive!r}, which `target` calls "
            "positive. If these are the ones who stay or say no, exchange `positive` and `negative`"
        )


# -- features
# ----------------------------------------------------------------------------------------------------------


def _too_good(
    column: Column, values: Any, positive: NDArray[np.bool_], train: NDArray[np.bool_], spec: DatasetSpec
) -> Iterator[str]:
    y = positive[train].astype(np.float64)
    if min(y.sum(), (1 - y).sum()) < LEAST_TO_RANK:
        return
    reached = single_auc(column, np.asarray(values, dtype=object if column.values else np.float64)[train], y)
    if reached > TOO_GOOD:
        yield (
            f"column {column.name!r} alone tells {spec.target.column!r} with an AUC of {reached:.3f}. If it is known "
            "only after the outcome, write `leak: true` for it"
        )


def single_auc(column: Column, values: NDArray[Any], y: Floats) -> float:
    """How well one column (n,) ranks an outcome `y` (n,) of 0 and 1: by its size, if it is a number, and by the rate of
    the outcome at each value, or range of values, in the other half of the rows."""
    if column.kind != "number":
        return _auc(_rates(np.unique(values.astype(str), return_inverse=True)[1], y), y)
    missing = is_missing(column, values)
    ranked = _auc(np.where(missing, -np.inf, values), y)
    known = values[~missing]
    edges = np.unique(np.quantile(known, np.linspace(0, 1, BINS + 1)[1:-1])) if len(known) else known
    codes = np.where(missing, len(edges) + 1, np.searchsorted(edges, values, side="right"))
    return max(ranked, 1 - ranked, _auc(_rates(codes, y), y))


def _rates(codes: NDArray[np.intp], y: Floats) -> Floats:
    """(n,) the rate of `y` among the rows of the same code in the other half, drawn a little to that of all."""
    scores = np.empty(len(y))
    half = np.arange(len(y)) % 2 == 0
    for here in (half, ~half):
        rows, ones = (np.bincount(codes[~here], weight, codes.max() + 1) for weight in (None, y[~here]))
        scores[here] = ((ones + y.mean()) / (rows + 1))[codes[here]]
    return scores


def _auc(score: Floats, y: Floats) -> float:
    return auc(score[y == 1], score[y == 0])


def _looks_like_an_id(column: Column, values: Any) -> Iterator[str]:
    rows, distinct = len(values), len(set(values))
    if rows < LEAST_OF_A_CLASS or distinct < DISTINCT * rows:
        return
    if column.kind == "number" and (np.asarray(values, dtype=np.float64) % 1).any():
        return
    yield (
        f"column {column.name!r} has {distinct:,} values in {rows:,} rows. If it is an id, describe it as `kind: id`, "
        "or write `leak: true` for it: nothing can be learnt from an id"
    )


def _stand_in(column: Column, values: Floats) -> Iterator[str]:
    """A value at the end of a column that repeats, far from the others: 999 among ages."""
    known, counts = np.unique(values[~is_missing(column, values)], return_counts=True)
    if len(known) < 4:
        return
    low, high = np.quantile(known, (0.25, 0.75))
    for end, other, distance in ((0, known[1:], low - known[0]), (-1, known[:-1], known[-1] - high)):
        if counts[end] > 1 and distance > FAR * (high - low):
            yield (
                f"column {column.name!r} is {known[end]:g} in {counts[end]:,} rows, and otherwise {other[0]:g} to "
                f"{other[-1]:g}. If it stands for none, write `missing: {known[end]:g}` for the column"
            )


# -- units
# ----------------------------------------------------------------------------------------------------------


def _units(columns: Columns, lines: Sequence[int], spec: DatasetSpec) -> Iterator[str]:
    """Warnings about the unit of charge, tenure and total charge, of a table that has them as numbers."""
    numbers: dict[str, Floats] = {}
    for role in ("monthly_charge", "tenure", "total_charge"):
        name = spec.roles.get(role)
        if name is not None and column_of(spec, name).kind == "number":
            values = np.asarray(columns[name], dtype=np.float64)
            numbers[role] = np.where(is_missing(column_of(spec, name), values), np.nan, values)
    if "monthly_charge" in numbers:
        yield from _charge(spec.roles["monthly_charge"], numbers["monthly_charge"], lines)
    if len(numbers) == 3:
        yield from _total(spec, numbers["total_charge"], numbers["tenure"] * numbers["monthly_charge"], lines)
    elif "tenure" in numbers:
        yield from _tenure(spec.roles["tenure"], numbers["tenure"])


def _charge(name: str, charge: Floats, lines: Sequence[int]) -> Iterator[str]:
    median = float(np.nanmedian(charge))
    low, high = PLAUSIBLE_CHARGE
    if not low <= median <= high:
        yield (
            f"column {name!r} (role monthly_charge) has a median of {_amount(median)}, which makes "
            f"{_amount(12 * median)} a customer and year; plausible is {low:g} to {high:,g} a month. If it is in cents "
            "or thousands, of a year, or no charge (a salary), write the table anew or give the role to another "
            "column: the budget and every offer are shares of it"
        )
    far = np.flatnonzero(charge > FAR_CHARGE * median)
    if len(far):
        yield (
            f"column {name!r} (role monthly_charge) is more than {FAR_CHARGE:g} times its median of {_amount(median)} "
            f"in {_rows(far, charge, lines)}. Mend these, or bring all rows to one unit"
        )


def _total(spec: DatasetSpec, total: Floats, expected: Floats, lines: Sequence[int]) -> Iterator[str]:
    """`expected` (n,) is tenure x charge."""
    old = expected > 0
    if not old.any():
        return
    ratio = np.where(old, total / np.where(old, expected, 1.0), 1.0)
    median = float(np.nanmedian(ratio[old]))
    where = f"column {spec.roles['total_charge']!r} (role total_charge)"
    if not PLAUSIBLE_TOTAL[0] <= median <= PLAUSIBLE_TOTAL[1]:
        causes = [
            said
            for times, said in CAUSES.items()
            if median > 0 and abs(math.log(median / times)) < math.log(CAUSE_WITHIN)
        ]
        yield (
            f"{where} is {median:.3g} times tenure x charge for half of the customers or more; plausible is "
            f"{PLAUSIBLE_TOTAL[0]:g} to {PLAUSIBLE_TOTAL[1]:g} times{': ' + causes[0] if causes else '.'} "
            "Tenure counts in months, and both amounts in one unit"
        )
        return
    odd = np.flatnonzero((ratio < ROW_TOTAL[0]) | (ratio > ROW_TOTAL[1]))
    if len(odd) > ROW_SHARE * old.sum():
        yield (
            f"{where} is less than {ROW_TOTAL[0]:g} or more than {ROW_TOTAL[1]:g} times tenure x charge in "
            f"{_rows(odd, total, lines)}. Mend these, or bring all rows to one unit"
        )


def _tenure(name: str, tenure: Floats) -> Iterator[str]:
    longest = float(np.nanmax(tenure))
    low, high = PLAUSIBLE_TENURE
    if longest <= low or longest > high:
        yield (
            f"column {name!r} (role tenure) is at most {longest:g}. It counts in months, and each simulated month adds "
            f"1: if it is in {'years' if longest <= low else 'weeks or days'}, write it in months"
        )


def _rows(which: NDArray[np.intp], values: Floats, lines: Sequence[int]) -> str:
    shown = ", ".join(f"row {lines[row]} ({_amount(values[row])})" for row in which[:EXAMPLES])
    more = f" and {len(which) - EXAMPLES:,} more" if len(which) > EXAMPLES else ""
    return shown + more


def _amount(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"
