"""Which process on which machine: the identity that claims and ledger entries name.

A pid alone is not an identity: it is reused, and two containers of one machine both have a pid 7. So a holder is
(boot of the machine + pid namespace, pid, start of that process).
"""

from __future__ import annotations

import os
import time
from functools import cache
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict


class Holder(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    machine: str
    pid: int
    start: float

    def alive(self) -> bool | None:
        """None if it runs on another machine, whose processes can't be seen from here."""
        if self.machine != machine():
            return None
        try:
            process = psutil.Process(self.pid)
            # Outside Linux a start time drifts with the clock by less than 2 s; that of a reused pid differs by more.
            return abs(_started(self.pid) - self.start) < 2 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


@cache
def machine() -> str:
    """This boot of this machine, seen from this pid namespace."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    if boot.exists():
        return f"{boot.read_text(encoding='ascii').strip()}/{os.readlink('/proc/self/ns/pid')}"
    return f"{os.uname().nodename}/{int(psutil.boot_time())}"


def this_process() -> Holder:
    return Holder(machine=machine(), pid=os.getpid(), start=_started(os.getpid()))


def age_s() -> float:
    """Seconds since this process was started, imports included; under load these can take a second."""
    now = time.clock_gettime(time.CLOCK_BOOTTIME) if Path("/proc/self/stat").exists() else time.time()
    return now - _started(os.getpid())


def _started(pid: int) -> float:
    """Start of a process in seconds: since boot where there is /proc, else since 1970.

    psutil's create_time() would move when the machine's clock is set.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return psutil.Process(pid).create_time()
    return int(stat.rpartition(b")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
