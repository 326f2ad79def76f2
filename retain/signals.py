"""The four signals of a challenger that decides about customers: errors, latency, unsafe messages, NRR proxy.

Each is passed, failed, or can't be told yet: too few samples are no reason to go on, and none to give up. They are
counted before the guards that keep a customer from noticing: an answer that the baseline had to give is an error, and a
message that was chosen and refused is unsafe.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from retain.frozen import Frozen
from retain.monitoring import Monitoring, RateLimit

Verdict = Literal["pass", "fail", "hold"]

ERRORS, LATENCY, UNSAFE, NRR = SIGNALS = ("errors", "latency_p95", "unsafe", "nrr")
SLOW = 0.05  # more than this share above the limit is a 95th percentile above it


class Figure(Frozen):
    """One figure with its verdict. `samples`: what it was told from; `says` why, in a sentence."""

    name: Annotated[str, Field(min_length=1)]
    verdict: Verdict
    value: float | None
    limit: float | None
    samples: int
    says: str


class Counts(NamedTuple):
    """Of the challenger's arm, while it was watched; fractions, as Prometheus' increase() gives them.

    `slow` of `timed` answers took longer than the limit. `matured`: decisions as retain/trial.py counts them; `nrr`:
    the mean of their NRR proxy, as a share of charges; both of the baseline's arm as well.
    """

    decisions: float
    errors: float
    timed: float
    slow: float
    messages: float
    unsafe: float
    matured: float
    nrr: float
    baseline_matured: float
    baseline_nrr: float


def verdicts(counts: Counts, limits: Monitoring) -> tuple[Figure, ...]:
    """One figure for each of SIGNALS, in that order. A count that is no number, as of no traffic, tells nothing."""
    few = limits.error_rate.min_samples
    slow = RateLimit(limit=SLOW, min_samples=few, min_events=1)
    late = f"answers took longer than {limits.latency_p95.limit_ms:.0f} ms"
    return (
        _share(ERRORS, counts.errors, counts.decisions, limits.error_rate, "decisions failed"),
        _share(LATENCY, counts.slow, counts.timed, slow, late),
        _share(UNSAFE, counts.unsafe, counts.messages, limits.unsafe_rate, "messages were chosen and may not be sent"),
        _drop(counts, limits),
    )


def _share(name: str, events: float, samples: float, limit: RateLimit, what: str) -> Figure:
    if not (math.isfinite(events) and math.isfinite(samples)):
        return Figure(name=name, verdict="hold", value=None, limit=limit.limit, samples=0, says="was not counted")
    rate = events / samples if samples > 0 else None
    says = f"{events:.0f} of {samples:.0f} {what}"
    verdict: Verdict = "hold"
    if rate is None or samples < limit.min_samples:
        says += f"; at least {limit.min_samples} are wanted"
    elif rate <= limit.limit:
        verdict = "pass"
    elif events < limit.min_events:
        says += ": too few to tell from chance"
    else:
        verdict = "fail"
    return Figure(name=name, verdict=verdict, value=rate, limit=limit.limit, samples=int(samples), says=says)


def _drop(counts: Counts, limits: Monitoring) -> Figure:
    """How far the challenger's mean is below the baseline's."""
    limit, wanted = limits.nrr_proxy_drop.limit, limits.nrr_proxy_drop.min_samples
    matured = counts.matured, counts.baseline_matured
    samples = int(min(matured)) if all(map(math.isfinite, matured)) else 0
    drop = counts.baseline_nrr - counts.nrr
    value = drop if math.isfinite(drop) else None
    if value is None or samples < wanted:
        says = f"{samples} decisions of an arm have matured, where {wanted} are wanted"
        return Figure(name=NRR, verdict="hold", value=value, limit=limit, samples=samples, says=says)
    says = f"NRR proxy of the challenger less the baseline's: {-value:+.4f}"
    verdict: Verdict = "pass" if value <= limit else "fail"
    return Figure(name=NRR, verdict=verdict, value=value, limit=limit, samples=samples, says=says)
