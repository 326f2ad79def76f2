"""Looks at the store, beside the event loop: a store on a network may be slow, or hang."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

Result = TypeVar("Result")


def in_thread(look: Callable[[], Result], name: str) -> asyncio.Future[Result]:
    """What `look` returns, or raises, in a thread of its own. No executor's: the process would wait for that thread
    when it stops."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Result] = loop.create_future()

    def run() -> None:
        try:
            result = look()
        except Exception as error:
            told, content = _fail, error
        else:
            told, content = _answer, result  # type: ignore[assignment]
        with suppress(RuntimeError):  # the loop is closed: the service has stopped meanwhile
            loop.call_soon_threadsafe(told, answer, content)

    threading.Thread(target=run, name=name, daemon=True).start()
    return answer


def _answer(answer: asyncio.Future[Result], result: Result) -> None:
    if not answer.cancelled():  # with the task that awaits it, when the service stops
        answer.set_result(result)


def _fail(answer: asyncio.Future[Result], error: Exception) -> None:
    if not answer.cancelled():
        answer.set_exception(error)
