from __future__ import annotations

import json
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
from tasks.config import Split, TableConfig
from tasks.data import checks, customers, synthetic, table, text
from tasks.split import SPLIT_PARTS
from tests.datasets import needs_real_data, real_file

Described = Callable[[str], DatasetSpec]
SPLIT = Split(train=0.6, validation=0.1, test=0.3)


@pytest.fixture(scope="module")
def content(spec: Described) -> bytes:
    return synthetic.csv(spec("telco"), 1)


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
    checks.check(cells, spec(name))
    columns, gone = table.typed(cells, spec(name), config(name).max_rows, 42)
    assert file.sha256 == spec(name).source.sha256
    assert (len(columns["row"]), gone) == (rows, dropped)
    assert columns[spec(name).target.column].count(spec(name).target.positive) == positive
    if name == "bank":
        # Repeated rows stay: there are 12.
        whole = list(zip(*(cells.columns[column] for column in cells.columns)))
        assert len(whole) - len(set(whole)) == 12


def test_a_number_that_no_training_row_has_is_an_error(
    tmp_path: Path, content: bytes, config: Callable[..., TableConfig], workspace: Callable[..., Workspace]
) -> None:
    lines = content.decode().splitlines()
    ids = [line.split(",")[0] for line in lines[1:]]
    part = dict(zip(ids, table.split(ids, SPLIT, 42)))
    visits = ["visits", *("3" if part[name] == "test" else "-1" for name in ids)]
    (tmp_path / "source.csv").write_text("\n".join(f"{line},{value}" for line, value in zip(lines, visits)))
    telco = config("telco").model_dump(mode="json")
    telco["dataset"]["columns"].append({"name": "visits", "kind": "number", "missing": -1})
    with pytest.raises(
        DataError, match="column 'visits' is -1, which stands for none, in every row of the training part"
    ):
        customers.run(
            TableConfig.model_validate_json(json.dumps(telco)), {"source": tmp_path}, workspace(tmp_path / "out")
        )
