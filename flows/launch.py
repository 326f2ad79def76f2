"""What a run asks of an attempt at work, wherever it works; and the attempts that are subprocesses of this machine.

A run starts an attempt, looks at it now and then, may ask it to stop, and learns how it ended. It can't tell whether
that is a subprocess (here) or a flow run in a container (flows/container.py).
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from engine.environment import of_stage
from engine.errors import RetainError
from engine.fingerprint import ROOT
from engine.records import LOG
from engine.stage import StageRequest
from flows.pools import PricedMachine

# Looks at a process follow each other every 50 ms, on a busy machine after a second or two. Where more than this lies
# between two of them, nobody was looking.
LOOKING_S = 5.0


class Child(Protocol):
    """An attempt at work. Times are in seconds.

    `work`: the folder of this machine that has its log and progress, or None where it puts them into the store itself.
    `seconds`: how long it has run so far, or once it has ended, until we noticed. `seconds_alive`: until we last saw it
    alive. `end_seen`: whether somebody saw it end, so that `seconds` is exact. `message`: why it ended, where somebody
    else than the attempt knows. `never_began`: it has ended, and its process was never started.
    """

    @property
    def work(self) -> Path | None: ...

    @property
    def seconds(self) -> float: ...

    @property
    def seconds_alive(self) -> float: ...

    @property
    def end_seen(self) -> bool: ...

    @property
    def message(self) -> str: ...

    @property
    def never_began(self) -> bool: ...

    def poll(self) -> int | None:
        """The exit code once it has ended: negative for the signal that killed it."""

    def preempt(self) -> None:
        """Asks it to save a checkpoint and stop."""

    def kill(self) -> None:
        """Ends it, without a checkpoint where that is possible."""

    def read(self, name: str) -> bytes:
        """Content of its log or of its progress lines so far."""

    def end(self) -> int | None:
        """Ends it if it is still at work, and returns its exit code.

        None: nobody can tell whether it has ended. It was lost, with its machine or for a while.
        """


class NotStarted(RetainError):
    """The attempt was not started, and never will be."""


@dataclass(frozen=True)
class Launcher:
    """Where a run's attempts are started.

    `start(request, environment, pool)` returns the attempt at work, or raises NotStarted; `environment` is the one that
    the run was started with, of which a stage gets a part; `pool` is where its machine is (PricedMachine). `work(here,
    id of the attempt)`, with the store's folder `here`, is a folder on the machine where the attempt works, which no
    other attempt uses.

    `owner` names a run that comes back after it was killed. It then starts its open attempts a second time, and `start`
    returns those that are still at work. A run without an owner ends its attempts when it ends, however it does.

    `available`: whether such a machine could be had, where another one would do as well.

    `shared`: its attempts work elsewhere, and have nothing in common with the run but the store. `around_s`: seconds
    that are charged for an attempt beyond those of its own process, and so are reserved on top of its limit.
    """

    start: Callable[[StageRequest, Mapping[str, str], str], Child]
    work: Callable[[Path, str], Path]
    available: Callable[[PricedMachine], bool] = lambda machine: True
    owner: str = ""
    shared: bool = False
    around_s: float = 0.0


@dataclass
class Subprocess:
    """An attempt that is a process of this machine.

    It stays in our session and reads from a pipe that only this process can write to. However this process dies, the
    attempt then reads the end of the file and stops as if preempted.
    """

    process: subprocess.Popen[bytes]
    work: Path
    began: float  # time.monotonic(), as the next two
    ended: float | None = None
    alive_at: float | None = None
    message: str = ""
    never_began: bool = False

    @property
    def seconds(self) -> float:
        return (time.monotonic() if self.ended is None else self.ended) - self.began

    @property
    def seconds_alive(self) -> float:
        return (self.began if self.alive_at is None else self.alive_at) - self.began

    @property
    def end_seen(self) -> bool:
        """Whether it ended while we were looking: we may have been stopped ourselves, or have waited for a terminal."""
        return self.ended is not None and self.seconds - self.seconds_alive <= LOOKING_S

    def poll(self) -> int | None:
        looked_at = time.monotonic()
        code = self.process.poll()
        if code is None:
            self.alive_at = looked_at
        elif self.ended is None:
            self.ended = time.monotonic()
        return code

    def preempt(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.process.kill()

    def read(self, name: str) -> bytes:
        path = self.work / name
        return path.read_bytes() if path.exists() else b""

    def end(self) -> int:
        if self.poll() is None:
            self.kill()
            self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()
        code = self.poll()
        assert code is not None
        return code


@dataclass(frozen=True)
class Progress:
    """A line of progress: `step` of `total`, figures of the stage's own, and a remark of the engine's."""

    step: int
    total: int
    figures: Mapping[str, float]
    note: str = ""

    @property
    def percent(self) -> float:
        return 100.0 * self.step / max(self.total, 1)


def last_progress(lines: bytes) -> Progress | None:
    """The last complete one of an attempt's lines of progress, None if there is none or it is damaged."""
    complete = lines[: lines.rfind(b"\n") + 1].splitlines()
    try:
        line = json.loads(complete[-1])
        step, total = line.pop("step"), line.pop("total")
        del line["seconds"]
        note = line.pop("note", "")
        return Progress(step, total, line, note)
    except (IndexError, ValueError, KeyError):  # none yet, or cut short by a full disk
        return None


def work_folder(here: Path, attempt_id: str) -> Path:
    """The folder of one attempt on this machine; `here` is the store's."""
    return here / "work" / attempt_id.replace("/", "-")


def launch(request: StageRequest, caller: Mapping[str, str], pool: str = "") -> Subprocess:
    """Starts the attempt as a subprocess, whatever the pool. Raises NotStarted."""
    began = time.monotonic()
    try:
        process = start_engine(request, caller)
    except OSError as error:
        raise NotStarted(f"{request.stage}: could not be started in {request.work} ({error})") from None
    return Subprocess(process=process, work=Path(request.work), began=began)


def start_engine(request: StageRequest, caller: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """The process of an attempt on this machine, which ends when we do; its log and progress lie in `request.work`."""
    work = Path(request.work)
    work.mkdir(parents=True, exist_ok=True)
    path = work / "request.json"
    path.write_text(request.model_dump_json(indent=1), encoding="utf-8")
    with (work / LOG).open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "engine", str(path), "--lifeline"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=of_stage(caller),
            process_group=0,  # Ctrl-C reaches this process only, which asks the stages to stop
        )


HERE = Launcher(start=launch, work=work_folder)
