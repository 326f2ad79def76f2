"""What a number of a customer can plausibly be: a range told from the customers that a model learned from.

A charge in cents where dollars are meant lies within every bound that a description states. So a range reaches from a
fifth of the fifth smallest value of the training part to five times its fifth largest. A few odd rows don't move it,
several rare customers do. It is wide enough for a price rise where all pay the same, and too narrow for a unit that is
a hundred times smaller. Zero is always plausible where the description allows it. A total charge is compared with
tenure x monthly charge as well.

This is about one customer of a request. What looks wrong with a whole training table is in tasks/data/suspicions.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from retain.dataset import Column, DatasetSpec, bounds, column, total_and_tenure
from retain.frozen import Frozen

# The range ends near the value of this rank from either end: fewer rows than that are odd ones, as many are customers.
# A quantile would leave out rare customers, 0.5 % of enterprise accounts for example.
RANK = 5
# How far the range reaches beyond that value. Of 7,000 lognormal charges (sigma 1.5) the largest was within it in 94 %
# of 2,000 draws.
FACTOR = 5.0
RATIO = 2.0  # the same for total charge / (tenure x charge): prices and plans change

Range = tuple[float, float]
Outside = Literal["refuse", "warn"]


class Ranges(Frozen):
    """By column, (lowest, highest) of what is plausible; `total`: of total charge / (tenure x monthly charge)."""

    columns: Mapping[str, Range]
    total: Range | None

    @model_validator(mode="after")
    def _ordered(self) -> Ranges:
        for name, (low, high) in (*self.columns.items(), *([("total", self.total)] if self.total else [])):
            if low > high:
                raise ValueError(f"{name}: {low:g} is above {high:g}")
        return self


def ranges(spec: DatasetSpec, table: Mapping[str, Sequence[Any]]) -> Ranges:
    """The ranges of a described table's rows, columns by name; a column with no value but 0 has none."""
    columns = {}
    for described in _numbers(spec):
        values = _values(described, table)
        known = values[np.isfinite(values)]
        if known.any():
            columns[described.name] = _range(described, known)
    return Ranges(columns=columns, total=_total(spec, table))


def rows_outside(spec: DatasetSpec, ranges: Ranges, table: Mapping[str, Sequence[Any]]) -> dict[str, list[float]]:
    """By column, its values in those rows of a table that are not plausible there, the largest first."""
    columns = {described.name: _values(described, table).tolist() for described in _numbers(spec)}
    plausible = Plausibility(spec, ranges)
    outside: dict[str, list[float]] = {}
    for cells in zip(*columns.values()):
        row: dict[str, float] = dict(zip(columns, cells))
        for name in plausible.outside({name: None if np.isnan(value) else value for name, value in row.items()}):
            outside.setdefault(name, []).append(row[name])
    return {name: sorted(values, reverse=True) for name, values in outside.items()}


def when_outside(spec: DatasetSpec, name: str) -> Outside:
    """What becomes of a request whose column is outside its range: a charge, which offers are priced by, is refused
    unless the description says otherwise, any other number is counted and warned of."""
    return column(spec, name).outside or ("refuse" if spec.roles.get("monthly_charge") == name else "warn")


class Plausibility:
    """The ranges that a request of a table is compared with."""

    def __init__(self, spec: DatasetSpec, ranges: Ranges) -> None:
        self.ranges = ranges
        missing = {described.name: described.missing for described in _numbers(spec)}
        self._columns = [(name, *limits, missing[name]) for name, limits in ranges.columns.items() if name in missing]
        priced = _priced(spec) if ranges.total else None
        self._priced = [(name, missing[name]) for name in priced or ()]

    def outside(self, values: Mapping[str, Any]) -> list[str]:
        """The columns of a validated request whose values are not plausible; of a total that doesn't fit tenure and
        charge, the total's."""
        names = []
        for name, low, high, missing in self._columns:
            value = values[name]
            if value is not None and not low <= value <= high and value != 0 and value != missing:
                names.append(name)
        if self._priced:
            total = self._priced[0][0]
            if total not in names and not self._total_fits(
                *(None if values[name] == missing else values[name] for name, missing in self._priced)
            ):
                names.append(total)
        return names

    def _total_fits(self, total: float | None, tenure: float | None, charge: float | None) -> bool:
        if total is None or tenure is None or not charge or self.ranges.total is None:
            return True
        low, high = self.ranges.total
        # In the first month, tenure 0, there may be no total yet.
        return total <= high * max(tenure, 1) * charge and (tenure < 1 or total >= low * tenure * charge)


def _numbers(spec: DatasetSpec) -> list[Column]:
    return [described for described in spec.columns if described.kind == "number" and not described.leak]


def _values(described: Column, table: Mapping[str, Sequence[Any]]) -> NDArray[np.float64]:
    """(n,) of a column, NaN where it is missing."""
    values = np.array(table[described.name], dtype=np.float64)
    return values if described.missing is None else np.where(values == described.missing, np.nan, values)


def _ends(values: NDArray[np.float64]) -> tuple[float, float]:
    """The values of RANK from either end; of fewer than 2 x RANK - 1 values, those nearer to the middle."""
    rank = min(RANK, (len(values) + 1) // 2)
    ordered = np.sort(values)
    return float(ordered[rank - 1]), float(ordered[-rank])


def _range(described: Column, values: NDArray[np.float64]) -> Range:
    """`values` (n,): finite, and not all are 0. Free customers make low charges plausible, but no high one strange."""
    low, high = _ends(values)[0], _ends(values[values != 0])[1]
    beyond = (FACTOR - 1) * max(abs(low), abs(high))
    lowest = low / FACTOR if low > 0 else low - beyond
    within = bounds(described)
    return max(lowest, within[0]), min(high + beyond, within[1])


def _priced(spec: DatasetSpec) -> tuple[str, str, str] | None:
    """The columns of total charge, tenure and monthly charge of a table whose requests state all three."""
    both, charge = total_and_tenure(spec), spec.roles.get("monthly_charge")
    if both is None or charge is None:
        return None
    names = (*both, charge)
    numbers = {described.name for described in _numbers(spec)}
    return names if set(names) <= numbers else None


def _total(spec: DatasetSpec, table: Mapping[str, Sequence[Any]]) -> Range | None:
    names = _priced(spec)
    if names is None:
        return None
    total, tenure, charge = (_values(column(spec, name), table) for name in names)
    priced = (tenure >= 1) & (charge > 0) & (total > 0)
    if not priced.any():
        return None
    low, high = _ends(total[priced] / (tenure[priced] * charge[priced]))
    return low / RATIO, high * RATIO
