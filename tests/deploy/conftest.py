from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.fakes import FakePrometheus, FakeReplica, answering
from tests.deploy.town import Town
from tests.serve.conftest import artifact, release, store

__all__ = ["artifact", "release", "store"]


@pytest.fixture
def prometheus() -> FakePrometheus:
    return FakePrometheus()


@pytest.fixture
def replicas() -> list[FakeReplica]:
    return [FakeReplica("", "admin-admin-admin") for _ in range(2)]


@pytest.fixture
def town(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prometheus: FakePrometheus, replicas: list[FakeReplica]
) -> Iterator[Town]:
    monkeypatch.setenv("RETAIN_STORE", str(tmp_path / "store"))
    with answering(prometheus) as at, answering(replicas[0]) as first, answering(replicas[1]) as second:
        town = Town(tmp_path / "store", prometheus, [at, first, second])
        for replica in replicas:
            replica.answer["learned"] = town.good
        yield town
