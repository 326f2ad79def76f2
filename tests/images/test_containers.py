"""The images of this tree, built and run: by anybody, without privileges, without a network.

Those of CI are `tabular` and `serve`; the others take minutes more.
"""

from __future__ import annotations

import functools
import json
import platform
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from docker import DockerClient
from docker.errors import ImageNotFound

from engine.fingerprint import ROOT, code_digests, library_versions
from flows.mounts import CACHE, KEY, NO_KEY
from images.build import build, references
from images.context import read_context
from images.table import BASE, IMAGES
from tasks.stages import STAGES
from tests.containers import engine_or_skip
from tests.engine.bucket_double import Buckets, Session, serving
from tests.images.checkouts import append, copy
from tests.releases import dataset, inputs, publish, rows, run_stage

LABEL = {"retain.test": "images"}
# Megabytes beyond the base image that an image may have.
LIMITS = {"tabular": 1700, "gpu": 2200, "serve": 300, "orchestrator": 400}
IMPORTS: dict[str, list[str]] = {
    "tabular": ["flows.train", "flows.stage", *(stage.entry for stage in STAGES.values() if stage.image == "tabular")],
    "gpu": ["flows.stage", *(stage.entry for stage in STAGES.values() if stage.image == "gpu")],
    "serve": ["serve.supervisor", "serve.worker", "serve.admin", "serve.api_page", "serve.messages"],
    "orchestrator": ["flows.witness", "prefect_docker.worker", "asyncpg", "prefect_gcp"],
}
for entries in IMPORTS.values():
    entries.append("engine.bucket")  # the store may be one
# What an image has no use for; that it isn't there at all is more than that nothing imports it.
LACKS = {
    "tabular": ["transformers", "trl", "bitsandbytes", "nvidia", "serve", "tests"],
    "gpu": ["xgboost", "sklearn", "nvidia", "serve", "tests"],
    "serve": ["torch", "pandas", "sklearn", "xgboost", "pyarrow", "transformers", "prefect", "tasks", "flows", "tests"],
    "orchestrator": ["torch", "pandas", "sklearn", "xgboost", "pyarrow", "tasks", "serve", "tests"],
}
PROGRAM = """
import importlib, importlib.util, json, os, sys
imports, lacks = json.loads(sys.argv[1])
for entry in imports:
    importlib.import_module(entry.partition(":")[0])
try:
    open(os.path.join(os.getcwd(), "written"), "w")
    writable = True
except OSError:
    writable = False
os.makedirs(os.environ.get("PREFECT_HOME", "/tmp"), exist_ok=True)
specs = [module.__spec__ for module in list(sys.modules.values()) if getattr(module, "__spec__", None)]
compiled = {spec.origin: spec.cached for spec in specs if spec.has_location and spec.cached}
print(json.dumps({
    "user": f"{os.getuid()}:{os.getgid()}",
    "init": open("/proc/1/comm").read().strip(),
    "there": [name for name in lacks if importlib.util.find_spec(name)],
    "writable": writable,
    "prefect's home in its own": os.environ.get("PREFECT_HOME", "").removeprefix(os.environ["HOME"]),
    "commit": os.environ["RETAIN_COMMIT"],
    "rebuild": os.environ.get("RETAIN_REBUILD"),
    "folder": os.getcwd(),
    # An interpreter that has to compile what it imports takes more than twice as long to start, each time anew.
    "not compiled": [path for path in compiled if path.startswith("/opt/") and not os.path.exists(compiled[path])],
    "ours": sum(path.startswith("/opt/retain/") for path in compiled) > 5,
}))
"""

pytestmark = pytest.mark.docker

OF_CI = ("tabular", "serve")


def each_of(names: Iterable[str]) -> pytest.MarkDecorator:
    """A parameter `name`; images that CI doesn't build are slow."""
    marks = {name: [] if name in OF_CI else [pytest.mark.slow] for name in names}
    return pytest.mark.parametrize("name", [pytest.param(name, marks=marks[name]) for name in names])


every_image = each_of(IMAGES)


@pytest.fixture(scope="module")
def engine() -> Iterator[DockerClient]:
    yield from engine_or_skip()


@functools.cache
def built(name: str) -> str:
    """The reference of the image of this tree, which is built where the engine doesn't have it."""
    return build(ROOT, [name])[name]


def run(engine: DockerClient, reference: str, *command: str, **options: Any) -> str:
    """What a container printed that can write nothing but /tmp and reaches no network."""
    settings: dict[str, Any] = {"read_only": True, "tmpfs": {"/tmp": ""}, "network_mode": "none", "remove": True}
    output = engine.containers.run(reference, list(command), labels=LABEL, **(settings | options))
    return bytes(output).decode()


