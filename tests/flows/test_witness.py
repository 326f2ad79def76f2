"""The witness with an engine and an API that are played: what it does about each container, and what it waits for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from docker.errors import NotFound
from prefect.client.schemas.objects import State, StateType
from prefect.exceptions import ObjectNotFound

from engine.errors import RetainError, StoreUnavailable
from engine.store import FolderStore, Store
from flows import ends, witness
from flows.prefect_api import AT_ONCE_S
from flows.witness import (
    CANCELLED_S,
    CARE_S,
    CRASHED_LATELY_S,
    FLOW_RUN_LABEL,
    KEEP_S,
    OUTLIVED_S,
    PENDING_S,
    RETRY_S,
    RETURN_S,
    Witness,
)

NOW = datetime(2026, 11, 30, 8, 0, 0, tzinfo=UTC).timestamp()


@dataclass
class Engine:
    """Containers of the pool, by their id. `label`: what is asked for."""

    label: str = "docker"
    listed: dict[str, dict[str, Any]] = field(default_factory=dict)
    inspected: dict[str, dict[str, Any]] = field(default_factory=dict)
    killed: list[str] = field(default_factory=list)

    def start(self, name: str, flow_run: UUID, state: str = "running", created: float = NOW) -> str:
        container = name * 64
        labels = {FLOW_RUN_LABEL: str(flow_run), "retain.pool": self.label}
        self.listed[container] = {"Id": container, "State": state, "Labels": labels, "Created": int(created)}
        return container

    def end(self, container: str, *, seconds: float = 2.5, at: float = NOW, code: int = 137, oom: bool = False) -> None:
        self.listed[container]["State"] = "exited"
        times = [f"{datetime.fromtimestamp(each, UTC):%Y-%m-%dT%H:%M:%S.%f}789Z" for each in (at - seconds, at)]
        self.inspected[container] = {
            "Id": container,
            "Config": {"Image": "toy:1", "Labels": self.listed[container]["Labels"]},
            "State": {"StartedAt": times[0], "FinishedAt": times[1], "ExitCode": code, "OOMKilled": oom},
        }

    def containers(self, *, all: bool, filters: Mapping[str, Any]) -> list[dict[str, Any]]:
        assert all
        assert filters == {"label": [f"retain.pool={self.label}", FLOW_RUN_LABEL]}
        return list(self.listed.values())

    def inspect_container(self, container: str) -> dict[str, Any]:
        if container not in self.inspected:
            raise NotFound("no such container")
        return self.inspected[container]

    def info(self) -> dict[str, Any]:
        return {"Name": "machine"}

    def kill(self, container: str) -> None:
        self.killed.append(container)

    def remove_container(self, container: str, *, force: bool) -> None:
        assert not force
        del self.listed[container]


@dataclass
class Api:
    pool: str = "docker"  # what is asked for; all flow runs here are its own
    states: dict[UUID, State[Any]] = field(default_factory=dict)
    parents: dict[UUID, UUID] = field(default_factory=dict)  # flow run of a stage -> that of its run
    infrastructure: str | None = "machine:c0ffee"
    runs: list[UUID] = field(default_factory=list)  # the others are stages
    earlier: list[State[Any]] = field(default_factory=list)  # states of every flow run
    run_count: int = 1
    reachable: bool = True
    proposed: list[tuple[UUID, State[Any]]] = field(default_factory=list)

    def run(self, state: StateType = StateType.RUNNING, *, since: float = NOW - 10) -> UUID:
        flow_run = uuid4()
        self.set(flow_run, state, since=since)
        return flow_run

    def set(self, flow_run: UUID, state: StateType, *, since: float = NOW - 10) -> None:
        self.states[flow_run] = State(type=state, timestamp=datetime.fromtimestamp(since, UTC))

    def read_flow_run(self, flow_run: UUID) -> Any:
        self._reach()
        if flow_run not in self.states:
            raise ObjectNotFound(LookupError())
        return SimpleNamespace(id=flow_run, state=self.states[flow_run])

    def read_flow_run_states(self, flow_run: UUID) -> list[State[Any]]:
        return [*self.earlier, self.states[flow_run]]

    def read_flow_runs(
        self, *, flow_run_filter: Any, work_pool_filter: Any = None, flow_filter: Any = None
    ) -> list[Any]:
        self._reach()
        if flow_filter is not None:
            assert flow_filter.name.any_ == ["train", "retrain"]
            assert work_pool_filter.name.any_ == [self.pool]
            return [each for each in self._crashed() if each.end_time > flow_run_filter.end_time.after_]
        if flow_run_filter.parent_flow_run_id is not None:
            (parent,) = flow_run_filter.parent_flow_run_id.any_
            wanted = [child for child, above in self.parents.items() if above == parent]
        elif flow_run_filter.id is None:
            assert work_pool_filter.name.any_ == [self.pool]
            wanted = [each for each, state in self.states.items() if state.type in flow_run_filter.state.type.any_]
        else:
            wanted = flow_run_filter.id.any_
        return [
            SimpleNamespace(id=each, state=self.states[each], infrastructure_pid=self.infrastructure)
            for each in wanted
            if each in self.states
        ]

    def _crashed(self) -> list[Any]:
        return [
            SimpleNamespace(id=each, state=state, end_time=state.timestamp, run_count=self.run_count)
            for each, state in self.states.items()
            if state.is_crashed() and each in self.runs
        ]

    def set_flow_run_state(self, flow_run: UUID, state: State[Any]) -> None:
        self._reach()
        self.proposed.append((flow_run, state))

    def _reach(self) -> None:
        if not self.reachable:
            raise httpx.ConnectError("all connection attempts failed")


class Scene:
    def __init__(self, root: Path, pool: str = "docker", label: str = "") -> None:
        self.engine, self.api, self.now = Engine(label or pool), Api(pool), NOW
        self.pool, self.label = pool, label
        self.store: Store | None = FolderStore(root)
        self.said: list[str] = []
        self.witness = self.begin()

    def begin(self) -> Witness:
        """A witness that remembers nothing."""
        api: Any = self.api
        return Witness(
            self.engine, api, self._open, self.pool, self.label, clock=lambda: self.now, say=self.said.append
        )

    def _open(self) -> Store:
        if self.store is None:
            raise RetainError("/store: can't be written (Input/output error)")
        return self.store

    def write_end(self, flow_run: UUID, container: str) -> None:
        """As the witness of the machine that the container was on does."""
        assert self.store is not None
        end = {"image": "toy:1", "host": "other", "started_at": NOW - 9, "finished_at": NOW, "exit_code": 75}
        ends.write(self.store, ends.End(flow_run=flow_run, container=container, oom_killed=False, **end))

    def look(self, after: float = 0.0) -> None:
        self.now += after
        self.witness.look()

    @property
    def proposed(self) -> list[str | None]:
        return [state.name for _, state in self.api.proposed]


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_an_end_is_written_told_and_logged_once(scene: Scene) -> None:
    flow_run = scene.api.run()
    container = scene.engine.start("a", flow_run)
    scene.look()
    assert scene.said == []
    scene.engine.end(container, seconds=2.5, oom=True)
    scene.look(0.5)
    scene.look(0.5)
    assert scene.store is not None
    end = ends.read(scene.store, flow_run)
    assert end is not None
    assert end.model_dump() == {
        "flow_run": flow_run,
        "container": container,
        "image": "toy:1",
        "host": "machine",
        "started_at": pytest.approx(NOW - 2.5, abs=1e-3),
        "finished_at": pytest.approx(NOW, abs=1e-3),
        "exit_code": 137,
        "oom_killed": True,
    }
    lines = [
        f"flow run {flow_run}: container {'a' * 12} of toy:1 ended after 2.5 s, exit code 137, out of memory",
        f"flow run {flow_run}: proposed Crashed",
    ]
    assert scene.said == lines
    assert scene.proposed == ["Crashed"]
    scene.api.set(flow_run, StateType.CRASHED)
    scene.witness = scene.begin()  # as if it had been restarted
    scene.look(0.5)
    assert scene.said == lines
    assert scene.proposed == ["Crashed"]


@pytest.mark.parametrize(
    ("state", "since", "proposed"),
    [
        (StateType.RUNNING, NOW - 1, ["Crashed"]),
        (StateType.PENDING, NOW - 1, ["Crashed"]),
        (StateType.CANCELLING, NOW - 1, ["Cancelled"]),
        (StateType.RUNNING, NOW + 0.1, []),  # by a newer container
        (StateType.PENDING, NOW + 0.1, []),  # for a newer container
        (StateType.SCHEDULED, NOW - 1, []),  # is tried again
        (StateType.PAUSED, NOW - 1, []),
        (StateType.COMPLETED, NOW - 1, []),
        (StateType.FAILED, NOW - 1, []),
        (StateType.CRASHED, NOW - 1, []),
        (StateType.CANCELLED, NOW - 1, []),
    ],
)
def test_what_is_proposed(scene: Scene, state: StateType, since: float, proposed: list[str]) -> None:
    scene.engine.end(scene.engine.start("a", scene.api.run(state, since=since)))
    scene.look()
    assert scene.proposed == proposed
    scene.look(KEEP_S)
    assert scene.engine.listed == {}


def test_containers_of_flow_runs_of_another_server_are_left_alone(scene: Scene) -> None:
    ended, running = scene.engine.start("a", uuid4()), scene.engine.start("b", uuid4())
    scene.engine.end(ended)
    assert outlive(scene) == []
    assert scene.engine.listed.keys() == {ended, running}
    assert scene.proposed == []


def test_an_ended_container_stays_until_the_worker_has_read_its_last_lines(scene: Scene) -> None:
    scene.engine.end(scene.engine.start("a", scene.api.run()))
    scene.look()
    scene.look(KEEP_S - 0.1)
    assert scene.engine.listed
    scene.look(0.2)
    assert scene.engine.listed == {}


def test_without_a_store_the_container_stays_and_its_flow_run_is_told(scene: Scene) -> None:
    flow_run = scene.api.run()
    store, scene.store = scene.store, None
    scene.engine.end(scene.engine.start("a", flow_run))
    for _ in range(100):
        try:
            scene.look(1.0)
        except RetainError:
            assert scene.engine.listed
    assert scene.proposed == ["Crashed"]
    scene.store = store
    for _ in range(10):
        scene.look(1.0)
    assert store is not None
    end = ends.read(store, flow_run)
    assert end is not None
    assert end.finished_at == pytest.approx(NOW, abs=1e-3)  # the engine's, not that of the looking
    assert scene.engine.listed == {}


def test_without_a_server_the_end_is_written_and_the_container_stays(scene: Scene) -> None:
    flow_run = scene.api.run()
    scene.engine.end(scene.engine.start("a", flow_run))
    scene.api.reachable = False
    for _ in range(100):
        try:
            scene.look(1.0)
        except httpx.HTTPError:
            assert scene.engine.listed
        assert scene.witness.is_behind
    assert scene.store is not None
    assert ends.read(scene.store, flow_run) is not None
    scene.api.reachable = True
    for _ in range(10):
        scene.look(1.0)
    assert not scene.witness.is_behind
    assert scene.proposed == ["Crashed"]
    assert scene.engine.listed == {}


def test_of_many_ends_one_that_fails_holds_up_no_other(scene: Scene) -> None:
    flow_runs = [scene.api.run() for _ in range(3)]
    for name, flow_run in zip("abc", flow_runs, strict=True):
        scene.engine.end(scene.engine.start(name, flow_run))
    assert scene.store is not None
    damaged = f"{ends.FOLDER}/{flow_runs[0]}/{'0' * 64}.json"
    scene.store.write(damaged, b"{}")
    with pytest.raises(RetainError, match="remove it"):
        scene.look()
    assert [ends.read(scene.store, each) is not None for each in flow_runs[1:]] == [True, True]
    assert scene.proposed == ["Crashed"] * 3


def test_a_store_that_is_away_is_asked_once_a_look_and_all_flow_runs_are_told(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bucket that can't be reached takes its time to say so."""
    asked: list[UUID] = []

    def away(store: Store, end: ends.End) -> None:
        asked.append(end.flow_run)
        raise StoreUnavailable("gs://bucket: can't be used now")

    monkeypatch.setattr(ends, "write", away)
    for name in "abc":
        scene.engine.end(scene.engine.start(name, scene.api.run()))
    with pytest.raises(StoreUnavailable):
        scene.look()
    assert (len(asked), scene.proposed) == (1, ["Crashed"] * 3)
    monkeypatch.undo()
    scene.look(RETRY_S)
    assert scene.store is not None
    assert len(list(scene.store.list(ends.FOLDER))) == 3


