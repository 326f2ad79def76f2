"""What a connection may cost before a request reaches the application, and where its bytes stop being HTTP/1.

uvicorn's own protocol, with limits. httptools gathers a header in quadratic time and uvicorn keeps every header and
every pipelined request without a bound: one connection could hold a core, or 770 MB. Here a head has 32 KiB and ten
seconds, and few requests may wait behind the one that is answered. Bodies are limited by who reads them (routes.py).

httptools leaves HTTP at the head of a request that offers an upgrade: it takes the body for another protocol's bytes,
and the bytes after those for a request. Here the head is parsed again without the offer, which a server may ignore
(RFC 9110, 7.8). Whatever else is no HTTP/1 is answered once and closed, after the answers to the requests before it.
"""

from __future__ import annotations

import asyncio
import logging
from typing import ClassVar, Literal

import httptools
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from serve import request_id
from serve.metrics import Metrics
from serve.refusals import refusal, refusal_body

MAX_HEAD = 32 * 1024
HEAD_SECONDS = 10.0
MAX_PIPELINE = 16
# How long a connection without a request is kept when the process is told to stop: one may be on its way already, and
# is answered as the last. Closed at once, a caller under load would lose it.
LAST_SECONDS = 1.0
PIECE = 4096  # bytes that are parsed before the limits are looked at again: they hold to within one piece

VERSIONS = ("1.1", "1.0")

log = logging.getLogger("retain.serve")


async def too_many(scope: Scope, receive: Receive, send: Send) -> None:
    """The application in whose place everything is refused."""
    request_id.current.set(request_id.of(scope))  # of this task alone, which ends with the answer
    response = refusal(503, "too many connections; try again later", close=True)
    response.headers[request_id.HEADER.decode()] = request_id.current.get()
    await response(scope, receive, send)


def protocol(metrics: Metrics) -> type[LimitedProtocol]:
    """The protocol for uvicorn, which makes one for each connection; what it refuses is counted in `metrics`."""
    return type("CountedProtocol", (LimitedProtocol,), {"metrics": metrics})


