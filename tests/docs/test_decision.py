"""docs/DECISION.md states the locked experiment's numbers, wherever and in whatever words it does."""

from __future__ import annotations

import math
import re

import pytest

from flows.plan import load_experiment
from retain import wallet
from tests.docs.documents import first_cell, lacks, read, row, section

TEXT = read("docs/DECISION.md")
EXPERIMENT = load_experiment("exp_001_mvp")
DECISION = EXPERIMENT.stages.decision
ASSUMED = DECISION.assumptions
CRITERIA = EXPERIMENT.criteria["decision"]


def test_it_stays_short() -> None:
    """Two pages."""
    assert len(re.findall(r"\S*\w\S*", TEXT)) <= 1200


@pytest.mark.parametrize(
    ("heading", "values"),
    [
        ("The decision", (*DECISION.offers.levels, DECISION.offers.months)),
        ("The decision", (DECISION.offers.contact_cost, 100 * DECISION.budget)),
        ("The decision", (DECISION.cap.max_contacts, DECISION.cap.window)),
        ("The simulated year", (DECISION.months,)),
        ("What is promised", (wallet.DOUBT,)),
        ("What is promised", (wallet.OVERDRAW,)),
        ("How the comparison is fair", (DECISION.threshold_offer,)),
        ("How the comparison is fair", (DECISION.search.log_years,)),
        ("How the comparison is fair", (100 * DECISION.evaluation.cost,)),
        ("How to read it", (100 * DECISION.evaluation.at_risk_from,)),
        ("How to read it", (100 * CRITERIA["nrr_gain"].limit,)),
    ],
)
def test_a_section_states_the_settings_that_it_is_about(heading: str, values: tuple[float, ...]) -> None:
    """The numbers have to be there; how the section is worded is free."""
    assert lacks(section(TEXT, heading), *values) == set()


@pytest.mark.parametrize(
    ("assumed", "values"),
    [
        ("Acceptance at", (ASSUMED.acceptance.mean,)),
        ("Acceptance by depth", (ASSUMED.acceptance.slope, ASSUMED.acceptance.unit)),
        ("An accepted offer", ASSUMED.effect),
        ("Sleeping dogs", (ASSUMED.sleeping_dogs.rate,)),
        ("What nobody sees", (ASSUMED.effect_sd, ASSUMED.acceptance.slope_sd, ASSUMED.hazard_sd)),
        ("Fatigue", (ASSUMED.fatigue.rate, ASSUMED.acceptance.fatigue)),
    ],
)
def test_the_table_states_every_assumption(assumed: str, values: tuple[float, ...]) -> None:
    assert lacks(row(TEXT, assumed), *values) == set()


def test_assumptions_that_stand_in_the_first_cell() -> None:
    """What is assumed of whom, beside its value."""
    assert lacks(first_cell(TEXT, "Acceptance at"), ASSUMED.acceptance.at) == set()
    dogs = (100 * ASSUMED.sleeping_dogs.share, ASSUMED.sleeping_dogs.months)
    assert lacks(first_cell(TEXT, "Sleeping dogs"), *dogs) == set()
    assert lacks(first_cell(TEXT, "Fatigue"), ASSUMED.fatigue.decay) == set()
    assert lacks(first_cell(TEXT, "An accepted offer"), *DECISION.offers.levels) == set()


def test_the_wallet_is_the_mode_that_is_promised() -> None:
    assert f"`{DECISION.wallet}`" in section(TEXT, "What is promised")


def test_what_the_literature_says_adds_up() -> None:
    """The mean of Beta(6, 14); the log-rate of churn rising from 6 to 10 %."""
    assert ASSUMED.acceptance.mean == 6 / (6 + 14)
    assert math.log(10 / 6) == pytest.approx(ASSUMED.sleeping_dogs.rate, abs=0.02)
    assert (ASSUMED.label_months, ASSUMED.acceptance.shrink) == (3, 0.5)


@pytest.mark.parametrize(
    ("measured", "values"),
    [
        ("NRR, whole cohort", (CRITERIA["nrr_gain"].limit,)),
        ("NRR, customers at risk", (CRITERIA["nrr_gain_at_risk"].limit, CRITERIA["nrr_gain_at_risk_low"].limit)),
        ("lift over no contact", (CRITERIA["lift_gain"].limit, CRITERIA["lift_gain_low"].limit)),
        ("offer cost", (CRITERIA["offer_cost_change"].limit,)),
        ("attempted overspend", (CRITERIA["attempted_overspend"].limit,)),
        ("years with the budget passed", (CRITERIA["violations_executed"].limit, CRITERIA["over_cap"].limit)),
    ],
)
def test_what_is_wanted_is_what_gates(measured: str, values: tuple[float, ...]) -> None:
    """The last column of the table of results."""
    wanted = row(TEXT, measured).rpartition("|")[2]
    assert lacks(wanted, *(100 * value for value in values)) == set()


def test_the_whole_cohort_is_shown_and_customers_at_risk_gate() -> None:
    assert not CRITERIA["nrr_gain"].gating
    assert CRITERIA["nrr_gain_at_risk"].gating
