"""What `python -m flows run` ends with."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console

from flows import __main__ as command
from flows import train as dag
from flows.run import Run, StageEnded, carry_out
from tests.flows.toy_plan import board_of, toy_plan, toy_stage


class Listening:
    """As a server that runs."""

    address = "http://127.0.0.1:0"

    def gone(self) -> None:
        return None


@pytest.fixture
def without_prefect(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def listening(*_: object) -> Iterator[Listening]:
        yield Listening()

    monkeypatch.setattr(command, "private_server", listening)


def end(run: Run) -> tuple[int, str]:
    console = Console(file=io.StringIO(), width=200)
    code = command._carry_out(run, console)
    assert isinstance(console.file, io.StringIO)
    return code, console.file.getvalue()


def test_a_dag_that_did_nothing_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_prefect: None
) -> None:
    monkeypatch.setattr(dag, "train", lambda run: None)
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

    monkeypatch.setattr(dag, "train", train)
    plan = toy_plan(tmp_path, (toy_stage("risk", function=function),))
    found, output = end(Run(plan, board_of(plan)))
    assert found == code
    assert ("risk: " in output) == (code != 0)
