"""What the controller answers: POST /alerts, for Alertmanager, and GET /healthz and /metrics.

A notification is answered with 2xx once all that follows from it is on record: before that Alertmanager sends it again.
The store is asked in threads of their own, which nobody waits for beyond a few seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable
from hashlib import sha256
from hmac import compare_digest
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from deploy.alerts import MAX_BODY, Alert, AlertError, Notification, parse
from engine.errors import RetainError

ANSWER_SECONDS = 5.0  # Alertmanager waits for longer
MAX_AT_ONCE = 64  # notifications that wait for the store; more are to come again
TOKEN_SECONDS = 60.0  # between two lines of the log about callers without the token, who must not fill a disk

log = logging.getLogger("retain.deploy")


class Webhook:
    """`token`: what a notification has to bear. `hear` is told of each watchdog; `carry_out` of notifications with
    anything else, in a thread, and raises RetainError for what is to be sent again. `health` is what /healthz tells."""

    def __init__(
        self,
        token: str,
        hear: Callable[[Alert], None],
        carry_out: Callable[[Notification], None],
        health: Callable[[], dict[str, Any]],
        registry: CollectorRegistry,
    ) -> None:
        self._digest = sha256(token.encode()).digest()
        self._hear = hear
        self._carry_out = carry_out
        self._health = health
        self._registry = registry
        self._at_work = threading.BoundedSemaphore(MAX_AT_ONCE)
        self._logged = -math.inf

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/alerts", self._alerts, methods=["POST"]),
                Route("/healthz", self._healthz),
                Route("/metrics", self._metrics),
            ]
        )

    async def _alerts(self, request: Request) -> Response:
        if not self._bears(request):
            if time.monotonic() - self._logged >= TOKEN_SECONDS:
                self._logged = time.monotonic()
                log.warning("a notification without the token of RETAIN_CONTROLLER_TOKEN was refused")
            return _answer(401, "wants Authorization: Bearer, with RETAIN_CONTROLLER_TOKEN")
        try:
            body = await _body(request)
        except ClientDisconnect:
            return _answer(400, "the body ended too soon")
        if body is None:
            return _answer(413, f"a notification has at most {MAX_BODY} bytes")
        try:
            notification = parse(body)
        except AlertError as error:
            log.error("a notification could not be read: %s", error)
            return _answer(400, str(error))
        for line in notification.unreadable:
            log.error("an alert could not be read, others of its notification are: %s", line)
        if notification.watchdog is not None:
            self._hear(notification.watchdog)
        if not notification.told:
            return _answer(200, "heard")
        return await self._carried_out(notification)

    async def _carried_out(self, notification: Notification) -> Response:
        if not self._at_work.acquire(blocking=False):
            return _answer(503, "too many notifications wait for the store")
        try:
            done = _in_thread(self._guarded, notification)
        except RuntimeError as error:  # the system has no thread left
            self._at_work.release()
            log.error("a notification could not be carried out: %s", error)
            return _answer(503, "no thread could be started")
        try:
            await asyncio.wait_for(done, ANSWER_SECONDS)
        except TimeoutError:
            return _answer(503, "the store has not answered yet")
        except RetainError as error:
            return _answer(503, str(error))
        except Exception:
            log.exception("a notification could not be carried out")
            return _answer(500, "failed")
        return _answer(200, "carried out")

    def _guarded(self, notification: Notification) -> None:
        try:
            self._carry_out(notification)
        finally:
            self._at_work.release()

    async def _healthz(self, _: Request) -> Response:
        return JSONResponse({"status": "alive", **self._health()})

    async def _metrics(self, _: Request) -> Response:
        return Response(generate_latest(self._registry), headers={"content-type": CONTENT_TYPE_LATEST})

    def _bears(self, request: Request) -> bool:
        borne = request.headers.getlist("authorization")
        scheme, _, secret = borne[0].partition(" ") if len(borne) == 1 else ("", "", "")
        digest = sha256(secret.strip().encode("utf-8", "replace")).digest()
        return compare_digest(digest, self._digest) and scheme.lower() == "bearer"


async def _body(request: Request) -> bytes | None:
    """None if it has more bytes than it may."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BODY:
            return None
    return bytes(body)


def _in_thread(work: Callable[[Notification], None], notification: Notification) -> asyncio.Future[None]:
    """In a thread that nobody waits for when this process ends, as that of an executor would be. Raises RuntimeError
    where none can be started."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def settle(error: BaseException | None) -> None:
        if done.done():
            return  # it was waited for long enough
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

    def run() -> None:
        failed: BaseException | None = None
        try:
            work(notification)
        except BaseException as error:
            failed = error
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle, failed)

    threading.Thread(target=run, name="notification", daemon=True).start()
    return done


def _answer(status: int, detail: str) -> Response:
    headers = {"www-authenticate": "Bearer"} if status == 401 else None
    return JSONResponse({"detail": detail}, status, headers)
