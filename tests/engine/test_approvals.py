"""What people said of texts: kept by the text, the last word counts, and a running reader hears of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from engine import approvals
from engine.approvals import Approvals, Watch, identifier, read, record
from engine.errors import RetainError
from engine.store import FolderStore

TEXT, OTHER = "We take {offer} off your bill.", "Ça va? “Yes”."


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


def test_every_verdict_is_kept_with_its_name_and_the_last_one_counts(store: FolderStore) -> None:
    record(store, TEXT, "approved", "Ann")
    record(store, OTHER, "rejected", "Ann")
    record(store, TEXT, "rejected", "Bob O'Neil")
    found = read(store)
    assert found.verdicts == {TEXT: "rejected", OTHER: "rejected"}
    assert [(reading.verdict, reading.by) for reading in found.readings[TEXT]] == [
        ("approved", "Ann"),
        ("rejected", "Bob O'Neil"),
    ]
    assert all(reading.at.endswith("+00:00") for reading in found.readings[TEXT])
    assert found.damaged == ()
    assert sorted(store.list("approvals")) == sorted(f"approvals/{identifier(text)}.json" for text in (TEXT, OTHER))


def test_a_store_without_records_has_none(store: FolderStore) -> None:
    assert read(store) == Approvals()


@pytest.mark.parametrize("harm", ["no json", "another text", "no reading", "unreadable"])
def test_a_damaged_record_is_no_reading_and_is_never_written_over(store: FolderStore, harm: str) -> None:
    record(store, TEXT, "approved", "Ann")
    record(store, OTHER, "approved", "Ann")
    key = f"approvals/{identifier(TEXT)}.json"
    path = store.root / key
    if harm == "unreadable":
        path.unlink()
        path.mkdir()
        (path / "file").touch()
        key += "/file"
    else:
        content = {
            "no json": b"{",
            "another text": (store.root / f"approvals/{identifier(OTHER)}.json").read_bytes(),
            "no reading": b'{"text": "We take {offer} off your bill.", "readings": []}',
        }[harm]
        path.write_bytes(content)
        with pytest.raises(RetainError, match="is no record of that text; remove it and read the text again"):
            record(store, TEXT, "approved", "Bob")
        assert path.read_bytes() == content
    found = read(store)
    assert found.verdicts == {OTHER: "approved"}
    assert found.damaged == (key,)


def test_two_at_once_are_both_kept(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    written = store.write

    def late(key: str, data: bytes, expect: str | None = None) -> str:
        monkeypatch.setattr(store, "write", written)
        record(store, TEXT, "rejected", "Bob")  # between the other's look and its writing
        return written(key, data, expect)

    monkeypatch.setattr(store, "write", late)
    record(store, TEXT, "approved", "Ann")
    assert [reading.by for reading in read(store).readings[TEXT]] == ["Bob", "Ann"]


def test_what_was_shown_stays_shown(store: FolderStore) -> None:
    assert approvals.not_shown(store, [TEXT]) == [TEXT]
    approvals.show(store, [TEXT])
    approvals.show(store, [OTHER])
    assert approvals.not_shown(store, [TEXT, OTHER, TEXT + " "]) == [TEXT + " "]
    assert read(store) == Approvals()
    (store.root / approvals.SHOWN).write_text("{")
    assert approvals.not_shown(store, [TEXT]) == [TEXT]


def test_a_watch_hears_of_every_change_and_of_nothing_else(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.root.mkdir()
    watch = Watch(store.url)
    assert watch.changed() == Approvals()
    assert watch.changed() is None
    record(store, TEXT, "approved", "Ann")
    first = watch.changed()
    assert first is not None
    assert first.verdicts == {TEXT: "approved"}
    assert watch.changed() == first  # a moment later a second change could have the same time
    monkeypatch.setattr(approvals, "SETTLED_NS", 0)
    assert watch.changed() == first
    assert watch.changed() is None
    record(store, TEXT, "rejected", "Ann")
    second = watch.changed()
    assert second is not None
    assert second.verdicts == {TEXT: "rejected"}


def test_a_watch_hears_of_a_record_that_was_written_over_in_place(
    store: FolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a copy of another store's folder does it, times included: the folder and the file's size stay the same."""
    monkeypatch.setattr(approvals, "SETTLED_NS", 0)
    elsewhere = FolderStore(tmp_path / "elsewhere")
    key = f"approvals/{identifier(TEXT)}.json"
    for where, verdict in ((store, "approved"), (elsewhere, "rejected")):
        record(where, TEXT, verdict, "Ann")  # type: ignore[arg-type]
    watch = Watch(store.url)
    assert watch.changed() is not None
    assert watch.changed() is None
    path, folder = store.root / key, (store.root / "approvals").stat()
    before = path.stat()
    path.write_bytes((elsewhere.root / key).read_bytes())
    while (after := path.stat()).st_ctime_ns == before.st_ctime_ns or after.st_mtime_ns != before.st_mtime_ns:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # until the clock's next tick
    assert (after.st_size, after.st_ino, after.st_mtime_ns) == (before.st_size, before.st_ino, before.st_mtime_ns)
    assert (store.root / "approvals").stat().st_mtime_ns == folder.st_mtime_ns
    found = watch.changed()
    assert found is not None
    assert found.verdicts == {TEXT: "rejected"}


