from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import DataError
from engine.stage import Workspace
from flows.wanted import table_files
from retain.dataset import DatasetSpec
from retain.features import Featurizer
from tasks.config import Split, TableConfig
from tasks.data import customers, synthetic, table, text
from tasks.split import SPLIT_PARTS
from tests.datasets import needs_real_data, real_file

Described = Callable[[str], DatasetSpec]
AN_ID = "an id that stands in no row above, of 1 to 128 characters, without space around it or control characters"
SPLIT = Split(train=0.6, validation=0.1, test=0.3)


@pytest.fixture(scope="module")
def content(spec: Described) -> bytes:
    return synthetic.csv(spec("telco"), 1)


@pytest.fixture(scope="module")
def bank(spec: Described) -> bytes:
    """One row in twenty of it: the file is in the order of time, and some columns vary with that alone."""
    header, *rows = synthetic.csv(spec("bank"), 1).splitlines(keepends=True)
    return header + b"".join(rows[::20])


def refusal(content: bytes, spec: DatasetSpec) -> str:
    with pytest.raises(DataError) as caught:
        table.check(text.parse(content, spec), spec)
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
    assert message.split("\n")[1:] == [f"  row 7, column {column!r}: {value!r}; expected is {expected}"]


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
    assert message.split("\n")[1:] == [f"  row 7, column {column!r}: {value!r}; expected is {expected}"]


@pytest.mark.parametrize(("column", "value"), [("campaign", "9007199254740991"), ("euribor3m", "-3.4e38")])
def test_the_largest_numbers_become_features(column: str, value: str, bank: bytes, spec: Described) -> None:
    lines = bank.decode().split("\n")
    cells = lines[6].split(";")
    at = lines[0].split(";").index(column)
    cells[at] = value
    parsed = text.parse("\n".join([*lines[:6], ";".join(cells), *lines[7:]]).encode(), spec("bank"))
    table.check(parsed, spec("bank"))
    columns, _ = table.typed(parsed, spec("bank"), 10**6, 42)
    assert columns[column][5] == float(value)
    made = Featurizer.fit(spec("bank"))
    found = made.transform({name: np.asarray(values) for name, values in columns.items()})
    assert found[5, made.names.index(column)] == np.float32(value)


def test_at_most_twenty_violations_in_the_files_order(content: bytes, spec: Described) -> None:
    for line in range(40, 10, -1):
        content = cell(content, line, "tenure", "x")
    message = refusal(cell(content, 3, "Churn", "?"), spec("telco"))
    assert "31 cells are not" in message
    lines = message.split("\n")[1:]
    assert [int(re.findall(r"row (\d+)", line)[0]) for line in lines[:-1]] == [3, *range(11, 30)]
    assert lines[-1] == "  and 11 more"


