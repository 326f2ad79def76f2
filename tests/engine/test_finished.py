"""What a stage finished is kept and not made again; a stop is a stop, whatever the disk says."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.artifact import ArtifactWriter
from engine.checkpoint import Checkpoint, Checkpointer, Preempted
from engine.claim import Fenced, acquire
from engine.errors import RetainError
from engine.finished import PARTS_FILE, Finished
from engine.interval import CheckpointInterval, Schedule
from engine.stage import Workspace
from engine.store import FolderStore

SELDOM = CheckpointInterval(mean_hours_between_preemptions=4.0, every_s=None, every_steps=None)
FULL = "can't be written (No space left on device).\nFree some space"


class Disk(FolderStore):
    """A store that can fill up: nothing more is written while it is `full`."""

    full = False

    def write(self, key: str, data: bytes, expect: str | None = None, **more: Any) -> str:
        if self.full:
            raise RetainError(f"{self.root}: {FULL}")
        return super().write(key, data, expect, **more)


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path / "store")


@pytest.fixture
def attempt(disk: Disk, tmp_path: Path) -> Callable[..., Workspace]:
    """A workspace of a new attempt, which takes over from the one before it."""

    def begin(token: int = 1, told: list[Any] | None = None) -> Workspace:
        disk.delete("claim.json")
        claim = acquire(disk, "claim.json", token, 30.0)
        assert claim is not None
        return Workspace(
            out=ArtifactWriter(tmp_path / "out"),
            scratch=tmp_path,
            checkpoints=Checkpointer(disk, "checkpoints", claim),
            seed=1,
            threads=1,
            device="cpu",
            deadline=math.inf,
            report=lambda step, total, figures: (told if told is not None else []).append((step, total, figures)),
            stopping=threading.Event(),
            schedule=Schedule(SELDOM),
        )

    return begin


def test_a_save_is_a_checkpoint_and_the_stage_goes_on(attempt: Callable[..., Workspace]) -> None:
    workspace = attempt()
    workspace.save(1, {"a": b"1"})
    assert workspace.checkpoints.load() == Checkpoint(1, {"a": b"1"})


def test_the_last_save_of_a_stop_is_a_checkpoint(attempt: Callable[..., Workspace]) -> None:
    workspace = attempt()
    workspace.stopping.set()
    with pytest.raises(Preempted):
        workspace.save(1, {"a": b"1"})
    assert workspace.checkpoints.load() == Checkpoint(1, {"a": b"1"})


def test_a_stop_that_can_not_save_is_a_stop_and_the_older_checkpoint_serves(
    attempt: Callable[..., Workspace], disk: Disk, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = attempt()
    workspace.save(1, {"a": b"1"})
    workspace.stopping.set()
    disk.full = True
    with pytest.raises(Preempted):
        workspace.save(2, {"a": b"2"})
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("stopped without a last checkpoint: ")
    assert "No space left on device). Free" in line
    assert workspace.checkpoints.load() == Checkpoint(1, {"a": b"1"})


def test_asked_to_stop_while_it_finds_the_disk_full_it_stops(
    attempt: Callable[..., Workspace], disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = attempt()

    def save(step: int, files: object) -> None:
        workspace.stopping.set()
        raise RetainError(FULL)

    monkeypatch.setattr(Checkpointer, "save", lambda _, step, files: save(step, files))
    with pytest.raises(Preempted):
        workspace.save(1, {})


def test_a_full_disk_is_an_error_where_nobody_asked_to_stop(attempt: Callable[..., Workspace], disk: Disk) -> None:
    workspace = attempt()
    disk.full = True
    with pytest.raises(RetainError, match="No space left"):
        workspace.save(1, {})


def test_whoever_was_replaced_does_not_stop_as_if_it_owned_anything(attempt: Callable[..., Workspace]) -> None:
    first = attempt()
    attempt(2)
    first.stopping.set()
    with pytest.raises(Fenced):
        first.save(1, {})


def test_a_part_is_made_once_and_is_what_json_says_of_it(attempt: Callable[..., Workspace]) -> None:
    told: list[Any] = []
    first = attempt(told=told)
    finished = Finished.resume(first, 3)
    assert finished.make(first, "a", lambda: (0.1 + 0.2, {"b": 1}), lambda content: {"loss": content[0]}) == [
        0.1 + 0.2,
        {"b": 1},
    ]
    finished.make(first, "b", lambda: [])
    again = attempt(2, told)
    finished = Finished.resume(again, 3)
    assert finished.step == 2
    assert finished.make(again, "a", lambda: pytest.fail("made again")) == [0.1 + 0.2, {"b": 1}]
    assert finished.make(again, "c", lambda: None) is None
    assert told == [(1, 3, {"loss": 0.1 + 0.2}), (2, 3, {}), (3, 3, {})]


def test_parts_and_files_are_in_one_checkpoint(attempt: Callable[..., Workspace]) -> None:
    workspace = attempt()
    finished = Finished.resume(workspace)
    finished.keep(workspace, 5, {"model/weights": b"w", "learner/state": b"s"})
    assert finished.part("model/") == {"weights": b"w"}
    finished.drop("learner/")
    finished.make(workspace, "score/0", lambda: 1)
    saved = workspace.checkpoints.load()
    assert saved == Checkpoint(6, {"model/weights": b"w", PARTS_FILE: b'["score/0", 1]'})
    assert Finished.resume(workspace).files == saved.files


def test_parts_of_another_format_are_made_again(attempt: Callable[..., Workspace]) -> None:
    """Under the name that the file had before names carried a number, and under that of a later format."""
    workspace = attempt()
    workspace.save(1, {"parts.jsonl": b'["a", 1]', "parts-2.jsonl": b"\x00", "model/weights": b"w"})
    again = attempt(2)
    finished = Finished.resume(again)
    assert finished.make(again, "a", lambda: 2) == 2
    assert finished.part("model/") == {"weights": b"w"}


def test_a_stop_comes_after_the_part_is_kept(attempt: Callable[..., Workspace]) -> None:
    workspace = attempt()
    workspace.stopping.set()
    with pytest.raises(Preempted):
        Finished.resume(workspace).make(workspace, "a", lambda: 1)
    again = attempt(2)
    assert Finished.resume(again).make(again, "a", lambda: pytest.fail("made again")) == 1


def test_a_part_that_was_not_kept_is_made_again(attempt: Callable[..., Workspace], disk: Disk) -> None:
    workspace = attempt()
    finished = Finished.resume(workspace)
    finished.make(workspace, "first", lambda: 1)
    disk.full = True
    workspace.stopping.set()
    with pytest.raises(Preempted):
        finished.make(workspace, "second", lambda: 2)
    disk.full = False
    again = attempt(2)
    finished = Finished.resume(again)
    assert finished.make(again, "first", lambda: pytest.fail("made again")) == 1
    assert finished.make(again, "second", lambda: 3) == 3


@pytest.mark.parametrize("content", [math.nan, [math.inf]])
def test_what_json_has_no_word_for_is_no_part(attempt: Callable[..., Workspace], content: object) -> None:
    workspace = attempt()
    finished = Finished.resume(workspace)
    with pytest.raises(ValueError, match="JSON"):
        finished.make(workspace, "a", lambda: content)
    assert workspace.checkpoints.load() is None
    assert finished.make(workspace, "a", lambda: 1) == 1
