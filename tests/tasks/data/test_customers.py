"""What later stages ask of the customers' table is asked by `customers`, and tables of other firms are taken."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from engine.errors import DataError
from engine.stage import Workspace
from retain.dataset import DatasetSpec
from retain.features import Featurizer
from tasks.config import TableConfig
from tasks.data import campaigns, customers, synthetic
from tests.tasks.conftest import SPLIT
from tests.tasks.data.own_tables import DESCRIPTIONS, own_columns, own_description, own_file

Described = Callable[[str], DatasetSpec]
Ran = Callable[[dict[str, Any], bytes], Path]


@pytest.fixture
def telco(spec: Described) -> dict[str, Any]:
    return spec("telco").model_dump(mode="json")


@pytest.fixture(scope="module")
def content(spec: Described) -> bytes:
    """800 customers."""
    return b"\n".join(synthetic.csv(spec("telco"), 1).split(b"\n")[:801]) + b"\n"


@pytest.fixture
def ran(tmp_path: Path, workspace: Callable[..., Workspace]) -> Ran:
    """Runs the stage on a description and a file; the artifact's folder."""

    def run(dataset: dict[str, Any], content: bytes) -> Path:
        config = {"dataset": dataset, "max_rows": 50_000, "split": SPLIT}
        (tmp_path / "source.csv").write_bytes(content)
        out = tmp_path / "out"
        inputs = {"source": tmp_path}
        customers.run(TableConfig.model_validate_json(json.dumps(config)), inputs, workspace(out))
        return out

    return run


def column(dataset: dict[str, Any], name: str) -> dict[str, Any]:
    return next(described for described in dataset["columns"] if described["name"] == name)


def with_cells(content: bytes, name: str, value: str, lines: range) -> bytes:
    """The file with a column's cells replaced in some lines, counted from 1."""
    header, *rows = content.decode().strip().split("\n")
    place = header.split(",").index(name)
    for line in lines:
        cells = rows[line - 2].split(",")
        rows[line - 2] = ",".join([*cells[:place], value, *cells[place + 1 :]])
    return "\n".join([header, *rows, ""]).encode()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d["roles"].pop("monthly_charge"), "write `roles: {monthly_charge: COLUMN}`"),
        (lambda d: column(d, "MonthlyCharges").update(minimum=None), "has no price: write `minimum: 0`"),
        (lambda d: column(d, "MonthlyCharges").update(minimum=-5), "has no price: write `minimum: 0`"),
        (lambda d: column(d, "MonthlyCharges").update(missing=-1), "take `missing` and `blank_value` out"),
        (lambda d: column(d, "MonthlyCharges").update(blank_value=0), "take `missing` and `blank_value` out"),
        (lambda d: column(d, "MonthlyCharges").update(leak=True), "no request has a leak: take `leak` out"),
        (lambda d: d["roles"].update(monthly_charge="Contract"), "it is a category: write `kind: number`"),
        (lambda d: d["roles"].pop("tenure"), "write `roles: {tenure: COLUMN}`"),
        (
            lambda d: column(d, "tenure").update(protected=True, bands=[12]),
            "column 'tenure' (role tenure) is protected, so the policy would not see how customers age: take "
            "`protected` and `bands` out",
        ),
        (lambda d: column(d, "tenure").update(leak=True), "column 'tenure' (role tenure) is a leak"),
        (lambda d: d["roles"].update(tenure="Contract"), "column 'Contract' (role tenure) is a category"),
        (lambda d: column(d, "TotalCharges").update(leak=True), "column 'TotalCharges' (role total_charge) is a leak"),
        (
            lambda d: column(d, "TotalCharges").update(protected=True, bands=[1000]),
            "column 'TotalCharges' (role total_charge) is protected",
        ),
    ],
)
def test_what_a_later_stage_would_refuse_is_told_with_the_key_to_write(
    change: Callable[[dict[str, Any]], Any], said: str, telco: dict[str, Any], content: bytes, ran: Ran
) -> None:
    change(telco)
    with pytest.raises(DataError) as caught:
        ran(telco, content)
    assert said in str(caught.value)
    assert str(caught.value).count("\n") == 0