def outlive(scene: Scene) -> list[str]:
    """The containers that are killed within two minutes."""
    for _ in range(int(120 / CARE_S)):
        scene.look(CARE_S)
    return scene.engine.killed


@pytest.mark.parametrize("state", [StateType.COMPLETED, StateType.CRASHED, StateType.CANCELLED, StateType.CANCELLING])
@pytest.mark.parametrize("container_is", ["running", "paused"])
def test_a_container_that_outlives_its_flow_run_is_killed(scene: Scene, state: StateType, container_is: str) -> None:
    flow_run = scene.api.run(state)
    container = scene.engine.start("a", flow_run, state=container_is)
    scene.look()
    scene.look(OUTLIVED_S - 1)
    assert scene.engine.killed == []
    scene.look(CARE_S)
    assert scene.engine.killed == [container]
    assert scene.said == [f"flow run {flow_run} is {state.name.capitalize()}; killing container {'a' * 12}"]


@pytest.mark.parametrize("state", [StateType.RUNNING, StateType.PENDING, StateType.SCHEDULED, StateType.PAUSED])
def test_one_whose_flow_run_goes_on_is_left_alone(scene: Scene, state: StateType) -> None:
    scene.engine.start("a", scene.api.run(state))
    assert outlive(scene) == []


def test_one_whose_flow_run_is_tried_again_within_a_minute_is_left_alone(scene: Scene) -> None:
    flow_run = scene.api.run(StateType.CRASHED)
    container = scene.engine.start("a", flow_run)
    scene.look()
    scene.look(OUTLIVED_S - 1)
    scene.api.set(flow_run, StateType.SCHEDULED)
    scene.look(CARE_S)
    scene.api.set(flow_run, StateType.CRASHED)
    scene.look(CARE_S)
    scene.look(OUTLIVED_S - 1)
    assert scene.engine.killed == []
    assert container in outlive(scene)


