from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine import records
from engine.errors import RetainError
from engine.process import this_process
from engine.records import AttemptRecord
from engine.store import FolderStore

PREFIX = "test/toy/f00"


def planned(**changes: object) -> AttemptRecord:
    stated = {
        "number": 0,
        "status": "planned",
        "host": "here",
        "machine_type": "e2-standard-4",
        "usd_per_hour": 0.134,
        "commit": "none",
        "libraries": {},
        "started_at": "2026-11-23T00:00:00+00:00",
        "holder": this_process(),
    }
    return AttemptRecord.model_validate(stated | changes)


def test_numbers_grow_past_those_of_the_store_and_past_the_given_one(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    assert [records.create(store, PREFIX, planned(), above).number for above in (0, 0, 6, 0)] == [1, 2, 7, 8]


def test_a_record_is_stored_as_it_always_was(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    record = records.create(store, PREFIX, planned())
    stored = json.loads((tmp_path / PREFIX / "execution" / "0001.json").read_bytes())
    assert stored["attempt"] == 1
    assert "number" not in stored
    assert records.read(store, PREFIX, 1) == record
    assert records.read(store, PREFIX, 2) is None


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.write(records.key(PREFIX, 1), b"{}")
    with pytest.raises(RetainError, match=r"execution/0001\.json: not the record of an attempt"):
        records.read(store, PREFIX, 1)
