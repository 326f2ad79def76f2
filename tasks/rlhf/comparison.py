"""Who writes better, by how much, and how sure that is: shares of wins, intervals, what a text offers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retain import rules
from tasks.rlhf import measures
from tasks.rlhf.measures import Array

Z = 1.959964  # of a 95 % interval


def share(values: Array, resamples: int, seed: Sequence[int], less: float = 0.0) -> dict[str, Any]:
    """A metric: the mean of `values`, less a constant, resampled by prompt."""
    value, low, high = measures.paired_bootstrap(values, resamples, np.random.default_rng(seed))
    return {"value": value - less, "ci": [low - less, high - less]}


def ratio(a: Array, b: Array, resamples: int, seed: Sequence[int]) -> dict[str, Any]:
    """A metric: mean of `a` / mean of `b` - 1; both of a prompt are drawn together. `b` is above 0."""
    rng = np.random.default_rng(seed)
    drawn: list[float] = []
    for _ in range(resamples):
        rows = rng.integers(len(a), size=len(a))
        drawn.append(float(a[rows].mean() / b[rows].mean() - 1))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"value": float(a.mean() / b.mean() - 1), "ci": [float(low), float(high)]}


def wilson(hits: int, of: int) -> dict[str, Any]:
    """A metric: hits / of with Wilson's interval, which has a width where nothing was hit too."""
    if not of:
        raise ValueError("a share of nothing")
    p, z = hits / of, Z
    middle = (p + z * z / (2 * of)) / (1 + z * z / of)
    half = z / (1 + z * z / of) * (p * (1 - p) / of + z * z / (4 * of * of)) ** 0.5
    return {"value": p, "ci": [min(max(0.0, middle - half), p), max(min(1.0, middle + half), p)]}


def shares(hits: Sequence[bool] | NDArray[np.bool_]) -> dict[str, Any]:
    return wilson(int(sum(hits)), len(hits))


def names_offer(text: str, offer: int, months: int | None) -> bool:
    """Exactly the offer is named, in digits or words; none of 0 %. What is an amount, the rules say."""
    right = rules.percentages(text) == ({offer} if offer else set())
    return right and "percentage" not in rules.unsafe(text, offer, months)
