"""A bare FastAPI echo of the service's requests: `python -m bench.load.bare`. What the service is compared with.

The request's own model is the body parameter and the answer, as FastAPI is commonly used; no database, no metrics, no
limits of its own. uvicorn is set as the service sets it.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import uvicorn
from fastapi import Body, FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from retain.dataset import DatasetSpec
from retain.decision import Terms
from serve.child import config_of
from serve.loading import load_release
from serve.schema import request_type
from serve.settings import KEEP_ALIVE, read
from serve.sockets import listen, url


def echo(spec: DatasetSpec, terms: Terms) -> FastAPI:
    app, model = FastAPI(), request_type(spec, terms)

    async def retain(body: Any) -> Any:
        return body

    # Not in the signature: the model is known at run time alone, and annotations here are text.
    retain.__annotations__ = {"body": Annotated[model, Body()], "return": model}
    app.post("/retain")(retain)
    return app


def main() -> int:
    settings = read(os.environ)
    _, release = load_release(settings)
    listening = listen(("RETAIN_HOST", "PORT"), settings.host, settings.port, None)
    http: Any = HttpToolsProtocol
    server = uvicorn.Server(config_of(echo(release.spec, release.terms), http, KEEP_ALIVE))
    print(f"serves on {url(listening)}", flush=True)
    server.run(sockets=[listening])
    return 0


if __name__ == "__main__":
    sys.exit(main())
