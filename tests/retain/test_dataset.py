from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pydantic import ValidationError

from retain.dataset import (
    LARGEST,
    MAX_ID,
    DatasetSpec,
    bounds,
    bridge_roles,
    cell,
    column,
    feature_columns,
    is_blank,
    is_id,
    is_nullable,
    number_of,
    protected_columns,
    total_and_tenure,
)

DATASETS = Path(__file__).parents[2] / "ops" / "datasets"


def content(name: str) -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load((DATASETS / f"{name}.yaml").read_text())
    return data


def spec(data: dict[str, Any]) -> DatasetSpec:
    return DatasetSpec.model_validate_json(json.dumps(data))


def test_telco_and_bank_are_described() -> None:
    telco, bank = spec(content("telco")), spec(content("bank"))
    assert (telco.name, bank.name) == ("telco", "bank")
    # 21 columns of each file: the rest are features, the target, and what is none
    assert len(feature_columns(telco)) == 21 - len(["customerID", "Churn"])
    assert len(feature_columns(bank)) == 21 - len(["duration", "y"])
    assert bridge_roles(telco) == bridge_roles(bank) == ("senior", "partner", "paperless")
    assert column(bank, "pdays").missing == 999
    assert [c.name for c in protected_columns(bank)] == ["age", "marital"]


def test_neither_ids_nor_leaks_nor_the_target_are_features() -> None:
    for name in ("telco", "bank"):
        table = spec(content(name))
        features = {c.name for c in feature_columns(table)}
        assert not features & {"duration", "customerID", table.target.column}


def test_a_description_survives_json() -> None:
    table = spec(content("telco"))
    assert DatasetSpec.model_validate_json(json.dumps(table.model_dump(mode="json"), sort_keys=True)) == table


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"SeniorCitizen": 1, "Partner": "No", "PaperlessBilling": "Yes"}, "1,0,1"),
        ({"SeniorCitizen": 0, "Partner": "Yes", "PaperlessBilling": "No"}, "0,1,0"),
    ],
)
def test_the_cell_of_a_customer(row: dict[str, object], expected: str) -> None:
    assert cell(spec(content("telco")), row) == expected


@pytest.mark.parametrize(("age", "senior"), [(59, "0"), (60, "1"), (60.5, "1"), (None, "0"), (float("nan"), "0")])
def test_a_cell_by_a_number(age: object, senior: str) -> None:
    row = {"age": age, "marital": "married", "contact": "telephone"}
    assert cell(spec(content("bank")), row) == f"{senior},1,0"


def test_the_cell_follows_the_roles_that_are_asked_for() -> None:
    row = {"SeniorCitizen": 1, "Partner": "No", "PaperlessBilling": "No"}
    assert cell(spec(content("telco")), row, ["paperless", "senior"]) == "0,1"
    assert cell(spec(content("telco")), row, ["senior", "householder"]) == ""


def test_bounds_are_those_described_within_what_a_feature_holds() -> None:
    telco, bank = spec(content("telco")), spec(content("bank"))
    assert bounds(column(telco, "tenure")) == (0, 1200)
    assert bounds(column(bank, "previous")) == (0, 2**53 - 1)
    assert bounds(column(bank, "nr.employed")) == (-LARGEST, LARGEST)
    assert float(np.finfo(np.float32).max) == LARGEST


def test_what_may_be_without_a_value() -> None:
    telco, bank = spec(content("telco")), spec(content("bank"))
    assert [c.name for c in (*telco.columns, *bank.columns) if is_nullable(c)] == ["TotalCharges", "pdays"]
    assert total_and_tenure(telco) == ("TotalCharges", "tenure")
    assert total_and_tenure(bank) is None
    assert [is_blank(text) for text in ("", " ", "\t", "0", " a")] == [True, True, True, False, False]


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("7590-VHVEG", True),
        ("-5", True),
        ("Müller 7", True),
        ("x" * MAX_ID, True),
        ("", False),
        (" ", False),
        (" a", False),
        ("a\u00a0", False),
        ("\u3000a", False),
        ("a\tb", False),
        ("a\u200bb", False),
        ("x" * (MAX_ID + 1), False),
    ],
)
def test_what_can_be_an_id(text: str, is_one: bool) -> None:
    assert is_id(text) == is_one


