"""The stage itself, on a few hundred synthetic customers: what it writes, and that interruptions change nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from engine.stage import Metrics, Workspace
from retain.policy import Policy
from tasks.config import DecisionConfig
from tasks.decision import evaluation, train

CONFIGS = Path(__file__).parents[3] / "ops" / "configs"
SMALL: dict[str, Any] = {
    "seeds": 2,
    "search": {"evaluations": 2, "years": 1, "log_years": 1},
    "ppo": {"iterations": 4, "minibatches": 2, "hidden": [8], "validate_every": 2},
    "evaluation": {
        "part": "validation",
        "years": 2,
        "bootstrap": 100,
        "budgets": [0.02],
        "worlds": {"acceptance_doubled": {"acceptance": 2.0}, "risk_shuffled": {"risk_shuffled": 1}},
    },
}


def merged(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **base,
        **{
            key: merged(base[key], value) if isinstance(value, dict) and key != "worlds" else value
            for key, value in change.items()
        },
    }


def small_config(**changes: Any) -> DecisionConfig:
    """exp_001_mvp's with little to do; `changes` are of its own keys."""
    text = (CONFIGS / "experiment_exp_001_mvp.yaml").read_text().replace("!include ", "")
    stated = yaml.safe_load(text)["stages"]["decision"]
    return DecisionConfig.model_validate_json(json.dumps(merged(merged(stated, SMALL), changes)))


@pytest.fixture(scope="module")
def config() -> DecisionConfig:
    return small_config()


@pytest.fixture(scope="module")
def whole(
    config: DecisionConfig,
    inputs: dict[str, Path],
    workspace: Callable[..., Workspace],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Metrics]:
    made = workspace(tmp_path_factory.mktemp("whole"))
    return made.out.folder, train.run(config, inputs, made)


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())


def test_the_comparison_has_every_policy_and_line(whole: tuple[Path, Metrics], config: DecisionConfig) -> None:
    found = read(whole[0], "comparison.json")
    names = [row["policy"] for row in found["rows"]]
    assert names == ["no_contact", *config.baselines, "lagrangian_ppo", "dp_on_features", "upper_bound"]
    assert found["part"] == "validation"
    best = max(config.baselines, key=lambda name: read(whole[0], "tuning.json")[name]["nrr"])
    assert found["best_baseline"] == best
    nrr = {row["policy"]: row["nrr"]["value"] for row in found["rows"]}
    assert nrr["upper_bound"] == max(nrr.values())
    assert {row["policy"] for row in found["rows"] if row["refused"] is None} == {"upper_bound"}
    for row in found["rows"][:-1]:
        assert row["executed_violations"]["value"] == row["over_cap"]["value"] == 0
        assert row["nrr"]["ci"][0] <= row["nrr"]["value"] <= row["nrr"]["ci"][1]
    searched = {name: len(of["evaluations"]) for name, of in read(whole[0], "tuning.json").items()}
    assert searched == dict.fromkeys(config.baselines, config.search.evaluations)


def test_figures_follow_from_the_evidence(whole: tuple[Path, Metrics]) -> None:
    """The comparison's can be computed again from what each policy brought of each customer, and in each year."""
    evidence = pq.read_table(whole[0] / "evidence" / "returns.parquet").to_pandas()
    rows = {row["policy"]: row for row in read(whole[0], "comparison.json")["rows"]}
    for policy, of in evidence.groupby("policy"):
        revenue = 12 * of["charge"].sum()
        assert rows[policy]["nrr"]["value"] == pytest.approx(of["net"].sum() / revenue)
        assert rows[policy]["offer_cost"]["value"] == pytest.approx(of["cost"].sum() / revenue)
        risky = of[of["risk"] >= 0.25]
        at_risk = risky["net_at_risk"].sum() / (12 * risky["charge"].sum())
        assert rows[policy]["nrr_at_risk"]["value"] == pytest.approx(at_risk)
    best = read(whole[0], "comparison.json")["best_baseline"]
    years = pq.read_table(whole[0] / "evidence" / "years.parquet").to_pandas()
    for policy, of in years.groupby("policy"):
        offered = (of["made"] + of["refused"]).sum()
        assert rows[policy]["refused"]["value"] == pytest.approx(of["refused"].sum() / max(offered, 1))
        over = (of["attempted"].dropna() / (0.03 * revenue) - 1).clip(lower=0)
        assert rows[policy]["attempted_overspend"]["value"] == pytest.approx(over.mean())
        assert (of["peak"] <= 1).all()
        assert (of["most_contacts"] <= 2).all()
    gain = rows["lagrangian_ppo"]["nrr"]["value"] / rows[best]["nrr"]["value"] - 1
    assert whole[1]["nrr_gain"]["value"] == pytest.approx(gain)


