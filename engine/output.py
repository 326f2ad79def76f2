"""Standard output and error as decoration: whatever becomes of them, the work goes on.

A reader may go away (`| head`), the disk of a log may fill up, a terminal may lack a character, and a stream may be
closed from the start (`>&-`).
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any, TextIO


def make_decoration() -> None:
    """From here on print() never raises: what can't be written is dropped.

    Descriptors 0 to 2 are opened where they are closed: otherwise the next file would take their place, and what a
    library prints would end up in it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
    sys.stdout = _decoration(sys.stdout, 1)
    sys.stderr = _decoration(sys.stderr, 2)


class _Lossy(io.FileIO):
    """A descriptor that claims to have written what it can't write."""

    def write(self, data: Any, /) -> int:
        try:
            written = super().write(data)
        except OSError:
            written = None
        return len(data) if written is None else written


def _decoration(stream: TextIO | None, descriptor: int) -> TextIO:
    if stream is not None:
        stream.flush()
    if isinstance(stream, io.TextIOWrapper):
        # A debugger has kept it, and the process may end without flushing what it did not make itself.
        stream.reconfigure(line_buffering=True)
    return io.TextIOWrapper(
        io.BufferedWriter(_Lossy(descriptor, "w", closefd=False)),
        encoding=getattr(stream, "encoding", None) or "utf-8",
        errors="backslashreplace" if descriptor == 2 else "replace",
        line_buffering=descriptor == 2 or os.isatty(descriptor),
        write_through=getattr(stream, "write_through", False),
    )
