"""Runs in real containers, for tests that kill them.

Prefect's server, the worker and the witness are processes of this machine here, with a work pool of their own, so that
they leave a platform alone that somebody has started with `make up`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import docker
import httpx
import pytest
from docker import DockerClient
from docker.errors import APIError, NotFound
from docker.models.containers import Container

from engine import ledger, records
from engine.environment import SECRETS
from engine.fingerprint import ROOT
from engine.store import FolderStore
from flows import deploy
from flows.deploy import Given
from flows.mounts import Place

FLOW_RUN = "io.prefect.flow-run-id"
READY_S = 120.0
DATABASE_PASSWORD = f"secret-{uuid.uuid4().hex}"
COMPARED = 0.9  # at least this share of the containers that were seen to end is compared with the ledger
SMALL = 200_000  # bytes of a file that says what happened; models are larger
FINAL = ("COMPLETED", "FAILED", "CANCELLED")
SERVICES = {
    "server": ["-m", "prefect", "server", "start", "--host", "0.0.0.0"],
    "worker": ["-m", "prefect", "worker", "start", "--pool", "docker", "--type", "docker", "--install-policy", "never"],
    "witness": ["-m", "flows.witness"],
}


@dataclass
class Platform:
    """`pool` marks the containers of this platform; `images`: name -> reference; `store`, `data`: folders here.
    `bucket`: where the store is one, instead of that folder."""

    folder: Path
    store: Path
    data: Path
    images: dict[str, str]
    engine: DockerClient
    user: str = field(default_factory=lambda: f"{os.getuid()}:{os.getgid()}")
    database: Container | None = None  # PostgreSQL; without one the server keeps its own file
    bucket: Place | None = None
    pool: str = field(default_factory=lambda: f"test-{uuid.uuid4().hex[:8]}")
    port: int = field(default_factory=lambda: free_port())
    seen: dict[str, dict[str, Any]] = field(default_factory=dict)  # container -> what the engine says of its end
    environments: dict[str, list[str]] = field(default_factory=dict)  # container -> NAME=value of what it was given
    services: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=lambda: made_up_secrets())
    _done: threading.Event = field(default_factory=threading.Event)

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    @property
    def login(self) -> tuple[str, str]:
        name, _, password = self.secrets["PREFECT_API_AUTH_STRING"].partition(":")
        return name, password

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "RETAIN_"))}
        return kept | {
            "PREFECT_HOME": str(self.folder / "prefect"),
            "PREFECT_API_URL": self.api,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "RETAIN_STORE": str(self.store),
            **(self.bucket.environment if self.bucket is not None else {}),
            **self.secrets,
        }

    @property
    def variables(self) -> dict[str, Any]:
        """What prefect.yaml names."""
        images = {"tabular": self.images["tabular"], "gpu": self.images.get("gpu", self.images["tabular"])}
        store = self.bucket or Place(str(self.store), self.store)
        given = Given(store, str(self.data), named=True, access=store.access)
        return deploy.variables(images, given) | {"RETAIN_USER": self.user}

    def _database(self) -> dict[str, str]:
        if self.database is None:
            return {}
        self.database.reload()
        port = self.database.attrs["NetworkSettings"]["Ports"]["5432/tcp"][0]["HostPort"]
        address = f"postgresql+asyncpg://prefect:{DATABASE_PASSWORD}@127.0.0.1:{port}/prefect"
        return {"PREFECT_API_DATABASE_CONNECTION_URL": address}

    # -- services

    def start(self, name: str) -> None:
        more = {
            "server": ["--port", str(self.port)],
            "worker": ["--name", self.pool],
            "witness": ["docker", self.pool],
        }[name]
        # As infra/compose.yaml has it, only the server knows the database.
        environment = self.environment | (self._database() if name == "server" else {})
        with (self.folder / f"{name}.log").open("ab") as log:
            self.services[name] = subprocess.Popen(
                [sys.executable, *SERVICES[name], *more],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=ROOT,
                env=environment,
                start_new_session=True,
            )

    def kill(self, name: str) -> None:
        """SIGKILL to a service and its children."""
        process = self.services.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def begin(self) -> None:
        """Starts everything and registers the deployments."""
        self.start("server")
        wait_for(self._healthy, READY_S, "Prefect's server is up")
        template = json.loads((ROOT / "infra" / "pools" / "docker.json").read_text(encoding="utf-8"))
        template["job_configuration"]["labels"] = {"retain.pool": self.pool}
        template["variables"]["properties"]["networks"]["default"] = []
        pool = {"name": "docker", "type": "docker", "base_job_template": template}
        self.ask("POST", "/work_pools/", json=pool)
        described = "import json, sys; from flows.deploy import *; register(json.loads(sys.argv[1]), {POOL}, {})"
        automated = "from flows.automations import register; register()"
        for command in (["-c", described, json.dumps(self.variables)], ["-c", automated]):
            subprocess.run(
                [sys.executable, *command], cwd=ROOT, env=self.environment, check=True, stdout=subprocess.DEVNULL
            )
        self.start("worker")
        self.start("witness")
        threading.Thread(target=self._see_ends, daemon=True).start()

    def end(self) -> None:
        self._done.set()
        for name in ("worker", "witness", "server"):
            if name in self.services:
                self.kill(name)
        for container in self.containers(all=True):
            container.remove(force=True)

    def _healthy(self) -> bool:
        try:
            return httpx.get(f"{self.api}/health", timeout=2, trust_env=False).is_success
        except httpx.HTTPError:
            return False

    # -- runs

    def ask(self, method: str, path: str, **more: Any) -> Any:
        """The server's answer; a server that is being restarted is asked again."""
        deadline = time.monotonic() + READY_S
        while True:
            try:
                answer = httpx.request(
                    method, f"{self.api}{path}", auth=self.login, timeout=30, trust_env=False, **more
                )
                answer.raise_for_status()
                return answer.json() if answer.content else None
            except (httpx.TransportError, httpx.HTTPStatusError) as error:
                if isinstance(error, httpx.HTTPStatusError) and error.response.status_code < 500:
                    raise AssertionError(f"{method} {path}: {error.response.text}") from None
                if time.monotonic() > deadline:
                    raise
                time.sleep(1)

    def run(self, deployment: str = "train/chaos", **parameters: Any) -> str:
        """Starts a run, as `prefect deployment run` does, and returns the flow run's id."""
        described = self.ask("GET", f"/deployments/name/{deployment}")
        body = {"parameters": described["parameters"] | parameters, "state": {"type": "SCHEDULED"}}
        return str(self.ask("POST", f"/deployments/{described['id']}/create_flow_run", json=body)["id"])

    def flow_run(self, flow_run: str) -> dict[str, Any]:
        answer: dict[str, Any] = self.ask("GET", f"/flow_runs/{flow_run}")
        return answer

    def attempts(self, flow_run: str) -> list[dict[str, Any]]:
        """The flow runs of the stages' attempts that this run has started."""
        chosen = {"flow_runs": {"parent_flow_run_id": {"any_": [flow_run]}}}
        answer: list[dict[str, Any]] = self.ask("POST", "/flow_runs/filter", json=chosen)
        return answer

    def wait(self, flow_run: str, seconds: float) -> dict[str, Any]:
        """The run once it has ended. Crashed is no end: an automation schedules it again."""
        wait_for(lambda: self.flow_run(flow_run)["state_type"] in FINAL, seconds, f"{flow_run} has ended")
        return self.flow_run(flow_run)

    # -- containers

    def containers(self, all: bool = False, flow_run: str | None = None) -> list[Container]:
        labels = [f"retain.pool={self.pool}", f"{FLOW_RUN}={flow_run}" if flow_run else FLOW_RUN]
        found: list[Container] = self.engine.containers.list(all=all, filters={"label": labels}, ignore_removed=True)
        return found

    def container_of(self, attempt: str, seconds: float = 120.0) -> Container:
        """The running container of an attempt such as "risk-2", or of any at a stage, "risk-"."""

        def named() -> list[Container]:
            return [each for each in self.containers() if each.name.startswith(attempt)]

        wait_for(lambda: bool(named()), seconds, f"{attempt} runs")
        return named()[0]

    def _see_ends(self) -> None:
        """Asks the engine itself how containers end, before the witness removes them."""
        engine = docker.from_env()
        while not self._done.wait(0.5):
            try:
                for each in engine.containers.list(
                    all=True, filters={"label": [f"retain.pool={self.pool}"], "status": "exited"}, ignore_removed=True
                ):
                    self.seen[each.id] = {"flow_run": each.labels[FLOW_RUN], **each.attrs["State"]}
                    self.environments[each.id] = each.attrs["Config"]["Env"]
            except (APIError, NotFound):
                continue


