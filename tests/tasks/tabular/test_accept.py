from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from engine.errors import DataError
from engine.stage import Metrics, Workspace
from retain.dataset import cell
from tasks.config import AcceptConfig
from tasks.tabular import accept, rows

CONFIG = AcceptConfig.model_validate(
    {
        "booster": {
            "max_depth": 2,
            "learning_rate": 0.2,
            "subsample": 0.8,
            "colsample_bytree": 0.8,
            "min_child_weight": 1.0,
            "reg_lambda": 1.0,
            "max_rounds": 30,
            "early_stopping_rounds": 5,
        },
        "folds": 2,
        "stop_fraction": 0.1,
        "bootstrap": 100,
        "ece_bins": 15,
        "chance_draws": 200,
        "bridge_columns": ("age", "job", "marital", "contact", "poutcome"),
    }
)

Trained = tuple[Path, Metrics]


def written(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def trained(
    tables: dict[str, Path], workspace: Callable[..., Workspace], tmp_path_factory: pytest.TempPathFactory
) -> Trained:
    folder = tmp_path_factory.mktemp("accept")
    return folder, accept.run(CONFIG, tables, workspace(folder))


def content(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())


def test_both_models_are_written_and_measured(trained: Trained) -> None:
    folder, metrics = trained
    names = set(written(folder))
    assert {"model.json", "bridge/model.json", "bridge/calibration.json", "bridge.json"} <= names
    assert metrics["auc"]["value"] > metrics["bridge_auc"]["value"] > 0.6
    assert {"value", "ci", "chance"} == set(metrics["bridge_ece"])


def test_no_model_sees_the_leak_and_the_bridge_sees_its_columns_only(trained: Trained) -> None:
    folder, _ = trained
    full = content(folder, "featurizer.json")["features"]
    narrow = content(folder, "bridge/featurizer.json")["features"]
    assert not [name for name in full if name.startswith("duration")]
    assert {name.split("=")[0] for name in narrow} == set(CONFIG.bridge_columns)
    # The trees themselves, not only the list of names: no split on a feature beyond those.
    for model, features in (("model.json", full), ("bridge/model.json", narrow)):
        assert content(folder, model)["learner"]["learner_model_param"]["num_feature"] == str(len(features))


def test_a_cell_is_the_mean_out_of_fold_score_of_its_training_rows(trained: Trained, tables: dict[str, Path]) -> None:
    bridge = content(trained[0], "bridge.json")
    table = rows.read(tables["campaigns"])
    assert bridge["roles"] == ["senior", "partner", "paperless"]
    assert set(bridge["cells"]) == {f"{a},{b},{c}" for a in (0, 1) for b in (0, 1) for c in (0, 1)}
    train = np.flatnonzero(table.train())
    places = [cell(table.spec, {n: table.columns[n].tolist()[i] for n in ("age", "marital", "contact")}) for i in train]
    for place, found in bridge["cells"].items():
        assert found["rows"] == places.count(place)
        assert 0 < found["acceptance"] < 1
    total = sum(found["acceptance"] * found["rows"] for found in bridge["cells"].values())
    assert total / len(train) == pytest.approx(bridge["overall"])
    # calibrated: as many yes as are predicted
    assert bridge["overall"] == pytest.approx(table.y[train].mean(), abs=0.01)


def test_an_empty_cell_has_the_overall_mean_and_no_rows(
    tables: dict[str, Path], tmp_path: Path, workspace: Callable[..., Workspace]
) -> None:
    table = pq.read_table(tables["campaigns"] / "data.parquet").to_pandas()
    table.loc[(table.age >= 60) & (table.contact == "telephone") & (table.marital != "married"), "age"] = 59
    inputs = workspace(tmp_path / "campaigns")
    inputs.out.parquet("data.parquet", table)
    inputs.out.bytes("schema.json", (tables["campaigns"] / "schema.json").read_bytes())
    accept.run(CONFIG, {"campaigns": tmp_path / "campaigns"}, workspace(tmp_path / "accept"))
    bridge = content(tmp_path / "accept", "bridge.json")
    assert bridge["cells"]["1,0,0"] == {"acceptance": bridge["overall"], "rows": 0, "sd": 0.0}
    assert bridge["cells"]["1,0,1"]["rows"] > 0


def test_campaigns_have_no_ids(trained: Trained, tables: dict[str, Path]) -> None:
    found = pq.read_table(trained[0] / "evidence/predictions.parquet")
    assert found["id"].null_count == found.num_rows == len(rows.read(tables["campaigns"]).y)


@pytest.mark.parametrize("column", ["duration", "salary", "y"])
def test_a_bridge_column_that_is_no_feature_is_named(
    column: str, tables: dict[str, Path], tmp_path: Path, workspace: Callable[..., Workspace]
) -> None:
    config = CONFIG.model_copy(update={"bridge_columns": ("age", column)})
    with pytest.raises(DataError, match=f"accept.bridge_columns: column '{column}' is no feature of bank"):
        accept.run(config, tables, workspace(tmp_path))
