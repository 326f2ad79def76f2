"""The witness with a real Docker engine: what it writes is what the engine says, however a container ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from docker import DockerClient
from docker.models.containers import Container
from prefect.client.schemas.objects import State, StateType
from prefect.states import Completed, Running

from engine.store import FolderStore
from flows import ends, witness
from flows.ends import End
from flows.witness import FLOW_RUN_LABEL, KEEP_S, OUTLIVED_S, Witness
from tests.containers import IMAGE, engine_or_skip

POOL = "test-witness"
Start = Callable[..., Container]


@pytest.fixture(scope="module")
def engine() -> Iterator[DockerClient]:
    yield from engine_or_skip()


@pytest.fixture
def start(engine: DockerClient) -> Iterator[Start]:
    """Starts a container of a flow run of its own."""
    started: list[Container] = []

    def start(*command: str, **arguments: Any) -> Container:
        labels = {"retain.pool": POOL, FLOW_RUN_LABEL: str(uuid4())}
        container = engine.containers.create(IMAGE, list(command), labels=labels, init=True, **arguments)
        started.append(container)
        container.start()
        return container

    yield start
    for container in started:
        if engine.containers.list(all=True, filters={"id": container.id}):
            container.remove(force=True)


class Api:
    """Every flow run is in `state`."""

    def __init__(self) -> None:
        self.state: State[Any] = Running()
        self.proposed: list[str | None] = []

    def read_flow_run(self, flow_run: object) -> Any:
        return SimpleNamespace(id=flow_run, state=self.state)

    def read_flow_runs(self, *, flow_run_filter: Any, **_: Any) -> list[Any]:
        return [self.read_flow_run(each) for each in flow_run_filter.id.any_] if flow_run_filter.id else []

    def set_flow_run_state(self, flow_run: object, state: State[Any]) -> None:
        self.proposed.append(state.name)


class Scene:
    def __init__(self, engine: DockerClient, store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
        self.api, self.store, self.later, self.said = Api(), store, 0.0, list[str]()
        api: Any = self.api
        self.witness = Witness(
            engine.api, api, lambda: store, pool=POOL, clock=lambda: time.time() + self.later, say=self.said.append
        )

    def end_of(self, container: Container) -> End:
        """Looks until the witness has seen the end."""
        flow_run = witness.flow_run_of({"Labels": container.labels})
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            self.witness.look()
            end = ends.read(self.store, flow_run)
            if end is not None:
                return end
            time.sleep(0.05)
        raise AssertionError("the witness saw no end")


@pytest.fixture
def scene(engine: DockerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(engine, FolderStore(tmp_path), monkeypatch)


def test_the_times_are_the_engine_s_own(scene: Scene, start: Start) -> None:
    container = start("sleep", "1")
    end = scene.end_of(container)
    container.reload()
    state = container.attrs["State"]
    times = [datetime.fromisoformat(state[name]).timestamp() for name in ("StartedAt", "FinishedAt")]
    assert [end.started_at, end.finished_at] == times
    assert 1.0 <= end.seconds < 5.0
    assert (end.exit_code, end.oom_killed, end.image, end.container) == (0, False, IMAGE, container.id)
    assert scene.api.proposed == ["Crashed"]  # its flow run says Running, and nobody is left to change that
    scene.later = KEEP_S
    scene.witness.look()
    assert container.id not in {each["Id"] for each in scene.witness.engine.containers(all=True, filters={})}


def test_a_kill_is_seen(scene: Scene, start: Start) -> None:
    container = start("sleep", "60")
    scene.witness.look()
    container.kill()
    end = scene.end_of(container)
    assert (end.exit_code, end.oom_killed) == (137, False)
    assert scene.said[0].endswith("exit code 137")


def test_running_out_of_memory_is_seen(scene: Scene, start: Start) -> None:
    container = start("python3", "-c", "x = bytearray(200_000_000)", mem_limit="32m", memswap_limit="32m")
    end = scene.end_of(container)
    if end.exit_code == 0:
        pytest.skip("this engine limits no memory")
    assert (end.exit_code, end.oom_killed) == (137, True)
    assert scene.said[0].endswith("exit code 137, out of memory")


@pytest.mark.parametrize("paused", [False, True])
def test_one_that_outlives_its_flow_run_is_ended(paused: bool, scene: Scene, start: Start) -> None:
    """Also one that was paused until its flow run was given up, which no other signal would end."""
    container = start("sleep", "60")
    if paused:
        container.pause()
    scene.api.state = Completed()
    scene.witness.look()
    scene.later = OUTLIVED_S + 1
    scene.witness.look()
    scene.later = 0.0
    assert scene.end_of(container).exit_code == 137


def test_a_container_that_was_never_started_leaves_with_its_flow_run(
    scene: Scene, engine: DockerClient, start: Start
) -> None:
    labels = {"retain.pool": POOL, FLOW_RUN_LABEL: str(uuid4())}
    container = engine.containers.create(IMAGE, ["true"], labels=labels)
    scene.api.state = State(type=StateType.CRASHED)
    scene.witness.look()
    scene.later = OUTLIVED_S + 1
    scene.witness.look()
    assert engine.containers.list(all=True, filters={"id": container.id}) == []
