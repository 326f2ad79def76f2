"""A small world: customers with a few features, drawn, and the assumptions of the experiment."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from engine.stage import Workspace
from retain.offers import Acceptance, Cap, Offers
from tasks.config import AcceptConfig, RiskConfig
from tasks.decision.simulator import Cohort, World
from tasks.tabular import accept, risk

BOOSTER: dict[str, Any] = {
    "max_depth": 2,
    "learning_rate": 0.3,
    "subsample": 0.8,
    "colsample_bytree": 0.8,
    "min_child_weight": 1.0,
    "reg_lambda": 1.0,
    "max_rounds": 15,
    "early_stopping_rounds": 5,
}
REST: dict[str, Any] = {
    "booster": BOOSTER,
    "folds": 2,
    "stop_fraction": 0.1,
    "bootstrap": 100,
    "ece_bins": 15,
    "chance_draws": 200,
}
RISK = RiskConfig.model_validate(REST)
ACCEPT = AcceptConfig.model_validate({**REST, "bridge_columns": ("age", "job", "marital", "contact", "poutcome")})

Inputs = dict[str, Path]

OFFERS = Offers((0, 5, 10, 20), 6, 1.0, "EUR")
CAP = Cap(2, 3)
WORLD = World(
    label_months=3,
    effect=(0.25, 0.55, 0.85, 1.25),
    effect_sd=0.2,
    hazard_sd=0.3,
    acceptance=Acceptance(level=-1.3, shrink=0.5, slope=1.1, unit=5.0, slope_sd=0.2, fatigue=0.4),
    dogs_level=-2.5,
    dogs_loyalty=0.5,
    dogs_rate=0.5,
    dogs_months=3,
    decay=0.6,
    tired_rate=0.05,
    answered=4,
)


def make_cohort(n: int = 120, months: int = 12, seed: int = 0, **changed: Any) -> Cohort:
    rng = np.random.default_rng(seed)
    margin = rng.normal(-1.0, 1.3, n)[:, None] - 0.05 * np.arange(months)
    parts: dict[str, Any] = {
        "ids": np.array([f"c{i}" for i in range(n)]),
        "charge": rng.uniform(20, 110, n),
        "margin": margin,
        "risk": 1 / (1 + np.exp(-margin)),
        "acceptance": rng.choice([0.05, 0.12, 0.4], n),
        "spread": rng.choice([0.5, 0.9], n),
        "features": np.column_stack((rng.integers(1, 70, n), rng.random(n))).astype(np.float32),
        "growth": np.column_stack((np.ones(n), np.zeros(n))).astype(np.float32),
        "names": ("tenure", "other"),
        "opted_out": np.zeros(n, np.bool_),
        "groups": {},
    }
    return Cohort(**(parts | changed))


@pytest.fixture(scope="session")
def cohort() -> Callable[..., Cohort]:
    return make_cohort


@pytest.fixture(scope="session")
def world() -> World:
    return WORLD


@pytest.fixture(scope="session")
def offers() -> Offers:
    return OFFERS


@pytest.fixture(scope="session")
def cap() -> Cap:
    return CAP


@pytest.fixture(scope="session")
def inputs(
    tables: dict[str, Path], workspace: Callable[..., Workspace], tmp_path_factory: pytest.TempPathFactory
) -> Inputs:
    root = tmp_path_factory.mktemp("scored")
    risk.run(RISK, tables, workspace(root / "risk"))
    accept.run(ACCEPT, tables, workspace(root / "accept"))
    for name in ("data.parquet", "schema.json"):
        (root / "customers").mkdir(exist_ok=True)
        shutil.copy(tables["customers"] / name, root / "customers" / name)
    fill_cells(root / "accept" / "bridge.json")
    return {name: root / name for name in ("customers", "risk", "accept")}


@pytest.fixture(scope="session")
def gapped(
    inputs: Inputs, workspace: Callable[..., Workspace], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Customers of whom some have no tenure, no total and no income, a column that the policy sees; and of whom some
    have no age, a protected one."""
    root = tmp_path_factory.mktemp("gapped")
    shutil.copytree(inputs["customers"], root / "customers")
    schema = json.loads((root / "customers" / "schema.json").read_text())
    for described in schema["columns"]:
        if described["name"] in ("tenure", "TotalCharges"):
            described["missing"] = 9999
    income = {"name": "income", "kind": "number", "missing": -99999}
    age = {"name": "age", "kind": "number", "missing": -1, "protected": True, "bands": [30, 60]}
    schema["columns"] += [income, age]
    (root / "customers" / "schema.json").write_text(json.dumps(schema))
    data = pq.read_table(root / "customers" / "data.parquet").to_pandas()
    rng = np.random.default_rng(0)
    data["income"] = np.where(rng.random(len(data)) < 0.3, -99999, rng.integers(1000, 9000, len(data)))
    data["age"] = np.where(rng.random(len(data)) < 0.2, -1, rng.integers(18, 90, len(data)))
    data["TotalCharges"] = data["TotalCharges"].where(rng.random(len(data)) < 0.8, 9999.0)
    data["tenure"] = data["tenure"].where(rng.random(len(data)) < 0.8, 9999)
    data.to_parquet(root / "customers" / "data.parquet")
    risk.run(RISK, {"customers": root / "customers"}, workspace(root / "risk"))
    return inputs | {name: root / name for name in ("customers", "risk")}


def fill_cells(path: Path) -> None:
    """Synthetic clients of the bank are few: a rare cell may have none."""
    bridge = json.loads(path.read_text())
    for found in bridge["cells"].values():
        found["rows"] = max(found["rows"], 1)
    path.write_text(json.dumps(bridge))
