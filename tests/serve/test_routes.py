"""/retain and its neighbours through the application, without a network."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retain.decision import Bridge
from retain.release import Release
from retain.request import request_columns
from serve.answers import Answer
from serve.refusals import Refusal
from serve.routes import MAX_BODY
from serve.service import Service
from tests.releases import FOOTER, dataset, decided, rows
from tests.serve.apps import app_of
from tests.serve.client import Client
from tests.words import check

READ = {"listed": 48, "approved": 48, "rejected": 0, "unread": 0}


@pytest.fixture
def customer(release: Release) -> dict[str, Any]:
    return rows(release.spec, 1, seed=4)[0]


def stated(release: Release) -> dict[str, Any]:
    """A customer with what a request states of her."""
    row = rows(release.spec, 1, seed=4)[0]
    return {column.name: row[column.name] for column in request_columns(release.spec)}


def risky(release: Release) -> dict[str, Any]:
    return max(rows(release.spec, 100, seed=6), key=lambda row: decided(release, row)[0].risk)


def test_a_customer_gets_a_decision_with_its_reasons(client: Client, release: Release) -> None:
    customer = risky(release)
    response = client.post({"customer": customer})
    assert response.status_code == 200
    answer = response.json()
    Answer.model_validate(answer, strict=True)
    decision, assessment = decided(release, customer)
    assert (answer["risk"], answer["acceptance"]) == (decision.risk, decision.acceptance)
    assert (answer["action"], answer["offer"], answer["why"]) == ("contact", 10, "risk_at_threshold")
    assert answer["acceptance_full"] is None
    assert answer["mode"] == "baseline"
    assert answer["versions"] == {"release": "v1", **release.versions}
    expected = assessment.reasons[: release.terms.reasons]
    assert [(reason["feature"], reason["contribution"]) for reason in answer["reasons"]] == expected
    assert all(reason["value"] == customer[reason["feature"]] for reason in answer["reasons"])
    body, _, below = answer["message"]["text"].partition("\n")
    assert check(body, 10, 6) == []
    assert below == FOOTER
    assert answer["message"]["source"] == "sft"
    counted = client.metrics()
    assert 'retain_message_sources_total{source="sft"} 1.0' in counted
    assert 'retain_message_sources_total{source="rlhf"} 0.0' in counted


def test_no_protected_column_is_shown_as_a_reason(bank_release: Release) -> None:
    def shown(release: Release) -> list[str]:
        answer = Client(app_of("v1", release)).post({"customer": stated(bank_release)}).json()
        return [reason["feature"] for reason in answer["reasons"]]

    first, *others = shown(bank_release)
    assert not {"age", "marital"} & {first, *others}
    columns = [
        column.model_copy(update={"protected": column.protected or column.name == first})
        for column in bank_release.spec.columns
    ]
    spec = bank_release.spec.model_copy(update={"columns": tuple(columns)})
    assert shown(dataclasses.replace(bank_release, spec=spec)) == others


def test_every_answer_has_an_id_of_its_own(client: Client, customer: dict[str, Any]) -> None:
    ids = {client.post({"customer": customer}).json()["decision_id"] for _ in range(20)}
    assert len(ids) == 20


def test_history_forbids_a_contact(client: Client, release: Release) -> None:
    customer = risky(release)
    for history, why in (
        ({"contacts": [1, 0, 1]}, "contact_cap"),
        ({"contacts": [1]}, "contacted_this_month"),
        ({"running_offer": 5, "months_left": 1}, "running_offer"),
    ):
        answer = client.post({"customer": customer, "history": history}).json()
        assert (answer["action"], answer["offer"], answer["message"], answer["why"]) == ("no_contact", None, None, why)
    assert client.post({"customer": customer, "history": {"running_offer": 20}}).status_code == 422


def test_a_customer_who_has_only_just_come_is_answered(client: Client, customer: dict[str, Any]) -> None:
    for total in (None, "", " "):
        response = client.post({"customer": customer | {"tenure": 0, "TotalCharges": total}})
        assert response.status_code == 200
        Answer.model_validate(response.json())


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"{", 422),
        (b"null", 422),
        (b"[]", 422),
        (b'{"customer": NaN}', 422),
        (b'{"customer": {"tenure": Infinity}}', 422),
        (b'{"customer": {"tenure": 1e400}}', 422),
        (b'{"customer": {"customerID": "\\ud800"}}', 422),
        (b'{"\\ud800": 1}', 422),
        (b'{"customer": {}, "customer": {}}', 422),
        (b"[" * MAX_BODY, 422),
        (b'{"a":' * 3_000, 422),
        (b"\xff" * 100, 422),
        (b'{"customer": {"tenure": "5"}}', 422),
        (b'{"customer": {"surprise": 5}}', 422),
        (b" " * (MAX_BODY + 1), 413),
        (b"[" * 50_000_000, 413),
    ],
)
def test_bad_bodies_are_refused(client: Client, body: bytes, status: int) -> None:
    response = client.post(body)
    assert response.status_code == status
    Refusal.model_validate(response.json(), strict=True)


def test_a_body_of_just_the_limit_is_read(client: Client, customer: dict[str, Any]) -> None:
    body = json.dumps({"customer": customer}).encode()
    assert client.post(body + b" " * (MAX_BODY - len(body))).status_code == 200
    assert client.post(body + b" " * (MAX_BODY - len(body) + 1)).status_code == 413


def test_nothing_of_a_bad_request_is_repeated(client: Client, customer: dict[str, Any]) -> None:
    response = client.post({"customer": customer | {"Contract": "MY-SECRET", "MY-SECRET": 1}})
    assert response.status_code == 422
    assert "MY-SECRET" not in response.text
    assert response.json()["detail"] == [
        {"type": "not_one_of_the_allowed", "loc": ["body", "customer", "Contract"]},
        {"type": "unknown_key", "loc": ["body", "customer"]},
    ]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "", "application/jsonp"])
def test_another_content_type_is_refused(client: Client, customer: dict[str, Any], kind: str) -> None:
    response = client.post({"customer": customer}, **{"content-type": kind})
    assert response.status_code == 415
    assert "application/json" in response.json()["detail"]


def test_a_charset_may_be_stated(client: Client, customer: dict[str, Any]) -> None:
    kind = "Application/JSON; charset=utf-8"
    assert client.post({"customer": customer}, **{"content-type": kind}).status_code == 200


def test_unknown_paths_and_methods_are_refused_in_the_same_shape(client: Client) -> None:
    for response, status in (
        (client.get("/nowhere"), 404),
        (client.get("/retain"), 405),
        (client.request("PUT", "/healthz"), 405),
    ):
        assert response.status_code == status
        Refusal.model_validate(response.json(), strict=True)


def test_a_bug_is_a_clean_500(
    client: Client, customer: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def bug(self: Service, *request: Any) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(Service, "decide", bug)
    response = client.post({"customer": customer})
    assert response.status_code == 500
    assert response.json() == {"detail": "internal error", "request_id": response.headers["x-request-id"]}
    assert "ZeroDivisionError" in caplog.text
    assert 'retain_requests_total{code="500",path="/retain"} 1.0' in client.metrics()


TEXT = st.text(max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize("table", ["release", "bank_release"])
def test_no_body_gets_a_500(request: pytest.FixtureRequest, table: str) -> None:
    release = request.getfixturevalue(table)
    no_body_gets_a_500(Client(app_of("v1", release)), stated(release))


@settings(max_examples=300)
@given(data=st.data())
def no_body_gets_a_500(client: Client, stated: dict[str, Any], data: st.DataObject) -> None:
    customer = dict(stated)
    keys = st.sampled_from([*customer, "Churn"]) | TEXT
    values = JSON | st.sampled_from([*customer.values(), 0, 1, -1, 2**64, 10**30, 1e308, "\ud800", "\x00", " "])
    customer |= data.draw(st.dictionaries(keys, values, max_size=3))
    for key in data.draw(st.lists(st.sampled_from(list(customer)), max_size=1)):
        del customer[key]
    history = data.draw(
        JSON | st.dictionaries(st.sampled_from(["contacts", "running_offer", "months_left", "answers"]), JSON)
    )
    text = json.dumps({"customer": customer, "history": history})
    body = data.draw(st.sampled_from([text.encode("utf-8", "surrogatepass"), json.dumps(history).encode()]))
    if data.draw(st.booleans()):  # one bit flipped somewhere
        at = data.draw(st.integers(0, len(body) - 1))
        body = body[:at] + bytes([body[at] ^ (1 << data.draw(st.integers(0, 7)))]) + body[at + 1 :]
    response = client.post(body)
    assert response.status_code in (200, 422)
    (Answer if response.status_code == 200 else Refusal).model_validate(response.json())


def test_a_charge_that_is_not_plausible_is_refused_and_holds_nothing(client: Client, release: Release) -> None:
    customer = risky(release)
    for charge in (100_000, 8_085):
        response = client.post({"customer": customer | {"MonthlyCharges": charge}})
        assert response.status_code == 422
        assert response.json()["detail"] == [{"type": "implausible", "loc": ["body", "customer", "MonthlyCharges"]}]
    ready = client.get("/readyz").json()
    assert ready["wallet"]["held"] == 0
    assert [line for line in ready["warnings"] if "MonthlyCharges" in line] == [
        "2 requests were refused whose MonthlyCharges is not plausible: the training part makes it 0 to 587.7. "
        "Is it in another unit?"
    ]
    text = client.metrics()
    assert 'retain_implausible_total{column="MonthlyCharges",outcome="refused"} 2.0' in text


def test_any_other_number_that_is_not_plausible_is_counted_and_warned_of(client: Client, release: Release) -> None:
    customer = risky(release)
    for change in ({"tenure": 1_200}, {"TotalCharges": 40_425}):
        assert client.post({"customer": customer | change}).json()["action"] == "contact"
    warnings = client.get("/readyz").json()["warnings"]
    assert [line.partition(":")[0] for line in warnings] == [
        "1 request was decided about all the same whose TotalCharges is not plausible",
        "1 request was decided about all the same whose tenure is not plausible",
    ]
    assert "and to fit tenure x charge" in warnings[0]
    text = client.metrics()
    assert 'retain_implausible_total{column="tenure",outcome="decided"} 1.0' in text


def test_no_charge_holds_much_of_the_wallet(release: Release) -> None:
    """Even where the table says that a charge of any size is decided about."""
    client, customer = Client(app_of("v1", charge_of_any_size(release))), risky(release)
    answer = client.post({"customer": customer | {"MonthlyCharges": 100_000}}).json()
    assert (answer["action"], answer["offer"], answer["why"]) == ("no_contact", None, "offer_limit")
    ready = client.get("/readyz").json()
    assert ready["wallet"]["held"] == 0
    assert "1 offer was not made, since one offer may cost at most 2,250 EUR" in ready["warnings"]
    # 5 % of 45,000 EUR, which 10 % off 3,750 EUR for six months cost.
    for charge, why in ((3_751, "offer_limit"), (3_750, "risk_at_threshold")):
        assert client.post({"customer": customer | {"MonthlyCharges": charge}}).json()["why"] == why
    assert 'retain_decisions_total{action="no_contact",mode="baseline",why="offer_limit"} 2.0' in client.metrics()


def test_a_small_budget_still_pays_for_plausible_customers(release: Release) -> None:
    poor = dataclasses.replace(release, terms=dataclasses.replace(release.terms, budget=500.0))
    assert poor.offer_limit == pytest.approx(
        0.20 * 587.7 * 6, rel=1e-3
    )  # the deepest offer on the highest plausible charge
    answer = Client(app_of("v1", poor)).post({"customer": risky(release) | {"MonthlyCharges": 100}}).json()
    assert answer["action"] == "contact"


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/docs", "/openapi.json"])
def test_head_and_a_slash_at_the_end_are_answered_as_balancers_expect(client: Client, path: str) -> None:
    plain = client.get(path)
    for method, asked in (("HEAD", path), ("GET", f"{path}/?x=1"), ("HEAD", f"{path}/")):
        response = client.request(method, asked, headers={"host": "evil.example"})
        assert response.status_code == 200
        assert "location" not in response.headers
        assert response.headers["content-type"] == plain.headers["content-type"]
    assert f'retain_requests_total{{code="200",path="{path}"}} 4.0' in client.metrics()


def test_a_decision_may_be_asked_for_with_a_slash_at_the_end(client: Client, customer: dict[str, Any]) -> None:
    for path in ("/retain/", "/retain/?x=1"):
        response = client.request("POST", path, json={"customer": customer})
        assert response.status_code == 200
    assert client.request("POST", "/retain//", json={"customer": customer}).status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("HEAD", "/retain", 405, "POST"),
        ("POST", "/healthz", 405, "GET, HEAD"),
        ("HEAD", "/nowhere", 404, None),
        ("GET", "/", 404, None),
    ],
)
def test_what_a_path_takes_is_said(client: Client, method: str, path: str, status: int, allow: str | None) -> None:
    response = client.request(method, path)
    assert (response.status_code, response.headers.get("allow")) == (status, allow)


@pytest.mark.parametrize(
    ("header", "value", "status"),
    [
        ("content-encoding", "gzip", 415),
        ("content-encoding", "br, gzip", 415),
        ("content-encoding", "identity", 200),
        ("content-encoding", "", 200),
        ("transfer-encoding", "gzip, chunked", 415),
        ("transfer-encoding", "Chunked", 200),
    ],
)
def test_an_encoded_body_is_refused(
    client: Client, customer: dict[str, Any], header: str, value: str, status: int
) -> None:
    response = client.post({"customer": customer}, **{header: value})
    assert response.status_code == status
    if status == 415:
        assert header in response.json()["detail"].lower()


def charge_of_any_size(release: Release) -> Release:
    """The release for a table that states: a charge which isn't plausible is warned of, not refused."""
    charge = release.spec.roles["monthly_charge"]
    columns = [
        column.model_copy(update={"outside": "warn"}) if column.name == charge else column
        for column in release.spec.columns
    ]
    return dataclasses.replace(release, spec=release.spec.model_copy(update={"columns": tuple(columns)}))