def test_what_is_not_stated_of_a_column_leaves_the_written_description_as_it_was() -> None:
    data = content("telco")
    assert "outside" not in column(spec(data), "tenure").model_dump(mode="json")
    data["columns"][5]["outside"] = "refuse"
    assert column(spec(data), "tenure").model_dump(mode="json")["outside"] == "refuse"


def _named(data: dict[str, Any]) -> dict[str, Any]:
    data["columns"].append({"name": "n", "kind": "text"})
    data["roles"]["name"] = "n"
    return data


def test_a_name_is_no_feature() -> None:
    table = spec(_named(content("telco")))
    assert feature_columns(table) == feature_columns(spec(content("telco")))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d["columns"].append(d["columns"][1]), "'gender' is described twice"),
        (lambda d: d["columns"][1].update(name="Churn"), "'Churn' is the target"),
        (lambda d: d["columns"][1].update(values=["Female"]), "'gender' is a flag: values are"),
        (lambda d: d["columns"][1].update(minimum=0), "'gender' is a flag: only a number has"),
        (lambda d: d["columns"][1].update(outside="warn"), "'gender' is a flag: only a number has"),
        (lambda d: d["columns"][5].update(outside="ignore"), "Input should be 'refuse' or 'warn'"),
        (lambda d: d["columns"][5].update(values=["a", "b"]), "'tenure' is a number: it has no values"),
        (lambda d: d["columns"][5].update(minimum=9, maximum=1), "minimum 9 is above maximum 1"),
        (lambda d: d["columns"][5].update(missing=-0.5), "missing -0.5 is no value that the column could hold"),
        (lambda d: d["columns"][5].update(missing=2**53), "missing 9.0072e+15 is no value"),
        (lambda d: d["columns"][18].update(missing=1e39), "missing 1e+39 is no value"),
        (lambda d: d["columns"][18].update(blank_value=-1e39), "blank_value -1e+39 is beyond float32"),
        (lambda d: d["columns"][5].update(bands=[1]), "a protected number, and nothing else, has bands"),
        (lambda d: d["columns"][7].update(values=["No"]), "lists the two or more that are allowed"),
        (lambda d: d["columns"][7].update(values=["No", "No"]), "values are distinct"),
        (lambda d: d["columns"][7].update(values=["No", 1]), "all texts or all integers"),
        (lambda d: d["roles"].update(tenure="Tenure"), "role 'tenure' names column 'Tenure'"),
        (lambda d: d["roles"].pop("id"), "role 'id' and the column of kind id"),
        (lambda d: d["columns"][1].update(kind="id", values=[]), "are all ids: a table has at most one"),
        (lambda d: d["bridge"][0].update(column="age"), "bridge role 'senior' names column 'age'"),
        (lambda d: d["bridge"][0].update(at_least=1), "exactly one of equals, at_least"),
        (lambda d: d["bridge"].append(d["bridge"][0]), "stated twice"),
        (lambda d: d["target"].update(positive="No"), "are the same"),
        (lambda d: d["columns"][1].update(kind="colour"), "'id', 'number', 'category', 'flag' or 'text'"),
        (lambda d: d["columns"].append({"name": "n", "kind": "text"}), "role 'name' and the column of kind text"),
        (lambda d: d["roles"].update(name="tenure"), "role 'name' and the column of kind text"),
        (lambda d: d["columns"].append({"name": "n", "kind": "text", "protected": True}), "is neither protected nor"),
        (
            lambda d: d["columns"].append({"name": "n", "kind": "text", "values": ["Ann"]}),
            "is a text: it has no values",
        ),
        (lambda d: _named(d)["bridge"][0].update(column="n"), "told from a text"),
        (lambda d: d["columns"][1].update(leaks=True), "Extra inputs are not permitted"),
        (lambda d: d["source"].update(sha256="abc"), "String should match pattern"),
        (lambda d: d["source"].update(separator="::"), "Input should be ','"),
        (lambda d: d["roles"].update(salary="tenure"), "Input should be 'id'"),
        (lambda d: [c.update(leak=True) for c in d["columns"]], "no column is left as a feature"),
    ],
)
def test_a_wrong_description_is_told_what_is_wrong(change: Any, said: str) -> None:
    data = content("telco")
    change(data)
    with pytest.raises(ValidationError) as caught:
        spec(data)
    assert said in str(caught.value)


