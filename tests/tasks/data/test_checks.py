from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
import yaml

from engine.errors import DataError
from retain.dataset import Column, DatasetSpec
from retain.features import Featurizer
from tasks.data import checks, synthetic, table, text
from tests.datasets import described

Described = Callable[[str], DatasetSpec]
AN_ID = "an id that stands in no row above, of 1 to 128 characters, without space around it or control characters"


@pytest.fixture(scope="module")
def content(spec: Described) -> bytes:
    return synthetic.csv(spec("telco"), 1)


@pytest.fixture(scope="module")
def bank(spec: Described) -> bytes:
    """One row in twenty of it: the file is in the order of time, and some columns vary with that alone."""
    header, *rows = synthetic.csv(spec("bank"), 1).splitlines(keepends=True)
    return header + b"".join(rows[::20])


def refusal(content: bytes, spec: DatasetSpec) -> str:
    return refused(text.parse(content, spec), spec)


def refused(cells: text.Text, spec: DatasetSpec) -> str:
    with pytest.raises(DataError) as caught:
        checks.check(cells, spec)
    return str(caught.value)


def cell(content: bytes, line: int, column: str, value: str) -> bytes:
    """The file with one cell replaced; lines count from 1, as an editor shows them."""
    lines = content.decode().split("\n")
    cells = lines[line - 1].split(",")
    cells[lines[0].split(",").index(column)] = value
    lines[line - 1] = ",".join(cells)
    return "\n".join(lines).encode()


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("gender", "female", "one of 'Female', 'Male'"),
        ("SeniorCitizen", "2", "one of '0', '1'"),
        ("Contract", "", "one of 'Month-to-month', 'One year', 'Two year'"),
        ("Churn", "N", "one of 'No', 'Yes'"),
        ("tenure", "2.5", "an integer from 0 to 1200"),
        ("tenure", "-1", "an integer from 0 to 1200"),
        ("tenure", "1201", "an integer from 0 to 1200"),
        ("tenure", "1_0", "an integer from 0 to 1200"),
        ("MonthlyCharges", " ", "a number from 0 to 100000"),
        ("tenure", "\uff15", "an integer from 0 to 1200"),
        ("MonthlyCharges", "nan", "a number from 0 to 100000"),
        ("MonthlyCharges", "inf", "a number from 0 to 100000"),
        ("MonthlyCharges", "1e400", "a number from 0 to 100000"),
        ("TotalCharges", "many", "a number from 0 to 1e+08, or blank where 'tenure' is 0"),
        ("TotalCharges", " ", "a number from 0 to 1e+08, or blank where 'tenure' is 0"),
        ("customerID", " ", AN_ID),
        ("customerID", "", AN_ID),
        ("customerID", "0003-SYNTH", AN_ID),
        ("customerID", "0003-SYNTH ", AN_ID),
        ("customerID", "\u30005-SYNTH", AN_ID),
        ("customerID", "0005\x1b[2J", AN_ID),
        ("customerID", "5" * 129, AN_ID),
    ],
)
def test_a_cell_that_is_not_as_described(
    column: str, value: str, expected: str, content: bytes, spec: Described
) -> None:
    message = refusal(cell(content, 7, column, value), spec("telco"))
    assert "1 cell is not as the description of 'telco' says" in message
    fault, *remedy = message.split("\n")[1:]
    shown = value if len(value) <= 60 else value[:60] + "..."
    assert fault == f"  column {column!r}: row 7 {shown!r}; expected is {expected}"
    remedies = ("to take it as it is, write", "to leave out the rows without a value, write", "a total is blank only")
    assert not remedy or (len(remedy) == 1 and remedy[0].startswith(tuple(f"    {said}" for said in remedies)))


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("campaign", "1e300", "an integer from 1 to 9007199254740991"),
        ("campaign", "1e19", "an integer from 1 to 9007199254740991"),
        ("campaign", "9223372036854775807", "an integer from 1 to 9007199254740991"),
        ("campaign", "9007199254740993", "an integer from 1 to 9007199254740991"),
        ("previous", "1e30", "an integer from 0 to 9007199254740991"),
        ("pdays", "1e25", "an integer from 0 to 9007199254740991, or 999 for none"),
        ("euribor3m", "1e39", "a number from -3.40282e+38 to 3.40282e+38"),
        ("euribor3m", "-1e39", "a number from -3.40282e+38 to 3.40282e+38"),
    ],
)
def test_a_number_too_large_to_be_held_is_a_violation(
    column: str, value: str, expected: str, bank: bytes, spec: Described
) -> None:
    lines = bank.decode().split("\n")
    cells = lines[6].split(";")
    cells[lines[0].split(";").index(column)] = value
    message = refusal("\n".join([*lines[:6], ";".join(cells), *lines[7:]]).encode(), spec("bank"))
    assert message.split("\n")[1] == f"  column {column!r}: row 7 {value!r}; expected is {expected}"


