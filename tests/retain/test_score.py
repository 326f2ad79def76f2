"""The numpy reader against XGBoost itself, and against files that are not what they should be."""

from __future__ import annotations

import copy
import gzip
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xgboost
from hypothesis import given, settings
from hypothesis import strategies as st

from retain.features import Featurizer
from retain.score import Calibration, ModelError, Trees
from tasks.data.table import typed
from tasks.data.text import parse
from tasks.tabular.calibration import isotonic
from tests.releases import dataset

FEATURES = 6


def train(seed: int, depth: int, rounds: int, share_missing: float, rows: int = 400) -> xgboost.Booster:
    rng = np.random.default_rng(seed)
    x = rows_like(rng, rows, share_missing)
    y = (np.nan_to_num(x[:, 0]) + np.nan_to_num(x[:, 1]) * (x[:, 2] > 0) + rng.normal(size=rows) > 0.4).astype(int)
    parameters = {"objective": "binary:logistic", "max_depth": depth, "eta": 0.2, "seed": seed, "nthread": 1}
    return xgboost.train(parameters, xgboost.DMatrix(x, y), rounds)


def rows_like(rng: np.random.Generator, rows: int, share_missing: float) -> np.ndarray:
    x = rng.normal(size=(rows, FEATURES)).astype(np.float32)
    x[:, -2:] = x[:, -2:] > 0  # one-hot columns, where every threshold is hit exactly
    x[rng.random(x.shape) < share_missing] = np.nan
    return x


def raw(booster: xgboost.Booster) -> bytes:
    return bytes(booster.save_raw("json"))


@pytest.fixture(scope="module")
def booster() -> xgboost.Booster:
    return train(seed=7, depth=3, rounds=20, share_missing=0.1)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    depth=st.integers(1, 7),
    rounds=st.integers(1, 30),
    share_missing=st.sampled_from([0.0, 0.05, 0.5, 0.95]),
)
def test_margins_are_those_of_xgboost_bit_for_bit(seed: int, depth: int, rounds: int, share_missing: float) -> None:
    booster = train(seed, depth, rounds, share_missing)
    x = rows_like(np.random.default_rng(seed + 1), 300, share_missing)
    expected = booster.predict(xgboost.DMatrix(x), output_margin=True)
    trees = Trees.from_json(raw(booster))
    margins = trees.margins(x)
    assert margins.dtype == np.float32
    assert np.array_equal(margins, expected)
    assert [trees.margin(row) for row in x[:50]] == list(margins[:50])


@settings(max_examples=100)
@given(
    row=st.lists(
        st.one_of(st.just(math.nan), st.sampled_from([0.0, 1.0, -0.0]), st.floats(width=32, allow_infinity=False)),
        min_size=FEATURES,
        max_size=FEATURES,
    )
)
def test_any_row_has_the_margin_that_xgboost_gives_it(booster: xgboost.Booster, row: list[float]) -> None:
    x = np.array([row], np.float32)
    trees = Trees.from_json(raw(booster))
    expected = booster.predict(xgboost.DMatrix(x), output_margin=True)
    assert abs(float(trees.margin(x[0])) - float(expected[0])) <= 1e-6


def test_a_row_right_on_a_threshold_goes_right(booster: xgboost.Booster) -> None:
    trees = json.loads(raw(booster))["learner"]["gradient_booster"]["model"]["trees"]
    x = np.zeros((40, FEATURES), np.float32)
    for row, tree in zip(x, trees):
        row[tree["split_indices"][0]] = tree["split_conditions"][0]
    expected = booster.predict(xgboost.DMatrix(x), output_margin=True)
    assert np.array_equal(Trees.from_json(raw(booster)).margins(x), expected)


def test_blocks_of_rows_come_out_as_one(booster: xgboost.Booster, monkeypatch: pytest.MonkeyPatch) -> None:
    x = rows_like(np.random.default_rng(0), 100, 0.1)
    whole = Trees.from_json(raw(booster)).margins(x)
    monkeypatch.setattr("retain.score.BLOCK_ROWS", 7)
    assert np.array_equal(Trees.from_json(raw(booster)).margins(x), whole)


@pytest.mark.parametrize(("depth", "share_missing"), [(1, 0.0), (3, 0.1), (6, 0.4)])
def test_contributions_are_xgboost_s_path_contributions(depth: int, share_missing: float) -> None:
    booster = train(3, depth, 25, share_missing)
    x = rows_like(np.random.default_rng(4), 200, share_missing)
    expected = booster.predict(xgboost.DMatrix(x), pred_contribs=True, approx_contribs=True)
    trees = Trees.from_json(raw(booster))
    found = np.array([trees.contributions(row) for row in x])
    assert np.abs(found - expected[:, :-1]).max() <= 1e-5
    assert trees.bias == pytest.approx(float(expected[0, -1]), abs=1e-5)
    assert np.abs(found.sum(axis=1) + trees.bias - trees.margins(x)).max() <= 1e-5


