"""The flow of an attempt in a container."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import pytest
from prefect import State

from engine import records
from flows import stage
from flows.container import REQUEST
from tests.flows.toy_plan import toy_plan, toy_stage

RISK = toy_stage("risk")


def started(monkeypatch: pytest.MonkeyPatch, root: Path, work: Path) -> State[None]:
    """How the flow of an attempt ends whose folder is `work`."""
    plan = toy_plan(root, (RISK,))
    request = plan.request(RISK, plan.identity(RISK, {}), {}, 1, work, shared=True)
    prefix = plan.artifacts.prefix("risk", request.fingerprint)
    plan.store.write(records.key(prefix, 1, REQUEST), request.model_dump_json().encode())
    context = SimpleNamespace(flow_run=SimpleNamespace(id=uuid4()))
    monkeypatch.setattr(stage, "FlowRunContext", SimpleNamespace(get=lambda: context))
    monkeypatch.setattr(stage, "get_run_logger", lambda: logging.getLogger("stage"))
    monkeypatch.setenv("RETAIN_STORE", str(root))
    ended: State[None] = stage.run_stage.fn("chaos", "risk", request.fingerprint, 1)
    return ended


def test_a_local_disk_that_is_full_is_no_failure_of_the_stage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The attempt is tried again, on another machine perhaps."""

    def full(path: Path, *_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Path, "write_text", full)
    state = started(monkeypatch, tmp_path / "store", tmp_path / "work")
    assert (state.name, state.type.value) == ("StoreUnavailable", "CRASHED")
    assert str(state.message).startswith(f"{tmp_path / 'work'}: ")
    assert "No space left on device" in str(state.message)