@pytest.mark.parametrize(("column", "value"), [("campaign", "9007199254740991"), ("euribor3m", "-3.4e38")])
def test_the_largest_numbers_become_features(column: str, value: str, bank: bytes, spec: Described) -> None:
    lines = bank.decode().split("\n")
    cells = lines[6].split(";")
    at = lines[0].split(";").index(column)
    cells[at] = value
    parsed = text.parse("\n".join([*lines[:6], ";".join(cells), *lines[7:]]).encode(), spec("bank"))
    checks.check(parsed, spec("bank"))
    columns, _ = table.typed(parsed, spec("bank"), 10**6, 42)
    assert columns[column][5] == float(value)
    made = Featurizer.fit(spec("bank"))
    found = made.transform({name: np.asarray(values) for name, values in columns.items()})
    assert found[5, made.names.index(column)] == np.float32(value)


def test_the_faults_of_a_column_are_counted_and_three_are_shown(content: bytes, spec: Described) -> None:
    for line in range(40, 10, -1):
        content = cell(content, line, "tenure", "x")
    message = refusal(cell(content, 3, "Churn", "?"), spec("telco"))
    assert message.split("\n") == [
        "Telco-Customer-Churn.csv: 31 cells are not as the description of 'telco' says. "
        "Mend the file, or describe the table as it is",
        "  column 'tenure': row 11 'x', row 12 'x', row 13 'x' and 27 more; expected is an integer from 0 to 1200",
        "  column 'Churn': row 3 '?'; expected is one of 'No', 'Yes'",
        "    of a customer who may still stay or leave nothing can be learnt: take these rows out of the file",
    ]


@pytest.mark.parametrize(
    ("column", "values", "line"),
    [
        ("tenure", ["-2"], "{name: tenure, kind: number, minimum: -2, maximum: 1200, integer: true, about: "),
        ("tenure", ["2.5"], "{name: tenure, kind: number, minimum: 0, maximum: 1200, about: "),
        ("tenure", ["1300", "1500"], "{name: tenure, kind: number, minimum: 0, maximum: 1500, integer: true, "),
        (
            "tenure",
            ["-99999"] * 3,
            "{name: tenure, kind: number, minimum: 0, maximum: 1200, integer: true, missing: -99999",
        ),
        (
            "MonthlyCharges",
            ["", " "],
            "{name: MonthlyCharges, kind: number, minimum: 0, maximum: 100000, blank: drop, ",
        ),
        ("Contract", ["Three year"] * 2, "{name: Contract, kind: category, values: [Month-to-month, One year, Two "),
        ("Partner", ["no"], "{name: Partner, kind: category, values: ['No', 'Yes', 'no'], protected: true}"),
        ("SeniorCitizen", ["2"], "{name: SeniorCitizen, kind: category, values: [0, 1, 2], protected: true, "),
        ("SeniorCitizen", ["no"], "{name: SeniorCitizen, kind: category, values: ['0', '1', 'no'], protected: true, "),
    ],
)
def test_the_line_that_takes_a_column_as_it_is(
    column: str, values: list[str], line: str, content: bytes, spec: Described
) -> None:
    """It keeps the column's other keys, and with it the file passes."""
    for at, value in enumerate(values, start=5):
        content = cell(content, at, column, value)
    told = refusal(content, spec("telco")).split("write: - ")[1]
    assert told.startswith(line)
    mended = Column.model_validate_json(json.dumps(yaml.safe_load(told)))
    telco = spec("telco")
    columns = tuple(mended if other.name == column else other for other in telco.columns)
    checks.check(text.parse(content, telco), telco.model_copy(update={"columns": columns}))


def test_a_category_of_many_numbers_is_a_number(content: bytes, spec: Described) -> None:
    telco = spec("telco")
    charge = Column(name="MonthlyCharges", kind="category", values=("20.0", "30.0"))
    columns = tuple(charge if column.name == charge.name else column for column in telco.columns)
    message = refusal(content, telco.model_copy(update={"columns": columns}))
    assert "write: - {name: MonthlyCharges, kind: number}" in message


