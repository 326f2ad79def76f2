"""Faults of a rollout itself, in the whole chain of real processes: restarts, releases that are swapped under load,
controllers and people who get in each other's way, clocks that jump. One of them wins, and no wrong arm decides."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from engine.artifact import ArtifactStore
from engine.releases import version_of
from engine.store import FolderStore
from retain.release import Release
from retain.rollout import Evidence, Plan, Rollout, promote
from retain.signals import SIGNALS
from tests.deploy.chain import EXPERIMENT, PATIENCE, REPLICAS, Chain, until
from tests.deploy.fakes import Answer, FakePrometheus, FakeReplica, answering
from tests.deploy.faults import BACK_SECONDS, DEAD_SECONDS, MakeChain, busy, report, rolled_back_by, sound
from tests.deploy.town import Town
from tests.releases import dataset, inputs, policy, publish, run_stage
from tests.rollouts import figures
from tests.serve.callers import Callers
from tests.serve.databases import postgresql
from tests.serve.memory import DAY
from tests.serve.services import ROOT, Served

pytestmark = pytest.mark.kills

ERRORS = "RetainArmErrors"


def test_a_rollback_outlasts_a_restart_of_everything(chain: MakeChain, release: Release) -> None:
    with chain() as running:
        restart_all(running, release, lambda: None)


@pytest.mark.slow
def test_a_rollback_outlasts_a_restart_of_everything_and_of_postgresql(chain: MakeChain, release: Release) -> None:
    def restart() -> None:
        server.stop()
        server.start()

    with postgresql() as server, chain(url=server.create("rollout")) as running:
        answers = restart_all(running, release, restart)
    came = "still rolled back; proposed again only once forgiven"
    report("everything killed after a rollback, and started again", came, answers)


def restart_all(running: Chain, release: Release, restart_database: Callable[[], None]) -> int:
    """After a rollback, which stays; and the release can't be proposed again before people have released the latch, and
    forgiven it. How many answers were given."""
    with Callers(release, running.apis, pause=0.002) as callers:
        running.begin(50.0)
        busy(callers)
        running.break_arm("throws")
        assert rolled_back_by(running, ERRORS) < BACK_SECONDS
    sound(running, callers)
    answers = callers.answers
    before, version = running.rollout, running.version
    for part in running.parts:
        running.kill(part)
    restart_database()
    running.fault.write_text("")
    running.start(*running.parts)
    with Callers(release, running.apis, pause=0.002) as callers:
        busy(callers)
    sound(running, callers)
    assert {reason.partition(" ")[0] for reason in callers.reasons} == {"baseline"}
    assert running.rollout == before
    assert running.served(0.0)
    for permission in ((), ("release-latch",), ("forgive", version)):
        if permission:
            assert running.command(*permission).returncode == 0
        proposed = running.command("propose", version)
        refused = permission[:1] != ("forgive",)
        assert (proposed.returncode, "Refused" in proposed.stderr) == ((1, True) if refused else (0, False))
    assert running.rollout.phase == "shadow"
    return answers + callers.answers


# -- several at once -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_controllers(chain: MakeChain, release: Release) -> None:
    """One renews the lease, the other takes over when it is killed. Both are told of the alert: there is one rollback,
    and one page of it."""
    with chain(spare=True) as running, Callers(release, running.apis, pause=0.002) as callers:
        running.begin(50.0)
        busy(callers)
        until(lambda: sorted(running.health(name)["lease"] for name in running.controllers) == ["renewed", "spare"])
        first = next(name for name in running.controllers if running.health(name)["lease"] == "renewed")
        (other,) = set(running.controllers) - {first}
        running.kill(first)
        took_over = until(lambda: running.health(other)["lease"] == "renewed")
        until(lambda: running.served(50.0))
        running.start(first)
        until(lambda: running.health(first)["lease"] == "spare")
        busy(callers)
        assert running.health(other)["lease"] == "renewed"
        running.break_arm("throws")
        seconds = rolled_back_by(running, ERRORS)
        busy(callers)
        until(lambda: all(running.health(name)["pages_pending"] == 0 for name in running.controllers))
    sound(running, callers)
    assert [event.action for event in running.rollout.history] == ["propose", "advance", "roll_back"]
    assert len({page["id"] for page in running.pager.pages if page["id"].startswith("rollback/")}) == 1
    assert took_over < DEAD_SECONDS
    assert seconds < BACK_SECONDS
    report("two controllers, the one that renews killed", "the other renews", callers.answers, took_over, DEAD_SECONDS)
    report("two controllers told of one alert", "rolled back once", callers.answers, seconds, BACK_SECONDS)


class AtOnce:
    """The service's GET /shadow, which answers nobody before all of `count` have asked."""

    def __init__(self, replica: FakeReplica, count: int) -> None:
        self._replica, self._barrier = replica, threading.Barrier(count)

    def __call__(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        self._barrier.wait(PATIENCE)
        return self._replica(method, path, headers, body)


ROUNDS = 5


@pytest.mark.parametrize("rounds", [1, pytest.param(ROUNDS, marks=pytest.mark.slow)])
def test_two_people_advance_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rounds: int) -> None:
    """Both by the same figures: exactly one does, and the other is told that the rollout has changed."""
    monkeypatch.setenv("RETAIN_STORE", str(tmp_path / "store"))
    prometheus, replica = FakePrometheus(), FakeReplica("", "admin-admin-admin")
    with answering(prometheus) as at, answering(AtOnce(replica, 2)) as shadow:
        town = Town(tmp_path / "store", prometheus, [at, shadow])
        replica.answer["learned"] = town.good
        for _ in range(rounds):
            assert town.run("propose", town.good, "--by", "Ann", "--reason", "a test") == 0
            generation = town.rollout.generation if town.rollout else 0
            people = [person(town, name, "advance", "--to", "canary") for name in ("Ann", "Bob")]
            outcomes = [(*process.communicate(timeout=PATIENCE), process.returncode) for process in people]
            assert sorted(code for _, _, code in outcomes) == [0, 1], outcomes
            (told,) = [said for _, said, code in outcomes if code == 1]
            assert "Refused: the rollout has changed meanwhile" in told
            rollout = town.rollout
            assert rollout is not None
            assert (rollout.generation, rollout.phase, rollout.percent) == (generation + 1, "canary", 5.0)
            winner = ("Ann", "Bob")[[code for _, _, code in outcomes].index(0)]
            assert rollout.history[-1].by == winner
            for command in (("rollback",), ("release-latch",), ("forgive", town.good)):
                assert town.run(*command, "--by", "Ann", "--reason", "a test") == 0
    if rounds == ROUNDS:
        report("two people advance at once", f"{ROUNDS} times of {ROUNDS} one did, and the other was told so", 0)


