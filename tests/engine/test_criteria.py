"""What is reached exactly, what is missing, and what only shows."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from engine.criteria import Criterion, Verdict, check_criteria
from engine.stage import Metrics

BELOW, AT, ABOVE = math.nextafter(0.78, 0), 0.78, math.nextafter(0.78, 1)


def verdict(metric: Any, **criterion: Any) -> Verdict:
    metrics = {} if metric is None else {"auc": metric}
    [one] = check_criteria("risk", metrics, {"auc": Criterion(**criterion)})
    return one


@pytest.mark.parametrize(
    ("limit", "op", "passed"),
    [
        ("at_least", ">=", (False, True, True)),
        ("above", ">", (False, False, True)),
        ("at_most", "<=", (True, True, False)),
        ("below", "<", (True, False, False)),
    ],
)
def test_each_operator_below_at_and_above_its_limit(limit: str, op: str, passed: tuple[bool, bool, bool]) -> None:
    for value, expected in zip((BELOW, AT, ABOVE), passed, strict=True):
        one = verdict({"value": value}, **{limit: AT})
        assert (one.passed, one.op, one.limit, one.value) == (expected, op, AT, value)


@pytest.mark.parametrize("limit", ["at_least", "above", "at_most", "below"])
@pytest.mark.parametrize("metric", [None, {}, {"value": None}, {"value": math.nan}, {"value": "0.9"}])
def test_what_could_not_be_measured_fails(limit: str, metric: Any) -> None:
    for threshold in (-1e9, 0.0, 1e9):
        one = verdict(metric, **{limit: threshold})
        assert not one.passed
        assert one.value is None
        assert "missing" in str(one)


def test_zero_is_a_limit_and_a_value() -> None:
    assert verdict({"value": 0.0}, at_most=0.0).passed
    assert verdict({"value": 0}, at_least=0).passed
    assert not verdict({"value": 0}, above=0).passed
    assert verdict({"value": -0.5}, below=0).limit == 0.0


@pytest.mark.parametrize(
    "limits",
    [{}, {"gating": True}, {"at_least": 1.0, "below": 2.0}, {"at_least": 1.0, "above": 1.0}, {"at_most": None}],
)
def test_a_criterion_states_exactly_one_limit(limits: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="exactly one limit of at_least, above, at_most, below"):
        Criterion(**limits)


@pytest.mark.parametrize(
    "keys",
    [
        {"at_least": "0.78"},
        {"at_least": True},
        {"at_least": math.nan},
        {"below": math.inf},
        {"at_least": 0.78, "gating": 1},
        {"at_least": 0.78, "limit": 3},
        {"atleast": 0.78},
    ],
)
def test_a_criterion_with_a_wrong_key_or_type(keys: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Criterion.model_validate_json(json.dumps(keys))


def test_gating_passes_through_and_does_not_change_the_judgement() -> None:
    assert verdict({"value": 0.5}, at_least=0.78).gating
    shown = verdict({"value": 0.5}, at_least=0.78, gating=False)
    assert (shown.gating, shown.passed) == (False, False)
    assert verdict({"value": 0.8}, at_least=0.78, gating=False).passed


def test_a_kind_passes_through_and_does_not_change_the_judgement() -> None:
    for kind in (None, "safety", "anything"):
        assert (verdict({"value": 0.5}, at_least=0.78, kind=kind).kind) == kind
        assert [verdict({"value": value}, at_least=0.78, kind=kind).passed for value in (0.5, 0.8)] == [False, True]


def test_verdicts_come_in_the_order_of_the_criteria_and_only_for_them() -> None:
    metrics: Metrics = {"auc": {"value": 0.85}, "ece": {"value": 0.02}, "rows": {"value": 7032}}
    criteria = {"ece": Criterion(below=0.05), "brier": Criterion(below=0.2), "auc": Criterion(at_least=0.78)}
    assert [(v.stage, v.metric, v.passed) for v in check_criteria("risk", metrics, criteria)] == [
        ("risk", "ece", True),
        ("risk", "brier", False),
        ("risk", "auc", True),
    ]
    assert check_criteria("risk", metrics, {}) == []


def test_as_dict_has_exactly_the_keys_that_a_reader_is_promised() -> None:
    one = verdict({"value": 0.85, "ci": [0.83, 0.87], "n": 2110}, at_least=0.78)
    assert one.as_dict() == {
        "stage": "risk",
        "metric": "auc",
        "value": 0.85,
        "ci": [0.83, 0.87],
        "op": ">=",
        "limit": 0.78,
        "gating": True,
        "kind": None,
        "passed": True,
    }
    without = verdict(None, below=1).as_dict()
    assert without.keys() == one.as_dict().keys()
    assert (without["value"], without["ci"]) == (None, None)
    assert json.loads(json.dumps(one.as_dict(), allow_nan=False)) == one.as_dict()


def test_a_verdict_reads_as_a_line() -> None:
    assert str(verdict({"value": 0.5}, at_least=0.78)) == "risk auc 0.5 (wanted >= 0.78)"


finite = st.floats(allow_nan=False, allow_infinity=False)


@given(value=finite, limit=finite)
def test_opposite_operators_never_agree(value: float, limit: float) -> None:
    def passed(op: str) -> bool:
        return verdict({"value": value}, **{op: limit}).passed

    assert passed("at_least") != passed("below")
    assert passed("above") != passed("at_most")
    assert passed("at_least") == (passed("above") or value == limit)
