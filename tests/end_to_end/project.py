"""A copy of the project with tables of its own, and real runs of it: for tests that change code or kill processes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
import pytest

from engine import ledger
from engine.fingerprint import ROOT
from engine.store import FolderStore
from flows.plan import load_experiment
from tasks.data import synthetic
from tasks.stages import STAGES as TABLE

STAGES = tuple(TABLE)
HEARTBEAT_S = 2.0  # of experiment_chaos
LOOKS = 50  # at a new process, until it is known to be none of the attempts


@dataclass
class Project:
    """`root`: the copy; `data`: its tables; `store`: where its runs go; `wanted`: stages that they carry out, with what
    those read from, or all."""

    root: Path
    data: Path
    store: Path
    experiment: str = "chaos"
    wanted: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)

    @classmethod
    def at(cls, folder: Path) -> Project:
        """What copy_project() made in the folder."""
        return cls(folder / "project", folder / "data", folder / "store")

    def wanting(self, *wanted: str) -> Project:
        """The same project and store, of which a run carries out other stages."""
        return replace(self, wanted=wanted)

    def at_store(self, store: Path) -> Project:
        """The same project with a store that is there."""
        return replace(self, store=store)

    def with_store(self, store: Path, *wanted: str, **environment: str) -> Project:
        """The same project on an empty store. Prefect's home comes along: a new database takes it 8 s to make."""
        home = self.store / "prefect" / "home-0"
        if home.exists():
            shutil.copytree(home, store / "prefect" / "home-0")
        return replace(self, store=store, wanted=wanted, environment=environment)

    def with_its_store(self, store: Path, *wanted: str, **environment: str) -> Project:
        """The same project on a copy of its store."""
        shutil.copytree(self.store, store)
        return replace(self, store=store, wanted=wanted, environment=environment)

    def apart(self, folder: Path) -> Project:
        """A copy of code, tables and store, for tests that change them."""
        for name in ("root", "data", "store"):
            shutil.copytree(getattr(self, name), folder / name)
        return replace(self, root=folder / "root", data=folder / "data", store=folder / "store")

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """`python -m flows ARGUMENTS` in a process group of its own, as a terminal would start it."""
        wanted = [part for stage in self.wanted for part in ("--stage", stage)] if arguments == ("run",) else []
        return subprocess.Popen(
            [sys.executable, "-m", "flows", *arguments, "--experiment", self.experiment, *wanted],
            cwd=self.root,
            env=self._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )

    def run(self) -> subprocess.CompletedProcess[str]:
        process = self.start("run")
        output, _ = process.communicate(timeout=300)
        return subprocess.CompletedProcess(process.args, process.returncode, output)

    def why(self) -> dict[str, list[str]]:
        """stage -> the lines that `make why` prints for it."""
        output, _ = self.start("why").communicate(timeout=60)
        causes: dict[str, list[str]] = {}
        for line in output.splitlines():
            if not line.startswith("  "):
                stage = line.partition(":")[0]
                causes[stage] = []
            else:
                causes[stage].append(line.strip())
        return causes

    def artifacts(self) -> dict[str, bytes]:
        """stage/name -> content of every current artifact's files, and its manifest."""
        found = {}
        current = json.loads((self.store / self.experiment / "current.json").read_text())
        for stage, fingerprint in current.items():
            folder = self.store / self.experiment / stage / fingerprint
            manifest = (folder / "manifest.json").read_bytes()
            found[f"{stage}/manifest.json"] = manifest
            for file in json.loads(manifest)["files"]:
                found[f"{stage}/{file['path']}"] = (folder / "files" / file["sha256"]).read_bytes()
        return found

    def entries(self) -> list[ledger.Entry]:
        return ledger.entries(FolderStore(self.store), self.experiment)

    def processes(self) -> list[psutil.Process]:
        """Every living process that works on this store: runs, servers and attempts."""
        mark = str(self.store)
        found = []
        for process in psutil.process_iter():
            try:
                works_here = mark in process.environ().get("RETAIN_STORE", "") or mark in " ".join(process.cmdline())
                if works_here and process.status() != psutil.STATUS_ZOMBIE and process.pid != os.getpid():
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def _environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RETAIN_", "PREFECT_"))}
        own = {"RETAIN_STORE": str(self.store), "RETAIN_DATA_DIR": str(self.data), "PYTHONPATH": str(self.root)}
        return kept | own | self.environment