def made_up_secrets() -> dict[str, str]:
    """Every name on the list of secrets, with a value that is found nowhere else; server and database demand theirs."""
    values = {name: f"secret-{uuid.uuid4().hex}" for name in SECRETS}
    login = f"operator:{values['PREFECT_API_AUTH_STRING']}"
    demanded = {"PREFECT_API_AUTH_STRING": login, "PREFECT_SERVER_API_AUTH_STRING": login}
    return values | demanded | {"POSTGRES_PASSWORD": DATABASE_PASSWORD}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def wait_for(done: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.3)


@contextmanager
def postgres(engine: DockerClient) -> Iterator[Container]:
    """PostgreSQL in a container, as infra/compose.build.yaml builds it."""
    image, _ = engine.images.build(path=str(ROOT / "infra" / "postgres"), rm=True)
    container = engine.containers.run(
        image.id,
        environment={"POSTGRES_USER": "prefect", "POSTGRES_DB": "prefect", "POSTGRES_PASSWORD": DATABASE_PASSWORD},
        ports={"5432/tcp": ("127.0.0.1", free_port())},
        detach=True,
    )
    try:
        ready = "pg_isready --quiet --host=127.0.0.1 --username=prefect"
        wait_for(lambda: container.exec_run(ready).exit_code == 0, READY_S, "PostgreSQL is up")
        yield container
    finally:
        container.remove(force=True, v=True)