class LimitedProtocol(HttpToolsProtocol):
    """`_unbodied` counts the bytes of a message that were neither part of its complete head nor of its body.

    Those are a head that doesn't end, but also the sizes and trailers of a chunked body. `_part`: of a message that has
    begun and isn't complete, where its bytes have come to.
    """

    metrics: ClassVar[Metrics]
    stopping: ClassVar[bool] = False  # the process does: connections that were accepted meanwhile are told, too

    _unbodied = 0
    _part: Literal["head", "body"] | None = None
    _refused = False  # nothing more is read
    _last = False  # the process stops: the next answer ends the connection
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self._full():
            self._make_room()
        self._expect_head()
        if self.stopping:
            self.shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        for start in range(0, len(data), PIECE):
            if self._is_over():
                return
            piece = data[start : start + PIECE]
            self._unbodied += len(piece)
            self._parse(piece)
            if self._unbodied > MAX_HEAD and not self._is_over():
                self._refuse("head_too_large", 431, f"request line and headers may have {MAX_HEAD} bytes")
        # uvicorn's timer of idle connections ends with their first byte; from there on a head has its time.
        self._expect_head()

    def _parse(self, piece: bytes) -> None:
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade as upgrade:
            if self.scope["method"] == "CONNECT":
                self._refuse("malformed", 405, "this is no proxy")
            else:
                self._ignore_upgrade(piece[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._refuse("malformed", 400, "is no request of HTTP/1.0 or HTTP/1.1")

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Parses the request once more, without its offer of an upgrade; `rest` is what came after its head."""
        head = [f"{self.scope['method']} ".encode(), self.url, f" HTTP/{self.scope['http_version']}\r\n".encode()]
        for name, value in self.headers:
            if name == b"connection":
                value = b", ".join(option for option in value.split(b",") if option.strip().lower() != b"upgrade")
            if name != b"upgrade":
                head += [name, b": ", value, b"\r\n"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self._parse(b"".join([*head, b"\r\n"]))
        if not self._is_over():
            self._parse(rest)

    def on_message_begin(self) -> None:
        self._part = "head"
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        if self.transport.is_closing():  # the rest of a piece, after the pipeline proved too long
            return
        version = self.parser.get_http_version()
        if version not in VERSIONS:
            raise ValueError(f"HTTP/{version}")  # httptools makes a HttpParserError of it
        if self.parser.should_upgrade():
            self.scope["method"] = self.parser.get_method().decode("ascii")
            self.scope["http_version"] = version
            return
        self._unbodied = 0
        self._stop_timer()
        app, limit = self.app, self.limit_concurrency
        if self._full():
            self._count("too_many_connections")
            self.app, self.limit_concurrency = too_many, None  # uvicorn's own 503 is plain text
        super().on_headers_complete()
        self.app, self.limit_concurrency = app, limit
        self._part = "body"
        # A caller who is refused before its body may send another request at once.
        if self.expect_100_continue or self._last:
            self.cycle.keep_alive = False
        if len(self.pipeline) > MAX_PIPELINE:
            self.metrics.refused("too_many_pipelined")
            self.transport.close()

    def on_body(self, body: bytes) -> None:
        self._unbodied -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._unbodied = 0
        self._part = None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._part and self._idle() and not self.transport.is_closing():
            self._unset_keepalive_if_required()  # the next request has begun, or this one's body hasn't ended
            self._expect_head()

    def shutdown(self) -> None:
        if self._idle():
            self._last = True
            self.loop.call_later(LAST_SECONDS, self._end_if_idle)
        else:
            super().shutdown()

    def _end_if_idle(self) -> None:
        if self._idle() and self._part is None:
            self.transport.close()

    def _is_over(self) -> bool:
        return self._refused or self.transport.is_closing()

    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete  # type: ignore[redundant-expr]

    def _full(self) -> bool:
        limit = self.limit_concurrency
        return limit is not None and (len(self.connections) >= limit or len(self.tasks) >= limit)

    def _make_room(self) -> None:
        """Closes the connection that has been idle longest, if any is: better than to refuse who comes now."""
        idle = {
            other: timer.when()
            for other in self.connections
            if isinstance(other, HttpToolsProtocol) and (timer := other.timeout_keep_alive_task) is not None
        }
        if idle:
            longest = min(idle, key=idle.__getitem__)
            longest.transport.close()
            self.connections.discard(longest)  # at once: the newcomer's request may be read before this is closed

    def _expect_head(self) -> None:
        if self._head_timer is None and self._idle() and not self._refused:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self._too_slow)

    def _too_slow(self) -> None:
        if self._part:
            self._count("too_slow")
        self.transport.close()

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, reason: str, status: int, detail: str) -> None:
        """Answers what can't be read and closes, but lets the answers to earlier requests go first."""
        token = request_id.current.set(request_id.new())
        try:
            self._count(reason)
            self._answer_and_close(status, detail)
        finally:
            request_id.current.reset(token)

    def _answer_and_close(self, status: int, detail: str) -> None:
        self._refused = True
        self._stop_timer()
        answer_due = not self._idle()
        if self._part == "body":  # of the last request: this is its answer, unless it has one or others come first
            is_answer = answer_due and not self.pipeline and not self.cycle.response_started
        else:
            is_answer = not answer_due
        if answer_due and not is_answer:
            self.cycle.keep_alive = False
            return
        if is_answer:
            content = refusal_body(detail)
            head = b"content-type: application/json\r\ncontent-length: %d\r\n%s: %s\r\nconnection: close\r\n\r\n"
            fields = head % (len(content), request_id.HEADER, request_id.current.get().encode())
            self.transport.write(STATUS_LINE[status] + fields + content)
        self.transport.close()

    def _count(self, reason: str) -> None:
        self.metrics.refused(reason)
        log.warning(f"a connection from %s was refused: {reason}", self.client and self.client[0])
