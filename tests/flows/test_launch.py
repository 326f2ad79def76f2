"""How an attempt's process stands to the others of this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.launch import Child
from flows.plan import Plan
from tasks.stages import STAGES
from tests.flows.toy_plan import toy_plan


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Child]:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield Child(process, tmp_path, time.monotonic())
    process.communicate()


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return toy_plan(tmp_path, tuple(STAGES.values()))


def test_a_child_gives_way_by_as_much_as_it_is_told(child: Child) -> None:
    child.give_way(3)
    assert os.getpriority(os.PRIO_PROCESS, child.process.pid) == os.getpriority(os.PRIO_PROCESS, 0) + 3


def test_a_child_that_has_ended_gives_way_to_nobody(child: Child) -> None:
    child.end()
    child.give_way(3)


@pytest.mark.parametrize("first", ["customers", "risk", "prompts", "dialogues", "base", "sft", "rm"])
def test_the_chain_of_the_language_models_gives_way_to_nobody(plan: Plan, first: str) -> None:
    assert plan.niceness(STAGES[first]) == 0


@pytest.mark.parametrize(
    ("first", "then"),
    [("sft", "judge"), ("base", "decision"), ("ppo_text", "decision"), ("judge", "decision"), ("accept", "backtest")],
)
def test_what_more_stages_wait_for_goes_first(plan: Plan, first: str, then: str) -> None:
    assert plan.niceness(STAGES[first]) < plan.niceness(STAGES[then])
