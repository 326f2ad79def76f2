"""`python -m serve` as real processes: started, asked and looked at."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psutil

ROOT = Path(__file__).resolve().parents[2]
OURS = re.compile(r"RETAIN|RELEASE|.*_PATH$|FORCE_BASELINE|CANARY_PERCENT|ASSIGNMENT_KEY|PSEUDONYM_KEY|DATABASE_URL")
LINE = re.compile(
    r"Retain serves release (?P<release>[0-9a-f]{12}\S*) \((?P<sources>.+)\) on http://(?P<host>[\d.]+):(?P<port>\d+): "
    r".*, metrics at http://[\d.]+:(?P<admin>\d+)/metrics\n"
)
PLENTY = 30.0  # seconds for what takes a fraction of one, since others use the machine


class Address(NamedTuple):
    host: str
    port: int


class Served(subprocess.Popen[str]):
    """A supervisor, with its processes. Killed rather than told to stop, after which the others end by themselves."""

    known: tuple[psutil.Process, ...] = ()
    line = ""
    release = ""
    api = Address("", 0)
    admin = Address("", 0)

    def begun(self) -> Served:
        """Once it says that it serves."""
        assert self.stdout is not None
        self.line = self.stdout.readline()
        found = LINE.fullmatch(self.line)
        assert found, (self.line, self.stderr and self.stderr.read())
        self.release = found["release"]
        self.api = Address(found["host"], int(found["port"]))
        self.admin = Address(found["host"], int(found["admin"]))
        return self

    def children(self, kind: str = "") -> dict[str, psutil.Process]:
        """Its processes of one kind, or of both, by the name of their slot."""
        found = {}
        for process in psutil.Process(self.pid).children():
            name = next((part for part in _command(process) if part.startswith(f"--name={kind}")), None)
            if name is not None:
                found[name.removeprefix("--name=")] = process
        self.known += tuple(found.values())
        return found

    def said(self) -> list[str]:
        """What it has written to standard error; it has ended."""
        assert self.stderr is not None
        return self.stderr.read().splitlines()

    def __exit__(self, *error: Any) -> None:
        if self.poll() is None:
            self.children()
            self.kill()
        _, left = psutil.wait_procs(self.known, timeout=PLENTY)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        super().__exit__(*error)


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def serve(environment: dict[str, str], worker: str = "") -> Served:
    """`worker`: Python that a worker runs before it begins, such as what makes it misbehave."""
    plain = {name: value for name, value in os.environ.items() if not OURS.match(name)}
    command = ["-m", "serve"]
    if worker:
        program = f"import sys, serve.worker\n{worker}\nsys.exit(serve.worker.main())"
        patch = f"import sys, serve.supervisor as s; s.PROGRAMS['worker'] = ('-c', {program!r}); sys.exit(s.main())"
        command = ["-c", patch]
    return Served(
        [sys.executable, *command],
        cwd=ROOT,
        env=plain | {"PORT": "0", "RETAIN_ADMIN_PORT": "0"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def get(address: Address, path: str, **headers: str) -> str:
    request = urllib.request.Request(f"http://{address.host}:{address.port}{path}", headers=headers)
    with urllib.request.urlopen(request, timeout=PLENTY) as response:
        text: bytes = response.read()
        return text.decode()


def counted(service: Served) -> dict[str, float]:
    """Every sample of /metrics, by its name and labels."""
    lines = [line for line in get(service.admin, "/metrics").splitlines() if line[0] != "#"]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def until(true: Callable[[], bool]) -> None:
    """Returns once it is true; fails if that takes longer than any machine should."""
    end = time.monotonic() + PLENTY
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)
