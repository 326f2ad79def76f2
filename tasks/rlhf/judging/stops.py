"""Signs that a policy games its reward instead of writing better; each is a function of the traces, '' for none.

A trace is one iteration's figures by name; what was not measured in it is NaN. All look at the last `window`
iterations, and at nothing before there are as many.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.config import StopsConfig

Trace = Mapping[str, float]

# What the reference is worth before the first iteration, since scores are standardised by its own.
REFERENCE: Trace = {"validation_score": 0.0, "training_score": 0.0}


def reason(stops: StopsConfig, target: float, reference_tokens: float, traces: Sequence[Trace]) -> str:
    """The first sign, in words; `target` is KL's, `reference_tokens` the mean length of the reference's replies."""
    if len(traces) < stops.window:
        return ""
    return (
        kl_below_zero(traces, stops.window, stops.kl_errors, stops.kl_margin)
        or kl_too_high(traces, stops.window, stops.max_kl_ratio * target)
        or collapsed(traces, stops.window, stops.min_distinct)
        or length_drifted(
            traces,
            stops.window,
            stops.min_length_ratio * reference_tokens,
            stops.max_length_ratio * reference_tokens,
        )
        or judges_part(traces, stops.window, stops.max_validation_drop)
    )


def kl_below_zero(traces: Sequence[Trace], window: int, errors: float, margin: float) -> str:
    """The policy found tokens that the estimate counts as less than no change.

    A divergence is above 0. Its estimate from samples may lie below by chance, but hardly by `errors` standard errors;
    less than `margin` nats per token below means nothing, whatever the error.
    """
    kl = _mean(traces, window, "kl")
    error = math.hypot(*(trace["kl_error"] for trace in traces[-window:])) / window
    below = kl < -max(margin, errors * error)
    return f"KL is {kl:.3f} nats per token: below 0 by more than chance" if below else ""


def kl_too_high(traces: Sequence[Trace], window: int, limit: float) -> str:
    kl = _mean(traces, window, "kl")
    return f"KL is {kl:.3f} nats per token, above {limit:.3f}" if kl > limit else ""


def collapsed(traces: Sequence[Trace], window: int, limit: float) -> str:
    """One reply to every prompt."""
    distinct = _mean(traces, window, "distinct_2")
    return f"distinct-2 of a batch is {distinct:.3f}, below {limit:.3f}" if distinct < limit else ""


def length_drifted(traces: Sequence[Trace], window: int, low: float, high: float) -> str:
    tokens = _mean(traces, window, "tokens")
    return "" if low <= tokens <= high else f"replies have {tokens:.1f} tokens, not {low:.1f} to {high:.1f}"


def judges_part(traces: Sequence[Trace], window: int, limit: float) -> str:
    """The validation RM has fallen from its best score, while the training RM, which is the reward, has risen since.

    Both have to hold at every validation within the window, or at the last one if the window holds none.
    """
    validated = [(i, trace) for i, trace in enumerate(traces) if not math.isnan(trace["validation_score"])]
    if not validated:
        return ""
    best = max([REFERENCE, *(trace for _, trace in validated)], key=lambda trace: trace["validation_score"])
    recent = [trace for i, trace in validated if i >= len(traces) - window] or [validated[-1][1]]
    fell = min(best["validation_score"] - trace["validation_score"] for trace in recent)
    rose = min(trace["training_score"] - best["training_score"] for trace in recent)
    if fell > limit and rose > 0:
        return f"the validation RM is {fell:.2f} sd below its best, while the training RM rose by {rose:.2f}"
    return ""


def _mean(traces: Sequence[Trace], window: int, name: str) -> float:
    recent = [trace[name] for trace in traces[-window:]]
    return sum(recent) / len(recent)
