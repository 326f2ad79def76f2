"""What an attempt's process gets of the environment that its run was started in."""

from __future__ import annotations

import json
import logging
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from engine import environment
from engine.artifact import open_artifact
from flows.run import Run, carry_out
from tests.flows.toy_plan import board_of, toy_plan, toy_stage

OF_THE_CALLER = {
    "PYTHONOPTIMIZE": "2",
    "PYTHONWARNINGS": "error",
    "GIT_DIR": "/elsewhere/.git",
    "OMP_PROC_BIND": "true",
    "OMP_NUM_THREADS": "64",
    "HTTPS_PROXY": "http://127.0.0.1:9",
    "PREFECT_API_KEY": "secret",
    "LC_ALL": "C",
    "AWS_SECRET_ACCESS_KEY": "secret",
}
OF_PYTHON = "LC_CTYPE"  # Python sets it in the C locale, for the programs that it starts


def test_a_stage_gets_what_is_listed_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "numpy.py").write_text("raise TypeError('not the library')")
    for name, value in (
        OF_THE_CALLER | {"PYTHONPATH": str(tmp_path), "CUDA_VISIBLE_DEVICES": "0", "TZ": "UTC"}
    ).items():
        monkeypatch.setenv(name, value)
    plan = toy_plan(tmp_path / "store", (toy_stage("risk", function="surroundings"),))
    run = Run(plan, board_of(plan))
    carry_out(run, "risk", logging.getLogger("test"), lambda percent: None)
    folder = Path(plan.store.url) / plan.artifacts.prefix("risk", run.made["risk"])
    names = set(json.loads(open_artifact(folder)["names.json"].read_text()))
    listed = (*environment.TAKEN, *environment.SET, *environment.SET_FOR_LIBRARIES, *environment.THREADS, OF_PYTHON)
    assert {name for name in names if not any(fnmatchcase(name, each) for each in listed)} == set()
    assert {"PATH", "CUDA_VISIBLE_DEVICES", "TZ", *environment.SET} <= names
