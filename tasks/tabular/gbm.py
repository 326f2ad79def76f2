"""Boosted trees: cross-fitted inside the training part, then fitted once on all of it.

In each fold a seeded slice of the training rows stops the boosting; the fold left out gets its margins from those
trees. The final booster has the mean number of rounds the folds stopped at. Boosting is never continued from a
checkpoint: with subsample it does not end where an uninterrupted run does (dmlc/xgboost#10324), and a fold takes
seconds; what is kept is each finished fold.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.checkpoint import Preempted
from engine.errors import RetainError

if TYPE_CHECKING:
    from engine.stage import Workspace
    from tasks.config import FixedBooster, RiskConfig, StoppedBooster

try:
    import xgboost
except ImportError:
    raise RetainError("XGBoost is not installed: `make setup` installs what training needs") from None
except Exception as error:
    # XGBoostError, which can't be named while its own package can't be imported.
    install = "`brew install libomp`" if sys.platform == "darwin" else "`apt-get install libgomp1`"
    raise RetainError(
        f"XGBoost can't load its OpenMP runtime ({str(error).strip().splitlines()[0]}): {install}, then run this again"
    ) from None

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
    found: Matrix = booster.predict(xgboost.DMatrix(features), output_margin=True, iteration_range=rounds)
    return found


@dataclass(frozen=True)
class CrossFit:
    """Out-of-fold margins (n,) and fold (n,) of the training rows; the rounds at which each fold stopped."""

    margin: Matrix
    fold: NDArray[np.int64]
    rounds: list[int]


@dataclass
class Finished:
    """Folds that are done, by model; each is saved as it ends, and read back by whoever resumes."""

    workspace: Workspace
    total: int
    files: dict[str, bytes]

    @classmethod
    def resume(cls, workspace: Workspace, total: int) -> Finished:
        saved = workspace.checkpoints.load()
        return cls(workspace, total, dict(saved.files) if saved else {})

    def get(self, name: str) -> Floats | None:
        content = self.files.get(f"{name}.npy")
        return None if content is None else np.load(io.BytesIO(content), allow_pickle=False)

    def put(self, name: str, values: NDArray[Any], **metrics: float) -> None:
        buffer = io.BytesIO()
        np.save(buffer, values, allow_pickle=False)
        self.files[f"{name}.npy"] = buffer.getvalue()
        self.workspace.checkpoints.save(len(self.files), self.files)
        self.workspace.progress(len(self.files), self.total, **metrics)
        if self.workspace.should_stop():
            raise Preempted


def cross_fit(
    name: str, features: Matrix, y: Floats, config: RiskConfig, workspace: Workspace, finished: Finished
) -> CrossFit:
    """Margins of every training row from trees that saw neither it nor the slice that stopped them."""
    rng = np.random.default_rng([workspace.seed, len(y)])
    fold = stratified_folds(y, config.folds, rng)
    stop = [stratified_folds(y[fold != k], round(1 / config.stop_fraction), rng) == 0 for k in range(config.folds)]
    params = parameters(config.booster, workspace.seed, workspace.threads)
    margin = np.empty(len(y), dtype=np.float32)
    rounds = []
    for k in range(config.folds):
        found = finished.get(f"{name}-{k}")
        if found is None:
            booster = _stopped(features[fold != k], y[fold != k], stop[k], params, config.booster)
            out = margins(booster, features[fold == k])
            found = np.append(np.float64(booster.best_iteration + 1), out.astype(np.float64))
            finished.put(f"{name}-{k}", found, rounds=float(found[0]), logloss=_logloss(out, y[fold == k]))
        rounds.append(int(found[0]))
        margin[fold == k] = found[1:]
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
