"""A store in a folder, beyond what every store holds to (test_stores.py): what is left behind, locks, and folders that
can't be used."""

from __future__ import annotations

import os
import resource
import signal
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import engine.store
from engine.errors import RetainError, StoreUnavailable
from engine.store import ABSENT, STALE_ASIDE_S, Conflict, FolderStore, open_store, store_url
from tests.engine.processes import PATIENCE_S, code_of, increment, killed_at, message_without_privileges, race, start

STORE_POINTS = ("store.write", "store.rename", "store.renamed")
OLD, NEW = b"old" * 40_000, b"new" * 50_000


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


def files(store: FolderStore) -> set[str]:
    return {str(p.relative_to(store.root)) for p in store.root.rglob("*") if p.is_file()}


# --- one process -------------------------------------------------------------------------------------------------


def test_nothing_is_left_aside(store: FolderStore) -> None:
    class Late(Exception):
        pass

    def late() -> None:
        assert any((store.root / "aside").iterdir()), "not before the bytes are aside"
        raise Late

    store.write("a/b", b"one")
    store.write("a/b", b"two")
    with pytest.raises(Conflict):
        store.write("a/b", b"three", expect=ABSENT)
    with pytest.raises(Late):
        store.write("a/b", b"three", last_look=late)
    assert files(store) == {"a/b", ".lock"}


def test_a_file_that_is_there_is_not_written_again(store: FolderStore, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"0123456789")
    store.put_file("files/x", tmp_path / "source")
    before = store.local("files/x", tmp_path).stat().st_ino
    store.put_file("files/x", tmp_path / "source")
    assert store.local("files/x", tmp_path).stat().st_ino == before


@given(st.text(alphabet="ab./\\~ é", min_size=1, max_size=12))
def test_a_key_stays_in_the_store_or_is_refused(key: str) -> None:
    store = FolderStore(Path("/nowhere/store"))
    try:
        path = store.local(key, Path("/nowhere"))
    except ValueError:
        return
    assert Path(os.path.normpath(path)).is_relative_to(store.root)
    assert str(path.relative_to(store.root)) == key, "another key's path"


# --- stores that can't be used -----------------------------------------------------------------------------------


def test_a_root_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", tmp_path / "file" / "store", Path("/proc/store"), tmp_path / ("x" * 300)):
        with pytest.raises(RetainError, match=f"RETAIN_STORE={root}: can't be used as a folder"):
            open_store(str(root))


def test_an_address_that_is_no_folder() -> None:
    with pytest.raises(RetainError, match="s3://bucket/x: is neither a folder nor gs://bucket/prefix"):
        open_store("s3://bucket/x")


def test_open_store_makes_the_folder(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "a" / "b"))
    store.write("key", b"1")
    assert (tmp_path / "a" / "b" / "key").read_bytes() == b"1"


def test_a_root_that_vanished_or_became_something_else(tmp_path: Path) -> None:
    """What a read-only folder does, for a user that nothing is read-only to."""
    root = tmp_path / "store"
    root.write_text("a file")
    store = FolderStore(root)
    source = tmp_path / "source"
    source.write_text("x")
    for call in (lambda: store.write("a", b"1"), lambda: store.delete("a"), lambda: store.put_file("a", source)):
        with pytest.raises(RetainError, match=rf"{root}: can't be written .*RETAIN_STORE"):
            call()


def test_a_read_only_root(store: FolderStore) -> None:
    store.root.mkdir()
    store.root.chmod(0o555)
    message = message_without_privileges(store.write, "a", b"1", kind=StoreUnavailable)
    assert "can't be written (Permission denied). User " in message
    assert "space" not in message


@pytest.mark.parametrize("place", ["folder", "folder/b"])
def test_what_may_not_be_read_is_not_taken_for_absent(store: FolderStore, tmp_path: Path, place: str) -> None:
    (tmp_path / "source").write_bytes(b"1")
    store.write("folder/b", b"1")
    path = store.root / place
    path.chmod(0)
    calls = {
        "folder": (lambda: list(store.list("folder")), lambda: store.read("folder/b")),
        "folder/b": (lambda: store.read("folder/b"), lambda: store.put_file("folder/b", tmp_path / "source")),
    }
    try:
        for call in calls[place]:
            message = message_without_privileges(call, kind=StoreUnavailable)
            assert message.startswith(f"{path}")
            assert "can't be read (Permission denied)" in message
    finally:
        path.chmod(0o755)


def test_a_key_below_another_key_is_refused_and_leaves_nothing_aside(store: FolderStore) -> None:
    store.write("a", b"1")
    store.write("folder/b", b"1")
    for key in ("a/b", "folder"):
        with pytest.raises(RetainError, match="can't be written") as raised:
            store.write(key, b"2")
        assert not isinstance(raised.value, StoreUnavailable), "trying again would change nothing"
    assert files(store) == {"a", "folder/b", ".lock"}


