"""The thread that writes: all requests that wait are put on record in one transaction, and answered after it.

While one transaction runs the next one's requests gather, so the more there are, the less each of them costs, and the
event loop never waits for a database.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import queue
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from typing import Any

from serve.database import StateUnavailable
from serve.operations import Answered, Operation, Withdraw
from serve.state import State

LARGEST_BATCH = 64  # operations: some 6 ms
LARGEST_QUEUE = 1024
TICK_SECONDS = 0.02  # between two looks at whose time is over
RETRY_SECONDS = 1.0  # between two looks at a database that doesn't answer
IDLE_SECONDS = 10.0  # after which offers expire and the wallet is read again, though nobody asked

log = logging.getLogger("retain.serve")

Waiting = tuple[Operation, "asyncio.Future[Any] | None"]  # None: nobody waits for its result


class Writer:
    """Carries out operations on `state`, which is this thread's alone from `start` to `close`."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.available = state.problem is None
        self._queue: queue.SimpleQueue[Waiting | None] = queue.SimpleQueue()
        self._looks: queue.SimpleQueue[None] = queue.SimpleQueue()  # one for each time that the thread is to look at it
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        # Of the event loop alone.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._gathering = False
        self._gathered = 0
        # With when the time of each is over, the earliest first. The number only tells two of one time apart.
        self._limited: list[tuple[float, int, asyncio.Future[Any]]] = []
        self._numbers = count()
        # Of the thread alone.
        self._owed: list[Waiting] = []  # to be carried out once the database answers
        self._retry_at = 0.0

    def start(self) -> None:
        """On the event loop whose requests are to be put on record."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def submit(self, operation: Operation, seconds: float | None = None) -> asyncio.Future[Any]:
        """The operation's result, once it is on record, or its exception; StateUnavailable if that takes longer than
        `seconds`, or TICK_SECONDS more. Called on the event loop.

        Whoever cancels it, or ran out of time, has given up: an operation whose transaction has not begun isn't carried
        out, and an answer of one that has is withdrawn. Raises StateUnavailable while the database doesn't answer, or
        too many wait.
        """
        if not self.available:
            raise StateUnavailable("the database doesn't answer: it is tried again once a second")
        if self._queue.qsize() >= LARGEST_QUEUE:
            raise StateUnavailable(f"{LARGEST_QUEUE} requests wait for the database already")
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        if seconds is not None:
            if not self._limited:
                loop.call_later(TICK_SECONDS, self._tick)
            heapq.heappush(self._limited, (loop.time() + seconds, next(self._numbers), future))
        self._put((operation, future))
        return future

    def close(self, seconds: float = 5.0) -> bool:
        """Carries out what waits, and ends. False if it didn't within `seconds`."""
        self._queue.put(None)
        self._looks.put(None)
        self._thread.join(seconds)
        return not self._thread.is_alive()

    # -- in the thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        last = False
        while not last:
            batch, last = self._next()
            batch = [(operation, future) for operation, future in batch if future is None or not future.done()]
            if self.available or last or time.monotonic() >= self._retry_at:
                self._carry_out(batch)
            else:
                self._refuse(batch, StateUnavailable("the database doesn't answer"))

    def _next(self) -> tuple[list[Waiting], bool]:
        """What waits, and whether it is the last; nothing if nobody asked for a while."""
        pause = IDLE_SECONDS if self.available else max(0.0, self._retry_at - time.monotonic())
        asked = True
        while asked:
            try:
                self._looks.get(timeout=pause)
            except queue.Empty:
                asked = False
            batch, last = self._taken()
            if batch or last:
                return batch, last
        return [], False

    def _taken(self) -> tuple[list[Waiting], bool]:
        """From the queue; and whether it is the last."""
        batch: list[Waiting] = []
        with suppress(queue.Empty):
            while (waiting := self._queue.get_nowait()) is not None:
                batch.append(waiting)
                if len(batch) == LARGEST_BATCH:
                    self._looks.put(None)
                    return batch, False
            return batch, True
        return batch, False

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

    def _put(self, waiting: Waiting) -> None:
        self._queue.put(waiting)
        if not self._gathering and self._loop is not None:
            self._gathering, self._gathered = True, 0
            self._loop.call_soon(self._gather)

    def _gather(self) -> None:
        """Calls the thread once no more requests came in with a turn of the loop. It would begin with the first one,
        and the two would take the interpreter from each other at every step."""
        waiting = self._queue.qsize()
        if self._gathered < waiting < LARGEST_BATCH and self._loop is not None:
            self._gathered = waiting
            self._loop.call_soon(self._gather)
        else:
            self._gathering = False
            self._looks.put(None)

    def _tick(self) -> None:
        """Tells those whose time is over."""
        assert self._loop is not None
        now = self._loop.time()
        while self._limited and (self._limited[0][2].done() or self._limited[0][0] <= now):
            _, _, future = heapq.heappop(self._limited)
            if not future.done():
                future.set_exception(StateUnavailable("the database takes too long"))
        if self._limited:
            self._loop.call_later(TICK_SECONDS, self._tick)

    def _deliver(self, batch: list[Waiting], results: Sequence[Any]) -> None:
        for (_, future), result in zip(batch, results):
            if future is None:
                continue
            if future.done():  # given up
                if isinstance(result, Answered) and not result.repeated and not result.replayed:
                    self._put((Withdraw(result.decision_id), None))
            elif isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
