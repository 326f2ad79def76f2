"""The learned arm behind /retain: who gets it, what it may do, and what happens when it can't decide."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retain.message import Bank
from retain.policy import Policy
from retain.record import Intent, Record
from retain.release import Release, load
from serve.answers import Answer
from serve.learned import Failure
from serve.operations import Ask, Outcome
from serve.readiness import REFUSALS
from serve.router import Router
from tests.releases import (
    TERMS,
    bank,
    customers,
    dataset,
    decided,
    inputs,
    policy,
    rows,
    run_stage,
    scores,
    standing,
)
from tests.serve.apps import app_of
from tests.serve.arms import InProcessArm
from tests.serve.client import Client
from tests.serve.memory import MONTH, Clock, offer

TELCO = dataset("telco")
STATE_SECONDS = 60.0  # of every test, see conftest.py
ALL = Router(force_baseline=False, percent=100, hold_out=0.0)
EVERYBODY = Router(hold_out=0.0)


def with_policy(release: Release, chosen: Policy | None = None, **terms: Any) -> Release:
    return dataclasses.replace(
        release,
        policy=release.policy if chosen is None else chosen,
        terms=dataclasses.replace(release.terms, **terms),
    )


def served(release: Release, router: Router = EVERYBODY, **service: Any) -> Client:
    """Without a hold-out, so that what an arm wants is what is done."""
    return Client(app_of("v1", release, dataclasses.replace(router, hold_out=0.0), **service))


def ask(client: Client, customer: dict[str, Any], history: Any = None) -> dict[str, Any]:
    answer: dict[str, Any] = client.post({"customer": customer, "history": history}).json()
    Answer.model_validate(answer, strict=True)
    return answer


def wallet_of(client: Client) -> dict[str, Any]:
    wallet: dict[str, Any] = client.get("/readyz").json()["wallet"]
    return wallet


def warnings_of(client: Client) -> list[str]:
    warnings: list[str] = client.get("/readyz").json()["warnings"]
    return warnings


def test_a_request_has_one_deadline_however_often_it_asks_the_database(
    release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = served(release, ALL)
    service = client.app.state.service
    submit, spent, seconds = service.writer.submit, 0.0, {}

    def slow(operation: Any, limit: float | None = None) -> Any:
        nonlocal spent
        seconds[type(operation).__name__] = limit
        spent += 20.0
        return submit(operation, limit)

    monkeypatch.setattr(service.writer, "submit", slow)
    monkeypatch.setattr("serve.service.time", SimpleNamespace(perf_counter=lambda: time.perf_counter() + spent))
    assert ask(client, rows(TELCO, 1, seed=7)[0])["mode"] == "learned"
    assert seconds == {"Look": pytest.approx(STATE_SECONDS, abs=5), "Ask": pytest.approx(STATE_SECONDS - 20, abs=5)}


def test_at_100_percent_everybody_gets_the_policys_decision(release: Release) -> None:
    client = served(release, ALL)
    wallet = release.terms.new_wallet()
    seen = set()
    for row in rows(TELCO, 60, seed=7):
        answer = client.post({"customer": row}).json()
        Answer.model_validate(answer, strict=True)
        decision, _ = decided(release, row, wallet, "learned")
        assert (answer["mode"], answer["action"], answer["offer"], answer["why"]) == (
            "learned", decision.action, decision.offer, decision.why,
        )  # fmt: skip
        assert answer["versions"]["policy"] == release.versions["policy"]
        seen.add(answer["why"])
    assert seen == {"policy_contact", "policy_no_contact"}
    text = client.metrics()
    counted = [line for line in text.splitlines() if line.startswith("retain_decisions_total") and "learned" in line]
    assert sum(float(line.split()[-1]) for line in counted) == 60


def test_at_5_percent_mode_is_the_customers_arm(release: Release) -> None:
    router = Router(force_baseline=False, percent=5)
    client = served(release, router)
    customer = rows(TELCO, 1, seed=4)[0]
    modes = {}
    for number in range(400):
        answer = ask(client, customer | {"customerID": f"C-{number}"})
        assert answer["mode"] == router.arm(f"C-{number}")
        assert answer["why"].startswith("risk_" if answer["mode"] == "baseline" else "policy_")
        modes[number] = answer["mode"]
    assert 5 <= list(modes.values()).count("learned") <= 40


def test_the_baseline_is_the_default_and_can_be_forced(release: Release) -> None:
    customer = rows(TELCO, 1, seed=4)[0]
    for app in (app_of("v1", release), app_of("v1", release, Router(force_baseline=True, percent=100))):
        assert Client(app).post({"customer": customer}).json()["mode"] == "baseline"
        assert Client(app).get("/readyz").json()["mode"] == "baseline"


def test_what_is_in_the_shadow_alone_answers_nobody(release: Release) -> None:
    """Whatever the environment asks for, and even if the router were asked past its check."""
    every = standing(release, "decision", "shadow_only", "decision.lift_gain")
    for name in ("sft", "rlhf"):
        every = standing(every, name, "shadow_only", "sft.training_loss")
    client = served(every, ALL)
    ready = client.get("/readyz").json()
    assert (ready["mode"], ready["standings"]["decision"]["standing"]) == ("baseline", "shadow_only")
    assert "FORCE_BASELINE=false, but its learned policy is shadow_only (it missed " in ready["warnings"][0]
    sources = set()
    for row in rows(TELCO, 60, seed=4):
        answer = ask(client, row)
        assert answer["mode"] == "baseline"
        sources.add(answer["message"]["source"] if answer["message"] else None)
    assert sources == {None, "template"}
    # There is nothing to gain by reading what is sent to nobody.
    assert warnings_of(served(dataclasses.replace(every, verdicts={}))) == []


def test_readyz_tells_arms_wallet_and_warnings(release: Release) -> None:
    clock = Clock()
    client = served(release, ALL, clock=clock)
    ready = client.get("/readyz").json()
    alone = "the learned policy decides without a rollout: no alert takes it back by itself (docs/SERVICE.md, Rollout)"
    assert (ready["mode"], ready["learned_percent"], ready["warnings"]) == ("learned", 100, [alone])
    assert served(release, Router(False, 5)).get("/readyz").json()["mode"] == "canary"
    assert ready["wallet"]["period_left"] == 1.0
    for months, left in ((3, 0.75), (12, 0.75)):  # a new period has begun
        clock.now += months * MONTH
        ask(client, rows(TELCO, 1, seed=4)[0] | {"customerID": str(months)})
        assert wallet_of(client)["period_left"] == pytest.approx(left)


def test_readyz_says_that_nothing_more_can_be_offered(release: Release) -> None:
    for budget, full in ((0.5, True), (900.0, False)):
        client = served(with_policy(release, policy(TELCO, 99.0, 20), budget=budget), ALL)
        assert any("no room" in text for text in warnings_of(client)) == full


def test_readyz_and_metrics_show_what_offers_take_from_the_wallet(release: Release) -> None:
    client = served(with_policy(release, policy(TELCO, 99.0, 20), budget=900.0), ALL)
    customer = rows(TELCO, 1, seed=4)[0] | {"MonthlyCharges": 100.0}
    offers = 0
    while ask(client, customer | {"customerID": offers})["action"] == "contact":
        offers += 1
    assert offers >= 5
    wallet = wallet_of(client)
    assert (wallet["open_offers"], wallet["committed"]) == (offers, float(offers))
    assert wallet["budget"] == 900
    assert 0 <= wallet["free"] == pytest.approx(900 - wallet["committed"] - wallet["held"])
    text = client.metrics()
    for line in (
        "retain_wallet_refused_total 1.0",
        'retain_decisions_total{action="no_contact",mode="learned",why="offer_budget"} 1.0',
        f'retain_decisions_total{{action="contact",mode="learned",why="policy_contact"}} {float(offers)}',
    ):
        assert line in text


def test_readyz_says_that_no_offer_fits_any_more_though_money_is_left(release: Release) -> None:
    """The baseline makes no offer as cheap as what is left."""
    client = served(with_policy(release, budget=300.0, threshold=1e-9))
    customer = rows(TELCO, 1, seed=4)[0] | {"MonthlyCharges": 90.0}
    number = 0
    while ask(client, customer | {"customerID": number})["action"] == "contact":
        assert warnings_of(client) == []
        number += 1
    assert wallet_of(client)["free"] > release.terms.offers.contact_cost
    for _ in range(REFUSALS - 1):
        assert warnings_of(client) == []
        number += 1
        ask(client, customer | {"customerID": number})
    assert warnings_of(client) == ["the wallet has no room for the last 20 offers that were wanted"]


class Notes(Policy):
    """Contacts nobody and notes what it observes."""

    seen: ClassVar[list[Any]] = []

    def logits(self, observations: Any) -> Any:
        self.seen.extend(observations)
        return np.tile([1.0] + [0.0] * (len(self.actions) - 1), (len(observations), 1))


def test_the_policy_observes_wallet_clock_and_history(release: Release) -> None:
    clock = Clock()
    client = served(with_policy(release, like(Notes, release), budget=1_000.0), ALL, clock=clock)
    state = client.app.state.service.writer.state
    customer = rows(TELCO, 1, seed=4)[0]
    clock.now += 3 * MONTH
    state.carry_out([Ask(None, None, b"", offer(liability=150.0, cost=100.0))])  # accepted with 25 %
    Notes.seen.clear()
    history = {"contacts": [1, 0], "answers": {"accepted": 1, "declined": 2}}
    assert ask(client, customer, history)["why"] == "policy_no_contact"
    expected = [0, 1, 0, 0, 0, 1, 2, np.float32(1 - (100 + 0.25 * 150) / 1_000 - 0.75)]
    assert Notes.seen[-1][-8:].tolist() == expected
    # An offer on record that she accepted is observed as well, whatever the caller says.
    (made,) = state.carry_out([Ask("Ben", None, b"", offer(level=20))])
    state.carry_out([Outcome(made.decision_id, "declined")])
    clock.now += MONTH
    assert ask(client, customer | {"customerID": "Ben"})["why"] == "policy_no_contact"
    assert Notes.seen[-1][-8:-1].tolist() == [0, 1, 0, 0, 0, 0, 1]


@pytest.mark.parametrize("mode", ["expected", "worst_case"])
@pytest.mark.parametrize("percent", [0.0, 50.0, 100.0])
def test_a_storm_of_requests_never_overdraws(release: Release, mode: str, percent: float) -> None:
    """All at once, both arms, one wallet: it fills, then nobody is contacted."""
    router = Router(force_baseline=False, percent=percent, hold_out=0.0)
    spent = with_policy(release, policy(TELCO, 99.0, 20), budget=3_000.0, wallet=mode, threshold=0.01)
    client = served(spent, router)
    customers = [row | {"customerID": f"S-{i}"} for i, row in enumerate(rows(TELCO, 300, seed=9))]

    async def storm() -> list[dict[str, Any]]:
        transport = httpx.ASGITransport(client.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as caller:

            async def one(customer: dict[str, Any]) -> dict[str, Any]:
                response = await caller.post("/retain", json={"customer": customer})
                found: dict[str, Any] = response.json()
                return found

            return await asyncio.gather(*(one(customer) for customer in customers))

    answers = client.run(storm())
    wallet = wallet_of(client)
    assert wallet["committed"] + wallet["held"] <= wallet["budget"]
    contacts = [answer for answer in answers if answer["action"] == "contact"]
    assert 5 <= len(contacts) == wallet["open_offers"] < 300
    assert wallet["committed"] == len(contacts)
    assert {answer["mode"] for answer in answers} == (
        {"baseline"} if percent == 0 else {"learned"} if percent == 100 else {"baseline", "learned"}
    )
    refused = [answer for answer in answers if answer["why"] == "offer_budget"]
    assert refused
    for answer in refused:
        assert (answer["action"], answer["offer"], answer["message"]) == ("no_contact", None, None)
    if mode == "worst_case":
        charges = {customer["customerID"]: customer["MonthlyCharges"] for customer in customers}
        by_id = zip(customers, answers)
        worst = sum(
            answer["offer"] / 100 * charges[customer["customerID"]] * 6
            for customer, answer in by_id
            if answer["action"] == "contact"
        )
        assert worst + wallet["committed"] <= wallet["budget"]
        assert wallet["held"] == pytest.approx(worst)


class Raises(Policy):
    def logits(self, observations: Any) -> Any:
        raise ZeroDivisionError("secret")


def like(kind: type[Policy], release: Release) -> Policy:
    """The release's policy as one of that kind."""
    assert release.policy is not None
    return kind(**{field.name: getattr(release.policy, field.name) for field in dataclasses.fields(Policy)})


