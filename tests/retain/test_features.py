from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from retain.dataset import LARGEST, Column, DatasetSpec, feature_columns
from retain.features import Featurizer, names_without_gaps, without_gaps

DATASETS = Path(__file__).parents[2] / "ops" / "datasets"
SPECS = {
    name: DatasetSpec.model_validate_json(json.dumps(yaml.safe_load((DATASETS / f"{name}.yaml").read_text())))
    for name in ("telco", "bank")
}


def values_of(column: Column) -> st.SearchStrategy[Any]:
    """What a checked table, or a request, may hold in a column."""
    if column.kind != "number":
        return st.sampled_from(column.values)
    if column.integer:
        low, high = int(column.minimum or 0), int(column.maximum or 10**9)
        known: st.SearchStrategy[Any] = st.integers(low, high)
    else:
        bound = LARGEST if column.minimum is None else column.maximum
        known = st.floats(column.minimum if column.minimum is not None else -LARGEST, bound)
    return known if column.missing is None else known | st.just(int(column.missing))


def tables(name: str) -> st.SearchStrategy[list[dict[str, Any]]]:
    row = st.fixed_dictionaries({column.name: values_of(column) for column in feature_columns(SPECS[name])})
    return st.lists(row, min_size=1, max_size=5)


def as_columns(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """As a data stage's parquet gives them: numbers as int64 or float64, texts as objects."""
    found: dict[str, Any] = {}
    for column in feature_columns(SPECS[name]):
        values = [row[column.name] for row in rows]
        kind = (np.int64 if column.integer else np.float64) if column.kind == "number" else None
        if kind is None:
            found[column.name] = np.array(values, dtype=np.int64 if isinstance(values[0], int) else object)
        else:
            found[column.name] = np.array(values, dtype=kind)
    return found


@pytest.mark.parametrize("name", SPECS)
@given(data=st.data())
@settings(max_examples=60)
def test_a_row_equals_the_table_bit_for_bit(name: str, data: st.DataObject) -> None:
    rows = data.draw(tables(name))
    made = Featurizer.fit(SPECS[name])
    features = made.transform(as_columns(name, rows))
    assert features.dtype == np.float32
    assert features.shape == (len(rows), len(made.names))
    for row, expected in zip(rows, features):
        assert made.row(row).tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", SPECS)
@given(data=st.data())
@settings(max_examples=40)
def test_every_category_switches_on_exactly_one_feature(name: str, data: st.DataObject) -> None:
    rows = data.draw(tables(name))
    made = Featurizer.fit(SPECS[name])
    features = made.transform(as_columns(name, rows))
    sources = np.array(made.sources)
    for column in feature_columns(SPECS[name]):
        block = features[:, sources == column.name]
        if column.kind == "category":
            assert (np.sort(block, axis=1)[:, -1] == 1).all()
            assert (block.sum(axis=1) == 1).all()
        elif column.kind == "flag":
            expected = [float(row[column.name] == column.values[1]) for row in rows]
            assert block[:, 0].tolist() == expected
        else:
            expected = [np.nan if row[column.name] == column.missing else row[column.name] for row in rows]
            np.testing.assert_array_equal(block[:, 0], np.array(expected, dtype=np.float64).astype(np.float32))


@pytest.mark.parametrize("name", SPECS)
@given(data=st.data())
@settings(max_examples=20)
def test_a_featurizer_read_back_is_the_same(name: str, data: st.DataObject) -> None:
    made = Featurizer.fit(SPECS[name])
    again = Featurizer.from_json(json.loads(json.dumps(made.to_json(), sort_keys=True)))
    assert (again.names, again.sources) == (made.names, made.sources)
    row = data.draw(tables(name))[0]
    assert again.row(row).tobytes() == made.row(row).tobytes()


def test_no_leak_no_id_and_no_target_among_the_features() -> None:
    for name, hidden in (("telco", {"customerID", "Churn"}), ("bank", {"duration", "y"})):
        made = Featurizer.fit(SPECS[name])
        assert not hidden & set(made.sources)
        assert not [feature for feature in made.names if feature.split("=")[0] in hidden]


def test_some_of_the_columns() -> None:
    made = Featurizer.fit(SPECS["bank"], ["contact", "age"])
    assert made.names == ("age", "contact=cellular")
    assert made.row({"age": 41, "contact": "cellular"}).tolist() == [41.0, 1.0]
    with pytest.raises(ValueError, match="'duration' is no feature of bank"):
        Featurizer.fit(SPECS["bank"], ["age", "duration"])


def test_a_sentinel_and_a_blank_of_its_column_are_no_value() -> None:
    made = Featurizer.fit(SPECS["bank"], ["pdays"])
    for none in (999, 999.0, None, "", math.nan):
        assert math.isnan(made.row({"pdays": none})[0])
    assert math.isnan(made.row({})[0])
    assert np.isnan(made.transform({"pdays": np.array([999, 3])})[:, 0]).tolist() == [True, False]
    assert np.isnan(made.transform({"pdays": np.array([np.nan, 3.0])})[:, 0]).tolist() == [True, False]


def test_a_blank_total_is_zero_when_serving() -> None:
    made = Featurizer.fit(SPECS["telco"], ["TotalCharges"])
    assert made.row({"TotalCharges": None})[0] == 0.0
    assert made.row({})[0] == 0.0
    assert made.transform({"TotalCharges": np.array([None, 3.5], dtype=object)})[:, 0].tolist() == [0.0, 3.5]


GOOD = {"tenure": 5, "MonthlyCharges": 70.0, "Contract": "One year", "SeniorCitizen": 1}


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("Contract", "Three year", "'Contract' is 'Three year': allowed is 'Month-to-month', 'One year', 'Two year'"),
        ("Contract", None, "'Contract' is None: allowed is"),
        ("Contract", ["One year"], r"'Contract' is \['One year'\]: allowed is"),
        ("SeniorCitizen", 2, "'SeniorCitizen' is 2: allowed is 0, 1"),
        ("SeniorCitizen", "1", "'SeniorCitizen' is '1': allowed is 0, 1"),
        ("tenure", math.nan, "'tenure' is blank: a number is needed"),
        ("tenure", None, "'tenure' is blank: a number is needed"),
        ("tenure", math.inf, "'tenure' is inf: a finite number is needed"),
        ("tenure", 10**400, "'tenure' is 1000.*: a finite number is needed"),
        ("tenure", 1e39, "'tenure' is 1e.39: a finite number is needed"),
        ("tenure", "5", "'tenure' is '5': a finite number is needed"),
        ("tenure", True, "'tenure' is True: a finite number is needed"),
    ],
)
def test_what_does_not_fit_is_named(column: str, value: Any, said: str) -> None:
    made = Featurizer.fit(SPECS["telco"], list(GOOD))
    with pytest.raises(ValueError, match=said):
        made.row({**GOOD, column: value})
    array = np.array([GOOD[column], None], dtype=object)
    array[1] = value
    columns = {name: np.array([good, good], dtype=object) for name, good in GOOD.items()}
    with pytest.raises(ValueError, match=said):
        made.transform({**columns, column: array})


