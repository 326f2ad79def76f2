"""Limits of what is watched of an arm, in shadow and on customers: an experiment states them, a release holds them."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

_Fraction = Annotated[float, Field(gt=0, lt=1)]
_Count = Annotated[int, Field(ge=1)]


class _Block(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class RateLimit(_Block):
    """Of a share. With fewer samples than stated nothing is concluded, and a rate above the limit counts only from
    `min_events` on."""

    limit: _Fraction
    min_samples: _Count
    min_events: _Count


class LatencyLimit(_Block):
    limit_ms: Annotated[float, Field(gt=0)]


class ValueLimit(_Block):
    """How far the learned arm's NRR proxy may be below the baseline's, as a share of charges."""

    limit: _Fraction
    min_samples: _Count


class Monitoring(_Block):
    error_rate: RateLimit
    latency_p95: LatencyLimit
    unsafe_rate: RateLimit
    nrr_proxy_drop: ValueLimit
