"""What may happen to a run in containers: each event strikes an attempt, or what the run stands on, while that attempt
is at work."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

from docker.errors import APIError
from docker.models.containers import Container

from tests.end_to_end.containers import Platform, wait_for

UNREACHABLE_S, FULL_S = 60.0, 20.0
LOST_S = 120.0  # until a paused attempt's claim is lost and the next attempt runs
ENGINE_COMMAND = "-m engine "  # of the stage's own process in its container
DELAY_S = (1.0, 6.0)  # of an event, from when its container runs: a stage of chaos lives for 3 to 30 s


class Missed(Exception):
    """There was nothing to strike, or it didn't have the effect that makes the event: it doesn't count."""


@dataclass(frozen=True)
class Struck:
    """An event that took place. `at`: when, in seconds since 1970. `again_s`: seconds until the container of the next
    attempt ran; None if there was none."""

    kind: str
    attempt: str
    at: float
    again_s: float | None


# Platform, the attempt's container, the run's flow run. Raises Missed, or APIError where the container has ended.
Event = Callable[[Platform, Container, str], None]


def sigterm(platform: Platform, container: Container, run: str) -> None:
    container.kill(signal="SIGTERM")


def docker_kill(platform: Platform, container: Container, run: str) -> None:
    container.kill()


def sigkill(platform: Platform, container: Container, run: str) -> None:
    """Of the stage's process alone: its container lives and can tell."""
    try:
        os.kill(process_of_stage(container), signal.SIGKILL)
    except ProcessLookupError:
        raise Missed("the stage's process has ended") from None


def worker_killed(platform: Platform, container: Container, run: str) -> None:
    platform.kill("worker")
    time.sleep(2)
    platform.start("worker")


def worker_and_container_killed(platform: Platform, container: Container, run: str) -> None:
    platform.kill("worker")
    try:
        container.kill()
    finally:
        platform.start("worker")


def paused_until_lost(platform: Platform, container: Container, run: str) -> None:
    """The zombie: it wakes up when another attempt is at work or has completed."""
    stage, _, number = container.name.rpartition("-")
    while not holds_claim(platform, stage, int(number)):  # before, there is nothing that it could lose
        process_of_stage(container)
        time.sleep(0.1)
    container.pause()
    try:
        platform.container_of(f"{stage}-{int(number) + 1}", LOST_S)
        time.sleep(3)
    except AssertionError as error:
        raise Missed(f"its claim was not lost: {error}") from None
    finally:
        container.unpause()


def parent_killed(platform: Platform, container: Container, run: str) -> None:
    parents = platform.containers(flow_run=run)
    if not parents:
        raise Missed("no parent runs: it is between two containers")
    for parent in parents:
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
        try:
            with filler.open("wb") as file:
                file.write(b"\0" * shutil.disk_usage(platform.store).free)
                while True:
                    file.write(b"\0" * 4096)
                    file.flush()
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
        time.sleep(FULL_S)
    finally:
        filler.unlink(missing_ok=True)


def holds_claim(platform: Platform, stage: str, number: int) -> bool:
    for path in (platform.store / "chaos" / stage).glob("*/claim.json"):
        with suppress(OSError):  # released at this moment
            return bool(json.loads(path.read_text(encoding="utf-8"))["token"] == number)
    return False


def process_of_stage(container: Container) -> int:
    """The id of the stage's process, which is there a few seconds after its container. Raises APIError once that has
    ended."""
    while True:
        for pid, command in container.top(ps_args="-eo pid,args")["Processes"]:
            if ENGINE_COMMAND in f"{command} ":
                return int(pid)
        time.sleep(0.1)


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
STRIKING_THE_WORKER = ("worker_killed", "worker_and_container_killed")


@dataclass
class Strikes:
    """Events that strike one run, each the first attempt at a stage that is at work after those before it.

    Those that strike more than an attempt wait for each other. `missed` says of each event that struck nothing why.
    With `soon_s`, an event strikes within so many seconds from when the stage's process runs, so that a short stage is
    still at work.
    """

    platform: Platform
    run: str
    generator: random.Random
    soon_s: float | None = None
    struck: list[Struck] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    failed: list[BaseException] = field(default_factory=list)
    _alone: threading.Lock = field(default_factory=threading.Lock)
    _threads: list[threading.Thread] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    def plan(self, stage: str, kinds: Sequence[str]) -> None:
        """These events, one after the other, will strike attempts at the stage."""
        between = DELAY_S if self.soon_s is None else (0.0, self.soon_s)
        delays = [self.generator.uniform(*between) for _ in kinds]
        thread = threading.Thread(target=self._strike_all, args=(stage, list(zip(kinds, delays))), daemon=True)
        self._threads.append(thread)
        thread.start()

    def finish(self) -> None:
        """Waits until no event is at work. Raises what went wrong in one."""
        self._over.set()
        for thread in self._threads:
            thread.join(UNREACHABLE_S + LOST_S)
            assert not thread.is_alive(), "an event doesn't end"
        for error in self.failed:
            raise error

    def _strike_all(self, stage: str, events: list[tuple[str, float]]) -> None:
        try:
            after = 0
            for kind, delay in events:
                try:
                    after = self._strike(stage, kind, delay, after)
                except (APIError, Missed) as error:
                    self.missed.append(f"{kind} on {stage}: {error}")
                    print(f"  missed {self.missed[-1]}", flush=True)
        except BaseException as error:
            self.failed.append(error)

    def _strike(self, stage: str, kind: str, delay: float, after: int) -> int:
        """Strikes the stage's first attempt whose number is above `after`, and returns the number after which the next
        event looks."""
        container = self._at_work(stage, after)
        if container is not None and self.soon_s is not None:
            process_of_stage(container)
        if container is None or self._over.wait(delay):
            raise Missed("the run has ended")
        number = int(container.name.split("-")[1])
        with self._alone if kind in (*STRIKING_ALL, *STRIKING_THE_WORKER) else nullcontext():
            container.reload()
            if container.status != "running":
                raise Missed("its container has ended")
            began, at = time.monotonic(), time.time()
            EVENTS[kind](self.platform, container, self.run)
        print(f"  {kind} struck {container.name}", flush=True)
        goes_on = kind in ("worker_killed", *STRIKING_ALL)
        again = None if goes_on else self._again(stage, number, began)
        self.struck.append(Struck(kind, container.name, at, again))
        return number - 1 if goes_on else number

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
