"""What operators and Prometheus ask for, on a port of its own: `python -m serve.admin`, which the supervisor starts.

With RETAIN_ADMIN_TOKEN set, everything but /healthz wants it as `Authorization: Bearer TOKEN`. Without it the port is
bound on this machine only, and is answered under this machine's own names only: a page of another site, whose name was
made to lead here (DNS rebinding), gets 403.
"""

from __future__ import annotations

import asyncio
import os
import struct
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import APIRouter, FastAPI
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from engine.errors import RetainError
from serve.child import begin, run
from serve.database import StateUnavailable
from serve.folder import VARIABLE, read_processes
from serve.keys import Keys
from serve.metrics import Metrics, WalletGauges
from serve.middleware import EveryRequest
from serve.oversight import Oversight, oversight_of
from serve.refusals import refusal, refused
from serve.settings import read

KEEP_ALIVE = 75
TRIES, TRY_AGAIN_SECONDS = 10, 0.02
OPEN_PATHS = frozenset({"/healthz"})
OWN_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})


class TokenCheck:
    """Around the application: lets through whoever bears the token, or, without one, calls this machine by its name."""

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self.app = app
        self.keys = Keys({} if token is None else {"admin": token})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS and (response := self._refused(scope)):
            await response(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _refused(self, scope: Scope) -> Response | None:
        if self.keys.caller(scope) is None:
            return refusal(401, "wants Authorization: Bearer, with RETAIN_ADMIN_TOKEN", challenge=True)
        if not self.keys and _host(scope) not in OWN_NAMES:
            return refusal(403, "without RETAIN_ADMIN_TOKEN this port answers as localhost and 127.0.0.1 only")
        return None


def _host(scope: Scope) -> str:
    """The name that the caller knows this machine by, without the port."""
    host = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
    return host.lower() if host.endswith("]") else host.lower().rpartition(":")[0] or host.lower()


class ProcessGauges(Collector):
    """How the supervisor's processes are, as it has written down."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterator[Metric]:
        state = read_processes(self._folder)
        if state is None:
            return
        yield GaugeMetricFamily("retain_workers", "Workers that are wanted", state["wanted"])
        yield GaugeMetricFamily("retain_workers_ready", "Workers that answer", state["ready"])
        ended = CounterMetricFamily(
            "retain_processes_ended", "Processes that were started again, by why", labels=["why"]
        )
        for why, count in state["ended"].items():
            ended.add_metric([why], count)
        yield ended


def create_admin(metrics: Metrics, folder: Path, token: str | None, oversight: Oversight) -> FastAPI:
    """`metrics` are this process's own, `folder` has those of all; of the database tells `oversight`."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(folder))  # type: ignore[no-untyped-call]
    registry.register(ProcessGauges(folder))
    registry.register(WalletGauges(oversight.wallet, oversight.currency))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(each) for each in (oversight.prune_daily(), oversight.checkpoint_often())]
        yield
        for task in tasks:
            task.cancel()

    app = FastAPI(
        title="Retain, for operators",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.include_router(_routes(registry, oversight))
    app.add_exception_handler(HTTPException, refused)
    app.add_middleware(TokenCheck, token=token)
    app.add_middleware(EveryRequest, metrics=metrics)
    return app


def _routes(registry: CollectorRegistry, oversight: Oversight) -> APIRouter:
    routes = APIRouter()

    @routes.get("/healthz")
    async def healthz() -> Response:
        return JSONResponse({"status": "alive"})

    @routes.get("/metrics")
    async def metrics() -> Response:
        for left in reversed(range(TRIES)):
            try:
                text = await asyncio.to_thread(generate_latest, registry)
            except (struct.error, RuntimeError, ValueError, OSError):
                if not left:
                    raise
                await asyncio.sleep(TRY_AGAIN_SECONDS)  # a process that has just been started is making its files
            else:
                break
        return Response(text, headers={"content-type": CONTENT_TYPE_LATEST})

    @routes.get("/shadow")
    async def shadow() -> Response:
        """What the learned arm's shadow has shown, and whether that is enough to try it on customers."""
        try:
            return JSONResponse(await oversight.shadow())
        except StateUnavailable as error:
            return refusal(503, str(error))

    @routes.delete("/customers/{customer:path}")
    async def forget(customer: str) -> Response:
        """Deletes all decisions about a customer; her opt-out stays."""
        try:
            return JSONResponse({"decisions": await asyncio.to_thread(oversight.forget, customer)})
        except StateUnavailable as error:
            return refusal(503, str(error))

    return routes


def main(arguments: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ) -> int:
    inherited = begin(arguments)
    folder = Path(environment[VARIABLE])
    try:
        settings = read(environment)
        oversight = oversight_of(settings, folder)
    except RetainError as error:
        return inherited.fail(error)
    metrics = Metrics()
    app = create_admin(metrics, folder, settings.admin_token, oversight)
    run(inherited, app, metrics, KEEP_ALIVE, {})
    return 0


if __name__ == "__main__":
    sys.exit(main())
