"""An attempt in a container, as the run sees it: who may say how it ended, and what it is charged."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from prefect.states import Cancelled, Completed, Crashed, Failed, Running

import flows.container
from engine import ledger, records
from engine.claim import acquire, take_away
from engine.errors import RetainError
from engine.process import Holder, this_process
from engine.records import AttemptRecord
from engine.stage import CLAIM, COMPLETE, FAILED, FENCED, OVERDUE, PREEMPTED, StageRequest
from engine.store import FolderStore
from flows import ends
from flows.attempt import LOST, open_number, run_attempt, settle_lost, unsettled
from flows.container import KILLED, Container
from flows.ends import End
from flows.launch import Launcher, NotStarted
from flows.plan import Plan
from flows.run import Run, StageEnded, carry_out
from flows.stage import state_after
from tests.flows.toy_plan import board_of, toy_plan, toy_stage

LOG = logging.getLogger("test")
RISK = toy_stage("risk")
PREFIX = "chaos/risk/f"
OWNER = "8f7c"


class Api:
    """What an attempt asks of Prefect's server: the state that it was given, or no answer."""

    def __init__(self) -> None:
        self.state: Any = Running()
        self.answers = True
        self.run_count = 1
        self.infrastructure: str | None = "machine:c0ffee"
        self.proposed: list[str] = []

    def read_flow_run(self, flow_run: UUID) -> Any:
        if not self.answers:
            raise httpx.ConnectError("refused")
        return SimpleNamespace(state=self.state, run_count=self.run_count, infrastructure_pid=self.infrastructure)

    def set_flow_run_state(self, flow_run: UUID, state: Any, force: bool = False) -> None:
        if not self.answers:
            raise httpx.ConnectError("refused")
        self.proposed.append(state.type.value)


def written(store: FolderStore, prefix: str = PREFIX, number: int = 1, **changes: Any) -> None:
    record = AttemptRecord(
        number=number,
        status="running",
        host="there",
        machine_type="e2-standard-4",
        usd_per_hour=0.1,
        commit="c",
        libraries={},
        started_at="2026-11-30T00:00:00+00:00",
        holder=this_process().model_copy(update={"machine": "another"}),
    )
    records.write(store, prefix, record.model_copy(update=changes))


def ended(store: FolderStore, flow_run: UUID, seconds: float = 12.5, **changes: Any) -> None:
    end = End(
        flow_run=flow_run,
        container="c0ffee",
        image="retain/tabular",
        host="there",
        started_at=100.0,
        finished_at=100.0 + seconds,
        exit_code=137,
        oom_killed=False,
    )
    ends.write(store, end.model_copy(update=changes))


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FolderStore:
    monkeypatch.setattr(flows.container, "LOOK_S", 0.0)
    monkeypatch.setattr(flows.container, "END_S", 0.3)
    monkeypatch.setattr(flows.container, "STOPPING_S", 0.3)
    return FolderStore(tmp_path)


def container(store: FolderStore, api: Api, heartbeat_s: float = 0.5, prefix: str = PREFIX) -> Container:
    return Container(uuid4(), store, prefix, 1, heartbeat_s, api)  # type: ignore[arg-type]


@pytest.mark.parametrize("code", [COMPLETE, PREEMPTED, FENCED, OVERDUE, FAILED])
def test_the_attempt_s_own_word_counts_whatever_prefect_says(store: FolderStore, code: int) -> None:
    api = Api()
    api.answers = False
    child = container(store, api)
    assert child.poll() is None
    written(store, status="complete", exit_code=code, seconds=3.0)
    assert child.poll() == code
    ended(store, child.flow_run)
    assert (child.end(), child.end_seen, child.seconds) == (code, True, 12.5)


@pytest.mark.parametrize(("oom", "message"), [(False, "exit code 137"), (True, "out of memory")])
def test_a_container_that_was_seen_to_end_was_killed(store: FolderStore, oom: bool, message: str) -> None:
    """Though the worker that would have told Prefect died as well."""
    api = Api()
    child = container(store, api)
    written(store)
    assert child.poll() is None
    ended(store, child.flow_run, oom_killed=oom)
    assert child.poll() == KILLED
    assert (child.end(), child.seconds, child.end_seen) == (KILLED, 12.5, True)
    assert message in child.message
    assert api.proposed == ["CRASHED"]  # so that nobody who looks at Prefect waits for it


