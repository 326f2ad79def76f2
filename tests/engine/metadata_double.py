"""The metadata server of a machine of Google's, as far as it is asked here: whether the machine is to be taken away.
https://cloud.google.com/compute/docs/metadata/querying-metadata"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

PREEMPTED = "/computeMetadata/v1/instance/preempted"


class Metadata(ThreadingHTTPServer):
    """`broken`: it answers 503, as it does while a machine is moved. `waiting`: somebody waits for a change."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.host = f"127.0.0.1:{self.server_address[1]}"
        self.broken = False
        self.waiting = threading.Event()
        self.preempted = threading.Event()


class _Handler(BaseHTTPRequestHandler):
    server: Metadata

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if self.headers.get("Metadata-Flavor") != "Google":
            return self._send(403, b"Missing Metadata-Flavor:Google header.")
        if url.path != PREEMPTED:
            return self._send(404, b"")
        if self.server.broken:
            return self._send(503, b"")
        query = parse_qs(url.query)
        if query.get("wait_for_change") == ["true"] and not self.server.preempted.is_set():
            self.server.waiting.set()
            self.server.preempted.wait(float(query["timeout_sec"][0]))
        return self._send(200, b"TRUE" if self.server.preempted.is_set() else b"FALSE")

    def _send(self, code: int, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Metadata-Flavor", "Google")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def metadata() -> Iterator[Metadata]:
    server = Metadata()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield server
    finally:
        server.preempted.set()  # whoever waits is answered
        server.shutdown()
        server.server_close()