@pytest.mark.slow
def test_a_rollback_and_an_advance_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever is first: in the end it is rolled back."""
    monkeypatch.setenv("RETAIN_STORE", str(tmp_path / "store"))
    prometheus, replica = FakePrometheus(), FakeReplica("", "admin-admin-admin")
    with answering(prometheus) as at, answering(replica) as shadow:
        town = Town(tmp_path / "store", prometheus, [at, shadow])
        replica.answer["learned"] = town.good
        for _ in range(ROUNDS):
            assert town.run("propose", town.good, "--by", "Ann", "--reason", "a test") == 0
            people = [person(town, "Ann", "advance", "--to", "canary"), person(town, "Bob", "rollback")]
            outcomes = [(*process.communicate(timeout=PATIENCE), process.returncode) for process in people]
            assert outcomes[1][2] == 0, outcomes
            assert outcomes[0][2] in (0, 1), outcomes
            rollout = town.rollout
            assert rollout is not None
            assert rollout.latched
            assert rollout.challenger is None
            for command in (("release-latch",), ("forgive", town.good)):
                assert town.run(*command, "--by", "Ann", "--reason", "a test") == 0
    report("one rolls back while another advances", f"{ROUNDS} times of {ROUNDS} rolled back", 0)


def person(town: Town, name: str, *arguments: str) -> subprocess.Popen[str]:
    """Who gives a command, as a process."""
    signed = ["--by", name, "--reason", "a test"]
    return subprocess.Popen(
        [sys.executable, "-m", "deploy.controller", *arguments, *signed],
        cwd=ROOT,
        env=os.environ | town.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# -- releases that are swapped -------------------------------------------------------------------------------------


def another(folder: Path, store: Path, fingerprint: str) -> str:
    """The version of another release of that store, which isn't the current one."""
    given = inputs(folder / "inputs", dataset("telco"), dataset("bank"))
    (given["decision"] / "policy.json").write_bytes(policy(dataset("telco"), 99.0, 20).to_json())
    artifacts = ArtifactStore(FolderStore(store), EXPERIMENT)
    current = artifacts.current()["release"]
    version = version_of(publish(store, "release", run_stage(folder, given), fingerprint * 64))
    artifacts.set_current("release", current)
    return version


