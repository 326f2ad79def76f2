"""What `python -m flows run` ends with."""

from __future__ import annotations

import io
import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prefect import State
from prefect.states import Failed

from eval.console import make_console
from flows import __main__ as command
from flows import train as dag
from flows.run import Run, StageEnded, carry_out
from flows.server import PrefectFailed
from tests.flows.toy_plan import board_of, toy_plan, toy_stage


class Listening:
    """As a server that runs."""

    address = "http://127.0.0.1:0"

    def __init__(self, log: Path) -> None:
        self.log = log

    def gone(self) -> None:
        return None


@pytest.fixture
def without_prefect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def listening(*_: object) -> Iterator[Listening]:
        yield Listening(tmp_path / "server.log")

    monkeypatch.setattr(command, "private_server", listening)


def end(run: Run) -> tuple[int, str]:
    console = make_console(200, io.StringIO())
    code = command._carry_out(run, console)
    assert isinstance(console.file, io.StringIO)
    return code, console.file.getvalue()


def test_a_dag_that_did_nothing_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_prefect: None
) -> None:
    monkeypatch.setattr(dag, "train_here", lambda run: None)
    plan = toy_plan(tmp_path)
    run = Run(plan, board_of(plan))
    assert end(run)[0] == 1
    assert {row.state for row in run.board.rows.values()} == {"skipped"}


@pytest.mark.parametrize(("function", "code"), [("missed", 3), ("bad_input", 2), ("broken", 1), ("walk", 0)])
def test_the_exit_code_says_what_was_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_prefect: None, function: str, code: int
) -> None:
    def train(run: Run) -> None:
        try:
            carry_out(run, "risk", logging.getLogger("test"), lambda percent: None)
        except StageEnded:
            return

    monkeypatch.setattr(dag, "train_here", train)
    plan = toy_plan(tmp_path, (toy_stage("risk", function=function),))
    found, output = end(Run(plan, board_of(plan)))
    assert found == code
    assert ("risk: " in output) == (code != 0)


def test_what_prefect_raises_is_one_line_and_no_stage_s_inputs_are_blamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_prefect: None
) -> None:
    def train(run: Run) -> None:
        raise ImportError("Using SOCKS proxy, but the 'socksio' package is not installed")

    monkeypatch.setattr(dag, "train_here", train)
    plan = toy_plan(tmp_path, (toy_stage("customers"), toy_stage("risk", ("customers",))))
    run = Run(plan, board_of(plan))
    with pytest.raises(
        PrefectFailed, match=r"Prefect failed \(ImportError: Using SOCKS proxy.*\); the traceback is in"
    ):
        end(run)
    assert {name: (row.state, row.message) for name, row in run.board.rows.items()} == {
        "customers": ("skipped", "the run ended before it began"),
        "risk": ("skipped", "it reads from customers, which did not complete"),
    }


def as_flow(state: State[None]) -> Any:
    """In place of Prefect's decorator: a flow that ends in that state, whatever it would do."""
    return lambda **_: lambda function: lambda *_, **__: state


def test_a_flow_that_prefect_ended_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = toy_plan(tmp_path)
    run = Run(plan, board_of(plan))
    monkeypatch.setattr(dag, "flow", as_flow(Failed(message="Flow run encountered an exception: OSError: no thread")))
    with pytest.raises(PrefectFailed, match="OSError: no thread"):
        dag.train_here(run)
    monkeypatch.setattr(dag, "flow", as_flow(Failed(message=f"{dag.DID_NOT_COMPLETE}: risk")))
    dag.train_here(run)  # a stage said itself why


@pytest.mark.parametrize(("stage", "state"), [("customers", "failed"), ("risk", "waiting")])
def test_a_stage_that_prefect_never_began_says_so(stage: str, state: str, tmp_path: Path) -> None:
    """One whose input is missing waits, and is skipped in the end."""
    plan = toy_plan(tmp_path)
    run = Run(plan, board_of(plan))
    dag._name_a_failure_of_prefect(run, stage, Failed(message="Task run encountered an exception: 503"))
    assert run.board.rows[stage].state == state
    assert run.exit_codes == ({"customers": 1} if state == "failed" else {})
    assert ("503" in run.board.rows[stage].message) == (state == "failed")


def test_a_run_that_made_everything_is_a_success_though_prefect_failed_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_prefect: None
) -> None:
    def train(run: Run) -> None:
        run.board.update("risk", state="complete")
        raise ConnectionError("the log can't be sent")

    monkeypatch.setattr(dag, "train_here", train)
    plan = toy_plan(tmp_path, (toy_stage("risk"),))
    code, output = end(Run(plan, board_of(plan)))
    assert code == 0
    assert "Prefect failed (ConnectionError: the log can't be sent)" in output


def test_a_terminal_that_is_closed_asks_the_stages_to_stop_and_kills_none() -> None:
    """It says so more than once, and its Ctrl-C comes no more."""
    stopping, killing = threading.Event(), threading.Event()
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
    try:
        with command._Stop(stopping, killing) as stop:
            for _ in range(2):
                signal.raise_signal(signal.SIGHUP)
            assert (stop.signal, stopping.is_set(), killing.is_set()) == (signal.SIGHUP, True, False)
            signal.raise_signal(signal.SIGTERM)
            assert killing.is_set()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with command._Stop(threading.Event(), threading.Event()) as stop:
            signal.raise_signal(signal.SIGHUP)
            assert stop.signal is None
    finally:
        signal.signal(signal.SIGHUP, before)
