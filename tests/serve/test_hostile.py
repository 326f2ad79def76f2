"""Hostile bodies, paths and headers on every route and both databases: refused alike, and nothing is repeated."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retain.release import Release
from serve.keys import Keys
from serve.refusals import Refusal
from serve.routes import MAX_BODY
from tests.releases import rows
from tests.serve.apps import app_of
from tests.serve.client import Client

UNKNOWN = "00000000-0000-4000-8000-000000000000"
SECRET = "MY-SECRET"
POSTS = ("/retain", "/outcomes", "/suppress")


@pytest.fixture
def client(release: Release, url: str) -> Client:
    return Client(app_of("v1", release, url=url))


def body_of(release: Release, name: str = "0001-TOY") -> dict[str, Any]:
    return {"customer": rows(release.spec, 1, seed=4)[0] | {release.spec.roles["id"]: name}}


@pytest.mark.parametrize("path", POSTS)
def test_no_body_is_taken_for_another(client: Client, path: str) -> None:
    for body, status in (
        (b"", 422),
        (b"{", 422),
        (b"null", 422),
        (b"[]", 422),
        (b"{}", 422),
        (b'{"customer": NaN, "decision_id": Infinity}', 422),
        (b'{"customer": 1e400, "decision_id": 1e400}', 422),
        (b'{"customer": "\\ud800", "decision_id": "\\ud800"}', 422),
        (b'{"customer": "\\u0000", "decision_id": "\\u0000"}', 422),
        (b'{"\\ud800": 1}', 422),
        (b'{"customer": "A", "customer": "B", "decision_id": "A"}', 422),
        (b'{"MY-SECRET": 1, "customer": {"MY-SECRET": 2}, "decision_id": "MY-SECRET", "outcome": "MY-SECRET"}', 422),
        (b"[" * MAX_BODY, 422),
        (b'{"a":' * 3_000, 422),
        (b'{"customer": ' + b"9" * 5_000 + b"}", 422),
        (b"\xff" * 100, 422),
        (b" " * (MAX_BODY + 1), 413),
        (b"[" * 1_000_000, 413),
    ):
        response = client.post(body, path)
        assert (response.status_code, body[:60]) == (status, body[:60])
        Refusal.model_validate(response.json(), strict=True)
        assert SECRET not in response.text
    for headers in ({"content-type": "text/plain"}, {"content-encoding": "gzip"}, {"transfer-encoding": "gzip"}):
        assert client.post(b"{}", path, **headers).status_code == 415


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
ODD = JSON | st.sampled_from(
    ["\ud800", "\x00", " ", 2**64, -1, 10**30, "2026-01-01T00:00:00Z", "9999-12-31T23:59:59-23:59"]
)
OUTCOMES = {
    "decision_id": UNKNOWN, "outcome": "revenue", "month": 1, "amount": 10.0, "at": "2026-01-01T00:00:00Z",
}  # fmt: skip
BODIES = {"/outcomes": (OUTCOMES, (404, 422)), "/suppress": ({"customer": "A", "reason": "asked"}, (200, 422))}


@pytest.mark.parametrize("path", BODIES)
def test_no_body_gets_a_500(client: Client, path: str) -> None:
    sound, codes = BODIES[path]

    @settings(max_examples=150)
    @given(
        changes=st.dictionaries(st.sampled_from([*sound]) | st.text(max_size=8), ODD, max_size=3),
        left_out=st.sets(st.sampled_from([*sound]), max_size=1),
    )
    def each(changes: dict[str, Any], left_out: set[str]) -> None:
        content = {name: value for name, value in (sound | changes).items() if name not in left_out}
        response = client.post(json.dumps(content).encode("utf-8", "surrogatepass"), path)
        assert response.status_code in codes, (content, response.text)

    each()


NAMES = (
    *("%00", "a%00b", "%ED%A0%80", "%FF", "..%2f..", "x" * 64, "x" * 65, "x" * 5_000, "%27%20OR%201=1--"),
    *(UNKNOWN, UNKNOWN + "%0A", "%F0%9F%98%80" * 16),
)
KEYS = {b"k": 200, b"~" * 255: 200, b"": 422, b"~" * 256: 422, b"a b": 422, b"\xff": 422, b"a\tb": 422, b"'; --": 422}


def test_no_name_of_a_decision_gets_a_500(client: Client) -> None:
    for name in NAMES:
        response = client.get(f"/decisions/{name}")
        assert (response.status_code, name) == (404, name)
        Refusal.model_validate(response.json(), strict=True)


def test_an_odd_idempotency_key_is_refused(client: Client, release: Release) -> None:
    body, json_ = json.dumps(body_of(release)).encode(), (b"content-type", b"application/json")
    for key, status in KEYS.items():
        headers = [json_, (b"idempotency-key", key)]
        response = client.request("POST", "/retain", content=body, headers=headers)
        assert (response.status_code, key) == (status, key)
        response = client.request("POST", "/retain", content=body, headers=[*headers, (b"idempotency-key", b"b")])
        assert response.status_code == 422


@pytest.mark.parametrize("value", [b"", b"Bearer", b"Bearer ", b"Basic x", b"Bearer \xff", b"Bearer " + b"x" * 8_000])
def test_an_odd_authorization_is_refused(release: Release, value: bytes) -> None:
    client = Client(app_of("v1", release, keys=Keys({"shop": "0123456789abcdef"})))
    for path in (*POSTS, f"/decisions/{UNKNOWN}"):
        method = "GET" if path.startswith("/decisions") else "POST"
        response = client.request(method, path, headers=[(b"authorization", value)], content=b"{}")
        assert response.status_code == 401
        Refusal.model_validate(response.json(), strict=True)


def test_an_odd_request_id_breaks_nothing(client: Client, release: Release) -> None:
    asked = (("/retain", body_of(release), 200), ("/suppress", {"customer": "A"}, 200), ("/outcomes", {}, 422))
    for value in (b"", b"\xff", b"x" * 8_000, b'"\\', b"a\tb", b"%00", b"7"):
        for path, content, status in asked:
            headers = [(b"content-type", b"application/json"), (b"x-request-id", value)]
            response = client.request("POST", path, content=json.dumps(content).encode(), headers=headers)
            assert response.status_code == status
            assert 0 < len(response.headers["x-request-id"]) <= 200


def test_nothing_that_is_refused_reaches_the_learned_arm(client: Client, release: Release) -> None:
    arm = client.app.state.service.bound.learned
    sound = body_of(release)
    for body in (
        {},
        {"customer": sound["customer"] | {"arm": "learned"}},
        sound | {"mode": "learned"},
        sound | {"history": {"contacts": [-1]}},
        {"customer": sound["customer"] | {"MonthlyCharges": 100_000}},
        {"customer": sound["customer"] | {"tenure": None}},
    ):
        assert client.post(body).status_code == 422
    assert client.post(sound, **{"idempotency-key": "a b"}).status_code == 422
    assert arm.asked == []
    headers = {"x-mode": "learned", "x-arm": "learned", "mode": "learned"}
    assert client.post(sound, "/retain?mode=learned&arm=learned", **headers).json()["mode"] == "baseline"
