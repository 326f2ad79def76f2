"""A save costs its stage the local disk alone, and whatever gets into the store is whole."""

from __future__ import annotations

import signal
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.background import BackgroundCheckpoints
from engine.checkpoint import Checkpoint, Checkpointer
from engine.claim import Fenced, acquire
from engine.errors import StoreUnavailable
from engine.patience import Outage
from engine.store import FolderStore
from tests.engine.processes import PATIENCE_S, killed_at
from tests.engine.test_checkpoint import CLAIM, POINTS, PREFIX, folders, loaded, state
from tests.engine.test_checkpoint import attempt as new_attempt


class Gate(FolderStore):
    """A store that holds up the writing of a checkpoint's files until it is `open`. Counts how many write at a time."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.entered, self.open = threading.Semaphore(0), threading.Semaphore(0)
        self.at_once, self.most = 0, 0

    def put_file(self, key: str, path: Path) -> None:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        self.entered.release()
        assert self.open.acquire(timeout=PATIENCE_S)
        super().put_file(key, path)
        self.at_once -= 1

    def let_through(self, files: int) -> None:
        for _ in range(files):
            self.open.release()


class Failing(FolderStore):
    """A store that is unavailable for the next `failures` files, and writes the next `damaged` ones otherwise."""

    failures, damaged = 0, 0

    def put_file(self, key: str, path: Path) -> None:
        if self.failures:
            self.failures -= 1
            raise StoreUnavailable("can't be written (Input/output error)")
        super().put_file(key, path)
        if self.damaged:
            self.damaged -= 1
            target = self.root / key
            target.chmod(0o644)
            target.write_bytes(b"other bytes")


class Told:
    """Lines that an outage has said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture
def told() -> Told:
    return Told()


Make = Callable[..., BackgroundCheckpoints]


@pytest.fixture
def make(tmp_path: Path, told: Told) -> Iterator[Make]:
    """The checkpoints of a new attempt. Their threads end with the test."""
    made: list[BackgroundCheckpoints] = []

    def begin(store: FolderStore, token: int = 1, fenced: Callable[[], None] = lambda: None) -> BackgroundCheckpoints:
        checkpointer = new_attempt(store, token)
        folder = tmp_path / "work" / str(token)
        outage = Outage(PATIENCE_S, say=told)
        made.append(BackgroundCheckpoints(checkpointer, folder, outage, fenced))
        return made[-1]

    yield begin
    for checkpoints in made:
        checkpoints.close(drop=True)


def left(checkpoints: BackgroundCheckpoints) -> list[str]:
    return [path.name for path in checkpoints.folder.glob("*")]


def test_a_save_does_not_wait_for_the_store(make: Make, tmp_path: Path) -> None:
    store = Gate(tmp_path / "store")
    checkpoints = make(store)
    checkpoints.save(1, state(1))
    assert store.entered.acquire(timeout=PATIENCE_S)
    assert checkpoints.busy()
    assert loaded(checkpoints.store) is None
    store.let_through(2)
    checkpoints.wait()
    assert not checkpoints.busy()
    assert loaded(checkpoints.store) == 1
    assert left(checkpoints) == []


def test_a_stage_that_asks_for_its_checkpoint_gets_what_it_saved_last(make: Make, tmp_path: Path) -> None:
    """Wherever that is by then. `rm` asks before each of its models, and goes on from what the one before it kept."""
    store = Gate(tmp_path / "store")
    new_attempt(store)
    Checkpointer(FolderStore(store.root), PREFIX, new_attempt(store).claim).save(1, state(1))
    checkpoints = make(store, 2)
    assert checkpoints.load() == Checkpoint(1, state(1))
    checkpoints.save(2, state(2))
    assert store.entered.acquire(timeout=PATIENCE_S)
    assert checkpoints.load() == Checkpoint(2, state(2)), "it is being copied"
    checkpoints.save(3, state(3))
    assert checkpoints.load() == Checkpoint(3, state(3)), "it waits for the other one"
    store.let_through(4)
    checkpoints.wait()
    assert checkpoints.load() == Checkpoint(3, state(3)), "it is in the store"


