"""The service's routes: HTTP in, HTTP out; service.py decides.

/retain is written against Starlette's request rather than a pydantic body: FastAPI's default answer to NaN or a lone
surrogate is a 500, and a body is only limited if it is read by the one who limits it.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from retain.record import Record
from serve.answers import REFUSED, Answer, NotedAnswer
from serve.bodies import DECISION_ID, OutcomeBody, SuppressBody, read
from serve.database import StateUnavailable
from serve.readiness import ready
from serve.refusals import Refusal, refusal
from serve.schema import Invalid
from serve.service import Conflict, Service
from serve.shown import shown

RETAIN = "/retain"
READY = "/readyz"
MAX_BODY = 16 * 1024
# What is read and thrown away after a body proved too large, so that the caller gets to see the 413 instead of a
# broken connection; beyond it the connection is closed.
MAX_DISCARDED = 64 * 1024 * 1024
READ_SECONDS = 10.0
REPLAYED = {"idempotent-replayed": "true"}

_KEY = re.compile(rb"[!-~]{1,255}")


async def retain(service: Service, scope: Scope, receive: Receive) -> Response:
    """Answers POST /retain."""
    body = await _read(scope, receive)
    if isinstance(body, Response):
        return body
    started = time.perf_counter()
    try:
        # Keys of requests are told apart by the name of the API key.
        reply = await service.decide(body, scope["state"]["caller"], _key(scope["headers"]))
    except Invalid as error:
        return refusal(422, error.detail)
    except Conflict:
        return refusal(409, "this Idempotency-Key came with another body before")
    # Neither slow uploads nor cheap refusals, both of which are the caller's, move the latencies.
    service.metrics.seconds.observe(time.perf_counter() - started)
    headers = REPLAYED if reply.replayed else None
    return Response(reply.body, headers=headers, media_type="application/json")


class Straight:
    """Takes POST /retain past the router of FastAPI, which costs 120 us a request, almost as much as all the rest."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app = app
        self.service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] == RETAIN:
            response = await retain(self.service, scope, receive)
            await response(scope, receive, send)
        else:
            await self.app(scope, receive, send)


def routes_of(service: Service) -> APIRouter:
    routes = APIRouter()

    @routes.post(
        RETAIN,
        summary="Decide about one customer",
        response_model=Answer,
        responses={code: {"model": Refusal} for code in (401, 403, 408, 409, 413, 415, 422, 500)},
    )
    async def decide(request: Request) -> Response:
        """Whom to contact, with which offer, in which words. What the service has on record of the customer counts
        beside the history that comes with the request.

        With an `Idempotency-Key` the same request gets the same decision for 30 days, also after a restart.
        """
        return await retain(service, request.scope, request.receive)

    @routes.post(
        "/outcomes",
        summary="Say what became of a decision",
        response_model=NotedAnswer,
        responses={code: {"model": Refusal} for code in (401, 403, 404, 408, 409, 413, 415, 422, 500, 503)},
    )
    async def outcomes(request: Request) -> Response:
        """Accepted, declined, churned, complained, or the revenue of a month.

        The first answer to an offer stands, and the same one again changes nothing. Who doesn't answer within 14 days
        has declined; one who accepts later is recorded as `late`, and what it costs is committed all the same.
        """
        body = await _read(request.scope, request.receive)
        if isinstance(body, Response):
            return body
        try:
            noted = await service.note(read(OutcomeBody, body).operation)
        except Invalid as error:
            return refusal(422, error.detail)
        except StateUnavailable:
            return _unavailable()
        if noted.status in REFUSED:
            return refusal(*REFUSED[noted.status])
        return _json({"status": noted.status})

    @routes.post(
        "/suppress",
        summary="Never contact a customer again",
        response_model=NotedAnswer,
        responses={code: {"model": Refusal} for code in (401, 403, 408, 413, 415, 422, 500, 503)},
    )
    async def suppress(request: Request) -> Response:
        """From the answer on nobody contacts her, in any channel, and an offer of hers that is open isn't repeated."""
        body = await _read(request.scope, request.receive)
        if isinstance(body, Response):
            return body
        try:
            asked = read(SuppressBody, body)
            noted = await service.suppress(str(asked.customer), asked.reason)
        except Invalid as error:
            return refusal(422, error.detail)
        except StateUnavailable:
            return _unavailable()
        return _json({"status": noted.status})

    @routes.get(
        "/decisions/{decision_id}",
        summary="Look a decision up",
        response_model=Record,
        responses={code: {"model": Refusal} for code in (401, 403, 404, 500, 503)},
    )
    async def decisions(decision_id: str) -> Response:
        """What was answered, what the learned arm would have done, and what became of it."""
        try:
            # What is no id isn't looked for: PostgreSQL takes no text with a NUL in it.
            record = await service.find(decision_id) if re.fullmatch(DECISION_ID, decision_id) else None
        except StateUnavailable:
            return _unavailable()
        if record is None:
            return refusal(404, "there is no such decision")
        return _json(shown(record))

    @routes.get("/healthz", summary="Alive")
    async def healthz() -> Response:
        return _json({"status": "alive"})

    @routes.get(READY, summary="What answers, and whether it can")
    async def readyz(request: Request) -> Response:
        """Who bears no key is told no more than that it can; the money and the warnings are for the others."""
        if request.scope["state"]["caller"] is None:
            return _json({"status": "ready"})
        return _json(ready(service))

    return routes


async def _read(scope: Scope, receive: Receive) -> bytes | Response:
    """The body, or the answer to a request that has none which could be read."""
    headers = scope["headers"]
    if why := _unreadable(headers):
        return refusal(415, why)
    if _waits(headers):
        return _too_large()
    try:
        async with asyncio.timeout(READ_SECONDS):
            body = await _body(receive)
    except TimeoutError:
        return refusal(408, f"the body took more than {READ_SECONDS:.0f} seconds", close=True)
    except ClientDisconnect:
        return refusal(400, "the body ended early", close=True)
    return _too_large() if body is None else body


def _too_large() -> Response:
    return refusal(413, f"a body may have {MAX_BODY} bytes", close=True)


def _key(headers: list[tuple[bytes, bytes]]) -> str | None:
    """The Idempotency-Key, None for none. Raises Invalid."""
    keys = [value for name, value in headers if name == b"idempotency-key"]
    if not keys:
        return None
    if len(keys) > 1 or not _KEY.fullmatch(keys[0]):
        raise Invalid([("string_length_or_characters", ("Idempotency-Key",))], "header")
    return keys[0].decode("ascii")


def _unavailable() -> Response:
    response = refusal(503, "nothing can be put on record now; try again")
    response.headers["retry-after"] = "1"
    return response


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


def _waits(headers: list[tuple[bytes, bytes]]) -> bool:
    """Whether the caller waits for a word before it sends a body, which it says is beyond MAX_BODY."""
    named = dict(headers)
    announced = named.get(b"content-length", b"")
    return b"expect" in named and announced.isdigit() and int(announced) > MAX_BODY


async def _body(receive: Receive) -> bytes | None:
    """The body, or None for one beyond MAX_BODY. Raises ClientDisconnect."""
    chunks, total, more = [], 0, True
    while more and total <= MAX_DISCARDED:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        more = message.get("more_body", False)
        chunk = message.get("body", b"")
        total += len(chunk)
        if total <= MAX_BODY:
            chunks.append(chunk)
    return b"".join(chunks) if total <= MAX_BODY else None


def _json(content: Any) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")
