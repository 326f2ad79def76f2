"""Real processes, for tests of what happens between them. Forked: fresh interpreters would take most of the time."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

import pytest

from engine.errors import RetainError
from engine.store import ABSENT, Conflict, Store

FORK = multiprocessing.get_context("fork")
PATIENCE_S = 30.0


def start(function: Callable[..., object], *arguments: object) -> BaseProcess:
    process = FORK.Process(target=function, args=arguments, daemon=True)
    process.start()
    return process


def code_of(function: Callable[..., object], *arguments: object) -> int | None:
    """The exit code of a process that calls the function: 1 for an exception, negative for a signal."""
    process = start(function, *arguments)
    process.join(PATIENCE_S)
    return process.exitcode


def killed_at(point: str, function: Callable[..., object], *arguments: object) -> int | None:
    """The exit code of a process that calls the function and is to be killed at the named place."""

    def call() -> None:
        os.environ["RETAIN_FAULT"] = point
        function(*arguments)

    return code_of(call)


def message_without_privileges(
    function: Callable[..., object], *arguments: object, kind: type[RetainError] = RetainError
) -> str:
    """The message of the RetainError, of that kind, that the call raises in a process that the modes of files bind.

    Tests are often run by root, who may read everything. Without its capabilities, root may only what modes allow.
    """
    receive, send = FORK.Pipe(duplex=False)

    def call() -> None:
        _drop_capabilities()
        with pytest.raises(kind) as raised:
            function(*arguments)
        send.send(str(raised.value))

    assert code_of(call) == 0
    message: str = receive.recv()
    return message


def _drop_capabilities() -> None:
    """Linux's capset() with empty sets, of version 3: a header (version, pid of this process) and six words."""
    if os.geteuid() == 0:
        version, words = 0x20080522, (ctypes.c_uint32 * 6)()
        assert ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(version, 0), words) == 0


def race(runners: int, function: Callable[[int], Any]) -> list[Any]:
    """What `runners` processes return that all call the function, with their number, at the same moment."""
    barrier = FORK.Barrier(runners)
    ends = [FORK.Pipe(duplex=False) for _ in range(runners)]

    def run(number: int) -> None:
        barrier.wait(PATIENCE_S)
        try:
            ends[number][1].send(function(number))
        except BaseException:
            barrier.abort()
            raise
        barrier.wait(PATIENCE_S)  # all live until the last is done: the claim of a winner that ended would be free

    processes = [start(run, number) for number in range(runners)]
    results = [receive.recv() if receive.poll(PATIENCE_S) else None for receive, _ in ends]
    for process in processes:
        process.join(PATIENCE_S)
    assert [process.exitcode for process in processes] == [0] * runners
    return results


def increment(store: Store, times: int) -> int:
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
