"""Starts an attempt as a subprocess of this machine and tells how it ends.

The child stays in our session and holds the reading end of a pipe whose writing end is ours alone: when we die, in
whatever way, it reads the end of the file and stops as if preempted.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from engine.fingerprint import ROOT
from engine.stage import StageRequest

LOG, PROGRESS = "log.txt", "progress.jsonl"


@dataclass
class Child:
    """A running attempt. `seconds` is the life of its process so far, or in the end."""

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
        """SIGTERM: checkpoint and stop."""
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.process.kill()

    def read(self, name: str) -> bytes:
        """Log or progress so far."""
        path = self.work / name
        return path.read_bytes() if path.exists() else b""

    def end(self) -> int:
        """The exit code; kills what still lives."""
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


def launch(request: StageRequest) -> Child:
    work = Path(request.work)
    work.mkdir(parents=True, exist_ok=True)
    path = work / "request.json"
    path.write_text(request.model_dump_json(indent=1))
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    environment["PYTHONHASHSEED"] = "0"  # no order of a set may reach an artifact
    with (work / LOG).open("ab") as log:
        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "engine", str(path), "--lifeline"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=environment,
            process_group=0,  # Ctrl-C reaches us alone; we ask the stages to stop
        )
    return Child(process=process, work=work, began=began)
