"""The process that looks after the others: `python -m serve`. It answers nothing itself and loads no release.

It checks the settings, listens, and starts RETAIN_WORKERS workers and the admin process, which inherit the listening
sockets. So a worker can end without a connection being refused: the others take what comes, or it waits. A process that
ends is started again. A worker whose event loop doesn't move for HUNG_SECONDS is killed, and one that has grown beyond
RETAIN_WORKER_MEMORY_MB is told to leave once another one answers in its place.
"""

from __future__ import annotations

import json
import logging
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from engine.errors import RetainError
from engine.output import make_decoration
from serve import logs
from serve.folder import VARIABLE, drop_gauges, make, remove, write_processes
from serve.place import database_url, file_of, make_file
from serve.settings import Process, Settings, environment_of, folders_of, read
from serve.sockets import listen, url

# How each process is started; tests put others in.
PROGRAMS: dict[Process, tuple[str, ...]] = {"worker": ("-m", "serve.worker"), "admin": ("-m", "serve.admin")}

ROUND_SECONDS = 0.25  # at most, between two looks at every process
HUNG_SECONDS = 2.0
# Where more wants to run than there are cores, a worker may be silent for longer without hanging. It hangs if it has
# had this much time on a core since, or doesn't wait for one.
HUNG_CPU_SECONDS = 1.0
STARVED_SECONDS = 10.0  # at most
START_SECONDS = 60.0  # for a release to be loaded, from a slow disk too
LEAVE_SECONDS = 12.0  # for a process that was told to leave: child.STOP_SECONDS and what it takes to end
MEMORY_SECONDS = 1.0  # between two looks at memory
REPLACED_SECONDS = 5.0  # between a worker's start and another one's end for its size
# A process that ends before it was ready, or this soon after, is started again later each time.
STEADY_SECONDS = 1.0
FIRST_DELAY, LONGEST_DELAY = 0.5, 10.0

log = logging.getLogger("retain.serve")


class StartFailed(RetainError):
    """A process ended before the service was ready."""

    exit_code = 1


@dataclass
class Child:
    """A process and what is known of it. Times are monotonic; `silent`: seconds that its event loop hasn't moved."""

    kind: Process
    slot: int
    process: subprocess.Popen[bytes]
    channel: socket.socket
    started: float
    ready: dict[str, Any] | None = None
    ready_at: float = 0.0
    silent: float = 0.0
    used: float = 0.0  # seconds on a core when its event loop moved last
    too_large: bool = False
    leave_by: float | None = None  # it was told to leave
    killed: bool = False
    why: str = "died"  # it ended
    failed: dict[str, Any] | None = None
    unread: bytes = b""

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.slot}"

    @property
    def stays(self) -> bool:
        return self.leave_by is None and not self.too_large

    @property
    def answers(self) -> bool:
        return self.stays and self.ready is not None

    def read(self, now: float) -> bool:
        """Takes what it has written. Returns False once there is nothing more to come."""
        data = self.channel.recv(65536)
        *lines, self.unread = (self.unread + data).split(b"\n")
        if lines:
            self.silent, self.used = 0.0, _cpu_seconds(self.process.pid)
        for line in lines:
            content = json.loads(line)
            if "ready" in content:
                self.ready, self.ready_at = content["ready"], now
            elif "failed" in content:
                self.failed = content
        return bool(data)

    @property
    def hangs(self) -> bool:
        if self.silent <= HUNG_SECONDS:
            return False
        if self.silent > STARVED_SECONDS or _cpu_seconds(self.process.pid) - self.used > HUNG_CPU_SECONDS:
            return True
        try:
            return bool(psutil.Process(self.process.pid).status() != psutil.STATUS_RUNNING)
        except psutil.NoSuchProcess:
            return False  # it has ended, which is noticed otherwise

    def leave(self, now: float) -> None:
        if self.leave_by is None:
            self.leave_by = now + LEAVE_SECONDS
            self.process.terminate()

    def kill(self, why: str) -> None:
        self.killed, self.why = True, why
        self.process.kill()


def _cpu_seconds(pid: int) -> float:
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


@dataclass
class Restarts:
    """When the next process of a kind may be started, since those before it ended as soon as they began."""

    failures: int = 0
    not_before: float = 0.0

    def ended(self, child: Child, now: float) -> None:
        if child.ready is not None and now - child.ready_at >= STEADY_SECONDS:
            self.failures = 0
        else:
            self.failed(now)

    def failed(self, now: float) -> None:
        self.failures += 1
        if self.failures > 1:
            self.not_before = now + min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** (self.failures - 2))


