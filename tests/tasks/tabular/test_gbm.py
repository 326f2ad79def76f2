from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from engine.finished import Finished
from engine.stage import Workspace
from tasks.config import RiskConfig
from tasks.tabular import gbm

CONFIG = RiskConfig.model_validate(
    {
        "booster": {
            "max_depth": 2,
            "learning_rate": 0.2,
            "subsample": 0.8,
            "colsample_bytree": 0.8,
            "min_child_weight": 1.0,
            "reg_lambda": 1.0,
            "max_rounds": 40,
            "early_stopping_rounds": 5,
        },
        "folds": 4,
        "stop_fraction": 0.1,
        "bootstrap": 100,
        "ece_bins": 15,
        "chance_draws": 200,
    }
)


@pytest.fixture(scope="module")
def learnable() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(800, 4)).astype(np.float32)
    y = (rng.random(800) < 1 / (1 + np.exp(-2.0 * features[:, 0]))).astype(np.float64)
    return features, y


def crossed(learnable: tuple[np.ndarray, np.ndarray], workspace: Workspace) -> gbm.CrossFit:
    finished = Finished.resume(workspace, CONFIG.folds)
    return gbm.cross_fit("risk", *learnable, CONFIG, workspace, finished)


def test_folds_are_even_in_size_and_in_classes() -> None:
    y = np.repeat([0.0, 1.0], [730, 70])
    fold = gbm.stratified_folds(y, 5, np.random.default_rng(1))
    assert np.bincount(fold).tolist() == [160] * 5
    assert np.bincount(fold[y == 1]).tolist() == [14] * 5


def test_out_of_fold_margins_know_the_signal(
    tmp_path: Path, learnable: tuple[np.ndarray, np.ndarray], workspace: Callable[..., Workspace]
) -> None:
    found = crossed(learnable, workspace(tmp_path))
    right = (found.margin > 0) == (learnable[1] == 1)
    assert right.mean() > 0.7
    assert len(found.rounds) == 4
    assert set(found.fold) == {0, 1, 2, 3}


def test_noise_gives_margins_without_skill(tmp_path: Path, workspace: Callable[..., Workspace]) -> None:
    rng = np.random.default_rng(2)
    features = rng.normal(size=(1500, 6)).astype(np.float32)
    y = (rng.random(1500) < 0.3).astype(np.float64)
    margin = crossed((features, y), workspace(tmp_path)).margin
    # In-sample margins would tell the classes apart by far.
    assert abs(margin[y == 1].mean() - margin[y == 0].mean()) < 0.05


def test_margins_of_a_stopped_booster_are_those_of_its_best_round(learnable: tuple[np.ndarray, np.ndarray]) -> None:
    features, y = learnable
    stop = np.arange(len(y)) % 10 == 0
    params = gbm.parameters(CONFIG.booster, 1, 1)
    stopped = gbm._stopped(features, y, stop, params, CONFIG.booster)
    assert stopped.num_boosted_rounds() > stopped.best_iteration + 1
    best = gbm.fit(features[~stop], y[~stop], params, stopped.best_iteration + 1)
    np.testing.assert_array_equal(gbm.margins(stopped, features), gbm.margins(best, features))


def test_missing_numbers_are_learnt_from() -> None:
    rng = np.random.default_rng(3)
    features = rng.normal(size=(600, 1)).astype(np.float32)
    y = (rng.random(600) < 0.5).astype(np.float64)
    features[y == 1, 0] = np.nan
    margin = gbm.margins(gbm.fit(features, y, gbm.parameters(CONFIG.booster, 1, 1), 20), features)
    assert margin[y == 1].min() > margin[y == 0].max()


STUB = """
import sys, types
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "xgboost":
            {raises}
sys.meta_path.insert(0, Finder())
import engine.checkpoint, tasks.tabular.calibration, tasks.tabular.rows  # which may look at the platform, too
sys.platform = {platform!r}
from engine.errors import RetainError
try:
    import tasks.tabular.risk
except RetainError as error:
    print(error, end="")
"""


LIKELY = """
XGBoost Library (libxgboost.dylib) could not be loaded.
Likely causes:
  * OpenMP runtime is not installed
    - libomp.dylib for Mac OSX
    - libgomp.so for Linux and other UNIX-like OSes

Error message(s): """


@pytest.mark.parametrize(
    ("raises", "platform", "said"),
    [
        # XGBoostError is a ValueError; its text is what the library says on a Mac without libomp.
        (
            f"raise ValueError({LIKELY + 'Library not loaded: @rpath/libomp.dylib'!r})",
            "darwin",
            "XGBoost can't load its OpenMP runtime (Library not loaded: @rpath/libomp.dylib): "
            "`brew install libomp`, then run this again",
        ),
        # Other causes: the library guesses the same, and there is nothing to install.
        (
            f"raise ValueError({LIKELY + 'libxgboost.so: file too short'!r})",
            "linux",
            "XGBoost is installed, but can't be imported (ValueError: libxgboost.so: file too short)",
        ),
        (
            "raise AttributeError(\"'NoneType' object has no attribute 'replace'\")",  # PYTHONOPTIMIZE=2
            "linux",
            "XGBoost is installed, but can't be imported (AttributeError: 'NoneType' object has no",
        ),
        ("raise OSError()", "linux", "XGBoost is installed, but can't be imported (OSError: )"),
        (
            "raise OSError('libgomp.so.1: cannot open shared object file')",
            "linux",
            "XGBoost can't load its OpenMP runtime (libgomp.so.1: cannot open shared object file): "
            "`apt-get install libgomp1`, then run this again",
        ),
        ("raise ModuleNotFoundError('no xgboost')", "linux", "XGBoost is not installed: "),
    ],
)
def test_an_xgboost_that_does_not_load_is_one_line(raises: str, platform: str, said: str) -> None:
    code = STUB.format(raises=raises, platform=platform)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(said)
    assert "\n" not in done.stdout
