"""Both arms' decisions, what forbids a contact, what a policy observes, and the bridge."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from retain.decision import (
    Bridge,
    Case,
    DecisionError,
    History,
    Terms,
    Wanted,
    affordable,
    check_policy,
    decide,
    forbidden,
    granted,
    merged,
    observe,
    observed,
    opted_out,
    pace,
    price,
    seen_columns,
)
from retain.features import Featurizer
from retain.policy import Policy, PolicyError
from retain.release import Release, load
from retain.wallet import Wallet
from tasks.decision import cohort as cohorts
from tasks.decision import simulator as simulated
from tests.releases import DECISION, TERMS, dataset, inputs, policy, rows, run_stage

TELCO = dataset("telco")
RULES = Terms.from_json(DECISION)
FEATURES = Featurizer.fit(TELCO, seen_columns(TELCO)).names
RANDOM = policy(TELCO)
BRIDGE: dict[str, Any] = {
    "roles": ["senior", "partner", "paperless"],
    "cells": {
        "0,1,0": {"acceptance": 0.3, "rows": 5, "sd": 0.1},
        "1,1,1": {"acceptance": 0.4, "rows": 15, "sd": 0.2},
        "0,0,0": {"acceptance": 0.12, "rows": 0, "sd": 0.0},
    },
    "overall": 0.12,
}


def case(**changes: Any) -> Case:
    features = np.zeros(len(FEATURES), np.float32)
    known = Case(features, risk=0.9, acceptance=0.1, spread=0.5, charge=70.0, history=History(), opted_out=False)
    return replace(known, **changes)


def rich() -> Wallet:
    return RULES.new_wallet()


# -- the baseline --------------------------------------------------------------------------------------------------


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
    decision = decide(RULES, case(risk=risk), rich())
    assert (decision.action, decision.offer, decision.why, decision.acceptance) == (action, offer, why, 0.1)
    assert decision.arm == "baseline"


@pytest.mark.parametrize(
    ("history", "out", "why"),
    [
        (History(), True, "do_not_contact"),
        (History(contacts=(1, 1), running_offer=10, months_left=2), True, "do_not_contact"),
        (History(running_offer=5, months_left=1), False, "running_offer"),
        (History(contacts=(2,), running_offer=5, months_left=1), False, "running_offer"),
        (History(contacts=(0, 1, 1)), False, "contact_cap"),
        (History(contacts=(9,)), False, "contact_cap"),
        (History(contacts=(0, 0, 1)), False, "contacted_this_month"),
        (History(contacts=(0, 1, 0)), False, "risk_at_threshold"),
        (History(contacts=(2, 0, 1, 0)), False, "risk_at_threshold"),  # four months ago is beyond the cap's three
        # A contradiction: nobody is contacted on it.
        (History(running_offer=10, months_left=0), False, "running_offer"),
        (History(running_offer=0, months_left=3), False, "running_offer"),
        (History(months_left=3), False, "running_offer"),
        (History(running_offer=0, months_left=0), False, "risk_at_threshold"),
        (History(accepted=3, declined=2), False, "risk_at_threshold"),
    ],
)
def test_nobody_is_contacted_against_the_rules(history: History, out: bool, why: str) -> None:
    decision = decide(RULES, case(history=history, opted_out=out), rich())
    assert decision.why == why
    assert (decision.action == "contact") == (why == "risk_at_threshold")
    assert (decision.offer is None) == (decision.action == "no_contact")


# -- any policy ----------------------------------------------------------------------------------------------------

HISTORIES = st.builds(
    History,
    contacts=st.lists(st.integers(0, 3), max_size=3).map(tuple),
    running_offer=st.sampled_from([None, 0, 5, 10]),
    months_left=st.integers(0, 6),
    accepted=st.integers(0, 3),
    declined=st.integers(0, 3),
)


@given(
    risk=st.floats(0, 1),
    history=HISTORIES,
    out=st.booleans(),
    budget=st.sampled_from([0.0, 5.0, 40.0, 1e6]),
    left=st.floats(0, 1),
    arm=st.sampled_from([None, RANDOM, *(policy(TELCO, eager=99.0, offer=level) for level in (0, 5, 10, 20))]),
)
def test_no_policy_breaks_cap_opt_out_running_offer_or_budget(
    risk: float, history: History, out: bool, budget: float, left: float, arm: Policy | None
) -> None:
    terms = replace(RULES, budget=budget)
    wallet = terms.new_wallet()
    here = case(risk=risk, history=history, opted_out=out)
    decision = decide(terms, here, wallet, arm, left)
    contacts = (0, 0, 0, *history.contacts)
    barred = out or bool(history.running_offer or history.months_left) or sum(contacts[-3:]) >= 2 or contacts[-1] > 0
    if decision.action == "contact":
        assert not barred
        assert decision.offer in RULES.offers.levels
        assert decision.why == ("policy_contact" if arm else "risk_at_threshold")
        assert wallet.open == 1
    else:
        assert decision.offer is None
        assert wallet.open == 0
    assert wallet.committed + wallet.held <= budget
    assert (decision.why == forbidden(terms, history, out)) == barred
    assert decision.arm == ("learned" if arm else "baseline")


def test_a_policys_action_is_the_offer_of_that_level() -> None:
    for level in RULES.offers.levels:
        wallet = rich()
        decision = decide(RULES, case(risk=0.0), wallet, policy(TELCO, eager=99.0, offer=level))
        assert (decision.action, decision.offer, decision.why) == ("contact", level, "policy_contact")
        assert wallet.committed == 1.0
        assert wallet.held == pytest.approx(level / 100 * 70 * 6)  # one offer's worst case is its liability
    rests = decide(RULES, case(), rich(), policy(TELCO, eager=-99.0, offer=0))
    assert (rests.action, rests.why, rests.arm) == ("no_contact", "policy_no_contact", "learned")


def test_other_offers_and_another_currency_take_other_numbers_alone() -> None:
    changed = Terms.from_json(
        DECISION
        | {
            "offers": {"levels": [7, 33], "months": 2, "contact_cost": 250.0, "currency": "JPY"},
            "offer": 33,
            "cap": {"max_contacts": 1, "window": 1},
        }
    )
    assert changed.actions == ("no_contact", "offer_7", "offer_33")
    decision = decide(changed, case(charge=9_000.0, history=History((1, 1, 0))), changed.new_wallet())
    assert (decision.offer, decision.why) == (33, "risk_at_threshold")
    cost, liability, _ = price(changed, case(charge=9_000.0), 33)
    assert (cost, liability) == (250.0, pytest.approx(0.33 * 9_000 * 2))


def test_what_the_wallet_can_not_pay_for_is_not_offered() -> None:
    for arm in (None, policy(TELCO, eager=99.0, offer=20)):
        wallet = Wallet(30.0)
        decisions = [decide(RULES, case(), wallet, arm) for _ in range(20)]
        assert decisions[-1].why == "offer_budget"
        assert (decisions[-1].action, decisions[-1].offer) == ("no_contact", None)
        assert wallet.free >= 0


def test_a_policy_that_can_not_decide_holds_for_nothing() -> None:
    wallet = rich()
    for broken in (case(risk=math.nan), case(acceptance=math.inf), case(history=History(accepted=10**400))):
        with pytest.raises((PolicyError, OverflowError)):
            decide(RULES, broken, wallet, RANDOM)
    assert (wallet.open, wallet.committed) == (0, 0.0)


def test_a_policy_is_not_asked_about_whom_nobody_may_contact() -> None:
    decision = decide(RULES, case(opted_out=True, risk=math.nan), rich(), RANDOM)
    assert (decision.why, decision.arm) == ("do_not_contact", "learned")


def test_a_policy_of_other_columns_or_actions_is_refused_in_one_line() -> None:
    check_policy(RANDOM, RULES, FEATURES)
    swapped = (RANDOM.observed[1], RANDOM.observed[0], *RANDOM.observed[2:])
    for changed, says in (
        (replace(RANDOM, observed=swapped), f"observes {swapped[0]!r}, where a customer has {FEATURES[0]!r}"),
        (replace(RANDOM, observed=RANDOM.observed[1:]), f"observes {len(FEATURES) + 9} columns, where a customer has"),
        (replace(RANDOM, actions=("no_contact", "offer_5")), "decides between no_contact, offer_5; the terms have"),
    ):
        with pytest.raises(DecisionError, match=rf"^policy\.json: {says}"):
            check_policy(changed, RULES, FEATURES)


# -- what a policy observes is what the simulated year shows ---------------------------------------------------------


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> tuple[Release, simulated.Cohort, list[dict[str, Any]]]:
    """A release, the cohort that training makes of the same artifacts, and its customers as requests state them."""
    base = tmp_path_factory.mktemp("served")
    given = inputs(base / "inputs", TELCO, dataset("bank"))
    out = run_stage(base, given)
    release = load({path.relative_to(out).as_posix(): path for path in out.rglob("*") if path.is_file()})
    table = [row | {"MonthlyCharges": 20 + row["MonthlyCharges"]} for row in rows(TELCO, 150, seed=8)]
    margins = [float(release.risk.trees.margin(release.risk.features(row))) for row in table]
    columns = {name: [row[name] for row in table] for name in table[0]}
    where = {"row": list(range(len(table))), "split": ["test"] * len(table)}
    pq.write_table(pa.table(columns | where), given["customers"] / "data.parquet")
    (given["risk"] / "evidence").mkdir()
    pq.write_table(pa.table(where | {"margin": margins}), given["risk"] / "evidence" / "predictions.parquet")
    return release, cohorts.load(given, "test", 12), table


def test_a_customer_at_the_start_is_observed_as_in_training(
    served: tuple[Release, simulated.Cohort, list[dict[str, Any]]],
) -> None:
    """The whole way: request -> features, risk, acceptance -> observation, against the cohort's, bit for bit."""
    release, cohort, table = served
    year = year_of(cohort)
    expected = year.reset(np.random.default_rng(0))
    assert year.observed == observed(FEATURES)
    for row, seen, spread, charge in zip(table, expected, cohort.spread, cohort.charge):
        case = release.assess(row).case
        assert observe(case, pace(rich(), 1.0)).tobytes() == seen.tobytes()
        assert (case.spread, case.charge) == (spread, charge)


