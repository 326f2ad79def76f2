"""A customer as the numbers a model sees.

A number is one feature, a flag one, a category one per allowed value. Nothing is learnt from data: the
features follow from the description of the table, so that a single row in the service and a table in
training come out equal, bit for bit. No value is NaN, where the description says that a number may be
missing; anything else that doesn't fit is a ValueError that names column, value and what is allowed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retain.dataset import LARGEST, Column, DatasetSpec, feature_columns


class Featurizer:
    """Rows of a table as (n, f) float32. `names[i]` is a feature, `sources[i]` the column it comes from."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self.columns = tuple(columns)
        names: list[str] = []
        sources: list[str] = []
        # A number is its position; any other column the position of the feature that each value switches on.
        # A flag's false value switches on the spare last position, which is cut off: one lookup, no branch.
        self._numbers: list[tuple[Column, int]] = []
        self._codes: list[tuple[Column, dict[Any, int]]] = []
        for column in self.columns:
            if column.kind == "number":
                self._numbers.append((column, len(names)))
                names.append(column.name)
            else:
                on = column.values[1:] if column.kind == "flag" else column.values
                self._codes.append((column, {value: len(names) + i for i, value in enumerate(on)}))
                names.extend(f"{column.name}={value}" for value in on)
            sources.extend([column.name] * (len(names) - len(sources)))
        for column, code in self._codes:
            if column.kind == "flag":
                code[column.values[0]] = len(names)
        self.names = tuple(names)
        self.sources = tuple(sources)
        self._blank = (0.0,) * (len(names) + 1)
        # Numbers that may be missing: NaN among the features, which trees take as it is.
        self.gaps = tuple(column.name for column, _ in self._numbers if column.missing is not None)

    @classmethod
    def fit(cls, spec: DatasetSpec, columns: Sequence[str] | None = None) -> Featurizer:
        """The features of a table, or of some of its columns; ValueError for a column that is no feature."""
        known = {column.name: column for column in feature_columns(spec)}
        for name in columns or ():
            if name not in known:
                raise ValueError(f"column {name!r} is no feature of {spec.name}: {', '.join(known)} are")
        return cls([column for name, column in known.items() if columns is None or name in columns])

    def transform(self, columns: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """(n, f) float32 of n rows given as one array per column."""
        arrays = {column.name: np.asarray(columns[column.name]) for column in self.columns}
        rows = len(next(iter(arrays.values())))
        out = np.zeros((rows, len(self.names) + 1), dtype=np.float32)
        for column, position in self._numbers:
            array = arrays[column.name]
            if array.dtype.kind in "iuf":
                out[:, position] = _number_array(column, array)
            else:
                out[:, position] = [_number(column, value) for value in array.tolist()]
        every = np.arange(rows)
        for column, code in self._codes:
            values = arrays[column.name].tolist()
            try:
                positions = [code[value] for value in values]
            except (KeyError, TypeError):
                raise _unseen(column, next(v for v in values if not _known(code, v))) from None
            out[every, positions] = 1.0
        return np.ascontiguousarray(out[:, :-1])

    def row(self, values: Mapping[str, object]) -> NDArray[np.float32]:
        """(f,) float32 of one customer; a column left out or None counts as blank."""
        out = list(self._blank)
        get = values.get
        for column, position in self._numbers:
            value = get(column.name)
            # The common case inline: a plain number in a column without `missing` (inf and NaN fail the test).
            if type(value) in _PLAIN and column.missing is None and -LARGEST <= value <= LARGEST:  # type: ignore[operator]
                out[position] = value  # type: ignore[call-overload]
            else:
                out[position] = _number(column, value)
        for column, code in self._codes:
            try:
                out[code[get(column.name)]] = 1.0
            except (KeyError, TypeError):
                raise _unseen(column, get(column.name)) from None
        return np.array(out, dtype=np.float64)[:-1].astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        """What `from_json` needs, and the feature names for who reads the file."""
        return {
            "columns": [column.model_dump(mode="json") for column in self.columns],
            "features": list(self.names),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Featurizer:
        made = cls([Column.model_validate(column, strict=False) for column in data["columns"]])
        if list(made.names) != list(data["features"]):
            raise ValueError("the featurizer's columns don't make the features it lists: written by another version?")
        return made


_PLAIN = frozenset((int, float))


def _number(column: Column, value: object) -> float:
    """One number; NaN for none, where the column allows that."""
    if value is None or value == "" or value != value:
        if column.blank_value is not None:
            return column.blank_value
        if column.missing is not None:
            return math.nan
        raise ValueError(f"column {column.name!r} is blank: a number is needed")
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float) or not -LARGEST <= value <= LARGEST:
        raise ValueError(f"column {column.name!r} is {_short(value)}: a finite number is needed")
    return math.nan if value == column.missing else float(value)


def _number_array(column: Column, array: NDArray[Any]) -> NDArray[np.float64]:
    """`_number` for a whole column."""
    numbers = array.astype(np.float64)
    odd = ~(np.abs(numbers) <= LARGEST)
    if column.missing is not None:
        odd |= numbers == column.missing
    for index in np.flatnonzero(odd):
        numbers[index] = _number(column, float(numbers[index]))
    return numbers


def names_without_gaps(featurizer: Featurizer) -> tuple[str, ...]:
    """Names of the features that `without_gaps` makes."""
    return (*featurizer.names, *(f"{name}=missing" for name in featurizer.gaps))


def without_gaps(
    features: NDArray[np.float32], featurizer: Featurizer, medians: Mapping[str, float]
) -> NDArray[np.float32]:
    """What a network sees, which can't take NaN: features (f,) or (n, f), the column's median in place of each number
    that is missing, and behind them for each of k columns that may be missing whether it is, 1 or 0: (f + k,)."""
    if not featurizer.gaps:
        return features
    places = [featurizer.names.index(name) for name in featurizer.gaps]
    missing = np.isnan(features[..., places])
    known = features.copy()
    known[..., places] = np.where(missing, [medians[name] for name in featurizer.gaps], features[..., places])
    return np.concatenate((known, missing), axis=-1, dtype=np.float32)


def is_missing(column: Column, values: NDArray[Any]) -> NDArray[np.bool_]:
    """Which of a number's values (n,) stand for none: the one that is described so, and NaN."""
    missing = np.isnan(values) if values.dtype.kind == "f" else np.zeros(len(values), np.bool_)
    return missing if column.missing is None else missing | (values == column.missing)


def _known(code: Mapping[Any, int], value: object) -> bool:
    try:
        return value in code
    except TypeError:  # a list or a mapping where a value should stand
        return False


def _unseen(column: Column, value: object) -> ValueError:
    return ValueError(f"column {column.name!r} is {_short(value)}: allowed is {', '.join(map(repr, column.values))}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