def many_cities(rows: int, values: int, wrong: bool) -> tuple[text.Text, DatasetSpec]:
    """Customers of as many cities as are listed, or of others."""
    place = "town" if wrong else "city"
    cells = {
        "id": [f"c{row}" for row in range(rows)],
        "city": [f"{place}-{row if wrong else row % values}" for row in range(rows)],
        "left": ["no", "yes"] * (rows // 2),
    }
    spec = {
        "name": "cities",
        "title": "",
        "source": described("telco").source.model_dump(mode="json") | {"files": ["c.csv"]},
        "target": {"column": "left", "positive": "yes", "negative": "no"},
        "columns": [
            {"name": "id", "kind": "id"},
            {"name": "city", "kind": "category", "values": [f"city-{value}" for value in range(values)]},
        ],
        "roles": {"id": "id"},
    }  # fmt: skip
    return text.Text(cells, list(range(2, rows + 2))), DatasetSpec.model_validate_json(json.dumps(spec))


def test_faults_of_a_large_file_take_little_memory_and_few_words() -> None:
    """It was a list of all 15,000 values for each of 100,000 rows: 20 GB."""
    cells, spec = many_cities(100_000, 15_000, wrong=True)
    tracemalloc.start()
    try:
        with pytest.raises(DataError) as caught:
            checks.check(cells, spec)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100e6
    header, fault, remedy = str(caught.value).split("\n")
    assert header.startswith("c.csv: 100,000 cells are not")
    assert fault.startswith(
        "  column 'city': row 2 'town-0', row 3 'town-1', row 4 'town-2' and 99,997 more; expected is"
    )
    assert fault.endswith("'city-11' and 14,988 more")
    assert "it holds 100,000 values that are not listed" in remedy


def test_one_fault_among_many_values_is_told_in_few_words() -> None:
    cells, spec = many_cities(1000, 1000, wrong=False)
    cells.columns["city"][7] = "x" * 100_000
    message = refused(cells, spec)
    assert "row 9 'xxx" in message
    assert len(message) < 1000


def test_faults_in_every_column_are_told_by_column(spec: Described) -> None:
    """As of a file whose cells stand one column off."""
    names = [f"column{at}" for at in range(25)]
    wide = spec("telco").model_dump(mode="json")
    wide |= {"roles": {}, "bridge": [], "columns": [{"name": name, "kind": "number"} for name in names]}
    cells = text.Text(
        {**{name: ["x", "y"] * 500 for name in names}, "Churn": ["No", "Yes"] * 500}, list(range(2, 1002))
    )
    message = refused(cells, DatasetSpec.model_validate_json(json.dumps(wide)))
    assert "25,000 cells are not" in message
    assert message.count("and 997 more; expected is a number") == 20
    assert message.endswith("\n  and 5 more columns")


def test_a_table_whose_features_no_machine_holds_is_refused() -> None:
    _, spec = many_cities(2, 15_000, wrong=False)
    checks.check_size(10_000, spec)
    with pytest.raises(DataError, match=r"100,000 rows of 15,000 features .* column 'city' has 15,000: give it fewer"):
        checks.check_size(100_000, spec)


def test_numbers_may_be_missing_by_sentinel_only_where_described(bank: bytes, spec: Described) -> None:
    assert b";999;" in bank
    checks.check(text.parse(bank, spec("bank")), spec("bank"))
    columns = [c.model_copy(update={"maximum": 50.0}) if c.name == "pdays" else c for c in spec("bank").columns]
    checks.check(text.parse(bank, spec("bank")), spec("bank").model_copy(update={"columns": tuple(columns)}))
    columns = [c.model_copy(update={"missing": None}) if c.name == "pdays" else c for c in columns]
    message = refusal(bank, spec("bank").model_copy(update={"columns": tuple(columns)}))
    assert "row 2 '999', row 3 '999', row 4 '999' and " in message
    assert "expected is an integer from 0 to 50" in message
    assert "write: - {name: pdays, kind: number, minimum: 0, maximum: 50, integer: true, missing: 999, " in message


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("Churn", "No", "column 'Churn' is 'No' in every row: the target has one class"),
        (
            "PhoneService",
            "Yes",
            "column 'PhoneService' is 'Yes' in every row: the column is constant, so nothing can be learnt from it. "
            "Give a table in which it varies, or take its line out of the description and write "
            "`ignore: [PhoneService]`",
        ),
        (
            "TechSupport",
            "",
            "column 'TechSupport' is empty in every row. Fill it, or take its line out of the description and write "
            "`ignore: [TechSupport]`",
        ),
        ("TotalCharges", " ", "column 'TotalCharges' is empty in every row"),
    ],
)
def test_a_column_that_says_nothing(column: str, value: str, said: str, content: bytes, spec: Described) -> None:
    lines = content.decode().split("\n")[:30]
    content = "\n".join(lines).encode()
    for line in range(2, 31):
        content = cell(content, line, column, value)
    assert said in refusal(content, spec("telco"))


def test_names_are_read_and_not_kept(content: bytes, spec: Described) -> None:
    telco = spec("telco").model_dump()
    telco["columns"] = (*telco["columns"], {"name": "FirstName", "kind": "text"})
    telco["roles"] = telco["roles"] | {"name": "FirstName"}
    telco_named = DatasetSpec.model_validate(telco)
    header, *rows = content.decode().strip().split("\n")
    named = "\n".join([f"{header},FirstName", *(f"{row},{'Ann' if at % 2 else ''}" for at, row in enumerate(rows))])
    cells = text.parse(named.encode(), telco_named)
    checks.check(cells, telco_named)
    columns, _ = table.typed(cells, telco_named, 10_000, 0)
    assert set(columns["FirstName"]) == {""}
    assert "column 'FirstName'" in refusal(named.replace("Ann", "A" * 201, 1).encode(), telco_named)
