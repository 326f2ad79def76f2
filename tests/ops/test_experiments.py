"""The playbook's values stand in exp_001_mvp and never change; the other experiments say only what differs."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.config import Resolved, check_lock, experiment_path, load, validate
from flows.wanted import MAX_TABLE_BYTES
from tasks.config import Experiment
from tests.shipped import EXPERIMENTS, OPS, YAML_FILES

# Key in the YAML, value in the playbook. Copied from its text by hand: a change here needs a change there.
PLAYBOOK: dict[str, Any] = {
    "tag": "exp_001_mvp",
    "seed": 42,
    # 1. data caps
    "stages.customers.max_rows": 7043,
    "stages.campaigns.max_rows": 41188,
    "stages.dialogues.max_rows": 18440,  # the pairs it ended with; its "60k" are messages, which nothing caps
    "stages.preferences.max_rows": 100000,
    # 2. data pipeline: rows it ended with
    "criteria.customers.rows": {"at_least": 7032},
    "criteria.campaigns.rows": {"at_least": 41188},
    "criteria.dialogues.pairs": {"at_least": 18440, "gating": False},
    "criteria.preferences.pairs": {"at_least": 100000, "gating": False},
    # task 2
    "criteria.risk.auc": {"at_least": 0.78},
    "criteria.risk.ece": {"below": 0.05},
    "criteria.accept.auc": {"at_least": 0.70},
    "criteria.accept.ece": {"below": 0.05},
    # task 3
    "stages.decision.offers.levels": [0, 5, 10, 20],
    "stages.decision.baselines": ["threshold", "thompson_sampling", "uplift_tree"],
    "stages.decision.threshold_offer": 10,
    "stages.release.decision.rule": "threshold",
    "criteria.decision.nrr_gain": {"at_least": 0.03, "gating": False, "kind": "value"},
    "criteria.decision.nrr_gain_at_risk": {"at_least": 0.03, "kind": "value"},
    "criteria.decision.offer_cost_change": {"at_most": -0.05, "kind": "value"},
    "criteria.decision.violations_executed": {"at_most": 0.0, "kind": "safety"},
    "criteria.decision.over_cap": {"below": 0.01, "kind": "safety"},
    # task 4a
    "stages.base.model": "facebook/opt-350m",
    "stages.sft.lora.r": 16,
    "stages.sft.lora.alpha": 32,
    "stages.sft.bits": 8,
    "stages.sft.max_steps": 2000,
    "criteria.sft.training_loss": {"below": 2.5, "kind": "value"},
    # task 4b
    "stages.rm.bits": 8,
    "stages.rm.max_steps": 1000,
    "criteria.rm.auc": {"at_least": 0.70, "kind": "value"},
    "criteria.rm.accuracy": {"at_least": 0.65, "kind": "value"},
    # task 4c
    "stages.ppo_text.kl.target": 0.15,
    "stages.ppo_text.rewards.rm": 1.0,
    "stages.ppo_text.rewards.safety": 2.0,
    "stages.ppo_text.rewards.brevity": 0.5,
    "stages.ppo_text.max_tokens": 180,
    "stages.ppo_text.iterations": 200,
    "criteria.text_eval.win_rate_gain": {"at_least": 0.08, "kind": "value"},
    "criteria.text_eval.win_rate_gain_low": {"above": 0.0, "kind": "value"},
    "criteria.text_eval.unsafe": {"below": 0.01, "kind": "safety"},
    "criteria.text_eval.tokens": {"at_most": 162, "kind": "value"},
    # cost guardrails and the table of estimates
    "costs.budget_usd": 100,
    "costs.scope": "exp_001_mvp",
    "costs.machines.gpu.type": "g2-standard-4",
    "costs.machines.gpu.gpu": "nvidia-l4",
    "costs.machines.gpu.preemptible": True,
    # tasks 6 and 7: alerts and canary
    "monitoring.error_rate.limit": 0.01,
    "monitoring.latency_p95.limit_ms": 500,
    "monitoring.unsafe_rate.limit": 0.005,
    "monitoring.nrr_proxy_drop.limit": 0.03,
    "canary.percent": 5,
    "canary.watch_hours": 24,
    "canary.rollback_after_min": 10,
    "canary.rollback_forces_baseline": True,
    "canary.rollback_pages": True,
}

ESTIMATES = {
    "Risk + Accept Training": 5,
    "SFT Training": 30,
    "RM Training": 15,
    "PPO Text Training": 30,
    "PPO Decision Training": 10,
}


@pytest.fixture(scope="module")
def mvp() -> Resolved:
    return load(experiment_path("exp_001_mvp"))


def at(data: Any, key: str) -> Any:
    for part in key.split("."):
        data = data[part]
    return data


@pytest.mark.parametrize(("key", "value"), PLAYBOOK.items())
def test_the_playbooks_value_stands(mvp: Resolved, key: str, value: Any) -> None:
    assert at(mvp.data, key) == value


def test_the_playbooks_texts_are_read(mvp: Resolved) -> None:
    stages = mvp.data["stages"]
    assert {file["dataset"] for file in stages["dialogues"]["files"]} == {"OASST1"}
    assert {file["dataset"] for file in stages["preferences"]["files"]} == {"SHP-2", "HH-RLHF"}


def test_the_playbooks_estimates_stand(mvp: Resolved) -> None:
    components = mvp.data["costs"]["components"]
    assert {c["name"]: c["estimate_usd"] for c in components} == ESTIMATES
    assert sum(ESTIMATES.values()) == 90


def test_exp_001_mvp_is_locked_and_refuses_synthetic_data(mvp: Resolved) -> None:
    assert mvp.locked
    assert mvp.data["synthetic_data"] == "refuse"
    check_lock(mvp)


def test_every_experiment_is_in_the_table_of_the_readme() -> None:
    text, _ = (OPS / "README.md").read_text(encoding="utf-8").split("\n## What a run prints\n")
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == set(EXPERIMENTS)


def test_every_file_that_git_knows_is_looked_at() -> None:
    listed = subprocess.run(["git", "ls-files", "*.yaml"], cwd=OPS, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    assert {OPS / name for name in listed.stdout.split()} == set(YAML_FILES)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_is_valid(name: str) -> None:
    experiment = validate(load(experiment_path(name)), Experiment)
    assert experiment.tag == name


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name != "exp_001_mvp"])
def test_the_others_say_only_what_differs(name: str) -> None:
    path: Path = experiment_path(name)
    stated = yaml.safe_load(path.read_text())
    base = stated.pop("extends")
    assert base == {"retrain": "local", "smollm2": "local", "smollm2_gpu": "smollm2"}.get(name, "exp_001_mvp")
    assert list(_repeated(stated, load(experiment_path(base)).data)) == []


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name != "exp_001_mvp"])
def test_the_others_spend_from_ledgers_of_their_own(name: str) -> None:
    assert load(experiment_path(name)).data["costs"]["scope"] == {"retrain": "retrain/{month}"}.get(name, name)


def test_a_retrain_takes_tables_that_have_grown_and_no_made_up_ones() -> None:
    """What `local` caps is all of the published tables; what it asks for are lower limits."""
    experiment = validate(load(experiment_path("retrain")), Experiment)
    assert experiment.synthetic_data == "refuse"
    for name in ("customers", "campaigns"):
        assert getattr(experiment.stages, name).max_rows * 10 > MAX_TABLE_BYTES  # no row takes less than 10 bytes
        assert [criterion.op for criterion in experiment.criteria[name].values()] == [">="]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_test_part_is_opened_by_the_locked_experiment_alone(name: str) -> None:
    """Whatever is tried out is judged on validation customers."""
    stages = load(experiment_path(name)).data["stages"]
    assert (stages["decision"]["evaluation"]["part"] == "test") == (name == "exp_001_mvp")


def test_what_the_decision_is_judged_by_was_fixed_before_it_was_trained(mvp: Resolved) -> None:
    decision = mvp.data["stages"]["decision"]
    assert decision["evaluation"]["at_risk_from"] == 0.25
    assert decision["evaluation"]["cost"] <= 1 + mvp.data["criteria"]["decision"]["offer_cost_change"]["at_most"]
    assert decision["budget"] in decision["evaluation"]["budgets"]
    assert decision["seeds"] >= 5
    assert mvp.data["criteria"]["decision"]["lift_gain"] == {"at_least": 0.12, "kind": "value"}
    assert mvp.data["criteria"]["decision"]["lift_gain_low"] == {"above": 0.05, "kind": "value"}
    assert mvp.data["criteria"]["decision"]["nrr_gain_at_risk_low"] == {"above": 0.0, "kind": "value"}
    assert mvp.data["criteria"]["decision"]["attempted_overspend"] == {"at_most": 0.01, "kind": "safety"}


def test_only_promises_are_criteria_of_safety(mvp: Resolved) -> None:
    kinds = {
        (stage, metric): stated["kind"]
        for stage, criteria in mvp.data["criteria"].items()
        for metric, stated in criteria.items()
        if "kind" in stated
    }
    assert {criterion for criterion, kind in kinds.items() if kind == "safety"} == {
        ("decision", "attempted_overspend"),
        ("decision", "violations_executed"),
        ("decision", "over_cap"),
        ("text_eval", "unsafe"),
        ("text_eval", "unsafe_judged"),
    }


@pytest.mark.parametrize("name", ["local", "chaos"])
def test_criteria_data_and_split_are_those_of_the_locked_experiment(name: str, mvp: Resolved) -> None:
    other = load(experiment_path(name)).data
    assert other["criteria"] == mvp.data["criteria"]
    assert other["seed"] == mvp.data["seed"]
    for stage in ("customers", "campaigns"):
        assert other["stages"][stage] == mvp.data["stages"][stage]


def _repeated(stated: Any, base: Any, key: str = "") -> list[str]:
    """Keys whose value is what the extended experiment says already."""
    if isinstance(stated, dict) and isinstance(base, dict):
        return [
            found
            for name, value in stated.items()
            if name in base
            for found in _repeated(value, base[name], f"{key}.{name}" if key else name)
        ]
    return [key] if stated == base else []
