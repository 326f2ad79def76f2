"""Figures that judge, evaluation and report share: how well pairs are told apart, who wins, how varied texts are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from engine.errors import DataError
from retain.intervals import bootstrap, wilson
from tasks.ranking import auc

Array = NDArray[np.float64]


def wins(a: Array, b: Array) -> Array:
    """(n,): 1 where `a` is higher, 0 where `b` is, .5 where they are equal."""
    _check(a, b)
    if len(a) != len(b):
        raise ValueError(f"{len(a)} scores against {len(b)}: pairs want as many of each")
    return (np.sign(np.subtract(a, b)) + 1) / 2


def paired_bootstrap(values: Array, resamples: int, rng: np.random.Generator) -> tuple[float, float, float]:
    """Mean of `values` (n,), and the ends of its 95 % interval: what belongs together is one value."""
    _check(values)
    return float(values.mean()), *bootstrap(lambda rows: values[rows].mean(1), len(values), resamples, rng)


def pair_accuracy(
    chosen: Array, rejected: Array, resamples: int, rng: np.random.Generator
) -> dict[str, float | list[float]]:
    """A metric: accuracy with its interval, pairs resampled."""
    value, low, high = paired_bootstrap(wins(chosen, rejected), resamples, rng)
    return {"value": value, "ci": [low, high]}


def accuracy_by_flaw(chosen: Array, rejected: Array, flaws: Sequence[str]) -> dict[str, dict[str, float | list[float]]]:
    """accuracy_<flaw>: metrics with Wilson's interval, since of so few pairs all may be told apart."""
    won, flaw_of_pair = wins(chosen, rejected), np.array(flaws)
    return {
        f"accuracy_{flaw.replace(' ', '_')}": proportion(
            float(won[flaw_of_pair == flaw].sum()), int((flaw_of_pair == flaw).sum())
        )
        for flaw in sorted(set(flaws) - {""})
    }


def pair_auc(
    chosen: Array, rejected: Array, resamples: int, rng: np.random.Generator
) -> dict[str, float | list[float]]:
    """A metric: AUC of all chosen against all rejected, with its interval: whole pairs are resampled."""
    _check(chosen, rejected)
    n = len(chosen)
    order = np.argsort(rejected, kind="stable")
    left, right = (np.searchsorted(rejected[order], chosen, side) for side in ("left", "right"))

    def resampled_auc(rows: NDArray[np.int64]) -> Array:
        """(b,) of resamples (b, n): a pair counts as often as it was drawn, so nothing is sorted again."""
        weights = np.stack([np.bincount(row, minlength=n) for row in rows]).astype(float)
        below = np.cumsum(np.pad(weights[:, order], ((0, 0), (1, 0))), axis=1)
        area: Array = (weights * (below[:, left] + below[:, right])).sum(1) / 2 / n**2
        return area

    return {"value": auc(chosen, rejected), "ci": list(bootstrap(resampled_auc, n, resamples, rng))}


def proportion(hits: float, trials: int) -> dict[str, float | list[float]]:
    """A metric: hits / trials with Wilson's interval. Raises ValueError for no trial."""
    interval = wilson(hits, trials)
    return {"value": hits / trials, "ci": list(interval)}


def distinct(texts: Sequence[str], n: int) -> float:
    """Different n-grams of words as a share of all of them, over all texts; 0 where there is none."""
    seen = [gram for text in texts for gram in _grams(text, n)]
    return len(set(seen)) / len(seen) if seen else 0.0


def commonest_ending(texts: Sequence[str], words: int = 4) -> float:
    """Share of texts that end in the commonest last `words` words, whatever their case and punctuation."""
    if not texts:
        return 0.0
    endings = Counter(tuple(_words(text)[-words:]) for text in texts)
    return endings.most_common(1)[0][1] / len(texts)


def _grams(text: str, n: int) -> Iterator[tuple[str, ...]]:
    words = _words(text)
    return (tuple(words[start : start + n]) for start in range(len(words) - n + 1))


def _words(text: str) -> list[str]:
    """Lower case, without punctuation around them."""
    stripped = (word.strip(".,;:!?\"'()[]*-–—…").lower() for word in text.split())
    return [word for word in stripped if word]


def _check(*scores: Array) -> None:
    """A NaN would count as lost; nothing has no mean."""
    for values in scores:
        if not len(values):
            raise DataError("no pair or text to measure: the part of the data that is held out is empty")
        if not np.isfinite(values).all():
            raise DataError("a score is not a finite number: the model that gave it is broken; train it again")