def test_a_policy_sees_no_protected_column(served: tuple[Release, simulated.Cohort, list[dict[str, Any]]]) -> None:
    release, _, table = served
    protected = {column.name for column in TELCO.columns if column.protected}
    assert protected
    for name in protected:
        (column,) = (column for column in TELCO.columns if column.name == name)
        seen = {release.assess(table[0] | {name: value}).case.features.tobytes() for value in column.values}
        assert len(seen) == 1


def test_features_are_found_when_the_risk_does_not_use_them(
    served: tuple[Release, simulated.Cohort, list[dict[str, Any]]],
) -> None:
    release, cohort, table = served
    narrow = replace(release, risk=replace_featurizer(release, seen_columns(TELCO)[1:]))
    assert narrow._places is None
    for row, features in zip(table, cohort.features):
        assert narrow._seen(row, narrow.risk.features(row)).tobytes() == features.tobytes()


def replace_featurizer(release: Release, columns: list[str]) -> Any:
    class Narrow:
        featurizer = Featurizer.fit(release.spec, columns)

        def features(self, values: dict[str, Any]) -> Any:
            return self.featurizer.row(values)

    return Narrow()


def year_of(cohort: simulated.Cohort) -> simulated.Simulator:
    effect = (0.25, 0.55, 0.85, 1.25)
    world = simulated.World(
        label_months=3, effect=effect, effect_sd=0.2, hazard_sd=0.3, acceptance=RULES.acceptance, dogs_level=-2.5,
        dogs_loyalty=0.5, dogs_rate=0.5, dogs_months=3, decay=RULES.decay, tired_rate=0.05, answered=4,
    )  # fmt: skip
    return simulated.Simulator(cohort, world, RULES.offers, RULES.cap, budget=0.05 * cohort.revenue)


