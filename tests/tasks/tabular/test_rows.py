from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from tasks.tabular import rows


def test_a_data_artifact_read_back(tables: dict[str, Path]) -> None:
    table = rows.read(tables["customers"])
    assert set(table.part) == {"train", "validation", "test"}
    assert set(table.y) == {0.0, 1.0}
    assert table.y.tolist() == [float(value == "Yes") for value in table.columns["Churn"]]
    assert table.ids == list(table.columns["customerID"])
    assert set(rows.read(tables["campaigns"]).ids) == {None}


def test_groups_part_the_table(tables: dict[str, Path]) -> None:
    table = rows.read(tables["campaigns"])
    found = rows.groups(table)
    ages = [name for column, name in found if column == "age"]
    assert ages == ["below 30", "30 to below 45", "45 to below 60", "from 60"]
    for column in ("age", "marital"):
        members = np.array([member for (of, _), member in found.items() if of == column])
        assert (members.sum(axis=0) == 1).all()
    ages_30_to_45 = table.columns["age"][found["age", "30 to below 45"]]
    assert (ages_30_to_45.min(), ages_30_to_45.max()) == (30, 44)


def test_a_missing_number_is_in_no_band(tables: dict[str, Path], tmp_path: Path) -> None:
    """It was in the lowest: -99999 is below 30."""
    for name in ("schema.json", "data.parquet"):
        shutil.copy(tables["campaigns"] / name, tmp_path / name)
    schema = json.loads((tmp_path / "schema.json").read_text())
    schema["columns"][0]["missing"] = -99999
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    data = pq.read_table(tmp_path / "data.parquet").to_pandas()
    data.loc[::10, "age"] = -99999
    data.to_parquet(tmp_path / "data.parquet")
    found = {name: member for (column, name), member in rows.groups(rows.read(tmp_path)).items() if column == "age"}
    assert found["missing"].tolist() == (data["age"] == -99999).tolist()
    assert not (found["below 30"] & found["missing"]).any()
    assert (np.array(list(found.values())).sum(axis=0) == 1).all()
