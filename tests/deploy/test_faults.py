"""Faults of a challenger, provoked in the whole chain of real processes: from what is wrong to the baseline."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from retain.release import Release
from tests.deploy.chain import Chain, until
from tests.serve.callers import Callers

pytestmark = [pytest.mark.slow, pytest.mark.kills]


@pytest.fixture
def chain(tmp_path: Path, store: Path, release: Release) -> Callable[..., Chain]:
    def make(**options: float) -> Chain:
        shutil.copytree(store, tmp_path / "store")
        return Chain(tmp_path, tmp_path / "store", release, **options)  # type: ignore[arg-type]

    return make


@pytest.mark.parametrize(("fault", "alert"), [("throws", "RetainArmErrors")])
def test_an_alert_of_the_challenger_rolls_it_back(chain: Callable[..., Chain], fault: str, alert: str) -> None:
    with chain() as running, Callers(running.release, running.apis, pause=0.002) as callers:
        running.begin(50.0)
        answers = callers.answers
        until(lambda: callers.answers > answers + 500)
        assert running.served(50.0)
        running.fault.write_text(fault)
        until(lambda: running.alerts().get(alert) == "firing")
        seconds = until(lambda: running.served(0.0))
        assert seconds < 15
        event = running.rollout.history[-1]
        assert (event.action, event.by, event.release) == ("roll_back", "controller", running.version)
        assert alert in event.reason
        until(lambda: any(page["release"] == running.version for page in running.pager.pages))
    callers.check()
