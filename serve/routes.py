"""The service's routes, and the one way in and out of every request.

/retain is written against Starlette's request rather than a pydantic body: FastAPI's default answer to NaN or a lone
surrogate is a 500, and a body is only limited if it is read by the one who limits it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
import uuid
from collections.abc import Callable
from typing import Any, Literal

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from retain.decision import Action, Arm, Case, Decision, Why
from retain.message import SITUATIONS
from retain.policy import PolicyError
from retain.release import SOURCES, Release
from serve.metrics import CONTENT_TYPE, Metrics
from serve.router import EVERYBODY_BASELINE, Router, routed
from serve.schema import Invalid, RequestReader, examples, request_schema
from serve.settings import warnings

MAX_BODY = 16 * 1024
# What is read and thrown away after a body proved too large, so that the caller gets to see the 413 instead of a
# broken connection; beyond it the connection is closed.
MAX_DISCARDED = 64 * 1024 * 1024
READ_SECONDS = 10.0
MONTH_SECONDS = 365.2425 / 12 * 86_400
REFUSALS = 20  # offers refused one after the other from which on the wallet counts as used up
DOUBT_SECONDS = 60.0  # between two lines in the log about doubts in the learned policy

log = logging.getLogger("retain.serve")


class Reason(BaseModel):
    """A column's share in the log-odds of churn, along the paths of the trees; protected columns are left out."""

    feature: str
    value: Any
    contribution: float


class Text(BaseModel):
    """`text` ends in a line of its own that says how to opt out, and who writes. `source`: who wrote what is above it,
    nobody's model (template), or the language model before (sft) or after (rlhf) it was trained on preferences."""

    situation: Literal[SITUATIONS]  # type: ignore[valid-type]
    text: str
    source: Literal[SOURCES]  # type: ignore[valid-type]


class Answer(BaseModel):
    """What /retain answers; here for OpenAPI, the service writes it itself.

    `mode` is the arm that decided: in any doubt about the learned policy's decision it is the baseline.
    """

    decision_id: str
    risk: float
    acceptance: float
    acceptance_full: float | None
    action: Action
    offer: int | None
    why: Why
    message: Text | None
    reasons: list[Reason]
    mode: Arm
    versions: dict[str, str]


class Fault(BaseModel):
    type: str
    loc: list[str | int]


class Refusal(BaseModel):
    """Why a request was refused: what kind of fault and where; nothing of the request is repeated."""

    detail: list[Fault] | str


