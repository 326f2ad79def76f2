"""A holder is one process of one boot, whatever happens to its pid and to the clock."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from engine.process import Holder, machine, this_process
from tests.engine.processes import FORK, PATIENCE_S, race, start

PROJECT = Path(__file__).resolve().parents[2]


def test_this_process_lives_and_is_the_same_each_time() -> None:
    me = this_process()
    assert me == this_process()
    assert me.alive() is True
    assert me == Holder.model_validate_json(me.model_dump_json())


def test_two_processes_are_two_holders() -> None:
    one, other = race(2, lambda _: this_process())
    assert one != other
    assert (one.machine, other.machine) == (machine(), machine())
    assert (one.alive(), other.alive()) == (False, False)


def test_one_whose_pid_was_reused_is_dead() -> None:
    me = this_process()
    assert me.model_copy(update={"start": me.start - 60}).alive() is False
    assert me.model_copy(update={"start": me.start + 60}).alive() is False


def test_of_one_on_another_machine_nothing_is_known() -> None:
    assert this_process().model_copy(update={"machine": "another-boot/pid:[1]"}).alive() is None


def test_a_process_that_ended_and_that_nobody_reaped_is_dead() -> None:
    receive, send = FORK.Pipe(duplex=False)
    process = start(lambda: send.send(this_process()))
    holder = receive.recv()
    assert process.pid == holder.pid
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
    assert psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE
    assert holder.alive() is False
    process.join(PATIENCE_S)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the start of a process is told by the clock")
@pytest.mark.parametrize("step_s", [-3600.0, 10.0])
def test_setting_the_clock_kills_nobody(monkeypatch: pytest.MonkeyPatch, step_s: float) -> None:
    # The kernel derives the time of boot from the clock, so setting the clock moves every start that is told in it.
    me, before = this_process(), psutil.boot_time()
    for module in (psutil, sys.modules["psutil._pslinux"]):
        monkeypatch.setattr(module, "boot_time", lambda: before + step_s)
    assert me.alive() is True
    assert this_process() == me


def test_age_counts_from_the_start_of_the_process() -> None:
    code = "import time; time.sleep(0.3); from engine.process import age_s; print(age_s())"
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PROJECT)
    tick = 1 / os.sysconf("SC_CLK_TCK")
    assert 0.3 <= float(done.stdout) <= time.monotonic() - began + tick