def test_a_customer_who_pays_nothing_is_told_by_row(telco: dict[str, Any], content: bytes, ran: Ran) -> None:
    content = with_cells(content, "MonthlyCharges", "0.00", range(7, 12))
    with pytest.raises(DataError) as caught:
        ran(telco, content)
    assert str(caught.value) == (
        "Telco-Customer-Churn.csv: column 'MonthlyCharges' (role monthly_charge) is 0 in row 7, row 8, row 9 and 2 more"
        ": nobody can be offered a share of nothing. Take these rows out of the file, and write `minimum: 0.01`, so "
        "that no request has such a charge"
    )
    column(telco, "MonthlyCharges")["minimum"] = 0.01
    with pytest.raises(DataError, match=r"row 7 '0\.00'.*\n +an offer is a share of the charge, which is above 0"):
        ran(telco, content)


def test_all_is_said_at_once(telco: dict[str, Any], content: bytes, ran: Ran) -> None:
    telco["roles"].pop("monthly_charge")
    column(telco, "tenure")["leak"] = True
    content = with_cells(content, "Contract", "Three year", range(3, 5))
    content = with_cells(content, "PhoneService", "Yes", range(2, 802))
    with pytest.raises(DataError) as caught:
        ran(telco, content)
    lines = [line for line in str(caught.value).split("\n") if line.startswith("Telco-Customer-Churn.csv: ")]
    assert ["is constant" in lines[0], "2 cells" in lines[1], "monthly_charge" in lines[2], "leak" in lines[3]] == [
        True
    ] * 4
    assert len(lines) == 4


def test_a_charge_that_all_pay_is_a_price(telco: dict[str, Any], content: bytes, ran: Ran) -> None:
    """As is an opt-out that nobody has made yet: neither is there to be learnt from alone."""
    telco["roles"]["do_not_contact"] = "PhoneService"
    content = with_cells(content, "MonthlyCharges", "9.99", range(2, 802))
    content = with_cells(content, "PhoneService", "No", range(2, 802))
    data = pq.read_table(ran(telco, content) / "data.parquet")
    assert set(data["MonthlyCharges"].to_pylist()) == {9.99}


def test_a_validation_part_without_rows_is_an_error(
    telco: dict[str, Any], content: bytes, tmp_path: Path, workspace: Callable[..., Workspace]
) -> None:
    split = {"train": 0.6, "validation": 1e-9, "test": 0.4 - 1e-9}
    config = {"dataset": telco, "max_rows": 50_000, "split": split}
    (tmp_path / "source.csv").write_bytes(content)
    with pytest.raises(DataError, match=r"the validation part has no rows\. More rows are needed"):
        customers.run(
            TableConfig.model_validate_json(json.dumps(config)), {"source": tmp_path}, workspace(tmp_path / "out")
        )


def test_a_table_of_which_every_row_is_left_out_is_an_error(ran: Ran) -> None:
    columns, described = own_columns("accounts", 300), own_description("accounts").model_dump(mode="json")
    column(described, "nps").update(blank="drop")
    column(described, "seats").update(blank="drop")
    columns["nps"] = ["?", "7"] * 150
    columns["seats"] = ["7", "?"] * 150
    with pytest.raises(DataError, match=r"`blank: drop` leaves every row out\. Write `blank: keep`"):
        ran(described, own_file("accounts", columns))


def test_calls_need_no_charge(tmp_path: Path, spec: Described, workspace: Callable[..., Workspace]) -> None:
    dataset = spec("bank").model_dump(mode="json")
    config = TableConfig.model_validate_json(json.dumps({"dataset": dataset, "max_rows": 2000, "split": SPLIT}))
    campaigns.run(config, {}, workspace(tmp_path))
    assert (tmp_path / "data.parquet").is_file()


