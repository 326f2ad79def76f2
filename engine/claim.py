"""Of two attempts at one result, only one may write: a claim with a fencing token.

The claim is one small key, changed by compare-and-set alone. It names its holder (engine.process) and its token,
the attempt's number, which only grows. The holder renews it; whoever finds it held waits. A holder that is dead on
this machine is replaced at once; one elsewhere after three renewals were missed, by the watcher's own clock, since
clocks of two machines don't agree. A holder that was replaced learns it at its next renewal or write: Fenced.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict

from engine.errors import RetainError
from engine.process import Holder, this_process
from engine.store import ABSENT, Conflict, Store

MISSED_RENEWALS = 3


class Fenced(Exception):
    """Another attempt holds the claim now; nothing more may be written by this one."""


class ClaimState(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    token: int
    holder: Holder
    interval_s: float
    renewal: int


@dataclass
class Claim:
    """A held claim; `check` before each write that matters, `renew` every interval, `release` at the end.

    Renewed by one thread while another releases it: after the release a renewal does nothing.
    """

    store: Store
    key: str
    state: ClaimState
    version: str
    released: bool = False
    _changing: threading.Lock = field(default_factory=threading.Lock)

    def renew(self) -> None:
        with self._changing:
            if self.released:
                return
            state = self.state.model_copy(update={"renewal": self.state.renewal + 1})
            try:
                self.version = self.store.write(self.key, _dump(state), expect=self.version)
            except Conflict:
                raise Fenced(self.key) from None
            self.state = state

    def check(self) -> None:
        found = self.store.read(self.key)
        if found is None or _parse(self.store, self.key, found[0]).token != self.state.token:
            raise Fenced(self.key)

    def release(self) -> None:
        """Does nothing when the claim is no longer ours."""
        with self._changing:
            self.released = True
            try:
                self.store.delete(self.key, expect=self.version)
            except Conflict:
                return


class Watch:
    """One observer's view of a claim it doesn't hold: is its holder still there?

    `clock` gives elapsed seconds (monotonic).
    """

    def __init__(self, store: Store, key: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.store, self.key, self.clock = store, key, clock
        self.undecided = False  # the last look met a holder elsewhere that may be alive or not
        self._seen: str | None = None
        self._since = 0.0

    def held(self) -> bool:
        """True while somebody alive holds the claim, or may."""
        self.undecided = False
        found = self.store.read(self.key)
        if found is None:
            return False
        data, version = found
        state = _parse(self.store, self.key, data)
        alive = state.holder.alive()
        if alive is not None:
            return alive
        self.undecided = self._seen in (None, version)
        if version != self._seen:
            self._seen, self._since = version, self.clock()
        return self.clock() - self._since < MISSED_RENEWALS * state.interval_s


def acquire(store: Store, key: str, token: int, interval_s: float, watch: Watch | None = None) -> Claim | None:
    """The claim, or None while another may hold it. A dead holder's claim is taken over."""
    state = ClaimState(token=token, holder=this_process(), interval_s=interval_s, renewal=0)
    found = store.read(key)
    if found is not None and (watch or Watch(store, key)).held():
        return None
    try:
        version = store.write(key, _dump(state), expect=ABSENT if found is None else found[1])
    except Conflict:
        return None
    return Claim(store, key, state, version)


def clear_dead(store: Store, key: str) -> None:
    """Removes the claim of a holder that died on this machine: where nobody comes to replace it, it would stay."""
    found = store.read(key)
    if found is None or _parse(store, key, found[0]).holder.alive() is not False:
        return
    try:
        store.delete(key, expect=found[1])
    except Conflict:
        return  # somebody replaced it in the meantime


def _parse(store: Store, key: str, data: bytes) -> ClaimState:
    try:
        return ClaimState.model_validate_json(data)
    except ValueError:
        raise RetainError(f"{store.url}/{key}: not a claim; remove it when nothing runs there") from None


def _dump(state: ClaimState) -> bytes:
    return json.dumps(state.model_dump(mode="json"), sort_keys=True).encode()
