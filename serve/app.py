"""The application of one release. A worker serves it (worker.py); tests call it without a process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from starlette.exceptions import HTTPException

from engine.approvals import Approvals, Watch
from retain.request import examples
from serve.api_page import routes_of_page
from serve.bodies import schemas
from serve.following import Following
from serve.keys import NO_KEYS, KeyCheck, Keys, is_open
from serve.looking import in_thread
from serve.middleware import EveryRequest
from serve.refusals import refused
from serve.routes import READY, RETAIN, Straight, routes_of
from serve.schema import request_schema
from serve.service import Service
from serve.settings import LOOK_SECONDS, READ_AGAIN_SECONDS

TITLE = "Retain"
# What is measured is in metrics.py; FastAPI would look at each request whether a library of traces wants it.
NO_TELEMETRY: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False}
IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "the same request with the same key gets the same decision for 30 days",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
}


def create_app(
    service: Service, watch: Watch | None = None, keys: Keys = NO_KEYS, following: Following | None = None
) -> FastAPI:
    """The API of a service.

    `watch` says which of its messages people approved, at the start and while the application runs; without it the
    release's own verdicts count. `keys` says who may call; without any, everybody may. `following` keeps the service in
    step with its rollout; without it the settings rule.
    """
    release = service.release
    if watch and (approvals := watch.changed()):
        service.take_approvals(approvals)
    if following:
        following.begin()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.start()
        tasks = [asyncio.create_task(_follow_approvals(service, watch))] if watch else []
        tasks += [asyncio.create_task(following.run())] if following else []
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await service.stop()

    app = FastAPI(
        title=TITLE,
        version=service.bound.versions["release"],
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry=NO_TELEMETRY,
        lifespan=lifespan,
        summary=f"Whom to contact, with which offer, in which words ({release.spec.title})",
    )
    app.state.service = service
    app.include_router(routes_of(service))
    app.include_router(routes_of_page(TITLE))
    app.add_exception_handler(HTTPException, refused)
    # Around FastAPI's own middleware rather than within it, which costs a request as much as EveryRequest.
    straight = Straight(app.build_middleware_stack(), service)
    app.middleware_stack = EveryRequest(KeyCheck(straight, keys), service.metrics)
    bodies = {path: {"schema": schema} for path, schema in schemas().items()}
    bodies[RETAIN] = {
        "schema": request_schema(release.spec, release.terms),
        "examples": examples(release.spec, release.terms),
    }
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        # Put in afterwards: FastAPI drops every null of what it is given, also those that an example is about.
        document = describe()
        for path, content in bodies.items():
            body = {"required": True, "content": {"application/json": content}}
            document["paths"][path]["post"]["requestBody"] = body
        document["paths"][RETAIN]["post"]["parameters"] = [IDEMPOTENCY_KEY]
        if keys:
            document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            for path, operations in document["paths"].items():
                for operation in operations.values():
                    operation["security"] = [{"key": []}]
                    if is_open(path):
                        operation["security"] = [{}, *operation["security"]] if path == READY else []
        return document

    app.openapi = openapi  # type: ignore[method-assign]
    return app


async def _follow_approvals(service: Service, watch: Watch) -> None:
    while True:
        await asyncio.sleep(READ_AGAIN_SECONDS)
        try:
            look = in_thread(partial(_changed, watch), "look at approvals")
        except RuntimeError as error:  # no thread can be started
            service.take_approvals(Approvals(problem=f"{watch.url}: can't be read ({error})"))
            watch.forget()
            continue
        await asyncio.wait([look], timeout=LOOK_SECONDS)
        if not look.done():
            problem = f"{watch.url}: can't be read (no answer within {LOOK_SECONDS:g} seconds)"
            service.take_approvals(Approvals(problem=problem))
            await look
            watch.forget()  # what that look saw may be long past
        elif (approvals := look.result()) is not None:
            service.take_approvals(approvals)


def _changed(watch: Watch) -> Approvals | None:
    try:
        return watch.changed()
    except Exception as error:  # whatever it is, what was approved before may have been rejected since
        watch.forget()
        return Approvals(problem=f"{watch.url}: can't be read ({error!r})")