# -- tables of other firms
# ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_tables_of_other_firms_are_taken_as_they_are(name: str, ran: Ran) -> None:
    spec, content = own_description(name), own_file(name, own_columns(name, 1500))
    out = ran(spec.model_dump(mode="json"), content)
    data = pq.read_table(out / "data.parquet")
    assert DatasetSpec.model_validate_json((out / "schema.json").read_text()) == spec
    assert set(data.column_names) == {described.name for described in spec.columns} | {
        spec.target.column,
        "row",
        "split",
    }
    columns = {name: data[name].to_numpy() for name in data.column_names}
    features = Featurizer.fit(spec).transform(columns)
    nullable = {described.name for described in spec.columns if described.missing is not None}
    assert {Featurizer.fit(spec).sources[at] for at in np.flatnonzero(np.isnan(features).any(axis=0))} == nullable


def test_decimal_commas_and_spellings_of_none_are_read(ran: Ran) -> None:
    content = (
        "\ufeffkundennr;vertragsbeginn;monate;monatspreis;laufzeit;downloadrate;werbesperre;anrede;notiz;gekuendigt\r\n"
        + "".join(
            f'K{row};01.02.2020;{row};{row + 1},25;monatlich;{rate};{"ja" if row % 2 else "nein"};Frau;"a;\nb";'
            f"{'ja' if row % 3 else 'nein'}\r\n"
            for row, rate in enumerate(["12,5", "", "NA", " n/a ", "?", "NULL", "NaN", "-", "1e2", "k.A."] * 10)
        )
    ).encode()
    described = own_description("provider").model_dump(mode="json")
    column(described, "laufzeit")["values"] = ["monatlich", "12 Monate"]
    described["ignore"] += ["laufzeit", "anrede"]
    described["columns"] = [c for c in described["columns"] if c["name"] not in ("laufzeit", "anrede")]
    described["roles"].pop("contract")
    data = pq.read_table(ran(described, content) / "data.parquet")
    assert data["monatspreis"].to_pylist()[:3] == [1.25, 2.25, 3.25]
    assert data["downloadrate"].to_pylist()[:10] == [12.5, *[-1.0] * 7, 100.0, -1.0]


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        (
            "provider",
            lambda d: d["source"].pop("decimal"),
            r"""column 'monatspreis': row 3 '\S+', .*\n    the decimal sign is ',': write `decimal: ","`""",
        ),
        (
            "accounts",
            lambda d: d["source"].update(decimal=","),
            r"""column 'mrr': row 2 '\S+', .*\n    the decimal sign is '.': write `decimal: "."` under `source`""",
        ),
        (
            "provider",
            lambda d: d["columns"].append({"name": d["ignore"].pop(0), "kind": "number"}),
            "column 'vertragsbeginn': row 3 '01.01.2010', .*\n    no kind of column is a date: .* or take its line out "
            r"of the description and write `ignore: \[vertragsbeginn\]`",
        ),
        (
            "accounts",
            lambda d: d["columns"].append({"name": d["ignore"].pop(1), "kind": "number"}),
            "column 'signup_date': row 2 '2010-01-15T10:00:00Z', .*\n    no kind of column is a date",
        ),
        (
            "accounts",
            lambda d: d["columns"].append({"name": d["ignore"].pop(2), "kind": "number"}),
            r"column 'owner_email': .*\n    a text is no feature: .* `ignore: \[owner_email\]`",
        ),
        (
            "provider",
            lambda d: column(d, "laufzeit").update(kind="number", values=[]),
            "column 'laufzeit': .*\n    if these are what it may be, write `kind: category` and all of its `values`",
        ),
        (
            "cards",
            lambda d: column(d, "Credit_Limit").update(blank="error"),
            r"column 'Credit_Limit': row 2 'NA', .*; expected is a number from 0 to 3\.40282e\+38\n"
            r" +to leave out the rows without a value, write: - \{name: Credit_Limit, kind: number, minimum: 0, "
            r"blank: drop\}; to keep them: - \{name: Credit_Limit, kind: number, minimum: 0, missing: -1, "
            r"blank: keep\}",
        ),
        (
            "cards",
            lambda d: column(d, "Marital_Status").update(values=["Married", "Single", "Divorced"]),
            r"column 'Marital_Status': row .* 'Unknown', .*\n    to take it as it is, write: - \{name: Marital_Status, "
            r"kind: category, values: \[Married, Single, Divorced, Unknown\]",
        ),
        (
            "accounts",
            lambda d: d["target"].update(positive="1", negative="0"),
            "column 'churned': .*\n    write 'False' and 'True', in quotes, as `positive` and `negative` under ",
        ),
    ],
)
def test_what_is_described_otherwise_is_told_what_to_write(
    name: str, change: Callable[[dict[str, Any]], Any], said: str, ran: Ran
) -> None:
    described = own_description(name).model_dump(mode="json")
    change(described)
    with pytest.raises(DataError) as caught:
        ran(described, own_file(name, own_columns(name, 300)))
    assert re.search(said, str(caught.value))
    faults = str(caught.value).count("\n  column ")
    assert str(caught.value).count("\n") == 2 * faults  # each with one line of what to write


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("1.234,56", "a number has no separators of thousands: take them out of the file"),
        ("$29.85", "a number has no currency, percent sign or unit: take it out of the file, or take its line"),
        ("12 %", "a number has no currency, percent sign or unit"),
        ("29,85 €", "a number has no currency, percent sign or unit"),
        ("1.234", "a number has no separators of thousands: take them out of the file"),
        ("29.85", "other cells have ',' before the decimals: mend these in the file"),
    ],
)
def test_numbers_with_more_than_a_number(cell: str, said: str, ran: Ran) -> None:
    columns = own_columns("provider", 300)
    columns["downloadrate"][7] = cell
    with pytest.raises(DataError) as caught:
        ran(own_description("provider").model_dump(mode="json"), own_file("provider", columns))
    assert f"column 'downloadrate': row 10 '{cell}'; expected is" in str(caught.value)
    assert said in str(caught.value)


