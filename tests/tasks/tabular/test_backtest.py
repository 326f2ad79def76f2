from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from engine.errors import DataError
from engine.stage import Metrics, Workspace
from tasks.config import BacktestConfig
from tasks.tabular import backtest, rows

CONFIG = BacktestConfig.model_validate(
    {
        "booster": {
            "max_depth": 2,
            "learning_rate": 0.2,
            "subsample": 0.8,
            "colsample_bytree": 0.8,
            "min_child_weight": 1.0,
            "reg_lambda": 1.0,
            "rounds": 15,
        },
        "first": 0.6,
        "every": 500,
        "window": 1000,
        "folds": 2,
        "bootstrap": 100,
        "ece_bins": 15,
        "chance_draws": 200,
    }
)

Tested = tuple[Path, Metrics]


def written(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def tested(
    tables: dict[str, Path], workspace: Callable[..., Workspace], tmp_path_factory: pytest.TempPathFactory
) -> Tested:
    folder = tmp_path_factory.mktemp("backtest")
    return folder, backtest.run(CONFIG, tables, workspace(folder))


def scores(folder: Path) -> Any:
    return pq.read_table(folder / "evidence/predictions.parquet").to_pandas()


def drifted(tables: dict[str, Path], folder: Path, workspace: Callable[..., Workspace]) -> dict[str, Path]:
    """A table whose signal turns round at two thirds of the calls."""
    table = pq.read_table(tables["campaigns"] / "data.parquet").to_pandas()
    rng = np.random.default_rng(1)
    cellular = rng.random(len(table)) < 0.5
    late = np.arange(len(table)) >= 2 * len(table) // 3
    yes = rng.random(len(table)) < np.where(cellular != late, 0.6, 0.1)
    table["contact"] = np.where(cellular, "cellular", "telephone")
    table["y"] = np.where(yes, "yes", "no")
    inputs = workspace(folder)
    inputs.out.parquet("data.parquet", table)
    inputs.out.bytes("schema.json", (tables["campaigns"] / "schema.json").read_bytes())
    return {"campaigns": folder}


def test_every_later_call_is_scored_once_by_each_schedule(tested: Tested, tables: dict[str, Path]) -> None:
    folder, metrics = tested
    found, table = scores(folder), rows.read(tables["campaigns"])
    first = int(0.6 * len(table.y))
    assert found.row.tolist() == table.columns["row"][first:].tolist()
    assert metrics["rows"]["value"] == len(found)
    assert metrics["retrains"]["value"] == int(np.ceil(len(found) / 500))
    for schedule in backtest.SCHEDULES:
        assert found[f"score_{schedule}"].between(0, 1, inclusive="neither").all()
    # The first block of "all" and "once" is one model's; after it, they part.
    assert found.score_all[:500].tolist() == found.score_once[:500].tolist()
    assert (found.score_all[500:] != found.score_once[500:]).mean() > 0.9


def test_metrics_are_pooled_over_the_scored_calls(tested: Tested) -> None:
    folder, metrics = tested
    found = scores(folder)
    for name, schedule in (("auc", "window"), ("auc_all", "all"), ("auc_once", "once")):
        assert metrics[name]["value"] == pytest.approx(roc_auc_score(found.y, found[f"score_{schedule}"]))
    table = pq.read_table(folder / "evidence/schedules.parquet").to_pylist()
    assert [(row["schedule"], row["trained"]) for row in table] == [("window", 3), ("all", 3), ("once", 1)]
    assert table[0]["auc"] == metrics["auc"]["value"]


def test_no_call_is_scored_by_a_model_that_knew_its_future(
    tested: Tested, tables: dict[str, Path], tmp_path: Path, workspace: Callable[..., Workspace]
) -> None:
    table = pq.read_table(tables["campaigns"] / "data.parquet").to_pandas()
    first = int(0.6 * len(table))
    later = np.arange(len(table)) >= first + 500
    table.loc[later, "y"] = table.y[later].map({"yes": "no", "no": "yes"})
    inputs = workspace(tmp_path / "campaigns")
    inputs.out.parquet("data.parquet", table)
    inputs.out.bytes("schema.json", (tables["campaigns"] / "schema.json").read_bytes())
    backtest.run(CONFIG, {"campaigns": tmp_path / "campaigns"}, workspace(tmp_path / "out"))
    before, after = scores(tested[0]), scores(tmp_path / "out")
    for schedule in backtest.SCHEDULES:
        # The first two blocks are scored by models of the calls before them, all of which are unchanged.
        assert before[f"score_{schedule}"][:1000].tolist() == after[f"score_{schedule}"][:1000].tolist()
    assert before.score_all[1000:].tolist() != after.score_all[1000:].tolist()


def test_when_the_world_turns_round_retraining_follows(
    tables: dict[str, Path], tmp_path: Path, workspace: Callable[..., Workspace]
) -> None:
    inputs = drifted(tables, tmp_path / "campaigns", workspace)
    metrics = backtest.run(CONFIG.model_copy(update={"every": 100}), inputs, workspace(tmp_path / "out"))
    assert metrics["auc_once"]["value"] < 0.5
    assert metrics["auc"]["value"] > metrics["auc_once"]["value"] + 0.1
    assert metrics["ece"]["value"] < metrics["ece_once"]["value"]


def answers(y: list[bool], tables: dict[str, Path], folder: Path, workspace: Callable[..., Workspace]) -> Any:
    """The table of calls with other answers."""
    table = pq.read_table(tables["campaigns"] / "data.parquet").to_pandas()
    table["y"] = np.where(y, "yes", "no")
    inputs = workspace(folder)
    inputs.out.parquet("data.parquet", table)
    inputs.out.bytes("schema.json", (tables["campaigns"] / "schema.json").read_bytes())
    return {"campaigns": folder}


@pytest.mark.parametrize(
    ("yes", "said"),
    [
        # 3,000 calls, of which the last 1,200 are scored
        (lambda n: n < 900, r"its last 1200 calls, to be scored, are of one 'y'\. The table has to be in date order"),
        (lambda n: n >= 2500, r"calls 0 to 1799, to be learnt from, hold 0 of 'yes' and 1800 of 'no' in 'y'"),
        (lambda n: (n == 7) | (n >= 1850), r"calls 0 to 1799, to be learnt from, hold 1 of 'yes' and 1799 of 'no'"),
        (lambda n: (n % 2 == 0) & ((n < 700) | (n > 2900)), r"calls 800 to 1799, .* hold 0 of 'yes' and 1000 of 'no'"),
    ],
)
def test_calls_of_one_class_are_an_error_before_training(
    yes: Callable[[Any], Any],
    said: str,
    tables: dict[str, Path],
    tmp_path: Path,
    workspace: Callable[..., Workspace],
    checkpoints: Callable[..., Any],
) -> None:
    kept = checkpoints()
    inputs = answers(yes(np.arange(3000)), tables, tmp_path / "campaigns", workspace)
    with pytest.raises(DataError, match=said):
        backtest.run(CONFIG, inputs, workspace(tmp_path / "out", kept))
    assert kept.saves == 0


def test_one_block_is_enough(tables: dict[str, Path], tmp_path: Path, workspace: Callable[..., Workspace]) -> None:
    config = CONFIG.model_copy(update={"every": 5000})
    metrics = backtest.run(config, tables, workspace(tmp_path))
    assert metrics["retrains"]["value"] == 1
    assert metrics["auc_all"]["value"] == metrics["auc_once"]["value"]
