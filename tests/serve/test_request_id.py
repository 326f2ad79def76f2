"""The id of a request, in the answer, in errors and in the log."""

from __future__ import annotations

import io
import logging
import re
import sys
from typing import Any

import pytest

from retain.release import Release
from serve import logs, request_id
from serve.service import Reply, Service
from tests.releases import rows
from tests.serve.client import Client

NEW = re.compile(r"[0-9a-f]{12}-\d+")


@pytest.mark.parametrize("given", ["a", "0f3b.-_Z", "x" * 64])
def test_the_caller_s_id_is_answered(client: Client, given: str) -> None:
    for path, status in (("/healthz", 200), ("/nowhere", 404), ("/docs", 200)):
        response = client.request("GET", path, headers={"X-Request-ID": given})
        assert (response.status_code, response.headers["x-request-id"]) == (status, given)


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", "a\u00e9", "a;b", "a\tb"])
def test_another_one_is_replaced(client: Client, given: str) -> None:
    response = client.request("GET", "/healthz", headers={"x-request-id": given.encode("latin-1")})
    assert NEW.fullmatch(response.headers["x-request-id"])


def test_every_request_without_an_id_gets_one_of_its_own(client: Client) -> None:
    ids = {client.get("/healthz").headers["x-request-id"] for _ in range(20)}
    assert len(ids) == 20


def test_a_refusal_tells_it(client: Client, release: Release) -> None:
    customer = rows(release.spec, 1, seed=4)[0]
    for response in (
        client.post({"customer": customer | {"Contract": "none"}}, **{"x-request-id": "mine"}),
        client.post(b"{", **{"x-request-id": "mine"}),
        client.post({}, **{"x-request-id": "mine", "content-type": "text/plain"}),
        client.request("GET", "/retain", headers={"x-request-id": "mine"}),
    ):
        assert response.status_code >= 400
        assert response.json()["request_id"] == response.headers["x-request-id"] == "mine"
    answer = client.post({"customer": customer}, **{"x-request-id": "mine"})
    assert "request_id" not in answer.json()


def test_a_log_line_tells_it(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    async def bug(self: Service, *request: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Service, "decide", bug)
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    root = logging.getLogger()
    before = root.handlers[:]
    try:
        logs.configure("worker-7")
        client.post({}, **{"x-request-id": "mine"})
        logging.getLogger("retain.serve").warning("of no request")
    finally:
        root.handlers[:] = before
    first, *trace, last = written.getvalue().splitlines()
    time = r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
    assert re.fullmatch(rf"{time} ERROR worker-7 request=mine POST '/retain' failed", first)
    assert trace[-1] == "ZeroDivisionError"
    assert re.fullmatch(rf"{time} WARNING worker-7 request=- of no request", last)


def test_ids_of_requests_do_not_mix(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    async def note(self: Service, *request: Any) -> Reply:
        seen.append(request_id.current.get())
        return Reply(b"{}")

    monkeypatch.setattr(Service, "decide", note)
    for name in ("one", "two"):
        client.post({}, **{"x-request-id": name})
    assert seen == ["one", "two"]
    assert request_id.current.get() == "-"
