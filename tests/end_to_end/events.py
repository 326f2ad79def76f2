"""What may happen to a run in containers: each event strikes an attempt, or what the run stands on, while that attempt
is at work."""

from __future__ import annotations

import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from docker.errors import APIError, NotFound
from docker.models.containers import Container

from tests.end_to_end.containers import Platform, wait_for

UNREACHABLE_S, FULL_S = 60.0, 20.0
ENGINE_COMMAND = "-m engine "  # of the stage's own process in its container


@dataclass(frozen=True)
class Struck:
    """An event that took place. `at`: when, in seconds since 1970. `again_s`: seconds until the container of the next
    attempt ran; None if there was none."""

    kind: str
    attempt: str
    at: float
    again_s: float | None


Event = Callable[[Platform, Container, str], None]  # platform, the attempt's container, the run's flow run


def sigterm(platform: Platform, container: Container, run: str) -> None:
    container.kill(signal="SIGTERM")


def docker_kill(platform: Platform, container: Container, run: str) -> None:
    container.kill()


def sigkill(platform: Platform, container: Container, run: str) -> None:
    """Of the stage's process alone: its container lives and can tell."""
    table = container.top(ps_args="-eo pid,args")
    for pid, command in table["Processes"]:
        if ENGINE_COMMAND in f"{command} ":
            os.kill(int(pid), signal.SIGKILL)
            return


def worker_killed(platform: Platform, container: Container, run: str) -> None:
    platform.kill("worker")
    time.sleep(2)
    platform.start("worker")


def worker_and_container_killed(platform: Platform, container: Container, run: str) -> None:
    platform.kill("worker")
    container.kill()
    platform.start("worker")


def paused_until_lost(platform: Platform, container: Container, run: str) -> None:
    """The zombie: it wakes up when another attempt is at work or has completed."""
    stage, _, number = container.name.rpartition("-")
    container.pause()
    try:
        with suppress(AssertionError):
            platform.container_of(f"{stage}-{int(number) + 1}", 120)
            time.sleep(3)
    finally:
        container.unpause()


def parent_killed(platform: Platform, container: Container, run: str) -> None:
    for parent in platform.containers(flow_run=run):
        parent.kill()


def server_restarted(platform: Platform, container: Container, run: str) -> None:
    platform.kill("server")
    time.sleep(3)
    platform.start("server")


def database_restarted(platform: Platform, container: Container, run: str) -> None:
    assert platform.database is not None
    platform.database.restart()


def store_unreachable(platform: Platform, container: Container, run: str) -> None:
    """For containers, which don't run as root."""
    mode = platform.store.stat().st_mode
    platform.store.chmod(0)
    try:
        time.sleep(UNREACHABLE_S)
    finally:
        platform.store.chmod(mode)


def disk_full(platform: Platform, container: Container, run: str) -> None:
    """The store lies on a small file system of its own."""
    filler = platform.store / "filler"
    try:
        with suppress(OSError), filler.open("wb") as file:
            file.write(b"\0" * shutil.disk_usage(platform.store).free)
            while True:
                file.write(b"\0" * 4096)
                file.flush()
        time.sleep(FULL_S)
    finally:
        filler.unlink(missing_ok=True)


EVENTS: dict[str, Event] = {
    event.__name__: event
    for event in (
        sigterm,
        sigkill,
        docker_kill,
        worker_killed,
        worker_and_container_killed,
        paused_until_lost,
        parent_killed,
        server_restarted,
        database_restarted,
        store_unreachable,
        disk_full,
    )
}
STRIKING_ALL = ("server_restarted", "database_restarted", "store_unreachable", "disk_full", "parent_killed")


@dataclass
class Strikes:
    """Events that strike one run, each the first attempt at a stage that is at work after those before it.

    Those that strike everything at once wait for each other.
    """

    platform: Platform
    run: str
    generator: random.Random
    struck: list[Struck] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    _alone: threading.Lock = field(default_factory=threading.Lock)
    _threads: list[threading.Thread] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    def plan(self, stage: str, kinds: Sequence[str]) -> None:
        """These events, one after the other, will strike attempts at the stage."""
        delays = [self.generator.uniform(3.0, 9.0) for _ in kinds]
        thread = threading.Thread(target=self._strike, args=(stage, list(zip(kinds, delays))), daemon=True)
        self._threads.append(thread)
        thread.start()

    def finish(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(UNREACHABLE_S + 120)

    def _strike(self, stage: str, events: list[tuple[str, float]]) -> None:
        after = 0
        for kind, delay in events:
            container = self._at_work(stage, after)
            if container is None or self._over.wait(delay):
                self.missed.append(f"{kind} on {stage}")
                continue
            number = int(container.name.split("-")[1])
            with self._alone:
                began, at = time.monotonic(), time.time()
                try:
                    EVENTS[kind](self.platform, container, self.run)
                except (APIError, NotFound):  # it has ended just now
                    self.missed.append(f"{kind} on {stage}")
                    continue
            goes_on = kind in ("worker_killed", *STRIKING_ALL)
            after = number - 1 if goes_on else number
            again = None if goes_on else self._again(stage, number, began)
            self.struck.append(Struck(kind, container.name, at, again))

    def _at_work(self, stage: str, after: int) -> Container | None:
        while not self._over.wait(0.3):
            for each in self.platform.containers():
                name, _, number = each.name.partition("-")
                if name == stage and number.isdecimal() and int(number) > after:
                    return each
        return None

    def _again(self, stage: str, number: int, began: float) -> float | None:
        while not self._over.wait(0.2):
            for each in self.platform.containers():
                name, _, other = each.name.partition("-")
                if name == stage and other.isdecimal() and int(other) > number:
                    return time.monotonic() - began
        return None


def assert_nothing_is_left(platform: Platform) -> None:
    """No container, claim, open reservation or unfinished file."""
    wait_for(lambda: not platform.containers(), 60, "no container runs")
    wait_for(lambda: not platform.containers(all=True), 60, "the witness has removed every container")
    assert list(platform.store.rglob("claim.json")) == []
    aside = platform.store / "aside"
    assert not aside.is_dir() or not any(Path(aside).iterdir())
