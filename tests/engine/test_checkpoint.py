"""A checkpoint is whole or ignored; damage costs one interval."""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.checkpoint import CHECKPOINTS_KEPT, SEAL, Checkpoint, Checkpointer, clear
from engine.claim import Fenced, acquire
from engine.store import FolderStore
from tests.engine.processes import killed_at

PREFIX = "exp/risk/f00/checkpoints"
CLAIM = "exp/risk/f00/claim.json"
POINTS = (
    "checkpoint.save",
    "checkpoint.seal",
    "checkpoint.prune",
    *(f"store.{point}@{count}" for point in ("write", "rename", "renamed") for count in (1, 2, 3)),
)


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path)


def attempt(store: FolderStore, token: int = 1) -> Checkpointer:
    """The checkpoints as seen by a new attempt; the one before it has ended."""
    store.delete(CLAIM)
    claim = acquire(store, CLAIM, token, 30.0)
    assert claim is not None
    return Checkpointer(store, PREFIX, claim)


def state(step: int) -> dict[str, bytes]:
    return {"model.bin": b"weights of %d " % step * 1000, "state.json": b'{"step": %d}' % step}


def loaded(checkpoints: Checkpointer) -> int | None:
    """The step of what is loaded, which has to be all of that step's bytes."""
    found = checkpoints.load()
    assert found is None or found == Checkpoint(found.step, state(found.step))
    return None if found is None else found.step


def folders(store: FolderStore) -> list[str]:
    return sorted({key.removeprefix(PREFIX + "/").split("/")[0] for key in store.list(PREFIX)})


def seal(folder: Path) -> Path:
    return folder / SEAL


def weights(folder: Path) -> Path:
    return folder / "model.bin"


DAMAGE: dict[str, Callable[[Path], object]] = {
    "unsealed": lambda folder: seal(folder).unlink(),
    "seal empty": lambda folder: seal(folder).write_bytes(b""),
    "seal truncated": lambda folder: seal(folder).write_bytes(seal(folder).read_bytes()[:40]),
    "seal of another kind": lambda folder: seal(folder).write_bytes(b"[1, 2]"),
    "seal of bytes": lambda folder: seal(folder).write_bytes(b"\xff\xfe\x00"),
    "file gone": lambda folder: weights(folder).unlink(),
    "file empty": lambda folder: weights(folder).write_bytes(b""),
    "file truncated": lambda folder: weights(folder).write_bytes(weights(folder).read_bytes()[:-1]),
    "one bit": lambda folder: weights(folder).write_bytes(b"V" + weights(folder).read_bytes()[1:]),
}


def damage(store: FolderStore, step: int, how: str, token: int = 1) -> None:
    DAMAGE[how](store.root / PREFIX / f"{step:012d}-{token:06d}")


def test_nothing_is_loaded_where_nothing_was_saved(store: FolderStore) -> None:
    assert attempt(store).load() is None


def test_the_newest_is_loaded_also_by_a_later_attempt(store: FolderStore) -> None:
    checkpoints = attempt(store)
    for step in (9, 10, 11):
        checkpoints.save(step, state(step))
        assert loaded(checkpoints) == step
    assert loaded(attempt(store, 2)) == 11


def test_steps_are_ordered_as_numbers(store: FolderStore) -> None:
    checkpoints = attempt(store)
    for step in (99, 100, 1_000_000):
        checkpoints.save(step, state(step))
    assert loaded(checkpoints) == 1_000_000


def test_two_are_kept(store: FolderStore) -> None:
    checkpoints = attempt(store)
    for step in range(1, 6):
        checkpoints.save(step, state(step))
        assert len(folders(store)) == min(step, CHECKPOINTS_KEPT) == min(step, 2)
    assert folders(store) == ["000000000004-000001", "000000000005-000001"]


@pytest.mark.parametrize("how", DAMAGE)
def test_when_the_newest_is_damaged_the_one_before_is_loaded(store: FolderStore, how: str) -> None:
    checkpoints = attempt(store)
    checkpoints.save(1, state(1))
    checkpoints.save(2, state(2))
    damage(store, 2, how)
    assert loaded(checkpoints) == 1
    assert loaded(attempt(store, 2)) == 1
    damage(store, 1, how)
    assert loaded(checkpoints) is None


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_one_does_not_push_out_a_whole_one(store: FolderStore, how: str) -> None:
    first = attempt(store)
    for step in (4, 5, 6):
        first.save(step, state(step))
    damage(store, 6, how)
    # The next attempt goes on from 5, and is struck too: what it kept of its own still counts.
    second = attempt(store, 2)
    assert loaded(second) == 5
    second.save(6, state(6))
    assert loaded(second) == 6
    damage(store, 6, how, token=2)
    assert loaded(attempt(store, 3)) == 5


def test_when_all_are_damaged_what_is_saved_from_then_on_is_kept(store: FolderStore) -> None:
    first = attempt(store)
    for step in (8, 9):
        first.save(step, state(step))
        damage(store, step, "one bit")
    second = attempt(store, 2)
    assert second.load() is None
    for step in (1, 2, 3):
        second.save(step, state(step))
        assert loaded(attempt(store, 2)) == step