SWAPS = 6


@pytest.mark.slow
def test_releases_swapped_under_load(chain: MakeChain, release: Release, tmp_path: Path) -> None:
    """The champion's own policy and another release's take turns, at two percentages, each rolled back by a person.
    Then the other one is the current release, and a replica starts anew."""
    running = chain()
    own, other = "", another(tmp_path / "other", running.store, "a")
    with running, Callers(release, running.apis, pause=0.002) as callers:
        own = running.version
        for number in range(SWAPS):
            challenger, percent = (own, other)[number % 2], (30.0, 60.0)[number // 2 % 2]
            running.try_out(percent, challenger)
            until(lambda percent=percent: running.served(percent))  # type: ignore[misc]
            busy(callers, 200)
            back = running.command("rollback") if number % 2 else None
            assert back is None or back.returncode == 0, back
            running.clear()
        ArtifactStore(FolderStore(running.store), EXPERIMENT).set_current("release", "a" * 64)
        running.kill(REPLICAS[1])
        running.start(REPLICAS[1])
        replica = running.processes[REPLICAS[1]]
        assert isinstance(replica, Served)
        assert replica.release == own  # a newer release alone doesn't make it the champion
        until(lambda: running.served(0.0))
        busy(callers, 50)
    figures = sound(running, callers)
    assert figures["learned"] > 100
    took_part = {event.release for event in running.rollout.history} - {None}
    assert took_part == {own, other}
    came = f"{SWAPS} challengers of 2 releases, {figures['learned']:.0f} decisions, each by the right one"
    report("releases swapped under load", came, callers.answers)


@pytest.mark.slow
def test_a_promotion_under_load_throws_nobody_back(chain: MakeChain, release: Release, tmp_path: Path) -> None:
    """Another release decides about everybody, then becomes the champion. One replica is started again meanwhile and
    answers from it, the other one still from the champion of before, which a rollback makes the champion again."""
    running = chain()
    other = another(tmp_path / "other", running.store, "a")
    with running, Callers(release, running.apis, pause=0.002) as callers:
        own = running.version
        running.try_out(100.0, other)
        until(lambda: running.served(100.0))
        busy(callers, 200)

        def promoted(rollout: Rollout | None) -> Rollout:
            assert rollout is not None
            seen = Evidence(rollout.generation, other, {}, figures(SIGNALS), 0.0)
            at = time.time_ns() // 1000
            return promote(rollout, other, seen, Plan(watch_s=0), by="Ann", reason="a test", at=at)

        generation = running.document.change(promoted).generation
        until(lambda: running.served(100.0) and running.rollout.generation == generation)
        busy(callers, 200)
        running.kill(REPLICAS[1])
        running.start(REPLICAS[1])
        replica = running.processes[REPLICAS[1]]
        assert isinstance(replica, Served)
        assert (replica.release, running.version) == (other, own)
        until(lambda: running.served(100.0))
        busy(callers, 200)
        assert running.command("rollback").returncode == 0
        until(lambda: running.served(0.0))
        busy(callers, 50)
    seen = sound(running, callers)
    assert seen["learned"] > 300
    assert running.rollout.champion.release == own
    came = f"{seen['learned']:.0f} decisions of the challenger, each by the right one; back to the baseline"
    report("a challenger promoted under load, and a replica started again", came, callers.answers)


# -- clocks --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("days", "what"), [(20, "20 days ahead"), (-20, "20 days back"), (500, "into another year")])
def test_clocks_that_jump(chain: MakeChain, release: Release, days: int, what: str) -> None:
    """Those of the workers, there and back: the challenger stays, and is rolled back once it fails."""
    with chain() as running, Callers(release, running.apis, pause=0.002) as callers:
        callers.asks_again = days < 30  # a key is known for as long
        running.begin(50.0)
        for shift in (days, 0, days):
            busy(callers, 200)
            running.set_clock(shift * DAY)
        busy(callers, 200)
        assert running.served(50.0)
        assert running.ever() == set()
        running.break_arm("throws")
        seconds = rolled_back_by(running, ERRORS)
        running.set_clock(0)
        busy(callers, 50)
    sound(running, callers)
    assert seconds < BACK_SECONDS
    came = "served on, then rolled back"
    report(f"the clock jumps {what}, then the arm throws", came, callers.answers, seconds, BACK_SECONDS)