def test_a_featurizer_of_another_version_is_refused() -> None:
    data = Featurizer.fit(SPECS["telco"]).to_json()
    data["features"].reverse()
    with pytest.raises(ValueError, match="don't make the features it lists"):
        Featurizer.from_json(data)


def test_a_network_sees_medians_and_flags_in_place_of_missing_numbers() -> None:
    columns = (
        Column(name="age", kind="number"),
        Column(name="plan", kind="flag", values=("a", "b")),
        Column(name="days", kind="number", missing=999.0),
    )
    featurizer = Featurizer(columns)
    table = {"age": np.array([30, 40]), "plan": np.array(["a", "b"], object), "days": np.array([999, 3])}
    features = featurizer.transform(table)
    assert np.isnan(features[0, 2])
    assert names_without_gaps(featurizer) == ("age", "plan=b", "days", "days=missing")
    seen = without_gaps(features, featurizer, {"days": 7.0})
    assert seen.tolist() == [[30, 0, 7, 1], [40, 1, 3, 0]]
    assert seen.dtype == np.float32
    assert without_gaps(features[0], featurizer, {"days": 7.0}).tolist() == seen[0].tolist()


def test_of_a_table_without_missing_numbers_a_network_sees_the_features() -> None:
    featurizer = Featurizer.fit(SPECS["telco"])
    features = np.zeros((3, len(featurizer.names)), np.float32)
    assert without_gaps(features, featurizer, {}) is features
    assert names_without_gaps(featurizer) == featurizer.names
