"""The table of stages names things that exist, in an order in which they can run."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from pydantic import BaseModel

from engine.config import experiment_path, load, validate
from engine.fingerprint import code_digests, library_versions
from engine.stage import Stage
from tasks.config import Experiment, Stages
from tasks.stages import STAGES

PROJECT = Path(__file__).resolve().parents[2]

every_stage = pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES.keys())


@every_stage
def test_entry_point_is_a_function_of_config_inputs_and_workspace(stage: Stage) -> None:
    module, _, function = stage.entry.partition(":")
    path = PROJECT / (module.replace(".", "/") + ".py")
    assert path.is_file(), f"{stage.name}: {stage.entry} names no file"
    found = [
        node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef) and node.name == function
    ]
    assert found, f"{stage.name}: {path.name} has no function {function}"
    assert [argument.arg for argument in found[0].args.args] == ["config", "inputs", "workspace"]


@every_stage
def test_config_is_a_model(stage: Stage) -> None:
    module, _, name = stage.config.partition(":")
    assert issubclass(getattr(import_module(module), name), BaseModel)
    assert stage.name in Stages.model_fields


@every_stage
def test_inputs_come_earlier_in_the_table(stage: Stage) -> None:
    names = list(STAGES)
    assert set(stage.inputs) <= set(names[: names.index(stage.name)])


@every_stage
def test_libraries_are_installed(stage: Stage) -> None:
    assert stage.libraries
    assert all(library_versions(stage.libraries).values())


def _imports(stage: Stage) -> set[str]:
    """Top-level modules that anything imports which the stage's own module leads to."""
    names: set[str] = set()
    for file in code_digests(stage.entry):
        for node in ast.walk(ast.parse((PROJECT / file).read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.partition(".")[0])
    return names


@every_stage
def test_libraries_name_what_the_stage_computes_with(stage: Stage) -> None:
    """A library that is not in the row could change a result without changing its fingerprint."""
    distributions = {"numpy": "numpy", "pandas": "pandas", "pyarrow": "pyarrow"}
    distributions |= {"sklearn": "scikit-learn", "scipy": "scipy", "xgboost": "xgboost", "torch": "torch"}
    used = {distributions[name] for name in _imports(stage) & distributions.keys()}
    assert used <= set(stage.libraries)


def test_names_are_the_keys() -> None:
    assert [stage.name for stage in STAGES.values()] == list(STAGES)


def test_what_has_no_inputs_has_a_source_and_so_has_the_base() -> None:
    without = {s.name for s in STAGES.values() if not s.inputs}
    assert {s.name for s in STAGES.values() if s.source} == {*without, "base"}


@pytest.mark.parametrize("name", ["exp_001_mvp", "local", "chaos"])
def test_experiments_time_exactly_the_stages_that_exist(name: str) -> None:
    """eval/verdict.py tells stages that exist from those still to come by their time limit."""
    experiment = validate(load(experiment_path(name)), Experiment)
    assert set(experiment.execution.time_limit_s) == set(STAGES)


def test_reading_the_table_loads_no_training_library() -> None:
    program = (
        "import sys, tasks.stages; "
        "print(sorted({'torch', 'pandas', 'sklearn', 'xgboost', 'pyarrow', 'prefect'} & set(sys.modules)))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stdout.strip() == "[]"


def test_language_and_decision_wait_for_nothing_of_each_other() -> None:
    """The two branches run side by side and meet in the release."""

    def needs(name: str) -> set[str]:
        return {name}.union(*(needs(one) for one in STAGES[name].inputs))

    language = {name for name in STAGES if STAGES[name].entry.startswith("tasks.rlhf.")}
    assert language & needs("decision") == set()
    assert not any("decision" in needs(name) for name in language)
    assert language | {"decision"} <= needs("release")