def test_a_comma_may_part_thousands_where_no_other_cell_tells(ran: Ran) -> None:
    columns, described = own_columns("accounts", 300), own_description("accounts").model_dump(mode="json")
    columns["seats"][7] = "1,234"
    with pytest.raises(DataError) as caught:
        ran(described, own_file("accounts", columns))
    assert str(caught.value).endswith(
        "\n    the decimal sign is ',': write `decimal: \",\"` under `source`; if ',' parts thousands, take it out of "
        "the file"
    )


def test_rows_whose_category_is_blank_are_left_out_where_that_is_said(ran: Ran) -> None:
    columns, described = own_columns("cards", 300), own_description("cards").model_dump(mode="json")
    columns["Credit_Limit"] = [5000.0] * 150 + [9000.0] * 150
    columns["Statements"][:40] = ["", " "] * 20
    with pytest.raises(
        DataError, match=r"to keep them: - \{name: Statements, kind: category, values: \[paper, online, "
    ):
        ran(described, own_file("cards", columns))
    column(described, "Statements")["blank"] = "drop"
    assert pq.read_table(ran(described, own_file("cards", columns)) / "data.parquet").num_rows == 260
    for cell in ("none", "Unknown", "missing", "-"):  # of a category these may be answers, and no row is lost unsaid
        columns["Statements"][7] = cell
        with pytest.raises(DataError, match=rf"column 'Statements': row 9 '{cell}'; expected is one of "):
            ran(described, own_file("cards", columns))
