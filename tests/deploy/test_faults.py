"""Faults that an alert tells of, provoked in the whole chain of real processes: from the end of the alert's `for` to
the baseline on both replicas. And loads in which none may fire."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from retain.release import Release
from tests.deploy.chain import Chain
from tests.deploy.faults import BACK_SECONDS, MakeChain, busy, report, rolled_back_by, sound
from tests.serve.callers import Callers
from tests.serve.memory import DAY

pytestmark = [pytest.mark.slow, pytest.mark.kills]

ERRORS, LATENCY, UNSAFE = "RetainArmErrors", "RetainArmLatency", "RetainArmUnsafe"
SERVER_ERRORS, SERVER_LATENCY, NRR = "RetainServerErrors", "RetainLatency", "RetainNrrDrop"
ENOUGH = 1_300  # matured decisions of each arm


def without_errors(release: Release) -> dict[str, Any]:
    """Limits with which failures of the arm roll nothing back: what is slow or unsafe has failed as well."""
    limits = release.monitoring
    return {
        "limits": limits.model_copy(update={"error_rate": limits.error_rate.model_copy(update={"min_events": 10**9})})
    }


def broken(
    make: MakeChain,
    release: Release,
    fault: str,
    alert: str,
    percent: float = 50.0,
    pause: float = 0.002,
    **options: Any,
) -> None:
    """The arm is broken, and rolled back by that alert."""
    with make(**options) as chain, Callers(release, chain.apis, pause=pause) as callers:
        chain.begin(percent)
        busy(callers)
        assert chain.served(percent)
        chain.break_arm(fault)
        seconds = rolled_back_by(chain, alert)
        busy(callers, 50)
    sound(chain, callers)
    assert seconds < BACK_SECONDS
    scale = options.get("scale", 60)
    what = f"{alert}: the arm {fault}" + (", unscaled" if scale == 1 else "")
    report(what, "rolled back", callers.answers, seconds, BACK_SECONDS, scale)


def test_errors(chain: MakeChain, release: Release) -> None:
    broken(chain, release, "throws", ERRORS)


def test_latency(chain: MakeChain, release: Release) -> None:
    broken(chain, release, "slower", LATENCY, deadline=0.05, **without_errors(release))


def test_unsafe(chain: MakeChain, release: Release) -> None:
    broken(chain, release, "unsafe at first", UNSAFE, percent=100.0)


class Leaving(Callers):
    """Callers whose customers leave, if the challenger has decided about them, one time out of two."""

    def _tell(self, caller: Any, heard: Any, rng: random.Random) -> None:
        asked = heard.asked[-1]
        if json.loads(asked.answer)["mode"] == "learned" and rng.random() < 0.5:
            self._outcome(caller, heard, asked, "churned", {"outcome": "churned"})


def test_nrr(chain: MakeChain, release: Release) -> None:
    """Customers were decided about 15 days ago, so that their decisions have matured: by the workers' clock, which the
    admin process doesn't share."""
    with chain() as running, Leaving(release, running.apis, pause=0.002) as callers:
        running.set_clock(-15 * DAY)
        running.begin(50.0)
        seconds = rolled_back_by(running, NRR)
        matured = min(running.counted("retain_nrr_matured").values())
        busy(callers, 50)
    sound(running, callers)
    assert seconds < BACK_SECONDS
    assert matured >= ENOUGH
    report(f"{NRR}: half of the challenger's customers leave", "rolled back", callers.answers, seconds, BACK_SECONDS)


@pytest.mark.parametrize(("trouble", "alert"), [("raises", SERVER_ERRORS), ("is slow", SERVER_LATENCY)])
def test_what_callers_saw(chain: MakeChain, release: Release, trouble: str, alert: str) -> None:
    """The workers themselves have a bug: whether or not that is the challenger's fault, it goes."""
    with chain(**without_errors(release) if trouble != "raises" else {}) as running:
        with Callers(release, running.apis, pause=0.002) as before:
            running.begin(50.0)
            busy(before)
        running.trouble.write_text(trouble)
        with Callers(release, running.apis, count=20, pause=0.002) as seeing:
            seconds = rolled_back_by(running, alert)
        running.trouble.write_text("")
        with Callers(release, running.apis, pause=0.002) as after:
            busy(after)
    for callers in (before, after, *([seeing] if trouble == "is slow" else [])):
        sound(running, callers)
    assert trouble != "raises" or {code for path, code in seeing.codes if path == "/retain"} == {500}
    assert seconds < BACK_SECONDS
    requests = sum(count for (path, _), count in seeing.codes.items() if path == "/retain")
    report(f"{alert}: /retain {trouble}", "rolled back", requests, seconds, BACK_SECONDS)


