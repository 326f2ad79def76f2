"""A run in containers whose store is a bucket: nothing of it is on this machine but a volume with its cache."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from docker import DockerClient

from engine.artifact import ArtifactStore
from engine.fingerprint import ROOT
from engine.store import open_store
from flows import ends, mounts
from flows.mounts import CACHE, Access, Place
from images.build import build
from tests.containers import engine_or_skip
from tests.end_to_end.containers import Platform, platform_at, postgres
from tests.end_to_end.project import copy_project
from tests.engine.bucket_double import Buckets, serving

pytestmark = [pytest.mark.slow, pytest.mark.docker]

STAGES = ["risk"]  # with `customers`, which it reads
RUN_S = 900.0


@pytest.fixture
def engine() -> Iterator[DockerClient]:
    yield from engine_or_skip()


@pytest.fixture
def platform(engine: DockerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    """The bucket is reached at this machine's address in Docker's network, and the cache is nobody else's."""
    monkeypatch.setattr(mounts, "VOLUME", f"retain-test-{uuid.uuid4().hex[:8]}")
    monkeypatch.setenv("RETAIN_CACHE", str(tmp_path / "cache"))
    (settings,) = engine.networks.get("bridge").attrs["IPAM"]["Config"]
    data, images = copy_project(tmp_path / "project").data, build(ROOT, ["tabular"])
    with serving(Buckets("bucket"), settings.get("Gateway", "172.17.0.1")) as server, postgres(engine) as database:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        bucket = Place("gs://bucket/retain", tmp_path, Access({mounts.EMULATOR: server.url}, None))
        try:
            with platform_at(tmp_path, data, images, engine, database, bucket=bucket) as platform:
                yield platform
        finally:
            engine.volumes.get(mounts.VOLUME).remove(force=True)


def test_a_run_has_its_store_in_a_bucket(platform: Platform) -> None:
    run = platform.run("train/chaos", stages=STAGES)
    container = platform.container_of("customers-1")
    mounted = {each["Destination"]: each["Type"] for each in container.attrs["Mounts"]}
    assert mounted == {CACHE: "volume"}
    ended = platform.wait(run, RUN_S)
    assert ended["state_type"] == "COMPLETED", ended["state"]["message"]
    artifacts = ArtifactStore(open_store("gs://bucket/retain"), "chaos")
    assert artifacts.current().keys() == {"customers", *STAGES}
    for stage, fingerprint in artifacts.current().items():
        artifacts.verify(stage, fingerprint)
    attempts = platform.attempts(run)
    assert len(attempts) == 2
    for attempt in attempts:  # as the witness has written it
        end = ends.read(artifacts.store, UUID(attempt["id"]))
        assert end is not None
        assert end.exit_code == 0
    assert list(platform.store.iterdir()) == []
