"""Whom a controller talks with, on 127.0.0.1: Prometheus, the service's admin port, a webhook that pages. And a store
with small releases."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from engine.artifact import ArtifactStore, ArtifactWriter
from engine.releases import version_of
from engine.store import FolderStore
from retain.parts import Part
from tests.releases import MONITORING, publish
from tests.rollouts import LIFT, figures, part

EXPERIMENT = "toy"
Answer = tuple[int, bytes]
# (method, path with its query, headers, body) -> status and body
Answering = Callable[[str, str, Mapping[str, str], bytes], Answer]


@contextmanager
def answering(answer: Answering) -> Iterator[str]:
    """The address of a server that answers so."""

    class Handler(BaseHTTPRequestHandler):
        def _handle(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, content = answer(self.command, self.path, self.headers, body)
            try:
                self.send_response(status)
                if status in (301, 302, 307):
                    self.send_header("Location", content.decode())
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
            except ConnectionError:
                pass  # whoever asked has not waited

        do_GET = do_POST = _handle

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def free_port() -> int:
    """Of this machine, at which nobody listens."""
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        return server.server_port


class FakePrometheus:
    """Answers an instant query by the first of `series` whose name is in it, a part of its text. Nothing else is
    there: an empty vector."""

    def __init__(self) -> None:
        self.series: dict[str, list[tuple[dict[str, str], float]]] = {}
        self.answers = True
        self.asked: list[str] = []

    def __call__(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        if not self.answers:
            return 503, b"starting"
        parts = urlsplit(path)
        assert (method, parts.path) == ("GET", "/api/v1/query")
        (query,) = parse_qs(parts.query)["query"]
        self.asked.append(query)
        samples = next((samples for name, samples in self.series.items() if name in query), [])
        result = [{"metric": labels, "value": [1.5e9, f"{value}"]} for labels, value in samples]
        answer = {"status": "success", "data": {"resultType": "vector", "result": result}}
        return 200, json.dumps(answer).encode()


class FakeReplica:
    """GET /shadow of a service, for whoever bears the token."""

    def __init__(self, learned: str, token: str | None = None, **verdicts: Any) -> None:
        names = ("latency_p95", "unsafe", "answers_missed", "unavailable", "value")
        self.answer: Any = {
            "release": "c" * 12,
            "learned": learned,
            "verdict": "pass",
            "decisions": 900,
            "figures": [figure.model_dump() for figure in figures(names, **{"value": "hold", **verdicts})],
        }
        self.token = token
        self.status = 200

    def __call__(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        if self.token is not None and headers.get("Authorization") != f"Bearer {self.token}":
            return 401, b""
        return (self.status, json.dumps(self.answer).encode()) if path == "/shadow" else (404, b"")


GOOD_PARTS = {
    "risk": part("served"), "accept": part("served", digest="4" * 12), "decision": part("served", digest="5" * 12),
    "sft": part("served", digest="6" * 12), "rlhf": part("shadow_only", "rm.auc", digest="7" * 12),
}  # fmt: skip
MISSED_PARTS = GOOD_PARTS | {"decision": part("shadow_only", *LIFT)}
NO_PARTS = GOOD_PARTS | {"decision": part("left_out", "decision.overspend", kind="safety")}


def release(root: Path, number: int, parts: Mapping[str, Part], experiment: str = EXPERIMENT) -> str:
    """The version of a release in the store at `root`, which has nothing but what a rollout reads; it is the current
    one from now on."""
    folder = root.parent / f"{root.name}-making-{number}"
    writer = ArtifactWriter(folder)
    writer.json("release.json", {"experiment": experiment, "parts": {k: v.model_dump() for k, v in parts.items()}})
    writer.json("monitoring.json", MONITORING.model_dump())
    writer.json("number.json", number)
    return version_of(publish(root, "release", folder, f"{number:064x}", experiment))


def make_current(root: Path, number: int, experiment: str = EXPERIMENT) -> None:
    ArtifactStore(FolderStore(root), experiment).set_current("release", f"{number:064x}")
