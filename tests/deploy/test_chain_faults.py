"""Faults of the chain that watches a challenger, as real processes: whatever of it dies, hangs or finds no room, the
baseline decides within a minute, or the service and its way back are as before."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from retain.release import Release
from retain.rollout import rollout_key
from serve.place import file_of
from tests.deploy.chain import EXPERIMENT, REPLICAS, Chain, until
from tests.deploy.faults import BACK_SECONDS, DEAD_SECONDS, MakeChain, busy, disk, fill, report, rolled_back_by, sound
from tests.deploy.watching import TOKEN
from tests.serve.callers import Callers
from tests.serve.databases import postgresql

pytestmark = [pytest.mark.slow, pytest.mark.kills]

ERRORS = "RetainArmErrors"
LEASE_LOST = "the baseline, and back when it is"


def without(make: MakeChain, release: Release, what: str, break_it: Callable[[Chain], Callable[[], object]]) -> None:
    """`break_it` returns what mends it. Meanwhile the baseline decides, though nobody has rolled back."""
    with make() as chain, Callers(release, chain.apis) as callers:
        chain.begin(50.0)
        busy(callers, 50)
        mend = break_it(chain)
        seconds = until(lambda: chain.served(0.0))
        busy(callers, 20)
        mend()
        until(lambda: chain.served(50.0))
        busy(callers, 20)
        assert chain.rollout.history[-1].action == "advance"
    sound(chain, callers)
    assert seconds < DEAD_SECONDS
    report(what, LEASE_LOST, callers.answers, seconds, DEAD_SECONDS)


def killed(part: str) -> Callable[[Chain], Callable[[], object]]:
    def kill(chain: Chain) -> Callable[[], object]:
        chain.kill(part)
        return lambda: chain.start(part)

    return kill


def paused(part: str) -> Callable[[Chain], Callable[[], object]]:
    def pause(chain: Chain) -> Callable[[], object]:
        chain.pause(part)
        return lambda: chain.resume(part)

    return pause


@pytest.mark.parametrize("part", ["controller", "prometheus", "alertmanager", REPLICAS[1]])
def test_killed(chain: MakeChain, release: Release, part: str) -> None:
    """Of replicas the one that is left goes back to the baseline, too: nobody could tell how the other does."""
    without(chain, release, f"{part.removesuffix('-2')} killed", killed(part))


@pytest.mark.parametrize("part", ["controller", "prometheus", "alertmanager"])
def test_paused(chain: MakeChain, release: Release, part: str) -> None:
    without(chain, release, f"{part} hangs", paused(part))


def test_a_controller_that_answers_401(chain: MakeChain, release: Release) -> None:
    """Alertmanager bears another token."""

    def forget_the_token(chain: Chain) -> Callable[[], object]:
        token = chain.folder / "controller-token"
        token.write_text("not-the-token-of-the-tests")
        return lambda: token.write_text(TOKEN)

    without(chain, release, "alerts are answered 401", forget_the_token)


@pytest.mark.parametrize("how", ["damaged", "gone"])
def test_the_rollout_s_file(chain: MakeChain, release: Release, how: str) -> None:
    def lose(chain: Chain) -> Callable[[], object]:
        path = chain.store / rollout_key(EXPERIMENT)
        content = path.read_bytes()
        path.write_bytes(content[:-9]) if how == "damaged" else path.unlink()
        return lambda: path.write_bytes(content)

    without(chain, release, f"the rollout's file is {how}", lose)


def test_an_older_copy_of_the_rollout(chain: MakeChain, release: Release) -> None:
    """Of before a rollback, put back over it: the replicas have seen the newer one, and don't follow, whatever lease
    there is."""
    with chain() as running, Callers(release, running.apis) as callers:
        running.begin(50.0)
        busy(callers, 50)
        path = running.store / rollout_key(EXPERIMENT)
        older = path.read_bytes()
        assert running.command("rollback").returncode == 0
        seconds = until(lambda: running.served(0.0))
        path.write_bytes(older)
        until(lambda: running.health()["lease"] == "renewed")
        served = []
        for _ in range(200):
            served += running.percents()
            time.sleep(0.1)
        assert set(served) == {0.0}
    sound(running, callers)
    report("an older copy of the rollout's file", "not followed", callers.answers, seconds, DEAD_SECONDS)


@pytest.mark.parametrize("how", ["hangs", "refuses"])
def test_a_controller_that_can_t_be_told_of_an_alert(chain: MakeChain, release: Release, how: str) -> None:
    """It never answers, or with 401, while an alert fires. Once it hears it rolls back."""
    with chain() as running, Callers(release, running.apis, pause=0.002) as callers:
        running.begin(50.0)
        busy(callers)
        token = running.folder / "controller-token"
        if how == "hangs":
            running.pause("controller")
        else:
            token.write_text("not-the-token-of-the-tests")
        running.break_arm("throws")
        seconds = until(lambda: running.served(0.0))
        until(lambda: running.state(ERRORS) in (None, "firing"))
        assert running.rollout.percent == 50.0
        running.resume("controller") if how == "hangs" else token.write_text(TOKEN)
        busy(callers, 50)
        rolled_back_or_served(running)
    sound(running, callers)
    assert seconds < DEAD_SECONDS
    what = "the controller hangs" if how == "hangs" else "alerts are answered 401"
    report(f"{what}, and the arm throws", "the baseline, then rolled back", callers.answers, seconds, DEAD_SECONDS)


def rolled_back_or_served(chain: Chain) -> None:
    """An alert that ended meanwhile, since the baseline decided, fires again once the challenger does."""
    until(lambda: chain.rollout.latched)
    until(lambda: chain.served(0.0))
    assert [event.action for event in chain.rollout.history].count("roll_back") == 1


def test_nobody_takes_pages(chain: MakeChain, release: Release) -> None:
    """The pager is down, and the controller killed before it is up again: the page comes all the same."""
    with chain() as running, Callers(release, running.apis, pause=0.002) as callers:
        running.begin(50.0)
        busy(callers)
        running.pager.status = 503
        running.break_arm("throws")
        until(lambda: running.state(ERRORS) == "firing")
        seconds = until(lambda: running.served(0.0))
        assert running.rollout.latched
        running.kill("controller")
        running.pager.status = 200
        assert running.pager.pages == []
        running.start("controller")
        page = f"rollback/toy/{running.rollout.generation}/{running.rollout.history[-1].at}"
        until(lambda: page in {each["id"] for each in running.pager.pages})
    sound(running, callers)
    assert seconds < BACK_SECONDS
    report("nobody takes pages, and the arm throws", "rolled back, paged later", callers.answers, seconds, BACK_SECONDS)


def test_prometheus_restarted_while_an_alert_is_pending(chain: MakeChain, release: Release) -> None:
    """Killed in the middle of its `for`: time goes on from where it was, but for the seconds without a Prometheus."""
    with chain(scale=20) as running, Callers(release, running.apis, pause=0.002) as callers:
        running.begin(50.0)
        busy(callers)
        running.break_arm("throws")
        until(lambda: running.state(ERRORS) == "pending")
        time.sleep(15.0)  # of 30
        assert running.state(ERRORS) == "pending"
        killed_at = time.time()
        running.kill("prometheus")
        running.start("prometheus")
        until(lambda: running.state(ERRORS) is not None and running.pending_since(ERRORS) < killed_at)
        seconds = rolled_back_by(running, ERRORS)
    sound(running, callers)
    assert seconds < BACK_SECONDS
    came = "rolled back, at the end of the `for` that had begun before"
    report("Prometheus killed inside a pending `for`", came, callers.answers, seconds, BACK_SECONDS, scale=20)


# -- no room -------------------------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> Callable[..., object]:
    @contextmanager
    def mounted(name: str, megabytes: int) -> Iterator[Path]:
        with disk(tmp_path / name, megabytes) as is_mounted:
            if not is_mounted:
                pytest.skip("a small file system of its own could not be mounted: only root can")
            yield tmp_path / name

    return mounted


@pytest.mark.parametrize("full", ["store", "prometheus", "alertmanager"])
def test_a_full_disk(chain: MakeChain, release: Release, small: Callable[..., object], full: str) -> None:
    """And then the arm fails: the baseline decides within a minute, rolled back or not, and it is rolled back in the
    end."""
    with small(full, 300 if full == "prometheus" else 64) as folder:  # type: ignore[attr-defined]
        with chain() as running, Callers(release, running.apis, pause=0.002) as callers:
            running.begin(50.0)
            busy(callers)
            ballast = fill(folder)
            busy(callers)
            running.break_arm("throws")
            seconds = until(lambda: running.served(0.0))
            at_first = "rolled back" if running.rollout.latched else "the baseline, then rolled back"
            busy(callers, 50)
            ballast.unlink()
            rolled_back_or_served(running)
        sound(running, callers)
    assert seconds < DEAD_SECONDS
    report(f"no room for {full}, and the arm throws", at_first, callers.answers, seconds, DEAD_SECONDS)


def test_a_full_disk_of_the_database(chain: MakeChain, release: Release, small: Callable[..., object]) -> None:
    """Nobody is contacted meanwhile; then everything goes on, and a fault is still rolled back. SQLite's log alone may
    have 64 MB."""
    with small("state", 160) as folder:  # type: ignore[attr-defined]
        with chain() as running, Callers(release, running.apis, pause=0.002) as callers:
            running.begin(50.0)
            busy(callers)
            ballast = fill(folder)
            until(lambda: callers.unrecorded > 100)
            ballast.unlink()
            goes_on(running, callers)
            unrecorded = callers.unrecorded
        sound(running, callers)
    report("no room for SQLite", f"{unrecorded} answers without contact, then as before", callers.answers)


@pytest.mark.parametrize("database", ["SQLite", "PostgreSQL"])
def test_a_database_that_is_gone(chain: MakeChain, release: Release, database: str) -> None:
    """The file isn't there; PostgreSQL's server is killed."""
    if database == "PostgreSQL":
        with postgresql() as server, chain(url=server.create("rollout")) as running:

            def kill() -> Callable[[], object]:
                assert server.process is not None
                server.process.kill()
                server.process.wait()
                return server.start

            gone(running, release, database, kill)
        return
    with chain() as running:
        path = file_of(running.url)
        assert path is not None

        def move() -> Callable[[], object]:
            aside = path.with_name("aside")
            path.rename(aside)
            return lambda: aside.rename(path)

        gone(running, release, database, move)


def gone(chain: Chain, release: Release, database: str, lose: Callable[[], Callable[[], object]]) -> None:
    with Callers(release, chain.apis, pause=0.002) as callers:
        chain.begin(50.0)
        busy(callers)
        give_back = lose()
        until(lambda: callers.unrecorded > 100)
        give_back()
        goes_on(chain, callers)
        unrecorded = callers.unrecorded
    sound(chain, callers)
    report(f"{database} is gone", f"{unrecorded} answers without contact, then as before", callers.answers)


def goes_on(chain: Chain, callers: Callers) -> None:
    """What is asked is on record again, the challenger decides, and is rolled back once it fails."""
    asked = len(callers.asked)
    until(lambda: len(callers.asked) > asked + 50)
    until(lambda: chain.served(50.0))
    assert not chain.rollout.latched
    chain.break_arm("throws")
    assert rolled_back_by(chain, ERRORS) < BACK_SECONDS
