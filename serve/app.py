"""The application, and the process that serves it: `python -m serve` (settings in settings.py)."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import uvicorn
from fastapi import FastAPI
from starlette.exceptions import HTTPException

from engine.approvals import Approvals, Watch
from engine.errors import RetainError
from retain.release import Release
from retain.request import examples
from serve.logs import limit
from serve.metrics import Metrics
from serve.middleware import RequestMetrics
from serve.protocol import protocol
from serve.router import EVERYBODY_BASELINE, Router
from serve.routes import refused, routes_of
from serve.schema import request_schema
from serve.service import Service
from serve.settings import LOOK_SECONDS, READ_AGAIN_SECONDS, Settings, load_release, read

MAX_CONNECTIONS = 512  # at a time, idle ones among them (protocol.py says who has to go)
STOP_SECONDS = 10  # for what is being answered when the service is told to stop


def create_app(
    version: str, release: Release, router: Router = EVERYBODY_BASELINE, watch: Watch | None = None
) -> FastAPI:
    """The API of one release; `version` is what it is called in answers and metrics.

    `watch` says which of its messages people approved, at the start and while the application runs; without it the
    release's own verdicts count.
    """
    metrics = Metrics()
    service = Service(version, release, metrics, router)
    if watch and (approvals := watch.changed()):
        service.take_approvals(approvals)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        following = asyncio.create_task(_follow_approvals(service, watch)) if watch else None
        yield
        if following:
            following.cancel()

    app = FastAPI(
        title="Retain",
        version=version,
        redirect_slashes=False,
        lifespan=lifespan,
        summary=f"Whom to contact, with which offer, in which words ({release.spec.title})",
    )
    app.state.service = service
    app.include_router(routes_of(service))
    app.add_exception_handler(HTTPException, refused)
    app.add_middleware(RequestMetrics, metrics=metrics)
    content = {"schema": request_schema(release.spec, release.terms), "examples": examples(release.spec, release.terms)}
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        # Put in afterwards: FastAPI drops every null of what it is given, also those that an example is about.
        document = describe()
        body = {"required": True, "content": {"application/json": content}}
        document["paths"]["/retain"]["post"]["requestBody"] = body
        return document

    app.openapi = openapi  # type: ignore[method-assign]
    return app


async def _follow_approvals(service: Service, watch: Watch) -> None:
    while True:
        await asyncio.sleep(READ_AGAIN_SECONDS)
        look = _look(watch)
        await asyncio.wait([look], timeout=LOOK_SECONDS)
        if not look.done():
            problem = f"{watch.url}: can't be read (no answer within {LOOK_SECONDS:g} seconds)"
            service.take_approvals(Approvals(problem=problem))
            await look
            watch.forget()  # what that look saw may be long past
        elif (approvals := look.result()) is not None:
            service.take_approvals(approvals)


def _look(watch: Watch) -> asyncio.Future[Approvals | None]:
    """What has changed, from a thread of its own: a store on a network may be slow, or hang.

    No executor's: the process would wait for that thread when it stops.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Approvals | None] = loop.create_future()

    def look() -> None:
        try:
            approvals = watch.changed()
        except Exception as error:  # whatever it is, what was approved before may have been rejected since
            watch.forget()
            approvals = Approvals(problem=f"{watch.url}: can't be read ({error!r})")
        with suppress(RuntimeError):  # the loop is closed: the service has stopped meanwhile
            loop.call_soon_threadsafe(_answer, answer, approvals)

    threading.Thread(target=look, name="look at approvals", daemon=True).start()
    return answer


def _answer(answer: asyncio.Future[Approvals | None], approvals: Approvals | None) -> None:
    if not answer.cancelled():  # with the task that awaits it, when the service stops
        answer.set_result(approvals)


def main(environment: Mapping[str, str] = os.environ) -> int:
    """Serves until it is told to stop; 2 with one line when it can't start."""
    try:
        settings = read(environment)
        version, release = load_release(settings)
        watch = Watch()
        listening = _listen(settings)
    except RetainError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    host, port = listening.getsockname()[:2]
    app = create_app(version, release, settings.router, watch)
    for warning in app.state.service.ready()["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    sources = ", ".join([str(settings.release), *(f"{part} of {path}" for part, path in settings.parts.items())])
    print(
        f"Retain serves release {version} ({sources}) on http://{host}:{port}: POST /retain, docs at /docs; "
        f"{app.state.service.arms}; {app.state.service.banks}",
        flush=True,
    )
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=protocol(app.state.service.metrics),
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=settings.keep_alive,
        proxy_headers=False,  # nothing here asks who the caller is
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    limit()
    with suppress(KeyboardInterrupt):  # raised again by uvicorn once it has shut down
        uvicorn.Server(config).run(sockets=[listening])
    return 0


def _listen(settings: Settings) -> socket.socket:
    # Before uvicorn does it, so that a port in use is one line like every other bad setting.
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(2048)
    except UnicodeError:  # what getaddrinfo raises for a name with an empty part, a long one or a forbidden letter
        raise RetainError(f"RETAIN_HOST={settings.host!r}: is no name of a host, nor an address") from None
    except OSError as error:
        raise RetainError(
            f"RETAIN_HOST={settings.host} PORT={settings.port}: can't listen there ({error.strerror})"
        ) from None
    return listening