def test_a_watch_hears_of_a_record_that_was_removed(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approvals, "SETTLED_NS", 0)
    record(store, TEXT, "approved", "Ann")
    watch = Watch(store.url)
    watch.changed()
    assert watch.changed() is None
    (store.root / f"approvals/{identifier(TEXT)}.json").unlink()
    assert watch.changed() == Approvals()
    assert watch.changed() is None
    watch.forget()
    assert watch.changed() == Approvals()


def test_a_record_that_may_not_be_read_is_not_called_damaged(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(approvals, "SETTLED_NS", 0)
    record(store, TEXT, "approved", "Ann")
    record(store, OTHER, "approved", "Ann")
    key, read_bytes = f"approvals/{identifier(TEXT)}.json", Path.read_bytes

    def forbidden(path: Path) -> bytes:
        if path == store.root / key:
            raise PermissionError(13, "Permission denied")
        return read_bytes(path)

    watch = Watch(store.url)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", forbidden)
        found = watch.changed()
        assert found is not None
        assert found.verdicts == {OTHER: "approved"}
        assert found.damaged == ()
        (said,) = found.unreadable
        assert said.startswith(f"{store.url}/{key}: can't be read (Permission denied). User ")
    found = watch.changed()
    assert found is not None
    assert found.verdicts == {TEXT: "approved", OTHER: "approved"}


def test_a_verdict_for_unread_texts_alone_leaves_what_came_first(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert record(store, OTHER, "approved", "Ann", only_unread=True)
    written = store.write

    def late(key: str, data: bytes, expect: str | None = None) -> str:
        monkeypatch.setattr(store, "write", written)
        assert record(store, TEXT, "rejected", "Bob")  # between the other's look and its writing
        return written(key, data, expect)

    monkeypatch.setattr(store, "write", late)
    assert not record(store, TEXT, "approved", "Ann", only_unread=True)
    assert read(store).verdicts == {OTHER: "approved", TEXT: "rejected"}


def test_a_store_that_can_not_be_reached_has_no_readings_and_is_not_created(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = str(tmp_path / "none")
    watch = Watch(url)
    assert watch.changed() == Approvals(problem=f"{url}: can't be read (No such file or directory)")
    assert not (tmp_path / "none").exists()
    store = FolderStore(tmp_path / "none")
    record(store, TEXT, "approved", "Ann")
    found = watch.changed()
    assert found is not None
    assert found.verdicts == {TEXT: "approved"}
    scanned = os.scandir

    def forbidden(path: Path) -> Any:
        if Path(path).name == "approvals":
            raise PermissionError(13, "Permission denied")
        return scanned(path)

    monkeypatch.setattr(os, "scandir", forbidden)
    assert watch.changed() == Approvals(problem=f"{url}: can't be read (Permission denied)")


def test_the_store_is_the_one_that_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETAIN_STORE", str(tmp_path))
    assert Watch().url == str(tmp_path)