def test_what_stands_for_a_missing_number_is_not_at_least_anything() -> None:
    bank = content("bank")
    bank["columns"][0]["missing"] = 999
    gapped = spec(bank)
    row = {"age": 61, "marital": "married", "contact": "cellular"}
    assert cell(gapped, row) == "1,1,1"
    for age in (999, 999.0, None, float("nan")):
        assert cell(gapped, {**row, "age": age}) == "0,1,1"


def test_the_number_of_a_role_is_none_where_it_is_missing() -> None:
    telco = content("telco")
    telco["columns"][5]["missing"] = 999
    described = spec(telco)
    assert number_of(described, "tenure", {"tenure": 5}) == 5
    for months in (999, 999.0, None, float("nan")):
        assert number_of(described, "tenure", {"tenure": months}) is None
    assert number_of(described, "support", {"TechSupport": "No"}) is None
    assert number_of(spec(content("bank")), "tenure", {"age": 5}) is None


@pytest.mark.parametrize(
    ("change", "said", "path"),
    [
        (lambda d: d["ignore"].append("tenure"), "'tenure' is described, too", ("ignore", 0)),
        (lambda d: d["ignore"].append("Churn"), "'Churn' is described, too", ("ignore", 0)),
        (lambda d: d["roles"].update(tenure="months"), "names column 'months'", ("roles", "tenure")),
        (lambda d: d["columns"][5].update(blank="keep"), "write `missing: -1`", ("blank",)),
        (lambda d: d["columns"][0].update(blank="drop"), "is an id, which every customer has", ("blank",)),
        (lambda d: d["columns"][5].update(example=-5), "'tenure' doesn't take this value", ("example",)),
        (lambda d: d["columns"][5].update(example=2.5), "'tenure' doesn't take this value", ("example",)),
        (lambda d: d["columns"][5].update(example="5"), "'tenure' doesn't take this value", ("example",)),
        (lambda d: d["columns"][2].update(example="0"), "'SeniorCitizen' doesn't take this value", ("example",)),
        (lambda d: d["columns"][7].update(example="yes"), "'MultipleLines' doesn't take this value", ("example",)),
        (lambda d: d["columns"][3].update(leak=True), "is told from 'Partner', a leak", ("bridge", 1)),
        (
            lambda d: d["bridge"][1].update(equals="yes"),
            "waits for 'yes' in 'Partner', which is only ever one of 'No', 'Yes'",
            ("bridge", 1),
        ),
        (
            lambda d: d["bridge"].__setitem__(1, {"role": "partner", "column": "Partner", "at_least": 1}),
            "compares 'Partner', a flag, with a number: write `equals`",
            ("bridge", 1),
        ),
        (lambda d: _opt_out(d, "Dependents", leak=True), "a leak, which no request has", ("roles", "do_not_contact")),
        (lambda d: _opt_out(d, "customerID"), "is of kind id: a flag says whom not", ("roles", "do_not_contact")),
    ],
)
def test_what_would_be_found_late_is_found_in_the_description(change: Any, said: str, path: tuple[str, ...]) -> None:
    """By a service that answers nobody, by a cell of the bridge that is always empty, by an example that is refused."""
    data = content("telco") | {"ignore": []}
    change(data)
    with pytest.raises(ValidationError) as caught:
        spec(data)
    (error,) = caught.value.errors()
    assert said in error["msg"]
    assert error["ctx"]["error"].path == path


def _opt_out(data: dict[str, Any], name: str, **changes: Any) -> None:
    data["roles"]["do_not_contact"] = name
    next(column for column in data["columns"] if column["name"] == name).update(changes)


def test_keys_that_a_table_does_not_state_are_not_in_its_schema() -> None:
    """Artifacts of tables that were described before the keys were there keep their bytes."""
    data = content("bank")
    plain = spec(data).model_dump(mode="json")
    assert "ignore" not in plain
    assert "decimal" not in plain["source"]
    data["source"]["decimal"], data["ignore"] = ",", ["note"]
    stated = spec(data)
    assert (stated.source.decimal, stated.ignore) == (",", ("note",))
    assert DatasetSpec.model_validate_json(stated.model_dump_json()) == stated
