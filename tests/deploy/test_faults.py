"""Faults, provoked in the whole chain of real processes: from what is wrong to the baseline on both replicas."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from retain.release import Release
from tests.deploy.chain import Chain, until
from tests.serve.callers import Callers

pytestmark = [pytest.mark.slow, pytest.mark.kills]

BACK_SECONDS = 15.0  # from the end of an alert's `for` to the baseline on both replicas
DEAD_SECONDS = 60.0  # from the death of anything in the chain


@pytest.fixture
def chain(tmp_path: Path, store: Path, release: Release) -> Callable[..., Chain]:
    def make(**options: float) -> Chain:
        shutil.copytree(store, tmp_path / "store")
        return Chain(tmp_path, tmp_path / "store", release, **options)  # type: ignore[arg-type]

    return make


def busy(callers: Callers, more: int = 300) -> None:
    answers = callers.answers
    until(lambda: callers.answers > answers + more)


def rolled_back_by(chain: Chain, alert: str) -> float:
    """Seconds from the alert to the baseline, and that all of it is on record."""
    until(lambda: chain.alerts().get(alert) == "firing")
    seconds = until(lambda: chain.served(0.0))
    event = chain.rollout.history[-1]
    assert (event.action, event.by, event.release) == ("roll_back", "controller", chain.version)
    assert alert in event.reason
    until(lambda: any(page["release"] == chain.version for page in chain.pager.pages))
    return seconds


# -- alerts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "alert"), [("throws", "RetainArmErrors"), ("slow", "RetainArmLatency"), ("unsafe", "RetainArmUnsafe")]
)
def test_an_alert_of_the_challenger_rolls_it_back(chain: Callable[..., Chain], fault: str, alert: str) -> None:
    with chain() as running, Callers(running.release, running.apis, pause=0.002) as callers:
        running.begin(50.0)
        busy(callers)
        assert running.served(50.0)
        running.break_arm(fault)
        assert rolled_back_by(running, alert) < BACK_SECONDS
    callers.check()


# -- the chain itself ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["killed", "paused"])
@pytest.mark.parametrize("part", ["controller", "prometheus", "alertmanager"])
def test_without_any_part_of_the_chain_the_baseline_decides(chain: Callable[..., Chain], part: str, how: str) -> None:
    with chain() as running, Callers(running.release, running.apis) as callers:
        running.begin(50.0)
        busy(callers, 50)
        running.kill(part) if how == "killed" else running.pause(part)
        assert until(lambda: running.served(0.0)) < DEAD_SECONDS
        assert running.rollout.percent == 50.0  # nobody has rolled it back
        running.start(part) if how == "killed" else running.resume(part)
        until(lambda: running.served(50.0))
        assert running.rollout.challenger is not None
    callers.check()