def test_contributions_are_the_same_bits_whether_paths_are_kept_or_made(monkeypatch: pytest.MonkeyPatch) -> None:
    data, x = raw(train(3, 5, 40, 0.1)), rows_like(np.random.default_rng(4), 50, 0.1)
    kept = [Trees.from_json(data).contributions(row) for row in x]
    monkeypatch.setattr("retain.score.MAX_PATHS", 0)
    made = Trees.from_json(data)
    assert made._paths is None
    assert np.array_equal([made.contributions(row) for row in x], kept)


@pytest.mark.parametrize("nodes", [0, 40, 41, 200, 1 << 20])
def test_margins_are_the_same_bits_however_many_levels_are_compared_at_once(
    nodes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, x = raw(train(5, 5, 41, 0.1)), rows_like(np.random.default_rng(6), 50, 0.1)
    margins = Trees.from_json(data).margins(x)
    monkeypatch.setattr("retain.score.EARLY_NODES", nodes)
    trees = Trees.from_json(data)
    assert len(trees._early) == {0: 0, 40: 0, 41: 1, 200: 2, 1 << 20: 5}[nodes]
    assert [trees.margin(row) for row in x] == list(margins)


def test_a_tree_that_is_only_a_leaf_scores_everybody_alike() -> None:
    x = np.zeros((50, FEATURES), np.float32)
    y = np.arange(50) % 2
    booster = xgboost.train({"objective": "binary:logistic", "max_depth": 3}, xgboost.DMatrix(x, y), 3)
    trees = Trees.from_json(raw(booster))
    assert trees.depth == 0
    expected = booster.predict(xgboost.DMatrix(x), output_margin=True)
    assert np.abs(trees.margins(x) - expected).max() <= 1e-6
    assert trees.margin(x[0]) == trees.margins(x)[0]
    assert not trees.contributions(x[0]).any()


def broken(data: bytes, path: str, value: Any) -> bytes:
    """The model with one place replaced: "learner/gradient_booster/..."; digits index lists."""
    content = copy.deepcopy(json.loads(data))
    *way, last = [int(part) if part.isdigit() else part for part in path.split("/")]
    at = content
    for part in way:
        at = at[part]
    at[last] = value
    return json.dumps(content).encode()


TREE = "learner/gradient_booster/model/trees/1"


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("learner", None, "no JSON model of XGBoost"),
        ("learner/gradient_booster/name", "dart", "dart"),
        ("learner/objective/name", "reg:squarederror", "reg:squarederror"),
        ("learner/learner_model_param/num_class", "3", "gbtree with binary:logistic"),
        ("learner/learner_model_param/base_score", "[1.0E0]", "base_score"),
        ("learner/learner_model_param/base_score", "nan", "base_score"),
        ("learner/learner_model_param/base_score", "[5E-1,5E-1]", "no JSON model"),
        ("learner/learner_model_param/num_feature", "2", "outside 0..1"),
        ("learner/learner_model_param/num_feature", "9" * 5000, "no JSON model"),
        ("learner/gradient_booster/model/trees", [], "no trees"),
        ("learner/gradient_booster/model/trees", {"0": 1}, "no trees"),
        (TREE, 7, "tree 1: is no tree"),
        (f"{TREE}/left_children", [], "tree 1: has no nodes"),
        (f"{TREE}/left_children/0", 0, "a child is outside"),
        (f"{TREE}/left_children/0", 10**6, "a child is outside"),
        (f"{TREE}/left_children/0", -1, "a node has one child"),
        (f"{TREE}/left_children/0", -5, "a child is outside"),
        (f"{TREE}/left_children/1", 2, "two parents"),
        (f"{TREE}/left_children/0", 2**80, "too large"),
        (f"{TREE}/left_children/0", "1", "no number"),
        (f"{TREE}/split_indices/0", FEATURES, "outside 0..5"),
        (f"{TREE}/split_indices/0", -1, "outside 0..5"),
        (f"{TREE}/split_conditions/0", 1e300, "too large"),
        (f"{TREE}/split_conditions", [0.5], "wants a list of"),
        (f"{TREE}/split_conditions/0", None, "no number"),
        (f"{TREE}/default_left/0", 2, "default_left"),
        (f"{TREE}/sum_hessian/0", -1.0, "too large"),
        (f"{TREE}/split_type/0", 1, "categorical"),
    ],
)
def test_a_hostile_model_is_refused_in_one_line(booster: xgboost.Booster, path: str, value: Any, says: str) -> None:
    with pytest.raises(ModelError, match=r"model\.json") as error:
        Trees.from_json(broken(raw(booster), path, value))
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_chain_that_is_too_deep_is_refused(booster: xgboost.Booster) -> None:
    n = 101
    inner = range(0, n - 1, 2)
    chain = {
        "left_children": [i + 1 if i in inner else -1 for i in range(n)],
        "right_children": [i + 2 if i in inner else -1 for i in range(n)],
        "split_indices": [0] * n,
        "split_conditions": [0.0] * n,
        "default_left": [0] * n,
        "sum_hessian": [1.0] * n,
    }
    with pytest.raises(ModelError, match="deeper than 12"):
        Trees.from_json(broken(raw(booster), TREE, chain))


