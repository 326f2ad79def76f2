"""The stack of `make serve.up` in containers: all of it, with a release of its own, in a demo's store."""

from __future__ import annotations

import json
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docker import DockerClient

from engine.document import Document
from engine.errors import RetainError
from engine.fingerprint import ROOT
from engine.releases import version_of
from engine.store import FolderStore, open_store
from flows import compose, stack
from flows.mounts import KEY
from retain.release import Release
from retain.rollout import Rollout, rollout_key
from tests.containers import engine_or_skip
from tests.deploy.chain import EXPERIMENT, until
from tests.engine.bucket_double import Buckets, Server, Session, serving
from tests.releases import rows

pytestmark = pytest.mark.docker

# Beside somebody's own, on other ports.
OURS = stack.Stack("retain-test", "docker compose down", ROOT / "build" / "secrets.env.of-tests", shift=200)
HEALTH = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:8002/healthz').read().decode())"


@pytest.fixture
def engine(tmp_path: Path, store: Path, artifact: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DockerClient]:
    """Skips the test where there is no Docker engine."""
    engines = engine_or_skip()
    engine = next(engines)
    try:
        compose.program()
    except RetainError as error:
        pytest.skip(str(error))
    shutil.copytree(store, tmp_path / "store")
    FolderStore(tmp_path / "store").write("DEMO", b'{"time_scale": 60}')
    for name in (*stack.SECRETS, "DATABASE_URL", "FORCE_BASELINE", "CANARY_PERCENT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RETAIN_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("EXPERIMENT", EXPERIMENT)
    monkeypatch.setenv("RELEASE_PATH", str(tmp_path / "store" / artifact.relative_to(store)))
    (ROOT / "build").mkdir(exist_ok=True)
    try:
        yield engine
    finally:
        stack.down(print, OURS, forget=True)
        OURS.secrets.unlink(missing_ok=True)
        next(engines, None)


def ask(address: str, release: Release, key: str) -> int:
    """The status of an answer about a customer."""
    body = json.dumps({"customer": rows(release.spec, 1, seed=4)[0]}).encode()
    headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{address}/retain", body, headers), timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def scraped() -> dict[str, str]:
    """Whether Prometheus reaches whom it scrapes."""
    with urllib.request.urlopen(f"{OURS.addresses['prometheus']}/api/v1/targets", timeout=60) as answer:
        targets = json.load(answer)["data"]["activeTargets"]
    return {target["labels"]["instance"]: target["health"] for target in targets}


def run(engine: DockerClient, *command: str) -> str:
    """In the controller's container."""
    (container,) = compose.services_of(engine, OURS.project, "controller")
    code, output = container.exec_run(list(command))
    assert code == 0, output.decode()
    return str(output.decode())


def health(engine: DockerClient) -> dict[str, Any]:
    return dict(json.loads(run(engine, "python", "-c", HEALTH)))


def test_it_comes_up_watches_and_goes(engine: DockerClient, release: Release, tmp_path: Path, artifact: Path) -> None:
    said: list[str] = []
    stack.up(said.append, OURS)
    assert any("DEMO" in line and "\x1b[31m" in line for line in said)
    assert said[-1].startswith("curl -s localhost:8200/retain")
    key = stack.key(OURS)
    for replica in stack.REPLICAS:
        assert ask(OURS.addresses[replica], release, key) == 200
        assert ask(OURS.addresses[replica], release, "another-secret-of-somebody") == 401
    until(lambda: scraped() == dict.fromkeys(("serve-1:8001", "serve-2:8001", "controller:8002"), "up"))

    # The watchdog goes from Prometheus through Alertmanager to the controller, which then vouches for the rollout.
    until(lambda: health(engine)["watchdog_seconds"] is not None)
    signed = ["--by", "Ann", "--reason", "a test"]
    version = version_of(artifact)
    assert "in the shadow" in run(engine, "python", "-m", "deploy.controller", "propose", version, *signed)
    until(lambda: health(engine)["lease"] == "renewed")
    containers = {service: compose.services_of(engine, OURS.project, service)[0] for service in stack.SERVICES[:-1]}
    served_by_root = [each for each in stack.REPLICAS if containers[each].attrs["Config"]["User"].startswith("0:")]
    assert served_by_root == []
    containers["prometheus"].kill()  # nobody starts again what was killed by hand
    until(lambda: health(engine)["lease"] != "renewed")
    stack.up(said.append, OURS)
    until(lambda: health(engine)["lease"] == "renewed")
    again = {service: compose.services_of(engine, OURS.project, service)[0].id for service in containers}
    assert again == {service: container.id for service, container in containers.items()}  # nothing was made anew
    run(engine, "python", "-m", "deploy.controller", "rollback", *signed)
    rollout = Document(FolderStore(tmp_path / "store"), rollout_key(EXPERIMENT), Rollout).read()
    assert rollout is not None
    assert (rollout.latched, rollout.challenger) == (True, None)
    stack.down(said.append, OURS)
    assert not any(compose.services_of(engine, OURS.project, service) for service in stack.SERVICES)
    assert compose.has_volume(engine, OURS.database)


@pytest.fixture
def buckets(
    engine: DockerClient, tmp_path: Path, store: Path, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Server]:
    """The store in a bucket, at this machine's address in Docker's network."""
    (settings,) = engine.networks.get("bridge").attrs["IPAM"]["Config"]
    buckets = Buckets("bucket")
    for path in (path for path in (tmp_path / "store").rglob("*") if path.is_file()):
        name = f"retain/{path.relative_to(tmp_path / 'store').as_posix()}"
        buckets.put(Session("bucket", name, None, {}, content=bytearray(path.read_bytes())))
    monkeypatch.setenv("RETAIN_STORE", "gs://bucket/retain")
    monkeypatch.setenv("RETAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RELEASE_PATH", f"gs://bucket/retain/{artifact.relative_to(store)}")
    cache = f"{OURS.name}-cache-{os.geteuid() or stack.NOBODY}"
    with serving(buckets, settings.get("Gateway", "172.17.0.1")) as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        yield server
        stack.down(print, OURS)
        if compose.has_volume(engine, cache):
            engine.volumes.get(cache).remove()


def test_a_replica_and_the_controller_have_their_store_in_a_bucket(
    engine: DockerClient, buckets: Server, release: Release, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both reach it, and what people tell the rollout is written there."""
    monkeypatch.setattr(stack, "GROUPS", (("serve-1",), ("controller",)))  # the others read nothing of it
    monkeypatch.setenv("DATABASE_URL", "sqlite:////dev/shm/serving.db")
    stack.up(print, OURS)
    assert ask(OURS.addresses["serve-1"], release, stack.key(OURS)) == 200
    version, signed = version_of(artifact), ["--by", "Ann", "--reason", "a test"]
    assert "in the shadow" in run(engine, "python", "-m", "deploy.controller", "propose", version, *signed)
    rollout = Document(open_store("gs://bucket/retain"), rollout_key(EXPERIMENT), Rollout).read()
    assert rollout is not None
    assert rollout.challenger is not None
    for service in ("serve-1", "controller"):
        (container,) = compose.services_of(engine, OURS.project, service)
        mounted = {each["Destination"]: each["Type"] for each in container.attrs["Mounts"]}
        assert mounted == {"/cache": "volume", KEY: "bind"}
        assert not container.attrs["Config"]["User"].startswith("0:")
