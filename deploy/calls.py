"""Asking other processes by HTTP: for no longer and for no more than stated, and following no redirect."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from email.message import Message
from http.client import HTTPException
from typing import IO, Any
from urllib.parse import urlsplit

from engine.errors import RetainError

MAX_ANSWER = 8 << 20  # bytes
PIECE = 1 << 16


class Unanswered(RetainError):
    """A process that has to answer doesn't, or with nothing that can be used."""

    exit_code = 3


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """An answer that sends elsewhere is no answer: a POST would become a GET on the way."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        return None


# Processes of this house are asked directly, whatever proxy the shell has set; a page may go through it.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)
_OUTSIDE = urllib.request.build_opener(_NoRedirect)


def get_json(url: str, *, seconds: float, who: str, token: str | None = None) -> Any:
    """What is answered with 200. `who`: what it is called in an error. Raises Unanswered."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    content = _call(_DIRECT, urllib.request.Request(url, headers=headers), seconds, f"{who} at {_base(url)}")
    try:
        return json.loads(content)
    except ValueError:
        raise Unanswered(f"{who} at {_base(url)} answers no JSON") from None


def post_json(url: str, content: Mapping[str, Any], *, seconds: float, who: str) -> None:
    """Raises Unanswered unless it is answered with 2xx. The address, which may hold a secret, is in no error."""
    body = json.dumps(content).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="POST")
    _call(_OUTSIDE, request, seconds, who)


def _call(opener: urllib.request.OpenerDirector, request: urllib.request.Request, seconds: float, who: str) -> bytes:
    end = time.monotonic() + seconds
    try:
        with opener.open(request, timeout=seconds) as response:
            content = bytearray()
            while piece := response.read1(PIECE):
                content += piece
                if len(content) > MAX_ANSWER or time.monotonic() > end:
                    raise Unanswered(f"{who} answers with too much, or too slowly")
            return bytes(content)
    except urllib.error.HTTPError as error:
        error.close()
        raise Unanswered(f"{who} answers {error.code}") from None
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        words = "no answer in time" if isinstance(reason, TimeoutError) else str(reason) or type(reason).__name__
        raise Unanswered(f"{who} doesn't answer ({words})") from None


def _base(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