@every_image
def test_labels_say_what_it_is_made_of(engine: DockerClient, name: str) -> None:
    labels = engine.images.get(built(name)).labels
    assert labels["retain.code"] == read_context(ROOT, IMAGES[name], "cpu").code_digest
    assert labels["retain.accelerator"] == "cpu"
    assert len(labels["org.opencontainers.image.revision"].rstrip("+")) == 40
    assert labels["org.opencontainers.image.base.name"] == BASE


@every_image
def test_it_is_no_larger_than_it_may_be(engine: DockerClient, name: str) -> None:
    size = engine.images.get(built(name)).attrs["Size"] - engine.images.get(BASE).attrs["Size"]
    assert size / 1e6 < LIMITS[name]


@every_image
def test_anybody_runs_it_and_nobody_changes_it(engine: DockerClient, name: str) -> None:
    """Here a user that the image doesn't know; unless one is named, its own without privileges."""
    image = engine.images.get(built(name))
    assert image.attrs["Config"]["User"] == "10001:10001"
    assert image.attrs["Config"]["Env"].count("HOME=/tmp") == 1
    arguments = json.dumps([IMPORTS[name], LACKS[name]])
    said = run(engine, built(name), "python", "-c", PROGRAM, arguments, user="4242:4343")
    known = json.loads(said.splitlines()[-1])
    assert known == {
        "user": "4242:4343",
        "init": "tini",
        "prefect's home in its own": "" if name == "serve" else "/prefect",
        "there": [],
        "writable": False,
        "commit": image.labels["org.opencontainers.image.revision"],
        "rebuild": "make images && make deploy" if name in ("tabular", "gpu") else None,
        "folder": "/opt/retain",
        "not compiled": [],
        "ours": True,
    }


@every_image
def test_its_libraries_fit_each_other(engine: DockerClient, name: str) -> None:
    assert "No broken requirements" in run(engine, built(name), "pip", "--python", "/opt/venv", "check")


@each_of(["tabular", "gpu"])
def test_stages_are_the_same_in_it_as_here(engine: DockerClient, name: str) -> None:
    stages = [stage for stage in STAGES.values() if stage.image == name]
    program = (
        "import json\nfrom engine.fingerprint import code_digests, library_versions\nfrom tasks.stages import STAGES\n"
        f"print(json.dumps([[code_digests(s.entry), library_versions(s.libraries)] for s in STAGES.values() "
        f"if s.image == {name!r}]))"
    )
    there = json.loads(run(engine, built(name), "python", "-c", program).splitlines()[-1])
    assert there == [[code_digests(stage.entry), library_versions(stage.libraries)] for stage in stages]
    assert platform.python_version_tuple()[:2] == ("3", "11")


ASK = """
import json, sys, urllib.request
body = sys.argv[1].encode()
headers = {"Content-Type": "application/json", "Authorization": "Bearer 0123456789abcdef"}
request = urllib.request.Request(f"http://127.0.0.1:{sys.argv[2]}/retain", body, headers)
print(urllib.request.urlopen(request, timeout=10).read().decode())
"""


def test_the_service_answers_in_a_container(engine: DockerClient, tmp_path: Path) -> None:
    given = inputs(tmp_path / "inputs", dataset("telco"), dataset("bank"))
    for stage in ("risk", "accept", "decision", "messages"):
        publish(tmp_path / "store", stage, given[stage])
    release = publish(tmp_path / "store", "release", run_stage(tmp_path, given))
    for path in (tmp_path / "store").rglob("*"):  # whoever runs the image owns none of it
        path.chmod(0o755 if path.is_dir() else 0o644)
    container = engine.containers.run(
        built("serve"),
        detach=True,
        labels=LABEL,
        environment={
            "RELEASE_PATH": f"/store/{release.relative_to(tmp_path / 'store')}",
            "RETAIN_API_KEYS": "test:0123456789abcdef",
            "DATABASE_URL": "sqlite:////state/serving.db",
        },
        volumes=[f"{tmp_path / 'store'}:/store:ro"],
        tmpfs={"/state": "mode=1777"},
        read_only=True,
        network_mode="none",
    )
    try:
        deadline = time.monotonic() + 60
        while b" on http://" not in container.logs() and time.monotonic() < deadline:
            time.sleep(0.1)
        (customer,) = rows(dataset("telco"), 1, seed=5)
        answered = container.exec_run(["python", "-c", ASK, json.dumps({"customer": customer}), "8000"])
        assert answered.exit_code == 0, (answered.output, container.logs())
        assert 0.0 <= json.loads(answered.output)["risk"] <= 1.0
    finally:
        container.remove(force=True)


