"""Every stage of the table, interrupted: what it ends with has the bytes of a run that nobody interrupted.

A killed process leaves its newest checkpoint and nothing else, so a kill is a run from one of the checkpoints that an
undisturbed run saved. A stop is asked for at a look of the stage, or while it saves. Quick stages are killed and
stopped everywhere, others in a few places drawn by seed; the kills of real processes are in tests/end_to_end.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch

from engine.artifact import canonical
from engine.checkpoint import SEAL, Checkpoint, Checkpointer, Preempted
from engine.claim import acquire
from engine.errors import RetainError
from engine.store import FolderStore
from tasks.stages import STAGES
from tests.tasks.conftest import Checkpoints, make_workspace
from tests.tasks.contract.toys import Toys

every_stage = pytest.mark.parametrize("stage", STAGES)


@dataclass(frozen=True)
class Ended:
    """What a run left: its files, metrics.json among them, and what it saved on the way."""

    files: dict[str, bytes]
    kept: list[Checkpoint]
    looks: int

    def before(self, place: int) -> Checkpoint | None:
        """What an attempt goes on from that makes the `place`-th checkpoint of the run next; None at the first."""
        return self.kept[place - 2] if place > 1 else None


@dataclass
class Runs:
    """Runs of toys, each in a folder of its own; the undisturbed one of each stage once."""

    toys: Toys
    root: Path
    count: int = 0
    whole: dict[str, Ended] = field(default_factory=dict)

    def run(self, stage: str, attempt: Checkpoints, engines: Checkpointer | None = None) -> Ended:
        """Raises what the stage raises. `engines`: where it keeps its checkpoints instead of in memory."""
        self.count += 1
        folder = self.root / stage / str(self.count)
        workspace = make_workspace(folder / "out", attempt)
        workspace = replace(workspace, scratch=folder / "scratch", checkpoints=engines or workspace.checkpoints)
        workspace.scratch.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            self.toys[stage].prepare(patch)
            workspace.out.json("metrics.json", self.toys[stage].run(stage, workspace))
        out = folder / "out"
        files = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
        return Ended(files, attempt.kept, attempt.stopping.looks)

    def undisturbed(self, stage: str) -> Ended:
        if stage not in self.whole:
            self.whole[stage] = self.run(stage, Checkpoints())
        return self.whole[stage]

    def saving(self, stage: str) -> Ended:
        """The undisturbed run of a stage that saves something; one that doesn't takes a second and begins anew."""
        whole = self.undisturbed(stage)
        if not whole.kept:
            pytest.skip("it keeps nothing")
        return whole

    def places(self, stage: str, count: int) -> list[int]:
        """Of 1..count, those at which the toy is to be interrupted: all, or a few that its name draws."""
        places = self.toys[stage].places
        if places is None or places >= count:
            return list(range(1, count + 1))
        return sorted(random.Random(f"{stage} {count}").sample(range(1, count + 1), places))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    root = tmp_path_factory.mktemp("contract")
    return Runs(Toys(root / "toys"), root / "runs")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


QUICK = {"customers", "campaigns", "dialogues", "preferences", "prompts", "release"}


@every_stage
def test_a_stage_that_takes_long_keeps_what_it_has(runs: Runs, stage: str) -> None:
    """Else the tests below would say nothing of it. Its steps only grow."""
    steps = [checkpoint.step for checkpoint in runs.undisturbed(stage).kept]
    assert steps == sorted(set(steps))
    assert bool(steps) is (stage not in QUICK)


@every_stage
def test_killed_after_any_checkpoint_it_ends_with_the_same_bytes(runs: Runs, stage: str) -> None:
    whole = runs.undisturbed(stage)
    if not whole.kept:
        assert runs.run(stage, Checkpoints()).files == whole.files
    for place in runs.places(stage, len(whole.kept)):
        resumed = runs.run(stage, Checkpoints(whole.kept[place - 1]))
        assert resumed.files == whole.files, place
        # Nothing is made again: the rest is saved, and that alone.
        assert [saved.step for saved in resumed.kept] == [saved.step for saved in whole.kept[place:]], place


