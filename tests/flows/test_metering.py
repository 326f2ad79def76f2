"""What an attempt is charged: from its start to the end that somebody saw, and never more than it reserved."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil
import pytest

import flows.attempt
import flows.launch
from engine import ledger
from engine.process import machine
from engine.stage import OVERDUE, StageRequest
from engine.store import FolderStore
from flows.attempt import Ending, run_attempt, settle_lost
from flows.launch import LOOKING_S, Child, Launcher, Subprocess, launch, work_folder
from flows.plan import Plan
from tests.flows.toy_plan import toy_plan, toy_stage

RISK = toy_stage("risk")
SHORT_S = 0.5  # in place of LOOKING_S, so that nobody waits for long


def attempt(plan: Plan, watch: Callable[[Child], None]) -> tuple[Ending, ledger.Entry]:
    ending = run_attempt(plan, RISK, plan.identity(RISK, {}), {}, watch)
    (entry,) = ledger.entries(plan.store, plan.experiment.costs.scope)
    return ending, entry


def unseen(child: Child) -> None:
    """Returns when the child has ended and nobody could have seen it: as if this process had been stopped."""
    os.waitid(os.P_PID, child.process.pid, os.WEXITED | os.WNOWAIT)
    time.sleep(2 * SHORT_S)


def test_a_stage_that_ends_while_the_run_is_stopped_is_charged_up_to_its_own_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flows.launch, "LOOKING_S", SHORT_S)
    ending, entry = attempt(toy_plan(tmp_path, (RISK,)), unseen)
    assert ending.record.status == "complete"
    assert (entry.seconds, entry.estimated) == (ending.record.seconds, False)


def test_a_stage_that_is_killed_while_the_run_is_stopped_is_charged_up_to_its_last_sign_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flows.launch, "LOOKING_S", SHORT_S)
    plan = toy_plan(tmp_path, (RISK,), steps=1000)
    signs: list[float] = []

    def killed_unseen(child: Child) -> None:
        while not list(tmp_path.rglob("complete.json")):
            time.sleep(0.01)
        child.kill()
        unseen(child)
        record = flows.attempt._readable(plan, plan.artifacts.prefix("risk", plan.identity(RISK, {}).fingerprint), 1)
        assert record is not None
        signs.append(record.seconds)

    ending, entry = attempt(plan, killed_unseen)
    assert ending.record.status == "killed"
    assert entry.estimated
    assert entry.seconds == pytest.approx(signs[0] + plan.experiment.execution.heartbeat_s, abs=1e-3)


def test_a_stage_that_can_not_stop_itself_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows.attempt, "ENDING_S", 0.2)
    plan = toy_plan(tmp_path, (RISK,), steps=1000, time_limit_s=0.5)

    def stop(child: Child) -> None:
        if psutil.Process(child.process.pid).status() != psutil.STATUS_STOPPED:
            os.kill(child.process.pid, signal.SIGSTOP)

    ending, entry = attempt(plan, stop)
    assert ending.code == OVERDUE
    assert (ending.record.status, ending.record.message) == ("overdue", flows.attempt.OVERRUN)
    assert entry.metered_micro_usd <= entry.reserved_micro_usd


def checkpointed(root: Path) -> bool:
    return any(root.rglob("complete.json"))


@pytest.mark.parametrize(
    ("function", "end", "wanted_by_run", "preempted"),
    [
        ("walk", None, False, False),
        ("broken", None, False, False),
        ("gives_up", None, False, True),
        ("walk", "kill", False, True),
        ("walk", "preempt", False, True),
        ("walk", "preempt", True, False),  # Ctrl-C, or the budget
        ("walk", "kill", True, False),
    ],
)
def test_what_was_taken_from_a_run_counts_as_preempted(
    tmp_path: Path, function: str, end: str | None, wanted_by_run: bool, preempted: bool
) -> None:
    stage = toy_stage("risk", function=function)
    plan = toy_plan(tmp_path, (stage,), steps=1000 if end else 5)

    def watch(child: Child) -> None:
        if end and checkpointed(tmp_path):
            getattr(child, end)()

    run_attempt(plan, stage, plan.identity(stage, {}), {}, watch, asked_to_stop=lambda: wanted_by_run)
    (entry,) = ledger.entries(plan.store, "chaos")
    assert entry.preempted is preempted
    assert entry.machine_type == plan.machine(stage).type


def test_what_is_charged_around_an_attempt_is_reserved_too(tmp_path: Path) -> None:
    """A container lives longer than the attempt in it, and one that used its whole limit is no reason to stop a run."""

    class Longer(Subprocess):
        @property
        def seconds(self) -> float:
            return plan.time_limit_s(RISK) + flows.attempt.ENDING_S + around_s if self.ended else 0.0

        @property
        def end_seen(self) -> bool:
            return True

    def start(request: StageRequest, caller: Mapping[str, str], pool: str) -> Longer:
        return Longer(**vars(launch(request, caller)))

    for around_s, reserved_s in ((30.0, 30.0), (30.0, 20.0)):
        plan = toy_plan(tmp_path / f"{reserved_s}", (RISK,))
        launcher = Launcher(start, work_folder, around_s=reserved_s)
        run_attempt(plan, RISK, plan.identity(RISK, {}), {}, lambda child: None, launcher)
        (entry,) = ledger.entries(plan.store, "chaos")
        assert entry.overrun_s == around_s - reserved_s


def test_an_attempt_is_told_how_often_machines_of_its_type_were_taken(tmp_path: Path) -> None:
    plan = toy_plan(tmp_path, (RISK,))
    stated = plan.experiment.execution.checkpoint
    assert plan.checkpoint_interval(RISK) == stated

    def seen(machine_type: str, number: int, seconds: float, preempted: bool) -> None:
        asked = {"experiment": "chaos", "stage": "risk", "usd_per_hour": 0.1, "limit_s": 1e5, "overhead_s": 0.0}
        attempt_id = f"chaos/risk/{machine_type}/{number}"
        ledger.reserve(
            plan.store,
            "chaos",
            cap_usd=100.0,
            attempt_id=attempt_id,
            machine_type=machine_type,
            **asked,  # type: ignore[arg-type]
        )
        ledger.settle(plan.store, "chaos", attempt_id, seconds, estimated=False, preempted=preempted)

    ours = plan.machine(RISK).type
    seen(ours, 1, 7200.0, True)
    seen("another", 1, 60.0, True)
    hours = stated.mean_hours_between_preemptions
    told = plan.request(RISK, plan.identity(RISK, {}), {}, 1, tmp_path).checkpoint
    assert told.mean_hours_between_preemptions == pytest.approx((hours + 2) / 2)
    assert (told.every_s, told.every_steps) == (stated.every_s, stated.every_steps)


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


class Process:
    """Ends when it is told to; what Child asks of a process."""

    code: int | None = None

    def poll(self) -> int | None:
        return self.code


@pytest.mark.parametrize(("between", "seen"), [(0.05, True), (LOOKING_S, True), (300.0, False)])
def test_an_end_is_seen_by_whoever_looks_often(
    between: float, seen: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, process = Clock(monkeypatch), Process()
    child = Subprocess(process, tmp_path, began=clock.now)  # type: ignore[arg-type]
    for _ in range(10):
        clock.now += 0.05
        assert child.poll() is None
    assert not child.end_seen
    clock.now += between
    process.code = 0
    child.poll()
    assert child.seconds == pytest.approx(0.5 + between)
    assert child.seconds_alive == pytest.approx(0.5)
    assert child.end_seen is seen


def reserved(store: FolderStore, attempt_id: str) -> ledger.Entry:
    return ledger.reserve(
        store,
        "chaos",
        cap_usd=1.0,
        attempt_id=attempt_id,
        experiment="chaos",
        stage="risk",
        usd_per_hour=0.72,
        limit_s=100.0,
        overhead_s=10.0,
    )


def test_a_reservation_stamped_in_the_future_does_not_stay_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = toy_plan(tmp_path, (RISK,))
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 10 * 365 * 86_400)  # a clock that was set wrong
    reserved(FolderStore(tmp_path), "chaos/risk/f/1")
    path = tmp_path / "ledger" / "chaos.json"
    path.write_text(path.read_text().replace(machine(), "another-boot/pid:[1]"))
    monkeypatch.setattr(time, "time", lambda: now)
    assert settle_lost(plan) == 0  # it may be at work there
    (entry,) = ledger.entries(plan.store, "chaos")
    assert (entry.state, entry.reserved_at) == ("open", pytest.approx(now, abs=1e-3))
    monkeypatch.setattr(time, "time", lambda: now + entry.reserved_s + flows.attempt.CLOCKS_DIFFER_S + 1)
    assert settle_lost(plan) == 1
    (entry,) = ledger.entries(plan.store, "chaos")
    assert (entry.state, entry.estimated) == ("settled", True)


def test_a_stamp_of_a_clock_a_little_ahead_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = toy_plan(tmp_path, (RISK,))
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + flows.attempt.CLOCKS_DIFFER_S - 1)
    before = reserved(FolderStore(tmp_path), "chaos/risk/f/1")
    monkeypatch.setattr(time, "time", lambda: now)
    settle_lost(plan)
    assert ledger.entries(plan.store, "chaos") == [before]
