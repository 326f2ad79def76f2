"""Paths: those that settings name, and what is said of a file that can't be read."""

from __future__ import annotations

import errno
import os
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


def why_unreadable(error: OSError) -> str:
    """What is said of a file or folder that is there and can't be read: never that it is damaged."""
    text = f"can't be read ({error.strerror or error})"
    if error.errno in (errno.EACCES, errno.EPERM):
        text += f". User {os.geteuid()} has to be let in; nothing is wrong with the file itself"
    return text
