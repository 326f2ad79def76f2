"""Of two attempts at one result, only one may write: a claim with a fencing token.

The claim is one small key, changed by compare-and-set alone. It names its holder (engine.process) and its token,
the attempt's number, which only grows. The holder renews it, and other attempts wait. A holder that died on this
machine is replaced at once, one on another machine after three missed renewals by the waiting attempt's own clock,
since clocks of two machines don't agree. Whoever saw an attempt end, wherever it ran, takes its claim away. A holder
that was replaced or whose claim is gone learns so at its next renewal or check, by Fenced.
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

    One thread may renew it while another releases it: after the release a renewal does nothing.
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
        """Raises Fenced unless this claim is still held."""
        stored = self.store.read(self.key)
        if stored is None or _parse(self.store, self.key, stored[0]).token != self.state.token:
            raise Fenced(self.key)

    def release(self) -> None:
        """Gives the claim up; does nothing if another attempt has taken it over."""
        with self._changing:
            self.released = True
            try:
                self.store.delete(self.key, expect=self.version)
            except Conflict:
                return


class Watch:
    """A claim as seen by an attempt that doesn't hold it: is its holder still alive?

    `clock` gives elapsed seconds (monotonic).
    """

    def __init__(self, store: Store, key: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.store, self.key, self.clock = store, key, clock
        self.undecided = False  # held() could not tell yet whether a holder on another machine is alive
        self._last_version: str | None = None
        self._since = 0.0

    def held(self) -> bool:
        """True while somebody alive holds the claim, or may."""
        self.undecided = False
        stored = self.store.read(self.key)
        if stored is None:
            return False
        data, version = stored
        state = _parse(self.store, self.key, data)
        alive = state.holder.alive()
        if alive is not None:
            return alive
        self.undecided = self._last_version in (None, version)
        if version != self._last_version:
            self._last_version, self._since = version, self.clock()
        return self.clock() - self._since < MISSED_RENEWALS * state.interval_s


def acquire(store: Store, key: str, token: int, interval_s: float, watch: Watch | None = None) -> Claim | None:
    """The claim, or None while another may hold it. A dead holder's claim is taken over."""
    state = ClaimState(token=token, holder=this_process(), interval_s=interval_s, renewal=0)
    stored = store.read(key)
    if stored is not None and (watch or Watch(store, key)).held():
        return None
    try:
        version = store.write(key, _dump(state), expect=ABSENT if stored is None else stored[1])
    except Conflict:
        return None
    return Claim(store, key, state, version)


def take_away(store: Store, key: str, token: int) -> bool:
    """Removes the claim of attempt `token`; returns whether it held it. A claim that has moved on is left alone.

    For whoever saw that attempt end, on whatever machine, so that nobody waits for renewals that won't come. If the
    attempt is alive after all, it is fenced: a renewal doesn't bring the claim back.
    """
    while True:
        stored = store.read(key)
        if stored is None or _parse(store, key, stored[0]).token != token:
            return False
        try:
            store.delete(key, expect=stored[1])
            return True
        except Conflict:
            continue  # renewed, released or replaced since it was read


def _parse(store: Store, key: str, data: bytes) -> ClaimState:
    try:
        return ClaimState.model_validate_json(data)
    except ValueError:
        raise RetainError(f"{store.url}/{key}: not a claim; remove it when nothing runs there") from None


def _dump(state: ClaimState) -> bytes:
    return json.dumps(state.model_dump(mode="json"), sort_keys=True).encode()
