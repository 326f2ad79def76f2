"""POST /alerts: who may call, what is answered, and that nobody waits."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from starlette.testclient import TestClient

from deploy import webhook
from deploy.alerts import MAX_BODY, Alert, Notification
from deploy.webhook import Webhook
from engine.errors import StoreUnavailable
from tests.deploy.alerting import alert, blaming, body, watchdog

TOKEN = "s3cret-s3cret-s3cret"
BEARER = {"authorization": f"Bearer {TOKEN}"}


class Desk:
    def __init__(self) -> None:
        self.heard: list[Alert] = []
        self.taken: list[Notification] = []
        self.work: Callable[[], None] = lambda: None

    def carry_out(self, notification: Notification) -> None:
        self.work()
        self.taken.append(notification)

    def client(self) -> TestClient:
        at_work = Webhook(TOKEN, self.heard.append, self.carry_out, lambda: {"lease": "renewed"}, CollectorRegistry())
        return TestClient(at_work.app(), raise_server_exceptions=False)


@pytest.fixture
def desk() -> Desk:
    return Desk()


def post(desk: Desk, content: bytes, headers: dict[str, str] = BEARER) -> int:
    with desk.client() as client:
        status: int = client.post("/alerts", content=content, headers=headers).status_code
        return status


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": TOKEN},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": f"Bearer {TOKEN}x"},
        {"authorization": f"Bearer {TOKEN[:-1]}"},
        {"authorization": "Bearer "},
        {"authorization": "Bearer \u00e9".encode("latin-1").decode("latin-1")},
    ],
)
def test_without_the_token_nothing_is_read(desk: Desk, headers: dict[str, Any]) -> None:
    with desk.client() as client:
        encoded = {name: value.encode("latin-1") for name, value in headers.items()}
        answer = client.post("/alerts", content=body(watchdog(), blaming("A")), headers=encoded)
    assert answer.status_code == 401
    assert TOKEN not in answer.text
    assert (desk.heard, desk.taken) == ([], [])


def test_another_token_is_logged_but_not_often(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    with desk.client() as client:
        for _ in range(5):
            client.post("/alerts", content=body(), headers={"authorization": f"Bearer {TOKEN}x"})
    lines = [record.getMessage() for record in caplog.records if record.name == "retain.deploy"]
    assert lines == ["a notification without the token of RETAIN_CONTROLLER_TOKEN was refused"]
    assert TOKEN not in lines[0]


def test_two_tokens_are_none(desk: Desk) -> None:
    with desk.client() as client:
        headers = [("authorization", f"Bearer {TOKEN}")] * 2
        assert client.post("/alerts", content=body(), headers=headers).status_code == 401


def test_a_watchdog_is_heard_and_nothing_else_done(desk: Desk) -> None:
    assert post(desk, body(watchdog(5))) == 200
    assert [each.evaluated for each in desk.heard] == [5]
    assert desk.taken == []


def test_what_fires_is_carried_out_before_it_is_answered(desk: Desk) -> None:
    assert post(desk, body(blaming("A"), alert("B", severity="ticket")), {"authorization": f"bearer {TOKEN}"}) == 200
    assert [[each.name for each in notification.alerts] for notification in desk.taken] == [["A", "B"]]
    assert post(desk, body(blaming("A", status="resolved"))) == 200
    assert len(desk.taken) == 1


@pytest.mark.parametrize("sent", [b"", b"{}", b"[" * 10_000])
def test_what_is_no_notification_is_refused(desk: Desk, sent: bytes) -> None:
    assert post(desk, sent) == 400
    assert desk.taken == []


def test_a_body_has_a_limit(desk: Desk) -> None:
    assert post(desk, body(blaming("A")).ljust(MAX_BODY)) == 200
    assert post(desk, body(blaming("A")).ljust(MAX_BODY + 1)) == 413
    assert len(desk.taken) == 1


def test_what_can_not_be_put_on_record_is_to_be_sent_again(desk: Desk) -> None:
    def away() -> None:
        raise StoreUnavailable("No space left on device")

    desk.work = away
    assert post(desk, body(watchdog(), blaming("A"))) == 503
    assert len(desk.heard) == 1

    def broken() -> None:
        raise ZeroDivisionError

    desk.work = broken
    assert post(desk, body(blaming("A"))) == 500


def test_a_store_that_hangs_is_not_waited_for_and_keeps_no_watchdog_from_being_heard(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook, "ANSWER_SECONDS", 0.05)
    hangs = threading.Event()
    desk.work = lambda: hangs.wait(30) and None
    with desk.client() as client:
        for _ in range(3):
            assert client.post("/alerts", content=body(blaming("A")), headers=BEARER).status_code == 503
        assert client.post("/alerts", content=body(watchdog()), headers=BEARER).status_code == 200
        assert client.get("/healthz").json() == {"status": "alive", "lease": "renewed"}
    hangs.set()
    assert len(desk.heard) == 1


def test_so_many_wait_and_no_more(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "ANSWER_SECONDS", 0.001)
    hangs, begun = threading.Event(), threading.Semaphore(0)

    def hang() -> None:
        begun.release()
        hangs.wait(30)

    desk.work = hang
    with desk.client() as client:
        details = [
            client.post("/alerts", content=body(blaming("A")), headers=BEARER).json()["detail"]
            for _ in range(webhook.MAX_AT_ONCE + 2)
        ]
        hangs.set()
    assert details[-2:] == ["too many notifications wait for the store"] * 2
    assert set(details[:-2]) == {"the store has not answered yet"}
    assert sum(begun.acquire(timeout=30) for _ in range(webhook.MAX_AT_ONCE)) == webhook.MAX_AT_ONCE


def test_without_a_thread_it_is_to_be_sent_again_and_takes_no_other_s_place(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook, "MAX_AT_ONCE", 1)
    start = threading.Thread.start

    def exhausted(thread: threading.Thread) -> None:
        if thread.name == "notification":
            raise RuntimeError("can't start new thread")
        start(thread)

    with desk.client() as client:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", exhausted)
            for _ in range(2):
                answer = client.post("/alerts", content=body(blaming("A")), headers=BEARER)
                assert (answer.status_code, answer.json()["detail"]) == (503, "no thread could be started")
        assert client.post("/alerts", content=body(blaming("A")), headers=BEARER).status_code == 200


def test_only_what_is_there_is_answered(desk: Desk) -> None:
    with desk.client() as client:
        assert client.get("/alerts").status_code == 405
        assert client.get("/").status_code == 404
        assert client.get("/metrics").status_code == 200