def test_parts_that_killed_attempts_left_do_not_pile_up(store: FolderStore) -> None:
    attempt(store).save(1, state(1))
    for token in range(2, 6):
        checkpoints = attempt(store, token)
        assert killed_at("checkpoint.seal", checkpoints.save, 2, state(2)) == -signal.SIGKILL
    last = attempt(store, 6)
    last.save(2, state(2))
    last.save(3, state(3))
    assert folders(store) == ["000000000002-000006", "000000000003-000006"]


def test_clear_removes_all_of_them(store: FolderStore) -> None:
    checkpoints = attempt(store)
    checkpoints.save(1, state(1))
    killed_at("checkpoint.seal", checkpoints.save, 2, state(2))
    store.write("exp/risk/f01/checkpoints/x", b"another's")
    clear(store, PREFIX)
    assert folders(store) == []
    assert checkpoints.load() is None
    assert store.read("exp/risk/f01/checkpoints/x") is not None


def test_a_fenced_owner_saves_nothing_that_counts(store: FolderStore) -> None:
    first = attempt(store)
    first.save(1, state(1))
    second = attempt(store, 2)
    with pytest.raises(Fenced):
        first.save(2, state(2))
    assert loaded(second) == 1
    assert len(folders(store)) == 1, "something was written"


def test_one_that_is_fenced_while_it_saves_does_not_seal(store: FolderStore) -> None:
    class Overtaken(FolderStore):
        def write(self, key: str, data: bytes, expect: str | None = None, **more: Any) -> str:
            version = super().write(key, data, expect, **more)
            if key.endswith("state.json"):
                attempt(store, 2)
            return version

    first = attempt(store)
    first.save(1, state(1))
    overtaken = Overtaken(store.root)
    with pytest.raises(Fenced):
        Checkpointer(overtaken, PREFIX, first.claim).save(2, state(2))
    assert loaded(first) == 1


def test_one_that_is_fenced_after_it_sealed_prunes_nothing_of_its_successors(store: FolderStore) -> None:
    class Overtaken(FolderStore):
        def write(self, key: str, data: bytes, expect: str | None = None, **more: Any) -> str:
            version = super().write(key, data, expect, **more)
            if key.endswith(f"000001/{SEAL}"):  # it hangs here, and another has long gone on when it wakes
                successor = attempt(store, 2)
                for step in (3, 4):
                    successor.save(step, state(step))
            return version

    first = attempt(store)
    with pytest.raises(Fenced):
        Checkpointer(Overtaken(store.root), PREFIX, first.claim).save(2, state(2))
    assert folders(store) == ["000000000003-000002", "000000000004-000002"]
    assert loaded(first) == 4


def test_one_that_is_fenced_after_its_last_look_removes_nothing_of_its_successors(store: FolderStore) -> None:
    class Overtaken(FolderStore):
        def list(self, prefix: str) -> Iterator[str]:
            if not folders(store)[-1].endswith("000002"):  # it has looked at its claim, and hangs before it removes
                successor = attempt(store, 2)
                for step in (3, 4):
                    successor.save(step, state(step))
            return super().list(prefix)

    first = attempt(store)
    Checkpointer(Overtaken(store.root), PREFIX, first.claim).save(2, state(2))
    assert {"000000000003-000002", "000000000004-000002"} <= set(folders(store))
    assert loaded(first) == 4


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("before", [(), (1,), (1, 2)], ids=["first", "second", "third"])
def test_killed_anywhere_the_state_before_or_the_new_one_is_loaded(
    store: FolderStore, point: str, before: tuple[int, ...]
) -> None:
    checkpoints = attempt(store)
    for step in before:
        checkpoints.save(step, state(step))
    assert killed_at(point, checkpoints.save, 3, state(3)) == -signal.SIGKILL
    done = point in ("checkpoint.prune", "store.renamed@3")
    again = attempt(store, 2)
    assert loaded(again) == (3 if done else max(before, default=None))
    # And it goes on as if nothing had been.
    again.save(4, state(4))
    assert loaded(attempt(store, 3)) == 4


def test_files_may_have_folders_and_no_bytes(store: FolderStore) -> None:
    checkpoints = attempt(store)
    files = {"a/b/model.bin": b"", "a/c": b"1"}
    checkpoints.save(1, files)
    assert checkpoints.load() == Checkpoint(1, files)


@pytest.mark.parametrize("name", [SEAL, f"part/{SEAL}", "../x", "/x", "", "a//b"])
def test_a_name_that_would_break_the_checkpoint_is_refused(store: FolderStore, name: str) -> None:
    checkpoints = attempt(store)
    checkpoints.save(1, state(1))
    with pytest.raises(ValueError, match="is no "):
        checkpoints.save(2, {"state.json": b"", name: b"x"})
    assert loaded(checkpoints) == 1


def test_a_seal_that_names_a_file_outside_is_damage(store: FolderStore) -> None:
    checkpoints = attempt(store)
    checkpoints.save(1, state(1))
    checkpoints.save(2, state(2))
    content = b"outside"
    store.write("outside", content)
    hostile = {"../../../../../outside": hashlib.sha256(content).hexdigest()}
    seal(store.root / PREFIX / "000000000002-000001").write_text(json.dumps(hostile))
    assert loaded(checkpoints) == 1
