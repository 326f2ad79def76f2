"""Whose turn it is to write into an SQLite database."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from serve.turns import InUse, Turns, Users


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_whoever_waits_is_next(tmp_path: Path) -> None:
    """Two open the files as two processes would. The first wants to write again at once, and has to wait."""
    path = tmp_path / "x.db"
    first, second = Turns(path), Turns(path)
    order: list[str] = []
    seen = os.open(f"{path}-next", os.O_RDWR)

    def waits() -> bool:
        try:
            fcntl.flock(seen, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(seen, fcntl.LOCK_UN)
        return False

    def write() -> None:
        with second.mine(30):
            order.append("second")

    thread = threading.Thread(target=write)
    with first.mine(30):
        order.append("first")
        thread.start()
        until(waits)
    with first.mine(30):
        order.append("first again")
    thread.join()
    assert order == ["first", "second", "first again"]


def test_one_waits_no_longer_than_one_said(tmp_path: Path) -> None:
    first, second, third = (Turns(tmp_path / "x.db") for _ in range(3))
    with first.mine(30):
        for one in (second, third):
            with pytest.raises(InUse), one.mine(0.01):
                pass
    with second.mine(30):  # whoever gave up waits for nothing any more
        pass


def test_a_lock_ends_with_its_holder(tmp_path: Path) -> None:
    first, second = Turns(tmp_path / "x.db"), Turns(tmp_path / "x.db")
    with pytest.raises(ZeroDivisionError), first.mine(30):
        raise ZeroDivisionError
    with second.mine(0.01):
        pass


def test_one_that_replaces_the_database_is_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    users = [Users(path), Users(path)]
    with pytest.raises(InUse):
        Users(path, alone=True)
    for user in users:
        user.close()
    alone = Users(path, alone=True)
    with pytest.raises(InUse):
        Users(path)
    alone.close()
    Users(path).close()
