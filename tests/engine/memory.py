"""A store in memory, whose operations a test puts in any order it likes."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.store import ABSENT, Conflict
from tests.engine.processes import PATIENCE_S


class MemoryStore:
    """What engine.store.Store promises, without a disk."""

    url = "memory"

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}

    def read(self, key: str) -> tuple[bytes, str] | None:
        data = self.content.get(key)
        return None if data is None else (data, _version(data))

    def write(self, key: str, data: bytes, expect: str | None = None, *, last_look: Any = None) -> str:
        self._check(key, expect)
        if last_look is not None:
            last_look()
        self.content[key] = data
        return _version(data)

    def delete(self, key: str, expect: str | None = None) -> None:
        self._check(key, expect)
        self.content.pop(key, None)

    def list(self, prefix: str) -> Iterator[str]:
        yield from sorted(key for key in self.content if key.startswith(f"{prefix}/"))

    def put_file(self, key: str, path: Path) -> None:
        self.content[key] = path.read_bytes()

    def local(self, key: str, scratch: Path) -> Path:
        path = scratch / hashlib.sha256(key.encode()).hexdigest()
        path.write_bytes(self.content[key])
        return path

    def _check(self, key: str, expect: str | None) -> None:
        data = self.content.get(key)
        if expect is not None and expect != (ABSENT if data is None else _version(data)):
            raise Conflict(key)


def _version(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class Operation:
    """One that was carried out: by which actor, what, on which key, and whether it changed the store."""

    actor: str
    name: str
    key: str
    changed: bool


@dataclass
class Turns:
    """Actors that take turns: each is a thread, which waits before every operation on the store until it is its turn.

    So a list of numbers (`turns`) determines the order of all operations of all actors, and every order has its list.
    """

    store: MemoryStore = field(default_factory=MemoryStore)
    operations: list[Operation] = field(default_factory=list)
    _turn: dict[str, threading.Semaphore] = field(default_factory=dict)
    _waits: dict[str, threading.Event] = field(default_factory=dict)

    def seen_by(self, actor: str) -> MemoryStore:
        return _Seen(self, actor)

    def play(self, actors: Mapping[str, Callable[[], object]], turns: list[int]) -> None:
        """Runs all actors to their ends: first in the order of `turns`, then one after the other."""
        errors: list[BaseException] = []
        over: set[str] = set()

        def act(name: str) -> None:
            try:
                actors[name]()
            except BaseException as error:
                errors.append(error)
            over.add(name)
            self._waits[name].set()

        threads = []
        for name in actors:
            self._turn[name], self._waits[name] = threading.Semaphore(0), threading.Event()
            threads.append(threading.Thread(target=act, args=(name,), daemon=True))
            threads[-1].start()
            assert self._waits[name].wait(PATIENCE_S)
        for turn in [*turns, *[0] * 10_000]:
            ready = [name for name in actors if name not in over]
            if not ready:
                break
            name = ready[turn % len(ready)]
            self._waits[name].clear()
            self._turn[name].release()
            assert self._waits[name].wait(PATIENCE_S)
        assert set(actors) == over, "an actor never came to its end"
        for thread in threads:
            thread.join(PATIENCE_S)
        if errors:
            raise errors[0]

    def wait_for_turn(self, actor: str) -> None:
        self._waits[actor].set()
        assert self._turn[actor].acquire(timeout=PATIENCE_S)


class _Seen(MemoryStore):
    """The store as one actor sees it."""

    def __init__(self, turns: Turns, actor: str) -> None:
        self.turns, self.actor, self.content = turns, actor, turns.store.content

    def read(self, key: str) -> tuple[bytes, str] | None:
        self.turns.wait_for_turn(self.actor)
        self._did("read", key, False)
        return super().read(key)

    def write(self, key: str, data: bytes, expect: str | None = None, *, last_look: Any = None) -> str:
        self.turns.wait_for_turn(self.actor)
        version = super().write(key, data, expect, last_look=last_look)
        self._did("write", key, True)
        return version

    def delete(self, key: str, expect: str | None = None) -> None:
        self.turns.wait_for_turn(self.actor)
        there = key in self.content
        super().delete(key, expect)
        self._did("delete", key, there)

    def list(self, prefix: str) -> Iterator[str]:
        self.turns.wait_for_turn(self.actor)
        return iter(list(super().list(prefix)))

    def put_file(self, key: str, path: Path) -> None:
        self.turns.wait_for_turn(self.actor)
        super().put_file(key, path)
        self._did("write", key, True)

    def _did(self, name: str, key: str, changed: bool) -> None:
        self.turns.operations.append(Operation(self.actor, name, key, changed))