class Supervisor:
    """Of one service. `sockets`: where each kind of process listens. `folder`: where they count."""

    def __init__(
        self, settings: Settings, environment: Mapping[str, str], sockets: Mapping[Process, socket.socket], folder: Path
    ) -> None:
        self.settings = settings
        self.environment = {**environment, **folders_of(settings)}
        self.sockets = sockets
        self.folder = folder
        self.children: list[Child] = []
        self.announced = False
        self.ended = Counter(died=0, hung=0, too_large=0, too_slow_to_start=0)
        self._signals: list[int] = []
        self._restarts: dict[Process, Restarts] = {"worker": Restarts(), "admin": Restarts()}
        self._selector = selectors.DefaultSelector()
        self._memory_at = 0.0  # of the last look

    def run(self) -> int:
        """Until SIGTERM or SIGINT. Raises RetainError if the service can't begin."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._take_signal)
        last = time.monotonic()
        try:
            while True:
                now = time.monotonic()
                stopping = bool(self._signals)
                if stopping:
                    self._stop(now)
                    if not self.children:
                        return 0
                else:
                    self._start_missing(now)
                self._listen()
                # Time in which this process itself stood still, as all do when a machine is paused, says nothing.
                self._look_after(min(time.monotonic() - last, 2 * ROUND_SECONDS))
                last = time.monotonic()
        finally:
            for child in self.children:
                child.process.kill()
            for child in self.children:
                child.process.wait()

    def _take_signal(self, number: int, frame: FrameType | None) -> None:
        self._signals.append(number)

    def _stop(self, now: float) -> None:
        for listening in self.sockets.values():
            listening.close()  # who comes now is refused, as soon as the workers have closed theirs
        for child in self.children:
            child.leave(now)
            if self._signals.count(signal.SIGINT) > 1:  # Ctrl-C, and again
                child.process.kill()

    # -- starting --------------------------------------------------------------------------------------------------

    def _start_missing(self, now: float) -> None:
        # The admin process begins when the workers answer: on two cores it would make them wait by a third.
        wanted: dict[Process, int] = {"worker": self.settings.workers, "admin": int(self.announced)}
        for kind, count in wanted.items():
            missing = count - sum(child.stays for child in self.children if child.kind == kind)
            if now >= self._restarts[kind].not_before:
                for _ in range(missing):
                    self._start(kind, now)

    def _start(self, kind: Process, now: float) -> None:
        taken = {child.slot for child in self.children if child.kind == kind}
        slot = next(number for number in range(len(taken) + 1) if number not in taken)
        try:
            process, channel = self._popen(kind, f"{kind}-{slot}")
        except OSError as error:  # no memory, or no descriptors: it may be over in a moment
            if not self.announced:
                raise StartFailed(f"{kind}-{slot} can't be started ({error.strerror})") from None
            log.error("%s-%d can't be started (%s)", kind, slot, error.strerror)
            self._restarts[kind].failed(now)
            return
        child = Child(kind, slot, process, channel, now)
        self.children.append(child)
        self._selector.register(channel, selectors.EVENT_READ, child)

    def _popen(self, kind: Process, name: str) -> tuple[subprocess.Popen[bytes], socket.socket]:
        """The process, and this side of the channel to it."""
        listening = self.sockets[kind]
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            descriptors = (listening.fileno(), theirs.fileno())
            try:
                process = subprocess.Popen(
                    [
                        sys.executable,
                        *PROGRAMS[kind],
                        f"--name={name}",
                        f"--listening={descriptors[0]}",
                        f"--channel={descriptors[1]}",
                    ],
                    env={**environment_of(kind, self.environment), VARIABLE: str(self.folder)},
                    stdin=subprocess.DEVNULL,
                    pass_fds=descriptors,
                    start_new_session=True,  # Ctrl-C is told to this process alone, which lets the others finish
                )
            except OSError:
                ours.close()
                raise
        return process, ours

    # -- looking after them ----------------------------------------------------------------------------------------

    def _listen(self) -> None:
        """Waits for the next lines, or for a round."""
        for key, _ in self._selector.select(ROUND_SECONDS):
            child: Child = key.data
            was_ready = child.ready is not None
            with suppress(ConnectionError):
                if child.read(time.monotonic()):
                    if child.ready is not None and not was_ready:
                        self._is_ready(child)
                    continue
            self._selector.unregister(child.channel)
            child.channel.close()

    def _is_ready(self, child: Child) -> None:
        workers = [other for other in self.children if other.kind == "worker" and other.answers]
        if len(workers) >= self.settings.workers:
            for other in self.children:
                if other.too_large:
                    other.leave(time.monotonic())
        if not self.announced and len(workers) == self.settings.workers:
            self._announce()
        elif self.announced and child.kind == "worker":
            log.warning("%s answers", child.name)
        self._write_down()

    def _look_after(self, elapsed: float) -> None:
        now = time.monotonic()
        for child in list(self.children):
            if child.process.poll() is not None:
                self._bury(child, now)
                continue
            if child.killed:
                continue
            child.silent += elapsed
            if child.leave_by is not None and now > child.leave_by:
                child.kill("hung")
            elif child.ready is not None and child.hangs:
                log.error("the event loop of %s hasn't moved for %.0f s: it is killed", child.name, child.silent)
                child.kill("hung")
            elif child.ready is None and now - child.started > START_SECONDS:
                child.kill("too_slow_to_start")
        if now - self._memory_at >= MEMORY_SECONDS:
            self._memory_at = now
            self._look_at_memory(now)

    def _bury(self, child: Child, now: float) -> None:
        """Of a process that has ended."""
        if child.channel.fileno() >= 0:
            with suppress(OSError):
                while child.read(now):
                    pass
            self._selector.unregister(child.channel)
            child.channel.close()
        self.children.remove(child)
        drop_gauges(self.folder, child.name)
        if self._signals:
            return
        if not self.announced:
            raise self._why_not_begun(child)
        code = child.process.returncode
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        if child.leave_by is None:
            self.ended[child.why] += 1
            self._restarts[child.kind].ended(child, now)
            reason = f": {child.failed['failed']}" if child.failed else ""
            log.error("%s (pid %d) has ended %s%s: it is started again", child.name, child.process.pid, how, reason)
        self._write_down()

    def _why_not_begun(self, child: Child) -> RetainError:
        if child.failed is not None:
            error = RetainError(child.failed["failed"])
            error.exit_code = child.failed["exit_code"]
            return error
        return StartFailed(f"{child.name} ended before it was ready (exit code {child.process.returncode})")

    def _look_at_memory(self, now: float) -> None:
        workers = [child for child in self.children if child.kind == "worker"]
        if not self.announced or self._signals or any(not child.answers for child in workers):
            return  # one at a time
        if min((now - child.ready_at for child in workers), default=0.0) < REPLACED_SECONDS:
            return  # a limit below what every worker needs must not keep both cores busy with starts
        for child in workers:
            try:
                used = psutil.Process(child.process.pid).memory_info().rss
            except psutil.NoSuchProcess:
                continue
            if used > self.settings.worker_memory:
                log.warning("%s uses %d MB of memory: another takes its place", child.name, used >> 20)
                child.too_large = True
                self.ended["too_large"] += 1
                return

    # -- what is said ----------------------------------------------------------------------------------------------

    def _announce(self) -> None:
        self.announced = True
        ready = next(child.ready for child in self.children if child.kind == "worker" and child.ready)
        for warning in ready["warnings"]:
            print(f"warning: {warning}", file=sys.stderr)
        count = self.settings.workers
        print(
            f"Retain serves {ready['release']} on {url(self.sockets['worker'])}: POST /retain, docs at /docs; "
            f"{ready['decides']}; {count} worker{'s' * (count != 1)}, metrics at {url(self.sockets['admin'])}/metrics",
            flush=True,
        )

    def _write_down(self) -> None:
        """For the admin process, which shows it among the metrics."""
        ready = sum(
            child.ready is not None and child.leave_by is None for child in self.children if child.kind == "worker"
        )
        state = {"wanted": self.settings.workers, "ready": ready, "ended": self.ended}
        try:
            write_processes(self.folder, state)
        except OSError as error:
            log.warning("%s can't be written (%s): the metrics of processes are old", self.folder, error.strerror)


def main(environment: Mapping[str, str] = os.environ) -> int:
    """Serves until it is told to stop; 2 with one line when it can't start."""
    make_decoration()
    logs.configure("supervisor", seldom=False)
    try:
        settings = read(environment)
        api = listen(
            ("RETAIN_HOST", "PORT"), settings.host, settings.port, None if settings.keys else "RETAIN_API_KEYS"
        )
        admin = listen(
            ("RETAIN_ADMIN_HOST", "RETAIN_ADMIN_PORT"),
            settings.admin_host,
            settings.admin_port,
            None if settings.admin_token else "RETAIN_ADMIN_TOKEN",
        )
        if file := file_of(database_url(settings.database_url)):
            make_file(file)  # here alone: one that is gone later has to be brought back, and not made anew
        folder = make()
        try:
            return Supervisor(settings, environment, {"worker": api, "admin": admin}, folder).run()
        finally:
            remove(folder)
    except RetainError as error:
        print(error, file=sys.stderr)
        return error.exit_code
