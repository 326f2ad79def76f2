"""What another policy would have earned, told from decisions that were logged under this one.

Each logged decision is a draw of its own (a contextual bandit): what was seen, what was done with which probability
(`pscore`), what it brought. Words and estimators are Open Bandit Pipeline's; every estimator is a mean of one number
per decision (its influence function), so intervals are normal, need no resampling, and count all decisions of one
customer as one draw.

- IPS: rewards weighted by evaluation / behaviour probability. Unbiased, noisy.
- SNIPS: the same over the sum of weights (Swaminathan and Joachims 2015).
- DM, direct method: a regression of reward on what was seen and done, averaged over what would be done. Its interval
  holds for the regression's form: if rewards are not of it, it is biased and doesn't know.
- DR, doubly robust: DM plus the weighted residuals, each from a regression fitted without its customer (Dudik et al.
  2011; cross-fitting, Chernozhukov et al. 2018). Right if either part is. The verdict reads this one.

All of them need overlap: whatever the evaluation policy does, the behaviour policy did sometimes. A log of a
deterministic rule tells nothing about the value of other actions, and then the verdict is inconclusive.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from engine.errors import DataError
from retain.intervals import NORMAL

Floats = NDArray[np.float64]

RIDGE = 1.0  # prior observations' worth of shrinkage, on standardised columns
FOLDS = 5

Verdict = Literal["go", "no_go", "inconclusive"]


@dataclass(frozen=True)
class Log:
    """n logged decisions. Context (n, c), action (n,) in 0..a-1, reward (n,), pscore (n,): the probability with which
    the behaviour policy took that action. `customer` (n,): decisions of the same one are no independent draws.
    `behaviour` (n, a), if it was logged: the probability of every action.
    """

    context: NDArray[Any]
    action: NDArray[Any]
    reward: Floats
    pscore: Floats
    customer: NDArray[Any]
    behaviour: Floats | None = None


@dataclass(frozen=True)
class Estimate:
    """`terms` (customers,): what each adds to the deviation from the true value; their sum has mean 0."""

    value: float
    ci: tuple[float, float]
    terms: Floats


@dataclass(frozen=True)
class Overlap:
    """How much of what the evaluation policy does was seen.

    `effective`: Kish's effective sample size, (sum of w)^2 / sum of w^2, of customers. `mean_weight`, with its
    standard error, is 1 under overlap and less by the share of what is never done. `unsupported`: that share, where
    the behaviour policy's probabilities were logged, else None. `heaviest`: share of the weight of one customer.
    """

    decisions: int
    effective: float
    mean_weight: float
    mean_weight_error: float
    unsupported: float | None
    heaviest: float


@dataclass(frozen=True)
class Thresholds:
    """When a log is too thin for a verdict."""

    min_effective: float
    max_unsupported: float
    max_heaviest: float
    max_weight_errors: float  # mean weight within so many standard errors of 1


@dataclass(frozen=True)
class Comparison:
    """`gain`: value of the evaluation policy less that of the behaviour policy, by DR. `reasons` for no verdict."""

    verdict: Verdict
    gain: float
    ci: tuple[float, float]
    estimates: Mapping[str, Estimate]
    overlap: Overlap
    reasons: tuple[str, ...]


def compare(log: Log, action_dist: Floats, thresholds: Thresholds, margin: float = 0.0, seed: int = 0) -> Comparison:
    """Whether the policy of `action_dist` (n, a), its probabilities in each logged context, earns `margin` more.

    go: the gain's interval lies above `margin`; no_go: below it; inconclusive: neither, or the log can't tell.
    """
    found, seen = estimates(log, action_dist, seed), overlap(log, action_dist)
    customers = _customers(log)[1]
    own = _estimate(log.reward, float(log.reward.mean()), _customers(log))
    gain = found["dr"].value - own.value
    low, high = _interval(gain, found["dr"].terms - own.terms)
    reasons = _thin(seen, thresholds)
    apart = abs(found["dr"].value - found["snips"].value)
    error = np.sqrt(((found["dr"].terms - found["snips"].terms) ** 2).sum())
    if not reasons and apart > 4 * error and customers > 1:
        reasons.append("DR and SNIPS contradict each other: pscores or rewards are not what they are said to be")
    verdict: Verdict = "inconclusive"
    if not reasons and low > margin:
        verdict = "go"
    elif not reasons and high < margin:
        verdict = "no_go"
    elif not reasons:
        reasons.append(f"the gain's interval {low:.4g} to {high:.4g} contains {margin:.4g}")
    return Comparison(verdict, gain, (low, high), found, seen, tuple(reasons))


def estimates(log: Log, action_dist: Floats, seed: int = 0) -> dict[str, Estimate]:
    """ips, snips, dm and dr of the evaluation policy's mean reward per decision, with 95 % intervals."""
    check(log, action_dist)
    n = len(log.reward)
    customers = _customers(log)
    weight = _weight(log, action_dist)
    weighted = weight * log.reward
    ips = float(weighted.mean())
    snips = float(weighted.sum() / weight.sum()) if weight.any() else 0.0
    relative = weight / weight.mean() if weight.any() else weight

    taken, expected = _designs(log, action_dist)
    whole = _fit(taken, log.reward)
    dm = float((expected @ whole.coefficient).mean())
    # Of a mean of predictions: their own spread, and what the regression's noise adds (a sandwich).
    leverage = np.einsum("nd,nd->n", taken @ whole.inverse, taken)
    residual = (log.reward - taken @ whole.coefficient) / (1 - np.minimum(leverage, 0.999))
    pull = taken @ (whole.inverse @ expected.mean(axis=0)) * n

    rng = np.random.default_rng(seed)
    fold = rng.permutation(np.arange(customers[1]) % min(FOLDS, customers[1]))[customers[0]]
    predicted, foreseen = np.empty(n), np.empty(n)
    for k in range(fold.max() + 1):
        out = fold == k
        part = _fit(taken[~out], log.reward[~out]) if not out.all() else whole
        predicted[out], foreseen[out] = taken[out] @ part.coefficient, expected[out] @ part.coefficient
    doubly = foreseen + weight * (log.reward - predicted)
    return {
        "ips": _estimate(weighted, ips, customers),
        "snips": _estimate(relative * (log.reward - snips) + snips, snips, customers),
        "dm": _estimate(expected @ whole.coefficient + pull * residual, dm, customers),
        "dr": _estimate(doubly, float(doubly.mean()), customers),
    }