@contextmanager
def platform_at(
    folder: Path,
    data: Path,
    images: dict[str, str],
    engine: DockerClient,
    database: Container | None = None,
    user: int | None = None,
    bucket: Place | None = None,
) -> Iterator[Platform]:
    """`user`: the uid that containers run as; they own the store then. That of the caller unless it is given."""
    store = folder / "store"
    store.mkdir(parents=True, exist_ok=True)
    platform = Platform(
        folder=folder, store=store, data=data, images=images, engine=engine, database=database, bucket=bucket
    )
    if user is not None:
        os.chown(store, user, user)
        platform.user = f"{user}:{user}"
    try:
        platform.begin()
        yield platform
    finally:
        platform.end()


def seconds_of(state: dict[str, Any]) -> float:
    """How long a container ran, by `docker inspect`."""
    started, finished = (datetime.fromisoformat(state[name]).timestamp() for name in ("StartedAt", "FinishedAt"))
    return finished - started


def evidence_kept(platform: Platform, request: pytest.FixtureRequest) -> Iterator[None]:
    """Around a test: if it fails, copies what tells why into a folder that outlives the platform, and names that."""
    failed_before = request.session.testsfailed
    yield
    if request.session.testsfailed == failed_before:
        return
    folder = Path(tempfile.mkdtemp(prefix="retain-failed-"))
    for log in platform.folder.glob("*.log"):
        shutil.copy(log, folder)
    for path in platform.store.rglob("*"):  # ledger, records, logs of attempts, ends of containers
        with suppress(OSError):  # removed at this moment
            if path.is_file() and path.stat().st_size < SMALL:
                copy = folder / path.relative_to(platform.folder)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
    terminal = request.config.get_terminal_writer()
    terminal.line()
    terminal.line(f"logs of server, worker and witness, and the store's ledger, records and ends: {folder}")


def check_money(platform: Platform, scope: str = "chaos") -> int:
    """Every attempt is settled; where its end was seen, by the time that the engine says its container ran. Returns how
    many were compared, which are nearly all whose record is in the store and whose container was seen to end."""
    store = FolderStore(platform.store)
    ran: dict[str, float] = {}
    for state in platform.seen.values():
        ran[state["flow_run"]] = ran.get(state["flow_run"], 0.0) + seconds_of(state)
    compared, seen = 0, 0
    for entry in ledger.entries(store, scope):
        assert entry.state == "settled", entry.attempt_id
        prefix, _, number = entry.attempt_id.rpartition("/")
        named = store.read(records.key(prefix, int(number), "flow-run"))
        seconds = ran.get(named[0].decode().strip()) if named else None
        if seconds is None:
            continue
        seen += 1
        if not entry.estimated:
            assert abs(seconds - entry.seconds) <= 1.0, (entry.attempt_id, seconds, entry)
            compared += 1
    assert compared >= COMPARED * seen, (compared, seen)
    return compared


def sealed_step(platform: Platform, stage: str, experiment: str = "chaos") -> int:
    """The step of the newest checkpoint of the stage that is complete, or 0."""
    seals = (platform.store / experiment / stage).glob("*/checkpoints/*/complete.json")
    return max((int(seal.parent.name.partition("-")[0]) for seal in seals), default=0)


def first_step(platform: Platform, stage: str, experiment: str = "chaos") -> int:
    """The step that the stage's newest attempt reported first."""
    reported = sorted((platform.store / experiment / stage).glob("*/execution/*.progress.jsonl"), key=lambda p: p.name)
    step: int = json.loads(reported[-1].read_text(encoding="utf-8").splitlines()[0])["step"]
    return step


def digests(store: Path, experiment: str = "chaos") -> dict[str, str]:
    """stage -> the bytes of its current artifact's manifest, which lists the hashes of its files."""
    current = json.loads((store / experiment / "current.json").read_text(encoding="utf-8"))
    fingerprints: dict[str, str] = current.get("stages", current)
    return {
        stage: (store / experiment / stage / fingerprint / "manifest.json").read_text(encoding="utf-8")
        for stage, fingerprint in fingerprints.items()
    }
