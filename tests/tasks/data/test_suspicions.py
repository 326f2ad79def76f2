"""What a table that is as described is warned of. The tables are made up, and changed as other people's are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from engine.artifact import WARNINGS
from engine.stage import Workspace
from flows.wanted import table_files
from retain.dataset import Column, DatasetSpec
from tasks.config import Split, TableConfig
from tasks.data import customers, suspicions, synthetic, table, text
from tests.datasets import described, needs_real_data, real_file

SPLIT = Split(train=0.6, validation=0.1, test=0.3)
Change = Callable[[dict[str, list[str]], dict[str, Any]], None]


@pytest.fixture(scope="module")
def cells() -> text.Text:
    return text.parse(synthetic.csv(described("telco"), 1), described("telco"))


def warned(cells: text.Text, change: Change | None = None, rows: int = 3000, max_rows: int = 10**6) -> list[str]:
    """Of the first `rows` rows, after `change` has changed their cells and the description."""
    columns = {name: list(values[:rows]) for name, values in cells.columns.items()}
    spec = described("telco").model_dump(mode="json")
    if change is not None:
        change(columns, spec)
    changed, telco = text.Text(columns, cells.lines[:rows]), DatasetSpec.model_validate_json(json.dumps(spec))
    typed, _ = table.typed(changed, telco, max_rows, 42)
    typed["split"] = table.split(table.keys(typed, telco), SPLIT, 42)
    return suspicions.warnings(typed, changed.lines, telco, max_rows)


def added(column: dict[str, Any], values: Callable[[bool, int], object]) -> Change:
    """One more column; `values` of a customer, by whether she leaves and by her row."""

    def change(columns: dict[str, list[str]], spec: dict[str, Any]) -> None:
        spec["columns"].append(column)
        columns[column["name"]] = [str(values(left == "Yes", row)) for row, left in enumerate(columns["Churn"])]

    return change


def scaled(names: tuple[str, ...], times: float, every: int = 1) -> Change:
    """Amounts in another unit, in every row or in one of `every`."""

    def change(columns: dict[str, list[str]], spec: dict[str, Any]) -> None:
        for name in names:
            columns[name] = [
                value if row % every or not value.strip() else f"{float(value) * times:.2f}"
                for row, value in enumerate(columns[name])
            ]

    return change


def in_years(columns: dict[str, list[str]], spec: dict[str, Any]) -> None:
    columns["tenure"] = [str(int(months) // 12) for months in columns["tenure"]]


def in_years_without_a_total(columns: dict[str, list[str]], spec: dict[str, Any]) -> None:
    in_years(columns, spec)
    del columns["TotalCharges"], spec["roles"]["total_charge"]
    spec["columns"] = [column for column in spec["columns"] if column["name"] != "TotalCharges"]


def exchanged(columns: dict[str, list[str]], spec: dict[str, Any]) -> None:
    spec["target"] |= {"positive": "No", "negative": "Yes"}


def never(columns: dict[str, list[str]], spec: dict[str, Any]) -> None:
    columns["tenure"][::100] = ["999"] * len(columns["tenure"][::100])


def salaries(columns: dict[str, list[str]], spec: dict[str, Any]) -> None:
    columns["MonthlyCharges"] = [f"{20_000 + 13 * row}" for row in range(len(columns["Churn"]))]


def one_large_charge(columns: dict[str, list[str]], spec: dict[str, Any]) -> None:
    columns["MonthlyCharges"][17] = "100000"


RNG = np.random.default_rng(0)
NOISE = RNG.normal(size=10_000)
SCORE = {"name": "score", "kind": "number"}
REASON = {"name": "reason", "kind": "category", "values": ["none", "price", "moved"]}
EXIT = {"name": "exit", "kind": "number", "missing": -1}
BAND = {"name": "band", "kind": "number", "integer": True}
ACCOUNT = {"name": "account", "kind": "number", "integer": True}
STREET = {"name": "street", "kind": "category", "values": [f"s{row}" for row in range(3000)]}
CODE = {"name": "code", "kind": "category", "values": [f"c{value}" for value in range(2000)]}
WEIGHT = {"name": "weight", "kind": "number"}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (added(SCORE, lambda left, row: left + 0.5 * abs(NOISE[row]) / 10), "alone tells 'Churn' with an AUC of 1.000"),
        (added(REASON, lambda left, row: ("price", "moved")[row % 2] if left else "none"), "an AUC of 1.000"),
        (added(EXIT, lambda left, row: row % 50 if left else -1), "column 'exit' alone tells 'Churn' with an AUC of "),
        # In the middle of those who stay: no order of the values tells, but the rate at each does.
        (added(BAND, lambda left, row: 2 if left else 1 + 2 * (row % 2)), "column 'band' alone tells 'Churn' with an "),
        (added(ACCOUNT, lambda left, row: 100_000 + 7 * row), "column 'account' has 2,992 values in 2,992 rows"),
        (added(STREET, lambda left, row: f"s{row}"), "column 'street' has 2,992 values in 2,992 rows"),
        (salaries, "column 'MonthlyCharges' (role monthly_charge) has a median of 39,"),
        (in_years, "times tenure x charge for half of the customers or more; plausible is 0.5 to 2 times: is tenure"),
        (in_years_without_a_total, "column 'tenure' (role tenure) is at most 6. It counts in months"),
        (exchanged, "of the rows have 'Churn' 'No', which `target` calls positive"),
        (never, "column 'tenure' is 999 in 30 rows, and otherwise 1 to 72. If it stands for none, write `missing:"),
        (scaled(("MonthlyCharges", "TotalCharges"), 100), "which makes 8"),
        (scaled(("TotalCharges",), 100), "plausible is 0.5 to 2 times: is the total in cents?"),
        (scaled(("MonthlyCharges",), 100), "plausible is 0.5 to 2 times: is the charge in cents?"),
        (scaled(("TotalCharges",), 100, every=20), "more than 10 times tenure x charge in row 2 ("),
        (scaled(("MonthlyCharges", "TotalCharges"), 100, every=3), "(role monthly_charge) is more than 50 times its"),
        (one_large_charge, " in row 19 (100,000). Mend these"),
    ],
)  # fmt: skip
def test_what_a_table_is_warned_of(change: Change, expected: str, cells: text.Text) -> None:
    assert expected in "\n".join(warned(cells, change))


@pytest.mark.parametrize(
    "change",
    [
        None,
        added(CODE, lambda left, row: f"c{row * 7919 % 2000}"),  # many values, but nothing is learnt from them
        added(WEIGHT, lambda left, row: NOISE[row]),  # all distinct, as measured numbers are
        added(WEIGHT, lambda left, row: round(float(np.exp(2 * NOISE[row])))),  # a long tail, but of no one value
        added(SCORE, lambda left, row: left + NOISE[row]),  # an AUC of .76
    ],
)
def test_a_plausible_table_is_not_warned_of(change: Change | None, cells: text.Text) -> None:
    assert warned(cells, change) == []


def test_too_few_rows_or_customers_who_leave_are_said(cells: text.Text) -> None:
    few = "what is measured on fewer than 1,000 rows, or 100 of either class, is mostly chance"
    (warning,) = warned(cells, rows=200)
    assert warning.startswith("200 rows, ")
    assert few in warning

    def hardly_any(columns: dict[str, list[str]], spec: dict[str, Any]) -> None:
        columns["Churn"] = ["Yes" if row < 99 else "No" for row in range(len(columns["Churn"]))]

    assert any(few in warning for warning in warned(cells, hardly_any))


def test_a_table_that_is_cut_off_says_so(cells: text.Text) -> None:
    (warning,) = warned(cells, max_rows=2000)
    assert warning.startswith("only a sample of 2,000 of the file's 3,000 rows is used.")
    assert "`max_rows: 3000`" in warning
    assert warned(cells, max_rows=3000) == []


def test_the_auc_is_that_of_the_library() -> None:
    y = (RNG.random(500) < 0.3).astype(float)
    score = np.round(RNG.normal(size=500) + y, 1)  # with ties
    number = Column(name="score", kind="number")
    assert suspicions.single_auc(number, -score, y) == pytest.approx(roc_auc_score(y, score), abs=1e-12)


@pytest.mark.parametrize(("max_rows", "kept"), [(7043, False), (5000, True)])
def test_warnings_are_a_file_of_the_artifact_if_there_are_any(
    max_rows: int, kept: bool, tmp_path: Path, config: Callable[..., TableConfig], workspace: Callable[..., Workspace]
) -> None:
    """So that the artifact of a table without warnings has the bytes it always had."""
    customers.run(config("telco", max_rows), {}, workspace(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == (
        {"data.parquet", "schema.json", "catalog.json", "curves.parquet"} | ({WARNINGS} if kept else set())
    )
    if kept:
        (warning,) = json.loads((tmp_path / WARNINGS).read_text())["warnings"]
        assert warning.startswith("only a sample of 5,000")


@pytest.mark.parametrize("name", ["telco", "bank"])
def test_made_up_tables_are_not_warned_of(name: str) -> None:
    assert of_file(synthetic.csv(described(name), 42), name) == []


@needs_real_data
@pytest.mark.parametrize("name", ["telco", "bank"])
def test_the_real_tables_are_not_warned_of(name: str, tmp_path: Path) -> None:
    (wanted,) = table_files(described(name))
    assert of_file(real_file(wanted, tmp_path).path.read_bytes(), name) == []


def of_file(content: bytes, name: str) -> list[str]:
    spec = described(name)
    cells = text.parse(content, spec)
    typed, _ = table.typed(cells, spec, 10**6, 42)
    typed["split"] = table.split(table.keys(typed, spec), SPLIT, 42)
    return suspicions.warnings(typed, cells.lines, spec, 10**6)
