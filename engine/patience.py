"""A store that can't be reached for a while: what is tried again, for how long, and what is said meanwhile.

StoreUnavailable is no failure of a stage. Whatever an attempt can't do without (its claim, its inputs, its artifact) is
tried again with growing pauses, for SHARED_S where attempts reach the store over a network or another machine's disk.
Each call has that patience for itself: that others succeed says nothing about a key that only this one needs.
On the only machine of `make run` nobody but its user makes room, so LOCAL_S is enough to see that it lasts.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from engine.errors import StoreUnavailable
from engine.store import Conflict, Store

SHARED_S, LOCAL_S = 120.0, 10.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 5.0

Result = TypeVar("Result")


def pauses() -> Iterator[float]:
    """Seconds between one try and the next."""
    pause = FIRST_PAUSE_S
    while True:
        yield pause
        pause = min(2 * pause, LONGEST_PAUSE_S)


@dataclass
class Outage:
    """What can't be done at present since the store is unavailable. Threads share it, to say things once.

    `clock` gives elapsed seconds. `wait` waits so many seconds and returns whether to give up; `say` prints a line, one
    when an outage begins and one when it is over.
    """

    patience_s: float
    clock: Callable[[], float] = time.monotonic
    wait: Callable[[float], bool] = field(default_factory=lambda: threading.Event().wait)
    say: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True)
    message: str = ""  # of the last error
    _told: list[Callable[[str], None]] = field(default_factory=list)
    _since: dict[object, float] = field(default_factory=dict)  # what can't be done -> when it was first tried in vain
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def tell(self, say: Callable[[str], None]) -> None:
        """Lines go there, too, from now on."""
        self._told.append(say)

    def failed(self, what: object, error: StoreUnavailable) -> float:
        """Returns for how many seconds it has been tried in vain."""
        with self._lock:
            begins = not self._since
            lasts_s = self.clock() - self._since.setdefault(what, self.clock())
            self.message = str(error)
        if begins and self.patience_s:
            self._say(f"{error}; trying again for {self.patience_s:.0f} s")
        return lasts_s

    def given_up(self, what: object) -> None:
        """It is no longer tried. Nothing is said: whoever wanted it says what follows."""
        with self._lock:
            self._since.pop(what, None)

    def succeeded(self, what: object) -> None:
        with self._lock:
            since = self._since.pop(what, None)
            over = since is not None and not self._since
        if since is not None and over:
            self._say(f"the store is available again, after {self.clock() - since:.0f} s")

    @property
    def lasts_s(self) -> float:
        """Seconds for which something has been tried in vain; 0 while all is well."""
        with self._lock:
            return self.clock() - min(self._since.values()) if self._since else 0.0

    @property
    def hopeless(self) -> bool:
        return self.lasts_s >= self.patience_s

    def call(self, function: Callable[[], Result]) -> Result:
        """What the function returns, tried again while the store is unavailable.

        Raises StoreUnavailable once this call was tried in vain for `patience_s`, or `wait` says to give up.
        """
        this_call = object()
        try:
            for pause in pauses():
                try:
                    return function()
                except StoreUnavailable as error:
                    if self.failed(this_call, error) >= self.patience_s or self.wait(pause):
                        self.given_up(this_call)
                        raise
            raise AssertionError("pauses never end")
        finally:
            self.succeeded(this_call)  # unless it was given up: the store answered, whatever it said

    def _say(self, text: str) -> None:
        for say in (self.say, *self._told):
            say(text)


class PatientStore:
    """A store, each of whose operations is tried again while it is unavailable."""

    def __init__(self, store: Store, outage: Outage) -> None:
        self.store, self.outage = store, outage
        self.url = store.url

    @property
    def here(self) -> Path:
        return self.store.here

    def check(self) -> None:
        self.store.check()

    def read(self, key: str) -> tuple[bytes, str] | None:
        return self.outage.call(lambda: self.store.read(key))

    def write(
        self, key: str, data: bytes, expect: str | None = None, *, last_look: Callable[[], None] | None = None
    ) -> str:
        tried = False

        def write() -> str:
            nonlocal tried
            try:
                tried_before, tried = tried, True
                return self.store.write(key, data, expect, last_look=last_look)
            except Conflict:
                # A write that seemed to fail may have been made all the same.
                stored = self.store.read(key) if tried_before else None
                if stored is None or stored[0] != data:
                    raise
                return stored[1]

        return self.outage.call(write)

    def delete(self, key: str, expect: str | None = None) -> None:
        tried = False

        def delete() -> None:
            nonlocal tried
            try:
                tried_before, tried = tried, True
                self.store.delete(key, expect)
            except Conflict:
                if not tried_before or self.store.read(key) is not None:
                    raise

        self.outage.call(delete)

    def list(self, prefix: str) -> Iterator[str]:
        return iter(self.outage.call(lambda: list(self.store.list(prefix))))

    def versions(self, prefix: str) -> dict[str, str]:
        return self.outage.call(lambda: self.store.versions(prefix))

    def put_file(self, key: str, path: Path) -> None:
        self.outage.call(lambda: self.store.put_file(key, path))

    def local(self, key: str, scratch: Path) -> Path:
        return self.outage.call(lambda: self.store.local(key, scratch))