def test_a_number_without_bounds_is_answered_or_refused(bank_release: Release) -> None:
    client, customer = Client(app_of("v1", charge_of_any_size(bank_release))), stated(bank_release)
    for number, status in ((10**30, 200), (-(2**70), 200), (10**39, 422)):
        assert client.post({"customer": customer | {"nr.employed": number}}).status_code == status
    for number, status in ((2**53 - 1, 200), (2**64, 422), (10**30, 422)):
        assert client.post({"customer": customer | {"campaign": number}}).status_code == status


def test_openapi_shows_this_release_s_own_fields(client: Client, release: Release) -> None:
    document = client.get("/openapi.json").json()
    operation = document["paths"]["/retain"]["post"]
    content = operation["requestBody"]["content"]["application/json"]
    customer = content["schema"]["properties"]["customer"]
    assert customer["required"] == [column.name for column in release.spec.columns]
    assert customer["properties"]["Contract"]["enum"] == ["Month-to-month", "One year", "Two year"]
    assert customer["properties"]["tenure"]["minimum"] == 0
    assert [branch["type"] for branch in customer["properties"]["TotalCharges"]["anyOf"]] == ["number", "null"]
    assert "Churn" not in customer["properties"]
    assert {"200", "413", "422"} <= set(operation["responses"])
    assert client.get("/docs").status_code == 200


