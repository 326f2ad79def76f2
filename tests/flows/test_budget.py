"""The budget stops a run: a reservation is refused, the cap is lowered, or an attempt outlives what it reserved."""

from __future__ import annotations

import io
import logging
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

import flows.attempt
from engine import ledger
from engine.errors import BudgetExceeded, RetainError
from engine.store import FolderStore
from eval.console import make_console
from flows import __main__ as command
from flows import preflight
from flows import train as dag
from flows.budget import watched
from flows.launch import HERE
from flows.plan import Plan
from flows.run import Run, carry_out
from tests.flows.toy_plan import board_of, toy_plan, toy_stage

LOG = logging.getLogger("test")
# A reservation of 60 s and 15 s to end, at $0.134 an hour.
ONE = 0.002792
SIDE_BY_SIDE = (toy_stage("risk"), toy_stage("accept"))


def wait_for(condition: object, seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < until, "did not happen in time"
        time.sleep(0.01)


def checkpointed(plan: Plan, stage: str) -> bool:
    """Whether the stage has a sealed checkpoint."""
    folder = Path(plan.store.url) / "chaos" / stage
    return any(folder.rglob("complete.json"))


def at_work() -> list[psutil.Process]:
    """The processes of attempts. Others of this process may live, such as multiprocessing's resource tracker."""
    return [child for child in psutil.Process().children() if "engine" in child.cmdline()]


class Running:
    """A run of the plan with a thread for each stage, as Prefect has it, and what it announced."""

    def __init__(self, plan: Plan) -> None:
        self.told: list[tuple[str, str]] = []
        self.run = Run(plan, board_of(plan), announce=lambda event, words: self.told.append((event, words)))
        self.threads = {stage.name: threading.Thread(target=self._stage, args=(stage.name,)) for stage in plan.stages}

    def _stage(self, name: str) -> None:
        with suppress(RetainError):
            carry_out(self.run, name, LOG, lambda percent: None)

    def events(self) -> list[str]:
        return [event for event, _ in self.told]

    @contextmanager
    def going(self) -> Iterator[None]:
        """All stages run and the ledger is watched; in the end they are waited for."""
        with watched(self.run, every_s=0.05):
            for thread in self.threads.values():
                thread.start()
            try:
                yield
            finally:
                for thread in self.threads.values():
                    thread.join()


def check_stopped_and_resumable(running: Running, stage: str) -> None:
    """The stage was asked to checkpoint, and nothing is left running, open or claimed; with money it goes on."""
    plan = running.run.plan
    assert running.run.board.rows[stage].state == "stopped"
    assert checkpointed(plan, stage)
    assert not list(Path(plan.store.url).rglob("claim.json"))
    attempts = ledger.entries(plan.store, "chaos")
    assert {entry.state for entry in attempts} == {"settled"}
    assert not any(entry.preempted for entry in attempts)  # the run wanted their end
    assert at_work() == []


def test_a_refused_reservation_stops_the_others(tmp_path: Path) -> None:
    plan = toy_plan(tmp_path, SIDE_BY_SIDE, steps=1000, pause_s=0.02, budget_usd=1.5 * ONE)
    running = Running(plan)
    with watched(running.run, every_s=0.05):
        running.threads["risk"].start()
        wait_for(lambda: checkpointed(plan, "risk"))
        running.threads["accept"].start()
        for thread in running.threads.values():
            thread.join()
    assert running.run.board.rows["accept"].state == "refused"
    assert "accept: refused before it started" in running.run.over_budget
    assert running.events().count("exceeded") == 1
    check_stopped_and_resumable(running, "risk")


def test_a_cap_that_is_lowered_stops_a_run_at_work(tmp_path: Path) -> None:
    plan = toy_plan(tmp_path, SIDE_BY_SIDE, steps=1000, pause_s=0.02)
    running = Running(plan)
    with running.going():
        wait_for(lambda: checkpointed(plan, "risk") and checkpointed(plan, "accept"))
        ledger.set_cap(plan.store, "chaos", 2 * ONE)
        time.sleep(0.3)
        assert not running.run.stopping.is_set()  # as much as is reserved
        ledger.set_cap(plan.store, "chaos", 1.9 * ONE)
    assert "than the cap: chaos: metered $0.0000, reserved by running attempts $0.0056" in running.run.over_budget
    assert running.events() == ["warning", "exceeded"]
    for stage in ("risk", "accept"):
        check_stopped_and_resumable(running, stage)
    ledger.set_cap(plan.store, "chaos", None)
    again = Running(toy_plan(tmp_path, SIDE_BY_SIDE, steps=1000, pause_s=0.02))
    with again.going():
        wait_for(lambda: again.run.board.rows["risk"].progress)
        step = int(again.run.board.rows["risk"].progress.partition("/")[0])
        again.run.stopping.set()
    assert step > 1


def test_an_attempt_that_outlives_its_reservation_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flows.attempt, "ENDING_S", 0.5)
    plan = toy_plan(tmp_path, SIDE_BY_SIDE, steps=10_000, pause_s=0.02)
    limits = plan.experiment.execution.time_limit_s
    limits["risk"] = 3.0  # type: ignore[index]
    running = Running(plan)
    with running.going():
        wait_for(lambda: checkpointed(plan, "risk") and checkpointed(plan, "accept"))
        (frozen,) = (process for process in at_work() if "-risk-" in " ".join(process.cmdline()))
        os.kill(frozen.pid, signal.SIGSTOP)
    assert re.match(r"chaos/risk/\w+/1 lived 0\.\d s longer than it had reserved: chaos: ", running.run.over_budget)
    assert running.run.board.rows["risk"].state == "failed"
    assert running.events() == ["exceeded"]
    check_stopped_and_resumable(running, "accept")
    (entry,) = (e for e in ledger.entries(plan.store, "chaos") if e.stage == "risk")
    assert entry.overrun_s > 0
    assert entry.metered_micro_usd <= entry.reserved_micro_usd
    # Whoever runs again afterwards is not stopped by what an earlier run has seen.
    again = Running(toy_plan(tmp_path, (toy_stage("accept"),), steps=5))
    with again.going():
        pass
    assert again.run.board.rows["accept"].state == "complete"


