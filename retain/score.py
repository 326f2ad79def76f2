"""Scores from files: XGBoost's JSON model, an isotonic calibration and a featurizer, read without XGBoost.

Every tree is padded to a complete one of the same depth, so that one level of all trees is one gather and one
compare: 247 trees of depth 2 take one row in about 9 us, where Booster.inplace_predict takes 300. The leaves that a row
leads to tell the whole path, so its contributions need no other walk. Leaves are added in float32, one tree after the
other and starting from the base score, as XGBoost does, so margins come out bit-equal.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from retain.features import Featurizer

MAX_DEPTH = 12
MAX_CELLS = 1 << 22  # leaves of all trees after padding: 100 MB in memory, 800 times what `accept` needs
MAX_BYTES = 1 << 27
MAX_LEAF, MAX_WEIGHT, MIN_WEIGHT = 1e4, 1e12, 1e-6  # log-odds and sums of hessians far beyond any real model's
BLOCK_ROWS = 2048
EARLY_NODES = 2048  # up to as many comparisons at once cost less than a further level's
MAX_PATHS = 1 << 18  # splits on the way to all leaves that are kept: 4 MB

Floats = npt.NDArray[np.float32]
Nodes = npt.NDArray[np.intp]

_LOWEST, _HIGHEST = np.float32(-np.inf), np.float32(np.inf)


class ModelError(ValueError):
    """A model file that can't be used: which file, where in it, what is wrong."""


