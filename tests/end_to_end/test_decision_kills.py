"""Training that is killed, at random moments and at named places, by SIGKILL and SIGTERM: the same policy's bytes, and
no more than an interval of checkpoints done again."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path

import pytest

from flows.plan import load_experiment
from tests.end_to_end.project import HEARTBEAT_S, Project, Stopwatch, run_to_the_end

SHOTS = 3
INTERVAL = load_experiment("chaos").stages.decision.ppo.checkpoint_every  # steps; everything else is kept at each


@pytest.fixture(scope="module")
def undisturbed(finished: Project) -> dict[str, bytes]:
    """The artifact's files, of a run that nobody shot at."""
    return files(finished)


def files(project: Project) -> dict[str, bytes]:
    return {name: content for name, content in project.artifacts().items() if name.startswith("decision/")}


def seconds(project: Project) -> dict[str, float]:
    """Attempt at the decision -> seconds that it is metered with."""
    return {entry.attempt: entry.seconds for entry in project.entries() if "/decision/" in entry.attempt}


def steps(project: Project) -> list[list[int]]:
    """The steps that each attempt at the decision reported, without attempts that got to none."""
    files = sorted((project.store / project.experiment / "decision").rglob("execution/*.progress.jsonl"))
    return [[json.loads(line)["step"] for line in file.read_text().splitlines()] for file in files]


def check_resumed(attempts: list[list[int]]) -> None:
    """What an attempt did last before its checkpoint is all that the next one does again."""
    for at, after in enumerate(attempts[1:], start=1):
        reached = max(max(before) for before in attempts[:at])
        assert after[0] > reached - INTERVAL, attempts


def check(project: Project, undisturbed: dict[str, bytes], watch: Stopwatch) -> None:
    found = files(project)
    assert "decision/policy.json" in found
    assert {name for name in found.keys() | undisturbed.keys() if found.get(name) != undisturbed.get(name)} == set()
    assert list((project.store / project.experiment).rglob("claim.json")) == []
    assert [path for path in project.store.rglob("checkpoints/*/**/*") if path.is_file()] == []
    assert project.processes() == []
    check_resumed(steps(project))
    metered = seconds(project)
    for attempt, lived in watch.seconds.items():
        assert metered[attempt] == pytest.approx(lived, abs=HEARTBEAT_S + 1.0)


def shoot(project: Project, rng: random.Random, number: signal.Signals, lives: float) -> tuple[Stopwatch, int]:
    """Trains under fire until it is done; how often it was hit, SHOTS at most. `lives`: seconds of a calm training.

    A shot falls anywhere in the first third of what would be left to do if a shot lost nothing: on a machine that has
    become twice as fast, too, it comes before the end.
    """
    hits, left = 0, lives
    run = project.start("run")
    with Stopwatch(project) as watch:
        known: set[int] = set()
        while run.poll() is None and hits < SHOTS:
            attempts = [process for process in watch.attempts() if process.pid not in known]
            if not attempts:
                time.sleep(0.02)
                continue
            (target,) = attempts
            known.add(target.pid)
            wait = rng.uniform(0.3, max(0.6, left / 3))
            until = time.monotonic() + wait
            while time.monotonic() < until and target.is_running() and run.poll() is None:
                time.sleep(0.02)
            if target.is_running() and run.poll() is None:
                target.send_signal(number)
                hits += 1
            left -= wait / 2  # what a new process begins with is part of it
        output, _ = run.communicate(timeout=300)
    assert run.returncode == 0, output
    return watch, hits


# Every run takes one of each; `make test-slow` takes the others.
SHOTS_AT = [
    pytest.param(number, seed, marks=[] if seed == 0 else pytest.mark.slow, id=f"{number.name}-seed{seed}")
    for number in (signal.SIGKILL, signal.SIGTERM)
    for seed in range(6)
]


@pytest.mark.parametrize(("number", "seed"), SHOTS_AT)
def test_shots_at_random_moments(
    ready: Project, finished: Project, undisturbed: dict[str, bytes], tmp_path: Path, number: signal.Signals, seed: int
) -> None:
    shot = ready.with_its_store(tmp_path / "store", "decision")
    (lives,) = seconds(finished).values()
    watch, hits = shoot(shot, random.Random(seed), number, lives)
    assert hits, "nothing was hit"
    assert len(watch.seconds) == hits + 1
    check(shot, undisturbed, watch)


PLACES = (
    "checkpoint.save@1",  # nothing is kept yet
    "checkpoint.seal@3",
    "checkpoint.prune@5",
    "checkpoint.save@7",
    "checkpoint.seal@9",
    "artifact.publish",
    "artifact.seal",
    "artifact.sealed",
)
ALWAYS = ("checkpoint.seal@9",)


@pytest.mark.parametrize("place", [p if p in ALWAYS else pytest.param(p, marks=pytest.mark.slow) for p in PLACES])
def test_a_kill_at_a_named_place(ready: Project, undisturbed: dict[str, bytes], tmp_path: Path, place: str) -> None:
    mark = tmp_path / "died"
    shot = ready.with_its_store(tmp_path / "store", "decision", RETAIN_FAULT=place, RETAIN_FAULT_MARK=str(mark))
    with Stopwatch(shot) as watch:
        assert run_to_the_end(shot) == 1
    assert mark.exists(), "nobody came by"
    if place in ALWAYS:  # late enough for beginning again to show
        before, after = steps(shot)
        assert before[0] == 1
        assert after[0] > INTERVAL
    check(shot, undisturbed, watch)


def test_the_check_sees_an_attempt_that_begins_again() -> None:
    check_resumed([[1, 2, 3, 4, 5, 6, 7], [7, 8], [9]])
    check_resumed([[1, 2, 3, 4, 5, 6, 7], [6, 7, 8]])  # killed between the seventh step and its checkpoint
    for again in ([1, 2], [5, 6]):
        with pytest.raises(AssertionError):
            check_resumed([[1, 2, 3, 4, 5, 6, 7], again])


@pytest.mark.slow
def test_a_training_that_is_stopped_goes_on_from_its_checkpoint(
    ready: Project, finished: Project, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    """SIGINT to the whole run, as Ctrl-C does, once a checkpoint is there; the next run doesn't begin again."""
    stopped = ready.with_its_store(tmp_path / "store", "decision")
    run = stopped.start("run")
    with Stopwatch(stopped) as watch:
        while not checkpoints(stopped):
            assert run.poll() is None
            time.sleep(0.02)
        run.send_signal(signal.SIGINT)
        output, _ = run.communicate(timeout=60)
        assert run.returncode == 128 + signal.SIGINT, output
        sealed = max(int(path.parent.name.split("-")[0]) for path in checkpoints(stopped))
        assert run_to_the_end(stopped) == 1
    assert steps(stopped)[-1][0] == sealed + 1
    check(stopped, undisturbed, watch)


def checkpoints(project: Project) -> list[Path]:
    return list((project.store / project.experiment / "decision").rglob("checkpoints/*/complete.json"))