def test_errors_in_time_as_it_is(chain: MakeChain, release: Release) -> None:
    """Ten minutes of `for`, unscaled."""
    broken(chain, release, "throws", ERRORS, scale=1, pause=0.05)


# -- no false alarms -----------------------------------------------------------------------------------------------


@contextmanager
def coming_and_going(chain: Chain, fault: str, seconds: float, without: float) -> Iterator[None]:
    """The fault, for so many seconds, and again after so many without it."""
    over = threading.Event()

    def toggle() -> None:
        while not over.is_set():
            for what, pause in ((fault, seconds), ("", without)):
                chain.fault.write_text(what)
                if over.wait(pause):
                    break
        chain.fault.write_text("")

    thread = threading.Thread(target=toggle)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def half(release: Release) -> dict[str, Any]:
    """Limits of which that of errors is a half."""
    errors = release.monitoring.error_rate.model_copy(update={"limit": 0.5})
    return {"limits": release.monitoring.model_copy(update={"error_rate": errors})}


@pytest.mark.parametrize(("seconds", "fires"), [(0.8, False), (1.2, True)])
def test_what_comes_and_goes_is_judged_by_its_mean(
    chain: MakeChain, release: Release, seconds: float, fires: bool
) -> None:
    """Within two minutes of the alerts' time: 40 % or 60 % fail, where half may, and no good minute begins it anew."""
    with chain(**half(release)) as running, Callers(release, running.apis, pause=0.002) as callers:
        running.begin(50.0)
        busy(callers)
        with coming_and_going(running, "throws", seconds, 2.0 - seconds):
            took = None
            if fires:
                took = rolled_back_by(running, ERRORS)
                assert took < BACK_SECONDS
            else:
                time.sleep(60.0)  # an hour of the alerts' time
                assert running.ever() == set()
                assert running.served(50.0)
    sound(running, callers)
    share, came = ("just above", "rolled back") if fires else ("just below", "no alert, for an hour of alerts' time")
    report(
        f"{ERRORS}: it comes and goes, {share} the limit", came, callers.answers, took, BACK_SECONDS if fires else None
    )


def test_a_short_burst_is_no_alert(chain: MakeChain, release: Release) -> None:
    """All fails, for less than five minutes of the alerts' time."""
    with chain() as running, Callers(release, running.apis, pause=0.002) as callers:
        running.begin(50.0)
        for _ in range(2):
            busy(callers)
            running.fault.write_text("throws")
            time.sleep(3.0)
            running.fault.write_text("")
            time.sleep(20.0)
        assert running.ever("pending") == {ERRORS}  # it was seen
        assert running.ever() == set()
        assert running.served(50.0)
    sound(running, callers)
    report(f"{ERRORS}: a burst of three minutes", "no alert", callers.answers)


def test_nothing_is_told_from_a_few_customers(chain: MakeChain, release: Release) -> None:
    """Everything of the arm fails, but fewer customers were decided about than the guard of the alerts wants."""
    with chain() as running:
        running.begin(50.0)
        running.break_arm("throws")
        with Callers(release, running.apis, count=1, pause=0.2) as callers:
            busy(callers, 100)
        time.sleep(40.0)
        errors = sum(running.counted("retain_arm_errors_total", name).get(running.learned, 0) for name in running.ports)
        told = running.command("status").stdout
        assert running.ever() == running.ever("pending") == set()
        assert running.served(50.0)
    sound(running, callers)
    assert 4 <= errors < 100
    assert "hold" in told, told
    came = f"hold, no alert: {errors:.0f} decisions failed, and 100 are wanted"
    report(f"{ERRORS}: the arm throws, at low traffic", came, callers.answers)


HEALTHY_SECONDS = 600.0  # ten hours of the alerts' time


def test_health_is_no_alert(chain: MakeChain, release: Release) -> None:
    with chain() as running, Callers(release, running.apis, pause=0.01) as callers:
        generation = running.begin(50.0).generation
        time.sleep(HEALTHY_SECONDS)
        assert running.ever() == set()
        assert running.rollout.generation == generation
        assert running.served(50.0)
        pending = sorted(running.ever("pending"))
        assert {page["severity"] for page in running.pager.pages} <= {"ticket"}  # a quarter of these customers opts out
    figures = sound(running, callers)
    came = f"no alert ({', '.join(pending) or 'none'} pending), {figures['learned']:.0f} decisions by the challenger"
    report("none: the arm is well, for ten hours of alerts' time", came, callers.answers)