def test_every_example_of_openapi_runs_as_it_stands(client: Client) -> None:
    document = client.get("/openapi.json").json()
    found = 0
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            content = operation.get("requestBody", {}).get("content", {})
            for kind, media in content.items():
                for example in media.get("examples", {}).values():
                    response = client.request(method, path, json=example["value"], headers={"content-type": kind})
                    assert response.status_code == 200
                    found += 1
    assert found == 3


def test_health_and_readiness_say_what_answers(client: Client, release: Release) -> None:
    assert client.get("/healthz").json() == {"status": "alive"}
    ready = client.get("/readyz").json()
    assert 0.999 < ready["wallet"].pop("period_left") <= 1
    arm = ready.pop("learned_arm")
    assert (arm["running"], arm["version"], arm["circuit"]["state"]) == (True, "v1", "closed")
    assert ready == {
        "status": "ready",
        "mode": "baseline",
        "learned_percent": 0.0,
        "hold_out_percent": 5.0,
        "exploration": 0.0,
        "experiment": "toy",
        "dataset": "telco",
        "release": "v1",
        "parts": dict(release.versions),
        "messages": {"template": 24, "sft": READ, "rlhf": READ},
        "standings": {
            name: {"standing": "served", "digest": part.digest, "artifact": part.digest, "missed": []}
            for name, part in release.parts.items()
        },
        "rollout": None,
        "wallet": {
            "mode": "expected",
            "currency": "EUR",
            "budget": 45_000.0,
            "committed": 0.0,
            "held": 0.0,
            "free": 45_000.0,
            "open_offers": 0,
            "months": 12,
        },
        "warnings": [],
    }


