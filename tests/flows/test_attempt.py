"""Attempts and their money: reserved, settled, retried, shared between runs, and settled when nobody saw the end."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

import flows.run
from engine import ledger
from engine.errors import ArtifactError, BudgetExceeded, RetainError
from engine.fingerprint import ROOT
from engine.process import machine
from flows.attempt import settle_lost
from flows.launch import Subprocess
from flows.plan import Plan, with_scope
from flows.run import Run, StageEnded, carry_out
from tests.flows.toy_plan import board_of, toy_plan, toy_stage

LOG = logging.getLogger("test")
ALONE = (toy_stage("risk"),)
ROUNDING_S = 0.02  # of seconds that are metered, and of a process's start, which the system rounds to a hundredth


def go(plan: Plan) -> Run:
    run = Run(plan, board_of(plan))
    for stage in plan.stages:
        carry_out(run, stage.name, LOG, lambda percent: None)
    return run


def entries(plan: Plan) -> list[ledger.Entry]:
    return ledger.entries(plan.store, plan.experiment.costs.scope)


def artifacts(root: Path) -> dict[str, bytes]:
    """Every file of every artifact, without what says when and where."""
    kept = (p for p in (root / "chaos").rglob("*") if p.is_file() and p.parent.name != "execution")
    return {str(p.relative_to(root)): p.read_bytes() for p in kept}


Start = Callable[[Path, int, float], "subprocess.Popen[str]"]


@pytest.fixture
def start_run() -> Iterator[Start]:
    """Starts runs of the toy diamond as processes, and ends them with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(root: Path, steps: int, pause_s: float) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.flows.toy_run", str(root), str(steps), str(pause_s)]
        started.append(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def wait_for(condition: Callable[[], object], seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "did not happen in time"
        time.sleep(0.01)


def children(pid: int) -> list[psutil.Process]:
    """Attempts that a run has started."""
    found = []
    for process in psutil.Process(pid).children():
        try:
            if "engine" in process.cmdline():
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def first_child(parent: subprocess.Popen[str]) -> tuple[psutil.Process, float]:
    """The run's first attempt, and time.monotonic() at which it had been started."""
    wait_for(lambda: children(parent.pid))
    return children(parent.pid)[0], time.monotonic()


def recorded_s(root: Path) -> float:
    """Seconds that the only attempt has written to live by now."""
    (path,) = root.rglob("execution/*.json")
    seconds: float = json.loads(path.read_text())["seconds"]
    return seconds


def test_a_run_completes_and_the_next_reuses_all(tmp_path: Path) -> None:
    first = go(toy_plan(tmp_path))
    assert [(row.state, row.attempts) for row in first.board.rows.values()] == [("complete", 1)] * 4
    spent = entries(first.plan)
    assert [entry.state for entry in spent] == ["settled"] * 4
    for entry, row in zip(spent, first.board.rows.values(), strict=True):
        assert entry.seconds == pytest.approx(row.seconds, abs=1e-3)
        assert entry.metered_usd == pytest.approx(row.seconds * 0.134 / 3600, abs=2e-6)
    again = go(toy_plan(tmp_path))
    assert [(row.state, row.attempts) for row in again.board.rows.values()] == [("reused", 0)] * 4
    assert entries(again.plan) == spent


def test_equal_bytes_upstream_stop_the_change_there(tmp_path: Path) -> None:
    go(toy_plan(tmp_path))
    # A pause makes no difference to what a walk finds: its stage runs again, what reads from it doesn't.
    run = go(toy_plan(tmp_path, customers={"pause_s": 0.02}))
    assert [row.state for row in run.board.rows.values()] == ["complete", "reused", "reused", "reused"]
    run = go(toy_plan(tmp_path, risk={"scale": 2.0}))
    assert [row.state for row in run.board.rows.values()] == ["reused", "complete", "reused", "complete"]


def test_a_reservation_over_the_cap_starts_nothing(tmp_path: Path) -> None:
    # 60 s and 15 s to end at $0.134 an hour reserve $0.002792.
    plan = toy_plan(tmp_path, ALONE, budget_usd=0.002791)
    run = Run(plan, board_of(plan))
    with pytest.raises(BudgetExceeded, match=r"risk: refused before it started.*cap of chaos \$0\.002791"):
        carry_out(run, "risk", LOG, lambda percent: None)
    assert entries(plan) == []
    assert run.board.rows["risk"].state == "refused"
    assert run.board.rows["risk"].attempts == 0
    assert not (tmp_path / "work").exists()
    go(toy_plan(tmp_path, ALONE, budget_usd=0.002792))


def test_a_killed_attempt_is_tried_again_and_both_are_paid(tmp_path: Path) -> None:
    plan = toy_plan(tmp_path / "killed", ALONE, steps=60, pause_s=0.02)
    killed: list[float] = []

    def kill() -> None:
        wait_for(lambda: children(os.getpid()))
        (child,), born = children(os.getpid()), time.monotonic()
        wait_for(lambda: list((tmp_path / "killed").rglob("complete.json")))
        killed.append(time.monotonic() - born)
        child.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    began = time.monotonic()
    run = go(plan)
    took = time.monotonic() - began
    killer.join()
    assert run.board.rows["risk"].attempts == 2
    lost, finished = entries(plan)
    assert killed[0] - ROUNDING_S <= lost.seconds <= took - finished.seconds + ROUNDING_S
    assert not lost.estimated
    assert finished.state == "settled"
    whole = toy_plan(tmp_path / "whole", ALONE, steps=60, pause_s=0.02)
    go(whole)
    assert artifacts(tmp_path / "killed") == artifacts(tmp_path / "whole")


def test_a_stage_is_not_tried_for_ever(tmp_path: Path) -> None:
    plan = toy_plan(tmp_path, (toy_stage("risk", function="gives_up"),))
    execution = plan.experiment.execution.model_copy(update={"max_preemptions": 2})
    plan = Plan(**{**vars(plan), "experiment": plan.experiment.model_copy(update={"execution": execution})})
    with pytest.raises(StageEnded, match=r"preempted 3 times, more than execution\.max_preemptions"):
        go(plan)
    assert len(entries(plan)) == 3


@pytest.mark.parametrize(
    ("function", "state", "exit_code", "message"),
    [
        ("broken", "failed", 1, "ZeroDivisionError: a bug"),
        ("bad_input", "failed", 2, "row 7"),
        ("missed", "refused", 3, "risk auc 0.5"),
        ("crashes", "failed", 1, "SIGSEGV|Segmentation"),
    ],
)
def test_failures_are_not_tried_again(tmp_path: Path, function: str, state: str, exit_code: int, message: str) -> None:
    plan = toy_plan(tmp_path, (toy_stage("risk", function=function),))
    run = Run(plan, board_of(plan))
    with pytest.raises(StageEnded, match=message):
        carry_out(run, "risk", LOG, lambda percent: None)
    assert (run.board.rows["risk"].state, run.exit_codes["risk"]) == (state, exit_code)
    (entry,) = entries(plan)
    assert entry.state == "settled"
    (log,) = (tmp_path / "chaos").rglob("0001.log")
    assert log.read_text().strip()


def test_no_attempt_is_metered_beyond_its_reservation(tmp_path: Path) -> None:
    stage, time_limit_s, ended = toy_stage("risk", function="stubborn"), 1.0, ""
    while "it did not answer" not in ended:  # a busy machine may take more than the limit to load the stage
        root = tmp_path / f"{time_limit_s}"
        plan = toy_plan(root, (stage,), time_limit_s=time_limit_s, risk={"pause_s": 600.0})
        with pytest.raises(StageEnded, match="outlived its time limit") as error:
            go(plan)
        ended, time_limit_s = str(error.value), 2 * time_limit_s
        assert time_limit_s < 100, ended
    (entry,) = entries(plan)
    assert entry.seconds > 10  # it never asked whether to stop
    assert entry.metered_usd <= entry.reserved_usd


def test_a_run_takes_its_inputs_from_itself_and_not_from_another(tmp_path: Path) -> None:
    ours, other = toy_plan(tmp_path), toy_plan(tmp_path, risk={"scale": 2.0})
    run = Run(ours, board_of(ours))
    for name in ("customers", "risk", "accept"):
        carry_out(run, name, LOG, lambda percent: None)
    theirs = go(other)
    carry_out(run, "release", LOG, lambda percent: None)
    assert run.made["risk"] != theirs.made["risk"]
    assert run.made["release"] != theirs.made["release"]
    again = go(toy_plan(tmp_path))
    assert again.made == run.made
    assert [row.state for row in again.board.rows.values()] == ["reused"] * 4


def test_removing_an_artifact_is_enough_to_make_it_again(tmp_path: Path) -> None:
    before = go(toy_plan(tmp_path))
    shutil.rmtree(tmp_path / "chaos" / "risk")
    run = go(toy_plan(tmp_path))
    assert [row.state for row in run.board.rows.values()] == ["reused", "complete", "reused", "reused"]
    assert run.made == before.made
    numbers = [entry.attempt_id.rpartition("/")[2] for entry in entries(run.plan) if entry.stage == "risk"]
    assert numbers == ["1", "2"]


def test_a_damaged_artifact_is_noticed_before_anything_runs(tmp_path: Path) -> None:
    go(toy_plan(tmp_path))
    victim = next((tmp_path / "chaos" / "risk").glob("*/files/*"))
    victim.chmod(0o644)
    victim.write_bytes(victim.read_bytes()[:-1] + b"#")
    with pytest.raises(ArtifactError, match=r"risk/.*is missing or damaged; remove the artifact and run again"):
        toy_plan(tmp_path).reusable()


@pytest.mark.parametrize("harm", ["removed", "damaged"])
def test_a_lost_attempt_without_its_record_is_settled_all_the_same(tmp_path: Path, start_run: Start, harm: str) -> None:
    parent = start_run(tmp_path, 1000, 0.02)
    child, _ = first_child(parent)
    wait_for(lambda: list(tmp_path.rglob("complete.json")))
    parent.send_signal(signal.SIGSTOP)
    child.kill()
    parent.kill()
    parent.wait()
    (record,) = tmp_path.rglob("execution/*.json")
    if harm == "removed":
        shutil.rmtree(record.parent.parent)
    else:
        record.write_text("{}")
    plan = toy_plan(tmp_path)
    assert settle_lost(plan) == 1
    (entry,) = entries(plan)
    assert (entry.state, entry.estimated, entry.seconds) == ("settled", True, 0.5)
    assert entry.preempted
    assert list((tmp_path / "work").iterdir()) == []


def test_what_a_run_of_the_month_before_left_open_is_settled(tmp_path: Path, start_run: Start) -> None:
    parent = start_run(tmp_path, 1000, 0.02)
    child, _ = first_child(parent)
    wait_for(lambda: list(tmp_path.rglob("complete.json")))
    parent.kill()
    parent.wait()
    child.wait()
    plan = toy_plan(tmp_path)
    (left,) = entries(plan)
    assert left.state == "open"
    this_month = replace(plan, experiment=with_scope(plan.experiment, "chaos/2026-12"), earlier_scope="chaos")
    assert settle_lost(this_month) == 1
    assert [entry.state for entry in entries(plan)] == ["settled"]
    assert entries(this_month) == []


def test_an_attempt_of_another_boot_is_settled_once_it_must_have_ended(
    tmp_path: Path, start_run: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = start_run(tmp_path, 1000, 0.02)
    child, _ = first_child(parent)
    wait_for(lambda: list(tmp_path.rglob("complete.json")))
    parent.send_signal(signal.SIGSTOP)
    child.kill()
    parent.kill()
    parent.wait()
    for path in (*tmp_path.rglob("execution/*.json"), tmp_path / "ledger" / "chaos.json"):
        path.write_text(path.read_text().replace(machine(), "another-boot/pid:[1]"))
    plan = toy_plan(tmp_path)
    assert settle_lost(plan) == 0  # it may live there
    (entry,) = entries(plan)
    later = time.time() + entry.reserved_s + 61
    monkeypatch.setattr(time, "time", lambda: later)
    assert settle_lost(plan) == 1
    assert [entry.state for entry in entries(plan)] == ["settled"]
    assert list((tmp_path / "work").iterdir()) == []


def test_whatever_goes_wrong_with_us_the_child_is_ended_and_paid(tmp_path: Path) -> None:
    plan = toy_plan(tmp_path, ALONE, steps=1000, pause_s=0.02)
    run = Run(plan, board_of(plan))

    def began(stage: str) -> None:
        raise ConnectionError("a bug")

    run.board.attempt_began = began  # type: ignore[method-assign]
    with pytest.raises(ConnectionError):
        carry_out(run, "risk", LOG, lambda percent: None)
    assert children(os.getpid()) == []
    assert [entry.state for entry in entries(plan)] == ["settled"]
    assert (run.board.rows["risk"].state, run.exit_codes) == ("failed", {"risk": 1})


def test_what_is_shown_of_a_stage_decides_nothing_about_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefect doesn't listen, a full disk has cut a line of progress short, and there is no room to keep the log."""
    plan = toy_plan(tmp_path, ALONE, steps=40, pause_s=0.02)
    write = type(plan.store).write

    def without_room(store: Any, key: str, *arguments: Any, **more: Any) -> str:
        if key.endswith((".log", ".progress.jsonl")):
            raise RetainError("can't be written (No space left on device)")
        return write(store, key, *arguments, **more)

    monkeypatch.setattr(type(plan.store), "write", without_room)
    monkeypatch.setattr(flows.run, "PROGRESS_S", 0.1)
    monkeypatch.setattr(
        Subprocess, "read", lambda child, name: b'{"seconds": 0.1, "st{"seconds": 0.2, "step": 1, "total": 2}\n'
    )

    def report(percent: float) -> None:
        raise ConnectionError("nobody listens")

    run = Run(plan, board_of(plan))
    carry_out(run, "risk", LOG, report)
    assert (run.board.rows["risk"].state, run.exit_codes) == ("complete", {})
    assert [entry.state for entry in entries(plan)] == ["settled"]


def test_the_recorded_commit_is_this_checkout_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while git runs a hook of another repository, which the hook's environment names."""
    git = ["git", "rev-parse", "HEAD"]
    here = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    head = subprocess.run(git, cwd=ROOT, env=here, capture_output=True, text=True, check=False)
    if head.returncode:
        pytest.skip("not a git checkout")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    assert toy_plan(tmp_path, ALONE).commit.removesuffix("+") == head.stdout.strip()


def test_a_stopped_run_leaves_a_checkpoint_and_goes_on(tmp_path: Path) -> None:
    plan = toy_plan(tmp_path, ALONE, steps=40, pause_s=0.02)
    run = Run(plan, board_of(plan))
    stopper = threading.Thread(
        target=lambda: (wait_for(lambda: list(tmp_path.rglob("complete.json"))), run.stopping.set())
    )
    stopper.start()
    with pytest.raises(StageEnded, match="run again to go on"):
        carry_out(run, "risk", LOG, lambda percent: None)
    stopper.join()
    assert run.board.rows["risk"].state == "stopped"
    assert not list(tmp_path.rglob("claim.json"))
    assert list(tmp_path.rglob("complete.json"))
    assert go(plan).board.rows["risk"].state == "complete"


def test_two_runs_at_once_neither_collide_nor_work_twice(tmp_path: Path, start_run: Start) -> None:
    runs = [start_run(tmp_path, 20, 0.02) for _ in range(2)]
    outputs = [run.communicate(timeout=60)[0].split() for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    made = [row.rsplit(":", 1)[0] for output in outputs for row in output]
    for stage in ("customers", "risk", "accept", "release"):
        assert f"{stage}:complete" in made
    records = [path.read_text() for path in tmp_path.rglob("execution/*.json")]
    assert sum('"status": "complete"' in text for text in records) == 4
    assert sum('"run_seconds": 0.0' not in text for text in records) == 4  # the work was done four times, not eight
    assert not list(tmp_path.rglob("claim.json"))


def test_a_child_outlives_its_parent_by_seconds_and_is_paid_what_it_wrote(tmp_path: Path, start_run: Start) -> None:
    began = time.monotonic()
    parent = start_run(tmp_path, 10_000, 0.02)
    child, born = first_child(parent)
    wait_for(lambda: list(tmp_path.rglob("complete.json")))
    at_least = time.monotonic() - born
    parent.kill()
    parent.wait()
    wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
    at_most = time.monotonic() - began
    plan = toy_plan(tmp_path)
    (entry,) = entries(plan)
    assert entry.state == "open"
    assert settle_lost(plan) == 1
    (entry,) = entries(plan)
    assert (entry.state, entry.estimated) == ("settled", False)
    assert entry.seconds == recorded_s(tmp_path)
    assert at_least - ROUNDING_S <= entry.seconds <= at_most + ROUNDING_S
    assert settle_lost(plan) == 0
    assert not list((tmp_path / "work").iterdir())
    assert not list(tmp_path.rglob("claim.json"))


def test_an_end_that_nobody_saw_is_estimated_within_one_interval(tmp_path: Path, start_run: Start) -> None:
    began = time.monotonic()
    parent = start_run(tmp_path, 10_000, 0.02)
    child, born = first_child(parent)
    wait_for(lambda: list(tmp_path.rglob("complete.json")))
    parent.send_signal(signal.SIGSTOP)  # it may not see the child's end
    at_least = time.monotonic() - born
    wait_for(lambda: recorded_s(tmp_path) >= at_least)
    child.kill()
    at_most = time.monotonic() - began
    wait_for(lambda: child.status() == psutil.STATUS_ZOMBIE)
    parent.kill()
    parent.wait()
    plan, recorded = toy_plan(tmp_path), recorded_s(tmp_path)
    assert settle_lost(plan) == 1
    (entry,) = entries(plan)
    assert entry.estimated
    heartbeat_s = plan.experiment.execution.heartbeat_s
    assert entry.seconds == pytest.approx(recorded + heartbeat_s)
    assert at_least <= entry.seconds <= at_most + heartbeat_s + ROUNDING_S
    (record,) = [path.read_text() for path in tmp_path.rglob("execution/*.json")]
    assert '"status": "killed"' in record


def test_a_living_attempt_is_not_settled_by_another_run(tmp_path: Path, start_run: Start) -> None:
    start_run(tmp_path, 1000, 0.02)
    wait_for(lambda: list(tmp_path.rglob("complete.json")))
    plan = toy_plan(tmp_path)
    assert settle_lost(plan) == 0
    (entry,) = entries(plan)
    assert entry.state == "open"


def on_a_gpu(plan: Plan) -> Plan:
    stages = tuple(replace(stage, resources=replace(stage.resources, gpu=True)) for stage in plan.stages)
    execution = plan.experiment.execution.model_copy(update={"device": "cuda"})
    return replace(plan, stages=stages, experiment=plan.experiment.model_copy(update={"execution": execution}))


@pytest.mark.parametrize(("device", "at_most"), [("cuda", 1), ("cpu", 2)])
def test_stages_take_turns_at_the_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, at_most: int
) -> None:
    plan = toy_plan(tmp_path, (toy_stage("sft"), toy_stage("rm")), steps=20, pause_s=0.02)
    plan = on_a_gpu(plan) if device == "cuda" else plan
    one, at_work, most = flows.run._attempt_once, 0, 0

    def counted(*arguments: Any) -> Any:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        try:
            return one(*arguments)
        finally:
            at_work -= 1

    monkeypatch.setattr(flows.run, "_attempt_once", counted)
    run = Run(plan, board_of(plan))
    threads = [threading.Thread(target=carry_out, args=(run, s.name, LOG, lambda p: None)) for s in plan.stages]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [row.state for row in run.board.rows.values()] == ["complete", "complete"]
    assert most == at_most


def test_who_waits_for_the_gpu_stops_when_asked(tmp_path: Path) -> None:
    plan = on_a_gpu(toy_plan(tmp_path, ALONE))
    run = Run(plan, board_of(plan))
    run.gpu.acquire()
    stopper = threading.Thread(
        target=lambda: (wait_for(lambda: run.board.rows["risk"].state == "held"), run.stopping.set())
    )
    stopper.start()
    with pytest.raises(StageEnded, match="run again to go on"):
        carry_out(run, "risk", LOG, lambda percent: None)
    stopper.join()
    assert entries(plan) == []
