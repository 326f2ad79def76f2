"""A key holds all of its bytes or none, and changes only from the version that was expected."""

from __future__ import annotations

import hashlib
import os
import resource
import signal
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import engine.store
from engine.errors import RetainError, StoreUnavailable
from engine.store import ABSENT, STALE_ASIDE_S, Conflict, FolderStore, open_store, store_url
from tests.engine.processes import PATIENCE_S, code_of, killed_at, message_without_privileges, race, start

STORE_POINTS = ("store.write", "store.rename", "store.renamed")
OLD, NEW = b"old" * 40_000, b"new" * 50_000


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


def files(store: FolderStore) -> set[str]:
    return {str(p.relative_to(store.root)) for p in store.root.rglob("*") if p.is_file()}


# --- one process -------------------------------------------------------------------------------------------------


def test_reads_what_was_written(store: FolderStore) -> None:
    assert store.read("a/b") is None
    version = store.write("a/b", b"one")
    assert store.read("a/b") == (b"one", version)
    assert store.write("a/b", b"two") != version
    assert store.read("a/b/c") is None  # "a/b" is no folder
    store.write("a/empty", b"")
    assert store.read("a/empty") is not None
    assert files(store) == {"a/b", "a/empty", ".lock"}  # nothing is left aside


def test_a_write_replaces_just_the_expected_version(store: FolderStore) -> None:
    first = store.write("key", b"1", expect=ABSENT)
    with pytest.raises(Conflict):
        store.write("key", b"2", expect=ABSENT)
    second = store.write("key", b"2", expect=first)
    with pytest.raises(Conflict):
        store.write("key", b"3", expect=first)
    with pytest.raises(Conflict):
        store.write("other", b"3", expect=second)
    assert store.read("key") == (b"2", second)
    assert files(store) == {"key", ".lock"}  # a refused write leaves nothing aside


def test_the_last_look_may_still_refuse_and_then_nothing_is_written(store: FolderStore) -> None:
    class Late(Exception):
        pass

    def late() -> None:
        assert any((store.root / "aside").iterdir()), "not before the bytes are aside"
        raise Late

    store.write("key", b"first", last_look=lambda: None)
    for expect in (None, "0" * 64):
        with pytest.raises(Conflict if expect else Late):
            store.write("key", b"second", expect, last_look=late)
    stored = store.read("key")
    assert stored is not None
    assert stored[0] == b"first"
    assert not any((store.root / "aside").iterdir())


def test_a_delete_removes_just_the_expected_version(store: FolderStore) -> None:
    version = store.write("key", b"1")
    with pytest.raises(Conflict):
        store.delete("key", expect="0" * 64)
    with pytest.raises(Conflict):
        store.delete("key", expect=ABSENT)
    assert store.read("key") is not None
    store.delete("key", expect=version)
    assert store.read("key") is None
    store.delete("key")
    with pytest.raises(Conflict):
        store.delete("key", expect=version)


def test_list_gives_the_keys_below_a_folder_sorted(store: FolderStore) -> None:
    for key in ("p/z", "p/a/x", "p/a/b/y", "p/m/x", "pq/x", "p.json"):
        store.write(key, b"")
    assert list(store.list("p")) == ["p/a/b/y", "p/a/x", "p/m/x", "p/z"]
    assert list(store.list("p/a")) == ["p/a/b/y", "p/a/x"]
    assert list(store.list("p/z")) == []
    assert list(store.list("nothing")) == []


def test_put_file_writes_once_and_read_only(store: FolderStore, tmp_path: Path) -> None:
    content = os.urandom(1000)
    source = tmp_path / "source"
    source.write_bytes(content)
    key = "files/" + hashlib.sha256(content).hexdigest()
    store.put_file(key, source)
    path = store.local(key, tmp_path)
    assert path.read_bytes() == content
    assert path.stat().st_mode & 0o222 == 0
    before = path.stat().st_ino
    store.put_file(key, source)
    assert path.stat().st_ino == before, "written again"


