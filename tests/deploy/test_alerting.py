"""From a metric to the controller's webhook, through a real Prometheus and a real Alertmanager."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from deploy import rules
from tests.deploy.fakes import Answer, answering, free_port
from tests.deploy.watching import TOKEN, watching

pytestmark = pytest.mark.kills

LIMITS = rules.limits_of_experiment("exp_001_mvp")
WAIT_S = 120.0


class Arrived:
    """Stands for two replicas' admin ports, at /metrics, and for the controller, at /alerts."""

    def __init__(self) -> None:
        self.decisions, self.errors, self.error_share = 0.0, 0.0, 0.0
        self.alerts: list[tuple[float, dict[str, Any]]] = []
        self.answer = 200
        self.refused = 0

    def metrics(self) -> str:
        self.decisions += 1000
        self.errors += 1000 * self.error_share
        labels = '{arm="learned",release="0123456789ab"}'
        return (
            f"retain_arm_decisions_total{labels} {self.decisions}\nretain_arm_errors_total{labels} {self.errors}\n"
            "retain_state_available 1\nretain_rollout_problem 0\nretain_lease_fresh 1\n"
        )

    def named(self, name: str, status: str = "firing") -> list[float]:
        """When the alert arrived, in seconds of the monotonic clock."""
        alerts = list(self.alerts)
        return [at for at, alert in alerts if (alert["labels"]["alertname"], alert["status"]) == (name, status)]

    def wait(self, what: Callable[[], object]) -> None:
        deadline = time.monotonic() + WAIT_S
        while not what():
            assert time.monotonic() < deadline, "it did not arrive"
            time.sleep(0.05)


@contextmanager
def listening(arrived: Arrived) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply(200 if self.bears_it() else 401, arrived.metrics().encode())

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            answer = arrived.answer if self.bears_it() else 401
            if answer == 200:
                at = time.monotonic()
                arrived.alerts += [(at, alert) for alert in json.loads(body)["alerts"]]
            else:
                arrived.refused += 1
            self.reply(answer, b"")

        def bears_it(self) -> bool:
            return self.headers.get("Authorization") == f"Bearer {TOKEN}"

        def reply(self, code: int, body: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Type", "text/plain")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def test_an_alert_reaches_the_controller_and_ends_there(tmp_path: Path) -> None:
    """Also after it was refused, with 401 as with 503: Alertmanager asks again."""
    arrived = Arrived()
    with listening(arrived) as address, watching(tmp_path, LIMITS, [address], address):
        arrived.wait(lambda: len(arrived.named("RetainWatchdog")) >= 2)
        assert arrived.named("RetainArmErrors") == []
        arrived.answer = 401
        arrived.error_share = 0.05
        arrived.wait(lambda: arrived.refused > 2)
        arrived.answer = 503
        arrived.refused = 0
        arrived.wait(lambda: arrived.refused > 2)
        arrived.answer = 200
        arrived.wait(lambda: arrived.named("RetainArmErrors"))
        alert = next(alert for _, alert in arrived.alerts if alert["labels"]["alertname"] == "RetainArmErrors")
        assert alert["labels"] == {
            "alertname": "RetainArmErrors",
            "arm": "learned",
            "release": "0123456789ab",
            "rollback": "challenger",
            "severity": "page",
            "signal": "errors",
        }
        assert alert["annotations"]["summary"] == "5% of the decisions of challenger 0123456789ab failed."
        assert "More than 1% of the customers" in alert["annotations"]["description"]
        arrived.error_share = 0.0
        arrived.wait(lambda: arrived.named("RetainArmErrors", "resolved"))


def test_people_are_told_of_a_page_while_the_controller_is_dead(tmp_path: Path) -> None:
    arrived, told = Arrived(), []

    def page(method: str, path: str, headers: Mapping[str, str], content: bytes) -> Answer:
        told.extend(alert["labels"]["alertname"] for alert in json.loads(content)["alerts"])
        return 200, b""

    nobody = f"127.0.0.1:{free_port()}"
    with (
        listening(arrived) as address,
        answering(page) as url,
        watching(tmp_path, LIMITS, [address], nobody, page_url=f"{url}/a?key=s3cret&x=y"),
    ):
        arrived.error_share = 0.05
        arrived.wait(lambda: "RetainArmErrors" in told)
    assert "RetainWatchdog" not in told
    assert told.count("RetainArmErrors") == 1


def test_alertmanager_forgets_nothing_that_prometheus_knows(tmp_path: Path) -> None:
    """The watchdog goes on arriving, each time by itself."""
    arrived = Arrived()
    with listening(arrived) as address, watching(tmp_path, LIMITS, [address], address):
        arrived.wait(lambda: len(arrived.named("RetainWatchdog")) >= 3)
    assert {alert["status"] for _, alert in arrived.alerts} == {"firing"}
    assert {alert["labels"]["alertname"] for _, alert in arrived.alerts} == {"RetainWatchdog"}
