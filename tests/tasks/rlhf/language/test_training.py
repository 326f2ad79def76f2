"""Interrupted wherever it may be, a training ends with the bytes of one that nobody interrupted."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load as read_tensors

from engine.checkpoint import Checkpoint, Checkpointer, Preempted
from engine.errors import DataError, RetainError
from engine.finished import Finished
from engine.stage import Workspace
from tasks.config import FinetuneConfig
from tasks.rlhf import sft
from tasks.rlhf.language import lm, training
from tasks.rlhf.language.training import ExactTrainer, Trained
from tasks.rlhf.sft import Example
from tests.end_to_end.shots import Target
from tests.tasks.conftest import Stopping
from tests.tasks.rlhf.trainable import sft_config

EXAMPLES = [Example(str(i), f"prompt {i}", f"reply number {i} " * (1 + i % 4)) for i in range(10)]
STATE = ("adapter.safetensors", "optimizer.pt", "rng_state.pth", "scheduler.pt", "trainer_state.json")


class Making:
    """One training after another, each attempt in a fresh workspace with the same checkpoints."""

    def __init__(self, base: Path, folder: Path, workspace: Callable[..., Workspace], checkpoints: type[Any]) -> None:
        self.base, self.folder, self.workspace, self.checkpoints = base, folder, workspace, checkpoints
        self.attempts = 0

    def train(
        self,
        config: FinetuneConfig,
        checkpoints: Any = None,
        examples: list[Example] = EXAMPLES,
        kept: Checkpointer | None = None,
        stopping: Any = None,
    ) -> Trained:
        """`kept`: an engine's checkpoints, in place of those that tests share."""
        torch.set_num_threads(1)
        self.attempts += 1
        place = self.workspace(self.folder / str(self.attempts), checkpoints or self.checkpoints())
        place = replace(place, checkpoints=kept or place.checkpoints, stopping=stopping or place.stopping)
        finished = Finished.resume(place, config.max_steps + len(sft.MEASURED))
        return sft.train(config, self.base, examples, finished, place)


@pytest.fixture
def making(base: Path, tmp_path: Path, workspace: Callable[..., Workspace], checkpoints: type[Any]) -> Making:
    return Making(base, tmp_path, workspace, checkpoints)


@pytest.fixture(scope="module")
def undisturbed(
    base: Path,
    tmp_path_factory: pytest.TempPathFactory,
    workspace: Callable[..., Workspace],
    checkpoints: type[Any],
) -> Trained:
    return Making(base, tmp_path_factory.mktemp("undisturbed"), workspace, checkpoints).train(sft_config())


def test_it_learns(undisturbed: Trained) -> None:
    assert [row["step"] for row in undisturbed.curve] == [1, 2, 3, 4, 5, 6]
    assert undisturbed.curve[-1]["loss"] < undisturbed.curve[0]["loss"] - 0.05


def test_another_order_is_another_adapter(making: Making, undisturbed: Trained) -> None:
    examples = EXAMPLES[::-1]
    assert making.train(sft_config(), examples=examples).files != undisturbed.files


@pytest.mark.parametrize("look", range(50, 54))
def test_asked_in_the_middle_of_a_step_it_stops_there_as_if_before_it(
    making: Making, monkeypatch: pytest.MonkeyPatch, look: int
) -> None:
    """A group has four looks, one at each of two layers forward and backward."""
    monkeypatch.setattr(lm, "ROOM", {"cpu": 24})  # a group for each example, or nearly
    whole = making.train(sft_config())
    checkpoints, stopping = making.checkpoints(), Stopping(look)
    with pytest.raises(Preempted):
        making.train(sft_config(), checkpoints, stopping=stopping)
    assert look <= stopping.looks <= look + 1  # the last one after what was new is saved
    found = checkpoints.saved
    assert found is not None
    assert found.step % 2 == 1  # no step at which one was due
    assert making.train(sft_config(), checkpoints) == whole


def test_asked_before_anything_new_it_saves_nothing(making: Making) -> None:
    checkpoints = making.checkpoints()
    checkpoints.stopping.set()
    with pytest.raises(Preempted):
        making.train(sft_config(), checkpoints)
    assert checkpoints.saves == 0


