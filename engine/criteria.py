"""Exit criteria: which metrics reach them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

OPERATORS = {"at_least": ">=", "above": ">", "at_most": "<=", "below": "<"}


class Criterion(BaseModel):
    """One limit on one metric; a criterion that isn't gating is shown and stops nothing.

    `kind` is a word for what it is about, which whoever acts on a verdict may go by; the judgement doesn't.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    gating: bool = True
    kind: str | None = None

    @model_validator(mode="after")
    def _one_limit(self) -> Criterion:
        if sum(getattr(self, name) is not None for name in OPERATORS) != 1:
            raise ValueError(f"states exactly one limit of {', '.join(OPERATORS)}")
        return self

    @property
    def limit(self) -> float:
        return next(float(v) for v in (self.at_least, self.above, self.at_most, self.below) if v is not None)

    @property
    def op(self) -> str:
        return next(sign for name, sign in OPERATORS.items() if getattr(self, name) is not None)

    def holds(self, value: float) -> bool:
        """False for NaN: what could not be measured has not passed."""
        match self.op:
            case ">=":
                return value >= self.limit
            case ">":
                return value > self.limit
            case "<=":
                return value <= self.limit
            case _:
                return value < self.limit


@dataclass(frozen=True)
class Verdict:
    stage: str
    metric: str
    value: float | None
    ci: tuple[float, float] | None
    op: str
    limit: float
    gating: bool
    kind: str | None
    passed: bool

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"ci": list(self.ci) if self.ci else None}

    def __str__(self) -> str:
        value = "missing" if self.value is None else f"{self.value:.4g}"
        return f"{self.stage} {self.metric} {value} (wanted {self.op} {self.limit:g})"


def check_criteria(
    stage: str, metrics: Mapping[str, Mapping[str, Any]], criteria: Mapping[str, Criterion]
) -> list[Verdict]:
    """A verdict for each criterion, in the order they are stated; a metric that is missing or NaN fails."""
    return [_verdict(stage, name, metrics.get(name, {}), criterion) for name, criterion in criteria.items()]


def _verdict(stage: str, name: str, metric: Mapping[str, Any], criterion: Criterion) -> Verdict:
    raw = metric.get("value")
    value = float(raw) if isinstance(raw, int | float) and not math.isnan(raw) else None
    ci = metric.get("ci")
    return Verdict(
        stage=stage,
        metric=name,
        value=value,
        ci=(float(ci[0]), float(ci[1])) if ci else None,
        op=criterion.op,
        limit=criterion.limit,
        gating=criterion.gating,
        kind=criterion.kind,
        passed=value is not None and criterion.holds(value),
    )