@every_stage
def test_stopped_again_and_again_it_ends_with_the_same_bytes(runs: Runs, stage: str) -> None:
    """At every look of a stage that looks between its parts; elsewhere at some of each run's looks."""
    whole, saved, attempts = runs.saving(stage), None, 0
    between, draws, longer = runs.toys[stage].between, random.Random(stage), 1
    while True:
        look = 1 if between else longer * draws.randint(whole.looks // 5, 2 * whole.looks // 5)
        attempt = Checkpoints(saved, stop_at_look=look)
        try:
            ended = runs.run(stage, attempt)
            break
        except Preempted:
            assert attempt.stopping.looks <= look + 2  # it stops there, after a last save
            # One that was stopped before it had anything new is given more time.
            longer = 1 if attempt.saves else 2 * longer
            saved, attempts = attempt.saved, attempts + 1
            assert attempts < 100
    assert ended.files == whole.files
    assert attempts >= (len(whole.kept) if between else 2)


@every_stage
def test_stopped_at_each_save_it_ends_with_the_same_bytes(runs: Runs, stage: str) -> None:
    """Each attempt makes one checkpoint, from what the attempt before it left where that was stopped right before."""
    whole, saved = runs.saving(stage), None
    for place in runs.places(stage, len(whole.kept)):
        before = whole.before(place)
        if saved is None or before is None or saved.step != before.step:
            saved = before
        attempt = Checkpoints(saved, stop_at_save=1)
        with pytest.raises(Preempted):
            runs.run(stage, attempt)
        assert [made.step for made in attempt.kept] == [whole.kept[place - 1].step], place
        saved = attempt.saved
    assert runs.run(stage, Checkpoints(saved)).files == whole.files


@every_stage
def test_asked_to_stop_while_it_saves_on_a_full_disk_it_stops_all_the_same(runs: Runs, stage: str) -> None:
    whole = runs.saving(stage)
    for place in runs.places(stage, len(whole.kept)):
        attempt = Checkpoints(whole.before(place), stop_at_save=1, fills=True)
        with pytest.raises(Preempted):
            runs.run(stage, attempt)
        assert attempt.kept == [], place


@every_stage
def test_asked_to_stop_on_a_full_disk_it_stops_and_an_older_checkpoint_serves(runs: Runs, stage: str) -> None:
    """Whatever it was just doing; without one, it begins anew."""
    whole = runs.saving(stage)
    attempt = Checkpoints(stop_at_look=max(1, whole.looks * 3 // 4), fills=True)
    with pytest.raises(Preempted):
        runs.run(stage, attempt)
    assert attempt.kept == whole.kept[: len(attempt.kept)]
    assert runs.run(stage, Checkpoints(attempt.saved)).files == whole.files


@every_stage
def test_a_full_disk_is_an_error_where_nobody_asked_to_stop(runs: Runs, stage: str) -> None:
    runs.saving(stage)
    with pytest.raises(RetainError, match="No space left"):
        runs.run(stage, Checkpoints(full=True))


@every_stage
def test_a_damaged_checkpoint_costs_an_interval_and_no_byte(runs: Runs, stage: str, tmp_path: Path) -> None:
    """The one before it is used. What is damaged, and how, is drawn; the engine's tests have it all."""
    whole, draws = runs.saving(stage), random.Random(stage)
    place, harm = draws.randint(1, len(whole.kept)), draws.choice(["a byte", "a file", "the seal"])
    store = FolderStore(tmp_path)
    claim = acquire(store, "claim.json", 1, 30.0)
    assert claim is not None
    checkpointer = Checkpointer(store, "checkpoints", claim)
    for checkpoint in whole.kept[max(0, place - 2) : place]:
        checkpointer.save(checkpoint.step, checkpoint.files)
    newest = sorted((tmp_path / "checkpoints").iterdir())[-1]
    file = draws.choice(sorted(path for path in newest.rglob("*") if path.is_file() and path.name != SEAL))
    if harm == "a byte":
        file.write_bytes(file.read_bytes()[:-1] + b"\0")
    elif harm == "a file":
        file.unlink()
    else:
        (newest / SEAL).write_bytes(canonical({file.name: "0" * 64}))
    assert checkpointer.load() == whole.before(place)
    assert runs.run(stage, Checkpoints(), checkpointer).files == whole.files