def test_a_store_whose_folder_is_gone_is_unavailable_and_not_empty(tmp_path: Path) -> None:
    """As where a mount was lost; what is written meanwhile must not get into whatever lies below."""
    store = open_store(str(tmp_path / "store"))
    store.write("folder/key", b"1")
    (tmp_path / "source").write_bytes(b"1")
    (tmp_path / "store").rename(tmp_path / "away")
    calls = (
        lambda: store.read("folder/key"),
        lambda: list(store.list("folder")),
        lambda: store.write("other", b"1"),
        lambda: store.delete("folder/key"),
        lambda: store.put_file("file", tmp_path / "source"),
    )
    for call in calls:
        with pytest.raises(StoreUnavailable, match="store: the store's folder is gone"):
            call()
    assert not (tmp_path / "store").exists()
    (tmp_path / "away").rename(tmp_path / "store")
    assert store.read("folder/key") is not None


def test_a_full_disk_leaves_the_old_value_and_nothing_aside(store: FolderStore) -> None:
    store.write("key", OLD)

    def fill() -> None:
        # The largest file a process may write stands in for a full disk: write() fails after a part in both.
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        with pytest.raises(StoreUnavailable, match=r"can't be written \(File too large\)"):
            store.write("key", NEW)

    assert code_of(fill) == 0
    found = store.read("key")
    assert found is not None
    assert found[0] == OLD
    assert files(store) == {"key", ".lock"}


def test_store_url_is_the_environments_or_the_projects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETAIN_STORE", "/somewhere/else")
    assert store_url() == "/somewhere/else"
    monkeypatch.delenv("RETAIN_STORE")
    assert store_url() == str(Path(__file__).resolve().parents[2] / "artifacts")


# --- what is left aside ------------------------------------------------------------------------------------------


def test_sweep_removes_old_asides_only(store: FolderStore) -> None:
    store.sweep()  # of a store that isn't there yet
    store.write("a/key", b"1")
    old, young = store.root / "aside" / "old", store.root / "aside" / "young"
    for path in (old, young):
        path.write_bytes(b"half")
    long_ago = time.time() - STALE_ASIDE_S - 60
    os.utime(old, (long_ago, long_ago))
    os.utime(store.root / "a" / "key", (long_ago, long_ago))
    recent = time.time() - STALE_ASIDE_S + 600
    os.utime(young, (recent, recent))
    store.sweep()
    assert files(store) == {"a/key", "aside/young", ".lock"}


# --- several processes -------------------------------------------------------------------------------------------


def test_a_root_that_vanishes_in_the_middle_of_a_write_is_not_made_again(tmp_path: Path) -> None:
    class Vanishing(FolderStore):
        def _check(self, key: str, expect: str | None) -> None:
            super()._check(key, expect)
            self.root.rename(tmp_path / "away")

    store = Vanishing(tmp_path / "store", made=True)
    store.root.mkdir()
    for call in (lambda: store.write("folder/key", b"1", expect=ABSENT), lambda: store.delete("folder/key")):
        with pytest.raises(StoreUnavailable, match=r"the store's folder is gone|lost it"):
            call()
        assert not store.root.exists()
        (tmp_path / "away").rename(store.root)


class Paused(FolderStore):
    """Its process is stopped while it holds the lock, before it changes anything."""

    def _check(self, key: str, expect: str | None) -> None:
        super()._check(key, expect)
        os.kill(os.getpid(), signal.SIGSTOP)


@pytest.mark.parametrize("change", ["write", "delete"])
def test_a_writer_that_is_paused_with_the_lock_blocks_nobody_for_long_and_then_changes_nothing(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    monkeypatch.setattr(engine.store, "LOCKED_S", 6.0)  # on a busy machine, living writers were seen to take 3
    version = store.write("key", OLD)
    paused = Paused(store.root)

    def work() -> None:
        with pytest.raises(StoreUnavailable, match="held the lock for more than"):
            paused.write("key", b"stale", expect=version) if change == "write" else paused.delete("key", expect=version)

    process = start(work)
    assert process.pid is not None
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    # Eight wait for it at once, and none of their changes is lost.
    race(8, lambda _: increment(store, 3))
    found = store.read("counter")
    assert found is not None
    assert int(found[0]) == 24
    store.write("key", NEW, expect=version)
    os.kill(process.pid, signal.SIGCONT)
    process.join(PATIENCE_S)
    assert process.exitcode == 0
    found = store.read("key")
    assert found is not None
    assert found[0] == NEW
    assert "aside" not in {name.partition("/")[0] for name in files(store)}


@pytest.mark.parametrize("point", STORE_POINTS)
@pytest.mark.parametrize("before", [None, OLD], ids=["create", "replace"])
def test_killed_anywhere_leaves_the_old_value_or_the_new_one(
    store: FolderStore, point: str, before: bytes | None
) -> None:
    if before is not None:
        store.write("key", before)
    assert killed_at(point, store.write, "key", NEW) == -signal.SIGKILL
    found = store.read("key")
    assert (found and found[0]) == (NEW if point == "store.renamed" else before)
    # And nobody is locked out.
    store.write("key", b"later", expect=found[1] if found else ABSENT)


@pytest.mark.parametrize("point", STORE_POINTS)
def test_a_file_put_by_a_killed_process_is_whole_or_absent(store: FolderStore, tmp_path: Path, point: str) -> None:
    source = tmp_path / "source"
    source.write_bytes(NEW)
    assert killed_at(point, store.put_file, "files/x", source) == -signal.SIGKILL
    found = store.read("files/x")
    assert (found and found[0]) == (NEW if point == "store.renamed" else None)
    store.put_file("files/x", source)
    found = store.read("files/x")
    assert found is not None
    assert found[0] == NEW
