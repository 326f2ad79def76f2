"""The baseline's decision, what forbids a contact, and the bridge."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retain.decision import Bridge, DecisionError, History, ThresholdRule, decide, opted_out
from tests.releases import RULE, dataset

RULES = ThresholdRule.from_json(RULE)
BRIDGE: dict[str, Any] = {
    "roles": ["senior", "partner", "paperless"],
    "cells": {"0,1,0": {"acceptance": 0.3, "rows": 5, "sd": 0.1}, "1,1,1": {"acceptance": 0.4, "rows": 5, "sd": 0.1}},
    "overall": 0.12,
}


@pytest.mark.parametrize(
    ("risk", "action", "offer", "why"),
    [
        (0.5, "contact", 10, "risk_at_threshold"),
        (0.9, "contact", 10, "risk_at_threshold"),
        (math.nextafter(0.5, 0), "no_contact", None, "risk_below_threshold"),
        (0.0, "no_contact", None, "risk_below_threshold"),
        (math.nan, "no_contact", None, "risk_below_threshold"),
    ],
)
def test_whoever_reaches_the_threshold_gets_the_fixed_offer(risk: float, action: str, offer: int, why: str) -> None:
    decision = decide(RULES, risk, 0.1)
    assert (decision.action, decision.offer, decision.why, decision.acceptance) == (action, offer, why, 0.1)


@pytest.mark.parametrize(
    ("history", "out", "why"),
    [
        (History(), True, "do_not_contact"),
        (History(contacts=(1, 1), running_offer=10, months_left=2), True, "do_not_contact"),
        (History(running_offer=5, months_left=1), False, "running_offer"),
        (History(contacts=(2,), running_offer=5, months_left=1), False, "running_offer"),
        (History(contacts=(0, 1, 1)), False, "contact_cap"),
        (History(contacts=(9,)), False, "contact_cap"),
        (History(contacts=(0, 0, 1)), False, "risk_at_threshold"),
        (History(contacts=(2, 0, 0, 1)), False, "risk_at_threshold"),  # four months ago is beyond the cap's three
        (
            History(running_offer=10, months_left=0),
            False,
            "running_offer",
        ),  # a contradiction: nobody is contacted on it
        (History(running_offer=0, months_left=3), False, "running_offer"),
        (History(months_left=3), False, "running_offer"),
        (History(running_offer=0, months_left=0), False, "risk_at_threshold"),
        (History(accepted=3, declined=2), False, "risk_at_threshold"),
    ],
)
def test_nobody_is_contacted_against_the_rules(history: History, out: bool, why: str) -> None:
    decision = decide(RULES, 0.99, 0.1, history, out)
    assert decision.why == why
    assert (decision.action == "contact") == (why == "risk_at_threshold")
    assert (decision.offer is None) == (decision.action == "no_contact")


@given(
    risk=st.floats(0, 1),
    contacts=st.lists(st.integers(0, 3), max_size=3),
    running=st.sampled_from([None, 0, 5, 10]),
    left=st.integers(0, 6),
    out=st.booleans(),
)
def test_a_contact_never_breaks_cap_opt_out_or_running_offer(
    risk: float, contacts: list[int], running: int | None, left: int, out: bool
) -> None:
    decision = decide(RULES, risk, 0.2, History(tuple(contacts), running, left), out)
    forbidden = out or sum(contacts) >= 2 or bool(running or left)
    assert (decision.action == "contact") == (risk >= 0.5 and not forbidden)


def test_the_bridge_gives_a_cell_s_acceptance() -> None:
    bridge = Bridge(BRIDGE, dataset("telco"))
    assert bridge.warning is None
    row = {"SeniorCitizen": 0, "Partner": "Yes", "PaperlessBilling": "No"}
    assert bridge.acceptance(row) == 0.3
    assert bridge.acceptance(row | {"SeniorCitizen": 1, "PaperlessBilling": "Yes"}) == 0.4
    assert bridge.acceptance(row | {"SeniorCitizen": 1}) == 0.12  # a cell nobody was seen in


def test_a_table_without_the_roles_uses_one_cell_and_says_so() -> None:
    bridge = Bridge(BRIDGE, dataset("telco", bridge=[]))
    assert bridge.acceptance({"SeniorCitizen": 0}) == 0.12
    assert bridge.warning is not None
    assert "senior, partner, paperless" in bridge.warning


@pytest.mark.parametrize(
    "change",
    [
        {"cells": {"0,1,0": {"rows": 5}}},
        {"cells": [1]},
        {"cells": {"0,1,0": {"acceptance": 1.5}}},
        {"cells": {"0,1,0": {"acceptance": math.nan}}},
        {"overall": "much"},
        {"overall": -0.1},
        {"roles": None},
    ],
)
def test_a_broken_bridge_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(DecisionError, match=r"^bridge\.json: "):
        Bridge(BRIDGE | change, dataset("telco"))


@pytest.mark.parametrize(
    "change",
    [
        {"rule": "coin"},
        {"extra": 1},
        {"threshold": 0},
        {"threshold": 1.0},
        {"threshold": True},
        {"threshold": math.nan},
        {"offer": 15},
        {"offers": [0, 10.0]},
        {"offers": [0, 10, 120]},
        {"offers": None},
        {"max_contacts": 0},
        {"cap_months": 2.5},
        {"offer_months": 13},
        {"reasons": 0},
    ],
)
def test_a_broken_rule_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(DecisionError, match=r"^decision\.json: "):
        ThresholdRule.from_json(RULE | change)


def test_a_rule_that_lacks_a_key_is_refused() -> None:
    with pytest.raises(DecisionError, match="wants rule: threshold"):
        ThresholdRule.from_json({"rule": "threshold"})


def test_the_opt_out_is_read_from_its_role() -> None:
    telco = dataset("telco")
    assert not opted_out(telco, {"Partner": "Yes"})
    roles = {role: name for role, name in telco.roles.items() if role != "support"}
    flag = dataset("telco", roles=roles | {"do_not_contact": "Partner"})
    assert opted_out(flag, {"Partner": "Yes"})
    assert not opted_out(flag, {"Partner": "No"})
    number = dataset("telco", roles=roles | {"do_not_contact": "MonthlyCharges"})
    assert opted_out(number, {"MonthlyCharges": 1})
    assert not opted_out(number, {"MonthlyCharges": 0})


def test_a_blank_opt_out_is_an_opt_out() -> None:
    telco = dataset("telco")
    for name in ("Contract", "MonthlyCharges", "PaperlessBilling"):
        roles = {role: column for role, column in telco.roles.items() if column != name}
        spec = dataset("telco", roles=roles | {"do_not_contact": name})
        assert opted_out(spec, {name: None})
        assert opted_out(spec, {})