def test_an_overrun_of_another_run_of_the_scope_stops_this_one(tmp_path: Path) -> None:
    plan = toy_plan(tmp_path, (toy_stage("risk"),), steps=1000, pause_s=0.02)
    theirs = {"experiment": "chaos", "stage": "accept", "usd_per_hour": 0.1, "limit_s": 10.0, "overhead_s": 0.0}
    ledger.reserve(plan.store, "chaos", cap_usd=1.0, attempt_id="chaos/accept/f/1", **theirs)  # type: ignore[arg-type]
    running = Running(plan)
    with running.going():
        wait_for(lambda: checkpointed(plan, "risk"))
        ledger.settle(plan.store, "chaos", "chaos/accept/f/1", 12.0, estimated=False)
    assert "chaos/accept/f/1 lived 2.0 s longer than it had reserved" in running.run.over_budget
    check_stopped_and_resumable(running, "risk")


def test_a_run_with_nothing_at_work_is_not_stopped_by_what_others_spent(tmp_path: Path) -> None:
    """All of it is reused, for instance; and that another run's attempt lived too long is that run's news."""
    plan = toy_plan(tmp_path, (toy_stage("risk"),), budget_usd=1e-6)
    theirs = {"experiment": "chaos", "stage": "accept", "usd_per_hour": 0.1, "limit_s": 10.0, "overhead_s": 0.0}
    ledger.reserve(plan.store, "chaos", cap_usd=1.0, attempt_id="chaos/accept/f/1", owner="other", **theirs)  # type: ignore[arg-type]
    running = Running(plan)
    running.run.launcher = replace(HERE, owner="this run")
    with watched(running.run, every_s=0.01):
        ledger.settle(plan.store, "chaos", "chaos/accept/f/1", 12.0, estimated=False)
        running.run.board.update("risk", state="reused")
    assert running.events() == ["warning"]
    assert not running.run.stopping.is_set()


