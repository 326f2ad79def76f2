"""Paths that settings name."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from engine.errors import RetainError
from engine.paths import path_of, why_unreadable, why_unwritable
from engine.store import store_url


@pytest.mark.parametrize("value", ["~/x", "~"])
def test_a_home_is_expanded(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somebodys/home")
    assert path_of("RETAIN_DATA_DIR", value) == Path("/somebodys/home") / value[2:]
    monkeypatch.setenv("RETAIN_STORE", value)
    assert store_url() == str(Path("/somebodys/home") / value[2:])


@pytest.mark.parametrize("value", ["stores/a[/b]/x", "/a b/ü/%20/:key:", "x~", "./~x", "a/~/b"])
def test_other_paths_stay_as_they_are(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert path_of("RETAIN_STORE", value) == Path(value)
    monkeypatch.setenv("RETAIN_STORE", value)
    assert Path(store_url()) == Path(value)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("~nobody-of-this-name/x", "this machine knows no such home; write the whole path"),
        (os.fsdecode(b"/tmp/\xff"), r"RETAIN_STORE=/tmp/\\xff: isn't UTF-8"),
    ],
)
def test_a_path_that_can_not_be_used_is_one_line(value: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETAIN_STORE", value)
    with pytest.raises(RetainError, match=says) as error:
        store_url()
    assert len(str(error.value).encode().splitlines()) == 1


def test_only_a_refused_permission_is_said_to_be_one() -> None:
    denied = PermissionError(errno.EACCES, "Permission denied")
    assert why_unreadable(OSError(errno.EIO, "Input/output error")) == "can't be read (Input/output error)"
    assert why_unreadable(denied).startswith(f"can't be read (Permission denied). User {os.geteuid()} has to be let in")


def test_space_is_asked_for_only_where_there_is_none() -> None:
    assert why_unwritable(OSError(errno.ENOSPC, "No space left on device")).endswith("on device). Free some space")
    assert why_unwritable(OSError(errno.EROFS, "Read-only file system")) == "can't be written (Read-only file system)"
