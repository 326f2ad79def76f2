"""A run followed from a terminal: what is printed, how it ends, and Ctrl-C."""

from __future__ import annotations

import signal
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect.states import Cancelled, Completed, Crashed, Failed, Running, Scheduled

from flows import follow

RUN = uuid4()


class Api:
    """A server where the run passes through these states, one for each look."""

    def __init__(self, *states: Any) -> None:
        self.states = list(states)
        self.proposed: list[str] = []

    def __enter__(self) -> Api:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def read_flow_run(self, run: UUID) -> Any:
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if isinstance(state, type):
            raise state
        return SimpleNamespace(name="train-local", state=state)

    def read_flow_runs(self, **_: object) -> list[Any]:
        return [SimpleNamespace(name="risk-1", state=Running())]

    def set_flow_run_state(self, run: UUID, state: Any, force: bool = False) -> None:
        self.proposed.append(state.name)
        self.states = [Cancelled(message="stopped; the next run goes on from here")]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "LOOK_S", 0.0)
    monkeypatch.setattr(follow, "CRASHED_S", 0.05)


@pytest.mark.parametrize(
    ("states", "code"),
    [
        ((Running(), Completed()), 0),
        ((Running(), Failed(message="did not complete: risk")), 1),
        ((Crashed(), Scheduled(), Running(), Completed()), 0),  # its parent was killed, and came back
        ((Running(), Crashed()), 1),
    ],
)
def test_a_run_is_followed_to_its_end(states: Any, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert follow._watch(Api(*states), RUN) == code  # type: ignore[arg-type]
    lines = capsys.readouterr().out.splitlines()
    assert sum("risk-1" in line for line in lines) == 1
    assert (states[-1].message or states[-1].name) in lines[-1]


def test_ctrl_c_cancels_the_run_and_waits_for_its_stages(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    api = Api(Running(), KeyboardInterrupt)
    monkeypatch.setattr(follow, "client", lambda: api)
    monkeypatch.setattr(follow, "FlowRun", SimpleNamespace)
    monkeypatch.setattr(follow, "run_deployment", lambda *_, **__: SimpleNamespace(id=RUN, name="eager-bee"))
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert follow.follow("local", []) == 1
    assert api.proposed == ["Cancelling"]
    assert "the next run goes on from here" in capsys.readouterr().out
