from __future__ import annotations

from pathlib import Path

import numpy as np

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