def test_everything_that_breaks_resume_elsewhere_is_in_the_checkpoint(making: Making, undisturbed: Trained) -> None:
    checkpoints = making.checkpoints()
    making.train(sft_config(), checkpoints)
    found = checkpoints.at(4)
    assert sorted(found.files) == [f"trainer/sft/{name}" for name in STATE]
    state = json.loads(found.files["trainer/sft/trainer_state.json"])
    assert state["global_step"] == 4
    assert not [key for row in state["log_history"] for key in row if "time" in key or "second" in key]
    # Without any one of them the result is another: each is needed, and so is the order of the data, by step 4's place.
    for name in STATE[:4]:
        without = Checkpoint(found.step, {key: data for key, data in found.files.items() if not key.endswith(name)})
        checkpoints.saved = without
        try:
            other = making.train(sft_config(), checkpoints)
        except (OSError, ValueError):
            continue
        assert other.files != undisturbed.files, name


def test_no_checkpoint_tells_where_or_when_it_was_made(making: Making) -> None:
    found = []
    for _ in range(2):
        checkpoints = making.checkpoints()
        making.train(sft_config(), checkpoints)
        found.append(checkpoints.at(4))
    assert found[0] == found[1]
    assert not any(str(making.folder).encode() in data for data in found[0].files.values())


def test_checkpoints_come_by_time_too(making: Making) -> None:
    checkpoints = making.checkpoints(every_steps=1000, every_s=1e-9)
    making.train(sft_config(), checkpoints)
    assert checkpoints.saves == 6  # every step, and the last with the result
    slow = making.checkpoints(every_steps=1000)
    making.train(sft_config(), slow)
    assert slow.saves == 1


