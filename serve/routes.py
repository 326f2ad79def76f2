"""The service's routes: HTTP in, HTTP out; service.py decides.

/retain is written against Starlette's request rather than a pydantic body: FastAPI's default answer to NaN or a lone
surrogate is a 500, and a body is only limited if it is read by the one who limits it.
"""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.requests import ClientDisconnect

from serve.refusals import Refusal, refusal
from serve.schema import Invalid
from serve.service import Answer, Service

MAX_BODY = 16 * 1024
# What is read and thrown away after a body proved too large, so that the caller gets to see the 413 instead of a
# broken connection; beyond it the connection is closed.
MAX_DISCARDED = 64 * 1024 * 1024
READ_SECONDS = 10.0


def routes_of(service: Service) -> APIRouter:
    routes = APIRouter()

    @routes.post(
        "/retain",
        summary="Decide about one customer",
        response_model=Answer,
        responses={code: {"model": Refusal} for code in (401, 408, 413, 415, 422, 500)},
    )
    async def retain(request: Request) -> Response:
        """Whom to contact, with which offer, in which words; the contact history comes with the request."""
        if why := _unreadable(request.scope["headers"]):
            return refusal(415, why)
        try:
            async with asyncio.timeout(READ_SECONDS):
                body = await _body(request)
        except TimeoutError:
            return refusal(408, f"the body took more than {READ_SECONDS:.0f} seconds", close=True)
        except ClientDisconnect:
            return refusal(400, "the body ended early", close=True)
        if body is None:
            return refusal(413, f"a body may have {MAX_BODY} bytes", close=True)
        try:
            return Response(service.answer(body), media_type="application/json")
        except Invalid as error:
            return refusal(422, error.detail)

    @routes.get("/healthz", summary="Alive")
    async def healthz() -> Response:
        return _json({"status": "alive"})

    @routes.get("/readyz", summary="What answers, and whether it can")
    async def readyz() -> Response:
        return _json(service.ready())

    return routes


def _unreadable(headers: list[tuple[bytes, bytes]]) -> str | None:
    """Why a body with these headers isn't read; names are in small letters."""
    kind = b""
    for name, value in headers:
        if name == b"content-type":
            kind = kind or value
        elif name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            return "wants a body without Content-Encoding"
        elif name == b"transfer-encoding" and value.strip().lower() != b"chunked":
            return "wants a body without Transfer-Encoding, or chunked"
    if kind.partition(b";")[0].strip().lower() != b"application/json":
        return "wants Content-Type: application/json"
    return None


async def _body(request: Request) -> bytes | None:
    """The body, or None for one beyond MAX_BODY."""
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > MAX_BODY and "expect" in request.headers:
        return None  # the caller waits for a word before it sends anything
    chunks, total = [], 0
    async for chunk in request.stream():
        total += len(chunk)
        if total <= MAX_BODY:
            chunks.append(chunk)
        elif total > MAX_DISCARDED:
            break
    return b"".join(chunks) if total <= MAX_BODY else None


def _json(content: Any) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")
