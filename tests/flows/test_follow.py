"""A run followed from a terminal: what is printed, how it ends, and Ctrl-C."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from prefect.states import Cancelled, Completed, Crashed, Failed, Running, Scheduled

from flows import follow, platform, prefect_api

RUN = uuid4()


class Api:
    """A server where the run passes through these states, one for each look."""

    def __init__(self, *states: Any) -> None:
        self.states = list(states)
        self.proposed: list[str] = []
        self.end: Any = Cancelled()  # after a cancellation

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
        self.states = [self.end]


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
    assert follow._watch(Api(*states), RUN).is_completed() == (code == 0)  # type: ignore[arg-type]
    lines = capsys.readouterr().out.splitlines()
    assert sum("risk-1" in line for line in lines) == 1
    assert (states[-1].message or states[-1].name) in lines[-1]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What run_deployment is called with; and nobody's platform is asked for its password."""
    calls: list[dict[str, Any]] = []

    def run_deployment(name: str, **given: Any) -> Any:
        calls.append(given)
        return SimpleNamespace(id=RUN, name="eager-bee")

    monkeypatch.setattr(follow, "FlowRun", SimpleNamespace)
    monkeypatch.setattr(follow, "run_deployment", run_deployment)
    monkeypatch.setattr(platform, "SECRETS_FILE", Path("/nonexistent"))
    return calls


@pytest.fixture
def handler() -> Iterator[None]:
    """Puts back what handles Ctrl-C."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("handler", "started")
@pytest.mark.parametrize(
    ("end", "code"), [(Cancelled(message="stopped"), 130), (Completed(), 0), (Failed(message="risk"), 1)]
)
def test_ctrl_c_cancels_the_run_and_waits_for_its_stages(
    end: Any, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    api = Api(Running(), KeyboardInterrupt)
    api.end = end
    monkeypatch.setattr(follow, "client", lambda: api)
    assert follow.follow("local", []) == code
    assert api.proposed == ["Cancelling"]
    assert end.name in capsys.readouterr().out


@pytest.mark.usefixtures("handler")
def test_ctrl_c_while_the_run_is_started_cancels_it(
    started: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server has made the run, and the answer is on its way."""
    api = Api(Running())

    def interrupted(name: str, **given: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        started.append(given)
        return SimpleNamespace(id=RUN, name="eager-bee")

    monkeypatch.setattr(follow, "client", lambda: api)
    monkeypatch.setattr(follow, "run_deployment", interrupted)
    assert follow.follow("local", []) == 130
    assert api.proposed == ["Cancelling"]
    assert started[0]["idempotency_key"]


@pytest.mark.usefixtures("handler", "started")
def test_a_cancellation_is_asked_for_until_it_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    api, asked = Api(Running(), KeyboardInterrupt), []

    class Restarting(Api):
        def set_flow_run_state(self, run: UUID, state: Any, force: bool = False) -> None:
            asked.append(state.name)
            if len(asked) < 3:
                raise httpx.ConnectError("Connection refused")
            super().set_flow_run_state(run, state, force)

    api.__class__ = Restarting
    monkeypatch.setattr(follow, "client", lambda: api)
    monkeypatch.setattr(prefect_api, "FIRST_WAIT_S", 0.0)
    assert follow.follow("local", []) == 130
    assert asked == ["Cancelling"] * 3


@pytest.mark.usefixtures("started")
def test_what_the_server_says_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise httpx.ConnectError("Connection refused")

    monkeypatch.setattr(follow, "client", lambda: Api(Running()))
    monkeypatch.setattr(follow, "run_deployment", refuse)
    assert follow.main([]) == 2
    assert "no Prefect server answers at http://127.0.0.1:4200/api" in capsys.readouterr().err