def test_a_loss_that_is_no_number_ends_it_with_the_step_and_the_last_good_checkpoint(
    making: Making, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, calls = lm.losses, 0

    def losses(*args: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return whole(*args) * (float("nan") if calls >= 4 else 1.0)

    monkeypatch.setattr(lm, "losses", losses)
    checkpoints = making.checkpoints()
    with pytest.raises(
        RetainError, match=r"sft: the loss is not a number at step 4; the last good checkpoint is step 2"
    ):
        making.train(sft_config(), checkpoints)
    assert checkpoints.saved.step == 2


def test_a_gradient_that_is_no_number_ends_it_before_the_weights_are_spoilt(
    making: Making, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = lm.losses

    def losses(*args: Any) -> torch.Tensor:
        found = whole(*args)
        found.register_hook(lambda gradient: gradient * float("inf"))
        return found

    monkeypatch.setattr(lm, "losses", losses)
    with pytest.raises(RetainError, match="the gradient is not a number at step 1; there is no checkpoint before it"):
        making.train(sft_config())


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("unexpected pos 64 vs 0\n")])
def test_a_full_disk_ends_it_with_one_line_that_names_the_folder(
    making: Making, undisturbed: Trained, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def save(*_: Any, **__: Any) -> None:
        raise error

    checkpoints = making.checkpoints()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", save)
        with pytest.raises(RetainError, match=r"sft: step 2 can't be written to .*/1/trainer-sft .*Make room") as found:
            making.train(sft_config(), checkpoints)
    assert "\n" not in str(found.value)
    assert making.train(sft_config(), checkpoints) == undisturbed


@pytest.mark.parametrize("what", ["store", "folder"])
def test_asked_to_stop_on_a_full_disk_it_stops_and_the_older_checkpoint_serves(
    making: Making,
    undisturbed: Trained,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    what: str,
) -> None:
    checkpoints, whole = making.checkpoints(), ExactTrainer.training_step

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    def training_step(self: ExactTrainer, *arguments: Any, **more: Any) -> Any:
        if self.state.global_step == 3:  # past the checkpoint of step 2
            checkpoints.stopping.set()
            checkpoints.full = what == "store"
            if what == "folder":
                patch.setattr(torch, "save", full)
        return whole(self, *arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(ExactTrainer, "training_step", training_step)
        with pytest.raises(Preempted):
            making.train(sft_config(), checkpoints)
    (line,) = [one for one in capsys.readouterr().err.splitlines() if "stopped without a last checkpoint" in one]
    assert "No space left" in line
    assert checkpoints.saved.step == 2
    checkpoints.full = False
    checkpoints.stopping.clear()
    assert making.train(sft_config(), checkpoints) == undisturbed


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("out of memory"), torch.AcceleratorError("device assert")])
def test_what_a_gpu_lacks_is_no_full_disk(making: Making, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def save(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(type(error)):
        making.train(sft_config())


def test_nothing_to_train_on_is_said(making: Making) -> None:
    with pytest.raises(DataError, match="nothing to train on"):
        making.train(sft_config(), examples=[])


def test_eight_bits_train_in_float32_and_resume(making: Making) -> None:
    config = sft_config(bits=8, max_steps=3)
    checkpoints = making.checkpoints()
    undisturbed = making.train(config, checkpoints)
    assert making.train(config, making.checkpoints(saved=checkpoints.at(2))) == undisturbed
    tensors = read_tensors(undisturbed.files[lm.ADAPTER])
    assert {value.dtype for value in tensors.values()} == {torch.float32}
    assert any((value != value.bfloat16().float()).any() for name, value in tensors.items() if "lora_A" in name)


def test_the_models_own_dropout_is_off(making: Making, base: Path, tmp_path: Path) -> None:
    other = tmp_path / "base"
    other.mkdir()
    for path in base.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    settings = json.loads((other / lm.CONFIG).read_text())
    (other / lm.CONFIG).write_text(json.dumps(settings | {"dropout": 0.5, "attention_dropout": 0.5}))
    config = sft_config(lora={"r": 2, "alpha": 4, "dropout": 0.0, "targets": "attention"})
    without = making.train(config)
    making.base = other
    assert making.train(config) == without


def test_nobody_is_told(making: Making, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(*_: Any, **__: Any) -> None:
        raise AssertionError("trl told somebody about this training")

    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr("trl.trainer.base_trainer.send_telemetry", told)
    making.train(sft_config(max_steps=1))


def test_what_looks_at_killed_trainings_sees_one_that_begins_again(
    making: Making, monkeypatch: pytest.MonkeyPatch
) -> None:
    """tests/end_to_end/shots.py: of a training that is too short to report more than its first step and its last."""

    target = Target("sft", 2, 6)
    told: list[list[int]] = []
    monkeypatch.setattr(Workspace, "progress", lambda _, step, total, **figures: told[-1].append(step))

    def attempt(checkpoints: Any) -> None:
        told.append([])
        making.train(sft_config(), checkpoints)

    # It ends while it writes the checkpoint of step 4, which is lost.
    ended = making.checkpoints(stop_at_save=2, fills=True)
    with pytest.raises(Preempted):
        attempt(ended)
    kept = ended.saved
    assert kept.step == 2
    attempt(making.checkpoints(saved=kept))
    monkeypatch.setattr(Finished, "resume", classmethod(lambda cls, workspace, total=0: cls()))
    attempt(making.checkpoints(saved=kept))
    first, resumed, again = told
    assert (first, resumed, again) == ([1], [3, 6], [1, 6])
    target.check_resumed({"1": first, "2": resumed}, {"1": kept.step})
    target.check_resumed({"1": first, "2": again}, {})  # from progress alone nobody can tell
    with pytest.raises(AssertionError):
        target.check_resumed({"1": first, "2": again}, {"1": kept.step})


def test_progress_says_how_far_the_stage_is(making: Making, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "REPORT_S", 0.0)
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(Workspace, "progress", lambda _, step, total, **figures: told.append((step, total)))
    making.train(sft_config())
    assert told == [(step, 6 + len(sft.MEASURED)) for step in range(1, 7)]


def test_groups_hold_what_fits_and_every_row_once() -> None:
    lengths = [5, 60, 7, 200, 6, 61, 5]
    groups = lm.by_length(lengths, 100)
    assert sorted(at for group in groups for at in group) == list(range(7))
    assert groups == [[0, 6, 4, 2], [1], [5], [3]]
    assert all(len(group) == 1 or len(group) * max(lengths[at] for at in group) <= 100 for group in groups)


def test_groups_change_no_gradient(making: Making, monkeypatch: pytest.MonkeyPatch) -> None:
    config = sft_config(lora={"r": 2, "alpha": 4, "dropout": 0.0, "targets": "attention"})
    whole = making.train(config)
    monkeypatch.setattr(lm, "ROOM", {"cpu": 24})
    parts = making.train(config)
    losses = [[row["loss"] for row in found.curve] for found in (whole, parts)]
    assert np.allclose(losses[0], losses[1], atol=1e-4)


def test_random_state_is_put_back() -> None:
    before = training._random_state()
    drawn = random.random(), float(np.random.rand()), torch.rand(2)  # noqa: NPY002
    training._set_random_state(before)
    again = random.random(), float(np.random.rand()), torch.rand(2)  # noqa: NPY002
    assert drawn[:2] == again[:2]
    assert torch.equal(drawn[2], again[2])
