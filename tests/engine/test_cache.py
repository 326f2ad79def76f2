"""What a machine keeps of a bucket: several processes share it, and it stays within its limit."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.cache import LINKED_S, Cache, cache_of_user, setting_of
from engine.errors import RetainError, StoreUnavailable
from tests.engine.processes import message_without_privileges, race


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def writes(content: bytes) -> Callable[[Path], None]:
    return lambda into: into.write_bytes(content) and None


def never(into: Path) -> None:
    pytest.fail("was fetched")


def files(cache: Cache) -> list[Path]:
    return [path for path in cache.folder.iterdir() if path.is_file()]


def test_what_was_not_used_for_longest_leaves_and_stays_with_whoever_uses_it(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", limit=2500)

    def bring(number: int) -> Path:
        content = b"%d" % number * 1000
        place = tmp_path / str(number)
        cache.bring(hashlib.sha256(content).hexdigest(), place, lambda into: into.write_bytes(content) and None)
        os.utime(cache.folder / hashlib.sha256(content).hexdigest(), (number, number))
        return place

    of_a_store = cache.folder / "stores" / "bucket"  # the oldest of all that lies there
    of_a_store.mkdir(parents=True)
    os.utime(of_a_store.parent, (0, 0))
    first = bring(1)
    for number in (2, 3):
        bring(number)
    assert of_a_store.is_dir()
    assert len([path for path in cache.folder.iterdir() if path.is_file()]) == 2
    assert first.read_bytes() == b"1" * 1000
    stale = cache.folder / "aside-0"
    stale.write_bytes(b"half")
    os.utime(stale, (1, 1))
    os.utime(max(cache.folder.iterdir(), key=lambda path: path.stat().st_mtime), (10**6, 10**6))
    bring(4)
    assert not stale.exists()


@pytest.mark.parametrize("text", ["0", "-1", "many", "1.5"])
def test_a_limit_of_the_cache_that_is_none(text: str) -> None:
    with pytest.raises(RetainError, match=f"RETAIN_CACHE_GB={text}: wants a number of gigabytes from 1 to 10000"):
        cache_of_user({"RETAIN_CACHE_GB": text})


def test_where_the_cache_lies(tmp_path: Path) -> None:
    assert cache_of_user({"RETAIN_CACHE": str(tmp_path)}).folder == tmp_path
    assert cache_of_user({}).folder == Path.home() / ".cache" / "retain"


# --- what is known by a version ----------------------------------------------------------------------------------


def test_a_version_is_fetched_once_and_its_hash_is_known_from_then_on(tmp_path: Path) -> None:
    cache, place = Cache(tmp_path / "cache", limit=1000), tmp_path / "place"
    assert cache.bring_version("table#1", place, writes(b"one")) == sha256(b"one")
    assert cache.bring_version("table#1", place, never) == sha256(b"one")
    assert cache.bring_version("table#2", place, writes(b"two")) == sha256(b"two")
    assert place.read_bytes() == b"two"
    assert place.stat().st_mode & 0o222 == 0
    assert cache.bring_version("other#1", place, writes(b"one")) == sha256(b"one")
    assert {path.name for path in files(cache)} == {sha256(b"one"), sha256(b"two")}


def test_a_version_whose_file_left_is_fetched_again(tmp_path: Path) -> None:
    cache, place = Cache(tmp_path / "cache", limit=1000), tmp_path / "place"
    cache.bring_version("table#1", place, writes(b"one"))
    (cache.folder / sha256(b"one")).unlink()
    assert cache.bring_version("table#1", place, writes(b"one")) == sha256(b"one")
    assert cache.bring_version("table#1", place, never) == sha256(b"one")


def test_links_stay_for_a_day(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", limit=1000)
    old, young = cache.folder_of_links(), cache.folder_of_links()
    (old / "file").write_bytes(b"1")
    now = young.stat().st_mtime
    os.utime(old, (now, now - LINKED_S - 60))
    assert cache.folder_of_links().is_dir()
    assert (old.exists(), young.exists()) == (False, True)


# --- several processes at once -----------------------------------------------------------------------------------


def test_processes_share_a_cache_that_holds_a_third_of_what_they_want(tmp_path: Path) -> None:
    """Each brings all of it, in an order of its own, while the others push it out."""
    contents = {f"file-{number}": bytes([number]) * 20_000 for number in range(12)}
    cache = Cache(tmp_path / "cache", limit=80_000)

    def bring(runner: int) -> int:
        (tmp_path / str(runner)).mkdir()
        fetched = 0

        def fetch(into: Path, content: bytes) -> None:
            nonlocal fetched
            fetched += 1
            into.write_bytes(content[:9000])
            with into.open("ab") as file:  # a reader of half a file would be told of
                file.write(content[9000:])

        names = list(contents)
        for turn in range(3):
            for name in names[runner * 3 :] + names[: runner * 3]:
                content, place = contents[name], tmp_path / str(runner) / name
                if (turn + runner) % 2:
                    cache.bring(sha256(content), place, lambda into, content=content: fetch(into, content))  # type: ignore[misc]
                else:
                    found = cache.bring_version(name, place, lambda into, content=content: fetch(into, content))  # type: ignore[misc]
                    assert found == sha256(content)
                assert place.read_bytes() == content
        return fetched

    fetched = race(4, bring)
    assert min(fetched) > 0
    for runner in range(4):
        assert {path.name: path.read_bytes() for path in (tmp_path / str(runner)).iterdir()} == contents
    assert {path.name for path in files(cache)} <= {sha256(content) for content in contents.values()}
    assert sum(path.stat().st_size for path in files(cache)) <= cache.limit + 4 * 20_000


def test_what_all_want_at_once_is_whole_for_each(tmp_path: Path) -> None:
    content, cache = os.urandom(200_000), Cache(tmp_path / "cache", limit=10**6)

    def bring(runner: int) -> str:
        return cache.bring_version("weights#1", tmp_path / str(runner), writes(content))

    assert set(race(6, bring)) == {sha256(content)}
    assert [path.name for path in files(cache)] == [sha256(content)]


# --- a folder that can't be used ---------------------------------------------------------------------------------


def test_a_folder_that_may_not_be_written_is_named_with_its_setting(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir(mode=0o555)
    message = message_without_privileges(
        Cache(tmp_path / "cache", 1000).bring,
        sha256(b"1"),
        tmp_path / "place",
        writes(b"1"),
        kind=StoreUnavailable,  # on another machine it may be none
    )
    assert message == (
        f"{tmp_path}/cache: can't be written (Permission denied). User {os.geteuid()} has to be let in. "
        "RETAIN_CACHE may name another folder"
    )


def test_a_full_disk_is_named_with_the_setting_and_leaves_nothing_behind(tmp_path: Path) -> None:
    def full(into: Path) -> None:
        into.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    cache = Cache(tmp_path / "cache", 1000)
    for call in (
        lambda: cache.bring(sha256(b"1"), tmp_path / "place", full),
        lambda: cache.bring_version("1", tmp_path / "place", full),
    ):
        with pytest.raises(
            StoreUnavailable,
            match=r"cache: can't be written \(No space left on device\)\. Free some space\. RETAIN_CACHE may name",
        ):
            call()
    assert files(cache) == []
    assert not (tmp_path / "place").exists()


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(
        RetainError, match=r"cache: can't be written \(.*\)\. RETAIN_CACHE may name another folder"
    ) as e:
        Cache(tmp_path / "cache", 1000).bring(sha256(b"1"), tmp_path / "place", writes(b"1"))
    assert not isinstance(e.value, StoreUnavailable), "trying again would change nothing"


def test_an_error_of_another_folder_is_not_the_cache_s(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Cache(tmp_path / "cache", 1000).bring(sha256(b"1"), tmp_path / "none" / "place", writes(b"1"))


def test_a_copy_that_has_no_room_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where cache and work folder lie on different disks."""

    def other_disk(source: Path, place: Path) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    def full(source: Path, place: Path) -> None:
        place.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    cache = Cache(tmp_path / "cache", 1000)
    monkeypatch.setattr(os, "link", other_disk)
    cache.bring(sha256(b"1"), tmp_path / "place", writes(b"1"))
    assert (tmp_path / "place").read_bytes() == b"1"
    monkeypatch.setattr(shutil, "copy", full)
    with pytest.raises(OSError, match="No space left"):
        cache.bring(sha256(b"1"), tmp_path / "place", writes(b"1"))
    assert not (tmp_path / "place").exists()


def test_the_setting_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETAIN_CACHE", str(tmp_path / "cache"))
    assert setting_of(tmp_path / "cache" / "stores" / "bucket" / "downloads") == "RETAIN_CACHE"
    assert setting_of(tmp_path / "store" / "downloads") == "RETAIN_STORE"
