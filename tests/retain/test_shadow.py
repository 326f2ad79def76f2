"""What a shadow has shown: counted from records, and judged."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from retain.record import Intent, Record, RecordedOutcome, propensity
from retain.reference import Distribution, Messages, Reference
from retain.shadow import Tally, figures, stability_index, verdict
from retain.signals import Figure
from tests import rollouts
from tests.releases import MONITORING

SAID = {"source": "rlhf", "text": "x", "characters": 100, "tokens": 30, "score": 0.5}
CHURNED = {"kind": "churned", "month": None, "amount": None, "given_back": None, "at": "2026-02-01T00:00:00+00:00"}


def record(asked: bool = True, **changes: Any) -> Record:
    """With a shadow if the learned arm was asked."""
    shadow: dict[str, Any] = {
        "version": "v1", "wanted": {"offer": 20, "why": "policy_contact"}, "missing": None, "risk": 0.4,
        "probabilities": [], "said": SAID, "banks": None, "chosen": SAID, "breaks": [], "seconds": 0.001,
        "waited": 0.004, "replied": 0.002,
    }  # fmt: skip
    detail: dict[str, Any] = {
        "release": "v1", "seconds": 0.002, "wanted": {"offer": 10, "why": "risk_at_threshold"}, "usual": 10,
        "pscore": 1.0, "explored": False, "actions": None, "risk_if_accepted": 0.3, "unasked": None, "history": {},
        "pace": 0.0, "said": None, "banks": None,
    }  # fmt: skip
    content: dict[str, Any] = {
        "decision_id": "d", "at": "2026-01-01T00:00:00+00:00", "customer": "c", "period": "2026-01-01T00:00:00+00:00",
        "arm": "baseline", "offer": 10, "cost": 1.0, "liability": 30.0, "charge": 50.0, "months": 6,
        "answer": {"risk": 0.4, "acceptance": 0.1, "why": "risk_at_threshold"}, "answered": "declined",
        "answered_at": None, "withdrawn": False, "outcomes": (),
    }  # fmt: skip
    for name, value in changes.items():
        if name in content:
            content[name] = value
        elif name in shadow:
            shadow[name] = value
        else:
            detail[name] = value
    whole = content | {"detail": detail, "shadow": shadow if asked else None}
    return Record.model_validate_json(json.dumps(whole))


def figure(name: str, tally: Tally, reference: Reference | None = None) -> Figure:
    (found,) = [each for each in figures(tally, MONITORING, reference) if each.name.startswith(name)]
    return found


def tallied(*records: Record) -> Tally:
    tally = Tally("v1", "v1")
    for each in records:
        tally.add(each)
    return tally


def test_what_is_counted_of_a_record() -> None:
    tally = tallied(
        record(),
        record(breaks=["link"]),
        record(wanted=None, missing="deadline", chosen=None, waited=1.0),
        record(wanted=None, missing="not_running", chosen=None, waited=0.0),
        record(wanted=None, missing="unsafe_message", chosen=None),
        record(withdrawn=True),
        record(asked=False),
    )
    assert (tally.asked, tally.missing, tally.chosen, tally.unsafe) == (
        5, {"deadline": 1, "not_running": 1}, 3, 2,
    )  # fmt: skip
    assert tally.seconds == pytest.approx([0.006, 0.006, 1.002, 0.006])  # not that of a question nobody asked
    assert (tally.characters, tally.scores) == ({"rlhf": [100, 100]}, {"rlhf": [0.5, 0.5]})


def test_latency_passes_below_its_limit() -> None:
    assert figure("latency", tallied(*[record()] * 99)).verdict == "hold"
    fast = [record()] * 95
    assert figure("latency", tallied(*fast, *[record(waited=2.0)] * 5)).verdict == "pass"
    assert figure("latency", tallied(*fast, *[record(waited=2.0)] * 6)).verdict == "fail"


@pytest.mark.parametrize(
    ("safe", "unsafe", "expected"),
    [(499, 0, "hold"), (500, 0, "pass"), (498, 2, "pass"), (495, 5, "hold"), (494, 6, "fail"), (0, 0, "hold")],
)
def test_unsafe_messages_fail_once_they_are_no_chance(safe: int, unsafe: int, expected: str) -> None:
    tally = tallied(*[record()] * safe, *[record(breaks=["guarantee"])] * unsafe)
    assert figure("unsafe", tally).verdict == expected


def test_a_message_that_the_worker_refused_is_an_unsafe_one_and_no_answer_missed() -> None:
    refused = record(wanted=None, missing="unsafe_message", chosen=None)
    tally = tallied(*[record()] * 494, *[refused] * 6)
    assert (figure("unsafe", tally).verdict, figure("unsafe", tally).value) == ("fail", 6 / 500)
    assert (figure("answers", tally).verdict, figure("answers", tally).value) == ("pass", 0)


def test_lengths_and_scores_pass_while_they_are_those_of_training() -> None:
    rng = np.random.default_rng(5)
    lengths, scores = rng.normal(120, 20, 2_000).round(), rng.normal(0, 1, 2_000)
    known = Messages(
        n=2_000,
        tokens=Distribution.of([]),
        characters=Distribution.of(lengths.tolist()),
        score=Distribution.of(scores.tolist()),
    )
    reference = Reference(customers=2_000, messages={"rlhf": {"learned": known}})
    for shift, expected in ((0.0, "pass"), (1.0, "fail")):
        tally = Tally("v1", "v1")
        for length, score in zip(rng.normal(120, 20, 600) + 20 * shift, rng.normal(shift, 1, 600)):
            tally.add(record(chosen=SAID | {"characters": round(length), "score": float(score)}))
        assert figure("message_length (rlhf)", tally, reference).verdict == expected
        assert figure("reward_score (rlhf)", tally, reference).verdict == expected
    few = tallied(*[record()] * 10)
    assert figure("message_length (rlhf)", few, reference).verdict == "hold"
    assert figure("message_length (rlhf)", few, None).verdict == "hold"


TEMPLATE = {"source": "template", "text": "x", "characters": 90, "tokens": None, "score": None}


def with_template(**changes: Any) -> Record:
    """Of a case for which no language model has a message."""
    return record(chosen=None, said=TEMPLATE, **changes)


def test_where_no_language_model_has_a_message_the_template_is_what_was_chosen() -> None:
    refused = record(wanted=None, missing="unsafe_message", chosen=None, said=None)
    nobody = record(wanted={"offer": None, "why": "policy_no_contact"}, chosen=None, said=None)
    tally = tallied(with_template(), record(), record(said=TEMPLATE), refused, nobody)
    assert (tally.chosen, tally.unsafe) == (4, 1)
    assert (tally.characters, tally.scores) == ({"template": [90], "rlhf": [100, 100]}, {"rlhf": [0.5, 0.5]})
    for messages, expected in ((499, "hold"), (500, "pass")):
        assert figure("unsafe", tallied(*[with_template()] * messages)).verdict == expected
    assert figure("unsafe", tallied(*[with_template()] * 494, *[refused] * 6)).verdict == "fail"


@pytest.mark.parametrize("name", ["message_length", "reward_score"])
def test_nothing_drifts_where_only_templates_are_chosen(name: str) -> None:
    """Which passes once there are as many as of a language model's, and not for messages that nobody knows of."""
    templates = [with_template()] * 500
    assert figure(name, tallied(*templates[:-1])).verdict == "hold"
    only = figure(name, tallied(*templates))
    assert (only.name, only.verdict, only.samples) == (name, "pass", 500)
    assert "templates" in only.says
    other = record(wanted=None, missing="unsafe_message", chosen=None, said=None)
    assert figure(name, tallied(*templates[:-1], other)).verdict == "hold"


