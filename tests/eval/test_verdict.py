"""Verdicts from artifacts: what the table says, what the JSON holds, how the process ends."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from engine import config
from engine.artifact import ArtifactStore, ArtifactWriter
from engine.stage import IDENTITY
from engine.store import FolderStore
from eval import verdict

PROJECT = Path(__file__).resolve().parents[2]

EXPERIMENT = """
tag: tried
criteria:
  risk: {auc: {at_least: 0.78}, ece: {below: 0.05}}
  accept: {auc: {at_least: 0.70}, lift: {above: 2.0, gating: false}}
  rm: {accuracy: {at_least: 0.65}}
execution: {time_limit_s: {risk: 60, accept: 60}}
"""


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ArtifactStore:
    """An experiment of its own, with a store of its own, found by name as the real ones are."""
    configs = tmp_path / "configs"
    configs.mkdir()
    (configs / "experiment_tried.yaml").write_text(EXPERIMENT)
    monkeypatch.setattr(config, "CONFIGS", configs)
    monkeypatch.setenv("RETAIN_STORE", str(tmp_path / "store"))
    return ArtifactStore(FolderStore(tmp_path / "store"), "tried")


def complete(artifacts: ArtifactStore, stage: str, metrics: dict[str, object], tmp_path: Path) -> None:
    """An artifact of `stage` that holds nothing but its metrics."""
    folder = tmp_path / f"out-{stage}"
    folder.mkdir()
    ArtifactWriter(folder).json("metrics.json", metrics)
    artifacts.publish(stage, "f" * 32, folder)
    artifacts.set_current(stage, "f" * 32)


def read(capsys: pytest.CaptureFixture[str]) -> dict[tuple[str, str], dict[str, object]]:
    rows = json.loads(capsys.readouterr().out)["criteria"]
    return {(row["stage"], row["metric"]): row for row in rows}


def test_json_of_a_run_that_met_its_criteria(
    experiment: ArtifactStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    risk = {"auc": {"value": 0.85, "ci": [0.83, 0.87]}, "ece": {"value": 0.02, "chance": 0.03}}
    complete(experiment, "risk", risk, tmp_path)
    complete(experiment, "accept", {"auc": {"value": 0.8}, "lift": {"value": 1.5}}, tmp_path)
    assert verdict.main(["--experiment", "tried", "--json"]) == 0
    rows = read(capsys)
    assert rows["risk", "auc"] == {
        "stage": "risk",
        "metric": "auc",
        "value": 0.85,
        "ci": [0.83, 0.87],
        "op": ">=",
        "limit": 0.78,
        "gating": True,
        "kind": None,
        "passed": True,
    }
    assert rows["risk", "ece"]["ci"] is None
    # Shown, not gating: it failed, and the experiment passed all the same.
    assert (rows["accept", "lift"]["gating"], rows["accept", "lift"]["passed"]) == (False, False)
    # rm has no time limit yet, so it is no stage of this experiment.
    assert ("rm", "accuracy") not in rows


def test_the_table_shows_interval_and_chance_level(
    experiment: ArtifactStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    risk = {"auc": {"value": 0.85, "ci": [0.83, 0.87]}, "ece": {"value": 0.0211, "chance": 0.0286}}
    complete(experiment, "risk", risk, tmp_path)
    complete(experiment, "accept", {"auc": {"value": 0.8}, "lift": {"value": 41188.0}}, tmp_path)
    assert verdict.main(["--experiment", "tried"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"risk .* auc .* 0\.8500 .* 0\.8300 \.\. 0\.8700 .* >= 0\.7800 .* met", printed)
    assert re.search(r"risk .* ece .* 0\.0211 .* 0\.0286 .* < 0\.0500 .* met", printed)
    assert re.search(r"accept .* lift .* 41,188 .* > 2 ", printed)
    assert "All 3 gating criteria" in printed


DECISION = EXPERIMENT.replace(
    "execution: {time_limit_s: {risk: 60, accept: 60}}",
    """  decision:
    nrr_gain: {at_least: 0.03, gating: false}
    nrr_gain_at_risk: {at_least: 0.03}
    over_cap: {below: 0.01}