def test_of_what_is_saved_meanwhile_only_the_newest_is_copied_one_at_a_time(make: Make, tmp_path: Path) -> None:
    store = Gate(tmp_path / "store")
    checkpoints = make(store)
    checkpoints.save(1, state(1))
    assert store.entered.acquire(timeout=PATIENCE_S)
    for step in range(2, 9):
        checkpoints.save(step, state(step))
        assert len(left(checkpoints)) == 4, "the one that is copied and the newest"
    store.let_through(4)
    checkpoints.wait()
    assert folders(store) == ["000000000001-000001", "000000000008-000001"]
    assert (checkpoints.saves, checkpoints.copied, store.most) == (8, 2, 1)
    assert checkpoints.saved_bytes == sum(len(data) for step in range(1, 9) for data in state(step).values())
    assert left(checkpoints) == []


def test_in_turn_each_save_gets_into_the_store_before_the_next(make: Make, tmp_path: Path) -> None:
    store = Gate(tmp_path / "store")
    checkpoints = make(store)
    checkpoints.in_turn = True
    checkpoints.save(1, state(1))
    assert store.entered.acquire(timeout=PATIENCE_S)
    second = threading.Thread(target=checkpoints.save, args=(2, state(2)))
    second.start()
    second.join(0.05)
    assert (second.is_alive(), checkpoints.saves) == (True, 1)
    store.let_through(4)
    second.join(PATIENCE_S)
    checkpoints.wait()
    assert folders(store) == ["000000000001-000001", "000000000002-000001"]


def test_also_in_turn_no_save_waits_for_a_store_that_is_unavailable(make: Make, tmp_path: Path) -> None:
    store = Failing(tmp_path / "store")
    checkpoints = make(store)
    checkpoints.in_turn = True
    store.failures = 10**9
    for step in (1, 2, 3):
        checkpoints.save(step, state(step))
    store.failures = 0
    checkpoints.wait()
    assert folders(store)[-1] == "000000000003-000001"


def test_a_checkpoint_is_copied_in_pieces(make: Make, tmp_path: Path) -> None:
    checkpoints = make(FolderStore(tmp_path / "store"))
    weights = {"weights": bytes(64 << 20)}
    tracemalloc.start()
    try:
        checkpoints.save(1, weights)
        checkpoints.wait()
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert checkpoints.copied == 1


def test_who_was_overtaken_seals_nothing_and_learns_it_at_the_next_save(make: Make, tmp_path: Path) -> None:
    store = Gate(tmp_path / "store")
    fenced = threading.Event()
    checkpoints = make(store, fenced=fenced.set)
    checkpoints.save(1, state(1))
    assert store.entered.acquire(timeout=PATIENCE_S)
    successor = new_attempt(store, 2)
    store.let_through(2)
    assert fenced.wait(PATIENCE_S)
    for call in (checkpoints.wait, lambda: checkpoints.save(2, state(2))):
        with pytest.raises(Fenced):
            call()
    assert loaded(successor) is None