def test_a_replaced_part_and_a_table_without_the_bridge_are_warned_of(release: Release) -> None:
    bridge = Bridge({"roles": ["senior"], "cells": {}, "overall": 0.1}, dataset("telco", bridge=[]))
    other = dataclasses.replace(release, replaced=("risk",), bridge=bridge)
    warnings = Client(app_of("v1+risk", other)).get("/readyz").json()["warnings"]
    assert warnings == ["risk is that of RISK_MODEL_PATH, not the release's own", bridge.warning]


def test_metrics_count_requests_decisions_and_seconds(client: Client, release: Release) -> None:
    customer = risky(release)
    client.post({"customer": customer})
    client.post({"customer": customer | {"customerID": "Ben"}, "history": {"contacts": [2]}})
    client.post({"customer": customer})
    client.post({})
    client.get("/made-up-by-the-caller")
    text = client.metrics()
    assert "_created" not in text  # a second series for each, which nobody reads
    for line in (
        'retain_requests_total{code="200",path="/retain"} 3.0',
        'retain_answers_again_total{why="repeated"} 1.0',
        'retain_requests_total{code="422",path="/retain"} 1.0',
        'retain_requests_total{code="404",path="other"} 1.0',
        'retain_decisions_total{action="contact",mode="baseline",why="risk_at_threshold"} 1.0',
        'retain_decisions_total{action="no_contact",mode="baseline",why="contact_cap"} 1.0',
        "retain_request_seconds_count 3.0",
        'retain_release_info{release="v1"} 1.0',
    ):
        assert line in text
    assert "made-up" not in text


def test_answers_alone_are_timed_and_from_the_end_of_the_body_on(
    client: Client, customer: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller who sends slowly, or what is refused at once, moves no percentile."""
    now = 0.0
    monkeypatch.setattr("serve.routes.time", SimpleNamespace(perf_counter=lambda: now))
    body = json.dumps({"customer": customer}).encode()

    async def dripping() -> AsyncIterator[bytes]:
        nonlocal now
        for part in (body[:9], body[9:]):
            now += 9.0
            yield part

    headers = {"content-type": "application/json"}
    assert client.request("POST", "/retain", content=dripping(), headers=headers).status_code == 200
    assert client.request("GET", "/retain").status_code == 405
    assert client.post({}).status_code == 422
    assert client.request("POST", "/retain", content=body).status_code == 415
    text = client.metrics()
    assert "retain_request_seconds_count 1.0" in text
    assert "retain_request_seconds_sum 0.0" in text


def test_two_applications_count_apart(release: Release, customer: dict[str, Any]) -> None:
    one, other = Client(app_of("v1", release)), Client(app_of("v2", release))
    one.post({"customer": customer})
    assert 'retain_requests_total{code="200",path="/retain"} 0.0' in other.metrics()
