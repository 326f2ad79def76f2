"""Shooting at one stage while it trains, and what has to hold afterwards; shared by the tests of every trainer."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import pytest

from engine import records
from engine.records import AttemptRecord
from engine.store import FolderStore
from tests.end_to_end.project import HEARTBEAT_S, Project, Stopwatch, attempt_of


@dataclass(frozen=True)
class Target:
    """`interval`: steps from one checkpoint to the next, at most; `whole`: steps of a whole training.

    A checkpoint gets into the store while the stage goes on, and before it makes the next one.
    """

    stage: str
    interval: int
    whole: int

    def files(self, project: Project) -> dict[str, bytes]:
        """The artifact's files and manifest."""
        return {name: data for name, data in project.artifacts().items() if name.startswith(f"{self.stage}/")}

    def seconds(self, project: Project) -> dict[str, float]:
        """Attempt at the stage -> seconds that it is metered with."""
        return {entry.attempt_id: entry.seconds for entry in project.entries() if f"/{self.stage}/" in entry.attempt_id}

    def steps(self, project: Project) -> dict[str, list[int]]:
        """Attempt -> the steps that it reported, in order, without attempts that got to none."""
        found = {}
        for file in sorted((project.store / project.experiment / self.stage).rglob("execution/*.progress.jsonl")):
            prefix = file.parent.parent.relative_to(project.store).as_posix()
            steps = [json.loads(line)["step"] for line in file.read_text().splitlines()]
            if steps:
                found[f"{prefix}/{int(file.name.partition('.')[0])}"] = steps
        return found

    def checkpoints(self, project: Project) -> list[Path]:
        return list((project.store / project.experiment / self.stage).rglob("checkpoints/*/complete.json"))

    def sealed(self, project: Project) -> int:
        """The step of the newest checkpoint, or 0."""
        return max((int(path.parent.name.split("-")[0]) for path in self.checkpoints(project)), default=0)

    def check(self, project: Project, undisturbed: dict[str, bytes], watch: Stopwatch) -> None:
        """The same bytes, nothing left behind, no more done again than has to be, and every attempt paid for."""
        found = self.files(project)
        assert found
        assert {name for name in found.keys() | undisturbed.keys() if found.get(name) != undisturbed.get(name)} == set()
        assert list((project.store / project.experiment).rglob("claim.json")) == []
        assert [path for path in project.store.rglob("checkpoints/*/**/*") if path.is_file()] == []
        assert project.processes() == []
        self.check_resumed(self.steps(project), watch.sealed)
        metered = self.seconds(project)
        for attempt, lived in watch.seconds.items():
            assert metered[attempt] == pytest.approx(lived, abs=HEARTBEAT_S + 1.0)

    def check_polite(self, project: Project, hits: Sequence[str]) -> None:
        """Of attempts that were asked to stop: each answered within the engine's GRACE_S, and left by itself: of one
        that did not, the engine says so.

        One may have been past the last place where it could stop.
        """
        ended = {attempt: _record(project, attempt) for attempt in hits}
        said = sorted((record.status, record.message) for record in ended.values() if record)
        assert said[-1] == ("preempted", "asked to stop"), said
        assert set(said) <= {("complete", ""), ("preempted", "asked to stop")}, said
        assert self.completed(project, hits) <= 1

    def completed(self, project: Project, hits: Iterable[str]) -> int:
        """How many of these attempts were hit too late to be kept from their end."""
        return sum(
            record is not None and record.status == "complete" for record in map(partial(_record, project), hits)
        )

    def check_resumed(self, attempts: Mapping[str, Sequence[int]], sealed: Mapping[str, int]) -> None:
        """What an attempt did after its newest checkpoint in the store is all that the next one does again.

        That is less than two intervals: when it was killed, the checkpoint after that one was still being copied.
        A trainer reports its first step, then one a second: what it had reached may be more than it said. So what the
        next one reports first has to come after the newest checkpoint that stood when this one ended, too.
        """
        reached = kept = -1
        for attempt in sorted(attempts.keys() | sealed.keys(), key=_number):
            if steps := attempts.get(attempt):
                assert steps[0] > max(reached - 2 * self.interval, kept), (attempt, attempts, sealed)
                reached = max(reached, *steps)
            kept = max(kept, sealed.get(attempt, -1))

    def shoot(
        self, project: Project, rng: random.Random, number: signal.Signals, lives: float, shots: int
    ) -> tuple[Stopwatch, list[str]]:
        """Trains under fire until it is done; which attempts were hit, `shots` at most. `lives`: seconds of a calm
        run(); of 0 the shots fall before the first step, while the attempt loads.

        Else a shot falls anywhere in the first third of what would be left to do if a shot lost nothing, counted from
        the first step on, or at a checkpoint that is drawn too if that comes first: however much faster the machine has
        become since the calm run, all shots come before the end.
        """
        hits: list[str] = []
        left = lives
        run = project.start("run")
        with Stopwatch(project) as watch:
            known: set[int] = set()
            while run.poll() is None and len(hits) < shots:
                attempts = [process for process in watch.attempts() if process.pid not in known]
                if not attempts:
                    time.sleep(0.02)
                    continue
                (target,) = attempts
                known.add(target.pid)
                come = self._began if lives else self._answers
                while target.is_running() and run.poll() is None and not come(project, target):
                    time.sleep(0.02)
                wait = rng.uniform(0.0, max(0.1, left / 3))
                until, sealed = time.monotonic() + wait, self.sealed(project)
                ahead = (self.whole - sealed) // self.interval - 1  # checkpoints before the last
                enough = sealed + self.interval * rng.randint(1, max(1, ahead // (shots - len(hits))))
                while (
                    time.monotonic() < until
                    and self.sealed(project) < enough
                    and target.is_running()
                    and run.poll() is None
                ):
                    time.sleep(0.01)
                if target.is_running() and run.poll() is None:
                    hits.append(watch.name_of(target.pid))
                    target.send_signal(number)
                    with suppress(psutil.NoSuchProcess):
                        target.wait(timeout=60)
                left -= wait / 2
            output, _ = run.communicate(timeout=300)
        assert run.returncode == 0, output
        return watch, hits

    def _began(self, project: Project, process: psutil.Process) -> bool:
        """Whether it has reported a step: what comes before are imports."""
        try:
            return (_request(process).parent / "progress.jsonl").stat().st_size > 0
        except (OSError, StopIteration, psutil.Error):
            return False

    def _answers(self, project: Project, process: psutil.Process) -> bool:
        """Whether it has said that it runs: whoever is asked to stop before that dies of the signal."""
        try:
            record = _record(project, attempt_of(_request(process)))
        except (StopIteration, psutil.Error):
            return False
        return record is not None and record.status == "running"


def _record(project: Project, attempt: str) -> AttemptRecord | None:
    prefix, _, number = attempt.rpartition("/")
    return records.read(FolderStore(project.store), prefix, int(number))


def _number(attempt: str) -> int:
    return int(attempt.rpartition("/")[2])


def _request(process: psutil.Process) -> Path:
    return next(Path(part) for part in process.cmdline() if part.endswith("request.json"))