@pytest.mark.parametrize(
    ("state", "code"), [(Crashed(message="gone"), KILLED), (Failed(message="gone"), FAILED), (Cancelled(), PREEMPTED)]
)
def test_prefect_s_word_counts_where_the_attempt_wrote_none(store: FolderStore, state: Any, code: int) -> None:
    api = Api()
    child = container(store, api)
    written(store, status="planned")
    api.state = state
    assert child.poll() == code


def test_an_attempt_whose_container_never_started_costs_nothing(store: FolderStore) -> None:
    api = Api()
    api.run_count, api.infrastructure = 0, None
    child = container(store, api)
    written(store, status="planned")
    api.state = Crashed(message="Flow run could not be submitted: no such image")
    assert child.poll() == KILLED
    assert (child.end(), child.never_began, child.end_seen, child.seconds) == (KILLED, True, True, 0.0)
    assert "no such image" in child.message


@pytest.mark.parametrize("infrastructure", ["machine:c0ffee", None])
def test_a_container_that_started_costs_what_it_ran_though_its_flow_never_did(
    store: FolderStore, infrastructure: str | None
) -> None:
    api = Api()
    api.run_count, api.infrastructure = 0, infrastructure
    child = container(store, api)
    written(store, status="planned")
    api.state = Crashed(message="gone")
    assert child.poll() == KILLED
    ended(store, child.flow_run)
    assert (child.end(), child.never_began, child.seconds) == (KILLED, False, 12.5)


def test_one_whose_end_is_not_known_yet_is_not_settled(store: FolderStore) -> None:
    """It was killed before its flow began, while the store could not be written."""
    api = Api()
    api.run_count = 0
    child = container(store, api)
    written(store, status="planned")
    api.state = Crashed(message="gone")
    assert child.poll() == KILLED
    assert (child.end(), child.never_began, child.end_seen) == (KILLED, False, False)


@pytest.mark.parametrize(("status", "code"), [("killed", KILLED), ("overdue", OVERDUE)])
def test_an_attempt_that_somebody_else_has_closed_has_not_failed(store: FolderStore, status: str, code: int) -> None:
    """Another stage of the run, or another run, settles what it finds ended."""
    child = container(store, Api())
    written(store)
    assert child.poll() is None
    written(store, status=status, seconds=3.0)
    assert child.poll() == code


def test_a_request_to_stop_is_repeated_until_prefect_answers(store: FolderStore) -> None:
    api = Api()
    child = container(store, api)
    written(store)
    api.answers = False
    child.preempt()
    assert child.poll() is None
    assert api.proposed == []
    api.answers = True
    assert child.poll() is None
    assert child.poll() is None
    assert api.proposed == ["CANCELLING"]