def test_the_service_answers_from_a_bucket_that_is_gone_by_then(engine: DockerClient, tmp_path: Path) -> None:
    """It is anybody, and can write nothing but /tmp and the volume, which is new."""
    given = inputs(tmp_path / "inputs", dataset("telco"), dataset("bank"))
    for stage in ("risk", "accept", "decision", "messages"):
        publish(tmp_path / "store", stage, given[stage])
    release = publish(tmp_path / "store", "release", run_stage(tmp_path, given))
    buckets = Buckets("bucket")
    for path in (path for path in (tmp_path / "store").rglob("*") if path.is_file()):
        name = f"retain/{path.relative_to(tmp_path / 'store').as_posix()}"
        buckets.put(Session("bucket", name, None, {}, content=bytearray(path.read_bytes())))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    cache = engine.volumes.create(labels=LABEL)
    with serving(buckets) as server:
        container = engine.containers.run(
            built("serve"),
            detach=True,
            labels=LABEL,
            environment={
                "RETAIN_STORE": "gs://bucket/retain",
                "STORAGE_EMULATOR_HOST": server.url,
                "RELEASE_PATH": f"gs://bucket/retain/{release.relative_to(tmp_path / 'store')}",
                "RETAIN_HOST": "127.0.0.1",
                "PORT": port,
                "RETAIN_ADMIN_PORT": "0",
                "RETAIN_API_KEYS": "test:0123456789abcdef",
                "DATABASE_URL": "sqlite:////state/serving.db",
            },
            volumes=[f"{cache.name}:{CACHE}", f"{NO_KEY}:{KEY}:ro"],
            tmpfs={"/tmp": "", "/state": "mode=1777"},
            read_only=True,
            user="4242:4343",
            network_mode="host",  # where the double is
        )
        try:
            deadline = time.monotonic() + 60
            while b" on http://" not in container.logs() and time.monotonic() < deadline:
                time.sleep(0.1)
            server.gone = True
            (customer,) = rows(dataset("telco"), 1, seed=5)
            answered = container.exec_run(["python", "-c", ASK, json.dumps({"customer": customer}), port])
            assert answered.exit_code == 0, (answered.output, container.logs())
            assert 0.0 <= json.loads(answered.output)["risk"] <= 1.0
            kept = container.exec_run(["find", CACHE, "-name", "manifest.json"]).output.decode().split()
            assert kept == [f"{CACHE}/stores/bucket/retain/{release.relative_to(tmp_path / 'store')}/manifest.json"]
        finally:
            container.remove(force=True)
            cache.remove()


def test_a_service_without_a_release_says_which_setting_names_one(engine: DockerClient) -> None:
    container = engine.containers.run(
        built("serve"), detach=True, labels=LABEL, environment={"RELEASE_PATH": "/release"}, network_mode="none"
    )
    try:
        assert container.wait(timeout=60)["StatusCode"] == 2
        (line,) = container.logs().decode().splitlines()
        assert "RELEASE_PATH=/release: is no folder" in line
    finally:
        container.remove(force=True)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """An address at which Debian's docker-registry listens; skips the test where that isn't installed."""
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("docker-registry isn't installed (Debian's package of that name)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    settings = tmp_path / "registry.yml"
    settings.write_text(
        f"version: 0.1\nhttp: {{addr: {address}}}\nstorage: {{filesystem: {{rootdirectory: {tmp_path}}}}}\n",
        encoding="utf-8",
    )
    server = subprocess.Popen([program, "serve", str(settings)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(address)
        yield address
    finally:
        server.terminate()
        server.wait(timeout=30)


def _wait_for(address: str) -> None:
    host, port = address.split(":")
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    pytest.fail(f"no registry listens at {address}")


@pytest.mark.slow
def test_a_pushed_image_is_pulled_by_its_digest_and_run(engine: DockerClient, registry: str, tmp_path: Path) -> None:
    built("serve")  # whose layers of libraries the one of another tree has too
    checkout = copy(tmp_path / "checkout")
    append(checkout / "serve/__init__.py", f"\nPUSHED = {registry!r}\n")
    reference = read_context(checkout, IMAGES["serve"], "cpu").reference
    pinned = build(checkout, ["serve"], registry=registry, say=lambda line: None)["serve"]
    assert pinned.startswith(f"{registry}/retain/serve@sha256:")
    for name in (reference, f"{registry}/{reference}"):
        engine.images.remove(name)
    for name in (reference, pinned):
        with pytest.raises(ImageNotFound):
            engine.images.get(name)
    assert references(checkout, ["serve"]) == {"serve": pinned}
    try:
        engine.images.pull(pinned)
        assert run(engine, pinned, "python", "-c", "import serve; print(serve.PUSHED)").strip() == registry
    finally:
        engine.images.remove(pinned)