@pytest.mark.parametrize("reference", [None, Reference(customers=1, messages={"rlhf": {}, "sft": {}})])
@pytest.mark.parametrize("name", ["message_length", "reward_score"])
def test_messages_of_a_language_model_don_t_pass_where_training_s_are_not_known(
    name: str, reference: Reference | None
) -> None:
    for records in ([record()] * 600, [*[with_template()] * 600, record()]):
        unknown = figure(name, tallied(*records), reference)
        assert (unknown.name, unknown.verdict) == (f"{name} (rlhf)", "hold")
        assert "not known from training" in unknown.says


def test_drift_is_told_of_the_language_models_alone_whose_messages_are_chosen() -> None:
    """RLHF's are, where it has one: those of SFT would never be 500."""
    known = Messages(
        n=500, tokens=Distribution.of([]), characters=Distribution.of([100.0] * 500), score=Distribution.of([0.5] * 500)
    )
    reference = Reference(customers=500, messages={"rlhf": {"learned": known}, "sft": {"learned": known}})
    told = {each.name: each.verdict for each in figures(tallied(*[record()] * 500), MONITORING, reference)}
    assert {name: told[name] for name in told if "(" in name} == {
        "message_length (rlhf)": "pass",
        "reward_score (rlhf)": "pass",
    }
    both = tallied(*[record()] * 500, *[record(chosen=SAID | {"source": "sft"})] * 499)
    assert figure("message_length (sft)", both, reference).verdict == "hold"