def test_the_older_one_of_two_is_killed_at_once(scene: Scene) -> None:
    flow_run = scene.api.run()
    older = scene.engine.start("a", flow_run, created=NOW - 100)
    scene.engine.start("b", flow_run, created=NOW - 1)
    scene.look()
    assert scene.engine.killed == [older]


def test_one_that_was_never_started_is_removed_with_its_flow_run(scene: Scene) -> None:
    flow_run = scene.api.run(StateType.PENDING)
    scene.engine.start("a", flow_run, state="created")
    scene.look()
    scene.look(2 * OUTLIVED_S)
    assert scene.engine.listed
    scene.api.set(flow_run, StateType.CRASHED)
    scene.look(CARE_S)
    scene.look(OUTLIVED_S)
    assert scene.engine.listed == {}
    assert scene.engine.killed == []


@pytest.mark.parametrize("container", ["", "created"])
@pytest.mark.parametrize(
    ("state", "infrastructure", "seconds", "proposed"),
    [
        (StateType.PENDING, None, PENDING_S, "Crashed"),
        (StateType.CANCELLING, "machine:c0ffee", CANCELLED_S, "Cancelled"),
        (StateType.CANCELLING, None, PENDING_S, "Cancelled"),  # its image may be on its way
    ],
)
def test_a_flow_run_that_nobody_carries_on_is_ended(
    scene: Scene, container: str, state: StateType, infrastructure: str | None, seconds: float, proposed: str
) -> None:
    """Its worker was killed before it had started the container, or it was cancelled while it had none."""
    scene.api.infrastructure = infrastructure
    flow_run = scene.api.run(state, since=NOW)
    if infrastructure is not None:
        scene.write_end(flow_run, infrastructure.rpartition(":")[2])
    if container:
        scene.engine.start("a", flow_run, state=container)
    scene.look(seconds - 1)
    assert (scene.proposed, len(scene.engine.listed)) == ([], bool(container))
    scene.look(CARE_S)
    assert (scene.proposed, scene.engine.listed) == ([proposed], {})


