"""Services under load, as trees of processes: started on one core, asked what they counted, and what they cost."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
# As `python -m serve`, but for its worker.
WITHOUT_DATABASE = (
    "import sys, serve.supervisor as s; s.PROGRAMS['worker'] = ('-m', 'bench.load.worker'); sys.exit(s.main())"
)
COMMANDS = {"bare": ("-m", "bench.load.bare"), "memory": ("-c", WITHOUT_DATABASE), "product": ("-m", "serve")}
# What would make the benchmark another service's.
OURS = re.compile(
    r"RETAIN_(?!STORE|DATA_DIR)|RELEASE_PATH|.*_PATH$|FORCE_BASELINE|CANARY_PERCENT|DATABASE_URL|EXPERIMENT|PORT$"
)
PLENTY = "1000000000000"  # a budget that no benchmark uses up: an offer admitted costs more than one refused
PATIENCE = 30.0


def cores() -> tuple[int, int]:
    """The service's core, and that of whoever loads it; the same one where there is no other."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[-1], usable[0]


class Running:
    """A service of one worker. `seconds`: from its start until it says that it answers."""

    def __init__(self, kind: str, release: Path, settings: Mapping[str, str], core: int) -> None:
        plain = {name: value for name, value in os.environ.items() if not OURS.fullmatch(name)}
        given = {"RELEASE_PATH": str(release), "RETAIN_WORKERS": "1", "RETAIN_BUDGET_USD": PLENTY}
        ports = {"PORT": "0", "RETAIN_ADMIN_PORT": "0", "PYTHONPATH": str(ROOT)}
        started = time.monotonic()
        self.process = subprocess.Popen(
            ["taskset", "-c", str(core), sys.executable, *COMMANDS[kind]],
            cwd=ROOT,
            env=plain | given | ports | dict(settings),
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.seconds = time.monotonic() - started
        urls = re.findall(r"http://[\d.:]+\d", line)
        if not urls:
            raise SystemExit(f"the service ({kind}) did not start: {line}")
        self.url, self._admin = urls[0], urls[1] if len(urls) > 1 else None
        if self._admin:
            self._wait_for_arm()

    def _wait_for_arm(self) -> None:
        """Until the admin process answers, and the learned arm has loaded its release."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            with suppress(OSError):
                if self.counted().get("retain_arm_running", 1.0):
                    return
            time.sleep(0.05)
        raise SystemExit("the learned arm has not begun")

    def counted(self) -> dict[str, float]:
        """Every sample of /metrics, by its name and labels; none of a bare echo."""
        if self._admin is None:
            return {}
        with urllib.request.urlopen(f"{self._admin}/metrics", timeout=PATIENCE) as response:
            lines = [line for line in response.read().decode().splitlines() if line[0] != "#"]
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}

    def processes(self) -> dict[str, list[psutil.Process]]:
        """All of its processes: `worker` (a bare echo's only one), its `arm`, and the `others`."""
        first = psutil.Process(self.process.pid)
        found: dict[str, list[psutil.Process]] = {"worker": [], "arm": [], "others": []}
        for process in [first, *first.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                command = process.cmdline()
                worker = self._admin is None or "--name=worker-0" in command
                found["worker" if worker else "arm" if "serve.arm" in command else "others"].append(process)
        return found

    def cpu(self) -> dict[str, float]:
        """CPU seconds so far, user and system, of each kind of its processes."""
        return {kind: sum(sum(one.cpu_times()[:2]) for one in each) for kind, each in self.processes().items()}

    def memory(self) -> dict[str, int]:
        """Bytes of each kind of its processes: what they share with others counts by its part (PSS)."""
        return {kind: sum(one.memory_full_info().pss for one in each) for kind, each in self.processes().items()}

    def resident(self) -> int:
        """Bytes that worker and arm have in memory (RSS)."""
        processes = self.processes()
        return sum(one.memory_info().rss for one in (*processes["worker"], *processes["arm"]))

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()


def answered(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """What a service has counted in between: decisions, requests that it answered as before, questions to the learned
    arm with an answer, and without one by why."""
    counts: dict[str, float] = {"decisions": 0, "again": 0, "arm answered": 0}
    for sample, value in after.items():
        grown = value - before.get(sample, 0.0)
        name, _, labels = sample.partition("{")
        if name == "retain_decisions_total":
            counts["decisions"] += grown
        elif name == "retain_answers_again_total":
            counts["again"] += grown
        elif name == "retain_arm_answers_total":
            counts["arm answered"] += grown
        elif name == "retain_arm_failures_total" and grown:
            kind = labels.split('"')[1]
            counts[f"arm {kind}"] = grown
    return counts


# -- PostgreSQL ----------------------------------------------------------------------------------------------------


def _program(name: str) -> str | None:
    # Debian keeps them out of the path.
    folders = [os.environ.get("PATH", ""), *sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)]
    return next((found for folder in folders if (found := shutil.which(name, path=folder))), None)


@contextmanager
def postgresql(core: int) -> Iterator[str | None]:
    """The address of a database on a server of its own, as PostgreSQL is set unless somebody sets it; None where it
    isn't installed."""
    initdb, postgres = _program("initdb"), _program("postgres")
    if initdb is None or postgres is None:
        yield None
        return
    import pwd

    folder = Path(tempfile.mkdtemp(prefix="retain-pg-"))
    other: dict[str, Any] = {}
    if os.geteuid() == 0:  # it refuses to run as root
        nobody = pwd.getpwnam("nobody")
        other = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.STDOUT, "cwd": folder, **other}
    try:
        options = ["--auth=trust", "--username=retain", "--encoding=UTF8", "--no-locale"]
        subprocess.run([initdb, f"--pgdata={folder}/data", *options], check=True, **quiet)
        settings = [f"-cunix_socket_directories={folder}", "-clisten_addresses="]
        command = ["taskset", "-c", str(core), postgres, "-D", f"{folder}/data", *settings]
        with subprocess.Popen(command, **quiet) as server:
            try:
                _wait_for(folder)
                yield f"postgresql://retain@/postgres?host={folder}"
            finally:
                server.terminate()
                server.wait(PATIENCE)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(folder: Path) -> None:
    import psycopg

    end = time.monotonic() + PATIENCE
    while True:
        try:
            psycopg.connect(f"postgresql://retain@/postgres?host={folder}").close()
            return
        except psycopg.OperationalError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
