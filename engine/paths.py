"""Paths: those that settings name, and what is said of a file that can't be read."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from engine.errors import RetainError

NOT_THERE = (FileNotFoundError, NotADirectoryError)


def path_of(setting: str, value: str) -> Path:
    """The path that a setting names; `~` is the user's home. Raises RetainError for one that can't be used.

    Paths are written into requests, records and addresses, all of which are UTF-8.
    """
    try:
        value.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(value).decode(errors="backslashreplace")
        raise RetainError(f"{setting}={shown}: isn't UTF-8; give that folder another name") from None
    path = os.path.expanduser(value)  # Path.expanduser() would take ./~x for a home as well
    if path.startswith("~"):
        raise RetainError(f"{setting}={value}: this machine knows no such home; write the whole path")
    return Path(path)


def is_folder(path: Path) -> bool:
    """Whether a folder is there. Raises OSError where that can't be told, unlike Path.is_dir()."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except NOT_THERE:
        return False


def why_unreadable(error: OSError) -> str:
    """What is said of a file or folder that is there and can't be read: never that it is damaged."""
    text = f"can't be read ({error.strerror or error})"
    return f"{text}. {_let_in()}; nothing is wrong with the file itself" if _denied(error) else text


def why_unwritable(error: OSError) -> str:
    """What is said of a folder that can't be written. A remedy is named for the cause that was seen."""
    text = f"can't be written ({error.strerror or error})"
    if _denied(error):
        return f"{text}. {_let_in()}"
    return f"{text}. Free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else text


def _denied(error: OSError) -> bool:
    return error.errno in (errno.EACCES, errno.EPERM)


def _let_in() -> str:
    return f"User {os.geteuid()} has to be let in"