def test_decisions_are_written_down_with_their_probabilities(whole: tuple[Path, Metrics]) -> None:
    found = pq.read_table(whole[0] / "evidence" / "probabilities.parquet").to_pandas()
    shares = found[[name for name in found if name.startswith("p_")]].to_numpy()
    assert shares.sum(axis=1) == pytest.approx(1)
    assert (shares[~found["allowed"].to_numpy(), 0] == 1).all()
    assert (shares.argmax(axis=1) == found["chosen"]).all()
    assert len(found) == 12 * found["customer"].nunique()


def test_wallet_and_cap_hold_in_every_world(whole: tuple[Path, Metrics], config: DecisionConfig) -> None:
    worlds = read(whole[0], "worlds.json")
    assert [one["world"] for one in worlds] == ["as_assumed", *config.evaluation.worlds]
    for one in worlds:
        for row in one["rows"]:
            assert row["peak"] <= 1
            assert row["over_cap"] == 0


def test_what_is_served_and_its_terms(
    whole: tuple[Path, Metrics], config: DecisionConfig, inputs: dict[str, Path]
) -> None:
    policy = Policy.from_json((whole[0] / "policy.json").read_bytes())
    assert policy.actions == ("no_contact", *(f"offer_{level}" for level in config.offers.levels))
    terms = read(whole[0], "terms.json")
    charges = pq.read_table(inputs["customers"] / "data.parquet")["MonthlyCharges"].to_numpy()
    assert terms["budget"]["amount"] == pytest.approx(config.budget * 12 * charges.sum())
    assert terms["threshold"] == read(whole[0], "tuning.json")["threshold"]["setting"]["threshold"]


def test_curves_have_a_row_for_each_iteration_of_each_seed(whole: tuple[Path, Metrics], config: DecisionConfig) -> None:
    found = pq.read_table(whole[0] / "curves.parquet").to_pandas()
    assert len(found) == config.seeds * config.ppo.iterations
    assert np.isfinite(found.drop(columns="validation").to_numpy()).all()
    assert found["validation"].notna().sum() == config.seeds * 2
    for name in ("nrr", "attempted_overspend", "multiplier_offer_cost", "multiplier_contacts", "entropy", "approx_kl"):
        assert found[name].nunique() > 1 or name == "multiplier_contacts"


def test_a_log_that_never_explored_tells_nothing(whole: tuple[Path, Metrics]) -> None:
    logs = pq.read_table(whole[0] / "evidence" / "logs.parquet").to_pandas()
    alone = logs[logs["log"] == "deterministic"]
    assert (alone["pscore"] == 1).all()
    assert read(whole[0], "off_policy.json")["deterministic"]["verdict"] == "inconclusive"
    assert read(whole[0], "off_policy.json")["deterministic"]["reasons"]


def test_a_policy_is_trained_on_customers_whose_numbers_are_missing(
    gapped: dict[str, Path], workspace: Callable[..., Workspace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its file tells the service what to show it."""
    monkeypatch.setattr(evaluation, "evaluate", lambda *_: {})  # what it is worth takes longest
    config = small_config(seeds=1, ppo={"iterations": 2}, evaluation={"budgets": [0.03]})
    train.run(config, gapped, workspace(tmp_path))
    policy = Policy.from_json((tmp_path / "policy.json").read_bytes())
    assert set(policy.medians) == {"tenure", "TotalCharges", "income"}
    assert {f"{name}=missing" for name in policy.medians} <= set(policy.observed)
