"""Who writes better, by how much, and how sure that is: shares of wins, intervals, what a text offers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retain.intervals import bootstrap
from retain.rules import Rules
from tasks.rlhf.judging import measures
from tasks.rlhf.judging.measures import Array


def share(values: Array, resamples: int, seed: Sequence[int]) -> dict[str, Any]:
    """A metric: the mean of `values`, resampled by prompt."""
    value, low, high = measures.paired_bootstrap(values, resamples, np.random.default_rng(seed))
    return {"value": value, "ci": [low, high]}


def ratio(a: Array, b: Array, resamples: int, seed: Sequence[int]) -> dict[str, Any]:
    """A metric: mean of `a` / mean of `b` - 1; both of a prompt are drawn together. `b` is above 0."""
    rng = np.random.default_rng(seed)
    low, high = bootstrap(lambda rows: a[rows].mean(1) / b[rows].mean(1) - 1, len(a), resamples, rng)
    return {"value": float(a.mean() / b.mean() - 1), "ci": [low, high]}


def shares(hits: Sequence[bool] | NDArray[np.bool_]) -> dict[str, Any]:
    return measures.proportion(int(sum(hits)), len(hits))


def names_offer(text: str, offer: int, months: int | None, rules: Rules) -> bool:
    """Exactly the offer is named, in digits or words; none of 0 %. What is an amount, the rules say."""
    right = rules.percentages(text) == ({offer} if offer else set())
    return right and "percentage" not in rules.unsafe(text, offer, months)