def test_a_release_whose_messages_are_all_templates_can_leave_the_shadow() -> None:
    found = figures(tallied(*[with_template()] * 500), MONITORING, Reference(customers=500, messages={}))
    assert verdict(found) == "pass"


def test_the_index_is_zero_where_nothing_has_moved_and_the_known_value_where_it_has() -> None:
    training = Distribution(edges=(1.0,), counts=(50, 50))
    assert stability_index([0.0, 2.0], training) == 0
    # (.8 - .5) ln(.8 / .5) + (.2 - .5) ln(.2 / .5)
    assert stability_index([0.0] * 8 + [2.0] * 2, training) == pytest.approx(0.3 * np.log(1.6) - 0.3 * np.log(0.4))


def test_an_arm_that_does_not_answer_fails_but_not_for_what_nobody_asked_it() -> None:
    fine = [record()] * 990
    missed = record(wanted=None, missing="deadline")
    unasked = record(wanted=None, missing="not_running")
    assert figure("answers", tallied(*fine, *[missed] * 9, *[unasked] * 500)).verdict == "pass"
    assert figure("answers", tallied(*fine, *[missed] * 10)).verdict == "fail"
    assert figure("answers", tallied(*[unasked] * 500)).verdict == "hold"


@pytest.mark.parametrize("reason", ["circuit_open", "not_running", "overloaded"])
def test_an_arm_that_is_not_there_to_be_asked_fails_for_that(reason: str) -> None:
    unasked = record(wanted=None, missing=reason)
    for fine, missing, expected in ((480, 19, "hold"), (480, 20, "pass"), (476, 24, "pass"), (475, 25, "fail")):
        tally = tallied(*[record()] * fine, *[unasked] * missing)
        assert figure("unavailable", tally).verdict == expected
    half = tallied(*[record()] * 500, *[unasked] * 500)
    assert (figure("answers", half).verdict, figure("unavailable", half).verdict) == ("pass", "fail")
    assert figure("unavailable", half).says == f"500 {reason}"


ACTIONS = (None, 0, 5, 10, 20)
START = datetime(2026, 1, 1, tzinfo=UTC)


def drawn(day: float, offer: int | None, pscore: float, left: bool = False, **changes: Any) -> Record:
    """A decision whose action was drawn, `day` days after START, as a copy of one that was read: 10,000 are made."""
    detail = DRAWN.detail.model_copy(update={"pscore": pscore})
    outcomes = (RecordedOutcome.model_validate(CHURNED),) if left else ()
    at = (START + timedelta(days=day)).isoformat()
    return DRAWN.model_copy(update={"at": at, "offer": offer, "detail": detail, "outcomes": outcomes, **changes})


DRAWN = record(explored=True, actions=ACTIONS, risk_if_accepted=0.4)
LATER = record(at="2026-01-15T00:00:00+00:00")


def explored(learned_better: bool, decisions: int) -> Tally:
    """Half of the decisions explore five actions; whoever is offered 20 % stays more often, or leaves more often."""
    rng = np.random.default_rng(7)
    tally = Tally("v1", "v1")
    for _ in range(decisions):
        offer = ACTIONS[rng.integers(5)] if rng.random() < 0.5 else 10
        helps = (offer == 20) == learned_better
        left = bool(rng.random() < (0.1 if helps else 0.5))
        tally.add(drawn(0, offer, propensity(0.5, 5, offer == 10), left))
    tally.add(LATER)
    return tally


def test_value_is_told_where_decisions_were_drawn() -> None:
    assert figure("value", tallied(*[record()] * 2_000)).says.startswith("no decision was taken at random")
    few = figure("value", explored(True, 8_000))
    assert (few.verdict, few.value) == ("hold", None)
    assert few.samples < 1300
    assert figure("value", explored(True, 15_000)).verdict == "pass"
    assert figure("value", explored(False, 15_000)).verdict == "fail"


def test_the_estimate_of_value_is_near_the_truth() -> None:
    """Of those with risk .4 who are offered 20 % a tenth leaves, of the others half; nobody accepted, a contact costs
    1 of 50."""
    expected = 0.6 * (0.9 - 0.5)
    found = figure("value", explored(True, 20_000))
    assert found.value == pytest.approx(expected, abs=0.03)


def test_a_decision_counts_once_it_is_as_old_as_an_offer_can_be_open_whatever_was_done() -> None:
    made = [drawn(day, offer, 0.5, answered=None) for day in (0, 1) for offer in (None, 20)]
    for newest, expected in ((13.9, 0), (14, 1), (15, 2)):
        tally = tallied(*made, drawn(newest, None, 0.5))
        assert len(tally.matured()[0]) == expected
    assert tallied(*made, drawn(14, None, 0.5)).matured()[0] == [(0.6 - 0.02, 2.0)]  # unanswered is declined


