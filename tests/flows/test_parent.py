"""The parent of a run in containers: what it makes again, what it waits for, and how it ends."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect import State
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelling, Completed, Failed, Running

from engine import ledger
from engine.errors import DataError, RetainError, StoreUnavailable
from engine.patience import PatientStore
from engine.store import FolderStore
from flows import attempt, budget, capacity, container, dashboard, ends, parent, witness
from flows.changes import current_version
from flows.ends import End
from flows.launch import HERE
from flows.parent import Prepare
from flows.plan import Plan
from flows.pools import Pool, Pools
from flows.run import Announce, Run, carry_out
from tests.flows.toy_plan import toy_plan, toy_stage

CHAIN = (toy_stage("customers"), toy_stage("risk", ("customers",)), toy_stage("release", ("risk",)))


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.setenv("RETAIN_STORE", str(tmp_path))
    return toy_plan(tmp_path)


def test_a_run_that_comes_back_waits_for_a_store_that_is_full(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """A download that can't be kept is said as an error of the data; the store says that it is full."""
    full = [True, True, True]
    write = FolderStore.write

    def make() -> Plan:
        if full:
            raise DataError("bank.csv can't be kept. No space left on device")
        return plan

    def written(store: FolderStore, key: str, data: bytes, expect: str | None = None) -> str:
        if full and data:  # a full disk takes an empty file
            full.pop()
            raise StoreUnavailable("can't be written (No space left on device)")
        return write(store, key, data, expect)

    monkeypatch.setattr(FolderStore, "write", written)
    made = parent._plan(make, patience_s=60.0)
    assert isinstance(made.store, PatientStore)
    assert not full


def test_what_is_wrong_with_the_run_itself_is_said_at_once(plan: Plan) -> None:
    calls: list[int] = []

    def make() -> Plan:
        calls.append(1)
        raise DataError("telco.csv is missing")

    with pytest.raises(DataError, match="missing"):
        parent._plan(make, patience_s=60.0)
    assert calls == [1]
    assert list(FolderStore(Path(plan.store.url)).list("probe")) == []