def test_who_was_overtaken_before_the_copy_writes_nothing(make: Make, tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    checkpoints = make(store)
    new_attempt(store, 2)
    checkpoints.save(1, state(1))
    with pytest.raises(Fenced):
        checkpoints.wait()
    assert folders(store) == []


def test_a_copy_is_tried_again_while_the_store_is_unavailable(make: Make, tmp_path: Path, told: Told) -> None:
    store = Failing(tmp_path / "store")
    checkpoints = make(store)
    store.failures = 3
    checkpoints.save(1, state(1))
    checkpoints.wait()
    assert loaded(checkpoints.store) == 1
    begins, over = told.lines
    assert begins == f"can't be written (Input/output error); trying again for {PATIENCE_S:.0f} s"
    assert over.startswith("the store is available again")


def test_a_newer_save_takes_the_place_of_one_that_can_not_be_copied(make: Make, tmp_path: Path) -> None:
    store = Failing(tmp_path / "store")
    checkpoints = make(store)
    store.failures = 10**9
    checkpoints.save(1, state(1))
    checkpoints.save(2, state(2))
    assert checkpoints.busy()
    checkpoints.save(3, state(3))
    store.failures = 0
    checkpoints.wait()
    assert folders(store)[-1] == "000000000003-000001"
    assert checkpoints.copied < checkpoints.saves
    assert left(checkpoints) == []


def test_what_reads_otherwise_than_it_was_written_is_copied_again_before_it_is_sealed(
    make: Make, tmp_path: Path, told: Told
) -> None:
    store = Failing(tmp_path / "store")
    checkpoints = make(store)
    store.damaged = 1
    checkpoints.save(1, state(1))
    checkpoints.wait()
    assert loaded(checkpoints.store) == 1
    assert "does not read as it was written; trying again" in told.lines[0]


def test_the_last_save_is_copied_at_the_end_or_dropped(make: Make, tmp_path: Path) -> None:
    for token, drop in ((1, False), (2, True)):
        store = Gate(tmp_path / f"store-{token}")
        checkpoints = make(store, token)
        checkpoints.save(1, state(1))
        assert store.entered.acquire(timeout=PATIENCE_S)
        checkpoints.save(2, state(2))
        closing = threading.Thread(target=checkpoints.close, kwargs={"drop": drop})
        closing.start()
        while not checkpoints._closing:
            closing.join(0.01)
        store.let_through(4)
        closing.join(PATIENCE_S)
        assert loaded(checkpoints.store) == (1 if drop else 2)


def test_the_end_does_not_wait_for_a_store_that_is_unavailable(make: Make, tmp_path: Path) -> None:
    store = Failing(tmp_path / "store")
    checkpoints = make(store)
    store.failures = 10**9
    checkpoints.save(1, state(1))
    checkpoints.close()
    assert loaded(checkpoints.store) is None
    assert left(checkpoints) == []


def test_a_local_disk_that_can_not_be_written_is_one_clear_error(make: Make, tmp_path: Path) -> None:
    checkpoints = make(FolderStore(tmp_path / "store"))
    checkpoints.folder.parent.mkdir()
    checkpoints.folder.write_text("in the way")
    with pytest.raises(StoreUnavailable, match=rf"{checkpoints.folder}: can't be written \(File exists\)"):
        checkpoints.save(1, state(1))
    assert (checkpoints.saves, checkpoints.busy()) == (0, False)


def test_a_name_that_would_break_the_checkpoint_is_refused_by_the_save_itself(make: Make, tmp_path: Path) -> None:
    checkpoints = make(FolderStore(tmp_path / "store"))
    for name in ("complete.json", "../x", ""):
        with pytest.raises(ValueError, match="is no name of a checkpoint's file"):
            checkpoints.save(1, {name: b"x"})


@pytest.mark.parametrize("point", ["checkpoint.saved", *POINTS])
@pytest.mark.parametrize("before", [(), (1,), (1, 2)], ids=["first", "second", "third"])
def test_killed_anywhere_the_state_before_or_the_new_one_is_loaded(
    tmp_path: Path, point: str, before: tuple[int, ...]
) -> None:
    """Like the test of the same name in test_checkpoint.py, with the kill in the thread that copies."""
    store = FolderStore(tmp_path / "store")
    checkpointer = new_attempt(store)
    for step in before:
        checkpointer.save(step, state(step))

    def save_and_wait() -> None:
        outage = Outage(PATIENCE_S)
        checkpoints = BackgroundCheckpoints(checkpointer, tmp_path / "work", outage, lambda: None)
        checkpoints.save(3, state(3))
        checkpoints.wait()

    assert killed_at(point, save_and_wait) == -signal.SIGKILL
    done = point in ("checkpoint.prune", "store.renamed@3")
    again = new_attempt(store, 2)
    assert loaded(again) == (3 if done else max(before, default=None))
    again.save(4, state(4))
    assert loaded(new_attempt(store, 3)) == 4


def test_the_claim_is_asked_again_before_the_seal_and_before_older_ones_are_removed(make: Make, tmp_path: Path) -> None:
    class Overtaken(FolderStore):
        """Another attempt takes over when this one has written its seal, and goes on from there."""

        def write(self, key: str, data: bytes, expect: str | None = None, **more: Any) -> str:
            version = super().write(key, data, expect, **more)
            if key.endswith("000001/complete.json"):
                plain = FolderStore(self.root)
                plain.delete(CLAIM)
                claim = acquire(plain, CLAIM, 2, 30.0)
                assert claim is not None
                for step in (3, 4):
                    Checkpointer(plain, PREFIX, claim).save(step, state(step))
            return version

    store = Overtaken(tmp_path / "store")
    checkpoints = make(store)
    checkpoints.save(2, state(2))
    with pytest.raises(Fenced):
        checkpoints.wait()
    assert folders(store) == ["000000000003-000002", "000000000004-000002"]
