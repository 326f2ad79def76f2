"""Starts an attempt as a subprocess of this machine and says how it ends.

The child stays in our session and reads from a pipe that only this process can write to. However this process dies,
the child then reads the end of the file and stops as if preempted.
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

# glibc gives what tensors leave behind back to the system at once and asks for it again: of a training step of tiny-opt
# an eighth was page faults. An attempt keeps up to 512 MB of it, in large pages where there are some. A single block of
# 32 MB and more is still given back.
MEMORY = {
    "MALLOC_TRIM_THRESHOLD_": str(512 << 20),
    "MALLOC_TOP_PAD_": str(64 << 20),
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
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


def launch(request: StageRequest) -> Child:
    work = Path(request.work)
    work.mkdir(parents=True, exist_ok=True)
    path = work / "request.json"
    path.write_text(request.model_dump_json(indent=1))
    environment = MEMORY | {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    environment["PYTHONHASHSEED"] = "0"  # so that the order of a set, if it reaches an artifact, is always the same
    with (work / LOG).open("ab") as log:
        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "engine", str(path), "--lifeline"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=environment,
            process_group=0,  # Ctrl-C reaches this process only, which asks the stages to stop
        )
    return Child(process=process, work=work, began=began)