def test_through_a_year_a_history_is_observed_masked_and_priced_as_in_training(
    served: tuple[Release, simulated.Cohort, list[dict[str, Any]]],
) -> None:
    """Random offers for 12 months; each month every customer's request is made up from what happened to her."""
    release, cohort, table = served
    year, rng = year_of(cohort), np.random.default_rng(3)
    observation = year.reset(np.random.default_rng(1))
    grown = [FEATURES.index(name) for name in ("tenure", "TotalCharges")]
    contacted = np.zeros((len(table), 0), np.int64)
    running = 0
    for month in range(year.months):
        masked = year.mask()
        wallet = Wallet(year.budget)
        wallet.committed = year.committed  # all answers are in, so nothing is held
        now = pace(wallet, 1 - month / year.months)
        wanted = rng.integers(0, 5, len(table))
        for i, row in enumerate(table):
            left = int(year.months_left[i])
            history = History(
                contacts=tuple(contacted[i].tolist()),
                running_offer=int(year._percent[year.running[i]]) if left else None,
                months_left=left,
                accepted=int(year.accepted[i]),
                declined=int(year.declined[i]),
            )
            short = replace(history, contacts=history.contacts[-RULES.history_months :])
            aged = {name: float(observation[i, at]) for name, at in zip(("tenure", "TotalCharges"), grown)}
            found = release.assess(row | aged, short).case
            seen = observe(replace(found, risk=float(cohort.risk[i, month])), now)
            assert seen.tobytes() == observation[i].tobytes()
            assert (forbidden(RULES, short, found.opted_out) is None) == masked[i, 1]
            if wanted[i] and masked[i, 1]:
                offer = RULES.offers.levels[wanted[i] - 1]
                expected = RULES.acceptance.probability(
                    cohort.acceptance[i : i + 1], cohort.spread[i : i + 1], float(offer), float(year.tired[i])
                )
                _, liability, p = price(RULES, replace(found, history=history), offer)
                assert p == pytest.approx(expected[0], rel=1e-9)
                assert liability == pytest.approx(offer / 100 * cohort.charge[i] * 6, rel=1e-12)
                # A request's history is shorter: older contacts tire no more, so the hold errs on the safe side.
                assert price(RULES, found, offer)[2] >= p * (1 - 1e-12)
            running += left > 0
        step = year.step(wanted)
        observation = step.observation
        made = (step.action > 0).astype(np.int64)
        contacted = np.column_stack((contacted[:, :-1], made, np.zeros(len(table), np.int64)))
    assert running > 100


