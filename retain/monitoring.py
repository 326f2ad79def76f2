"""Limits of what is watched of an arm, in shadow and on customers: an experiment states them, a release holds them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from retain.frozen import Frozen

_Fraction = Annotated[float, Field(gt=0, lt=1)]
_Count = Annotated[int, Field(ge=1)]


class RateLimit(Frozen):
    """Of a share. With fewer samples than stated nothing is concluded, and a rate above the limit counts only from
    `min_events` on."""

    limit: _Fraction
    min_samples: _Count
    min_events: _Count


class LatencyLimit(Frozen):
    limit_ms: Annotated[float, Field(gt=0)]


class ValueLimit(Frozen):
    """How far the learned arm's NRR proxy may be below the baseline's, as a share of charges."""

    limit: _Fraction
    min_samples: _Count


class Monitoring(Frozen):
    error_rate: RateLimit
    latency_p95: LatencyLimit
    unsafe_rate: RateLimit
    nrr_proxy_drop: ValueLimit
