"""The platform with real containers: whatever is killed, the end of a flow run is known, and nothing is left."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from uuid import UUID

import pytest
from docker.models.containers import Container
from prefect.client.schemas.objects import State
from prefect.states import Cancelled, Cancelling, Crashed

from flows import automations, compose, ends, platform
from flows.ends import End
from tests.platform import Platform, running_platform

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with (
        pytest.MonkeyPatch.context() as monkeypatch,
        running_platform(tmp_path_factory.mktemp("store"), monkeypatch) as it,
    ):
        yield it


@pytest.fixture(scope="module")
def stage(up: Platform) -> UUID:
    return up.deploy_toy("stage")


@pytest.fixture(scope="module")
def train(up: Platform) -> UUID:
    return up.deploy_toy("train")


def kill(container: Container) -> None:
    """SIGKILL of its first process, which the engine didn't send: it starts such a service again."""
    container.reload()
    os.kill(container.attrs["State"]["Pid"], signal.SIGKILL)


def end_of(up: Platform, flow_run: UUID) -> End:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        end = ends.read(up.store, flow_run)
        if end is not None:
            return end
        time.sleep(0.1)
    raise AssertionError("the witness saw no end")


def test_up_again_starts_nothing_anew(up: Platform) -> None:
    before = {name: up.service(name).id for name in ("postgres", "server", "worker", "witness")}
    said: list[str] = []
    platform.up(said.append)
    assert {name: up.service(name).id for name in before} == before
    assert said[-1] == "Prefect is at http://127.0.0.1:4200"
    assert up.api.read_work_pool(platform.POOL).base_job_template["job_configuration"]["labels"] == {
        "retain.pool": "docker"
    }


@pytest.mark.parametrize("with_it", [[], ["worker"], ["witness"]], ids=["alone", "with-worker", "with-witness"])
def test_a_killed_container_is_known(up: Platform, stage: UUID, with_it: list[str]) -> None:
    flow_run, container = up.running(stage, seconds=600)
    for name in with_it:
        kill(up.service(name))
    kill(container)
    container.wait()
    container.reload()
    state, seen = container.attrs["State"], up.wait(flow_run, State.is_final)
    assert seen.name == "Crashed"
    end = end_of(up, flow_run)
    assert (end.exit_code, end.container) == (137, container.id)
    times = [datetime.fromisoformat(state[name]).timestamp() for name in ("StartedAt", "FinishedAt")]
    assert [end.started_at, end.finished_at] == times
    for name in with_it:  # their policy starts them again
        compose.wait_until_healthy(up.engine, platform.PROJECT, name, print)


def test_a_run_goes_on_through_restarts_of_server_and_database(up: Platform, stage: UUID) -> None:
    flow_run, _ = up.running(stage, seconds=60)
    for name in ("server", "postgres"):
        up.service(name).restart(timeout=5)
        compose.wait_until_healthy(up.engine, platform.PROJECT, name, print)
    assert up.wait(flow_run, State.is_final).name == "Completed"
    assert end_of(up, flow_run).exit_code == 0


def test_where_nobody_is_left_to_tell_the_heartbeat_does(up: Platform, stage: UUID) -> None:
    flow_run, container = up.running(stage, seconds=600)
    for name in ("worker", "witness"):
        up.service(name).kill()  # by the engine, which doesn't start them again then
    kill(container)
    assert up.wait(flow_run, State.is_final).message == f"No sign of life for {automations.SILENT_S} s."
    for name in ("worker", "witness"):
        up.service(name).start()
    assert end_of(up, flow_run).exit_code == 137  # by the engine's own times, though it was seen so late


@pytest.fixture
def all_is_at_once(up: Platform, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever crashes a second time within five minutes has done so at once; a busy machine needs a while for it."""
    patient = automations.RETURN.model_copy(deep=True)
    patient.trigger.within = timedelta(minutes=5)
    with monkeypatch.context() as patched:
        patched.setattr(automations, "AUTOMATIONS", [patient])
        automations.register()
    yield
    automations.register()


@pytest.mark.usefixtures("all_is_at_once")
def test_a_crashed_run_goes_on_but_not_when_it_crashes_at_once_again(up: Platform, train: UUID) -> None:
    flow_run, first = up.running(train, seconds=600)
    kill(first)
    up.wait(flow_run, lambda state: state.is_running() and up.api.read_flow_run(flow_run).run_count == 2)
    second = up.containers(flow_run)[0]
    assert second.id != first.id
    kill(second)
    up.wait(flow_run, State.is_crashed)
    time.sleep(10)
    state = up.state(flow_run)
    assert state is not None
    assert state.is_crashed()
    assert len(list(up.store.list(f"{ends.FOLDER}/{flow_run}"))) == 2
    up.api.set_flow_run_state(flow_run, Cancelled(), force=True)  # on a busy machine it did not crash at once


def test_a_run_that_never_began_is_not_started_again(up: Platform) -> None:
    deployment = up.deploy_toy("train", image="retain/missing:0")
    flow_run = up.run(deployment, seconds=1)
    up.wait(flow_run, State.is_crashed)
    time.sleep(10)
    state = up.state(flow_run)
    assert state is not None
    assert state.is_crashed()


def test_what_outlives_its_flow_run_is_ended(up: Platform, stage: UUID) -> None:
    """One that does not heed its cancellation, and one that was paused until it was given up."""
    deaf, _ = up.running(stage, seconds=600)
    up.api.set_flow_run_state(deaf, Cancelling())
    paused, container = up.running(stage, seconds=600)
    container.pause()
    up.api.set_flow_run_state(paused, Crashed())
    assert up.wait(deaf, State.is_final).name == "Cancelled"
    for flow_run in (deaf, paused):
        deadline = time.monotonic() + 120
        while ends.read(up.store, flow_run) is None and time.monotonic() < deadline:
            time.sleep(0.5)
        assert end_of(up, flow_run).exit_code == 137


def test_down_stops_what_is_at_work_and_the_next_up_carries_it_on(up: Platform, train: UUID) -> None:
    flow_run, container = up.running(train, seconds=600)
    said: list[str] = []
    platform.down(said.append)
    assert said[0].startswith("stopping 1 container")
    assert up.engine.containers.list(all=True, filters={"id": container.id}) == []
    end = ends.read(up.store, flow_run)
    assert end is not None
    assert end.exit_code == 143  # by SIGTERM
    assert platform.has_database(up.engine)
    platform.up(print)
    up.wait(flow_run, lambda state: state.is_running() and up.api.read_flow_run(flow_run).run_count == 2)
    up.api.set_flow_run_state(flow_run, Cancelled(), force=True)
    for each in up.containers(flow_run):
        each.kill()


def test_nothing_is_left(up: Platform) -> None:
    def left() -> list[Container]:
        return up.engine.containers.list(all=True, filters={"label": platform.POOL_FILTER, "network": platform.PROJECT})  # type: ignore[no-any-return]

    deadline = time.monotonic() + 60
    while left() and time.monotonic() < deadline:
        time.sleep(0.5)
    assert left() == []
