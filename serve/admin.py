"""What operators and Prometheus ask for, on a port of its own: `python -m serve.admin`, which the supervisor starts.

With RETAIN_ADMIN_TOKEN set, everything but /healthz wants it as `Authorization: Bearer TOKEN`. Without it the port is
bound on this machine only, and called by this machine's own names only (keys.py).
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

from engine.errors import RetainError
from serve.child import begin, run
from serve.database import StateUnavailable
from serve.folder import VARIABLE, read_processes
from serve.keys import NO_KEYS, KeyCheck, Keys
from serve.metrics import Metrics, WalletGauges
from serve.middleware import EveryRequest
from serve.oversight import Oversight, oversight_of
from serve.refusals import refusal, refused
from serve.settings import read

KEEP_ALIVE = 75
TRIES, TRY_AGAIN_SECONDS = 10, 0.02
OPEN_PATHS = frozenset({"/healthz"})


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
    registry.register(oversight.worth)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        works = (oversight.prune_daily(), oversight.checkpoint_often(), oversight.worth.keep_looking())
        tasks = [asyncio.create_task(work) for work in works]
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
    keys = NO_KEYS if token is None else Keys({"admin": token})
    app.add_middleware(KeyCheck, keys=keys, setting="RETAIN_ADMIN_TOKEN", is_open=OPEN_PATHS.__contains__)
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
        except (StateUnavailable, RetainError) as error:
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
