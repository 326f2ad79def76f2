"""Google as a machine of Compute Engine sees it: the metadata server, Secret Manager, groups of machines; and Prefect's
server beside it. As far as the start-up scripts ask them, and no more lenient than they are.

https://cloud.google.com/compute/docs/metadata/querying-metadata
https://cloud.google.com/compute/docs/reference/rest/v1/regionInstanceGroupManagers/deleteInstances
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

METADATA = "/computeMetadata/v1/"
PROJECT, NUMBER, ZONE = "retain-example", "123456789012", "us-central1-b"
GROUP = f"projects/{NUMBER}/regions/us-central1/instanceGroupManagers/retain-gpu-spot"
NAME = "retain-gpu-spot-x1z9"
TOKEN = "token-of-the-machine"


class Google(ThreadingHTTPServer):
    """`attributes` of the instance; `secrets`: name -> value; `pending`: answers to how many flow runs are Pending, the
    last one again and again; `may_delete`: whether the account has the permission; `deleted`: the requests' bodies."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.host = f"127.0.0.1:{self.server_address[1]}"
        self.attributes: dict[str, str] = {"created-by": GROUP}
        self.secrets: dict[str, str] = {}
        self.pending = [0]
        self.may_delete = True
        self.deleted: list[Any] = []
        self.asked_for_deletion = threading.Event()
        self.waiting = threading.Event()  # somebody waits for a change
        self.preempted = threading.Event()

    def value(self, path: str) -> str | None:
        """Of the metadata server, by the path below METADATA."""
        values = {
            "project/project-id": PROJECT,
            "instance/name": NAME,
            "instance/zone": f"projects/{NUMBER}/zones/{ZONE}",
            "instance/network-interfaces/0/ip": "10.10.0.7",
            "instance/service-accounts/default/token": json.dumps(
                {"access_token": TOKEN, "expires_in": 3599, "token_type": "Bearer"}
            ),
        }
        return values.get(path) or self.attributes.get(path.removeprefix("instance/attributes/"))


class _Handler(BaseHTTPRequestHandler):
    server: Google

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if url.path.startswith(METADATA):
            return self._metadata(url.path.removeprefix(METADATA), parse_qs(url.query))
        return self._secret(url.path)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/api/flow_runs/count":
            return self._pending(body)
        return self._delete(body)

    def _metadata(self, path: str, query: dict[str, list[str]]) -> None:
        if self.headers.get("Metadata-Flavor") != "Google" or "X-Forwarded-For" in self.headers:
            return self._send(403, "Missing Metadata-Flavor:Google header.")
        if path == "instance/preempted":
            if query.get("wait_for_change") == ["true"] and not self.server.preempted.is_set():
                self.server.waiting.set()
                self.server.preempted.wait(float(query["timeout_sec"][0]))
            return self._send(200, "TRUE" if self.server.preempted.is_set() else "FALSE")
        value = self.server.value(path)
        return self._send(404, "not found") if value is None else self._send(200, value)

    def _secret(self, path: str) -> None:
        if not self._is_allowed():
            return
        before, after = f"/v1/projects/{PROJECT}/secrets/", "/versions/latest:access"
        name = path.removeprefix(before).removesuffix(after)
        value = self.server.secrets.get(name)
        if value is None or path != before + name + after:
            return self._refuse(404, "NOT_FOUND", f"Secret [{name}] not found or has no versions.")
        data = base64.b64encode(value.encode()).decode()
        return self._send(200, json.dumps({"name": name, "payload": {"data": data, "dataCrc32c": "1"}}, indent=2))

    def _delete(self, body: Any) -> None:
        if not self._is_allowed():
            return
        if not self.server.may_delete:
            self.server.asked_for_deletion.set()
            return self._refuse(403, "PERMISSION_DENIED", "Required 'compute.instanceGroupManagers.update' permission")
        if self.path != f"/compute/v1/{GROUP}/deleteInstances" or body.keys() != {"instances"}:
            return self._refuse(404, "NOT_FOUND", f"The resource '{self.path}' was not found")
        self.server.deleted.append(body)
        self.server.asked_for_deletion.set()
        return self._send(200, json.dumps({"kind": "compute#operation", "status": "RUNNING"}))

    def _pending(self, body: Any) -> None:
        login = base64.b64encode(self.server.secrets["retain-prefect-auth"].encode()).decode()
        if self.headers.get("Authorization") != f"Basic {login}":
            return self._send(401, json.dumps({"exception_message": "Unauthorized"}))
        wanted = {
            "flow_runs": {"state": {"type": {"any_": ["PENDING"]}}},
            "work_pools": {"name": {"any_": [self.server.attributes["retain-pool"]]}},
        }
        if body != wanted:
            return self._send(422, json.dumps({"exception_message": "Invalid request received."}))
        pending = self.server.pending
        return self._send(200, str(pending.pop(0) if len(pending) > 1 else pending[0]))

    def _is_allowed(self) -> bool:
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            return True
        self._refuse(401, "UNAUTHENTICATED", "Request had invalid authentication credentials.")
        return False

    def _refuse(self, code: int, status: str, message: str) -> None:
        self._send(code, json.dumps({"error": {"code": code, "message": message, "status": status}}, indent=2))

    def _send(self, code: int, body: str) -> None:
        data = body.encode()
        self.send_response(code)
        self.send_header("Metadata-Flavor", "Google")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def google() -> Iterator[Google]:
    server = Google()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield server
    finally:
        server.preempted.set()  # whoever waits is answered
        server.shutdown()
        server.server_close()