def overlap(log: Log, action_dist: Floats) -> Overlap:
    """Of the log with the policy of `action_dist` (n, a)."""
    check(log, action_dist)
    which, customers = _customers(log)
    weight = _weight(log, action_dist)
    by_customer = np.bincount(which, weight, customers)
    total, square = by_customer.sum(), (by_customer**2).sum()
    mean = _estimate(weight, float(weight.mean()), (which, customers))
    unsupported = None
    if log.behaviour is not None:
        unsupported = float(action_dist[log.behaviour <= 0].sum() / len(weight))
    return Overlap(
        decisions=len(weight),
        effective=float(total**2 / square) if square > 0 else 0.0,
        mean_weight=mean.value,
        mean_weight_error=float(np.sqrt((mean.terms**2).sum())),
        unsupported=unsupported,
        heaviest=float(by_customer.max() / total) if total > 0 else 1.0,
    )


def _thin(seen: Overlap, thresholds: Thresholds) -> list[str]:
    reasons = []
    if seen.effective < thresholds.min_effective:
        reasons.append(
            f"{seen.decisions} decisions count for {seen.effective:.0f} customers of the evaluation policy: "
            f"wants {thresholds.min_effective:g}"
        )
    if seen.unsupported is not None and seen.unsupported > thresholds.max_unsupported:
        reasons.append(f"{seen.unsupported:.1%} of what it would do was never done")
    if seen.heaviest > thresholds.max_heaviest:
        reasons.append(f"one customer carries {seen.heaviest:.1%} of the weight")
    if abs(seen.mean_weight - 1) > max(thresholds.max_weight_errors * seen.mean_weight_error, 1e-9):
        reasons.append(
            f"weights have a mean of {seen.mean_weight:.3f} instead of 1: some of what it would do is never done, "
            "or pscores are wrong"
        )
    return reasons


