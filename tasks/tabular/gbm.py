"""Boosted trees: cross-fitted inside the training part, then fitted once on all of it.

In each fold a seeded slice of the training rows stops the boosting; the fold left out gets its margins from those
trees. The final booster has the mean number of rounds the folds stopped at. Boosting is never continued from a
checkpoint: with subsample it does not end where an uninterrupted run does (dmlc/xgboost#10324), and a fold takes
seconds; what is kept is each finished fold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import RetainError
from engine.finished import Finished

if TYPE_CHECKING:
    from engine.stage import Workspace
    from tasks.config import FixedBooster, RiskConfig, StoppedBooster

try:
    import xgboost
except ImportError:
    raise RetainError("XGBoost is not installed: `make setup` installs what training needs") from None
except Exception as error:
    # XGBoostError, which can't be named while its own package can't be imported. It lists likely causes, whether or not
    # they are the case, and only then what the loader said.
    seen = next(iter((str(error).partition("Error message(s):")[2] or str(error)).strip().splitlines()), "")
    remedies = {"libgomp.so.1": "`apt-get install libgomp1`", "libomp.dylib": "`brew install libomp`"}
    for library, install in remedies.items():
        if library in seen:
            raise RetainError(
                f"XGBoost can't load its OpenMP runtime ({seen}): {install}, then run this again"
            ) from None
    raise RetainError(f"XGBoost is installed, but can't be imported ({type(error).__name__}: {seen})") from None

Matrix = NDArray[np.float32]
Floats = NDArray[np.float64]
SHARED = ("max_depth", "learning_rate", "subsample", "colsample_bytree", "min_child_weight", "reg_lambda")


def parameters(booster: StoppedBooster | FixedBooster, seed: int, threads: int) -> dict[str, Any]:
    """XGBoost's parameters: the booster's own, and what is the same for every model here."""
    own = {name: getattr(booster, name) for name in SHARED}
    fixed = {"objective": "binary:logistic", "eval_metric": "logloss", "tree_method": "hist", "device": "cpu"}
    return {**own, **fixed, "seed": seed, "nthread": threads}


def stratified_folds(y: Floats, folds: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """A fold in 0..folds-1 for each row; classes are spread evenly."""
    fold = np.empty(len(y), dtype=np.int64)
    for label in (0.0, 1.0):
        members = rng.permutation(np.flatnonzero(y == label))
        fold[members] = np.arange(len(members)) % folds
    return fold


def fit(features: Matrix, y: Floats, params: Mapping[str, Any], rounds: int) -> xgboost.Booster:
    return xgboost.train(dict(params), xgboost.DMatrix(features, y), num_boost_round=rounds)


def margins(booster: xgboost.Booster, features: Matrix) -> Matrix:
    """(n,) float32 log-odds, by the rounds that were best if the booster was stopped early."""
    best = getattr(booster, "best_iteration", None) if booster.attr("best_iteration") else None
    rounds = (0, 0 if best is None else best + 1)
    margin: Matrix = booster.predict(xgboost.DMatrix(features), output_margin=True, iteration_range=rounds)
    return margin


@dataclass(frozen=True)
class CrossFit:
    """Out-of-fold margins (n,) and fold (n,) of the training rows; the rounds at which each fold stopped."""

    margin: Matrix
    fold: NDArray[np.int64]
    rounds: list[int]


def cross_fit(
    name: str, features: Matrix, y: Floats, config: RiskConfig, workspace: Workspace, finished: Finished
) -> CrossFit:
    """Margins of every training row from trees that saw neither it nor the slice that stopped them.

    Each fold is a part that `finished` keeps. Raises Preempted after any of them, when asked to stop.
    """
    rng = np.random.default_rng([workspace.seed, len(y)])
    fold = stratified_folds(y, config.folds, rng)
    stop = [stratified_folds(y[fold != k], round(1 / config.stop_fraction), rng) == 0 for k in range(config.folds)]
    params = parameters(config.booster, workspace.seed, workspace.threads)
    margin = np.empty(len(y), dtype=np.float32)
    rounds = []
    for k in range(config.folds):
        left_out = fold == k
        train = partial(_fold, features, y, left_out, stop[k], params, config.booster)
        trained = finished.make(workspace, f"{name}-{k}", train, _figures)
        rounds.append(trained["rounds"])
        margin[left_out] = trained["margin"]
    return CrossFit(margin, fold, rounds)


def fixed_cross_fit(
    features: Matrix, y: Floats, params: Mapping[str, Any], rounds: int, folds: int, seed: int
) -> tuple[Matrix, list[xgboost.Booster]]:
    """Out-of-fold margins (n,) at a fixed number of rounds, and the boosters of the folds."""
    fold = stratified_folds(y, folds, np.random.default_rng([seed, len(y)]))
    margin = np.empty(len(y), dtype=np.float32)
    boosters = []
    for k in range(folds):
        boosters.append(fit(features[fold != k], y[fold != k], params, rounds))
        margin[fold == k] = margins(boosters[k], features[fold == k])
    return margin, boosters


def _fold(
    features: Matrix,
    y: Floats,
    left_out: NDArray[np.bool_],
    stop: NDArray[np.bool_],
    params: Mapping[str, Any],
    booster: StoppedBooster,
) -> dict[str, Any]:
    """What trees of the other folds say of the rows (n,) `left_out`: their log-odds, and the mean loss in nats.

    `stop`, of the other rows, marks those that stop the boosting, after `rounds`.
    """
    trees = _stopped(features[~left_out], y[~left_out], stop, params, booster)
    margin = margins(trees, features[left_out])
    loss = _logloss(margin, y[left_out])
    return {"rounds": trees.best_iteration + 1, "margin": margin.tolist(), "logloss": loss}


def _figures(trained: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(trained[name]) for name in ("rounds", "logloss")}


def _stopped(
    features: Matrix, y: Floats, stop: NDArray[np.bool_], params: Mapping[str, Any], booster: StoppedBooster
) -> xgboost.Booster:
    return xgboost.train(
        dict(params),
        xgboost.DMatrix(features[~stop], y[~stop]),
        num_boost_round=booster.max_rounds,
        evals=[(xgboost.DMatrix(features[stop], y[stop]), "stop")],
        early_stopping_rounds=booster.early_stopping_rounds,
        verbose_eval=False,
    )


def _logloss(margin: Matrix, y: Floats) -> float:
    return float(np.mean(np.logaddexp(0.0, margin.astype(np.float64)) - y * margin))
