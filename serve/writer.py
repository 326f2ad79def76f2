"""The thread that writes: all requests that wait are put on record in one transaction, and answered after it.

While one transaction runs the next one's requests gather, so the more there are, the less each of them costs, and the
event loop never waits for a database.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from serve.database import StateUnavailable
from serve.operations import Answered, Operation, Withdraw
from serve.state import State

LARGEST_BATCH = 64  # operations: some 6 ms
LARGEST_QUEUE = 1024
RETRY_SECONDS = 1.0  # between two looks at a database that doesn't answer
IDLE_SECONDS = 10.0  # after which offers expire and the wallet is read again, though nobody asked

log = logging.getLogger("retain.serve")

Waiting = tuple[Operation, "asyncio.Future[Any] | None"]  # None: nobody waits for its result


class Writer:
    """Carries out operations on `state`, which is this thread's alone from `start` to `close`."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.available = True
        self._queue: queue.SimpleQueue[Waiting | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        # Of the thread alone.
        self._owed: list[Waiting] = []  # to be carried out once the database answers
        self._retry_at = 0.0

    def start(self) -> None:
        """On the event loop whose requests are to be put on record."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def submit(self, operation: Operation) -> asyncio.Future[Any]:
        """The operation's result, once it is on record, or its exception. Called on the event loop.

        Whoever cancels it gives up: an operation whose transaction has not begun isn't carried out, and an answer of
        one that has is withdrawn. Raises StateUnavailable while the database doesn't answer, or too many wait.
        """
        if not self.available:
            raise StateUnavailable("the database doesn't answer: it is tried again once a second")
        if self._queue.qsize() >= LARGEST_QUEUE:
            raise StateUnavailable(f"{LARGEST_QUEUE} requests wait for the database already")
        future = asyncio.get_running_loop().create_future()
        self._queue.put((operation, future))
        return future

    def close(self, seconds: float = 5.0) -> bool:
        """Carries out what waits, and ends. False if it didn't within `seconds`."""
        self._queue.put(None)
        self._thread.join(seconds)
        return not self._thread.is_alive()

    # -- in the thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        last = False
        while not last:
            batch, last = self._next()
            batch = [(operation, future) for operation, future in batch if future is None or not future.cancelled()]
            if self.available or last or time.monotonic() >= self._retry_at:
                self._carry_out(batch)
            else:
                self._refuse(batch, StateUnavailable("the database doesn't answer"))

    def _next(self) -> tuple[list[Waiting], bool]:
        """What waits, and whether it is the last; nothing if nobody asked for a while."""
        batch: list[Waiting] = []
        pause = IDLE_SECONDS if self.available else max(0.0, self._retry_at - time.monotonic())
        try:
            waiting = self._queue.get(timeout=pause)
            while waiting is not None:
                batch.append(waiting)
                if len(batch) == LARGEST_BATCH:
                    return batch, False
                waiting = self._queue.get_nowait()
        except queue.Empty:
            return batch, False
        return batch, True

    def _carry_out(self, batch: list[Waiting]) -> None:
        batch, self._owed = self._owed + batch, []
        try:
            results = self.state.carry_out([operation for operation, _ in batch])
        except StateUnavailable as error:
            if self.available:
                log.error("nobody is contacted: %s", error)
            self.available, self._retry_at = False, time.monotonic() + RETRY_SECONDS
            self._refuse(batch, error)
            return
        except Exception as error:  # whatever it is, the thread goes on
            log.exception("the database could not be written")
            self._refuse(batch, StateUnavailable(f"the database could not be written: {error}"))
            return
        if not self.available:
            log.warning("the database answers again")
            self.available = True
        self._hand_over(batch, results)

    def _refuse(self, batch: list[Waiting], error: StateUnavailable) -> None:
        self._owed += [waiting for waiting in batch if waiting[1] is None]
        self._hand_over([waiting for waiting in batch if waiting[1] is not None], [error] * len(batch))

    def _hand_over(self, batch: list[Waiting], results: Sequence[Any]) -> None:
        if not batch or self._loop is None:
            return
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._deliver, batch, results)

    # -- on the event loop -----------------------------------------------------------------------------------------

    def _deliver(self, batch: list[Waiting], results: Sequence[Any]) -> None:
        for (_, future), result in zip(batch, results):
            if future is None:
                continue
            if future.cancelled():
                if isinstance(result, Answered) and not result.repeated and not result.replayed:
                    self._queue.put((Withdraw(result.decision_id), None))
            elif isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
