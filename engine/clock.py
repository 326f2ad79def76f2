"""The clock by which processes of one machine judge how old something is."""

from __future__ import annotations

import time


def elapsed() -> float:
    """Seconds by a clock that nobody sets, and that goes on while the machine is suspended, where there is one."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
