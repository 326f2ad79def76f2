"""Locks beside the file of an SQLite database, among the processes of one machine.

SQLite lets a process that finds the database locked sleep for up to a tenth of a second and try again, so one that
writes without a pause keeps another one out. Here whoever waits is next.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PAUSE = 0.0002  # seconds between two looks at a lock


class InUse(Exception):
    """Others have the lock for longer than one waits."""


class Turns:
    """Whose turn it is to write, in the order in which they asked, but for two that asked at the same time.

    Two locks: whoever has `next` waits for `turn`, so one that gives `turn` back can't take it again before him. They
    are the process's, not the thread's. Raises OSError where their files can't be opened.
    """

    def __init__(self, database: Path) -> None:
        self._next = _opened(database, "next")
        try:
            self._turn = _opened(database, "turn")
        except OSError:
            os.close(self._next)
            raise

    @contextmanager
    def mine(self, seconds: float) -> Iterator[None]:
        """Raises InUse if it wasn't one's turn after that many seconds."""
        deadline = time.monotonic() + seconds
        _wait(self._next, deadline)
        try:
            _wait(self._turn, deadline)
        finally:
            fcntl.flock(self._next, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(self._turn, fcntl.LOCK_UN)

    def close(self) -> None:
        os.close(self._next)
        os.close(self._turn)


class Users:
    """Says that this process uses the database, until `close`. `alone` is for one that replaces it.

    Raises InUse, and OSError as Turns does.
    """

    def __init__(self, database: Path, alone: bool = False) -> None:
        self._file = _opened(database, "users")
        try:
            fcntl.flock(self._file, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            raise (InUse if isinstance(error, BlockingIOError) else error) from None

    def close(self) -> None:
        os.close(self._file)


def _opened(database: Path, name: str) -> int:
    return os.open(f"{database}-{name}", os.O_CREAT | os.O_RDWR, 0o600)


def _wait(file: int, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise InUse from None
        time.sleep(PAUSE)
