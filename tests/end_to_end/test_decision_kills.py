"""Training that is killed, at random moments and at named places, by SIGKILL and SIGTERM: the same policy's bytes, and
no more than an interval of checkpoints done again."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from flows.plan import load_experiment
from tests.end_to_end.project import Project, Stopwatch, run_to_the_end
from tests.end_to_end.shots import Target

pytestmark = pytest.mark.kills

SHOTS = 3
CHAOS = load_experiment("chaos")
CONFIG = CHAOS.stages.decision
assert CHAOS.execution.checkpoint.every_steps is not None
# In steps; everything else is kept at each.
DECISION = Target("decision", CHAOS.execution.checkpoint.every_steps, CONFIG.seeds * CONFIG.ppo.iterations)


@pytest.fixture(scope="module")
def undisturbed(finished: Project) -> dict[str, bytes]:
    """The artifact's files, of a run that nobody shot at."""
    return DECISION.files(finished)


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
    (lives,) = DECISION.seconds(finished).values()
    watch, hits = DECISION.shoot(shot, random.Random(seed), number, lives, SHOTS)
    assert hits, "nothing was hit"
    assert len(watch.seconds) == len(hits) + 1
    DECISION.check(shot, undisturbed, watch)


PLACES = (
    "checkpoint.save@1",  # nothing is kept yet
    "checkpoint.saved@2",
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
        before, after = DECISION.steps(shot).values()
        assert before[0] == 1
        assert after[0] > DECISION.interval
    DECISION.check(shot, undisturbed, watch)


def test_the_check_sees_an_attempt_that_begins_again() -> None:
    first = [1, 2, 3, 4, 5, 6, 7]
    DECISION.check_resumed({"1": first, "2": [7, 8], "3": [9]}, {"1": 6, "2": 8})
    DECISION.check_resumed({"1": first, "2": [6, 7, 8]}, {})  # killed between the seventh step and its checkpoint
    for again in ([1, 2], [3, 4]):
        with pytest.raises(AssertionError):
            DECISION.check_resumed({"1": first, "2": again}, {})
    for again in ([1, 8], [6, 8]):  # the first had said little of what it did
        with pytest.raises(AssertionError):
            DECISION.check_resumed({"1": [1], "2": again}, {"1": 6})
    with pytest.raises(AssertionError):  # and the second died before it had done anything
        DECISION.check_resumed({"1": [1], "3": [1, 8]}, {"1": 6, "2": 6})


@pytest.mark.slow
def test_a_training_that_is_stopped_goes_on_from_its_checkpoint(
    ready: Project, finished: Project, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    """SIGINT to the whole run, as Ctrl-C does, once a checkpoint is there; the next run doesn't begin again."""
    stopped = ready.with_its_store(tmp_path / "store", "decision")
    run = stopped.start("run")
    with Stopwatch(stopped) as watch:
        while not DECISION.checkpoints(stopped):
            assert run.poll() is None
            time.sleep(0.02)
        run.send_signal(signal.SIGINT)
        output, _ = run.communicate(timeout=60)
        assert run.returncode == 128 + signal.SIGINT, output
        sealed = DECISION.sealed(stopped)
        assert run_to_the_end(stopped) == 1
    assert list(DECISION.steps(stopped).values())[-1][0] == sealed + 1
    DECISION.check(stopped, undisturbed, watch)