def test_many_deep_trees_are_refused_before_they_fill_the_memory(
    booster: xgboost.Booster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retain.score.MAX_CELLS", 100)
    with pytest.raises(ModelError, match="too many"):
        Trees.from_json(raw(booster))


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"[]", b"null", b'{"learner": NaN}', b'{"learner": {}}', b"1" * 5000],
)
def test_no_model_at_all_is_refused(data: bytes) -> None:
    with pytest.raises(ModelError, match=r"model\.json"):
        Trees.from_json(data)


def test_every_truncation_of_a_model_is_refused(booster: xgboost.Booster) -> None:
    data = raw(booster)
    for end in np.random.default_rng(1).integers(0, len(data) - 1, 50):
        with pytest.raises(ModelError):
            Trees.from_json(data[:end])


@given(
    steps=st.lists(st.tuples(st.floats(1e-6, 5), st.floats(0, 1)), min_size=1, max_size=30),
    margins=st.lists(st.floats(-40, 40), min_size=1, max_size=20),
)
def test_calibration_is_linear_interpolation(steps: list[tuple[float, float]], margins: list[float]) -> None:
    at = np.cumsum([width for width, _ in steps]) - 10
    scores = np.sort([score for _, score in steps])
    calibration = Calibration(at, scores)
    everywhere = np.concatenate((margins, at))
    expected = np.interp(everywhere, at, scores)
    assert np.array_equal(calibration(everywhere), expected)
    assert np.allclose([calibration.one(m) for m in everywhere.tolist()], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"margin": [0.0, 1.0], "score": [0.1]}, "same length"),
        ({"margin": [], "score": []}, "at least one"),
        ({"margin": [0.0, 0.0], "score": [0.1, 0.2]}, "strictly increasing"),
        ({"margin": [0.0, 1.0], "score": [0.3, 0.2]}, "never falls"),
        ({"margin": [0.0, 1.0], "score": [0.3, 1.2]}, "within 0 and 1"),
        ({"margin": [0.0, "1"], "score": [0.3, 0.4]}, "numbers"),
        ({"margin": [0.0, True], "score": [0.3, 0.4]}, "numbers"),
        ({"margin": [0.0, 1e999], "score": [0.3, 0.4]}, "Infinity"),
        ({"margin": [0.0]}, "keys margin and score"),
        ([], "keys margin and score"),
    ],
)
def test_a_broken_calibration_is_refused_in_one_line(content: Any, says: str) -> None:
    with pytest.raises(ModelError, match=r"^calibration\.json: ") as error:
        Calibration.from_json(json.dumps(content).encode())
    assert says in str(error.value)


@pytest.mark.skipif("RETAIN_DATA_DIR" not in os.environ, reason="RETAIN_DATA_DIR names no folder with the real tables")
@pytest.mark.parametrize(
    ("name", "rounds", "depth", "rows"), [("telco", 130, 3, 7_032), ("bank", 300, 4, 41_188)], ids=["telco", "bank"]
)
def test_every_real_row_scores_as_in_training(name: str, rounds: int, depth: int, rows: int) -> None:
    spec = dataset(name)
    folder = Path(os.environ["RETAIN_DATA_DIR"])
    path = next(p for file in spec.source.files for p in (folder / file, folder / f"{file}.gz") if p.exists())
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    columns, _ = typed(parse(content, spec), spec, max_rows=10**9, seed=0)
    featurizer = Featurizer.fit(spec)
    x = featurizer.transform(columns)
    y = (np.asarray(columns[spec.target.column], object) == spec.target.positive).astype(float)
    assert len(y) == rows
    parameters = {"objective": "binary:logistic", "max_depth": depth, "eta": 0.05, "subsample": 0.8, "nthread": 1}
    booster = xgboost.train(parameters, xgboost.DMatrix(x, y), rounds)
    margins = booster.predict(xgboost.DMatrix(x), output_margin=True)
    trained = isotonic(margins, y)

    trees = Trees.from_json(raw(booster))
    calibration = Calibration.from_json(json.dumps(trained.to_json()).encode())
    served = np.empty(rows, np.float32)
    names = [column.name for column in featurizer.columns]
    for i, row in enumerate(zip(*(np.asarray(columns[name]).tolist() for name in names))):
        served[i] = trees.margin(featurizer.row(dict(zip(names, row))))
    assert np.abs(served - margins).max() <= 1e-6
    assert np.array_equal(trees.margins(x), served)
    expected = trained(margins)
    assert np.mean(np.abs(calibration(served) - expected) <= 1e-5) >= 0.999
    assert np.abs([calibration.one(float(m)) for m in served] - expected).max() <= 1e-12