class Service:
    """A loaded release behind its routes.

    The wallet is one for both arms, as the baseline's offers cost money, too. It lives in this process, whose start
    begins its period; since no answer reaches it yet, what it holds for an offer stays held, and a customer asked about
    twice without the first contact in her history is held for twice. All requests are answered
    on one event loop, and nothing is awaited between asking the wallet and the answer, so it needs no lock.
    """

    def __init__(
        self,
        version: str,
        release: Release,
        metrics: Metrics,
        router: Router = EVERYBODY_BASELINE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.release = release
        self.metrics = metrics
        self.reader = RequestReader(release.spec, release.terms)
        self.router, unrouted = routed(router, release)
        self.warnings = [*warnings(release), *unrouted]
        self.wallet = release.terms.new_wallet()
        self.versions = {"release": version, **release.versions}
        self.request_body = {  # as OpenAPI describes it
            "required": True,
            "content": {
                "application/json": {
                    "schema": request_schema(release.spec, release.terms),
                    "examples": examples(release.spec, release.terms),
                }
            },
        }
        self._id = release.spec.roles.get("id")
        self._clock = clock
        self._started = clock()
        self._refusals = 0  # since the last contact
        self._doubts, self._doubt_logged = 0, -math.inf
        metrics.serves(version, self.wallet, release.terms.offers.currency)

    @property
    def mode(self) -> str:
        percent = self.router.learned_percent
        return "baseline" if percent == 0 else "learned" if percent == 100 else "canary"

    @property
    def arms(self) -> str:
        """Who decides, in words."""
        percent = self.router.learned_percent
        return f"the learned policy decides about {percent:g} % of customers" if percent else "the baseline decides"

    @property
    def banks(self) -> str:
        """Who speaks, in words."""
        counts = {name: len(bank.entries) for name, bank in self.release.banks.items()}
        return "messages: " + ", ".join(f"{count} of {name}" for name, count in counts.items())

    @property
    def period_left(self) -> float:
        """The share of the budget's period that is to come."""
        gone = (self._clock() - self._started) / (self.release.terms.months * MONTH_SECONDS)
        return min(1.0, max(0.0, 1 - gone))

    def answer(self, body: bytes) -> bytes:
        """The JSON that answers a request's body. Raises Invalid."""
        values, history = self.reader.read(body)
        release = self.release
        case, x = release.case(values, history)
        reasons = release.reasons(x)
        acceptance_full = release.full_acceptance(values)
        decision = self._decide(case, self.router.arm(values.get(self._id) if self._id else None))
        message = release.message(decision, reasons, values)
        self.metrics.decisions[decision.arm, decision.action, decision.why].inc()
        if decision.why == "offer_budget":
            self.metrics.refused.inc()
            self._refusals += 1
        elif decision.action == "contact":
            self._refusals = 0
        if message is not None:
            self.metrics.messages[message.situation].inc()
            self.metrics.sources[message.source].inc()
        elif decision.action == "contact":
            self.metrics.unsent.inc()
        return orjson.dumps(
            {
                "decision_id": str(uuid.uuid4()),
                "risk": decision.risk,
                "acceptance": decision.acceptance,
                "acceptance_full": acceptance_full,
                "action": decision.action,
                "offer": decision.offer,
                "why": decision.why,
                "message": None if message is None else message._asdict(),
                "reasons": [
                    {"feature": name, "value": values[name], "contribution": contribution}
                    for name, contribution in reasons[: release.terms.reasons]
                ],
                "mode": decision.arm,
                "versions": self.versions,
            }
        )

    def _decide(self, case: Case, arm: Arm) -> Decision:
        if arm == "learned":
            try:
                return self.release.decide(case, self.wallet, self.period_left, "learned")
            except PolicyError as error:
                self._doubt("not_finite", error)
            except Exception as error:  # whatever it is, the customer gets an answer
                self._doubt("error", error)
        return self.release.decide(case, self.wallet, 1.0, "baseline")

    def _doubt(self, reason: str, error: Exception) -> None:
        self.metrics.doubts[reason].inc()
        self._doubts += 1
        now = self._clock()
        if now - self._doubt_logged >= DOUBT_SECONDS:
            log.warning(
                "the learned policy could not decide (%d times so far): the baseline did", self._doubts, exc_info=error
            )
            self._doubt_logged = now

    def _money(self) -> list[str]:
        """What keeps everybody from being contacted."""
        found = []
        if self.period_left == 0:
            found.append("the period of the offer budget is over: a restart begins a new one")
        if self.wallet.free < self.release.terms.offers.contact_cost:
            found.append("the wallet has no room for another offer: nobody is contacted until a restart")
        elif self._refusals >= REFUSALS:  # cheap offers may still fit where no arm wants to make one
            found.append(f"the wallet has no room for the last {self._refusals} offers that were wanted")
        return found

    def ready(self) -> dict[str, Any]:
        """What /readyz says."""
        release, terms, wallet = self.release, self.release.terms, self.wallet
        return {
            "status": "ready",
            "mode": self.mode,
            "learned_percent": self.router.learned_percent,
            "experiment": release.experiment,
            "dataset": release.spec.name,
            "release": self.versions["release"],
            "parts": dict(release.versions),
            "messages": {name: len(bank.entries) for name, bank in release.banks.items()},
            "left_out": list(release.left_out),
            "overrides": list(release.overrides),
            "history": "comes with the request",
            "wallet": {
                "state": "in this process: a restart forgets it",
                "answers": "not received yet: what each offer made may cost stays held until a restart",
                "mode": wallet.mode,
                "currency": terms.offers.currency,
                "budget": wallet.budget,
                "committed": wallet.committed,
                "held": wallet.held,
                "free": wallet.free,
                "open_offers": wallet.open,
                "months": terms.months,
                "period_left": self.period_left,
            },
            "warnings": [*self.warnings, *self._money()],
        }


def routes_of(service: Service) -> APIRouter:
    routes = APIRouter()

    @routes.post(
        "/retain",
        summary="Decide about one customer",
        response_model=Answer,
        responses={code: {"model": Refusal} for code in (408, 413, 415, 422, 500)},
    )
    async def retain(request: Request) -> Response:
        """Whom to contact, with which offer, in which words; the contact history comes with the request."""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return _refuse(415, "wants Content-Type: application/json")
        try:
            async with asyncio.timeout(READ_SECONDS):
                body = await _body(request)
        except TimeoutError:
            return _refuse(408, f"the body took more than {READ_SECONDS:.0f} seconds", close=True)
        except ClientDisconnect:
            return _refuse(400, "the body ended early", close=True)
        if body is None:
            return _refuse(413, f"a body may have {MAX_BODY} bytes", close=True)
        try:
            return Response(service.answer(body), media_type="application/json")
        except Invalid as error:
            return _json({"detail": error.detail}, 422)

    @routes.get("/healthz", summary="Alive")
    async def healthz() -> Response:
        return _json({"status": "alive"})

    @routes.get("/readyz", summary="What answers, and whether it can")
    async def readyz() -> Response:
        return _json(service.ready())

    @routes.get("/metrics", summary="Prometheus metrics")
    async def metrics() -> Response:
        return Response(service.metrics.text(), headers={"content-type": CONTENT_TYPE})

    return routes


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


def _json(content: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(content), status, media_type="application/json")


def _refuse(status: int, why: str, *, close: bool = False) -> Response:
    response = _json({"detail": why}, status)
    if close:
        response.headers["connection"] = "close"
    return response


async def refused(request: Request, error: Exception) -> Response:
    """Starlette's own refusals (404, 405) in the same shape."""
    assert isinstance(error, HTTPException)
    response = _json({"detail": error.detail}, error.status_code)
    response.headers.update(error.headers or {})
    return response


class Observed:
    """Around every request: counts it, times it, and turns a bug into a clean 500 and a traceback in the log."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 0

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, observed)
        except Exception:
            log.exception("%s %r failed", scope["method"], scope["path"])
            if status == 0:
                await _json({"detail": "internal error"}, 500)(scope, receive, observed)
        finally:
            self.metrics.request(scope["path"], status or 500, time.perf_counter() - started)
