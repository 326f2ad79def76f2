"""Requests to an application without a network."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from typing import Any

import httpx
from fastapi import FastAPI

_running: dict[FastAPI, _Running] = {}


class _Running:
    """An application that has started, with its event loop."""

    def __init__(self, app: FastAPI) -> None:
        self.runner = asyncio.Runner()
        self._until = AsyncExitStack()
        self.runner.run(self._until.enter_async_context(app.router.lifespan_context(app)))

    def stop(self) -> None:
        self.runner.run(self._until.aclose())
        self.runner.close()


class Client:
    """Starlette's own test client wants another HTTP library than the one that is here.

    The application starts with its first request, and stops at the end of the test (`stop_all`).
    """

    def __init__(self, app: FastAPI) -> None:
        self.app = app

    def run(self, coroutine: Any) -> Any:
        """On the event loop that the application runs on."""
        if self.app not in _running:
            _running[self.app] = _Running(self.app)
        return _running[self.app].runner.run(coroutine)

    def request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            async with httpx.AsyncClient(
                transport=httpx.ASGITransport(self.app), base_url="http://localhost"
            ) as client:
                return await client.request(method, path, **arguments)

        response: httpx.Response = self.run(send())
        return response

    def get(self, path: str) -> httpx.Response:
        return self.request("GET", path)

    def metrics(self) -> str:
        """What the application counted, as /metrics of the admin port would show it."""
        text: bytes = self.app.state.service.metrics.text()
        return text.decode()

    def post(self, body: Any, path: str = "/retain", **headers: str) -> httpx.Response:
        """Bytes as they are, anything else as JSON."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.request("POST", path, content=content, headers={"content-type": "application/json"} | headers)


def stop_all() -> None:
    while _running:
        _running.popitem()[1].stop()
