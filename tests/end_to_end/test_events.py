"""An event that struck nothing isn't counted: without containers."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from docker.errors import APIError

from tests.end_to_end import events
from tests.end_to_end.containers import wait_for
from tests.end_to_end.events import Strikes

GONE = 2**22 + 1  # above any process id of Linux


def refuses(*_: object, **__: object) -> None:
    raise APIError("409: it is not running")


@dataclass
class Attempt:
    """A container as far as events ask it. `log`: what was done to it."""

    name: str = "risk-1"
    status: str = "running"
    reload: Callable[[], None] = lambda: None
    kill: Callable[..., None] = lambda **_: None
    top: Callable[..., Any] = lambda **_: {"Processes": [(str(GONE), "python -m engine request.json")]}
    log: list[str] = field(default_factory=list)

    def pause(self) -> None:
        self.log.append("pause")

    def unpause(self) -> None:
        self.log.append("unpause")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Where the attempt holds its claim."""
    claim = tmp_path / "chaos" / "risk" / "fingerprint" / "claim.json"
    claim.parent.mkdir(parents=True)
    claim.write_text(json.dumps({"token": 1}))
    return tmp_path


def strike(attempt: Attempt, kind: str, store: Path, monkeypatch: pytest.MonkeyPatch) -> Strikes:
    def containers(flow_run: str | None = None) -> list[Attempt]:
        return [] if flow_run else [attempt]  # the parent is between two containers

    def container_of(name: str, seconds: float) -> None:
        raise AssertionError(f"not within {seconds:.0f} s: {name} runs")

    monkeypatch.setattr(events, "DELAY_S", (0.0, 0.0))
    done = dict.fromkeys(("kill", "start"), lambda service: attempt.log.append(service))
    platform: Any = SimpleNamespace(store=store, containers=containers, container_of=container_of, **done)
    strikes = Strikes(platform, "run", random.Random(0))
    strikes.plan("risk", [kind])
    wait_for(lambda: bool(strikes.missed or strikes.struck or strikes.failed), 10, "the event is over")
    return strikes


@pytest.mark.parametrize(
    ("kind", "attempt", "why"),
    [
        ("sigkill", Attempt(), "the stage's process has ended"),
        ("sigkill", Attempt(top=refuses), "not running"),
        ("sigterm", Attempt(kill=refuses), "not running"),
        ("docker_kill", Attempt(status="exited"), "its container has ended"),
        ("parent_killed", Attempt(), "no parent runs"),
        ("paused_until_lost", Attempt(), "its claim was not lost"),
        ("worker_and_container_killed", Attempt(kill=refuses), "not running"),
    ],
)
def test_an_event_that_struck_nothing_is_missed(
    kind: str, attempt: Attempt, why: str, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strikes = strike(attempt, kind, store, monkeypatch)
    strikes.finish()
    assert strikes.struck == []
    (missed,) = strikes.missed
    assert missed.startswith(f"{kind} on risk: ")
    assert why in missed
    # Whatever it did before, it has undone.
    assert attempt.log in ([], ["pause", "unpause"], ["worker", "worker"])


def test_an_event_that_struck_is_counted(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    strikes = strike(Attempt(), "worker_killed", store, monkeypatch)
    strikes.finish()
    assert [(each.kind, each.attempt) for each in strikes.struck] == [("worker_killed", "risk-1")]
    assert strikes.missed == []


def test_an_event_that_goes_wrong_fails_the_test(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ConnectionError("the engine is gone")

    strikes = strike(Attempt(reload=broken), "docker_kill", store, monkeypatch)
    with pytest.raises(ConnectionError):
        strikes.finish()