@given(committed=st.floats(0, 2e4), budget=st.floats(0, 1e4), left=st.floats(0, 1))
def test_pace_stays_between_minus_one_and_one(committed: float, budget: float, left: float) -> None:
    wallet = Wallet(budget)
    wallet.committed = committed
    assert -1 <= pace(wallet, left) <= 1


def test_pace_is_what_is_not_expected_to_be_spent_less_what_is_to_come() -> None:
    wallet = Wallet(1000.0)
    assert pace(wallet, 1.0) == 0.0
    assert pace(wallet, 0.25) == 0.75
    assert wallet.admit_one(100.0, 150.0, 0.5)  # alone, its worst case is held
    assert pace(wallet, 1.0) == pytest.approx(-0.175)
    assert pace(Wallet(0.0), 0.5) == -0.5


def test_pace_is_nearly_the_same_whether_offers_were_answered_or_not() -> None:
    """A service that gets no answers shows a policy what the simulated year, where all are in, let it learn from."""
    rng = np.random.default_rng(5)
    unanswered, settled = Wallet(60_000.0), Wallet(60_000.0)
    worst = 0.0
    for _ in range(20):
        cost, liability, p = np.ones(100), rng.uniform(0, 100, 100), rng.uniform(0.05, 0.4, 100)
        for wallet in (unanswered, settled):
            assert wallet.admit(cost, liability, p).all()
        settled.settle(liability, p, rng.random(100) < p)
        worst = max(worst, abs(pace(unanswered, 1.0) - pace(settled, 1.0)))
    assert worst < 0.02
    assert pace(settled, 1.0) < -0.35
    assert (unanswered.committed + unanswered.held) / 60_000 > 1.3 * settled.committed / 60_000


# -- the bridge ----------------------------------------------------------------------------------------------------


