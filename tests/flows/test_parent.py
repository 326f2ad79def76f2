"""The parent of a run in containers: how long it waits for a store, and for the ends of containers."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect.states import Cancelling, Completed, Running

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


@pytest.mark.parametrize(
    ("state", "proposed", "leaves"),
    [
        (Running(), ["AwaitingRetry"], True),
        (Cancelling(), [], False),
        (Completed(), [], True),
        (None, ["AwaitingRetry"], True),
    ],
)
def test_a_parent_whose_machine_is_wanted_back_leaves_and_is_scheduled_again(
    monkeypatch: pytest.MonkeyPatch, state: Any, proposed: list[str], leaves: bool
) -> None:
    """But one that is being cancelled stops its stages first, and one that has ended stays so."""
    said: list[str] = []
    left = threading.Event()
    monkeypatch.setattr(parent, "client", lambda: nullcontext(None))
    monkeypatch.setattr(parent, "state_of", lambda api, flow_run: state)
    monkeypatch.setattr(parent, "propose", lambda api, flow_run, proposal, force: said.append(proposal.name))
    monkeypatch.setattr(os, "_exit", lambda code: left.set())
    with parent._leaving_on_sigterm(uuid4()):
        os.kill(os.getpid(), signal.SIGTERM)
        assert left.wait(0.5) is leaves
    assert said == proposed