def test_a_store_that_can_not_be_written_when_a_run_starts_is_said_at_once(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise StoreUnavailable("can't be written (Permission denied)")

    def make() -> Plan:
        raise StoreUnavailable("/store: can't be written (Permission denied)")

    monkeypatch.setattr(FolderStore, "write", refuse)
    with pytest.raises(RetainError, match="Permission denied"):
        parent._plan(make, patience_s=0.0)


def test_a_store_is_written_before_anything_is_planned(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan with data of one's own writes nothing, so it would not notice."""

    def refuse(*_: object, **__: object) -> str:
        raise StoreUnavailable("can't be written (Permission denied)")

    monkeypatch.setattr(FolderStore, "write", refuse)
    with pytest.raises(RetainError, match="Permission denied"):
        parent._plan(lambda: plan, patience_s=0.0)


@pytest.mark.parametrize(
    ("state", "proposed", "leaves"),
    [
        (Running(), ["AwaitingRetry"], True),
        (Cancelling(), [], False),
        (Completed(), [], True),
        (None, ["AwaitingRetry"], True),
    ],
)
def test_a_parent_whose_machine_is_wanted_back_leaves_and_is_scheduled_again(
    monkeypatch: pytest.MonkeyPatch, state: Any, proposed: list[str], leaves: bool
) -> None:
    """But one that is being cancelled stops its stages first, and one that has ended stays so."""
    said: list[str] = []
    left = threading.Event()
    monkeypatch.setattr(parent, "client", lambda: nullcontext(None))
    monkeypatch.setattr(parent, "state_of", lambda api, flow_run: state)
    monkeypatch.setattr(parent, "propose", lambda api, flow_run, proposal, force: said.append(proposal.name))
    monkeypatch.setattr(os, "_exit", lambda code: left.set())
    with parent._leaving_on_sigterm(uuid4()):
        os.kill(os.getpid(), signal.SIGTERM)
        assert left.wait(0.5) is leaves
    assert said == proposed


# --- whole runs, with attempts that are processes of this machine --------------------------------------------------


class Killed(BaseException):
    """The parent is gone: nothing of it runs any more."""


class Own:
    """Whether the flow run was cancelled."""

    def __init__(self, *_: object) -> None:
        self.cancelled_at: float | None = None

    @property
    def cancelled(self) -> bool:
        return self.cancelled_at is not None

    def __enter__(self) -> Own:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Runs:
    """Runs of one plan whose parents are `parent.carry_out`, without Prefect. `flow_run` is that of the next one."""

    def __init__(self, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
        self.plan, self.flow_run, self.count = plan, uuid4(), 1
        self.own, self.told = Own(), list[tuple[str, str]]()
        self.deployment, self.told_about = uuid4(), list[UUID | None]()
        self.open_at_last: list[str] = []  # when the costs are shown for the last time
        self.fails_at: str | None = None
        self.error: BaseException = RetainError("it failed")
        context = SimpleNamespace(get=lambda: SimpleNamespace(flow_run=self._flow_run()))
        monkeypatch.setattr(parent, "FlowRunContext", context)
        monkeypatch.setattr(parent, "get_run_logger", lambda: logging.getLogger("parent"))
        monkeypatch.setattr(parent, "make_plan", lambda *_, **__: self.plan)
        monkeypatch.setattr(parent, "check_deployments", lambda stages: None)
        monkeypatch.setattr(parent, "containers", lambda flow_run, region, gpu: replace(HERE, owner=str(flow_run)))
        monkeypatch.setattr(parent, "announcer", self._announcer)
        monkeypatch.setattr(parent, "watched", lambda run: budget.watched(run, every_s=0.02))
        monkeypatch.setattr(parent, "published", self._published)
        monkeypatch.setattr(parent, "OwnState", lambda *_: self.own)
        monkeypatch.setattr(parent, "SETTLE_AGAIN_S", 0.01)

    @contextmanager
    def _published(self, run: Run) -> Iterator[None]:
        yield
        self.open_at_last = [e.attempt_id for e in ledger.entries(run.plan.store, "chaos") if e.state == "open"]

    def _announcer(self, scope: str, flow_run: UUID, deployment: UUID | None) -> Announce:
        self.told_about.append(deployment)
        return lambda event, words: self.told.append((event, words))

    def _flow_run(self) -> Any:
        return SimpleNamespace(
            id=self.flow_run, run_count=self.count, deployment_id=self.deployment, start_time=datetime.now(UTC)
        )

    def go(self, stages: tuple[str, ...] = (), *, force: bool = False, by: str | None = None) -> State[None]:
        return parent.carry_out("chaos", stages, self._dag, force=force, budget_usd=None, proposed_by=by)

    def go_until_killed(self, stage: str) -> None:
        """A forced run whose parent is killed when it has set the stage's artifact aside; the next one comes back."""
        self.fails_at, self.error = stage, Killed()
        forced = [stage.name for stage in self.plan.stages]
        with pytest.raises(Killed):  # not from carry_out(), which would still put back what was set aside
            parent._carried_out(self.plan, self._flow_run(), forced, self._dag, logging.getLogger("parent"))
        self.fails_at = None
        self.count += 1

    def _dag(self, run: Run, prepare: Prepare) -> State[None]:
        for stage in run.plan.stages:
            try:
                prepare(stage.name)
                if stage.name == self.fails_at:
                    raise self.error
                carry_out(run, stage.name, logging.getLogger("toy"), lambda percent: None)
            except RetainError:
                return Failed(message="did not complete")
        return Completed()

    def attempts(self) -> dict[str, int]:
        counted = dict.fromkeys((stage.name for stage in self.plan.stages), 0)
        for entry in ledger.entries(self.plan.store, "chaos"):
            counted[entry.stage] += 1
        return counted

    def manifests(self) -> dict[str, bytes]:
        store = self.plan.store
        return {key: store.read(key)[0] for key in store.list("chaos") if key.endswith("manifest.json")}  # type: ignore[index]

    def check_current(self) -> None:
        """What completed last is there, and of a run that made it again nothing is left but that it has."""
        current = self.plan.artifacts.current()
        assert all(self.plan.artifacts.manifest(stage, current[stage]) for stage in current)
        assert {key.rpartition("/")[2] for key in self.plan.store.list("forced")} <= {"removed"}


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    monkeypatch.setenv("RETAIN_STORE", str(tmp_path))
    return Runs(toy_plan(tmp_path, CHAIN, steps=2), monkeypatch)


def test_a_forced_run_makes_the_named_stages_again(runs: Runs) -> None:
    assert runs.go().is_completed()
    before = runs.manifests()
    runs.flow_run = uuid4()
    assert runs.go(("risk",), force=True).is_completed()
    assert runs.attempts() == {"customers": 1, "risk": 2, "release": 1}
    assert runs.go().is_completed()  # the next one, which forces nothing
    assert runs.attempts() == {"customers": 1, "risk": 2, "release": 1}
    assert runs.manifests() == before
    runs.check_current()


def test_a_forced_run_that_fails_leaves_every_artifact_in_place(runs: Runs) -> None:
    assert runs.go().is_completed()
    before = runs.manifests()
    runs.flow_run, runs.fails_at = uuid4(), "risk"
    assert runs.go(force=True).is_failed()
    assert runs.attempts() == {"customers": 2, "risk": 1, "release": 1}
    assert runs.manifests() == before
    runs.check_current()


def test_a_forced_run_that_is_stopped_before_a_stage_s_turn_has_not_completed(runs: Runs) -> None:
    assert runs.go().is_completed()
    runs.flow_run = uuid4()
    dag = runs._dag

    def stopped(run: Run, prepare: Prepare) -> State[None]:
        run.stopping.set()
        return dag(run, prepare)

    runs._dag = stopped  # type: ignore[method-assign]
    assert runs.go(force=True).is_failed()
    assert runs.attempts() == {"customers": 1, "risk": 1, "release": 1}
    runs.check_current()


@pytest.mark.parametrize("killed_at", ["customers", "risk", "release"])
def test_a_forced_run_whose_parent_is_killed_makes_each_stage_again_once(runs: Runs, killed_at: str) -> None:
    """The parent comes back as the same flow run."""
    assert runs.go().is_completed()
    runs.flow_run = uuid4()
    runs.go_until_killed(killed_at)
    assert runs.go(force=True).is_completed()
    assert runs.attempts() == {"customers": 2, "risk": 2, "release": 2}
    runs.check_current()


def test_most_of_the_budget_is_warned_of_in_the_log(runs: Runs, caplog: pytest.LogCaptureFixture) -> None:
    costs = runs.plan.experiment.costs.model_copy(update={"budget_usd": 0.0033})  # a reservation is $0.0028
    runs.plan = replace(runs.plan, experiment=runs.plan.experiment.model_copy(update={"costs": costs}))
    assert runs.go().is_completed()
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.startswith("85% of the budget is spent or reserved: chaos")
    assert [event for event, _ in runs.told] == ["warning"]


def test_a_run_that_makes_nothing_is_not_stopped_by_what_was_spent_before(runs: Runs) -> None:
    assert runs.go().is_completed()
    ledger.set_cap(runs.plan.store, "chaos", 1e-6)
    runs.flow_run = uuid4()
    assert runs.go().is_completed()
    assert [event for event, _ in runs.told] == ["warning"]


def left_open(plan: Plan, owner: UUID) -> UUID:
    """An attempt in a container whose parent was killed; returns its flow run."""
    prefix, flow_run = "chaos/risk/f", uuid4()
    ledger.reserve(
        plan.store,
        "chaos",
        cap_usd=1.0,
        attempt_id=f"{prefix}/1",
        experiment="chaos",
        stage="risk",
        usd_per_hour=0.1,
        limit_s=10.0,
        overhead_s=0.0,
        owner=str(owner),
    )
    ends.name_flow_run(plan.store, prefix, 1, flow_run)
    return flow_run


def ended(plan: Plan, flow_run: UUID, lived_s: float) -> None:
    times = {"started_at": 100.0, "finished_at": 100.0 + lived_s}
    names = {"container": "c0ffee", "image": "retain/tabular", "host": "there"}
    ends.write(plan.store, End(flow_run=flow_run, exit_code=0, oom_killed=False, **names, **times))  # type: ignore[arg-type]


def test_an_overrun_that_is_settled_when_a_parent_comes_back_is_announced(runs: Runs) -> None:
    assert runs.go().is_completed()
    runs.flow_run, runs.count = uuid4(), 2
    ended(runs.plan, left_open(runs.plan, runs.flow_run), lived_s=12.0)
    assert runs.go().is_completed()
    ((event, words),) = runs.told
    assert event == "exceeded"
    assert words.startswith("chaos/risk/f/1 lived 2.0 s longer than it had reserved")
    runs.count = 3  # somebody has seen it and goes on with this run
    assert runs.go().is_completed()
    assert len(runs.told) == 1


def test_an_end_that_becomes_known_late_is_settled_before_the_costs_are_shown_for_the_last_time(runs: Runs) -> None:
    container_of = left_open(runs.plan, runs.flow_run)
    dag = runs._dag

    def told_at_the_end(run: Run, prepare: Prepare) -> State[None]:
        state = dag(run, prepare)
        ended(run.plan, container_of, lived_s=12.0)
        return state

    runs._dag = told_at_the_end  # type: ignore[method-assign]
    assert runs.go().is_completed()
    assert runs.open_at_last == []
    assert [event for event, _ in runs.told] == ["exceeded"]  # an overrun that is found then counts as well


@pytest.mark.parametrize("harm", ["damaged", "away"])
def test_costs_that_can_not_be_settled_fail_no_run(
    runs: Runs, harm: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parent, "ENDS_S", 0.1)
    calls: list[int] = []

    def settle_lost(plan: Plan) -> int:
        calls.append(1)
        if len(calls) > 1:
            assert not isinstance(plan.store, PatientStore)
            raise RetainError("not a ledger") if harm == "damaged" else StoreUnavailable("the store's folder is gone")
        return attempt.settle_lost(plan)

    monkeypatch.setattr(parent, "settle_lost", settle_lost)
    assert runs.go().is_completed()
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.startswith("not all costs are settled yet, but will be by the next run: ")


def settled_after(runs: Runs, monkeypatch: pytest.MonkeyPatch, own: Own) -> float:
    """Seconds for which a run waits for the end of a container that doesn't become known."""
    left_open(runs.plan, runs.flow_run)
    now = [1000.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(parent, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    monkeypatch.setattr(parent, "SETTLE_AGAIN_S", 1.0)
    parent._settle(runs.plan, own, str(runs.flow_run), logging.getLogger("parent"))  # type: ignore[arg-type]
    return now[0] - 1000.0


def test_the_ends_of_lost_containers_are_waited_for(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    assert settled_after(runs, monkeypatch, Own()) == pytest.approx(parent.ENDS_S, abs=1.0)


def test_a_cancelled_run_ends_before_its_container_is_killed(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    own = Own()
    own.cancelled_at = 980.0
    seconds_after = settled_after(runs, monkeypatch, own) + 20.0
    assert seconds_after == pytest.approx(parent.CANCELLED_ENDS_S, abs=1.0)
    assert seconds_after + budget.LAST_S + dashboard.LAST_S < witness.OUTLIVED_S - 10.0


def test_a_deployment_that_stages_need_is_missed_before_money_is_reserved(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def read_deployment_by_name(name: str) -> None:
        asked.append(name)
        if name == "stage/gpu":
            raise ObjectNotFound(ValueError(name))

    api = SimpleNamespace(read_deployment_by_name=read_deployment_by_name)
    monkeypatch.setattr(container, "client", lambda: nullcontext(api))
    monkeypatch.setattr(parent, "check_deployments", container.check_deployments)
    assert runs.go().is_completed()
    assert asked == ["stage/tabular"]
    runs.plan = replace(runs.plan, stages=(*runs.plan.stages, toy_stage("sft")))
    state = runs.go()
    assert state.is_failed()
    assert state.message == "Prefect has no deployment stage/gpu. `make deploy` registers it"
    assert runs.attempts() == {"customers": 1, "risk": 1, "release": 1, "sft": 0}


def test_a_machine_that_can_not_be_had_is_told_before_money_is_reserved(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, list[str], str | None]] = []

    def check(cloud: capacity.Cloud, pools: list[Pool], gpu: str | None) -> None:
        asked.append((cloud.region, [pool.name for pool in pools], gpu))
        raise RetainError("quota NVIDIA_L4_GPUS is used up")

    monkeypatch.setattr(capacity, "check", check)
    store, stages, pools = runs.plan.store, runs.plan.stages, Pools("cpu-spot", "gpu-spot")
    assert runs.go().is_completed()  # on this machine
    runs.plan = replace(runs.plan, pools=pools)
    assert runs.go().is_completed()  # all is made, and no machine wanted
    for count, name in ((2, "accept"), (1, "backtest")):  # one that comes back has its attempts already
        runs.count = count
        runs.plan = replace(toy_plan(store.here, (*stages, toy_stage(name))), pools=pools)
        state = runs.go()
        assert state.is_completed() == (count == 2)
    assert (state.is_failed(), state.message) == (True, "quota NVIDIA_L4_GPUS is used up")
    assert asked == [("us-central1", ["cpu-spot"], "nvidia-l4")]  # no stage of chaos computes on a GPU
    attempted = {entry.stage for entry in ledger.entries(store, runs.plan.experiment.costs.scope)}
    assert attempted == {"customers", "risk", "release", "accept"}


# -- retrains


def test_a_retrain_says_what_came_of_it(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = Runs(replace(plan, stages=CHAIN), monkeypatch)
    first = runs.go(by="retrain/weekly")
    assert first.is_completed()
    version = current_version(plan.artifacts)
    new, not_proposed = str(first.message).splitlines()
    assert new == f"release {version} is new, the first. Changed: customers has never completed"
    assert not_proposed.startswith(f"release {version} is not proposed: no rollout of chaos was begun")
    runs.flow_run = uuid4()
    again = str(runs.go(by="retrain/weekly").message).splitlines()
    assert again == [f"nothing changed: no new release, {version} stays the current one", not_proposed]


def test_a_retrain_that_comes_back_says_what_it_began_with(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of stages that it made before it was killed it would say that nothing had changed."""
    runs = Runs(replace(plan, stages=CHAIN), monkeypatch)
    runs.fails_at, runs.error = "release", Killed()
    with pytest.raises(Killed):
        runs.go(by="retrain/weekly")
    runs.fails_at = None
    runs.count += 1
    assert "Changed: customers has never completed" in str(runs.go(by="retrain/weekly").message)


def test_a_retrain_that_fails_says_why(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = (CHAIN[0], toy_stage("risk", ("customers",), "fail"), CHAIN[2])
    runs = Runs(toy_plan(Path(plan.store.url), failing), monkeypatch)
    state = runs.go(by="retrain/weekly")
    assert state.is_failed()
    assert str(state.message).startswith("no new release, none stays the current one. risk: ")


def test_a_retrain_is_refused_before_anything_starts(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = Runs(toy_plan(Path(plan.store.url), CHAIN, budget_usd=0.0001), monkeypatch)
    state = runs.go(by="retrain/weekly")
    assert state.is_failed()
    assert str(state.message).startswith("refused before anything started: customers alone would reserve $")
    assert ledger.entries(plan.store, "chaos") == []
    assert runs.told == []  # nothing is to be paused: the next month has a budget of its own


@pytest.mark.parametrize("monthly", [True, False])
def test_a_month_s_budget_that_is_met_at_work_pauses_no_schedule(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, monthly: bool
) -> None:
    """The ledger refuses what else comes in this month, and retrains of the next month are due as ever."""
    machine, reserved_s = plan.machine(CHAIN[0]), attempt.reserved_s(plan, CHAIN[0], HERE.around_s)
    once = ledger.amount(machine.usd_per_hour, reserved_s) / ledger.MICRO  # for one attempt, and not for another
    poor = toy_plan(Path(plan.store.url), CHAIN, budget_usd=once)
    runs = Runs(replace(poor, earlier_scope="retrain/2026-10" if monthly else None), monkeypatch)
    state = runs.go(by="retrain/weekly")
    assert state.is_failed()
    assert str(state.message).startswith("stopped by the budget: ")
    assert [event for event, _ in runs.told] == ["warning", "exceeded"]
    assert runs.told_about == [None if monthly else runs.deployment]


@pytest.mark.parametrize("known", [True, False])
def test_a_run_spends_in_the_month_in_which_it_was_started_first(monkeypatch: pytest.MonkeyPatch, known: bool) -> None:
    """Prefect keeps that time, however often the run comes back; as a run is started, it may not have read it yet."""
    then = datetime(2026, 11, 30, 23, 59, tzinfo=UTC)
    monkeypatch.setattr(parent, "client", lambda: nullcontext(None))
    monkeypatch.setattr(parent, "flow_run_of", lambda api, flow_run: SimpleNamespace(start_time=then))
    flow_run: Any = SimpleNamespace(id=uuid4(), start_time=then if known else None)
    assert parent._began(flow_run) == then
