"""exp_001_mvp itself on the real tables: what `make train.risk train.accept` and `make verdict` do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.artifact import ArtifactStore, open_artifact
from engine.store import FolderStore
from tests.end_to_end.project import copy_project, states

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store after risk and accept have run, each called for as its make target does."""
    if not os.environ.get("RETAIN_DATA_DIR"):
        pytest.skip("RETAIN_DATA_DIR is unset: exp_001_mvp takes no other data than the real tables")
    root = tmp_path_factory.mktemp("store")
    for stage in ("risk", "accept"):
        ended = call(root, "-m", "flows", "run", "--experiment", "exp_001_mvp", "--stage", stage)
        assert ended.returncode == 0, ended.stdout + ended.stderr
    return root


def call(store: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=PROJECT,
        env=os.environ | {"RETAIN_STORE": str(store)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_risk_and_accept_meet_the_locked_criteria(store: Path) -> None:
    ended = call(store, "eval/verdict.py", "--experiment", "exp_001_mvp", "--json")
    assert ended.returncode == 1, ended.stdout + ended.stderr  # of a decision and words that aren't there yet
    rows: list[dict[str, Any]] = json.loads(ended.stdout)["criteria"]
    judged = {(row["stage"], row["metric"]): row for row in rows}
    for stage in ("risk", "accept"):
        for metric in ("auc", "ece"):
            row = judged[stage, metric]
            assert row["passed"]
            low, high = row["ci"]
            assert low <= row["value"] <= high
    missed = {row["stage"] for row in rows if row["gating"] and not row["passed"]}
    assert missed == {"decision", "sft", "rm", "text_eval", "messages"}
    assert {row["value"] for row in rows if row["stage"] in missed} == {None}
    assert judged["customers", "rows"]["value"] == 7032
    assert judged["campaigns", "rows"]["value"] == 41188


@pytest.mark.parametrize("stage", ["risk", "accept"])
def test_scores_are_calibrated_by_a_rising_step_of_the_margin(store: Path, stage: str) -> None:
    folder = ArtifactStore(FolderStore(store), "exp_001_mvp").folder_of_current(stage)
    assert folder is not None
    files = open_artifact(folder)
    calibration = json.loads(files["calibration.json"].read_text())
    assert len(calibration["margin"]) == len(calibration["score"]) > 10
    assert calibration["score"] == sorted(calibration["score"])
    assert 0 <= calibration["score"][0] < calibration["score"][-1] <= 1


def test_what_was_metered_is_in_the_experiments_ledger(store: Path) -> None:
    ended = call(store, "-m", "eval.costs", "--experiment", "exp_001_mvp")
    assert ended.returncode == 0, ended.stderr
    assert "metered $0.0" in ended.stdout
    assert "over 4 attempts" in ended.stdout


def test_a_template_changes_without_a_new_lock_and_a_rule_does_not(tmp_path: Path) -> None:
    """A copy edit stops nothing: the locked experiment's own `customers` stage runs."""
    project = replace(copy_project(tmp_path), experiment="exp_001_mvp", wanted=("customers",))
    messages = project.root / "ops" / "messages"
    templates = messages / "templates.yaml"
    templates.write_text(
        templates.read_text().replace("Thank you for being with us.", "We thank you for being with us.")
    )
    done = project.run()
    assert done.returncode == 0, done.stdout
    assert states(done.stdout) == {"customers": "complete"}

    rules = messages / "rules.yaml"
    rules.write_text(rules.read_text().replace("- 'gifts?'", "- 'gifts?'\n    - 'treats?'"))
    refused = project.run()
    assert refused.returncode == 2
    assert "experiment_exp_001_mvp.yaml: locked, and its content is not what" in refused.stdout