class Trees:
    """A boosted ensemble for one binary target.

    `feature[l]`, `threshold[l]` have n_trees * 2**l entries, `mean[l]` (the expected value of a node) too;
    level `depth` of `mean` is that of the leaves, `leaf` their values. A feature index beyond n_features means
    "the same feature, missing values go right": rows are laid out twice, with NaN as -inf and as +inf.
    """

    def __init__(
        self,
        n_features: int,
        base: np.float32,
        feature: list[npt.NDArray[np.intp]],
        threshold: list[Floats],
        mean: list[Floats],
        leaf: Floats,
    ) -> None:
        self.n_features = n_features
        self.base = base
        self._base = np.array([base], np.float32)
        self.depth = len(feature)
        self.n_trees = len(leaf) >> self.depth
        self._feature = feature
        self._threshold = threshold
        self._mean = mean
        self._leaf = leaf
        self._roots = np.arange(self.n_trees)
        # Of the first levels, which have few nodes, one row is compared with all nodes at once, whichever it comes to.
        begins = [self.n_trees * ((1 << level) - 1) for level in range(self.depth + 1)]
        early = max(level for level, begin in enumerate(begins) if begin <= EARLY_NODES)
        self._early = [slice(*ends) for ends in pairwise(begins[: early + 1])]
        self._early_feature = np.concatenate([*feature[:early], np.empty(0, np.intp)])
        self._early_threshold = np.concatenate([*threshold[:early], np.empty(0, np.float32)])

    @classmethod
    def from_json(cls, data: bytes, where: str = "model.json") -> Trees:
        """XGBoost's own JSON (`booster.save_raw("json")`), gbtree with binary:logistic. Raises ModelError."""
        return _read_model(data, where)

    def leaves(self, x: Floats) -> Nodes:
        """Which of all leaves each tree leads one row (n_features,) to, shape (n_trees,)."""
        values = np.empty(2 * self.n_features, np.float32)
        np.fmax(x, _LOWEST, values[: self.n_features])  # as _twice()
        np.fmin(x, _HIGHEST, values[self.n_features :])
        early = values.take(self._early_feature) >= self._early_threshold
        nodes = self._roots
        for place in self._early:
            right = early[place].take(nodes)
            nodes = nodes + nodes
            nodes += right
        for feature, threshold in zip(self._feature[len(self._early) :], self._threshold[len(self._early) :]):
            right = values.take(feature.take(nodes)) >= threshold.take(nodes)
            nodes = nodes + nodes
            nodes += right
        return nodes

    def margin(self, x: Floats) -> np.float32:
        """The raw margin (log-odds) of one row of shape (n_features,)."""
        return self.margin_at(self.leaves(x))

    def margin_at(self, leaves: Nodes) -> np.float32:
        """The margin of a row that leads to these leaves (n_trees,)."""
        terms = np.concatenate((self._base, self._leaf.take(leaves)))
        return np.float32(np.add.accumulate(terms)[-1])

    def margins(self, x: Floats) -> Floats:
        """Raw margins (n,) of rows (n, n_features) float32; the same as `margin` of each."""
        out = np.empty(len(x), np.float32)
        for start in range(0, len(x), BLOCK_ROWS):
            values = _twice(x[start : start + BLOCK_ROWS])
            rows = (np.arange(len(values)) * values.shape[1])[:, None]
            flat = values.ravel()
            nodes = np.broadcast_to(self._roots, (len(values), self.n_trees))
            for feature, threshold in zip(self._feature, self._threshold):
                nodes = 2 * nodes + (flat.take(rows + feature.take(nodes)) >= threshold.take(nodes))
            leaves = np.concatenate((np.full((len(values), 1), self.base), self._leaf.take(nodes)), axis=1)
            out[start : start + BLOCK_ROWS] = np.add.accumulate(leaves, axis=1, dtype=np.float32)[:, -1]
        return out

    def contributions(self, x: Floats) -> npt.NDArray[np.float64]:
        """What each feature of one row adds to the margin along the trees' paths, shape (n_features,).

        Saabas' path contributions: each split is credited with the change of the node's expected value
        (XGBoost's pred_contribs with approx_contribs). They and `bias` add up to the margin.
        """
        return self.contributions_at(self.leaves(x))

    def contributions_at(self, leaves: Nodes) -> npt.NDArray[np.float64]:
        """The contributions (n_features,) of a row that leads to these leaves (n_trees,)."""
        if not self.depth:
            return np.zeros(self.n_features)
        if self._paths is None:
            features, changes = self._paths_to(leaves)
        else:
            features, changes = self._paths[0].take(leaves, axis=1), self._paths[1].take(leaves, axis=1)
        total = np.bincount(features.ravel(), changes.ravel(), 2 * self.n_features)
        return np.asarray(total[: self.n_features] + total[self.n_features :], np.float64)

    @cached_property
    def _paths(self) -> tuple[Nodes, npt.NDArray[np.float64]] | None:
        """The paths to all leaves, if they are few."""
        return self._paths_to(np.arange(len(self._leaf))) if self.depth * len(self._leaf) <= MAX_PATHS else None

    def _paths_to(self, leaves: Nodes) -> tuple[Nodes, npt.NDArray[np.float64]]:
        """(depth, leaves): which feature is asked for on the way to each leaf, and what that changes."""
        nodes = [leaves >> above for above in range(self.depth, -1, -1)]
        means = np.stack([mean.take(level) for mean, level in zip(self._mean, nodes)])
        features = np.stack([feature.take(level) for feature, level in zip(self._feature, nodes)])
        return features, (means[1:] - means[:-1]).astype(np.float64)

    @property
    def bias(self) -> float:
        """The margin before any feature is known."""
        return float(self.base) + float(self._mean[0].sum(dtype=np.float64))


def _twice(x: Floats) -> Floats:
    """(n, f) -> (n, 2 f): missing values as -inf (they go left), and again as +inf (they go right)."""
    n, f = x.shape
    out = np.empty((n, 2 * f), np.float32)
    np.fmax(x, _LOWEST, out=out[:, :f])
    np.fmin(x, _HIGHEST, out=out[:, f:])
    return out


