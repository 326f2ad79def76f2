"""The service as real processes, under load, while its learned arm or its database is broken.

Callers see no 5xx and no unsafe message, nothing that was answered is missing, and each fault shows in its own signal.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest
from sqlalchemy import select

from engine.artifact import MANIFEST, parse_manifest
from retain.release import Release
from serve.database import Database
from serve.place import file_of
from serve.tables import decision
from tests.reliability import write_block
from tests.serve.callers import Callers, compare
from tests.serve.databases import Server, postgresql
from tests.serve.services import PLENTY, Served, counted, serve, until

pytestmark = pytest.mark.kills

# What a test needs beside the fault itself: pauses that end while it waits, and a clock that it can set.
PATCH = """
import functools, pathlib, time
import serve.arms, serve.circuit, serve.learned, serve.state
serve.circuit.FIRST_PAUSE = serve.circuit.LONGEST_PAUSE = 0.5
serve.learned.FIRST_PAUSE = serve.learned.LONGEST_PAUSE = 0.1
serve.arms.LearnedArm = functools.partial(
    serve.learned.LearnedArm, command=("-m", "tests.serve.faulty_arm", {fault!r})
)
shift = pathlib.Path({shift!r})
def clock():
    return time.time_ns() // 1000 + int(shift.read_text())
serve.worker.State = functools.partial(serve.state.State, clock=clock)
"""
MODES = {
    "shadow": {"FORCE_BASELINE": "true"},
    "canary": {"FORCE_BASELINE": "false", "CANARY_PERCENT": "100"},
}
# What the arm does -> what counts it. A process of the arm meets those of AT_START as it loads.
ARM_FAULTS = {
    "throws": "error",
    "nan": "not_finite",
    "hangs": "deadline",
    "holds": "deadline",
    "eats": "out_of_memory",
    "dies": "died",
    "unsafe": "unsafe_message",
    "corrupt": "not_running",
}
AT_START = ("unsafe", "corrupt")
QUICK = {"shadow": ("throws", "hangs"), "canary": ("nan", "unsafe")}
DAY = 86_400_000_000


class Scene:
    """A service with two workers on a release of its own, whose faults a test turns on and off.

    `path` is the database's file, or else `server` is its server. `disk`: the small file system that it lies on; None
    where none could be made.
    """

    service: Served | None

    def __init__(
        self, folder: Path, artifact: Path, mode: str, url: str, disk: Path | None, server: Server | None = None
    ) -> None:
        self.server, self.path, self.service, self.disk = server, file_of(url), None, disk
        self.fault, self.shift = folder / "fault", folder / "shift"
        self.mode, self.url = mode, url
        self.artifact = folder / "release"
        self.fault.write_text("")
        self.set_clock(0)
        shutil.copytree(artifact, self.artifact)
        files = parse_manifest((self.artifact / MANIFEST).read_bytes(), "").files
        digest = next(file.sha256 for file in files if file.path == "decision/policy.json")
        self._policy = self.artifact / "files" / digest
        self._sound = self._policy.read_bytes()

    def serve(self, store: Path, **environment: str) -> Served:
        settings = {
            "RELEASE_PATH": str(self.artifact),
            "RETAIN_STORE": str(store),
            "DATABASE_URL": self.url,
            "RETAIN_BUDGET_USD": "1000000",
            "RETAIN_ARM_MEMORY_MB": "192",
        }
        patch = PATCH.format(fault=str(self.fault), shift=str(self.shift))
        return serve(settings | MODES[self.mode] | environment, patch)

    def set_clock(self, shift: int) -> None:
        """`shift`: microseconds that the workers' clock is ahead."""
        aside = self.shift.with_suffix(".new")
        aside.write_text(str(shift))
        aside.replace(self.shift)

    def break_arm(self, fault: str, service: Served) -> None:
        if fault == "corrupt":
            self._policy.write_bytes(self._sound[:-2] + b" }")
        else:
            self.fault.write_text(fault)
        if fault in AT_START:
            kill_arms(service)

    def repair_arm(self, fault: str, service: Served) -> None:
        self.fault.write_text("")
        self._policy.write_bytes(self._sound)
        if fault == "unsafe":
            kill_arms(service)

    def missing(self) -> Counter[str]:
        """Why the learned arm's decision is missing on record, or why it didn't decide about one of its own."""
        with closing(Database(self.url)) as database, database.reading() as connection:
            rows = connection.execute(select(decision.c.detail, decision.c.shadow)).all()
        if self.mode == "canary":
            return Counter(json.loads(row.detail)["unasked"] for row in rows)
        return Counter(json.loads(row.shadow)["missing"] for row in rows if row.shadow is not None)


