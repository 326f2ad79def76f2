"""docs/DECISION.md is true: its numbers are the locked experiment's, and what it names exists."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from flows.plan import load_experiment
from retain import wallet

PROJECT = Path(__file__).resolve().parents[2]
TEXT = " ".join((PROJECT / "docs" / "DECISION.md").read_text().split())
EXPERIMENT = load_experiment("exp_001_mvp")
DECISION = EXPERIMENT.stages.decision
ASSUMED = DECISION.assumptions


def short(number: float) -> str:
    """As the text writes a number: 0.30 is .30."""
    return f"{number:g}".removeprefix("0")


def test_it_stays_short() -> None:
    """Two pages."""
    assert len(re.findall(r"\S*\w\S*", TEXT)) <= 1200


def test_what_is_decided() -> None:
    levels = DECISION.offers.levels
    assert f"({', '.join(map(str, levels[:-1]))} or {levels[-1]} % off the monthly charge for six months)" in TEXT
    assert (DECISION.offers.months, DECISION.offers.contact_cost) == (6, 1.0)
    assert f"may cost {100 * DECISION.budget:g} % of its revenue" in TEXT
    assert "more than twice in three months" in TEXT
    assert (DECISION.cap.max_contacts, DECISION.cap.window) == (2, 3)
    assert f"a fixed {DECISION.threshold_offer} % offer (`stages.decision.threshold_offer`" in TEXT
    assert "it holds for twice the acceptance that is believed, always" in TEXT
    assert wallet.DOUBT == 2
    assert f"a probability of {wallet.OVERDRAW:.0e} at most".replace("e-06", "e-6") in TEXT
    assert f"the answers of the last {DECISION.months} months" in TEXT
    assert (DECISION.wallet, DECISION.evaluation.at_risk_from) == ("expected", 0.25)


@pytest.mark.parametrize(
    "said",
    [
        f"| .{round(100 * ASSUMED.acceptance.mean)} | Beta(6, 14) of EMPC",
        f"log-odds + {ASSUMED.acceptance.slope:g} ln(1 + percent / {ASSUMED.acceptance.unit:g})",
        ", ".join(f"exp(-{short(effect)})" for effect in ASSUMED.effect),
        f"Sleeping dogs: {100 * ASSUMED.sleeping_dogs.share:g} % of customers",
        f"rate x exp({short(ASSUMED.sleeping_dogs.rate)})",
        f"decayed by {short(ASSUMED.fatigue.decay)} a month",
        f"rate x exp({short(ASSUMED.fatigue.rate)} F), acceptance -{short(ASSUMED.acceptance.fatigue)} F",
        f"sd {short(ASSUMED.effect_sd)}, {short(ASSUMED.acceptance.slope_sd)}, {short(ASSUMED.hazard_sd)}",
        f"costs {100 * DECISION.evaluation.cost:g} % of what the best baseline cost",
        f"a simulated test of {DECISION.search.log_years} years",
    ],
)
def test_an_assumption_is_that_of_the_experiment(said: str) -> None:
    assert said in TEXT


def test_what_the_literature_says_adds_up() -> None:
    """The mean of Beta(6, 14); the log-rate of churn rising from 6 to 10 %."""
    assert ASSUMED.acceptance.mean == 6 / (6 + 14)
    assert math.log(10 / 6) == pytest.approx(ASSUMED.sleeping_dogs.rate, abs=0.02)
    assert (ASSUMED.label_months, ASSUMED.acceptance.at, ASSUMED.acceptance.shrink) == (3, 10, 0.5)
    assert ASSUMED.sleeping_dogs.months == 3


def test_what_is_wanted_is_what_gates() -> None:
    criteria = EXPERIMENT.criteria["decision"]
    at_risk, low = criteria["nrr_gain_at_risk"].limit, criteria["nrr_gain_at_risk_low"].limit
    assert f">= +{100 * at_risk:g} %, interval above {100 * low:g}" in TEXT
    lift, low = criteria["lift_gain"].limit, criteria["lift_gain_low"].limit
    assert f">= +{100 * lift:g} %, interval above +{100 * low:g} %" in TEXT
    assert f"<= {100 * criteria['offer_cost_change'].limit:g} %" in TEXT
    assert not criteria["nrr_gain"].gating
    assert criteria["nrr_gain_at_risk"].gating


def test_what_it_names_exists() -> None:
    check_names(TEXT)


def check_names(text: str) -> None:
    """Make targets and paths that a document names are there."""
    targets = set(re.findall(r"^([a-z][a-z.-]*):", (PROJECT / "Makefile").read_text(), flags=re.MULTILINE))
    for name in re.findall(r"`([^`]+)`", text):
        if name.startswith("make "):
            assert name.split()[1] in targets
        elif "/" in name:
            assert (PROJECT / name).exists(), name