def test_a_server_or_a_store_that_does_not_answer_is_no_end(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = Api()
    child = container(store, api)
    written(store)
    assert child.poll() is None
    api.answers = False
    read = type(store).read
    monkeypatch.setattr(flows.container, "MISSED_S", 0.2)
    child.heartbeat_s = 0.01

    def unreachable(*_: Any) -> None:
        raise RetainError("can't be read (Input/output error)")

    monkeypatch.setattr(type(store), "read", unreachable)
    for _ in range(5):
        assert child.poll() is None
        time.sleep(0.1)
    monkeypatch.setattr(type(store), "read", read)
    assert child.poll() is None  # its beats are missed from now on
    time.sleep(0.3)
    assert child.poll() == KILLED


def test_an_attempt_without_beats_is_lost_and_the_next_beat_puts_it_off(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flows.container, "MISSED_S", 0.2)
    child = container(store, Api(), heartbeat_s=0.01)
    written(store, status="planned")
    child.poll()
    time.sleep(0.3)
    assert child.poll() is None  # it waits for a machine
    for second in range(4):
        written(store, seconds=float(second))
        assert child.poll() is None
        time.sleep(0.1)
    time.sleep(0.2)
    assert child.poll() == KILLED
    assert child.lost
    assert child.end() is None


def test_an_attempt_whose_container_started_and_gives_no_sign_of_life_is_lost(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was paused, or cut off, before it had its claim and before its first heartbeat to Prefect."""
    monkeypatch.setattr(flows.container, "BEGINS_S", 0.2)
    api = Api()
    api.infrastructure = None
    child = container(store, api)
    written(store, status="planned")
    assert child.poll() is None
    time.sleep(0.3)
    assert child.poll() is None  # it waits for a machine
    api.infrastructure = "machine:c0ffee"
    assert child.poll() is None
    time.sleep(0.3)
    assert child.poll() == KILLED
    assert (child.lost, child.end(), api.proposed) == (True, None, ["CRASHED"])


def test_an_attempt_that_waits_for_a_machine_costs_nothing_yet(store: FolderStore) -> None:
    child = container(store, Api())
    written(store, status="planned")
    child.poll()
    assert child.seconds == 0.0
    written(store, seconds=4.0)
    child.poll()
    assert child.seconds == pytest.approx(4.0, abs=0.2)


def launcher(store: FolderStore, api: Api, prepare: Any) -> Launcher:
    """Starts attempts that `prepare` says something about."""

    def start(request: Any, caller: Any, pool: str) -> Container:
        prefix = f"chaos/risk/{request.fingerprint}"
        child = Container(uuid4(), store, prefix, request.number, 0.01, api)  # type: ignore[arg-type]
        ends.name_flow_run(store, prefix, request.number, child.flow_run)
        prepare(child)
        return child

    return Launcher(start=start, work=lambda store, attempt_id: Path("/nowhere"), owner=OWNER, shared=True)


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "did not happen in time"
        time.sleep(0.01)


def entry_of(plan: Plan) -> ledger.Entry:
    (entry,) = ledger.entries(plan.store, plan.experiment.costs.scope)
    return entry


def test_a_lost_attempt_stays_reserved_until_its_container_has_ended(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flows.container, "MISSED_S", 0.1)
    plan = toy_plan(store.root, (RISK,))
    started: list[Container] = []

    def at_work(child: Container) -> None:
        started.append(child)
        written(store, child.prefix, child.number, seconds=1.0)

    identity = plan.identity(RISK, {})
    ending = run_attempt(plan, RISK, identity, {}, lambda child: None, launcher(store, Api(), at_work))
    assert (ending.code, ending.record.ended, entry_of(plan).state) == (LOST, False, "open")
    assert ending.message == "no sign of life for 0 s"
    assert settle_lost(plan) == 0  # it may be paused, and go on to cost money
    assert unsettled(plan, OWNER) == 1
    ended(store, started[0].flow_run, seconds=30.0)
    assert settle_lost(plan) == 1
    assert (entry_of(plan).seconds, entry_of(plan).estimated, unsettled(plan, OWNER)) == (30.0, False, 0)


def test_an_attempt_whose_container_ends_late_is_charged_for_all_of_it(store: FolderStore) -> None:
    """It has told how it ended, and then its flow waited half a minute for Prefect's server."""
    plan = toy_plan(store.root, (RISK,))
    started: list[Container] = []

    def preempted(child: Container) -> None:
        started.append(child)
        written(store, child.prefix, child.number, status="preempted", exit_code=PREEMPTED, seconds=4.0)

    identity, launch = plan.identity(RISK, {}), launcher(store, Api(), preempted)
    ending = run_attempt(plan, RISK, identity, {}, lambda child: None, launch)
    assert (ending.code, ending.settled, entry_of(plan).state) == (PREEMPTED, False, "open")
    # The next attempt is another one.
    assert open_number(plan, started[0].prefix, OWNER, {1}) is None
    ended(store, started[0].flow_run, seconds=34.0, exit_code=0)
    assert settle_lost(plan) == 1
    assert (entry_of(plan).seconds, entry_of(plan).estimated, entry_of(plan).preempted) == (34.0, False, True)


def test_a_run_that_comes_back_takes_up_its_open_attempt(store: FolderStore) -> None:
    plan = toy_plan(store.root, (RISK,))
    identity = plan.identity(RISK, {})
    numbers: list[int] = []

    def completes(child: Container) -> None:
        numbers.append(child.number)
        written(store, child.prefix, child.number, status="complete", exit_code=0, seconds=1.0)
        ended(store, child.flow_run, seconds=2.0, exit_code=0)

    def killed(child: Container) -> None:
        numbers.append(child.number)
        raise KeyboardInterrupt  # of the parent, in the middle of it

    with pytest.raises(KeyboardInterrupt):
        run_attempt(plan, RISK, identity, {}, lambda child: None, launcher(store, Api(), killed))
    assert entry_of(plan).state == "open"
    ending = run_attempt(plan, RISK, identity, {}, lambda child: None, launcher(store, Api(), completes))
    assert (ending.code, numbers) == (0, [1, 1])
    assert (entry_of(plan).state, entry_of(plan).seconds) == ("settled", 2.0)


def test_what_an_attempt_says_of_its_end_does_not_settle_it_before_its_container_has_ended(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its parent was killed, and so can't wait for it any more."""
    plan = toy_plan(store.root, (RISK,))
    started: list[Container] = []

    def completes(child: Container) -> None:
        started.append(child)
        written(store, child.prefix, child.number, status="complete", exit_code=0, seconds=56.0)

    run_attempt(plan, RISK, plan.identity(RISK, {}), {}, lambda child: None, launcher(store, Api(), completes))
    monkeypatch.setattr(Holder, "alive", lambda holder: False)
    assert settle_lost(plan) == 0
    ended(store, started[0].flow_run, seconds=62.0, exit_code=0)
    assert settle_lost(plan) == 1
    assert (entry_of(plan).seconds, entry_of(plan).estimated, entry_of(plan).preempted) == (62.0, False, False)


def test_an_attempt_that_can_not_be_started_costs_nothing(store: FolderStore) -> None:
    plan = toy_plan(store.root, (RISK,))

    def start(request: Any, caller: Any, pool: str) -> Container:
        raise NotStarted("Prefect has no deployment stage/gpu")

    launch = replace(launcher(store, Api(), None), start=start)
    with pytest.raises(NotStarted):
        run_attempt(plan, RISK, plan.identity(RISK, {}), {}, lambda child: None, launch)
    entry = entry_of(plan)
    assert (entry.state, entry.metered_micro_usd, entry.preempted) == ("settled", 0, False)
    record = records.read(store, entry.artifact, 1)
    assert record is not None
    assert (record.status, record.message) == ("killed", "Prefect has no deployment stage/gpu")


def test_a_stage_whose_containers_never_start_ends_with_the_reason_and_costs_nothing(store: FolderStore) -> None:
    plan = toy_plan(store.root, (RISK,))
    api = Api()
    api.run_count, api.infrastructure, api.state = 0, None, Crashed(message="no such image")
    run = Run(plan, board_of(plan), launcher(store, api, lambda child: None))
    with pytest.raises(StageEnded, match=r"could not be started 4 times: no such image"):
        carry_out(run, "risk", LOG, lambda percent: None)
    attempts = ledger.entries(store, "chaos")
    assert [(each.state, each.metered_micro_usd, each.preempted) for each in attempts] == [("settled", 0, False)] * 4


def test_a_run_waits_while_another_one_starts_an_attempt_at_the_same_artifact(store: FolderStore) -> None:
    plan = toy_plan(store.root, (RISK,))
    identity = plan.identity(RISK, {})
    theirs: list[Container] = []

    def killed(child: Container) -> None:
        theirs.append(child)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):  # their run, while its attempt's container starts
        run_attempt(plan, RISK, identity, {}, lambda child: None, launcher(store, Api(), killed))

    def stopped(child: Container) -> None:
        ours.append(child)
        run.stopping.set()
        written(store, child.prefix, child.number, status="preempted", exit_code=PREEMPTED, seconds=1.0)
        ended(store, child.flow_run)

    def go() -> None:
        with suppress(StageEnded):
            carry_out(run, "risk", LOG, lambda percent: None)

    ours: list[Container] = []
    run = Run(plan, board_of(plan), replace(launcher(store, Api(), stopped), owner="another"))
    thread = threading.Thread(target=go)
    thread.start()
    wait_for(lambda: run.board.rows["risk"].state == "held")
    assert ours == []
    ended(store, theirs[0].flow_run)  # so there is no use in waiting any longer
    thread.join(30)
    assert [child.number for child in ours] == [2]
    assert [each.state for each in ledger.entries(store, "chaos")] == ["settled", "settled"]


def test_a_claim_is_taken_away_from_the_attempt_that_was_seen_to_end_and_from_no_other(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    claim = acquire(store, CLAIM, 1, 30.0)
    assert claim is not None
    take_away(store, CLAIM, 2)
    claim.check()
    take_away(store, CLAIM, 1)
    assert store.read(CLAIM) is None
    take_away(store, CLAIM, 1)


@pytest.mark.parametrize(
    ("code", "cancelled", "name", "kind"),
    [
        (COMPLETE, False, "Completed", "COMPLETED"),
        (PREEMPTED, False, "Preempted", "CRASHED"),
        (PREEMPTED, True, "Cancelled", "CANCELLED"),
        (-signal.SIGKILL, False, "Crashed", "CRASHED"),
        (FENCED, False, "Fenced", "CRASHED"),
        (OVERDUE, False, "Overdue", "FAILED"),
        (FAILED, False, "Failed", "FAILED"),
        (os.EX_IOERR, False, "StoreUnavailable", "CRASHED"),
    ],
)
def test_the_state_of_a_flow_run_says_how_its_attempt_ended(code: int, cancelled: bool, name: str, kind: str) -> None:
    state = state_after(code, "why", cancelled=cancelled)
    assert (state.name, state.type.value) == (name, kind)


def test_completed_is_completed() -> None:
    assert Completed().type == state_after(COMPLETE, "", cancelled=False).type


def test_the_request_keeps_the_order_of_the_experiment_s_keys(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stages go by it: the same fingerprint would make other bytes in a container than outside."""
    plan = toy_plan(store.root, (RISK,))
    identity = plan.identity(RISK, {})
    config = {"steps": 3, "pause_s": 0.01, "scale": 1.0}
    assert list(config) != sorted(config)
    request = plan.request(RISK, identity.model_copy(update={"config": config}), {}, 1, Path("/nowhere"))
    monkeypatch.setattr(flows.container, "_flow_run", lambda *_: SimpleNamespace(id=uuid4()))
    flows.container._start(request, "", uuid4(), Api())  # type: ignore[arg-type]
    stored = store.read(records.key(f"chaos/risk/{request.fingerprint}", 1, flows.container.REQUEST))
    assert stored is not None
    assert list(StageRequest.model_validate_json(stored[0]).identity.config) == list(config)


def test_an_attempt_that_is_started_again_is_linked_to_the_stage_it_was_linked_to(tmp_path: Path) -> None:
    """In whatever order a parent that has come back starts the attempts of its stages."""

    class Server:
        def __init__(self) -> None:
            self.links: dict[str, UUID] = {}
            self.runs: dict[str, tuple[UUID, UUID]] = {}

        def read_deployment_by_name(self, name: str) -> Any:
            return SimpleNamespace(id=name)

        def create_task_run(self, task: Any, flow_run: UUID, *, dynamic_key: str, **_: Any) -> Any:
            return SimpleNamespace(id=self.links.setdefault(f"{flow_run}{task.task_key}{dynamic_key}", uuid4()))

        def create_flow_run_from_deployment(self, _: str, *, idempotency_key: str, **given: Any) -> Any:
            run, _ = self.runs.setdefault(idempotency_key, (uuid4(), given["parent_task_run_id"]))
            return SimpleNamespace(id=run, name=given["name"])

    stages = (toy_stage("risk"), toy_stage("accept"))
    plan = toy_plan(tmp_path, stages)
    requests = [plan.request(stage, plan.identity(stage, {}), {}, 1, Path("/nowhere")) for stage in stages]
    server, parent = Server(), uuid4()
    first = [flows.container._flow_run(request, "stage/gpu", parent, server).id for request in requests]  # type: ignore[arg-type]
    again = [flows.container._flow_run(request, "stage/gpu", parent, server).id for request in reversed(requests)]  # type: ignore[arg-type]
    assert again == first[::-1]
    assert len(set(server.links.values())) == len(requests)
    assert {link for _, link in server.runs.values()} == set(server.links.values())
