"""Which rows two releases are compared on: never one that either of them has learned from."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.artifact import ArtifactStore, ArtifactWriter, canonical
from engine.errors import RetainError
from engine.fingerprint import Identity
from engine.store import FolderStore
from flows.heldout import Rows, Table, held_out, read_table, table_of
from tests.datasets import described


def table(keys: str, test: str) -> Table:
    """Rows by the letters that tell them apart; those of `test` are in the test part."""
    columns = {"name": np.array([*keys], dtype=object)}
    rows = Rows(columns, np.array([float(key in "aeiou") for key in keys]), [*keys])
    return Table(rows, np.array([key in test for key in keys]))


def again(keys: str, test: int) -> Table:
    """Rows of which only that with this number is in the test part."""
    return replace(table(keys, ""), test=np.arange(len(keys)) == test)


@pytest.mark.parametrize(
    ("older", "newer", "kept"),
    [
        (table("abcdef", "ef"), table("abcdef", "ef"), "ef"),  # one split: the whole test part
        (table("abcdef", "ef"), table("abcdefg", "efg"), "efg"),  # a newcomer, of whom the older one knows nothing
        (table("abcdef", "ef"), table("abcdef", "de"), "e"),  # another seed: d is among what the older one learned from
        (table("abcdef", "ab"), table("abcdef", "ef"), ""),
        (table("abcd", "d"), table("cdxy", "cxy"), "xy"),  # c has moved; it is the same row all the same
        (table("abb", ""), table("abb", "b"), ""),
        (again("abcb", 3), again("abcb", 3), ""),  # a second row that says the same, in the training part of both
        (table("ab", "b"), again("abcb", 3), ""),  # and of the newer one alone
    ],
)
def test_a_row_that_one_of_both_has_learned_from_does_not_count(older: Table, newer: Table, kept: str) -> None:
    rows = held_out(newer, older)
    assert "".join(map(str, rows.keys)) == kept
    assert "".join(rows.columns["name"].tolist()) == kept
    assert rows.y.tolist() == [float(key in "aeiou") for key in kept]


# -- tables behind a release


def data(folder: Path, name: str, rows: list[dict[str, Any]]) -> Path:
    """What a data stage writes of these rows."""
    spec = described(name)
    writer = ArtifactWriter(folder)
    writer.json("schema.json", spec.model_dump(mode="json"))
    writer.parquet("data.parquet", {key: [row[key] for row in rows] for key in rows[0]})
    return folder


def publish(artifacts: ArtifactStore, stage: str, folder: Path, fingerprint: str, **inputs: str) -> str:
    """The digest of the folder as an artifact that was made from these `inputs`."""
    manifest = artifacts.publish(stage, fingerprint, folder)
    identity = Identity(stage=stage, code={}, libraries={}, config={}, seed=1, inputs=inputs, source=None)
    key = f"{artifacts.prefix(stage, fingerprint)}/identity.json"
    artifacts.store.write(key, canonical(identity.model_dump(mode="json")))
    return manifest.digest


def customer(name: str, churn: str, split: str, **changes: Any) -> dict[str, Any]:
    spec = described("telco")
    row: dict[str, Any] = {column.name: column.values[0] if column.values else 1 for column in spec.columns}
    return {**row, "customerID": name, "Churn": churn, "split": split, "row": 0, **changes}


def call(y: str, split: str, row: int, **changes: Any) -> dict[str, Any]:
    spec = described("bank")
    cells: dict[str, Any] = {column.name: column.values[0] if column.values else 1 for column in spec.columns}
    return {**cells, spec.target.column: y, "split": split, "row": row, **changes}


@pytest.fixture
def artifacts(tmp_path: Path) -> ArtifactStore:
    artifacts = ArtifactStore(FolderStore(tmp_path / "store"), "toy")
    rows = [customer("a", "No", "train"), customer("b", "Yes", "test"), customer("c", "No", "validation")]
    made = publish(artifacts, "customers", data(tmp_path / "customers", "telco", rows), "1" * 32)
    other = publish(artifacts, "customers", data(tmp_path / "others", "telco", rows[:2]), "2" * 32)
    assert made != other
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "model.json").write_text("{}")
    risk = publish(artifacts, "risk", tmp_path / "made", "3" * 32, customers=made)
    publish(artifacts, "release", tmp_path / "made", "4" * 32, risk=risk, accept="f" * 64)
    return artifacts


def test_the_table_is_the_one_that_the_part_was_made_from(artifacts: ArtifactStore) -> None:
    found = table_of(artifacts, "4" * 32, "risk")
    assert found.rows.keys == ["a", "b", "c"]
    assert found.rows.y.tolist() == [0.0, 1.0, 0.0]
    assert found.test.tolist() == [False, True, False]


def test_what_is_gone_is_named(artifacts: ArtifactStore) -> None:
    with pytest.raises(
        RetainError, match=r"toy/release/4{32}: the accept that it was made from is gone from the store"
    ):
        table_of(artifacts, "4" * 32, "accept")
    key = f"{artifacts.prefix('release', '4' * 32)}/identity.json"
    artifacts.store.write(key, json.dumps({"inputs": {}}).encode())
    with pytest.raises(RetainError, match=r"its identity\.json doesn't say which risk it was made from"):
        table_of(artifacts, "4" * 32, "risk")


def test_rows_without_an_id_are_told_by_all_of_their_cells(tmp_path: Path) -> None:
    """Their numbers say nothing once a row was put in before them."""
    first, second = call("no", "train", 0, age=30), call("yes", "test", 1, age=31)
    older = ArtifactStore(FolderStore(tmp_path / "store"), "toy")
    publish(older, "campaigns", data(tmp_path / "old", "bank", [first, second]), "1" * 32)
    moved = [call("no", "train", 0, age=50), {**first, "row": 1, "split": "test"}, {**second, "row": 2}]
    publish(older, "campaigns", data(tmp_path / "new", "bank", moved), "2" * 32)
    tables = [read_table(older.folder("campaigns", each * 32)) for each in "12"]
    rows = held_out(tables[1], tables[0])
    assert rows.columns["age"].tolist() == [31]
