"""The one way in and out of every request: named by an id, counted, and never answered with a traceback."""

from __future__ import annotations

import logging

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve import request_id
from serve.metrics import Metrics
from serve.refusals import refusal

# Below it an id follows, which may end in a slash: it is another customer's without it.
CUSTOMERS = "/customers/"

log = logging.getLogger("retain.serve")


class EveryRequest:
    """Around every request: gives it an id, counts it, and turns a bug into a clean 500 and a traceback in
    the log.

    HEAD is answered as GET, whose body the server leaves out, and a path as without a slash at its end: health checks
    use both, and a redirect would lead to whatever host the caller named.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        method, path = scope["method"], scope["path"]
        if method == "HEAD" or (path[-1:] == "/" and path != "/"):
            path = _without_slash(path)
            scope = {**scope, "method": "GET" if method == "HEAD" else method, "path": path}
        status, identifier = 0, request_id.of(scope)
        request_id.current.set(identifier)  # of this request's task alone, which ends with it

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (request_id.HEADER, identifier.encode())]
            await send(message)

        try:
            await self.app(scope, receive, counted)
        except Exception:
            log.exception("%s %r failed", method, path)
            if status == 0:
                await refusal(500, "internal error")(scope, receive, counted)
        finally:
            self.metrics.request(path, status or 500)


def _without_slash(path: str) -> str:
    """The path that is meant, where it ends in a slash."""
    is_of_id = path.startswith(CUSTOMERS) and path != CUSTOMERS
    return path if is_of_id else path.removesuffix("/") or "/"