def test_one_that_is_cancelled_on_another_machine_may_save_its_checkpoint(scene: Scene) -> None:
    """Its end is told by the witness of that machine, unless the machine is gone."""
    flow_run, lost = (scene.api.run(StateType.CANCELLING, since=NOW) for _ in range(2))
    scene.look(CANCELLED_S + 1)
    scene.look(PENDING_S - CANCELLED_S - 2)
    assert scene.proposed == []
    scene.write_end(flow_run, "c0ffee")
    scene.write_end(lost, "an earlier one")
    scene.now -= CARE_S  # so that it is not yet given up
    scene.witness = scene.begin()
    scene.look()
    assert [(each, state.name) for each, state in scene.api.proposed] == [(flow_run, "Cancelled")]
    scene.api.set(flow_run, StateType.CANCELLED)
    scene.look(2 * CARE_S)
    assert [(each, state.name) for each, state in scene.api.proposed[1:]] == [(lost, "Cancelled")]


def test_a_store_that_is_away_ends_nobody_early(scene: Scene) -> None:
    flow_run = scene.api.run(StateType.CANCELLING, since=NOW)
    scene.write_end(flow_run, "c0ffee")
    store, scene.store = scene.store, None
    scene.look(CANCELLED_S + 1)
    assert scene.proposed == []
    scene.store = store
    scene.look(CARE_S)
    assert scene.proposed == ["Cancelled"]


