"""What follows when an attempt has ended: nothing else retries anything.

An attempt whose machine was taken, or that was killed or fenced, is tried again from its checkpoint, as often as the
experiment allows. One that failed would fail again, and costs as much, so it is never tried again.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Literal

from engine.records import Status
from engine.stage import CLAIMED, COMPLETE, FENCED, PREEMPTED, UNAVAILABLE

# Exit codes of an attempt that was asked to stop, lost its claim or the store, or was killed. Other signals are
# failures.
PREEMPTIONS = (PREEMPTED, FENCED, UNAVAILABLE, -signal.SIGKILL, -signal.SIGTERM)
# Seconds until an attempt follows the first preemption, the second, ...; the last of them from then on. A machine that
# vanishes again and again is given time; on a laptop nothing has to be waited for.
AT_ONCE = (0.0,)
LATER_AND_LATER = (0.0, 15.0, 30.0, 60.0)
# So often in a row an attempt may end before its container was started, for want of its image for instance. With the
# waits above that is 45 s, in which a Docker engine starts again.
STARTS = 4


@dataclass(frozen=True)
class Next:
    """`look`: see whether the artifact is there, else try again; `retry`: the same after `wait_s` seconds."""

    step: Literal["look", "retry", "give up", "fail"]
    wait_s: float = 0.0


def was_preempted(code: int, status: Status) -> bool:
    """Whether the attempt neither completed nor failed. `code`: negative for the signal that killed it."""
    return code in PREEMPTIONS and status not in ("failed", "overdue")


def after(code: int, status: Status, earlier: int, most: int, waits_s: tuple[float, ...] = LATER_AND_LATER) -> Next:
    """What follows an attempt that ended with that exit code and status.

    `earlier`: preemptions of the stage before this ending; `most`: as many are tried again.
    """
    if was_preempted(code, status):
        if earlier >= most:
            return Next("give up")
        return Next("retry", waits_s[min(earlier, len(waits_s) - 1)])
    return Next("look" if code in (COMPLETE, CLAIMED) else "fail")
