"""One calibrated model of one table: fitted, written, measured. The body of `risk` and `accept`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.finished import Finished
from retain.features import Featurizer
from tasks.leakage import TOO_GOOD
from tasks.tabular import gbm, measures, streams
from tasks.tabular.calibration import Calibration, Floats, isotonic, reliability
from tasks.tabular.rows import Rows, groups

if TYPE_CHECKING:
    from engine.stage import Metrics, Workspace
    from tasks.config import RiskConfig

# Below this an interval of a group's AUC says nothing.
LEAST_OF_EACH_CLASS = 10


@dataclass(frozen=True)
class Model:
    """`margin` and `score` (n,) of every row: out of fold (`fold` 0..k-1) in the training part, of the final booster
    (`fold` -1) elsewhere."""

    featurizer: Featurizer
    booster: bytes
    calibration: Calibration
    margin: NDArray[np.float32]
    score: Floats
    fold: NDArray[np.int64]
    rounds: int


def fit(
    name: str, rows: Rows, featurizer: Featurizer, config: RiskConfig, workspace: Workspace, finished: Finished
) -> Model:
    features, train = featurizer.transform(rows.columns), rows.train()
    crossed = gbm.cross_fit(name, features[train], rows.y[train], config, workspace, finished)
    calibration = isotonic(crossed.margin, rows.y[train])
    rounds = max(1, round(float(np.mean(crossed.rounds))))
    params = gbm.parameters(config.booster, workspace.seed, workspace.threads)
    booster = gbm.fit(features[train], rows.y[train], params, rounds)
    margin = np.empty(len(rows.y), dtype=np.float32)
    fold = np.full(len(rows.y), -1, dtype=np.int64)
    margin[train], fold[train] = crossed.margin, crossed.fold
    margin[~train] = gbm.margins(booster, features[~train])
    raw = bytes(booster.save_raw("json"))
    return Model(featurizer, raw, calibration, margin, calibration(margin), fold, rounds)


def write(model: Model, workspace: Workspace, folder: str = "") -> None:
    """The three files that make a scorer."""
    workspace.out.bytes(f"{folder}model.json", model.booster)
    workspace.out.json(f"{folder}calibration.json", model.calibration.to_json())
    workspace.out.json(f"{folder}featurizer.json", model.featurizer.to_json())


def evaluate(model: Model, rows: Rows, config: RiskConfig, workspace: Workspace) -> Metrics:
    """Metrics on the test part; writes evidence/predictions.parquet, evidence/groups.parquet and curves.parquet."""
    rng = np.random.default_rng([workspace.seed, streams.INTERVALS])
    test = np.asarray(rows.part == "test")
    y, score = rows.y[test], model.score[test]
    metrics: Metrics = measures.measure(y, score, config.ece_bins, config.bootstrap, config.chance_draws, rng)
    metrics["rounds"] = {"value": float(model.rounds)}
    predictions = {
        "row": rows.columns["row"],
        "id": rows.ids,
        "split": rows.part,
        "fold": model.fold,
        "y": rows.y.astype(np.int64),
        "margin": model.margin,
        "score": model.score,
    }
    workspace.out.parquet("evidence/predictions.parquet", predictions)
    workspace.out.parquet("evidence/groups.parquet", _by_group(model, rows, test, config, rng))
    workspace.out.parquet("curves.parquet", _curves(model, y, score, config.ece_bins))
    workspace.out.warnings(_too_good(metrics, rows))
    return metrics


def _too_good(metrics: Metrics, rows: Rows) -> list[str]:
    """Columns that tell the outcome together, where none does alone."""
    auc = metrics.get("auc", {}).get("value", 0.0)
    if auc <= TOO_GOOD:
        return []
    return [
        f"an AUC of {auc:.3f} is too good to be true. Columns that are known only after the outcome tell "
        f"{rows.spec.target.column!r}: write `leak: true` for them"
    ]


def _by_group(
    model: Model, rows: Rows, test: NDArray[np.bool_], config: RiskConfig, rng: np.random.Generator
) -> dict[str, list[Any]]:
    table: dict[str, list[Any]] = {name: [] for name in ("column", "value", "rows", "positive_rate", "mean_score")}
    parts = ("auc", "auc_low", "auc_high", "ece", "ece_low", "ece_high", "ece_chance")
    table |= {name: [] for name in parts}
    for (column, value), member in groups(rows).items():
        y, score = rows.y[test & member], model.score[test & member]
        few = min(y.sum(), (1 - y).sum()) < LEAST_OF_EACH_CLASS
        found: Metrics = (
            {} if few else measures.measure(y, score, config.ece_bins, config.bootstrap, config.chance_draws, rng)
        )
        table["column"].append(column)
        table["value"].append(value)
        table["rows"].append(len(y))
        table["positive_rate"].append(float(y.mean()) if len(y) else None)
        table["mean_score"].append(float(score.mean()) if len(y) else None)
        for metric in ("auc", "ece"):
            low, high = found.get(metric, {}).get("ci", (None, None))
            table[metric].append(found.get(metric, {}).get("value"))
            table[f"{metric}_low"].append(low)
            table[f"{metric}_high"].append(high)
        table["ece_chance"].append(found.get("ece", {}).get("chance"))
    return table


def _curves(model: Model, y: Floats, score: Floats, bins: int) -> dict[str, NDArray[Any]]:
    bars = reliability(y, score, bins)
    lines = {
        "reliability": (bars["score"], bars["rate"], bars["low"], bars["high"]),
        "roc": measures.roc(y, score),
        "precision_recall": measures.precision_recall(y, score),
        "calibration": (model.calibration.margin, model.calibration.score),
    }
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in ("curve", "x", "y", "low", "high", "group")}
    for curve, values in lines.items():
        size = len(values[0])
        none = np.full(size, np.nan)
        x, height, low, high = values if len(values) == 4 else (*values, none, none)
        group = "train" if curve == "calibration" else "test"
        row = (np.full(size, curve, object), x, height, low, high, np.full(size, group, object))
        for name, array in zip(parts, row):
            parts[name].append(array)
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}
