"""The parent of a run in containers: how long it waits for a store, and for the ends of containers."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import DataError, RetainError, StoreUnavailable
from engine.patience import PatientStore
from engine.store import FolderStore
from flows import parent
from flows.plan import Plan
from tests.flows.toy_plan import toy_plan


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.setenv("RETAIN_STORE", str(tmp_path))
    return toy_plan(tmp_path)


def test_a_run_that_comes_back_waits_for_a_store_that_is_full(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """A download that can't be kept is said as an error of the data; the store says that it is full."""
    full = [True, True, True]
    write = FolderStore.write

    def make() -> Plan:
        if full:
            raise DataError("bank.csv can't be kept. No space left on device")
        return plan

    def written(store: FolderStore, key: str, data: bytes, expect: str | None = None) -> str:
        if full and data:  # a full disk takes an empty file
            full.pop()
            raise StoreUnavailable("can't be written (No space left on device)")
        return write(store, key, data, expect)

    monkeypatch.setattr(FolderStore, "write", written)
    made = parent._plan(make, patience_s=60.0)
    assert isinstance(made.store, PatientStore)
    assert not full


def test_what_is_wrong_with_the_run_itself_is_said_at_once(plan: Plan) -> None:
    calls: list[int] = []

    def make() -> Plan:
        calls.append(1)
        raise DataError("telco.csv is missing")

    with pytest.raises(DataError, match="missing"):
        parent._plan(make, patience_s=60.0)
    assert calls == [1]
    assert list(FolderStore(Path(plan.store.url)).list("probe")) == []


def test_a_store_that_can_not_be_written_when_a_run_starts_is_said_at_once(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise StoreUnavailable("can't be written (Permission denied)")

    def make() -> Plan:
        raise StoreUnavailable("/store: can't be written (Permission denied)")

    monkeypatch.setattr(FolderStore, "write", refuse)
    with pytest.raises(RetainError, match="Permission denied"):
        parent._plan(make, patience_s=0.0)
