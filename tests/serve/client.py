"""Requests to an application without a network."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
from fastapi import FastAPI


class Client:
    """Starlette's own test client wants another HTTP library than the one that is here."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app

    def request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://test") as client:
                return await client.request(method, path, **arguments)

        return asyncio.run(send())

    def get(self, path: str) -> httpx.Response:
        return self.request("GET", path)

    def metrics(self) -> str:
        """What the application counted, as /metrics of the admin port would show it."""
        text: bytes = self.app.state.service.metrics.text()
        return text.decode()

    def post(self, body: Any, **headers: str) -> httpx.Response:
        """To /retain; bytes as they are, anything else as JSON."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.request("POST", "/retain", content=content, headers={"content-type": "application/json"} | headers)
