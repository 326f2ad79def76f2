"""Trainers of language models that are killed: the same adapter's bytes, and no more than an interval done again.

Every trainer dies at ten random moments and at each named place of checkpoints, of artifacts and of the writing of a
checkpoint's file. The ledger's places are reached by whoever starts a stage, never by the stage: which one it is makes
no difference there, so test_kills.py has them, once.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
from pathlib import Path

import pytest

from flows.plan import load_experiment
from tests.end_to_end.project import Project, Stopwatch, run_to_the_end
from tests.end_to_end.shots import Target

pytestmark = pytest.mark.kills

CHAOS = load_experiment("chaos")
INTERVAL, STAGES = CHAOS.execution.checkpoint.every_steps, CHAOS.stages
assert INTERVAL is not None
assert STAGES.base.pretraining is not None
TARGETS = (
    Target("base", INTERVAL, STAGES.base.pretraining.steps),
    Target("sft", INTERVAL, STAGES.sft.max_steps),
    Target("rm", INTERVAL, 2 * STAGES.rm.max_steps),
    Target("judge", INTERVAL, STAGES.judge.max_steps),
    Target("ppo_text", INTERVAL, STAGES.ppo_text.iterations),
)
TRAINERS = {target.stage: target for target in TARGETS}
IN_EVERY_RUN = ("sft", "rm", "ppo_text")


def without(finished: Project, stage: str, folder: Path, **environment: str) -> Project:
    """Everything is there but this stage's artifact, and all that is wanted is that."""
    shot = finished.with_its_store(folder / "store", stage, **environment)
    shutil.rmtree(shot.store / shot.experiment / stage)
    return shot


def lives(finished: Project, stage: str) -> float:
    """Seconds of a calm attempt from its first step to its last."""
    (progress,) = (finished.store / finished.experiment / stage).rglob("execution/*.progress.jsonl")
    seconds = [json.loads(line)["seconds"] for line in progress.read_text().splitlines()]
    return float(seconds[-1] - seconds[0])


def cases() -> list[object]:
    """In every run two random kills of most trainers, and two polite ones of one; in `make test-slow` ten seeds of each
    with up to three kills, and five of polite ones."""
    found = []
    for stage in TRAINERS:
        for number, seeds in ((signal.SIGKILL, 10), (signal.SIGTERM, 5)):
            for seed in range(seeds):
                stages = IN_EVERY_RUN if number == signal.SIGKILL else ("sft",)
                always = stage in stages and seed == 0
                marks = [] if always else [pytest.mark.slow]
                found.append(pytest.param(stage, number, seed, marks=marks, id=f"{stage}-{number.name}-seed{seed}"))
    return found


@pytest.mark.parametrize(("stage", "number", "seed"), cases())
def test_shots_at_random_moments(
    finished: Project, tmp_path: Path, stage: str, number: signal.Signals, seed: int
) -> None:
    target, shot = TRAINERS[stage], without(finished, stage, tmp_path)
    before = set(target.seconds(shot))
    shots = 3 if seed else 2
    watch, hits = target.shoot(shot, random.Random(seed), number, lives(finished, stage), shots)
    # In every run both have to hit; of three the last may come too late.
    assert len(hits) >= (1 if seed else shots), hits
    assert len(set(target.seconds(shot)) - before) == len(hits) + 1 - target.completed(shot, hits)
    target.check(shot, target.files(finished), watch)
    if number == signal.SIGTERM:
        target.check_polite(shot, hits)


@pytest.mark.parametrize(
    "stage", [name if name == "sft" else pytest.param(name, marks=pytest.mark.slow) for name in TRAINERS]
)
def test_asked_to_stop_while_it_loads(finished: Project, tmp_path: Path, stage: str) -> None:
    target, shot = TRAINERS[stage], without(finished, stage, tmp_path)
    watch, hits = target.shoot(shot, random.Random(0), signal.SIGTERM, 0.0, 2)
    assert len(hits) == 2
    target.check(shot, target.files(finished), watch)
    target.check_polite(shot, hits)
    assert target.completed(shot, hits) == 0
    assert len(target.steps(shot)) == 1, "an attempt that was hit had begun"


AT_THE_END = ("artifact.publish", "artifact.seal", "artifact.sealed")
PLACES = (
    "checkpoint.save@1",  # nothing is kept yet
    "checkpoint.saved@2",
    "checkpoint.seal@2",
    "checkpoint.prune@2",
    "checkpoint.save@3",
    # A file of a checkpoint, whatever else is written meanwhile: of the second, or of the third of `base`.
    "store.write:/checkpoints/@9",
    "store.rename:/checkpoints/@9",
    "store.renamed:/checkpoints/@9",
    *AT_THE_END,
)
ALWAYS = ("checkpoint.seal@2", "artifact.seal")


@pytest.mark.parametrize(
    ("stage", "place"),
    [
        pytest.param(
            stage, place, marks=[] if stage in IN_EVERY_RUN and place in ALWAYS else pytest.mark.slow
        )
        for stage in TRAINERS
        for place in PLACES
    ],
)  # fmt: skip
def test_a_kill_at_a_named_place(finished: Project, tmp_path: Path, stage: str, place: str) -> None:
    mark = tmp_path / "died"
    target = TRAINERS[stage]
    shot = without(finished, stage, tmp_path, RETAIN_FAULT=place, RETAIN_FAULT_MARK=str(mark))
    with Stopwatch(shot) as watch:
        run_to_the_end(shot)
    assert mark.exists(), "nobody came by"
    if place not in ("checkpoint.save@1", *AT_THE_END):  # a checkpoint is whole: beginning again would show
        assert watch.sealed, "what it had to go on from was not seen"
    target.check(shot, target.files(finished), watch)
