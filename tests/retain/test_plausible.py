"""What a number of a customer can plausibly be, told from a training part."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from retain.dataset import DatasetSpec
from retain.plausible import Plausibility, Ranges, ranges, when_outside
from tests.releases import dataset

TELCO = dataset("telco")
CUSTOMER = {"tenure": 5, "MonthlyCharges": 80.85, "TotalCharges": 404.25}


def table(n: int = 2_000) -> dict[str, Any]:
    """Customers who pay from 20 to 120 dollars a month for up to six years, and a little more or less in all."""
    rng = np.random.default_rng(3)
    tenure, charge = rng.integers(1, 73, n), rng.uniform(20, 120, n)
    return {"tenure": tenure, "MonthlyCharges": charge, "TotalCharges": tenure * charge * rng.uniform(0.8, 1.2, n)}


def outside(spec: DatasetSpec = TELCO, rows: dict[str, Any] | None = None, **changes: Any) -> list[str]:
    return Plausibility(spec, ranges(spec, rows or table())).outside(CUSTOMER | changes)


def described(**changes: Any) -> DatasetSpec:
    """Telco with other words about the monthly charge."""
    columns = [c.model_copy(update=changes) if c.name == "MonthlyCharges" else c for c in TELCO.columns]
    return TELCO.model_copy(update={"columns": tuple(columns)})


def test_those_who_were_learned_from_are_plausible() -> None:
    rows = table()
    plausible = Plausibility(TELCO, ranges(TELCO, rows))
    strange = [plausible.outside(dict(zip(rows, row))) for row in zip(*rows.values())]
    assert strange == [[]] * len(strange)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, []),
        ({"MonthlyCharges": 150.0, "TotalCharges": 700.0}, []),  # dearer than anybody, but not in another unit
        ({"MonthlyCharges": 100_000}, ["MonthlyCharges", "TotalCharges"]),
        ({"MonthlyCharges": 8_085}, ["MonthlyCharges", "TotalCharges"]),  # cents
        ({"MonthlyCharges": 0.8085, "TotalCharges": 4.0425}, ["MonthlyCharges", "TotalCharges"]),  # hundreds of dollars
        ({"TotalCharges": 40_425.0}, ["TotalCharges"]),  # cents
        ({"TotalCharges": 4_042.5}, ["TotalCharges"]),  # in range, but not of five months
        ({"TotalCharges": 80.85}, ["TotalCharges"]),  # the charge once more
        ({"tenure": 1_200}, ["tenure", "TotalCharges"]),
        ({"tenure": 0, "TotalCharges": None}, []),
        ({"tenure": 0, "TotalCharges": 0}, []),
        ({"tenure": 0, "TotalCharges": 80.85}, []),
        ({"tenure": 0, "TotalCharges": 900.0}, ["TotalCharges"]),
        ({"MonthlyCharges": 0}, []),  # nothing to compare the total with
    ],
)
def test_other_units_are_noticed(changes: dict[str, Any], names: list[str]) -> None:
    assert outside(**changes) == names


def test_a_single_odd_row_moves_no_range() -> None:
    rows = table()
    rows["MonthlyCharges"][7] = 100_000
    assert outside(rows=rows, MonthlyCharges=100_000) == ["MonthlyCharges", "TotalCharges"]


def test_a_number_that_stands_for_none_neither_makes_a_range_nor_leaves_it() -> None:
    spec = described(missing=-1.0)
    rows = table()
    rows["MonthlyCharges"][::2] = -1.0
    assert ranges(spec, rows).columns["MonthlyCharges"][1] < 300
    assert outside(spec, rows, MonthlyCharges=-1.0) == []
    assert outside(spec, rows, MonthlyCharges=8_085) == ["MonthlyCharges", "TotalCharges"]


def test_where_most_rows_are_equal_the_others_tell_the_range() -> None:
    rows = table()
    rows["tenure"] = np.where(np.arange(2_000) < 5, 40, 1)
    assert ranges(TELCO, rows).columns["tenure"] == (0.1, 79)


def test_a_column_without_a_value_and_a_total_without_tenure_have_no_range() -> None:
    rows = table() | {"MonthlyCharges": np.full(2_000, np.nan)}
    made = ranges(TELCO, rows)
    assert (set(made.columns), made.total) == ({"tenure", "TotalCharges"}, None)
    assert Plausibility(TELCO, made).outside(CUSTOMER | {"MonthlyCharges": 1e5}) == []
    roles = {role: name for role, name in TELCO.roles.items() if role != "tenure"}
    assert ranges(TELCO.model_copy(update={"roles": roles}), table()).total is None


def test_a_leak_is_no_affair_of_requests() -> None:
    made = ranges(described(leak=True), table())
    assert (set(made.columns), made.total) == ({"tenure", "TotalCharges"}, None)


def test_a_charge_is_refused_and_anything_else_warned_of_unless_the_description_says_otherwise() -> None:
    assert [when_outside(TELCO, name) for name in CUSTOMER] == ["warn", "refuse", "warn"]
    assert when_outside(described(outside="warn"), "MonthlyCharges") == "warn"


def test_ranges_survive_json_and_broken_ones_are_refused() -> None:
    made = ranges(TELCO, table())
    assert Ranges.model_validate_json(made.model_dump_json()) == made
    for broken in (
        '{"columns": {"tenure": [2, 1]}, "total": null}',
        '{"columns": {}, "total": [2, 1]}',
        '{"total": null}',
    ):
        with pytest.raises(ValidationError):
            Ranges.model_validate_json(broken)
