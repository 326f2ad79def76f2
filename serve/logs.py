"""Log lines: of which process, and of which request.

Those that callers can cause are kept few: a caller must not be able to fill a disk, nor hide what else is said.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable

from serve import request_id

SECONDS = 60.0  # between two lines of one kind
FORMAT = "%(asctime)s.%(msecs)03dZ %(levelname)s {process} request=%(request_id)s %(message)s"


class Seldom(logging.Filter):
    """Lets one record of a kind through each minute, which says how many were left out since the last one.

    Of one kind are records with the same text before its values are put in and, if they tell of an exception, the same
    type of it from the same line.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        # By kind: when one was let through, and how many have been left out since.
        self._last: dict[tuple[object, ...], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        kind = (record.name, record.msg, *_origin(record))
        now = self._clock()
        last, left_out = self._last.get(kind, (-math.inf, 0))
        if now - last < SECONDS:
            self._last[kind] = (last, left_out + 1)
            return False
        self._last[kind] = (now, 0)
        if left_out:
            record.msg = f"{record.msg} ({left_out} more since the last such line)"
        return True


def _origin(record: logging.LogRecord) -> tuple[object, ...]:
    """The type of a record's exception, and the file and line that raised it."""
    if not record.exc_info or record.exc_info[2] is None:
        return ()
    trace = record.exc_info[2]
    while trace.tb_next is not None:
        trace = trace.tb_next
    return record.exc_info[0], trace.tb_frame.f_code.co_filename, trace.tb_lineno


class _Request(logging.Filter):
    """Puts the id of the request that is being answered into a record; "-" where there is none."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = request_id.current.get()
        return True


def configure(process: str, *, seldom: bool = True) -> None:
    """Sends what this process logs, by whichever library, to standard error.

    `process`: what it is called in each line, such as worker-0. `seldom`: callers can cause lines, so there is at most
    one of a kind in a minute.
    """
    handler = logging.StreamHandler(sys.stderr)
    formatter = logging.Formatter(FORMAT.format(process=process), "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    handler.addFilter(_Request())
    if seldom:
        handler.addFilter(Seldom())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