def test_numbers_may_be_missing_by_sentinel_only_where_described(bank: bytes, spec: Described) -> None:
    assert b";999;" in bank
    table.check(text.parse(bank, spec("bank")), spec("bank"))
    columns = [c.model_copy(update={"maximum": 50.0}) if c.name == "pdays" else c for c in spec("bank").columns]
    table.check(text.parse(bank, spec("bank")), spec("bank").model_copy(update={"columns": tuple(columns)}))
    columns = [c.model_copy(update={"missing": None}) if c.name == "pdays" else c for c in columns]
    message = refusal(bank, spec("bank").model_copy(update={"columns": tuple(columns)}))
    assert "'999'; expected is an integer from 0 to 50" in message


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("Churn", "No", "column 'Churn' is 'No' in every row: the target has one class"),
        (
            "Partner",
            "Yes",
            "column 'Partner' is 'Yes' in every row: the column is constant, so nothing can be learnt from it. "
            "Give a table in which it varies, or take it out of the table and out of the description",
        ),
        (
            "TechSupport",
            "",
            "column 'TechSupport' is empty in every row. Fill it, or take it out of the table and out of the "
            "description",
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


def test_blank_totals_are_dropped_and_counted(content: bytes, spec: Described) -> None:
    cells = text.parse(content, spec("telco"))
    blank = [row for row, value in enumerate(cells.columns["TotalCharges"]) if not value.strip()]
    columns, dropped = table.typed(cells, spec("telco"), 10**6, 42)
    assert dropped == len(blank) == 11
    assert not set(blank) & set(columns["row"].tolist())
    assert len(columns["row"]) == 7043 - 11
    assert columns["tenure"].dtype == np.int64
    assert columns["MonthlyCharges"].dtype == np.float64
    assert set(columns["SeniorCitizen"]) == {0, 1}
    assert set(columns["Churn"]) == {"No", "Yes"}


def test_a_cap_takes_a_seeded_sample_in_the_files_order(content: bytes, spec: Described) -> None:
    cells = text.parse(content, spec("telco"))
    columns, dropped = table.typed(cells, spec("telco"), 500, 42)
    rows = columns["row"]
    assert len(rows) + dropped == 500
    assert (np.diff(rows) > 0).all()
    assert rows.max() > 6000  # not the first ones
    np.testing.assert_array_equal(table.typed(cells, spec("telco"), 500, 42)[0]["row"], rows)
    assert table.typed(cells, spec("telco"), 500, 43)[0]["row"].tolist() != rows.tolist()


def test_the_split_has_its_shares() -> None:
    parts = table.split([f"{n}" for n in range(100_000)], SPLIT, 42)
    for part, share in (("train", 0.6), ("validation", 0.1), ("test", 0.3)):
        # 4.5 standard deviations of a share of 100,000 draws
        assert (parts == part).mean() == pytest.approx(share, abs=0.007)


def test_the_split_is_the_same_for_ever() -> None:
    # These names pin the hash: with another, customers would change parts and test rows be trained on.
    names = ["7590-VHVEG", "5575-GNVDE", "3668-QPYBK", "0", "1", "2"]
    assert table.split(names, SPLIT, 42).tolist() == ["train", "test", "validation", "train", "train", "train"]
    assert table.shares(["7590-VHVEG"], 42)[0] == pytest.approx(0.4339946430989828, abs=1e-15)


@given(st.lists(st.text(max_size=12), unique=True, min_size=2, max_size=30), st.integers(0, 2**31))
def test_a_row_keeps_its_part_whoever_else_is_there(names: list[str], seed: int) -> None:
    whole = dict(zip(names, table.split(names, SPLIT, seed)))
    for name in names[:3]:
        assert table.split([name], SPLIT, seed)[0] == whole[name]


def test_another_seed_is_another_split() -> None:
    names = [str(n) for n in range(1000)]
    assert (table.split(names, SPLIT, 42) != table.split(names, SPLIT, 43)).mean() > 0.3


def written(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_stage_writes_table_description_and_catalog(
    tmp_path: Path, content: bytes, config: Callable[..., TableConfig], workspace: Callable[..., Workspace]
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "source.csv").write_bytes(content)
    metrics = customers.run(config("telco"), {"source": source}, workspace(tmp_path / "out"))
    data = pq.read_table(tmp_path / "out" / "data.parquet")
    assert {name: metrics[name]["value"] for name in ("rows", "rows_dropped")} == {"rows": 7032.0, "rows_dropped": 11.0}
    assert data.num_rows == 7032
    assert sum(metrics[f"{part}_rows"]["value"] for part in SPLIT_PARTS) == 7032
    assert set(data.column_names) == {*content.decode().split("\n")[0].split(","), "split", "row"}
    schema = DatasetSpec.model_validate_json((tmp_path / "out" / "schema.json").read_text())
    assert schema == config("telco").dataset
    catalog = json.loads((tmp_path / "out" / "catalog.json").read_text())
    assert catalog["rows"] == 7032
    assert (catalog["synthetic"], catalog["published"]) == (False, False)
    curves = pq.read_table(tmp_path / "out" / "curves.parquet").to_pydict()
    assert all(low < y < high for low, y, high in zip(curves["low"], curves["y"], curves["high"]))
    customers.run(config("telco"), {"source": source}, workspace(tmp_path / "again"))
    assert written(tmp_path / "again") == written(tmp_path / "out")


def test_a_source_that_is_gone_is_an_error(
    tmp_path: Path, config: Callable[..., TableConfig], workspace: Callable[..., Workspace]
) -> None:
    with pytest.raises(DataError, match=r"Telco.*\.csv: its copy .* can't be read \(No such file or directory\)"):
        customers.run(config("telco"), {"source": tmp_path}, workspace(tmp_path / "out"))


def test_without_a_source_the_table_is_synthetic_and_the_catalog_says_so(
    tmp_path: Path, config: Callable[..., TableConfig], workspace: Callable[..., Workspace]
) -> None:
    customers.run(config("telco", 400), {}, workspace(tmp_path / "a"))
    customers.run(config("telco", 400), {}, workspace(tmp_path / "b", seed=43))
    catalog = json.loads((tmp_path / "a" / "catalog.json").read_text())
    assert catalog["synthetic"] is True
    assert (catalog["sha256"], catalog["url"], catalog["licence"], catalog["file"]) == (None, None, None, None)
    assert catalog["generator"] == synthetic.GENERATOR_VERSION
    assert written(tmp_path / "a")["data.parquet"] != written(tmp_path / "b")["data.parquet"]


def test_too_few_rows_for_a_part_is_an_error(
    tmp_path: Path, content: bytes, config: Callable[..., TableConfig], workspace: Callable[..., Workspace]
) -> None:
    lines = content.split(b"\n")
    kept = [line for line in lines[1:] if line.endswith(b"No")][:60] + [
        line for line in lines if line.endswith(b"Yes")
    ][:1]
    (tmp_path / "source.csv").write_bytes(b"\n".join([lines[0], *kept]))
    with pytest.raises(DataError, match=r"part has \d+ rows and one class of 'Churn'. More rows are needed"):
        customers.run(config("telco"), {"source": tmp_path}, workspace(tmp_path / "out"))
    assert not list((tmp_path / "out").iterdir())


@needs_real_data
@pytest.mark.parametrize(("name", "rows", "dropped", "positive"), [("telco", 7032, 11, 1869), ("bank", 41188, 0, 4640)])
def test_the_real_tables(
    name: str, rows: int, dropped: int, positive: int, tmp_path: Path, spec: Described, config: Callable[..., Any]
) -> None:
    (wanted,) = table_files(spec(name))
    file = real_file(wanted, tmp_path)
    cells = text.parse(file.path.read_bytes(), spec(name))
    table.check(cells, spec(name))
    columns, gone = table.typed(cells, spec(name), config(name).max_rows, 42)
    assert file.sha256 == spec(name).source.sha256
    assert (len(columns["row"]), gone) == (rows, dropped)
    assert columns[spec(name).target.column].count(spec(name).target.positive) == positive
    if name == "bank":
        # Repeated rows stay: there are 12.
        whole = list(zip(*(cells.columns[column] for column in cells.columns)))
        assert len(whole) - len(set(whole)) == 12


def test_names_are_read_and_not_kept(content: bytes, spec: Described) -> None:
    telco = spec("telco").model_dump()
    telco["columns"] = (*telco["columns"], {"name": "FirstName", "kind": "text"})
    telco["roles"] = telco["roles"] | {"name": "FirstName"}
    described = DatasetSpec.model_validate(telco)
    header, *rows = content.decode().strip().split("\n")
    named = "\n".join([f"{header},FirstName", *(f"{row},{'Ann' if at % 2 else ''}" for at, row in enumerate(rows))])
    cells = text.parse(named.encode(), described)
    table.check(cells, described)
    columns, _ = table.typed(cells, described, 10_000, 0)
    assert set(columns["FirstName"]) == {""}
    assert "column 'FirstName'" in refusal(named.replace("Ann", "A" * 201, 1).encode(), described)
