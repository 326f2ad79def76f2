from __future__ import annotations

from pathlib import Path

import pytest

from engine.artifact import open_artifact
from retain.release import Release, load
from serve.app import create_app
from tests.releases import CHARGED, config, dataset, inputs, publish, run_stage
from tests.serve.client import Client


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose experiment `toy` has risk, accept and release."""
    base = tmp_path_factory.mktemp("serve")
    given = inputs(base / "inputs", dataset("telco"), dataset("bank"))
    for stage in ("risk", "accept", "decision", "messages"):
        publish(base / "store", stage, given[stage])
    publish(base / "store", "release", run_stage(base, given))
    return base / "store"


@pytest.fixture(scope="session")
def artifact(store: Path) -> Path:
    return store / "toy" / "release" / ("f" * 64)


@pytest.fixture(scope="session")
def release(artifact: Path) -> Release:
    return load(open_artifact(artifact))


@pytest.fixture(scope="session")
def bank_release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """A release for a table with numbers that have no bounds, which shows every column as a reason."""
    base, bank = tmp_path_factory.mktemp("bank"), dataset("bank", roles=CHARGED)
    artifact = publish(base / "store", "release", run_stage(base, inputs(base / "in", bank, bank), config(reasons=99)))
    return load(open_artifact(artifact))


@pytest.fixture
def client(release: Release) -> Client:
    return Client(create_app("v1", release))
