"""What the routes remember: decisions, keys, answers, opt-outs, and who is never contacted."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from engine.approvals import Approvals, Reading
from retain.record import Record
from retain.release import Release
from serve.database import Database
from serve.router import Router
from tests.serve.apps import app_of
from tests.serve.client import Client
from tests.serve.memory import DAY, MONTH, START, Clock, balance
from tests.serve.test_routes import risky

UNKNOWN = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def client(release: Release, url: str, clock: Clock) -> Client:
    return Client(app_of("v1", release, url=url, clock=clock, learned=None))


def ask(client: Client, release: Release, who: str = "Ann", key: str | None = None, **more: Any) -> dict[str, Any]:
    headers = {} if key is None else {"Idempotency-Key": key}
    response = client.post({"customer": risky(release) | {"customerID": who}, **more}, **headers)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def tell(client: Client, decision: Any, outcome: str, **more: Any) -> tuple[int, str]:
    body = {"decision_id": decision, "outcome": outcome, **more}
    response = client.post(body, "/outcomes")
    content = response.json()
    return response.status_code, content.get("status") or content["detail"]


# -- keys and repetition -------------------------------------------------------------------------------------------


def test_a_key_brings_the_same_bytes_also_from_another_process(
    client: Client, release: Release, url: str, clock: Clock
) -> None:
    body = {"customer": risky(release)}
    first = client.post(body, **{"Idempotency-Key": "k-1"})
    assert "idempotent-replayed" not in first.headers
    restarted = Client(app_of("v1", release, url=url, clock=clock))
    # The same request, written in another way.
    spelled = json.dumps(dict(reversed(body.items())), indent=2).encode()
    second = restarted.post(spelled, **{"Idempotency-Key": "k-1"})
    assert (second.content, second.headers["idempotent-replayed"]) == (first.content, "true")
    other = restarted.post({"customer": risky(release) | {"customerID": "Ben"}}, **{"Idempotency-Key": "k-1"})
    assert other.status_code == 409
    assert other.json()["detail"] == "this Idempotency-Key came with another body before"


def outcome_of(client: Client, release: Release, **values: Any) -> tuple[int, bool]:
    """The status of a request with the key "k", and whether it was a replay."""
    response = client.post({"customer": risky(release) | values}, **{"Idempotency-Key": "k"})
    return response.status_code, "idempotent-replayed" in response.headers


@pytest.mark.parametrize(("who", "other"), [(10**22 + 1, 10**22 + 2), ("7", 8), (2**53, 2**53 + 1)])
def test_a_key_of_one_customer_brings_no_other_ones_decision(
    client: Client, release: Release, who: Any, other: Any
) -> None:
    assert outcome_of(client, release, customerID=who) == (200, False)
    assert outcome_of(client, release, customerID=other) == (409, False)


@pytest.mark.parametrize(
    ("values", "same"),
    [
        ({"tenure": 5}, {"tenure": 5.0}),
        ({"MonthlyCharges": 70}, {"MonthlyCharges": 70.0}),
        ({"SeniorCitizen": 1}, {"SeniorCitizen": 1.0}),
        ({"customerID": 7}, {"customerID": "7"}),
        ({"tenure": 0, "TotalCharges": None}, {"tenure": -0.0, "TotalCharges": " "}),
    ],
)
def test_how_a_value_is_written_makes_no_other_request(
    client: Client, release: Release, values: Any, same: Any
) -> None:
    assert outcome_of(client, release, **values) == (200, False)
    assert outcome_of(client, release, **same) == (200, True)


@pytest.mark.parametrize("more", [{"history": {"contacts": [0, 1]}}, {"time_zone": "Europe/Berlin"}])
def test_another_history_or_zone_is_another_request(client: Client, release: Release, more: Any) -> None:
    body = {"customer": risky(release)}
    for same in (body, body | {"history": None}, body | {"history": {}, "time_zone": None}):
        assert client.post(same, **{"Idempotency-Key": "k"}).status_code == 200
    assert client.post(body | more, **{"Idempotency-Key": "k"}).status_code == 409


@pytest.mark.parametrize("key", ["", "x" * 256, "two words", "é"])
def test_a_key_that_is_none_is_refused(client: Client, release: Release, key: str) -> None:
    headers = {"content-type": "application/json", "Idempotency-Key": key.encode()}
    body = json.dumps({"customer": risky(release)}).encode()
    response = client.request("POST", "/retain", content=body, headers=list(headers.items()))
    assert response.status_code == 422
    assert response.json()["detail"] == [{"type": "string_length_or_characters", "loc": ["header", "Idempotency-Key"]}]


def test_an_open_offer_is_given_again_with_its_message_and_hold(client: Client, release: Release, clock: Clock) -> None:
    first = ask(client, release)
    assert (first["action"], first["repeated"]) == ("contact", False)
    held = client.get("/readyz").json()["wallet"]["held"]
    assert held > 0
    clock.now += 13 * DAY
    again = ask(client, release, key="new", history={"contacts": [2]})
    assert again == first | {"repeated": True, "send_after": "2026-06-10T20:26:40Z"}
    assert client.get("/readyz").json()["wallet"] | {"period_left": 0} == client.get("/readyz").json()["wallet"] | {
        "period_left": 0
    }
    assert client.get("/readyz").json()["wallet"]["held"] == held
    clock.now += 2 * DAY  # it has expired, and she was contacted this month
    later = ask(client, release)
    assert (later["repeated"], later["why"]) == (False, "contacted_this_month")
    assert client.get("/readyz").json()["wallet"]["held"] == 0


def test_an_answer_that_is_given_again_is_sent_by_the_quiet_hours_of_its_own_time(
    client: Client, release: Release, clock: Clock
) -> None:
    first = ask(client, release, key="k", time_zone="America/New_York")
    assert first["send_after"] == "2026-05-28T20:26:40Z"  # 16:26
    clock.now += 11 * 3_600_000_000  # 03:26
    day = {"send_after": "2026-05-29T12:00:00Z"}
    assert ask(client, release, key="k", time_zone="America/New_York") == first | day
    assert ask(client, release, time_zone="America/New_York") == first | day | {"repeated": True}
    assert ask(client, release, time_zone="Europe/Berlin")["send_after"] == "2026-05-29T07:26:40Z"
    assert ask(client, release)["send_after"] > "2026-05-29T12:00:00Z"  # nobody knows where she lives


def test_a_text_that_people_took_back_is_not_given_again(client: Client, release: Release) -> None:
    first = ask(client, release, key="k")
    assert first["message"]["source"] == "sft"
    client.app.state.service.take_approvals(Approvals(problem="the store is away"))  # so no text counts as read
    fresh = ask(client, release, "Ben")["message"]
    assert fresh["source"] == "template"
    for again, repeated in ((ask(client, release, key="k"), False), (ask(client, release), True)):
        assert again == first | {"message": fresh, "repeated": repeated}
    assert client.get(f"/decisions/{first['decision_id']}").json()["answer"] == first
    readings = {text: (Reading(verdict="approved", by="Ann", at="2026-01-01"),) for text in release.verdicts}
    client.app.state.service.take_approvals(Approvals(readings))
    assert ask(client, release, key="k") == first


def test_an_answer_that_is_replayed_without_its_contact_is_of_the_same_types(client: Client, release: Release) -> None:
    first = ask(client, release, key="k")
    client.post({"customer": "Ann"}, "/suppress")
    again = ask(client, release, key="k")
    assert (first["offer"] is None, again["offer"]) == (False, None)
    assert again["repeated"] is False


# -- cap, opt-out and hold-out -------------------------------------------------------------------------------------


def test_the_cap_holds_though_the_caller_sends_no_history(client: Client, release: Release, clock: Clock) -> None:
    whys = []
    for _ in range(8):
        answer = ask(client, release)
        whys.append(answer["why"])
        if answer["offer"] is not None:
            assert tell(client, answer["decision_id"], "declined") == (200, "recorded")
        clock.now += MONTH // 2 + 1
    # At most two contacts in three months, and one a month.
    made, barred, cap = "risk_at_threshold", "contacted_this_month", "contact_cap"
    assert whys == [made, barred, made, cap, cap, cap, made, cap]


def test_an_offer_that_was_accepted_runs_for_its_months(client: Client, release: Release, clock: Clock) -> None:
    answer = ask(client, release)
    assert tell(client, answer["decision_id"], "accepted") == (200, "recorded")
    for _ in range(release.terms.offers.months):
        # Whatever the caller knows of it.
        for more in ({}, {"history": {"running_offer": 0}}, {"history": {"running_offer": None, "months_left": 0}}):
            assert ask(client, release, **more)["why"] == "running_offer"
        clock.now += MONTH
    assert ask(client, release)["why"] == "risk_at_threshold"


def test_an_opt_out_holds_at_once_and_in_every_process(
    client: Client, release: Release, url: str, clock: Clock
) -> None:
    first = ask(client, release, key="k")
    assert first["action"] == "contact"
    response = client.post({"customer": "Ann", "reason": "by telephone"}, "/suppress")
    assert (response.status_code, response.json()) == (200, {"status": "recorded"})
    assert client.post({"customer": "Ann"}, "/suppress").json() == {"status": "repeated"}
    assert ask(client, release, key="k")["repeated"] is False
    other = Client(app_of("v1", release, url=url, clock=clock))
    for where in (client, other):
        answer = ask(where, release)
        assert (answer["why"], answer["offer"], answer["message"]) == ("do_not_contact", None, None)
        # The key still belongs to that decision, but nobody may act on it.
        replayed = ask(where, release, key="k")
        assert replayed["decision_id"] == first["decision_id"]
        assert (replayed["action"], replayed["offer"], replayed["message"], replayed["send_after"]) == (
            "no_contact", None, None, None,
        )  # fmt: skip
    assert ask(client, release, "Ben")["action"] == "contact"


def test_an_id_may_be_suppressed_as_a_number(client: Client, release: Release) -> None:
    assert client.post({"customer": 7}, "/suppress").json() == {"status": "recorded"}
    assert ask(client, release, "7")["why"] == "do_not_contact"


def test_nobody_contacts_the_hold_out(release: Release, url: str) -> None:
    everybody = Client(app_of("v1", release, Router(hold_out=100.0), url=url))
    assert {ask(everybody, release, str(i))["why"] for i in range(20)} == {"hold_out"}
    some = Router(hold_out=30.0)
    client = Client(app_of("v1", release, some, url=url))
    for i in range(100, 130):
        assert (ask(client, release, str(i))["why"] == "hold_out") == some.held_out(str(i))


# -- messages and quiet hours --------------------------------------------------------------------------------------


def test_a_message_waits_for_the_recipients_day(client: Client, release: Release, clock: Clock) -> None:
    assert START // 1_000_000 == 1_780_000_000  # 2026-05-28 20:26:40 UTC, 16:26 in New York
    known = ask(client, release, time_zone="America/New_York")
    assert known["send_after"] == "2026-05-28T20:26:40Z"
    abroad = ask(client, release, "Ben", time_zone="Europe/Berlin")
    assert abroad["send_after"] == "2026-05-29T06:00:00Z"
    unknown = ask(client, release, "Cyd")
    assert unknown["send_after"] == "2026-05-28T20:26:40Z"  # 16:26 in New York, 13:26 in Los Angeles
    assert ask(client, release, "Dan", history={"contacts": [2]})["send_after"] is None


# -- exploration ---------------------------------------------------------------------------------------------------


def test_exploration_draws_actions_alike_and_says_with_which_chance(release: Release) -> None:
    client = Client(app := app_of("v1", release, Router(hold_out=0.0, exploration=0.4)))
    answers = [ask(client, release, str(i)) for i in range(400)]
    records = [client.get(f"/decisions/{answer['decision_id']}").json() for answer in answers]
    counts = Counter(record["offer"] for record in records if record["detail"]["explored"])
    levels = release.terms.offers.levels
    assert set(counts) == {None, *levels}
    assert 110 <= counts.total() <= 210
    for record in records:
        detail = record["detail"]
        usual = record["offer"] == release.terms.offer
        assert detail["usual"] == release.terms.offer
        assert detail["pscore"] == pytest.approx(0.4 / (1 + len(levels)) + 0.6 * usual)
        assert (record["answer"]["why"] == "exploration") == detail["explored"]
        assert detail["explored"] or usual
        assert detail["actions"] == [None, *levels]
        accepted, risk = detail["risk_if_accepted"], record["answer"]["risk"]
        assert (accepted is None) == (record["offer"] is None)
        if record["offer"] == 0:
            assert accepted == risk
    assert app.state.service.writer.state.standing.open == sum(record["offer"] is not None for record in records)


# -- outcomes ------------------------------------------------------------------------------------------------------


def test_outcomes_are_recorded_repeated_contradicted_or_late(client: Client, release: Release, clock: Clock) -> None:
    decision = ask(client, release)["decision_id"]
    assert tell(client, decision, "accepted") == (200, "recorded")
    assert tell(client, decision, "accepted") == (200, "repeated")
    assert tell(client, decision, "declined") == (409, "something else is on record already, and stays")
    assert tell(client, decision, "revenue", month=1, amount=70.5) == (200, "recorded")
    assert tell(client, decision, "revenue", month=1, amount=70.5) == (200, "repeated")
    assert tell(client, decision, "revenue", month=1, amount=71) == (
        409,
        "something else is on record already, and stays",
    )
    assert tell(client, decision, "complained") == (200, "recorded")
    assert tell(client, decision, "churned") == (200, "recorded")
    assert tell(client, UNKNOWN, "accepted") == (404, "there is no such decision")
    nobody = ask(client, release, "Ben", history={"contacts": [2]})["decision_id"]
    assert tell(client, nobody, "declined")[0] == 422
    assert tell(client, nobody, "churned") == (200, "recorded")
    late = ask(client, release, "Cyd")["decision_id"]
    clock.now += 15 * DAY
    assert tell(client, late, "accepted") == (200, "late")
    for status in ("recorded", "repeated", "contradicts", "late"):
        assert f'status="{status}"' in client.metrics()


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ({}, ("missing", "decision_id")),
        ({"decision_id": "7", "outcome": "accepted"}, ("string_length_or_characters", "decision_id")),
        ({"decision_id": UNKNOWN, "outcome": "bought"}, ("not_one_of_the_allowed", "outcome")),
        ({"decision_id": UNKNOWN, "outcome": "revenue", "month": 1}, ("wants_month_and_amount",)),
        ({"decision_id": UNKNOWN, "outcome": "accepted", "month": 1}, ("no_month_or_amount",)),
        ({"decision_id": UNKNOWN, "outcome": "revenue", "month": 0, "amount": 1}, ("below_minimum", "month")),
        ({"decision_id": UNKNOWN, "outcome": "revenue", "month": 1, "amount": -1}, ("below_minimum", "amount")),
        ({"decision_id": UNKNOWN, "outcome": "revenue", "month": 1.5, "amount": 1}, ("integer_type", "month")),
        ({"decision_id": UNKNOWN, "outcome": "churned", "at": "yesterday"}, ("no_time", "at")),
        ({"decision_id": UNKNOWN, "outcome": "churned", "at": "2026-01-01T00:00:00"}, ("no_time", "at")),
        ({"decision_id": UNKNOWN, "outcome": "churned", "who": "me"}, ("unknown_key",)),
        ([], ("not_an_object",)),
        (b'{"decision_id": NaN}', ("not_finite",)),
        (b"\xff", ("not_utf8",)),
    ],
)
def test_a_bad_outcome_is_told_by_type_and_place(client: Client, body: Any, fault: tuple[str, ...]) -> None:
    response = client.post(body, "/outcomes")
    assert response.status_code == 422, response.text
    kind, *place = fault
    assert {"type": kind, "loc": ["body", *place]} in response.json()["detail"]


@pytest.mark.parametrize("body", [{}, {"customer": ""}, {"customer": 10**200}, {"customer": "A", "reason": "x" * 201}])
def test_a_bad_opt_out_is_refused(client: Client, body: Any) -> None:
    assert client.post(body, "/suppress").status_code == 422


# -- the record ----------------------------------------------------------------------------------------------------


def test_a_decision_is_looked_up_as_it_was_answered(client: Client, release: Release, clock: Clock) -> None:
    answer = ask(client, release, history={"contacts": [1, 0], "answers": {"declined": 1}})
    clock.now += DAY
    tell(client, answer["decision_id"], "accepted")
    response = client.get(f"/decisions/{answer['decision_id']}")
    record = Record.model_validate_json(response.content)
    assert record.answer == answer
    assert (record.arm, record.offer, record.answered, record.customer) == ("baseline", 10, "accepted", None)
    assert (record.at, record.answered_at) == ("2026-05-28T20:26:40.000+00:00", "2026-05-29T20:26:40.000+00:00")
    assert record.detail.history["contacts"] == [1, 0]
    assert (record.detail.pscore, record.detail.actions, record.detail.risk_if_accepted) == (1.0, None, None)
    assert record.detail.unasked == "left_out"
    assert [outcome.kind for outcome in record.outcomes] == ["accepted"]
    assert client.get(f"/decisions/{UNKNOWN}").status_code == 404
    assert client.get("/decisions/" + "x" * 5000).status_code == 404


def test_no_id_of_a_customer_is_in_the_database(client: Client, release: Release, url: str) -> None:
    who = "7590-VHVEG-UNMISTAKABLE"
    ask(client, release, who, key="KEY-UNMISTAKABLE")
    client.post({"customer": who, "reason": ""}, "/suppress")
    database = Database(url)
    with database.reading() as connection:
        for table in ("decision", "request_key", "suppression", "meta", "wallet"):
            rows = connection.execute(text(f"SELECT * FROM {table}")).all()
            assert rows, table
            assert "UNMISTAKABLE" not in repr(rows)
    database.close()


# -- the database is away ------------------------------------------------------------------------------------------


def test_without_a_database_nobody_is_contacted_and_every_caller_gets_an_answer(
    release: Release, tmp_path: Path
) -> None:
    path = tmp_path / "serving.db"
    client = Client(app_of("v1", release, url=f"sqlite:///{path}"))
    assert ask(client, release)["action"] == "contact"
    path.rename(tmp_path / "gone.db")
    (tmp_path / "serving.db").mkdir()
    answer = ask(client, release, "Ben")
    assert (answer["action"], answer["why"], answer["decision_id"]) == ("no_contact", "state_unavailable", None)
    assert client.post({"customer": "Ben"}, "/suppress").status_code == 503
    assert client.get(f"/decisions/{UNKNOWN}").headers["retry-after"] == "1"
    assert 'why="state_unavailable"} 1.0' in client.metrics()


def test_the_wallet_is_exact_after_all_of_it(client: Client, release: Release, url: str, clock: Clock) -> None:
    for i in range(12):
        answer = ask(client, release, str(i))
        if i % 3 == 0:
            tell(client, answer["decision_id"], "accepted")
        elif i % 3 == 1:
            tell(client, answer["decision_id"], "declined")
        if i == 6:
            tell(client, answer["decision_id"], "churned")
    database = Database(url)
    _, opened = balance(database)
    database.close()
    assert opened == 4