def test_the_bridge_gives_a_cell_s_acceptance() -> None:
    bridge = Bridge(BRIDGE, TELCO)
    assert bridge.warning is None
    row = {"SeniorCitizen": 0, "Partner": "Yes", "PaperlessBilling": "No"}
    assert bridge.score(row) == (0.3, 0.1 / (0.3 * 0.7))
    assert bridge.score(row | {"SeniorCitizen": 1, "PaperlessBilling": "Yes"})[0] == 0.4
    assert bridge.score(row | {"SeniorCitizen": 1})[0] == 0.12  # a cell nobody was seen in
    pooled = math.sqrt((5 * (0.1**2 + 0.18**2) + 15 * (0.2**2 + 0.28**2)) / 20)
    for unseen in ({"SeniorCitizen": 1}, {"Partner": "No"}):
        assert bridge.score(row | unseen)[1] == pytest.approx(pooled / (0.12 * 0.88))


def test_a_table_without_the_roles_uses_one_cell_and_says_so() -> None:
    bridge = Bridge(BRIDGE, dataset("telco", bridge=[]))
    assert bridge.score({"SeniorCitizen": 0})[0] == 0.12
    assert bridge.warning is not None
    assert "senior, partner, paperless" in bridge.warning


@pytest.mark.parametrize(
    "change",
    [
        {"cells": {"0,1,0": {"rows": 5}}},
        {"cells": {"0,1,0": {"acceptance": 0.3}}},
        {"cells": [1]},
        {"cells": {"0,1,0": {"acceptance": 1.5, "rows": 5, "sd": 0.1}}},
        {"cells": {"0,1,0": {"acceptance": 0.0, "rows": 5, "sd": 0.1}}},
        {"cells": {"0,1,0": {"acceptance": math.nan, "rows": 5, "sd": 0.1}}},
        {"cells": {"0,1,0": {"acceptance": 0.3, "rows": 5, "sd": math.nan}}},
        {"cells": {"0,1,0": {"acceptance": 0.3, "rows": -5, "sd": 0.1}}},
        {"overall": "much"},
        {"overall": -0.1},
        {"overall": 1.0},
        {"roles": None},
    ],
)
def test_a_broken_bridge_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(DecisionError, match=r"^bridge\.json: "):
        Bridge(BRIDGE | change, TELCO)


# -- terms ---------------------------------------------------------------------------------------------------------


def changed(path: str, value: Any) -> dict[str, Any]:
    """DECISION with the value at a path such as offers.levels; None removes it."""
    content: dict[str, Any] = json.loads(json.dumps(DECISION))
    *parents, last = path.split(".")
    place = content
    for name in parents:
        place = place[name]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return content


@pytest.mark.parametrize(
    "older",
    [
        {"rule": "threshold", "threshold": 0.5, "offer": 10, "offers": [0, 10], "offer_months": 6, "max_contacts": 2},
        DECISION | {"rule": {"rule": "threshold", "offer": 10, "reasons": 5}},
    ],
)
def test_terms_of_an_older_format_say_what_to_do(older: dict[str, Any]) -> None:
    with pytest.raises(DecisionError, match=r"^decision\.json: is of an older format; a new run of its experiment"):
        Terms.from_json(older)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *((path, None) for path in TERMS),
        ("rule", None),
        ("rule.rule", "coin"),
        ("offer", 15),
        ("rule.reasons", 0),
        ("extra", 1),
        ("threshold", 0),
        ("threshold", 1.0),
        ("threshold", True),
        ("threshold", math.nan),
        ("offers.levels", []),
        ("offers.levels", [10, 10]),
        ("offers.levels", [20, 10]),
        ("offers.levels", [0, 10.5]),
        ("offers.levels", [0, 10, 120]),
        ("offers.levels", "10"),
        ("offers.months", 13),
        ("offers.contact_cost", -1.0),
        ("offers.contact_cost", math.inf),
        ("offers.currency", ""),
        ("cap.max_contacts", 0),
        ("cap.window", 2.5),
        ("acceptance.unit", 0.0),
        ("acceptance.level", "low"),
        ("acceptance.fatigue", -0.1),
        ("decay", 1.0),
        ("wallet", "generous"),
        ("budget.amount", -1.0),
        ("budget.amount", math.inf),
        ("budget.months", 0),
    ],
)
def test_broken_terms_are_refused_in_one_line(path: str, value: Any) -> None:
    with pytest.raises(DecisionError, match=r"^decision\.json: .") as error:
        Terms.from_json(changed(path, value))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [None, [], "terms", {}])
