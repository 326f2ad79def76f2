"""Limits of what is watched of an arm, in shadow and on customers: an experiment states them, a release holds them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from retain.frozen import Frozen

# Of the service's histograms of seconds: how many answers took longer can be told at these alone.
SECONDS_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

_Fraction = Annotated[float, Field(gt=0, lt=1)]
_Count = Annotated[int, Field(ge=1)]


class RateLimit(Frozen):
    """Of a share. With fewer samples than stated nothing is concluded, and a rate above the limit counts only from
    `min_events` on."""

    limit: _Fraction
    min_samples: _Count
    min_events: _Count


class LatencyLimit(Frozen):
    """One of SECONDS_BOUNDS: at any other limit the alerts on latency would never fire."""

    limit_ms: Annotated[float, Field(gt=0)]

    @field_validator("limit_ms")
    @classmethod
    def _is_a_bound(cls, limit_ms: float) -> float:
        if limit_ms / 1000 not in SECONDS_BOUNDS:
            bounds = ", ".join(f"{bound * 1000:g}" for bound in SECONDS_BOUNDS)
            raise ValueError(f"{limit_ms:g} ms is no bound of the service's histograms, which are {bounds} ms")
        return limit_ms


class ValueLimit(Frozen):
    """How far the learned arm's NRR proxy may be below the baseline's, as a share of charges."""

    limit: _Fraction
    min_samples: _Count


class Monitoring(Frozen):
    error_rate: RateLimit
    latency_p95: LatencyLimit
    unsafe_rate: RateLimit
    nrr_proxy_drop: ValueLimit