def test_what_the_wallet_would_not_let_the_learned_arm_do_is_no_contact() -> None:
    """It wants to offer 20 %."""
    detail = DRAWN.detail.model_copy(update={"actions": (None, 5), "usual": 5, "pscore": 0.5})
    nobody, five = (drawn(0, offer, 0.5, detail=detail) for offer in (None, 5))
    learned, baseline = tallied(nobody, five, LATER).matured()
    assert learned == [(nobody.nrr_proxy, 2.0)]
    assert baseline == [(five.nrr_proxy, 2.0)]


def test_where_nothing_else_could_have_been_done_nothing_is_compared() -> None:
    alone = DRAWN.detail.model_copy(update={"actions": (None,)})
    tally = tallied(drawn(0, None, 1.0, detail=alone), record(pscore=None), record(pscore=1.0), LATER)
    assert tally.drawn == []


def test_a_world_without_effect_never_fails() -> None:
    """The learned arm wants to call everybody, the baseline nobody. A call costs nothing and changes nothing. Those who
    leave hang up at once; the others don't answer. So as long as calls are open, of those who were called the leavers
    alone have answered."""
    rng = np.random.default_rng(3)
    people = []  # (day, offer, whether she leaves, on which day that is reported)
    for day in np.repeat(np.arange(40), 300):
        leaves = bool(rng.random() < 0.4)
        people.append((int(day), 0 if rng.random() < 0.5 else None, leaves, day + rng.uniform(0, 30)))
    told = {}
    for today in (10, 20, 40):
        tally = Tally("v1", "v1")
        for day, offer, leaves, reported in people:
            if day < today:
                answered = "declined" if leaves else "expired" if today - day >= 14 else None
                detail = DRAWN.detail.model_copy(update={"pscore": 0.5, "actions": (None, 0), "usual": None})
                shadow = DRAWN.shadow and DRAWN.shadow.model_copy(update={"wanted": Intent(offer=0, why="")})
                answer = {"answered": None if offer is None else answered}
                changes = {"detail": detail, "shadow": shadow, "cost": 0.0, **answer}
                tally.add(drawn(day, offer, 0.5, leaves and reported < today, **changes))
        told[today] = figure("value", tally)
    assert {today: found.verdict for today, found in told.items()} == dict.fromkeys(told, "hold")
    assert told[10].value is None
    assert told[40].value == pytest.approx(0, abs=0.02)


def test_the_chances_of_all_actions_add_up_to_one() -> None:
    assert sum(propensity(0.3, 5, usual) for usual in (True, False, False, False, False)) == pytest.approx(1)
    assert propensity(0.0, 5, True) == 1


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ({"unsafe": "pass", "value": "hold"}, "pass"),
        ({"unsafe": "hold", "value": "pass"}, "hold"),
        ({"unsafe": "pass", "value": "fail"}, "fail"),
        ({"unsafe": "fail", "latency_p95": "hold"}, "fail"),
    ],
)
def test_value_may_stay_unknown_but_nothing_else(verdicts: dict[str, Any], expected: str) -> None:
    assert verdict(rollouts.figures((), **verdicts)) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"answered": "declined"}, 0.6 - 0.02),
        ({"answered": "expired"}, 0.6 - 0.02),
        ({"answered": "accepted"}, 0.9 * 0.7 - 0.02),
        ({"answered": "accepted", "outcomes": [CHURNED]}, -0.02),
        ({"answered": "accepted", "risk_if_accepted": None, "outcomes": [CHURNED]}, -0.02),
        ({"offer": None, "cost": 0.0, "answered": None}, 0.6),
        ({"outcomes": [CHURNED]}, -0.02),
    ],
)
def test_the_nrr_proxy_of_a_decision(changes: dict[str, Any], expected: float) -> None:
    assert record(**changes).nrr_proxy == pytest.approx(expected)


def test_the_proxy_of_an_accepted_offer_wants_the_risk_at_the_lower_charge() -> None:
    assert record(answered="accepted", risk_if_accepted=None).nrr_proxy is None


def test_the_proxy_goes_by_the_risk_model_that_answers_whoever_decided() -> None:
    """The answer has the risk by which the arm decided."""
    made = record(answered="declined")
    assert made.nrr_proxy == pytest.approx(0.6 - 0.02)
    detail = made.detail.model_copy(update={"risk": 0.5})
    assert made.model_copy(update={"detail": detail}).nrr_proxy == pytest.approx(0.5 - 0.02)
