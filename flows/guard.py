"""Prefect's server as `make up` runs it, closed to the pages of other sites: `python -m flows.guard HOST PORT`.

Whoever may deploy to it may start any container as root, and by default it asks nobody for a password. Prefect itself
looks neither at the name that a request calls the server by nor at the page that sent it, so every page in a browser of
this machine could deploy: by a request from elsewhere, or under a name of its own that leads to 127.0.0.1 (DNS
rebinding). Both are refused here, for the API, its WebSockets and the UI alike.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

SERVER_AUTH = "PREFECT_SERVER_API_AUTH_STRING"
# How this machine and the containers of infra/compose.yaml call the server.
NAMES = ("127.0.0.1", "localhost", "server")


def guarded(app: ASGIApp, names: Sequence[str]) -> ASGIApp:
    """The application for requests to one of these names ("*": any) that no page of another origin has sent."""

    async def same_origin(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            headers = Headers(scope=scope)
            # Browsers send it with whatever isn't a plain look at a page of the same site; other clients never do.
            origin = headers.get("origin")
            if origin is not None and urlsplit(origin).netloc != headers.get("host"):
                refusal = PlainTextResponse(f"Pages of {origin} may not use this server.", status_code=403)
                return await refusal(scope, receive, send)
        await app(scope, receive, send)

    return TrustedHostMiddleware(same_origin, allowed_hosts=names, www_redirect=False)


def main(host: str, port: int) -> None:
    import uvicorn
    from prefect.server.api.server import create_app
    from prefect.settings import PREFECT_SERVER_API_KEEPALIVE_TIMEOUT

    # A page of another name knows no password, so where one is asked for the server may be called as anybody likes.
    names = ["*"] if os.environ.get(SERVER_AUTH) else NAMES
    app = guarded(create_app(final=True), names)
    keep_alive_s = PREFECT_SERVER_API_KEEPALIVE_TIMEOUT.value()
    uvicorn.run(app, host=host, port=port, timeout_keep_alive=keep_alive_s, log_level="warning")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
