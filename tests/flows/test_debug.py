"""A stage in the foreground: the stored artifact's inputs, the same bytes, and nothing published."""

from __future__ import annotations

import inspect
import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from engine.errors import RetainError
from engine.fingerprint import ROOT
from engine.stage import StageRequest
from flows.debug import debug, debug_request
from flows.plan import Plan
from flows.run import Run, carry_out
from tests.engine import toy_stages
from tests.flows.toy_plan import board_of, toy_plan, toy_stage

CHAIN = (toy_stage("customers"), toy_stage("risk", ("customers",)))


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """A run of two toy stages that has completed; nothing here changes what it published."""
    plan = toy_plan(tmp_path_factory.mktemp("store"), CHAIN)
    run = Run(plan, board_of(plan))
    for stage in plan.stages:
        carry_out(run, stage.name, logging.getLogger("test"), lambda percent: None)
    return plan


def in_foreground(request: StageRequest, *before: str, keys: str = "") -> subprocess.CompletedProcess[str]:
    work = Path(request.work)
    work.mkdir(parents=True, exist_ok=True)
    path = work / "request.json"
    path.write_text(request.model_dump_json())
    return subprocess.run(
        [sys.executable, *before, "-m", "engine", str(path), "--debug"],
        cwd=ROOT,
        # A debugger's lines have to arrive also where Python buffers its output, as `make` leaves it to do.
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"} | {"PYTHONHASHSEED": "0"},
        input=keys,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def published(plan: Plan) -> list[str]:
    return list(plan.store.list("chaos"))


def test_it_makes_the_bytes_of_the_stored_artifact_and_publishes_nothing(plan: Plan) -> None:
    before = published(plan)
    ended = in_foreground(debug_request(plan, "risk"))
    assert ended.returncode == 0, ended.stderr
    assert "every file has the bytes of the stored artifact" in ended.stdout
    assert "5/5 place" in ended.stdout
    assert published(plan) == before
    # once more: it starts from the beginning, not from its own checkpoints
    assert "1/5 place" in in_foreground(debug_request(plan, "risk")).stdout


def test_another_configuration_is_compared_with_what_completed_last(plan: Plan) -> None:
    """It runs on the inputs that are there, though the fingerprint is new."""
    other = replace(plan, configs={name: config | {"scale": 2.0} for name, config in plan.configs.items()})
    ended = in_foreground(debug_request(other, "risk"))
    assert ended.returncode == 0, ended.stderr
    last = plan.artifacts.current()["risk"]
    said = f"other bytes than in the stored artifact {last}: metrics.json, place.json"
    assert ended.stdout.splitlines()[-1] == said


def test_a_stage_that_never_completed_has_nothing_to_compare_with(plan: Plan) -> None:
    request = debug_request(plan, "customers").model_copy(update={"stage": "new"})
    assert "no artifact of this stage" in in_foreground(request).stdout


def test_other_bytes_are_named(plan: Plan) -> None:
    request = debug_request(plan, "risk")
    changed = request.model_copy(update={"entry": "tests.engine.toy_stages:surroundings"})
    assert "place.json" in in_foreground(changed).stdout.splitlines()[-1]


def test_a_debugger_steps_into_the_stage(plan: Plan) -> None:
    line = inspect.getsourcelines(toy_stages.walk)[1] + 2  # the first statement after the docstring
    commands = f"break {toy_stages.__file__}:{line}\ncontinue\np config.steps\nclear 1\ncontinue\n"
    ended = in_foreground(debug_request(plan, "risk"), "-m", "pdb", keys=commands)
    assert "(Pdb) 5\n" in ended.stdout
    assert "every file has the bytes of the stored artifact" in ended.stdout


def test_an_input_that_was_never_made_is_named(tmp_path: Path) -> None:
    with pytest.raises(RetainError, match="risk reads customers, which has not completed"):
        debug_request(toy_plan(tmp_path, CHAIN), "risk")


def test_it_has_the_environment_of_a_stage_and_a_terminal_s(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    handed: dict[str, str] = {}
    monkeypatch.setattr("flows.debug.make_plan", lambda experiment, wanted: plan)
    monkeypatch.setattr("flows.debug.put_sources", lambda plan: None)
    monkeypatch.setattr(os, "execve", lambda path, command, environment: handed.update(environment))
    for name in ("TERM", "PYTHONBREAKPOINT", "PYTHONOPTIMIZE", "PYTHONPATH", "TZ"):
        monkeypatch.setenv(name, "x")
    monkeypatch.chdir(ROOT)
    debug("chaos", "risk")
    assert {name for name, value in handed.items() if value == "x"} == {"TERM", "PYTHONBREAKPOINT", "TZ"}
    assert handed["PYTHONHASHSEED"] == "0"