execution: {time_limit_s: {decision: 60}}
""",
)


def test_the_playbooks_gain_stands_twice_whole_cohort_first_beside_the_bound(
    experiment: ArtifactStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (config.CONFIGS / "experiment_tried.yaml").write_text(DECISION)
    gains = {"nrr_gain": {"value": 0.0131, "ci": [0.011, 0.0152]}, "nrr_gain_at_risk": {"value": 0.0321}}
    gains["over_cap"] = {"value": 0.0}
    complete(
        experiment,
        "decision",
        gains | {"upper_bound": {"value": 0.0249}, "upper_bound_at_risk": {"value": 0.0512}},
        tmp_path,
    )
    assert verdict.main(["--experiment", "tried"]) == 0
    whole, at_risk = re.findall(r"decision +nrr_gain.*", capsys.readouterr().out)
    assert re.search(r"nrr_gain +0\.0131 .* bound 0\.0249 +>= 0\.0300 +not met \(shown, not gating\)", whole)
    assert re.search(r"nrr_gain_at_risk +0\.0321 +bound 0\.0512 +>= 0\.0300 +met", at_risk)
    assert verdict.main(["--experiment", "tried", "--json"]) == 0
    rows = read(capsys)
    assert rows["decision", "nrr_gain"]["upper_bound"] == 0.0249
    assert rows["decision", "nrr_gain_at_risk"]["upper_bound"] == 0.0512
    assert "upper_bound" not in rows["decision", "over_cap"]


def test_a_gain_at_risk_that_is_missed_fails_the_experiment(
    experiment: ArtifactStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (config.CONFIGS / "experiment_tried.yaml").write_text(DECISION)
    complete(experiment, "decision", {"nrr_gain": {"value": 0.05}, "nrr_gain_at_risk": {"value": 0.029}}, tmp_path)
    assert verdict.main(["--experiment", "tried"]) == 1
    assert "decision.nrr_gain_at_risk" in capsys.readouterr().out


def test_a_missed_criterion_says_whether_it_is_of_value_or_of_safety(
    experiment: ArtifactStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = DECISION.replace("at_risk: {at_least: 0.03}", "at_risk: {at_least: 0.03, kind: value}")
    (config.CONFIGS / "experiment_tried.yaml").write_text(kinds.replace("below: 0.01}", "below: 0.01, kind: safety}"))
    complete(experiment, "decision", {"nrr_gain": {"value": 0.05}, "nrr_gain_at_risk": {"value": 0.029}}, tmp_path)
    assert verdict.main(["--experiment", "tried"]) == 1
    printed = capsys.readouterr().out
    assert re.search(r"nrr_gain_at_risk .* MISSED \(value\)", printed)
    assert re.search(r"over_cap .* MISSED \(safety, not measured\)", printed)


def test_a_missed_criterion_ends_with_1_and_is_named(
    experiment: ArtifactStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    complete(experiment, "risk", {"auc": {"value": 0.7799}, "ece": {"value": 0.02}}, tmp_path)
    complete(experiment, "accept", {"auc": {"value": 0.8}, "lift": {"value": 3.0}}, tmp_path)
    assert verdict.main(["--experiment", "tried"]) == 1
    printed = capsys.readouterr().out
    assert "1 of 3 gating criteria are missed" in printed
    assert "risk.auc" in printed
    assert "have not run" not in printed


def test_the_limit_itself_is_judged_by_the_operator(
    experiment: ArtifactStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    complete(experiment, "risk", {"auc": {"value": 0.78}, "ece": {"value": 0.05}}, tmp_path)
    assert verdict.main(["--experiment", "tried", "--json"]) == 1
    rows = read(capsys)
    assert rows["risk", "auc"]["passed"] is True
    assert rows["risk", "ece"]["passed"] is False


def test_a_stage_that_has_not_run_fails_without_a_value(
    experiment: ArtifactStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    complete(experiment, "risk", {"auc": {"value": 0.85}, "ece": {"value": 0.02}}, tmp_path)
    assert verdict.main(["--experiment", "tried", "--json"]) == 1
    row = read(capsys)["accept", "auc"]
    assert (row["value"], row["passed"]) == (None, False)
    assert verdict.main(["--experiment", "tried"]) == 1
    printed = capsys.readouterr().out
    assert "not run" in printed
    assert "make run EXPERIMENT=tried" in printed


def test_a_metric_that_a_stage_did_not_report_fails(
    experiment: ArtifactStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    complete(experiment, "risk", {"auc": {"value": 0.85}}, tmp_path)
    verdict.main(["--experiment", "tried", "--json"])
    row = read(capsys)["risk", "ece"]
    assert (row["value"], row["passed"]) == (None, False)


def test_later_stages_are_listed_and_decide_nothing(
    experiment: ArtifactStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    complete(experiment, "risk", {"auc": {"value": 0.85}, "ece": {"value": 0.02}}, tmp_path)
    complete(experiment, "accept", {"auc": {"value": 0.8}, "lift": {"value": 3.0}}, tmp_path)
    assert verdict.main(["--experiment", "tried"]) == 0
    printed = capsys.readouterr().out
    assert "accuracy" not in printed
    assert re.search(r"^Later.* rm$", printed, flags=re.MULTILINE)
    assert verdict.main(["--experiment", "tried", "--all"]) == 0
    assert re.search(r"rm .* accuracy .* later", capsys.readouterr().out)
    assert verdict.main(["--experiment", "tried", "--json", "--all"]) == 0
    assert read(capsys)["rm", "accuracy"]["passed"] is False


def test_a_threshold_that_changed_is_judged_without_a_run(
    experiment: ArtifactStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    complete(experiment, "risk", {"auc": {"value": 0.85}, "ece": {"value": 0.02}}, tmp_path)
    complete(experiment, "accept", {"auc": {"value": 0.8}, "lift": {"value": 3.0}}, tmp_path)
    assert verdict.main(["--experiment", "tried"]) == 0
    path = config.CONFIGS / "experiment_tried.yaml"
    path.write_text(EXPERIMENT.replace("0.78", "0.9"))
    assert verdict.main(["--experiment", "tried"]) == 1


def test_bad_input_is_one_line_and_2(experiment: ArtifactStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert verdict.main(["--experiment", "no_such"]) == 2
    error = capsys.readouterr().err
    assert "no_such" in error
    assert len(error.splitlines()) == 1


def test_a_criterion_that_cannot_be_meant_names_file_and_key(
    experiment: ArtifactStore, capsys: pytest.CaptureFixture[str]
) -> None:
    path = config.CONFIGS / "experiment_tried.yaml"
    path.write_text(EXPERIMENT.replace("{below: 0.05}", "{below: 0.05, above: 0.1}"))
    assert verdict.main(["--experiment", "tried"]) == 2
    assert "criteria.risk.ece" in capsys.readouterr().err


def test_damaged_metrics_are_refused(
    experiment: ArtifactStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    complete(experiment, "risk", {"auc": {"value": 0.85}, "ece": {"value": 0.02}}, tmp_path)
    (file,) = (tmp_path / "store" / "tried" / "risk" / ("f" * 32) / "files").iterdir()
    file.chmod(0o644)
    file.write_bytes(file.read_bytes().replace(b"0.85", b"0.95"))
    assert verdict.main(["--experiment", "tried"]) == 2
    assert "damaged" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["-m", "eval.verdict"], [str(PROJECT / "eval" / "verdict.py")]])
def test_both_commands_run_from_anywhere(command: list[str], tmp_path: Path) -> None:
    """As a module and as a file: the playbook names eval's scripts by their path."""
    ended = subprocess.run(
        [sys.executable, *command, "--experiment", "exp_001_mvp", "--json"],
        cwd=tmp_path,
        env={**os.environ, "RETAIN_STORE": str(tmp_path / "empty")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1, ended.stderr
    rows = json.loads(ended.stdout)["criteria"]
    assert {"risk", "accept"} <= {row["stage"] for row in rows}
    assert not any(row["passed"] for row in rows)


def test_what_the_release_judged_after_its_guard_counts(
    experiment: ArtifactStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As long as the release is made of the artifact that is current."""
    (config.CONFIGS / "experiment_tried.yaml").write_text(
        "tag: tried\ncriteria: {messages: {coverage: {at_least: 1.0}}}\nexecution: {time_limit_s: {messages: 60}}\n"
    )
    complete(experiment, "messages", {"coverage": {"value": 1.0}}, tmp_path)
    manifest = experiment.manifest("messages", "f" * 32)
    assert manifest is not None
    folder = tmp_path / "out-release"
    folder.mkdir()
    verdicts = [{"stage": "messages", "metric": "coverage", "value": 0.75}]
    ArtifactWriter(folder).json("release.json", {"verdicts": verdicts})
    experiment.publish("release", "f" * 32, folder)
    experiment.set_current("release", "f" * 32)
    identity = f"{experiment.prefix('release', 'f' * 32)}/{IDENTITY}"

    experiment.store.write(identity, json.dumps({"inputs": {"messages": manifest.digest}}).encode())
    assert verdict.main(["--experiment", "tried", "--json"]) == 1
    row = read(capsys)["messages", "coverage"]
    assert (row["value"], row["passed"], row["before_drops"]) == (0.75, False, 1.0)
    assert verdict.main(["--experiment", "tried"]) == 1
    assert re.search(r"coverage +0\.7500 .* before drops 1 .* MISSED", capsys.readouterr().out)

    experiment.store.write(identity, json.dumps({"inputs": {"messages": "0" * 64}}).encode())
    assert verdict.main(["--experiment", "tried", "--json"]) == 0
    assert "before_drops" not in read(capsys)["messages", "coverage"]


def test_what_the_artifacts_warn_of_stands_below_the_table_and_in_the_json(
    experiment: ArtifactStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It decides nothing: the table may be right. Stages without criteria are heard too."""
    complete(experiment, "risk", {"auc": {"value": 1.0}, "ece": {"value": 0.0}}, tmp_path)
    complete(experiment, "accept", {"auc": {"value": 0.8}, "lift": {"value": 2.5}}, tmp_path)
    out = ArtifactWriter(tmp_path / "out-customers")
    out.json("metrics.json", {})
    out.warnings(["column 'score' alone tells 'Churn' with an AUC of 1.000"])
    experiment.publish("customers", "f" * 32, out.folder)
    experiment.set_current("customers", "f" * 32)
    assert verdict.main(["--experiment", "tried"]) == 0
    text = capsys.readouterr().out
    assert text.endswith("WARNING from customers: column 'score' alone tells 'Churn' with an AUC of 1.000\n")
    assert verdict.main(["--experiment", "tried", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["warnings"] == [
        {"stage": "customers", "warning": "column 'score' alone tells 'Churn' with an AUC of 1.000"}
    ]
