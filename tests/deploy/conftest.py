from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from retain.release import Release
from tests.deploy.chain import Chain
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


@pytest.fixture
def chain(tmp_path: Path, store: Path, release: Release) -> Callable[..., Chain]:
    """Makes the whole chain of real processes, with a copy of the store; Chain says by which options."""

    def make(**options: Any) -> Chain:
        shutil.copytree(store, tmp_path / "store", dirs_exist_ok=True)
        return Chain(tmp_path, tmp_path / "store", release, **options)

    return make
