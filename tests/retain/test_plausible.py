"""What a number of a customer can plausibly be, told from a training part."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from retain.dataset import DatasetSpec
from retain.plausible import Plausibility, Ranges, ranges, rows_outside, when_outside
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


def paying(charges: NDArray[np.float64]) -> dict[str, Any]:
    """The same customers with other monthly charges."""
    rows = table(len(charges))
    return rows | {"MonthlyCharges": charges, "TotalCharges": rows["tenure"] * charges}


def lognormal(n: int = 7_000) -> dict[str, Any]:
    return paying(np.random.default_rng(5).lognormal(3.4, 1.5, n))


def enterprises(n: int = 2_000) -> dict[str, Any]:
    """0.5 % pay near 900, everybody else near 30."""
    rng = np.random.default_rng(6)
    return paying(np.where(np.arange(n) % 200 == 0, rng.normal(900, 50, n), rng.normal(30, 3, n)))


@pytest.mark.parametrize("rows", [table(), lognormal(), enterprises(), paying(np.full(500, 29.99))])
def test_those_who_were_learned_from_are_plausible(rows: dict[str, Any]) -> None:
    assert rows_outside(TELCO, ranges(TELCO, rows), rows) == {}


@pytest.mark.parametrize("rows", [paying(np.full(500, 29.99)), paying(np.linspace(29.9, 30.1, 500))])
def test_a_price_rise_is_plausible_where_all_pay_about_the_same_and_cents_are_not(rows: dict[str, Any]) -> None:
    for charge in (9.99, 31.99, 59.98):
        assert outside(rows=rows, MonthlyCharges=charge, TotalCharges=5 * charge) == []
    for charge in (0.2999, 2_999):
        assert "MonthlyCharges" in outside(rows=rows, MonthlyCharges=charge, TotalCharges=5 * charge)


def test_cents_are_noticed_beside_enterprises() -> None:
    assert outside(rows=enterprises(), MonthlyCharges=90_000) == ["MonthlyCharges", "TotalCharges"]


def test_rows_outside_are_told_the_largest_first() -> None:
    rows = table() | {"TotalCharges": np.full(2_000, np.nan)}
    rows["MonthlyCharges"][:4] = (0.5, 100_000, 0, 8_085)
    assert rows_outside(TELCO, ranges(TELCO, rows), rows) == {"MonthlyCharges": [100_000, 8_085, 0.5]}
    rows = table()
    rows["TotalCharges"][7] *= 10
    assert rows_outside(TELCO, ranges(TELCO, rows), rows) == {"TotalCharges": [rows["TotalCharges"][7]]}


def test_free_customers_make_low_charges_plausible_and_no_high_one_strange() -> None:
    rows = table()
    free = rows["tenure"] <= 36
    some = ranges(TELCO, rows | {"MonthlyCharges": np.where(free, 0, rows["MonthlyCharges"])}).columns["MonthlyCharges"]
    assert some[0] == 0
    assert some[1] == pytest.approx(ranges(TELCO, rows).columns["MonthlyCharges"][1], rel=0.05)
    charges = np.where(np.arange(2_000) < 3, 30.0, 0)
    assert ranges(TELCO, rows | {"MonthlyCharges": charges}).columns["MonthlyCharges"] == (0, 150)
    assert "MonthlyCharges" not in ranges(TELCO, rows | {"MonthlyCharges": np.zeros(2_000)}).columns


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


@pytest.mark.parametrize("odd", [1, 4])
def test_a_few_odd_rows_move_no_range(odd: int) -> None:
    rows = table()
    rows["MonthlyCharges"][:odd] = 100_000
    assert outside(rows=rows, MonthlyCharges=100_000) == ["MonthlyCharges", "TotalCharges"]


def test_a_number_that_stands_for_none_neither_makes_a_range_nor_leaves_it() -> None:
    spec = described(missing=-1.0)
    rows = table()
    rows["MonthlyCharges"][::2] = -1.0
    known = {name: values[1::2] for name, values in rows.items()}
    assert ranges(spec, rows).columns["MonthlyCharges"] == ranges(spec, known).columns["MonthlyCharges"]
    assert outside(spec, rows, MonthlyCharges=-1.0) == []
    assert outside(spec, rows, MonthlyCharges=8_085) == ["MonthlyCharges", "TotalCharges"]


def test_a_few_rows_tell_the_range_where_all_others_are_equal() -> None:
    rows = table()
    rows["tenure"] = np.where(np.arange(2_000) < 5, 40, 1)
    assert ranges(TELCO, rows).columns["tenure"] == (0.2, 200)


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
