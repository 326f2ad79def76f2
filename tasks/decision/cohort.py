"""Customers of one part of the split, as they enter the simulated year and as they age through it.

A customer's risk is re-scored every month as tenure (and what she was charged so far) grows: margin + f(x_t) - f(x_0),
with f the risk model's trees. For training customers `margin` is out of fold, of trees that did not see whether they
left: on in-fold scores a policy would learn to trust a risk that is surer than any it will meet. For all others it is
f(x_0) itself. The label reads as churn within a quarter.

Acceptance comes over the bridge: the mean score of the bank's clients in the customer's cell. Their spread within the
cell is real and unseen, so it is a latent of the simulator, and the level is not the bank's: it is set (`world`) so
that the risk-weighted mean at one reference discount is the literature's.

Where the assumptions come from:
- Acceptance .30: the mean of the Beta(6, 14) that EMPC takes for the probability of accepting a retention offer
  (Verbraken, Verbeke, Baesens, IEEE TKDE 25, 2013).
- Sleeping dogs: Ascarza, Iyengar, Schleicher (J. Marketing Research 53, 2016): an offer to customers who were not
  leaving raised their churn from 6 to 10 %; +.5 of the log-rate is what that makes over all of them, ln(10 / 6) = .51.
- That who is likeliest to leave is not who is best contacted: Ascarza (J. Marketing Research 55, 2018), two field
  experiments. Effects here grow with the discount and differ between customers of the same risk.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from engine.errors import DataError
from retain.dataset import DatasetSpec, cell, column, protected_columns
from retain.decision import Bridge, DecisionError, opted_out, seen_columns
from retain.features import Featurizer, is_missing, names_without_gaps, without_gaps
from retain.offers import Acceptance, logit
from retain.score import Scorer
from tasks.decision.simulator import Bools, Cohort, Floats, World, check_charges, dog_probability

LEAST = 1e-6  # a score of 0 or 1 has no odds


def load(inputs: Mapping[str, Path], part: str, months: int) -> Cohort:
    """The customers of one `part` (train, validation or test) from the folders of the artifacts `customers`, `risk`
    and `accept`. Raises DataError for customers that no year can be simulated with."""
    spec = DatasetSpec.model_validate_json((inputs["customers"] / "schema.json").read_bytes())
    columns = _columns(inputs["customers"] / "data.parquet", part)
    scored = _columns(inputs["risk"] / "evidence" / "predictions.parquet", part)
    if not len(columns["row"]):
        raise DataError(f"no customer is in the {part} part: nothing to simulate")
    if not np.array_equal(columns["row"], scored["row"]):
        raise DataError("risk was scored on other customers than these: run it again")
    ids = columns[spec.roles["id"]] if "id" in spec.roles else columns["row"]
    for role in ("monthly_charge", "tenure"):
        if role not in spec.roles:
            raise DataError(f"{spec.name} has no column of role {role}: without it no year can be simulated")
    charge = _charges(columns[spec.roles["monthly_charge"]], ids)
    monthly = {spec.roles["tenure"]: np.ones(len(charge))}  # what a month adds to a column
    if "total_charge" in spec.roles:
        monthly[spec.roles["total_charge"]] = charge
    for name in monthly:  # a number that is missing stays so
        monthly[name] = np.where(is_missing(column(spec, name), columns[name]), 0.0, monthly[name])
    margin = scored["margin"].astype(np.float64)
    if not np.isfinite(margin).all():
        raise DataError(f"customer {ids[int(np.argmin(np.isfinite(margin)))]}: the risk is not a number")
    scorer = Scorer.load({name: inputs["risk"] / name for name in Scorer.FILES})
    featurizer = Featurizer.fit(spec, seen_columns(spec))
    try:
        risk = _aged(scorer, columns, margin, monthly, months)
        medians = _medians(inputs, spec, featurizer)
        features = without_gaps(featurizer.transform(columns), featurizer, medians)
    except ValueError as error:
        raise DataError(f"{spec.name}, {part} part: {error}") from None
    acceptance, spread = _acceptance(json.loads((inputs["accept"] / "bridge.json").read_bytes()), spec, columns)
    growth = np.zeros(features.shape, np.float32)
    for name, more in monthly.items():
        growth[:, featurizer.names.index(name)] = more
    return Cohort(
        ids=ids,
        charge=charge,
        margin=logit(np.clip(risk, LEAST, 1 - LEAST)),
        risk=risk,
        acceptance=acceptance,
        spread=spread,
        features=features,
        growth=growth,
        names=names_without_gaps(featurizer),
        opted_out=_opted_out(spec, columns),
        groups=_groups(spec, columns),
        medians=medians,
    )


def revenue(inputs: Mapping[str, Path], months: int) -> float:
    """What all customers of the table, whatever their part, are charged in `months` at the start."""
    spec = DatasetSpec.model_validate_json((inputs["customers"] / "schema.json").read_bytes())
    name = spec.roles["monthly_charge"]
    table = pq.read_table(inputs["customers"] / "data.parquet", columns=[name, spec.roles.get("id", "row")])
    return months * float(_charges(table[0].to_numpy(), table[1].to_numpy()).sum())


def world(assumptions: Any, training: Cohort) -> World:
    """The simulated world of the experiment's `assumptions`; the levels of acceptance and of sleeping dogs are set on
    the training customers, once: held-out customers meet a world that is the same, not one that fits them."""
    accept, dogs, tired = assumptions.acceptance, assumptions.sleeping_dogs, assumptions.fatigue
    made = World(
        label_months=assumptions.label_months,
        effect=tuple(assumptions.effect),
        effect_sd=assumptions.effect_sd,
        hazard_sd=assumptions.hazard_sd,
        acceptance=Acceptance(
            level=0.0,
            shrink=accept.shrink,
            slope=accept.slope,
            unit=accept.unit,
            slope_sd=accept.slope_sd,
            fatigue=accept.fatigue,
        ),
        dogs_level=0.0,
        dogs_loyalty=dogs.loyalty,
        dogs_rate=dogs.rate,
        dogs_months=dogs.months,
        decay=tired.decay,
        tired_rate=tired.rate,
        answered=assumptions.answered,
    )
    weight = training.risk[:, 0] / training.risk[:, 0].sum()

    def accepting(level: float) -> float:
        model = replace(made.acceptance, level=level)
        return float(weight @ model.probability(training.acceptance, training.spread, accept.at))

    def sleeping(level: float) -> float:
        return float(dog_probability(training, replace(made, dogs_level=level)).mean())

    return replace(
        made,
        acceptance=replace(made.acceptance, level=_solve(accepting, accept.mean)),
        dogs_level=_solve(sleeping, dogs.share),
    )


def _solve(share: Any, wanted: float) -> float:
    """Where a rising `share` of a level of log-odds is `wanted`, to 1e-12."""
    low, high = -40.0, 40.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if share(middle) < wanted else (low, middle)
    return (low + high) / 2


def _medians(inputs: Mapping[str, Path], spec: DatasetSpec, featurizer: Featurizer) -> dict[str, float]:
    """What stands for a missing number, by column: the median of the training customers whose number is known."""
    medians = {}
    train = _columns(inputs["customers"] / "data.parquet", "train") if featurizer.gaps else {}
    for name in featurizer.gaps:
        known = train[name][~is_missing(column(spec, name), train[name])]
        if not len(known):
            raise DataError(
                f"{spec.name}: column {name!r} is missing for every training customer: take it out of the description"
            )
        medians[name] = float(np.float32(np.median(known)))
    return medians


def _charges(values: NDArray[Any], ids: NDArray[Any]) -> Floats:
    charge = values.astype(np.float64)
    check_charges(charge, ids)
    return charge


def _columns(path: Path, part: str) -> dict[str, NDArray[Any]]:
    table = pq.read_table(path, filters=[("split", "==", part)])
    return {name: table[name].to_numpy() for name in table.column_names}


def _aged(
    scorer: Scorer, columns: dict[str, NDArray[Any]], margin: Floats, monthly: dict[str, Floats], months: int
) -> Floats:
    """(n, months) calibrated risk as the customers age, from their margins (n,) at the start."""

    def trees(month: int) -> Floats:
        aged = columns | {name: columns[name] + month * more for name, more in monthly.items()}
        return scorer.trees.margins(scorer.featurizer.transform(aged)).astype(np.float64)

    start = trees(0)
    return np.stack([scorer.calibration(margin + trees(month) - start) for month in range(months)], axis=1)


def _acceptance(bridge: dict[str, Any], spec: DatasetSpec, columns: dict[str, NDArray[Any]]) -> tuple[Floats, Floats]:
    """(n,) the bridge's score of each customer, and the standard deviation of its log-odds within the cell.

    A table without the bridge's roles is one cell: everybody's. Raises DataError for a cell that holds customers but
    had no client of the bank.
    """
    try:
        cells, known = bridge["cells"], Bridge(bridge, spec)
    except DecisionError as error:
        raise DataError(str(error)) from None
    if not any(found["rows"] for found in cells.values()):
        raise DataError("the bridge has no client of the bank in any cell: run `accept` on more campaigns")
    names = [part.column for part in spec.bridge]
    lists = [columns[name].tolist() for name in names]
    customers = [dict(zip(names, (of[i] for of in lists))) for i in range(len(columns["row"]))]
    if known.warning is None:
        places = {cell(spec, values, known.roles) for values in customers}
        empty = sorted(place for place in places if not cells.get(place, {"rows": 0})["rows"])
        if empty:
            raise DataError(
                f"bridge cell {empty[0]} ({', '.join(known.roles)}) has customers, but no client of the bank: "
                "run `accept` on more campaigns, or match by fewer roles"
            )
    score, spread = np.array([known.score(values) for values in customers]).T
    return score, spread


def _opted_out(spec: DatasetSpec, columns: dict[str, NDArray[Any]]) -> Bools:
    name = spec.roles.get("do_not_contact")
    if name is None:
        return np.zeros(len(columns["row"]), np.bool_)
    return np.array([opted_out(spec, {name: value}) for value in columns[name].tolist()])


def _groups(spec: DatasetSpec, columns: dict[str, NDArray[Any]]) -> dict[tuple[str, str], Bools]:
    """(protected column, value or band) -> who is in it."""
    found: dict[tuple[str, str], Bools] = {}
    for protected in protected_columns(spec):
        name, values = protected.name, columns[protected.name]
        if protected.kind == "number":
            missing = is_missing(protected, values)
            for low, high in pairwise((-np.inf, *protected.bands, np.inf)):
                found[name, f"{low:g} to below {high:g}"] = np.asarray((values >= low) & (values < high) & ~missing)
            if missing.any():
                found[name, "missing"] = missing
        else:
            found |= {(name, str(value)): np.asarray(values == value) for value in protected.values}
    return found