def copy_project(folder: Path) -> Project:
    """The files that git would take, and a copy of the real tables; of seeded ones where there are none."""
    listing = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(None, listing.stdout.split("\0")):
        source, target = ROOT / name, folder / "project" / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    stages = load_experiment("chaos").stages
    data = folder / "data"
    data.mkdir()
    for table in (stages.customers, stages.campaigns):
        names = table.dataset.source.files
        real = [path for name in names if (path := Path(os.environ.get("RETAIN_DATA_DIR", "")) / name).is_file()]
        if real:
            shutil.copyfile(real[0], data / real[0].name)
        else:
            (data / names[0]).write_bytes(synthetic.csv(table.dataset, seed=1))
    for text in (*stages.dialogues.files, *stages.preferences.files):  # without them, synthetic ones
        for name in (name for plain in text.names for name in (plain, f"{plain}.gz")):
            if (path := Path(os.environ.get("RETAIN_DATA_DIR", "")) / name).is_file():
                shutil.copyfile(path, data / name)
    return Project.at(folder)


def states(output: str) -> dict[str, str]:
    """stage -> state, from the table that a run ends with."""
    return dict(re.findall(r"^(\w+) +│ (\w+)", output, flags=re.MULTILINE))


def run_to_the_end(project: Project, limit: int = 20) -> int:
    """Runs until one isn't killed; how often that took."""
    for attempt in range(1, limit + 1):
        done = project.run()
        if done.returncode != -signal.SIGKILL:
            assert done.returncode == 0, done.stdout
            return attempt
    raise AssertionError("killed every time")


def check_unharmed(project: Project, undisturbed: Project, seen: dict[str, float]) -> None:
    """The same bytes, nothing left behind, and every attempt of `seen` (attempt -> seconds alive) paid for."""
    until = time.monotonic() + 20
    while project.processes() and time.monotonic() < until:
        time.sleep(0.1)
    assert project.processes() == []
    found, expected = project.artifacts(), undisturbed.artifacts()
    if project.wanted:
        made = {name.partition("/")[0] for name in found}
        assert set(project.wanted) <= made
        expected = {name: content for name, content in expected.items() if name.partition("/")[0] in made}
    assert {name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)} == set()
    assert list((project.store / project.experiment).rglob("claim.json")) == []
    assert [path for path in project.store.rglob("checkpoints/*/**/*") if path.is_file()] == []
    assert list((project.store / "work").glob("*")) == []
    entries = project.entries()
    assert [entry for entry in entries if entry.state != "settled"] == []
    assert {name for name, lived in seen.items() if lived > 0.1} <= {entry.attempt_id for entry in entries}
    for entry in entries:
        # An attempt that ended before anyone looked lived for less than a look.
        lived = seen.get(entry.attempt_id, 0.0)
        allowed = HEARTBEAT_S + 1.0 if entry.estimated else 1.0
        assert entry.seconds == pytest.approx(lived, abs=allowed), entry


class Stopwatch:
    """Watches the attempts of a store from outside.

    `seconds`: attempt -> how long its process was seen alive. `sealed`: attempt -> the step of the newest checkpoint
    when its process had gone, if there was one; the next attempt's imports take longer than a look.
    """

    def __init__(self, project: Project) -> None:
        self.project = project
        self.seconds: dict[str, float] = {}
        self.sealed: dict[str, int] = {}
        self._born: dict[str, float] = {}
        self._known: dict[int, str] = {}
        self._names: dict[int, str] = {}  # also of those that have ended
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Stopwatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def attempts(self) -> list[psutil.Process]:
        """The attempts that were alive at the last look."""
        return [psutil.Process(pid) for pid in list(self._known) if psutil.pid_exists(pid)]

    def name_of(self, pid: int) -> str:
        return self._names[pid]

    def _watch(self) -> None:
        # What was there before is no attempt of this store.
        looks = dict.fromkeys(psutil.pids(), LOOKS)
        while not self._done.wait(0.02):
            alive = set(psutil.pids())
            # Between fork and exec a child shows its parent's command line: look at a new process more than once.
            for pid in [pid for pid in alive - self._known.keys() if looks.get(pid, 0) < LOOKS]:
                looks[pid] = looks.get(pid, 0) + 1
                name = self._attempt_of(pid)
                if name:
                    self._known[pid] = self._names[pid] = name
            for pid in self._known.keys() - alive:
                self._look_at_checkpoints(self._known.pop(pid))
            for pid in looks.keys() - alive:
                del looks[pid]
            now = time.monotonic()
            for pid, name in self._known.items():
                if _lives(pid):
                    self.seconds[name] = now - self._born.setdefault(name, now)

    def _look_at_checkpoints(self, attempt: str) -> None:
        stage = self.project.store / attempt.rpartition("/")[0]
        found = [int(path.parent.name.split("-")[0]) for path in stage.glob("checkpoints/*/complete.json")]
        if found:
            self.sealed[attempt] = max(found)

    def _attempt_of(self, pid: int) -> str | None:
        try:
            command = psutil.Process(pid).cmdline()
        except psutil.Error:
            return None
        requests = [Path(part) for part in command if part.endswith("request.json")]
        if not requests or not str(requests[0]).startswith(str(self.project.store)):
            return None
        return attempt_of(requests[0])


def attempt_of(request: Path) -> str:
    """The attempt's name, from where its request lies."""
    return "/".join(request.parent.name.rsplit("-", 3))


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
