"""Starts an attempt as a subprocess of this machine and says how it ends.

The child stays in our session and reads from a pipe that only this process can write to. However this process dies,
the child then reads the end of the file and stops as if preempted.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.environment import of_stage
from engine.fingerprint import ROOT
from engine.stage import StageRequest

LOG, PROGRESS = "log.txt", "progress.jsonl"
# Looks at a process follow each other every 50 ms, on a busy machine after a second or two. Where more than this lies
# between two of them, nobody was looking.
LOOKING_S = 5.0


@dataclass
class Child:
    """The process of an attempt. Times are those of time.monotonic().

    `seconds`: how long it has lived so far, or once it has ended, until we noticed. `seconds_alive`: until we last saw
    it alive.
    """

    process: subprocess.Popen[bytes]
    work: Path
    began: float
    ended: float | None = None
    alive_at: float | None = None

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
        """The exit code once it has ended: negative for the signal that killed it."""
        looked_at = time.monotonic()
        code = self.process.poll()
        if code is None:
            self.alive_at = looked_at
        elif self.ended is None:
            self.ended = time.monotonic()
        return code

    def preempt(self) -> None:
        """Asks it to save a checkpoint and stop (SIGTERM)."""
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.process.kill()

    def read(self, name: str) -> bytes:
        """Content of the log or of the progress lines so far."""
        path = self.work / name
        return path.read_bytes() if path.exists() else b""

    def end(self) -> int:
        """Kills the process if it is still alive; returns its exit code."""
        if self.poll() is None:
            self.kill()
            self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()
        code = self.poll()
        assert code is not None
        return code


def work_folder(store_url: str, attempt_id: str) -> Path:
    """The folder of one attempt on this machine."""
    return Path(store_url) / "work" / attempt_id.replace("/", "-")


def launch(request: StageRequest, caller: Mapping[str, str]) -> Child:
    """Starts the attempt. `caller`: the environment that the run was started with, of which a stage gets a part."""
    work = Path(request.work)
    work.mkdir(parents=True, exist_ok=True)
    path = work / "request.json"
    path.write_text(request.model_dump_json(indent=1), encoding="utf-8")
    with (work / LOG).open("ab") as log:
        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "engine", str(path), "--lifeline"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=of_stage(caller),
            process_group=0,  # Ctrl-C reaches this process only, which asks the stages to stop
        )
    return Child(process=process, work=work, began=began)