def test_put_file_never_holds_a_large_file_whole(
    store: FolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "weights"
    source.write_bytes(os.urandom(1 << 20) * 9 + b"end")
    monkeypatch.setattr(Path, "read_bytes", None)
    tracemalloc.start()
    try:
        store.put_file("files/x", source)
        store.put_file("files/x", source)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    monkeypatch.undo()
    assert store.local("files/x", tmp_path).read_bytes() == source.read_bytes()


def test_put_file_replaces_what_was_cut_short(store: FolderStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"0123456789")
    (store.root / "files").mkdir(parents=True)
    (store.root / "files" / "x").write_bytes(b"01234")
    store.put_file("files/x", source)
    assert store.read("files/x") == (b"0123456789", hashlib.sha256(b"0123456789").hexdigest())


@pytest.mark.parametrize(
    "key", ["/etc/passwd", "../x", "a/../../x", "..", "a/..", "", ".", "a//b", "a/./b", "a/", "a\0b"]
)
def test_a_key_that_would_leave_the_store_or_name_two_things_is_refused(
    store: FolderStore, tmp_path: Path, key: str
) -> None:
    (tmp_path / "x").write_text("outside")
    for call in (
        lambda: store.write(key, b"gotcha"),
        lambda: store.read(key),
        lambda: store.delete(key),
        lambda: store.put_file(key, tmp_path / "x"),
        lambda: store.local(key, tmp_path),
        lambda: list(store.list(key)),
    ):
        with pytest.raises(ValueError, match="is no key of a store"):
            call()
    assert (tmp_path / "x").read_text() == "outside"


@pytest.mark.parametrize("key", [".lock", "aside/x"])
def test_the_stores_own_files_are_no_keys(store: FolderStore, key: str) -> None:
    with pytest.raises(ValueError, match="is no key of a store"):
        store.write(key, b"gotcha")


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
    with pytest.raises(RetainError, match="only a folder can be a store so far"):
        open_store("gs://bucket/prefix")


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


def increment(store: FolderStore, times: int) -> int:
    """Adds 1 to a counter by compare-and-set; returns how often another process came first."""
    lost = 0
    for _ in range(times):
        while True:
            found = store.read("counter")
            count, version = (int(found[0]), found[1]) if found else (0, ABSENT)
            try:
                store.write("counter", str(count + 1).encode(), expect=version)
                break
            except Conflict:
                lost += 1
    return lost


def test_no_increment_of_eight_processes_is_lost(store: FolderStore) -> None:
    lost = race(8, lambda _: increment(store, 25))
    assert sum(lost) > 0, "they never met, so this shows nothing"
    found = store.read("counter")
    assert found is not None
    assert int(found[0]) == 8 * 25
    assert files(store) == {"counter", ".lock"}


def test_one_of_eight_creates(store: FolderStore) -> None:
    def create(number: int) -> list[bool]:
        created = []
        for key in range(10):
            try:
                store.write(f"keys/{key}", b"%d" % number, expect=ABSENT)
                created.append(True)
            except Conflict:
                created.append(False)
        return created

    for key, winners in enumerate(zip(*race(8, create), strict=True)):
        assert sum(winners) == 1
        found = store.read(f"keys/{key}")
        assert found is not None
        assert int(found[0]) == winners.index(True)


def test_a_reader_never_sees_a_part(store: FolderStore) -> None:
    store.write("key", OLD)

    def work(number: int) -> set[bytes]:
        if number == 0:
            for _ in range(20):
                store.write("key", NEW)
                store.write("key", OLD)
            return set()
        seen = set()
        for _ in range(300):
            found = store.read("key")
            assert found is not None
            seen.add(found[0])
        return seen

    [_, seen] = race(2, work)
    assert seen <= {OLD, NEW}


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
    monkeypatch.setattr(engine.store, "LOCKED_S", 3.0)  # which no living writer needs on a busy machine
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
