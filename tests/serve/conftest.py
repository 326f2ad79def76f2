from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from engine import approvals
from engine.artifact import open_artifact
from engine.store import FolderStore
from retain.release import Release, load
from tests.releases import CHARGED, approved, bank, config, dataset, inputs, publish, run_stage
from tests.serve.apps import app_of, close_databases
from tests.serve.client import Client, stop_all
from tests.serve.databases import Server, postgresql


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose experiment `toy` has risk, accept and release, and whose messages were all approved."""
    base = tmp_path_factory.mktemp("serve")
    given = inputs(base / "inputs", dataset("telco"), dataset("bank"))
    for stage in ("risk", "accept", "decision", "messages"):
        publish(base / "store", stage, given[stage])
    publish(base / "store", "release", run_stage(base, given))
    for text in {entry["text"] for source in ("sft", "rlhf") for entry in bank(source)}:
        approvals.record(FolderStore(base / "store"), text, "approved", "Ann")
    return base / "store"


@pytest.fixture(scope="session")
def artifact(store: Path) -> Path:
    return store / "toy" / "release" / ("f" * 64)


@pytest.fixture(scope="session")
def release(artifact: Path) -> Release:
    return approved(load(open_artifact(artifact)))


@pytest.fixture(scope="session")
def bank_release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """A release for a table with numbers that have no bounds, which shows every column as a reason."""
    base, bank = tmp_path_factory.mktemp("bank"), dataset("bank", roles=CHARGED)
    artifact = publish(base / "store", "release", run_stage(base, inputs(base / "in", bank, bank), config(reasons=99)))
    return approved(load(open_artifact(artifact)))


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test depends on how fast a busy machine puts a decision on record, and no application stays after it."""
    monkeypatch.setattr("serve.service.STATE_SECONDS", 60.0)
    yield
    stop_all()
    close_databases()


@pytest.fixture
def client(release: Release) -> Client:
    return Client(app_of("v1", release))


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with postgresql() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a database that nothing is in."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'state' / 'serving.db'}"
    server: Server = request.getfixturevalue("server")
    return server.create(f"d{uuid4().hex}")
