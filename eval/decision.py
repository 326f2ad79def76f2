"""The artifact of `decision` as it is read back: one model for each of its JSON files, and the curves' means.

Amounts are shares: NRR, lift and offer cost of 12 x the starting monthly revenue; gains are relative to the best
baseline.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from engine.artifact import ArtifactStore, open_artifact
from engine.errors import ArtifactError, RetainError
from engine.store import open_store, store_url

DECISION = "decision"
LEARNED, NOBODY, DP, BOUND = "lagrangian_ppo", "no_contact", "dp_on_features", "upper_bound"


class _Part(BaseModel):
    """Of a JSON file of the artifact: what is read here. It may hold more."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)


class Measure(_Part):
    """A value with its 95 % interval, where it has one."""

    value: float
    ci: tuple[float, float] | None = None


class PolicyRow(_Part):
    """A policy on the held-out customers. None: it has no such figure (the bound attempts nothing).

    `refused`: what the wallet didn't admit, of the offers wanted and allowed. The bound's `nrr_at_risk` is that of a
    year in which the whole budget is for customers at risk.
    """

    policy: str
    nrr: Measure
    lift: Measure
    nrr_at_risk: Measure | None
    exit_nrr: Measure | None
    offer_cost: Measure
    attempted_overspend: Measure | None
    refused: Measure | None
    executed_violations: Measure | None
    over_cap: Measure | None


class Comparison(_Part):
    part: str
    customers: int
    at_risk: int
    years: int
    seeds: int
    budget: float
    best_baseline: str
    rows: Annotated[tuple[PolicyRow, ...], Field(min_length=1)]
    gains: Mapping[str, Measure]

    @cached_property
    def by_policy(self) -> dict[str, PolicyRow]:
        return {row.policy: row for row in self.rows}


class WorldRow(_Part):
    """`peak`: the most ever committed, as a share of the budget; `fell_back`: years in which the wallet went over to
    worst_case, as a share."""

    policy: str
    nrr: float
    lift: float
    offer_cost: float
    peak: float
    over_cap: float
    fell_back: float


class ChangedWorld(_Part):
    world: str
    rows: tuple[WorldRow, ...]


class BudgetRow(_Part):
    budget: float
    policy: str
    nrr: float
    lift: float
    offer_cost: float


class GroupRow(_Part):
    """`offer_share`: offers for each customer and year."""

    policy: str
    offer_share: float
    lift: Measure


class Group(_Part):
    column: str
    value: str | int | float | bool
    customers: int
    rows: tuple[GroupRow, ...]


class Tuning(_Part):
    """How a baseline was tuned: the setting chosen, what it reached on training customers, what else was tried."""

    setting: Mapping[str, float]
    nrr: float
    cost: float
    evaluations: tuple[Mapping[str, float], ...]


class OffPolicy(_Part):
    verdict: str
    gain: Measure
    true_gain: float
    reasons: tuple[str, ...]
    estimates: Mapping[str, Measure]
    effective: float


class _Budget(_Part):
    amount: float
    months: int


class _Offers(_Part):
    currency: str


class Terms(_Part):
    """What holds for every arm; `budget.amount` in currency, for all customers of the table in `months`."""

    wallet: str
    budget: _Budget
    offers: _Offers


@dataclass(frozen=True)
class Report:
    """What is read of the artifact. `raw`: the JSON files as they are; `curves`: column -> its means over seeds, in
    order of the iterations at which it was measured."""

    experiment: str
    folder: Path
    terms: Terms
    comparison: Comparison
    worlds: tuple[ChangedWorld, ...]
    budgets: tuple[BudgetRow, ...]
    groups: tuple[Group, ...]
    tuning: Mapping[str, Tuning]
    off_policy: Mapping[str, OffPolicy]
    metrics: Mapping[str, Measure]
    curves: Mapping[str, tuple[float, ...]]
    raw: Mapping[str, Any]


FILES: Mapping[str, TypeAdapter[Any]] = {
    "terms": TypeAdapter(Terms),
    "comparison": TypeAdapter(Comparison),
    "worlds": TypeAdapter(tuple[ChangedWorld, ...]),
    "budgets": TypeAdapter(tuple[BudgetRow, ...]),
    "groups": TypeAdapter(tuple[Group, ...]),
    "tuning": TypeAdapter(dict[str, Tuning]),
    "off_policy": TypeAdapter(dict[str, OffPolicy]),
    "metrics": TypeAdapter(dict[str, Measure]),
}


def read(folder: Path, experiment: str) -> Report:
    """The artifact of `decision` in `folder`. Raises ArtifactError for one that is damaged or not of this kind."""
    files = open_artifact(folder)
    for name in ("curves.parquet", *(f"{name}.json" for name in FILES)):
        if name not in files:
            raise ArtifactError(f"{folder}: holds no {name}, so there is nothing to compare; remove it and run again")
    found: dict[str, Any] = {}
    raw: dict[str, Any] = {}
    for name, kind in FILES.items():
        data = files[f"{name}.json"].read_bytes()
        try:
            found[name] = kind.validate_json(data)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "as a whole"
            raise ArtifactError(f"{folder}: {name}.json: {where}: {first['msg']}; run the stage again") from None
        raw[name] = json.loads(data)
    _complete(found["comparison"], folder)
    return Report(experiment, folder, **found, curves=_curves(files["curves.parquet"], folder), raw=raw)


def latest(experiment: str, argument: str) -> Report:
    """Of the artifact that completed last, for which EXPERIMENT is set to `argument`. Raises RetainError where there is
    none."""
    folder = ArtifactStore(open_store(store_url()), experiment).folder_of_current(DECISION)
    if folder is None:
        raise RetainError(
            f"{experiment}: stage {DECISION} has not completed yet, so there is nothing to compare. "
            f"Run make train.ppo.decision EXPERIMENT={argument}"
        )
    return read(folder, experiment)


def _complete(comparison: Comparison, folder: Path) -> None:
    """Everything is read against these rows."""
    for policy in (NOBODY, comparison.best_baseline, LEARNED, DP, BOUND):
        if policy not in comparison.by_policy:
            raise ArtifactError(f"{folder}: comparison.json has no row of {policy!r}; run the stage again")


def _curves(path: Path, folder: Path) -> dict[str, tuple[float, ...]]:
    """column -> its mean over seeds, of each iteration at which it was measured."""
    import pyarrow as pa  # slow to import, and only this needs it
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError):
        raise ArtifactError(f"{folder}: curves.parquet is no table; run the stage again") from None
    if "iteration" not in table.column_names:
        raise ArtifactError(f"{folder}: curves.parquet has no column iteration; run the stage again")
    iterations = table["iteration"].to_pylist()
    means = {}
    for name in table.column_names:
        if name in ("seed", "iteration"):
            continue
        at: dict[float, list[float]] = {}
        for iteration, value in zip(iterations, table[name].to_pylist()):
            if value is not None and math.isfinite(value):
                at.setdefault(iteration, []).append(value)
        means[name] = tuple(sum(values) / len(values) for _, values in sorted(at.items()))
    return means
