"""Which rows two releases are compared on: never one that either of them has learned from."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from engine.artifact import ArtifactStore, ArtifactWriter, canonical
from engine.errors import RetainError
from engine.fingerprint import Identity
from engine.store import FolderStore
from flows.heldout import Table, held_out, read_table, table_of
from tests.datasets import described


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


Names = tuple[str, set[int]]  # of customers, and the numbers of those rows that are in the test part


def part(keys: str, test: str) -> Names:
    return keys, {index for index, key in enumerate(keys) if key in test}


def again(keys: str, test: int) -> Names:
    """Of one customer, who is there twice, one row alone is in the test part."""
    return keys, {test}


def table(artifacts: ArtifactStore, folder: Path, names: Names, fingerprint: str) -> Table:
    """Rows by the letters that tell them apart; vowels are the positive class."""
    keys, test = names
    rows = [
        customer(key, "Yes" if key in "aeiou" else "No", "test" if index in test else "train")
        for index, key in enumerate(keys)
    ]
    publish(artifacts, "customers", data(folder, "telco", rows), fingerprint)
    return read_table(artifacts.folder("customers", fingerprint))


@pytest.mark.parametrize(
    ("older", "newer", "kept"),
    [
        (part("abcdef", "ef"), part("abcdef", "ef"), "ef"),  # one split: the whole test part
        (part("abcdef", "ef"), part("abcdefg", "efg"), "efg"),  # a newcomer, of whom the older one knows nothing
        (part("abcdef", "ef"), part("abcdef", "de"), "e"),  # another seed: d is among what the older one learned from
        (part("abcdef", "ab"), part("abcdef", "ef"), ""),
        (part("abcd", "d"), part("cdxy", "cxy"), "xy"),  # c has moved; it is the same row all the same
        (part("abb", ""), part("abb", "b"), ""),
        (again("abcb", 3), again("abcb", 3), ""),  # a second row that says the same, in the training part of both
        (part("ab", "b"), again("abcb", 3), ""),  # and of the newer one alone
    ],
)
def test_a_row_that_one_of_both_has_learned_from_does_not_count(
    tmp_path: Path, older: Names, newer: Names, kept: str
) -> None:
    artifacts = ArtifactStore(FolderStore(tmp_path / "store"), "toy")
    before, now = (table(artifacts, tmp_path / str(n), each, str(n) * 32) for n, each in enumerate((older, newer)))
    rows = held_out(now, before)
    assert "".join(rows.columns["customerID"].tolist()) == kept
    assert rows.y.tolist() == [float(key in "aeiou") for key in kept]


# -- tables behind a release


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
    assert pq.read_table(found.file)["customerID"].to_pylist() == ["a", "b", "c"]
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


def test_a_row_with_a_gap_is_known_again(tmp_path: Path) -> None:
    """Also where a column of whole numbers has become one with fractions because of it."""
    store = ArtifactStore(FolderStore(tmp_path / "store"), "toy")
    whole = [call("no", "train", 0, age=30), call("no", "train", 1, age=31)]
    publish(store, "campaigns", data(tmp_path / "old", "bank", whole), "1" * 32)
    gaps = [call("no", "test", 0, age=30.0), call("no", "train", 1, age=None), call("no", "test", 2, age=None)]
    publish(store, "campaigns", data(tmp_path / "new", "bank", gaps), "2" * 32)
    older, newer = (read_table(store.folder("campaigns", each * 32)) for each in "12")
    assert held_out(newer, older).columns["age"].tolist() == []


@pytest.mark.parametrize("name", ["telco", "bank"])
def test_a_table_takes_little_memory(tmp_path: Path, name: str) -> None:
    """By the objects of Python, of which a table without a cap on its rows would have the most."""
    parts, count = ("train", "train", "test"), 12_000
    if name == "telco":
        one = customer("", "No", "")
        rows = [{**one, "customerID": f"customer {n}", "split": parts[n % 3]} for n in range(count)]
    else:
        one = call("no", "", 0)
        rows = [{**one, "duration": n, "split": parts[n % 3]} for n in range(count)]
    store = ArtifactStore(FolderStore(tmp_path / "store"), "toy")
    publish(store, "data", data(tmp_path / "made", name, rows), "1" * 32)
    folder = store.folder("data", "1" * 32)
    del rows
    held_out(read_table(folder), read_table(folder))  # what is imported at the first time isn't counted
    tracemalloc.start()
    try:
        read = [read_table(folder) for _ in range(2)]
        for_both, _ = tracemalloc.get_traced_memory()
        kept = held_out(*read)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(kept.y) == count // 3
    assert for_both / count < 30
    assert held / count < 150
    assert peak / count < 700