def test_most_of_the_budget_is_warned_of_once(tmp_path: Path) -> None:
    plan = toy_plan(tmp_path, SIDE_BY_SIDE, steps=60, pause_s=0.02, budget_usd=2.4 * ONE)  # 83 %, then less again
    running = Running(plan)
    with running.going():
        pass
    assert [row.state for row in running.run.board.rows.values()] == ["complete", "complete"]
    assert running.events() == ["warning"]
    (notice,) = running.run.board.notices
    assert notice.startswith("83% of the budget is spent or reserved: chaos: ")


def test_what_is_far_from_the_cap_is_not_warned_of(tmp_path: Path) -> None:
    plan = toy_plan(tmp_path, (toy_stage("risk"),), budget_usd=1.3 * ONE)  # 77 %
    running = Running(plan)
    with running.going():
        pass
    assert (running.told, running.run.board.notices) == ([], [])


def test_a_run_that_the_budget_stopped_says_so_and_ends_as_one_that_was_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Listening:
        address, log = "http://127.0.0.1:0", tmp_path / "server.log"

        def gone(self) -> None:
            return None

    @contextmanager
    def listening(*_: object) -> Iterator[Listening]:
        yield Listening()

    plan = toy_plan(tmp_path, SIDE_BY_SIDE, steps=1000, pause_s=0.02)
    running = Running(plan)

    def train(run: Run) -> None:
        with running.going():
            wait_for(lambda: checkpointed(plan, "risk"))
            ledger.set_cap(plan.store, "chaos", 0.0)

    monkeypatch.setattr(command, "private_server", listening)
    monkeypatch.setattr(dag, "train_here", train)
    console = make_console(200, io.StringIO())
    assert command._carry_out(running.run, console) == BudgetExceeded.exit_code
    assert isinstance(console.file, io.StringIO)
    output = console.file.getvalue()
    assert "stopped by the budget: more is metered and reserved than the cap" in output
    assert "the same command goes on from here" in output
    assert "WARNING" not in output


# --- make budget -------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FolderStore:
    monkeypatch.setenv("RETAIN_STORE", str(tmp_path))
    return FolderStore(tmp_path)


def budget(*arguments: str) -> int:
    return command.main(["budget", "--experiment", "chaos", *arguments])


def test_the_cap_is_shown_set_and_taken_away(store: FolderStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert budget() == 0
    assert "cap $100 (the experiment's: $100, set by make budget: none)" in capsys.readouterr().out
    assert budget("50.5") == 0
    assert "cap $50.5 (the experiment's: $100, set by make budget: $50.5)" in capsys.readouterr().out
    assert ledger.look(store, "chaos", 100.0)[0].own_cap == 50_500_000
    assert budget("none") == 0
    assert ledger.look(store, "chaos", 100.0)[0].own_cap is None


def test_a_cap_below_what_is_spent_says_what_follows(store: FolderStore, capsys: pytest.CaptureFixture[str]) -> None:
    asked = {"experiment": "chaos", "stage": "risk", "usd_per_hour": 1.0, "limit_s": 3600.0, "overhead_s": 0.0}
    ledger.reserve(store, "chaos", cap_usd=100.0, attempt_id="chaos/risk/f/1", **asked)  # type: ignore[arg-type]
    assert budget("0.5") == 0
    assert "runs that are at work checkpoint and stop" in capsys.readouterr().out


@pytest.mark.parametrize("usd", ["-1", "much", "nan", "inf", ""])
def test_what_is_no_amount_is_one_line(store: FolderStore, capsys: pytest.CaptureFixture[str], usd: str) -> None:
    assert budget(usd) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"USD={usd}" in line
    assert list(store.list("ledger")) == []


def test_a_machine_without_a_price_is_refused_before_anything_is_asked_for(
    tmp_path: Path, store: FolderStore, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "experiment_mine.yaml"
    machine = "{type: n1-standard-8, gpu: null, preemptible: true}"
    mine.write_text(
        f"extends: chaos\ntag: mine\nexecution: {{device: cuda}}\ncosts: {{machines: {{gpu: {machine}}}}}\n"
    )
    monkeypatch.setattr(preflight, "check", lambda *_, **__: pytest.fail("it looked for data first"))
    assert command.main(["run", "--experiment", str(mine)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no price of a preemptible n1-standard-8 without a GPU in us-central1" in line
    assert list(store.list("ledger")) == []
