"""Compute Engine's API as runs ask it for machines: quotas of a region, accelerators by zone, groups of machines.

https://cloud.google.com/compute/docs/reference/rest/v1/regionInstanceGroupManagers/resize
https://cloud.google.com/compute/docs/reference/rest/v1/acceleratorTypes/aggregatedList
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

PROJECT, REGION = "project-1", "us-central1"


class Compute(ThreadingHTTPServer):
    """`quotas`: metric -> (limit, usage), of the region; `everywhere`: the same of the project. `accelerators`: by
    zone. `groups`: name -> target size. `failing`: status codes of the next answers. `asked`: method and path."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/compute/v1"
        self.quotas = {"NVIDIA_L4_GPUS": (1.0, 0.0), "PREEMPTIBLE_NVIDIA_L4_GPUS": (1.0, 0.0), "CPUS": (24.0, 2.0)}
        self.everywhere = {"GPUS_ALL_REGIONS": (1.0, 0.0)}
        self.accelerators = {
            f"zones/{REGION}-a": ["nvidia-l4"],
            f"zones/{REGION}-b": [],
            "zones/europe-west4-a": ["nvidia-t4"],
        }
        self.groups = {"retain-cpu-spot": 0, "retain-gpu-spot": 0, "retain-gpu-on-demand": 0}
        self.failing: list[int] = []
        self.asked: list[str] = []


class _Handler(BaseHTTPRequestHandler):
    server: Compute

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        self._answer("GET", url.path, {name: values[0] for name, values in parse_qs(url.query).items()})

    def do_POST(self) -> None:
        url = urlsplit(self.path)
        self._answer("POST", url.path, {name: values[0] for name, values in parse_qs(url.query).items()})

    def _answer(self, method: str, path: str, query: dict[str, str]) -> None:
        self.server.asked.append(f"{method} {path.rpartition('/')[2]}")
        if self.headers.get("Authorization") != "Bearer token":
            return self._refuse(401, "Request had invalid authentication credentials.")
        if self.server.failing:
            return self._refuse(self.server.failing.pop(0), "Required 'compute.regions.get' permission for 'x'")
        below = path.removeprefix(f"/compute/v1/projects/{PROJECT}")
        groups = f"/regions/{REGION}/instanceGroupManagers/"
        name = below.removeprefix(groups).removesuffix("/resize")
        if (method, below) == ("GET", ""):
            return self._send(200, {"name": PROJECT, "quotas": _quotas(self.server.everywhere)})
        if (method, below) == ("GET", f"/regions/{REGION}"):
            return self._send(200, {"name": REGION, "quotas": _quotas(self.server.quotas)})
        if (method, below) == ("GET", "/aggregated/acceleratorTypes"):
            return self._send(200, {"items": self._zones(query["filter"].removeprefix("name="))})
        if method == "GET" and below == groups + name and name in self.server.groups:
            return self._send(200, {"name": name, "targetSize": self.server.groups[name]})
        if method == "POST" and below == f"{groups}{name}/resize" and name in self.server.groups:
            self.server.groups[name] = int(query["size"])
            return self._send(200, {"kind": "compute#operation", "status": "PENDING"})
        return self._refuse(404, f"The resource 'projects/{PROJECT}{below}' was not found")

    def _zones(self, accelerator: str) -> dict[str, Any]:
        """Of every zone, also of those without one."""
        return {
            zone: {"acceleratorTypes": [{"name": accelerator}]}
            if accelerator in has
            else {"warning": {"code": "NO_RESULTS_ON_PAGE"}}
            for zone, has in self.server.accelerators.items()
        }

    def _refuse(self, code: int, message: str) -> None:
        self._send(code, {"error": {"code": code, "message": message}})

    def _send(self, code: int, content: Any) -> None:
        data = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _quotas(of: dict[str, tuple[float, float]]) -> list[dict[str, Any]]:
    return [{"metric": metric, "limit": limit, "usage": usage} for metric, (limit, usage) in of.items()]


@contextmanager
def compute() -> Iterator[Compute]:
    server = Compute()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
