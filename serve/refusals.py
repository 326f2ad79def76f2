"""What a caller gets instead of an answer: one JSON shape for every refusal, whichever part of the service refuses."""

from __future__ import annotations

from typing import Any

import orjson
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from serve import request_id


class Fault(BaseModel):
    type: str
    loc: list[str | int]


class Refusal(BaseModel):
    """Why a request was refused: what kind of fault and where; nothing of the request is repeated but its own id."""

    detail: list[Fault] | str
    request_id: str


def refusal_body(detail: Any) -> bytes:
    """The JSON of a Refusal to the current request."""
    return orjson.dumps({"detail": detail, "request_id": request_id.current.get()})


def refusal(status: int, detail: Any, *, close: bool = False, challenge: bool = False) -> Response:
    """`close`: the connection ends with this answer, since the rest of the request is not read. `challenge`: says how
    the caller may prove who it is."""
    response = Response(refusal_body(detail), status, media_type="application/json")
    if close:
        response.headers["connection"] = "close"
    if challenge:
        response.headers["www-authenticate"] = "Bearer"
    return response


async def refused(request: Request, error: Exception) -> Response:
    """Starlette's own refusals (404, 405) in the same shape."""
    assert isinstance(error, HTTPException)
    response = refusal(error.status_code, error.detail)
    response.headers.update(error.headers or {})
    if response.headers.get("allow") == "GET":
        response.headers["allow"] = "GET, HEAD"  # middleware.py answers both
    return response
