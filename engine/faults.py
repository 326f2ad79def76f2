"""Named places where a process may be killed on purpose.

`RETAIN_FAULT=store.rename@3` kills the first process that reaches that place for the third time, with SIGKILL,
as a spot machine does. `RETAIN_FAULT=store.write:checkpoints/@9` counts only writes of keys that contain that part, so
that heartbeats in between don't count. With `RETAIN_FAULT_MARK=FILE` only one process dies: the one that creates FILE.
"""

from __future__ import annotations

import os
import signal

POINTS = (
    "store.write",  # bytes are aside, not yet synced
    "store.rename",  # synced aside, not yet under its name
    "store.renamed",  # under its name, the folder not yet synced
    "checkpoint.saved",  # on this machine's disk, nothing in the store
    "checkpoint.save",  # before any file of a checkpoint is copied into the store
    "checkpoint.seal",  # files written and read back, not yet complete
    "checkpoint.prune",  # complete, older ones still there
    "artifact.publish",  # before any file of an artifact
    "artifact.seal",  # files written, no manifest
    "artifact.sealed",  # manifest written, claim still held
    "ledger.reserve",  # before a reservation is written
    "ledger.reserved",  # reserved, nothing started
    "ledger.settle",  # the attempt has ended, not yet settled
    "ledger.settled",  # settled, `current.json` not yet written
)

_reached: dict[str, int] = {}


def fault(point: str, key: str = "") -> None:
    """Kills this process if the environment asks for it here; otherwise costs one dictionary look-up."""
    wanted = os.environ.get("RETAIN_FAULT")
    if not wanted:
        return
    place, _, count = wanted.partition("@")
    name, _, part = place.partition(":")
    if name not in POINTS:
        raise ValueError(f"RETAIN_FAULT={wanted}: no such place. Known: {', '.join(POINTS)}")
    if name != point or part not in key:
        return
    _reached[point] = _reached.get(point, 0) + 1
    if _reached[point] < int(count or 1):
        return
    mark = os.environ.get("RETAIN_FAULT_MARK")
    if mark:
        try:
            os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
    os.kill(os.getpid(), signal.SIGKILL)