def broken(kind: str, release: Release) -> Policy:
    found = release.policy
    assert found is not None
    if kind == "error":
        return like(Raises, release)
    weight, bias = found.layers[-1]
    return dataclasses.replace(found, layers=(*found.layers[:-1], (weight, np.full_like(bias, np.nan))))


@pytest.mark.parametrize("kind", ["error", "not_finite"])
def test_in_doubt_the_baseline_decides(release: Release, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.circuit.MISSES", 99)  # it is asked again and again
    client = served(with_policy(release, broken(kind, release)), ALL)
    plain = served(release)
    for row in rows(TELCO, 20, seed=7):
        answer, expected = ask(client, row), ask(plain, row)
        assert answer["mode"] == "baseline"
        for key in ("action", "offer", "why", "risk", "message", "reasons"):
            assert answer[key] == expected[key]
        record = client.get(f"/decisions/{answer['decision_id']}").json()
        assert (record["detail"]["unasked"], record["shadow"]) == (kind, None)
        assert [record["detail"][name] for name in ("trial", "percent", "assigned")] == ["v1", 100, "learned"]
        assert record["detail"]["risk"] == answer["risk"]
    assert wallet_of(client)["committed"] == wallet_of(plain)["committed"]


# -- in shadow -----------------------------------------------------------------------------------------------------


def test_in_its_shadow_the_learned_arm_changes_nothing_and_completes_the_record(release: Release) -> None:
    arm = InProcessArm("v1", with_policy(release, policy(TELCO, 99.0, 20)))
    client, alone = served(release, learned=arm, clock=Clock()), served(release, learned=None, clock=Clock())
    made = 0
    for row in rows(TELCO, 40, seed=7):
        answer, expected = ask(client, row), ask(alone, row)
        assert {key: answer[key] for key in answer if key != "decision_id"} == {
            key: expected[key] for key in expected if key != "decision_id"
        }
        record = Record.model_validate_json(client.get(f"/decisions/{answer['decision_id']}").content)
        assert record.shadow is not None
        assert record.shadow.wanted == Intent(offer=20, why="policy_contact")
        assert (record.detail.unasked, record.shadow.missing, record.shadow.version) == (None, None, "v1")
        without = Record.model_validate_json(alone.get(f"/decisions/{expected['decision_id']}").content)
        assert (without.detail.unasked, without.shadow) == ("left_out", None)
        assert (record.detail.trial, record.detail.percent, record.detail.assigned) == (None, None, "baseline")
        made += answer["action"] == "contact"
    assert wallet_of(client)["committed"] == wallet_of(alone)["committed"] == made


def test_the_shadow_is_asked_with_the_history_and_the_pace_of_the_decision(release: Release) -> None:
    arm, clock = InProcessArm("v1", release), Clock()
    client = served(with_policy(release, threshold=1e-9), learned=arm, clock=clock)
    customer = rows(TELCO, 1, seed=4)[0]
    answer = ask(client, customer)
    client.post({"decision_id": answer["decision_id"], "outcome": "declined"}, "/outcomes")
    clock.now += 2 * MONTH
    ask(client, customer)
    (first, at_first), (second, later) = arm.asked
    assert (first.case.history.contacts, at_first) == ((), 0.0)
    assert (second.case.history.contacts, second.case.history.declined) == ((1, 0, 0), 1)
    assert later == pytest.approx(2 / 12, abs=0.001)
    ask(client, customer)  # her offer is open
    ask(client, customer | {"customerID": "Ben"}, {"contacts": [2]})  # nobody may contact him
    assert len(arm.asked) == 2


def recorded(client: Client, customer: dict[str, Any]) -> tuple[dict[str, Any], Record]:
    answer = ask(client, customer)
    return answer, Record.model_validate_json(client.get(f"/decisions/{answer['decision_id']}").content)


@pytest.mark.parametrize(
    ("changes", "speaks", "would_speak", "sft", "rlhf"),
    [
        ({}, "sft", "rlhf", None, None),
        ({"verdicts": {}}, "template", "template", "unread", "unread"),
        ({"rlhf": "rejected"}, "sft", "sft", None, "rejected"),
        ({"rlhf": "shadow_only"}, "sft", "sft", None, "shadow_only"),
        ({"sft": "shadow_only", "verdicts": {}}, "template", "template", "shadow_only", "unread"),
        ({"rlhf": "left_out"}, "sft", "sft", None, "left_out"),
        ({"rlhf": "damaged"}, "sft", "sft", None, "damaged"),
        ({"rlhf": "no_message"}, "sft", "sft", None, "no_message"),
    ],
)
def test_the_shadow_logs_what_sft_says_and_what_rlhf_would_say(
    release: Release, changes: dict[str, Any], speaks: str, would_speak: str, sft: str | None, rlhf: str | None
) -> None:
    """Wherever the banks stand and whatever people said of their texts, which alone decides about what is sent."""
    arm = changed(with_policy(release, policy(TELCO, 99.0, 20), threshold=1e-9), changes)
    answer, record = recorded(served(arm), rows(TELCO, 1, seed=4)[0])
    assert (answer["offer"], answer["message"]["source"]) == (10, speaks)
    assert record.detail.said is not None
    assert (record.detail.said.source, record.detail.said.text) == (speaks, None)
    assert record.shadow is not None
    said = record.shadow.said
    assert said is not None
    assert said.source == would_speak
    for banks, percent in ((record.detail.banks, "10%"), (record.shadow.banks, "20%")):
        assert banks is not None
        assert (banks.sft.withheld, banks.rlhf.withheld) == (sft, rlhf)
        for has in (banks.sft, banks.rlhf):
            if has.withheld in ("left_out", "damaged", "no_message"):
                assert (has.text, has.characters, has.tokens, has.score) == (None, None, None, None)
            else:
                assert percent in (has.text or "")
                assert (has.characters, has.tokens, has.score) == (len(has.text or ""), 23, 1.5)
    if would_speak == "template":
        assert "20%" in (said.text or "")
        assert said.characters == len(said.text or "")
    else:
        assert (said.text, said.characters) == (None, getattr(record.shadow.banks, would_speak).characters)


def changed(release: Release, changes: dict[str, Any]) -> Release:
    """The release with other verdicts, or with a bank that stands, is or is judged in another way."""
    for part, how in changes.items():
        others = {name: found for name, found in release.banks.items() if name != part}
        if part == "verdicts":
            release = dataclasses.replace(release, verdicts=how)
        elif how == "shadow_only":
            release = standing(release, part, "shadow_only", "rm.auc")
        elif how == "rejected":
            texts = dict.fromkeys((entry.text for entry in release.banks[part].entries), "rejected")
            release = dataclasses.replace(release, verdicts={**release.verdicts, **texts})
        elif how == "no_message":
            release = dataclasses.replace(release, banks={**others, part: Bank([])})
        else:
            damaged = {part: "is damaged"} if how == "damaged" else {}
            release = dataclasses.replace(release, banks=others, damaged=damaged)
    return release


def test_both_banks_are_on_record_whichever_arm_makes_an_offer(release: Release) -> None:
    customer = rows(TELCO, 1, seed=4)[0]
    nobody = like(Notes, release)
    for offers, chosen, threshold in (("baseline", nobody, 1e-9), ("learned", policy(TELCO, 99.0, 20), 0.999)):
        _, record = recorded(served(with_policy(release, chosen, threshold=threshold)), customer)
        assert record.shadow is not None
        assert (record.detail.banks is not None, record.shadow.banks is not None) == (
            offers == "baseline", offers == "learned",
        )  # fmt: skip
    _, record = recorded(served(with_policy(release, policy(TELCO, 99.0, 20)), ALL), customer)
    assert record.detail.banks is not None
    assert "20%" in (record.detail.banks.rlhf.text or "")


def test_what_a_challenger_s_bank_lacks_is_told_of_its_own(release: Release) -> None:
    other = changed(with_policy(release, policy(TELCO, 99.0, 20)), {"rlhf": "left_out"})
    client = served(with_policy(release, threshold=1e-9), learned=InProcessArm("v1", other, release, loads="v2"))
    _, record = recorded(client, rows(TELCO, 1, seed=4)[0])
    assert record.detail.banks is not None
    assert record.shadow is not None
    assert record.shadow.banks is not None
    assert (record.detail.banks.rlhf.withheld, record.shadow.banks.rlhf.withheld) == (None, "left_out")


def test_whose_learned_arm_was_asked_is_on_record_also_where_it_did_not_answer(release: Release) -> None:
    for changes in ({}, {"policy": broken("not_finite", release)}):
        arm = InProcessArm("v1", dataclasses.replace(release, **changes), release, loads="v2")  # type: ignore[arg-type]
        client = served(release, learned=arm)
        answer = ask(client, rows(TELCO, 1, seed=4)[0])
        record = Record.model_validate_json(client.get(f"/decisions/{answer['decision_id']}").content)
        assert record.shadow is not None
        assert (record.shadow.version, record.shadow.missing) == ("v2", "not_finite" if changes else None)
        assert (record.detail.release, answer["versions"]["release"]) == ("v1", "v1")


@pytest.mark.parametrize("fails", [False, True])
def test_the_record_has_the_time_until_the_answer_was_on_its_way(
    release: Release, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """The transaction's end included."""
    arm = InProcessArm("v1", release)
    arm.failure = Failure("deadline", waited=1.0) if fails else None
    client = served(release, learned=arm)
    committed = client.app.state.service.writer.state.carry_out

    def slow(operations: Any) -> Any:
        results = committed(operations)
        monkeypatch.setattr("serve.service.time", SimpleNamespace(perf_counter=lambda: time.perf_counter() + 7))
        return results

    monkeypatch.setattr(client.app.state.service.writer.state, "carry_out", slow)
    _, record = recorded(client, rows(TELCO, 1, seed=4)[0])
    assert record.shadow is not None
    assert record.detail.seconds < 7 <= record.shadow.replied < 7 + record.detail.seconds + 60
    assert (record.shadow.missing, record.shadow.waited == 1.0) == ("deadline" if fails else None, fails)


def test_an_arm_of_another_release_decides_about_nobody(release: Release) -> None:
    arm = InProcessArm("v1", with_policy(release, policy(TELCO, 99.0, 20)), release, loads="v2")
    client = served(release, ALL, learned=arm)
    answer = ask(client, rows(TELCO, 1, seed=4)[0])
    record = client.get(f"/decisions/{answer['decision_id']}").json()
    assert (answer["mode"], record["detail"]["unasked"], record["shadow"]) == ("baseline", "other_release", None)
    assert arm.asked == []


def test_a_failure_in_the_shadow_is_on_record_with_its_reason(release: Release) -> None:
    client = served(release, learned=InProcessArm("v1", with_policy(release, broken("not_finite", release))))
    answer = ask(client, rows(TELCO, 1, seed=4)[0])
    shadow = client.get(f"/decisions/{answer['decision_id']}").json()["shadow"]
    assert (shadow["missing"], shadow["wanted"]) == ("not_finite", None)


def test_a_release_without_a_policy_answers_by_the_baseline_and_warns(release: Release) -> None:
    client = served(dataclasses.replace(release, policy=None), ALL)
    assert client.post({"customer": rows(TELCO, 1, seed=4)[0]}).json()["mode"] == "baseline"
    ready = client.get("/readyz").json()
    assert (ready["mode"], ready["learned_percent"]) == ("baseline", 0)
    assert ready["warnings"] == [
        "FORCE_BASELINE=false, but the release has no learned policy: everybody gets the baseline"
    ]


def test_a_table_without_an_id_is_the_baselines(bank_release: Release) -> None:
    client = served(bank_release, ALL)
    row = rows(bank_release.spec, 1, seed=4)[0]
    del row["duration"]
    assert client.post({"customer": row}).json()["mode"] == "baseline"
    assert client.get("/readyz").json()["warnings"] == [
        "FORCE_BASELINE=false, but bank has no id that an arm could be drawn by: everybody gets the baseline"
    ]


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    percent=st.sampled_from([0.0, 30.0, 100.0]),
    offer=st.sampled_from([None, 0, 5, 10, 20]),
    contacts=st.lists(st.integers(0, 3), max_size=3),
    running=st.none() | st.tuples(st.sampled_from([0, 5, 20]), st.integers(1, 6)),
    out=st.booleans(),
    number=st.integers(0, 10**6),
)
def test_nobody_is_contacted_who_may_not_be_whoever_decides(
    release: Release,
    percent: float,
    offer: int | None,
    contacts: list[int],
    running: tuple[int, int] | None,
    out: bool,
    number: int,
) -> None:
    """The flag Partner stands for an opt-out here; `offer` None is a policy of random weights."""
    roles = release.spec.roles | {"do_not_contact": "Partner"}
    spec = release.spec.model_copy(update={"roles": roles})
    chosen = policy(TELCO) if offer is None else policy(TELCO, 99.0, offer)
    here = dataclasses.replace(with_policy(release, chosen, threshold=1e-9), spec=spec)
    client = served(here, Router(False, percent))
    customer = rows(TELCO, 1, seed=4)[0] | {"customerID": number, "Partner": "Yes" if out else "No"}
    history: dict[str, Any] = {"contacts": contacts}
    if running:
        history |= {"running_offer": running[0], "months_left": running[1]}
    answer = ask(client, customer, history)
    forbidden = out or bool(running) or sum(contacts) >= 2 or contacts[-1:] > [0]
    if forbidden:
        assert answer["action"] == "no_contact"
        assert answer["why"] in ("do_not_contact", "running_offer", "contact_cap", "contacted_this_month")
        assert wallet_of(client)["open_offers"] == 0
    elif offer is not None or answer["mode"] == "baseline":
        assert answer["action"] == "contact"


def test_openapi_says_what_is_answered(release: Release) -> None:
    document = Client(app_of("v1", release, ALL)).get("/openapi.json").json()
    answer = document["components"]["schemas"]["Answer"]["properties"]
    assert answer["mode"]["enum"] == ["baseline", "learned"]
    assert {"policy_contact", "policy_no_contact", "offer_budget", "contacted_this_month"} <= set(answer["why"]["enum"])


def test_other_offers_months_and_currency_are_other_data_alone(tmp_path: Path) -> None:
    given = inputs(tmp_path / "inputs", TELCO, dataset("bank"))
    customers(given["customers"] / "data.parquet", TELCO, times=100)
    offers = {"levels": [7, 33], "months": 2, "contact_cost": 150.0, "currency": "JPY"}
    terms = TERMS | {"offers": offers, "offer": 7, "budget": {"share": 0.03, "months": 6, "amount": 9e6}}
    (given["decision"] / "terms.json").write_text(json.dumps(terms))
    (given["decision"] / "policy.json").write_bytes(policy(TELCO, 99.0, 33, levels=(7, 33)).to_json())
    banks = {source: bank(source, offers=(7, 33)) for source in ("sft", "rlhf")}
    for source, entries in banks.items():
        (given["messages"] / f"{source}.json").write_text(json.dumps(entries))
    (given["messages"] / "scores.json").write_text(json.dumps(scores(*banks["sft"], *banks["rlhf"])))
    out = run_stage(tmp_path, given)
    release = load({path.relative_to(out).as_posix(): path for path in out.rglob("*") if path.is_file()})
    customer = rows(TELCO, 1, seed=4)[0] | {"MonthlyCharges": 9_000.0, "tenure": 40}
    for router, level in ((ALL, 33), (EVERYBODY, 7)):
        client = served(with_policy(release, threshold=1e-9), router)
        answer = ask(client, customer)
        assert (answer["action"], answer["offer"]) == ("contact", level)
        assert f"{level}%" in answer["message"]["text"]
        assert "two months" in answer["message"]["text"]
        wallet = wallet_of(client)
        assert (wallet["currency"], wallet["months"], wallet["committed"]) == ("JPY", 6, 150.0)
        assert wallet["held"] == pytest.approx(level / 100 * 9_000 * 2)