class Calibration:
    """Isotonic regression as its breakpoints: margin (strictly increasing) -> score (never falling, in [0, 1])."""

    def __init__(self, margin: npt.ArrayLike, score: npt.ArrayLike) -> None:
        self.margin = np.asarray(margin, np.float64)
        self.score = np.asarray(score, np.float64)
        if self.margin.ndim != 1 or self.margin.shape != self.score.shape or not len(self.margin):
            raise ModelError("margin and score are lists of the same length, at least one each")
        if not (np.isfinite(self.margin).all() and np.isfinite(self.score).all()):
            raise ModelError("margin and score are finite")
        if (np.diff(self.margin) <= 0).any():
            raise ModelError("margin is strictly increasing")
        if (np.diff(self.score) < 0).any() or self.score[0] < 0 or self.score[-1] > 1:
            raise ModelError("score never falls and stays within 0 and 1")
        self._margins: list[float] = self.margin.tolist()
        self._scores: list[float] = self.score.tolist()

    @classmethod
    def from_json(cls, data: bytes, where: str = "calibration.json") -> Calibration:
        content = _parse(data, where)
        if not isinstance(content, dict) or set(content) != {"margin", "score"}:
            raise ModelError(f"{where}: wants the keys margin and score")
        try:
            return cls(_numbers(content["margin"]), _numbers(content["score"]))
        except ModelError as error:
            raise ModelError(f"{where}: {error}") from None

    def one(self, margin: float) -> float:
        """The score of one margin: np.interp's own formula without numpy's 4 us per call."""
        margins, scores = self._margins, self._scores
        right = bisect_right(margins, margin)
        if right == 0:
            return scores[0]
        if right == len(margins):
            return scores[-1]
        left = right - 1
        slope = (scores[right] - scores[left]) / (margins[right] - margins[left])
        return slope * (margin - margins[left]) + scores[left]

    def __call__(self, margins: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Scores of margins of any shape, in float64."""
        return np.asarray(np.interp(np.asarray(margins, np.float64), self.margin, self.score))


class Scorer:
    """A customer's columns -> a calibrated probability, and what moved it."""

    FILES = ("model.json", "calibration.json", "featurizer.json")

    def __init__(self, featurizer: Featurizer, trees: Trees, calibration: Calibration) -> None:
        made = len(featurizer.names)
        if made != trees.n_features:
            raise ModelError(f"the model wants {trees.n_features} features, the featurizer makes {made}")
        self.featurizer = featurizer
        self.trees = trees
        self.calibration = calibration
        # A one-hot column has several features: their contributions are one reason.
        self._columns = list(dict.fromkeys(featurizer.sources))
        self._source = np.array([self._columns.index(name) for name in featurizer.sources])

    @classmethod
    def load(cls, files: Mapping[str, Path], prefix: str = "") -> Scorer:
        """From files named `prefix` + each of FILES. Raises ModelError for one that is missing or damaged."""
        data = {}
        for name in cls.FILES:
            path = files.get(prefix + name)
            if path is None or not path.is_file():
                raise ModelError(f"{prefix}{name}: is missing")
            if path.stat().st_size > MAX_BYTES:
                raise ModelError(f"{prefix}{name}: is larger than {MAX_BYTES >> 20} MiB")
            data[name] = path.read_bytes()
        try:
            featurizer = Featurizer.from_json(_parse(data["featurizer.json"], "featurizer.json"))
            return cls(
                featurizer,
                Trees.from_json(data["model.json"]),
                Calibration.from_json(data["calibration.json"]),
            )
        except ModelError as error:
            raise ModelError(f"{prefix}{error}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{prefix}featurizer.json: {error}") from None

    def features(self, values: Mapping[str, object]) -> Floats:
        return self.featurizer.row(values)

    def score(self, x: Floats) -> float:
        """The calibrated probability of one row of features."""
        return self.score_at(self.trees.leaves(x))

    def score_at(self, leaves: Nodes) -> float:
        """The calibrated probability of a row that leads to these leaves of the trees."""
        return self.calibration.one(float(self.trees.margin_at(leaves)))

    def scores(self, x: Floats) -> npt.NDArray[np.float64]:
        return self.calibration(self.trees.margins(x))

    def reasons(self, x: Floats) -> list[tuple[str, float]]:
        """(dataset column, contribution to the margin), largest first by absolute value; zeros are left out."""
        return self.reasons_at(self.trees.leaves(x))

    def reasons_at(self, leaves: Nodes) -> list[tuple[str, float]]:
        """The reasons of a row that leads to these leaves of the trees."""
        by_column = np.bincount(self._source, self.trees.contributions_at(leaves), len(self._columns)).tolist()
        reasons = [(-abs(value), name, value) for name, value in zip(self._columns, by_column) if value != 0.0]
        reasons.sort()
        return [(name, value) for _, name, value in reasons]


def _parse(data: bytes, where: str) -> Any:
    def no_constant(name: str) -> Any:
        raise ModelError(f"{where}: {name} is no number of a model")

    try:
        return json.loads(data, parse_constant=no_constant)
    except ModelError:
        raise
    except (ValueError, RecursionError):
        raise ModelError(f"{where}: is no JSON, or damaged") from None


def _numbers(value: object) -> list[float]:
    if not isinstance(value, list) or any(type(item) not in (int, float) for item in value):
        raise ModelError("margin and score are lists of numbers")
    return [float(item) for item in value]


def _read_model(data: bytes, where: str) -> Trees:
    content = _parse(data, where)
    try:
        learner = content["learner"]
        model, booster = learner["gradient_booster"]["model"], learner["gradient_booster"]["name"]
        objective, parameters = learner["objective"]["name"], learner["learner_model_param"]
        trees = model["trees"]
        n_features, n_classes = int(parameters["num_feature"]), int(parameters["num_class"])
        n_targets = int(parameters.get("num_target", "1"))
        # "[2.6E-1]" since XGBoost 3.1, "2.6E-1" before.
        base_score = np.float32(str(parameters["base_score"]).strip("[]"))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise ModelError(f"{where}: is no JSON model of XGBoost") from None
    if booster != "gbtree" or objective != "binary:logistic" or n_classes > 1 or n_targets != 1:
        raise ModelError(f"{where}: wants gbtree with binary:logistic, not {booster!s:.20} with {objective!s:.30}")
    if not 0 < base_score < 1:
        raise ModelError(f"{where}: base_score is {base_score}, not a probability")
    if not 0 < n_features <= 1 << 16:
        raise ModelError(f"{where}: num_feature is {n_features}")
    if not isinstance(trees, list) or not trees:
        raise ModelError(f"{where}: has no trees")
    read = [_read_tree(tree, n_features, f"{where}: tree {i}") for i, tree in enumerate(trees)]
    depth = max(tree.depth for tree in read)
    if len(read) << depth > MAX_CELLS:
        raise ModelError(f"{where}: {len(read)} trees of depth {depth} are too many to lay out")
    levels = [_complete(tree, depth, n_features) for tree in read]
    return Trees(
        n_features,
        # The objective's float32 formula; numpy's own float32 log is one unit in the last place off at times.
        np.float32(-math.log(np.float32(1) / base_score - np.float32(1))),
        [np.concatenate([tree.feature[level] for tree in levels]) for level in range(depth)],
        [np.concatenate([tree.threshold[level] for tree in levels]) for level in range(depth)],
        [np.concatenate([tree.mean[level] for tree in levels]) for level in range(depth + 1)],
        np.concatenate([tree.leaf for tree in levels]),
    )


@dataclass(frozen=True)
class _Tree:
    left: npt.NDArray[np.intp]  # -1 for a leaf
    right: npt.NDArray[np.intp]
    feature: npt.NDArray[np.intp]
    value: Floats  # threshold of a split, value of a leaf
    missing_left: npt.NDArray[np.bool_]
    mean: Floats
    depth: int


@dataclass(frozen=True)
class _Levels:
    feature: list[npt.NDArray[np.intp]]
    threshold: list[Floats]
    mean: list[Floats]
    leaf: Floats


def _read_tree(tree: Any, n_features: int, where: str) -> _Tree:
    if not isinstance(tree, dict):
        raise ModelError(f"{where}: is no tree")
    n = len(tree["left_children"]) if isinstance(tree.get("left_children"), list) else 0
    if n == 0:
        raise ModelError(f"{where}: has no nodes")

    def array(key: str, dtype: type, kinds: tuple[type, ...]) -> npt.NDArray[Any]:
        items = tree.get(key)
        if not isinstance(items, list) or len(items) != n:
            raise ModelError(f"{where}: {key} wants a list of {n}")
        if any(type(item) not in kinds for item in items):
            raise ModelError(f"{where}: {key} holds something that is no number")
        try:
            with np.errstate(over="ignore"):
                out: npt.NDArray[Any] = np.array(items, dtype)
        except OverflowError:
            raise ModelError(f"{where}: {key} holds a number that is too large") from None
        if dtype is np.float32 and not np.isfinite(out).all():
            raise ModelError(f"{where}: {key} holds a number that is too large")
        return out

    left, right = array("left_children", np.intp, (int,)), array("right_children", np.intp, (int,))
    feature, value = array("split_indices", np.intp, (int,)), array("split_conditions", np.float32, (int, float))
    missing_left = array("default_left", np.intp, (int, bool))
    weight = array("sum_hessian", np.float32, (int, float))
    if any(tree.get("split_type") or ()) or tree.get("categories"):
        raise ModelError(f"{where}: has categorical splits, which this reader doesn't know")
    is_leaf = left == -1
    if ((right == -1) != is_leaf).any():
        raise ModelError(f"{where}: a node has one child")
    children = np.concatenate((left[~is_leaf], right[~is_leaf]))
    if ((children <= 0) | (children >= n)).any():
        raise ModelError(f"{where}: a child is outside 1..{n - 1}")
    if len(np.unique(children)) != len(children):
        raise ModelError(f"{where}: a node has two parents")
    if ((feature < 0) | (feature >= n_features))[~is_leaf].any():
        raise ModelError(f"{where}: splits on a feature outside 0..{n_features - 1}")
    if ((missing_left < 0) | (missing_left > 1)).any():
        raise ModelError(f"{where}: default_left is neither 0 nor 1")

    # Where no node has two parents and the root has none, whatever the root reaches is a tree.
    levels = [np.zeros(1, np.intp)]
    while (inner := levels[-1][~is_leaf[levels[-1]]]).size:
        if len(levels) > MAX_DEPTH:
            raise ModelError(f"{where}: is deeper than {MAX_DEPTH} levels")
        levels.append(np.concatenate((left[inner], right[inner])))
    if (np.abs(value[is_leaf]) > MAX_LEAF).any() or ((weight < 0) | (weight > MAX_WEIGHT)).any():
        raise ModelError(f"{where}: a leaf or a weight is too large")
    mean = value.copy()
    for nodes in reversed(levels):
        inner = nodes[~is_leaf[nodes]]
        sums = mean[left[inner]] * weight[left[inner]] + mean[right[inner]] * weight[right[inner]]
        mean[inner] = sums / np.maximum(weight[inner], MIN_WEIGHT)
    return _Tree(left, right, feature, value, missing_left == 1, mean, len(levels) - 1)


def _complete(tree: _Tree, depth: int, n_features: int) -> _Levels:
    """The tree with every leaf carried down to `depth`: where both ways lead to the same leaf, any test will do."""
    feature, threshold, mean = [], [], []
    nodes = np.zeros(1, np.intp)
    for _ in range(depth):
        is_leaf = tree.left[nodes] == -1
        missing_right = np.where(tree.missing_left[nodes], 0, n_features)
        feature.append(np.where(is_leaf, 0, tree.feature[nodes] + missing_right))
        threshold.append(np.where(is_leaf, np.float32(0), tree.value[nodes]))
        mean.append(tree.mean[nodes])
        below = np.empty(2 * len(nodes), np.intp)
        below[0::2] = np.where(is_leaf, nodes, tree.left[nodes])
        below[1::2] = np.where(is_leaf, nodes, tree.right[nodes])
        nodes = below
    mean.append(tree.mean[nodes])
    return _Levels(feature, threshold, mean, tree.value[nodes])
