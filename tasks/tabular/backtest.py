"""`backtest`: what scheduled retraining is worth, on calls in the order in which they were made.

A random split hides that the world moves. Here every call is scored by a model that saw earlier calls only: one
trained once, one retrained every so many calls on all calls so far, one retrained on the last so many. Each model
is the mean of its folds' boosters, calibrated on their out-of-fold margins: no further fit, and with seeds the
pooled AUC varies by .005 instead of .009.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import DataError
from engine.finished import Finished
from retain.features import Featurizer
from tasks.tabular import gbm, measures, rows, streams
from tasks.tabular.calibration import Floats, isotonic

if TYPE_CHECKING:
    from engine.stage import Metrics, Workspace
    from tasks.config import BacktestConfig

SCHEDULES = ("window", "all", "once")


def run(config: BacktestConfig, inputs: Mapping[str, Path], workspace: Workspace) -> Metrics:
    """Metrics, each pooled over every scored call: `auc`, `ece` of retraining on the last `window` calls,
    `auc_all`, `ece_all` of retraining on all so far, `auc_once`, `ece_once` of training once."""
    table = rows.read(inputs["campaigns"])
    features = Featurizer.fit(table.spec).transform(table.columns)
    first = int(config.first * len(table.y))
    starts = list(range(first, len(table.y), config.every))
    _check_classes(table, first, starts, config)
    finished = Finished.resume(workspace, 2 * len(starts))
    scores = {name: np.empty(len(table.y) - first) for name in SCHEDULES}
    for start in starts:
        end = min(start + config.every, len(table.y))
        for name, begin in (("all", 0), ("window", max(0, start - config.window))):
            # The first model on all calls is the one that is never retrained: it scores the rest as well.
            only_once = name == "all" and start == first
            last = len(table.y) if only_once else end
            figures = partial(_figures, table.y, start, end)
            score = partial(_scores, features, table.y, begin, start, last, config, workspace)
            of_calls = np.array(finished.make(workspace, f"{name}-{start}", score, figures))
            scores[name][start - first : end - first] = of_calls[: end - start]
            if only_once:
                scores["once"] = of_calls
    y = table.y[first:]
    rng = np.random.default_rng([workspace.seed, streams.BACKTEST_INTERVALS])
    measured = {
        name: measures.measure(y, scores[name], config.ece_bins, config.bootstrap, config.chance_draws, rng)
        for name in SCHEDULES
    }
    trained = {"all": len(starts), "window": len(starts), "once": 1}
    workspace.out.parquet("evidence/schedules.parquet", _table(measured, trained))
    workspace.out.parquet(
        "evidence/predictions.parquet",
        {"row": table.columns["row"][first:], "y": y.astype(np.int64), **{f"score_{n}": scores[n] for n in SCHEDULES}},
    )
    workspace.out.parquet("curves.parquet", _curves(y, scores, config.every, first))
    metrics: Metrics = {
        metric + ("" if name == "window" else f"_{name}"): measured[name][metric]
        for name in SCHEDULES
        for metric in ("auc", "ece")
    }
    metrics["retrains"] = {"value": float(len(starts))}
    metrics["rows"] = {"value": float(len(y))}
    return metrics


def _check_classes(table: rows.Rows, first: int, starts: list[int], config: BacktestConfig) -> None:
    """DataError, before anything is trained, where one class is all there is to learn from or to measure on."""
    target, file = table.spec.target.column, table.spec.source.files[0]
    advice = "The table has to be in date order, not sorted by its target; else give more rows, or mend stages.backtest"
    if len(set(table.y[first:].tolist())) < 2:
        raise DataError(f"{file}: its last {len(table.y) - first} calls, to be scored, are of one {target!r}. {advice}")
    for start in starts:
        for begin in (0, max(0, start - config.window)):
            yes = int(table.y[begin:start].sum())
            # Two of each, so that every fold's trees see one.
            if min(yes, start - begin - yes) < 2:
                raise DataError(
                    f"{file}: calls {begin} to {start - 1}, to be learnt from, hold {yes} of "
                    f"{table.spec.target.positive!r} and {start - begin - yes} of {table.spec.target.negative!r} in "
                    f"{target!r}: at least 2 of each are needed. {advice}"
                )


def _scores(
    features: NDArray[np.float32],
    y: Floats,
    begin: int,
    start: int,
    end: int,
    config: BacktestConfig,
    workspace: Workspace,
) -> list[float]:
    """Scores of calls start..end-1 by a model of calls begin..start-1."""
    params = gbm.parameters(config.booster, workspace.seed, workspace.threads)
    margin, boosters = gbm.fixed_cross_fit(
        features[begin:start], y[begin:start], params, config.booster.rounds, config.folds, workspace.seed
    )
    ahead = np.stack([gbm.margins(booster, features[start:end]) for booster in boosters])
    scores: list[float] = isotonic(margin, y[begin:start])(ahead.mean(axis=0)).tolist()
    return scores


def _figures(y: Floats, start: int, end: int, _: list[float]) -> dict[str, float]:
    return {"calls": float(start), "yes": float(y[start:end].mean())}


def _table(measured: Mapping[str, Mapping[str, Any]], trained: Mapping[str, int]) -> dict[str, list[Any]]:
    table: dict[str, list[Any]] = {"schedule": list(SCHEDULES), "trained": [trained[name] for name in SCHEDULES]}
    for metric in measures.NAMES:
        table[metric] = [measured[name][metric]["value"] for name in SCHEDULES]
        table[f"{metric}_low"] = [measured[name][metric]["ci"][0] for name in SCHEDULES]
        table[f"{metric}_high"] = [measured[name][metric]["ci"][1] for name in SCHEDULES]
    table["ece_chance"] = [measured[name]["ece"]["chance"] for name in SCHEDULES]
    return table


def _curves(y: Floats, scores: Mapping[str, Floats], every: int, first: int) -> dict[str, list[Any]]:
    """By block of calls: the share of yes, each schedule's mean score, and its AUC where the block has both classes."""
    curves: dict[str, list[Any]] = {name: [] for name in ("curve", "x", "y", "low", "high", "group")}

    def add(curve: str, at: int, value: float, group: str) -> None:
        for name, entry in zip(curves, (curve, float(at), value, float("nan"), float("nan"), group)):
            curves[name].append(entry)

    for start in range(0, len(y), every):
        block = slice(start, start + every)
        at = first + start
        add("positive_rate", at, float(y[block].mean()), "observed")
        for name in SCHEDULES:
            score = scores[name][block]
            add("positive_rate", at, float(score.mean()), name)
            sample = measures.Sorted(y[block], score, 15).measures(np.ones((1, len(score)), dtype=np.int64))
            if not np.isnan(sample["auc"][0]):
                add("auc", at, float(sample["auc"][0]), name)
    return curves