def test_what_are_no_terms_is_refused(content: object) -> None:
    with pytest.raises(DecisionError, match=r"^decision\.json: "):
        Terms.from_json(content)


def test_a_budget_of_nothing_contacts_nobody() -> None:
    terms = Terms.from_json(changed("budget.amount", 0))
    for arm in (None, policy(TELCO, eager=99.0, offer=0)):
        assert decide(terms, case(), terms.new_wallet(), arm).why == "offer_budget"


# -- opt-out -------------------------------------------------------------------------------------------------------


def test_the_opt_out_is_read_from_its_role() -> None:
    assert not opted_out(TELCO, {"Partner": "Yes"})
    roles = {role: name for role, name in TELCO.roles.items() if role != "support"}
    flag = dataset("telco", roles=roles | {"do_not_contact": "Partner"})
    assert opted_out(flag, {"Partner": "Yes"})
    assert not opted_out(flag, {"Partner": "No"})
    number = dataset("telco", roles=roles | {"do_not_contact": "MonthlyCharges"})
    assert opted_out(number, {"MonthlyCharges": 1})
    assert not opted_out(number, {"MonthlyCharges": 0})


def test_a_blank_opt_out_is_an_opt_out() -> None:
    for name in ("Contract", "MonthlyCharges", "PaperlessBilling"):
        roles = {role: column for role, column in TELCO.roles.items() if column != name}
        spec = dataset("telco", roles=roles | {"do_not_contact": name})
        assert opted_out(spec, {name: None})
        assert opted_out(spec, {})


# -- history and exploration ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "own", "expected"),
    [
        (History(contacts=(1, 0)), History(), History(contacts=(1, 0))),
        (History(), History(contacts=(0, 1, 0)), History(contacts=(0, 1, 0))),
        # The last month of both is the one that ends now.
        (History(contacts=(2, 0)), History(contacts=(1, 1, 1)), History(contacts=(1, 2, 1))),
        (History(running_offer=5, months_left=2), History(), History(running_offer=5, months_left=2)),
        (History(), History(running_offer=20, months_left=6), History(running_offer=20, months_left=6)),
        # The caller knows of the offer that runs; its months are the caller's.
        (
            History(running_offer=10, months_left=3),
            History(running_offer=20, months_left=6),
            History(running_offer=10, months_left=3),
        ),
        # 0 without months says that none runs, as far as the caller knows.
        (History(running_offer=0), History(running_offer=20, months_left=6), History(running_offer=20, months_left=6)),
        (History(running_offer=0), History(running_offer=0, months_left=6), History(running_offer=0, months_left=6)),
        # With months it is an accepted contact without a discount.
        (
            History(running_offer=0, months_left=2),
            History(running_offer=20, months_left=6),
            History(running_offer=0, months_left=2),
        ),
        (History(accepted=1, declined=4), History(accepted=2, declined=3), History(accepted=2, declined=4)),
    ],
)
def test_whatever_caller_or_service_knows_of_contacts_counts(given: History, own: History, expected: History) -> None:
    assert merged(given, own) == expected


@given(given=HISTORIES, own=HISTORIES)
@example(given=History(running_offer=0), own=History(running_offer=10, months_left=5))
def test_more_history_never_allows_what_less_forbids(given: History, own: History) -> None:
    both = forbidden(RULES, merged(given, own), False)
    for history in (given, own):
        if forbidden(RULES, history, False) is not None:
            assert both is not None


@given(budget=st.sampled_from([0.0, 0.5, 5.0, 20.0, 60.0, 1e6]), limit=st.sampled_from([0.0, 20.0, math.inf]))
def test_affordable_is_what_is_granted(budget: float, limit: float) -> None:
    terms = replace(RULES, budget=budget)
    actions = affordable(terms, case(), terms.new_wallet(), limit)
    assert actions[0] is None
    for offer in terms.offers.levels:
        decision = granted(terms, case(), Wanted(offer, "exploration"), terms.new_wallet(), "baseline", limit)
        assert (decision.offer == offer) == (offer in actions)