@pytest.mark.parametrize(("pool", "label"), [("gpu-spot", ""), ("cpu-spot", "another platform's")])
def test_a_witness_looks_after_its_own_pool_alone(pool: str, label: str, tmp_path: Path) -> None:
    """The engine, and Prefect's server in each question, are asked for that pool, or they fail."""
    scene = Scene(tmp_path, pool, label)
    ended = scene.api.run()
    scene.engine.end(scene.engine.start("a", ended))
    stranded = scene.api.run(StateType.PENDING, since=NOW)
    crashed = scene.api.run(StateType.CRASHED, since=NOW + PENDING_S - RETURN_S - 1)
    scene.api.runs.append(crashed)
    vanished = scene.api.run(since=NOW - 86_400)  # at work, as far as Prefect knows; its run misses it by its claim
    scene.look(PENDING_S + 1)
    proposed = {each: state.name for each, state in scene.api.proposed}
    assert proposed == {ended: "Crashed", stranded: "Crashed", crashed: "AwaitingRetry"}
    assert vanished not in proposed


@pytest.mark.parametrize("ended", [False, True])
def test_the_stages_of_a_run_that_was_cancelled_without_a_container_are_cancelled(scene: Scene, ended: bool) -> None:
    """It can't ask them any more."""
    run = scene.api.run(StateType.CANCELLING, since=NOW)
    at_work, complete = scene.api.run(), scene.api.run(StateType.COMPLETED)
    other = scene.api.run()
    scene.write_end(run, "c0ffee")
    scene.api.parents = {at_work: run, complete: run, other: uuid4()}
    if ended:
        scene.engine.end(scene.engine.start("a", run), at=NOW + 1)
    scene.look(2.0 if ended else CANCELLED_S + 1)
    assert [(each, state.name) for each, state in scene.api.proposed] == [(at_work, "Cancelling"), (run, "Cancelled")]


@pytest.mark.parametrize(
    ("earlier", "run_count", "after", "returns"),
    [
        (None, 1, RETURN_S, True),
        (NOW - AT_ONCE_S - 1, 2, RETURN_S, True),
        (NOW - AT_ONCE_S + 1, 2, RETURN_S, False),  # it crashes at once, whoever starts it
        (None, 0, RETURN_S, False),  # it never began, for want of its image perhaps
        (None, 1, RETURN_S - 1, False),  # the automation sees to it
        (None, 1, CRASHED_LATELY_S + 1, False),
    ],
)
def test_a_run_that_crashed_goes_on_though_the_event_is_held_back(
    scene: Scene, earlier: float | None, run_count: int, after: float, returns: bool
) -> None:
    scene.api.runs.append(scene.api.run(StateType.CRASHED, since=NOW))
    scene.api.run_count = run_count
    if earlier is not None:
        scene.api.earlier = [State(type=StateType.CRASHED, timestamp=datetime.fromtimestamp(earlier, UTC))]
    scene.look(after)
    assert scene.proposed == (["AwaitingRetry"] if returns else [])


@pytest.mark.parametrize("state", [StateType.PENDING, StateType.CANCELLING])
def test_one_that_has_a_container_is_not_stranded(scene: Scene, state: StateType) -> None:
    scene.engine.start("a", scene.api.run(state, since=NOW))
    scene.look(PENDING_S + 1)
    assert scene.proposed == []


@pytest.mark.parametrize("state", [StateType.RUNNING, StateType.SCHEDULED, StateType.COMPLETED, StateType.PAUSED])
def test_one_that_waits_or_has_ended_is_not_stranded(scene: Scene, state: StateType) -> None:
    scene.api.run(state, since=NOW)
    scene.look(PENDING_S + 1)
    assert scene.proposed == []


def test_a_container_that_somebody_else_removed_is_forgotten(scene: Scene) -> None:
    container = scene.engine.start("a", scene.api.run())
    scene.engine.listed[container]["State"] = "exited"  # and gone before it can be inspected
    scene.look()
    del scene.engine.listed[container]
    scene.look(0.5)
    assert scene.said == []


def test_an_end_is_described_by_its_times_and_code() -> None:
    end = ends.End(
        flow_run=uuid4(),
        container="c" * 64,
        image="toy:1",
        host="machine",
        started_at=NOW,
        finished_at=NOW + 61.25,
        exit_code=0,
        oom_killed=False,
    )
    assert witness.described(end) == "container cccccccccccc of toy:1 ended after 61.2 s, exit code 0"