def check(log: Log, action_dist: Floats) -> None:
    """Raises DataError for a log or a policy that nothing can be told from."""
    n = len(log.reward)
    if n < 2:
        raise DataError(f"a log of {n} decisions: nothing can be told from it")
    if log.context.ndim != 2 or any(len(part) != n for part in (log.context, log.action, log.pscore, log.customer)):
        raise DataError(f"context, action, pscore and customer: wants one row for each of {n} rewards")
    if action_dist.ndim != 2 or len(action_dist) != n:
        raise DataError(f"action_dist of shape {action_dist.shape}: wants one row for each of {n} decisions")
    if not np.isfinite(log.context).all() or not np.isfinite(log.reward).all():
        raise DataError("a logged context or reward is not finite")
    if not ((log.action >= 0) & (log.action < action_dist.shape[1])).all():
        raise DataError(f"a logged action is none of 0 to {action_dist.shape[1] - 1}")
    if not ((log.pscore > 0) & (log.pscore <= 1)).all():
        raise DataError("a pscore is not in (0, 1]: what was done had a probability")
    distributions = [("action_dist", action_dist)]
    if log.behaviour is not None:
        if log.behaviour.shape != action_dist.shape:
            raise DataError(f"behaviour of shape {log.behaviour.shape}: wants {action_dist.shape}, that of action_dist")
        if abs(log.behaviour[np.arange(n), log.action] - log.pscore).max() > 1e-6:
            raise DataError("pscore is not the behaviour policy's probability of the logged action")
        distributions.append(("behaviour", log.behaviour))
    for name, rows in distributions:
        if not (rows >= 0).all() or abs(rows.sum(axis=1) - 1).max() > 1e-6:
            raise DataError(f"a row of {name} is no distribution: wants numbers from 0 that add up to 1")


def _weight(log: Log, action_dist: Floats) -> Floats:
    return np.asarray(action_dist[np.arange(len(log.action)), log.action] / log.pscore)


def _customers(log: Log) -> tuple[NDArray[np.intp], int]:
    """The number of each decision's customer, and how many there are."""
    names, which = np.unique(log.customer, return_inverse=True)
    return which, len(names)


def _estimate(each: Floats, value: float, customers: tuple[NDArray[np.intp], int]) -> Estimate:
    """Of a mean over decisions whose influence is `each` (n,); sums by customer are the independent draws."""
    which, count = customers
    terms = np.bincount(which, each - value, count) / len(each)
    terms *= np.sqrt(count / max(count - 1, 1))
    return Estimate(value, _interval(value, terms), terms)


def _interval(value: float, terms: Floats) -> tuple[float, float]:
    error = NORMAL * float(np.sqrt((terms**2).sum())) if len(terms) > 1 else np.inf
    return (value - error, value + error)


def _designs(log: Log, action_dist: Floats) -> tuple[Floats, Floats]:
    """Columns of the regression for what was done, and their mean over what would be: (n, d) both.

    A constant, the context, each action but the first and its products with the context, which the ridge shrinks: an
    action rarely seen is taken to be like the others.
    """
    context = log.context.astype(np.float64)
    deviation = context.std(axis=0)
    context = (context - context.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)
    base = np.column_stack((np.ones(len(context)), context))

    def columns(share: Floats) -> Floats:
        """`share` (n, a): what was done, or the probabilities of what would be."""
        products = share[:, 1:, None] * base[:, None, :]
        return np.concatenate((base, products.reshape(len(base), -1)), axis=1)

    return columns(np.eye(action_dist.shape[1])[log.action]), columns(action_dist)


@dataclass(frozen=True)
class _Regression:
    coefficient: Floats
    inverse: Floats  # of the penalised Gram matrix


def _fit(design: Floats, reward: Floats) -> _Regression:
    penalty = np.full(design.shape[1], RIDGE)
    penalty[0] = 0.0  # the constant
    inverse = np.linalg.inv(design.T @ design + np.diag(penalty))
    return _Regression(np.asarray(inverse @ (design.T @ reward)), np.asarray(inverse))