@pytest.fixture
def scene(tmp_path: Path, artifact: Path) -> Callable[[str, str], Scene]:
    def make(mode: str, url: str | None = None, disk: Path | None = None) -> Scene:
        return Scene(tmp_path, artifact, mode, url or f"sqlite:///{tmp_path / 'state' / 'serving.db'}", disk)

    return make  # type: ignore[return-value]


def kill_arms(service: Served) -> None:
    for worker in service.children("worker").values():
        for process in worker.children():
            process.kill()


def failures(service: Served) -> dict[str, float]:
    """Of the learned arm, by kind."""
    name = 'retain_arm_failures_total{kind="'
    return {key.removeprefix(name)[:-2]: value for key, value in counted(service).items() if key.startswith(name)}


# -- the learned arm -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_a_broken_arm_costs_no_caller_anything(
    scene: Callable[..., Scene], mode: str, store: Path, release: Release
) -> None:
    break_the_arm(scene(mode), QUICK[mode], store, release)


@pytest.mark.slow
def test_no_fault_of_the_arm_costs_any_caller_anything(
    tmp_path: Path, artifact: Path, store: Path, release: Release
) -> None:
    lines = ["| the learned arm | in | answers | 5xx | unsafe | counted as |", "|---|---|---|---|---|---|"]
    for mode in MODES:
        (tmp_path / mode).mkdir()
        scene = Scene(tmp_path / mode, artifact, mode, f"sqlite:///{tmp_path / mode / 'serving.db'}", None)
        lines += break_the_arm(scene, tuple(ARM_FAULTS), store, release)
    write_block("faults of the learned arm", lines)


def break_the_arm(scene: Scene, faults: tuple[str, ...], store: Path, release: Release) -> list[str]:
    """Each of the faults, repaired afterwards. Returns rows of the report."""
    lines = []
    with scene.serve(store) as service:
        service.begun()
        until(lambda: counted(service)["retain_arm_running"] == 2)
        with Callers(release, [service.api]) as callers:
            for fault in faults:
                answers, kind = callers.answers, ARM_FAULTS[fault]
                count = break_and_repair(scene, service, callers, fault, kind)
                lines.append(f"| {fault} | {scene.mode} | {callers.answers - answers} | 0 | 0 | {kind} ({count:.0f}) |")
        assert service.children("worker").keys() == {"worker-0", "worker-1"}
        ended = [value for name, value in counted(service).items() if name.startswith("retain_processes_ended")]
        assert ended == [0] * 4
    callers.check()
    assert callers.unavailable == 0
    assert max(callers.tries) == 0  # no worker was lost
    if scene.mode == "canary":
        assert any(reason.startswith("learned ") for reason in callers.reasons)
    else:
        assert all(reason.startswith("baseline ") for reason in callers.reasons)
    compare(scene.url, callers.asked, callers.suppressed)
    return lines


def break_and_repair(scene: Scene, service: Served, callers: Callers, fault: str, kind: str) -> float:
    """Until the fault shows in metrics and records, and the arm answers again. Returns how often it was counted."""
    answers, before = callers.answers, failures(service)[kind]
    scene.break_arm(fault, service)
    until(lambda: failures(service)[kind] > before)
    until(lambda: callers.answers > answers + 50)
    until(lambda: scene.missing()[kind] > 0)
    scene.repair_arm(fault, service)
    until(lambda: counted(service)["retain_arm_running"] == 2)
    heard = counted(service)["retain_arm_answers_total"]
    until(lambda: counted(service)["retain_arm_answers_total"] > heard + 10)
    return failures(service)[kind] - before


# -- the database --------------------------------------------------------------------------------------------------


@contextmanager
def locked(scene: Scene) -> Iterator[None]:
    """Another process's transaction holds the lock."""
    if scene.path is None:
        with psycopg.connect(scene.url) as connection:
            connection.execute("SELECT version FROM meta FOR UPDATE")
            yield
            connection.rollback()
        return
    with closing(sqlite3.connect(scene.path, isolation_level=None, timeout=10)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


@contextmanager
def gone(scene: Scene) -> Iterator[None]:
    """The file isn't there; PostgreSQL doesn't run."""
    if scene.path is None:
        assert scene.server is not None
        scene.server.stop()
        yield
        scene.server.start()
        return
    aside = scene.path.with_name("aside")
    scene.path.rename(aside)
    yield
    aside.rename(scene.path)


@contextmanager
def full(scene: Scene) -> Iterator[None]:
    """Its file system has no room for another page. PostgreSQL has its log elsewhere: without room for that it would be
    gone."""
    assert scene.disk is not None
    ballast = scene.disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    yield
    ballast.unlink()


@contextmanager
def frozen(scene: Scene) -> Iterator[None]:
    """A worker stands still, perhaps in its transaction, until the supervisor kills it."""
    assert scene.service is not None
    worker = scene.service.children("worker")["worker-0"]
    worker.suspend()
    yield
    until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)


