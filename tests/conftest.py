"""What tests of several packages share."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Generator

import pytest
from hypothesis import HealthCheck, settings

from retain.dataset import DatasetSpec
from tests.datasets import described

# As engine/__main__.py does, for the same reasons: threads that wait do so asleep, and torch's compiler stays away. One
# thread each, where a test says nothing else: pytest runs a process for every core.
os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "TORCHDYNAMO_DISABLE": "1"}
# No test may reach a platform that happens to be up: prefect.toml would lead there.
os.environ |= {"PREFECT_API_URL": "", "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false"}
# For the processes that pytest starts. As flows/launch.py says of an attempt: memory that is given back at once and
# asked for again costs page faults, a third of the time of the slowest test of the decision's bound.
os.environ |= {"MALLOC_TRIM_THRESHOLD_": str(512 << 20), "MALLOC_MMAP_THRESHOLD_": str(32 << 20)}

# A shell makes what it starts in the background deaf to Ctrl-C, and all that starts from there, which tests send it to.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No example has a time limit, nor does drawing one: beside other processes any of them may be slow.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Looks for no garbage while the tests' modules and their libraries are imported, nor among them later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session")
def spec() -> Callable[[str], DatasetSpec]:
    return described
