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


@dataclass
class Child:
    """The process of an attempt. `seconds`: how long it has lived so far, or lived in all once it has ended."""

    process: subprocess.Popen[bytes]
    work: Path
    began: float
    ended: float | None = None

    @property
    def seconds(self) -> float:
        return (self.ended or time.monotonic()) - self.began

    def poll(self) -> int | None:
        """The exit code once it has ended: negative for the signal that killed it."""
        code = self.process.poll()
        if code is not None and self.ended is None:
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
    path.write_text(request.model_dump_json(indent=1))
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