@contextmanager
def ahead(scene: Scene) -> Iterator[None]:
    """The clock is 20 days ahead: every open offer has expired."""
    scene.set_clock(20 * DAY)
    yield
    scene.set_clock(0)


@contextmanager
def behind(scene: Scene) -> Iterator[None]:
    """The clock is 20 days behind: before the first period of the budget."""
    scene.set_clock(-20 * DAY)
    yield
    scene.set_clock(0)


@contextmanager
def another_year(scene: Scene) -> Iterator[None]:
    """In another period of the budget."""
    scene.set_clock(500 * DAY)
    yield
    scene.set_clock(0)


Fault = Callable[[Scene], "contextlib.AbstractContextManager[None]"]
CLOCKS: tuple[Fault, ...] = (ahead, behind, another_year)
FAULTS: tuple[Fault, ...] = (locked, gone, frozen, *CLOCKS)


def test_a_database_that_fails_costs_no_caller_more_than_a_contact(
    scene: Callable[..., Scene], tmp_path: Path, store: Path, release: Release
) -> None:
    with small_disk() as disk:
        faults: list[Fault] = [locked, gone, ahead, *([full] if disk else [])]
        url = f"sqlite:///{(disk or tmp_path) / 'state' / 'serving.db'}"
        break_the_database(scene("shadow", url, disk), faults, 0.5, store, release)


@pytest.mark.slow
def test_no_fault_of_a_database_costs_any_caller_more_than_a_contact(
    tmp_path: Path, artifact: Path, store: Path, release: Release
) -> None:
    title = (
        "| database | fault | mode | answers | 5xx | unsafe | without contact, since nothing could be put on record |"
    )
    lines = [title, "|---|---|---|---|---|---|---|"]
    for mode in MODES:
        for name in ("sqlite", "postgresql"):
            folder = tmp_path / f"{mode}-{name}"
            folder.mkdir()
            with small_disk() as disk:
                faults = (*FAULTS, full) if disk else FAULTS
                if name == "sqlite":
                    scene = Scene(folder, artifact, mode, f"sqlite:///{(disk or folder) / 'serving.db'}", disk)
                    lines += break_the_database(scene, faults, 2.0, store, release)
                else:
                    with postgresql() as server:
                        scene = Scene(folder, artifact, mode, server.create("faults", disk), disk, server)
                        lines += break_the_database(scene, faults, 2.0, store, release)
    write_block("faults of the database", lines)


@contextmanager
def small_disk() -> Iterator[Path | None]:
    """A file system of its own, with little room; None where only root could mount one."""
    folder = Path(tempfile.mkdtemp(prefix="retain-disk-"))  # which a server that isn't root's gets into, too
    mount = ["mount", "-t", "tmpfs", "-o", "size=128M,mode=755", "tmpfs", str(folder)]
    is_mounted = os.getuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield folder if is_mounted else None
    finally:
        if is_mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()


def break_the_database(
    scene: Scene, faults: Sequence[Fault], seconds: float, store: Path, release: Release
) -> list[str]:
    """Each of the faults for so long, and until it shows. Returns rows of the report."""
    lines = []
    with scene.serve(store) as service:
        scene.service = service.begun()
        with Callers(release, [service.api]) as callers:
            for fault in faults:
                until(lambda: counted(service)["retain_workers_ready"] == 2)
                answers, refused = callers.answers, callers.unrecorded
                callers.asks_again = fault is not another_year  # a key is known for 30 days
                time.sleep(0.2)
                with fault(scene):
                    time.sleep(seconds)
                    if fault not in (*CLOCKS, frozen):
                        wait_for_more(lambda: callers.unrecorded, refused)
                wait_for_more(lambda: len(callers.asked), len(callers.asked) + 20)
                kind = "SQLite" if scene.path else "PostgreSQL"
                counts = f"{callers.answers - answers} | 0 | 0 | {callers.unrecorded - refused}"
                lines.append(f"| {kind} | {fault.__name__.replace('_', ' ')} | {scene.mode} | {counts} |")
        service.terminate()
        assert service.wait(PLENTY) == 0
        assert [line for line in service.said() if "Traceback" in line] == []
    callers.check()
    figures = compare(scene.url, callers.asked, callers.suppressed)
    if frozen not in faults and scene.path is not None:
        assert max(callers.tries) == 0  # no worker was lost
        assert figures["nobody heard of"] == 0
    return lines


def wait_for_more(count: Callable[[], int], than: int) -> None:
    until(lambda: count() > than)
