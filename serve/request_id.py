"""The id of a request: the caller's `X-Request-Id` or a new one. It stands in answers, errors and log lines."""

from __future__ import annotations

import os
import re
from contextvars import ContextVar
from itertools import count

from starlette.types import Scope

HEADER = b"x-request-id"
MAX = 64  # characters of an id that is taken from the caller

current: ContextVar[str] = ContextVar("request_id", default="-")

_ACCEPTED = re.compile(rb"[A-Za-z0-9._-]{1,%d}" % MAX)
_PROCESS = os.urandom(6).hex()  # ids of two processes never meet
_NUMBERS = count(1)


def new() -> str:
    """An id that no other request has, of this process or another."""
    return f"{_PROCESS}-{next(_NUMBERS)}"


def of(scope: Scope) -> str:
    """The id that the caller gave, if it is 1 to 64 letters, digits, dots, hyphens and underscores; else a new one."""
    for name, value in scope["headers"]:
        if name == HEADER:
            return value.decode("ascii") if _ACCEPTED.fullmatch(value) else new()
    return new()
