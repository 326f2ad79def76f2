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
        """None when it lives on another machine, where nobody here can look."""
        if self.machine != machine():
            return None
        try:
            process = psutil.Process(self.pid)
            # create_time() drifts with the clock by less than this; a reused pid is further away.
            return abs(process.create_time() - self.start) < 2 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


@cache
def machine() -> str:
    """This boot of this machine, seen from this pid namespace."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    if boot.exists():
        return f"{boot.read_text().strip()}/{os.readlink('/proc/self/ns/pid')}"
    return f"{os.uname().nodename}/{int(psutil.boot_time())}"


def this_process() -> Holder:
    return Holder(machine=machine(), pid=os.getpid(), start=psutil.Process().create_time())


def age_s() -> float:
    """Seconds since this process was started: under load, the imports before the first line can take one."""
    stat = Path("/proc/self/stat")
    if stat.exists():
        ticks = int(stat.read_text().rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - psutil.Process().create_time()
