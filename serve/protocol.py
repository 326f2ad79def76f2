"""What a connection may cost before a request reaches the application: uvicorn's own protocol, with limits.

httptools gathers a header in quadratic time and uvicorn keeps every header and every pipelined request without a
bound: one connection could hold a core, or 770 MB. Here a head has 32 KiB and ten seconds, and few requests may wait
behind the one that is answered. Bodies are limited by who reads them (routes.py), idle connections by uvicorn.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD = 32 * 1024
HEAD_SECONDS = 10.0
MAX_PIPELINE = 16
PIECE = 4096  # bytes that are parsed before the limits are looked at again: they hold to within one piece

TOO_LARGE = b'{"detail":"request line and headers may have %d bytes"}'


class LimitedProtocol(HttpToolsProtocol):
    """`_unbodied` counts the bytes of a message that were neither part of its complete head nor of its body.

    Those are a head that doesn't end, but also the sizes and trailers of a chunked body.
    """

    _unbodied = 0
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        for start in range(0, len(data), PIECE):
            piece = data[start : start + PIECE]
            self._unbodied += len(piece)
            super().data_received(piece)
            if self.transport.is_closing():
                return
            if self._unbodied > MAX_HEAD:
                self._refuse()
                return
        # uvicorn's timer of idle connections ends with their first byte; from there on a head has its time.
        self._expect_head()

    def on_headers_complete(self) -> None:
        if self.transport.is_closing():  # the rest of a piece, after the pipeline proved too long
            return
        self._unbodied = 0
        self._stop_timer()
        super().on_headers_complete()
        if len(self.pipeline) > MAX_PIPELINE:
            self.transport.close()

    def on_body(self, body: bytes) -> None:
        self._unbodied -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unbodied = 0
        super().on_message_complete()

    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete  # type: ignore[redundant-expr]

    def _expect_head(self) -> None:
        if self._head_timer is None and self._idle():
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self) -> None:
        if self._idle():  # otherwise the bytes would end up in the middle of another answer
            content = TOO_LARGE % MAX_HEAD
            head = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\n"
            self.transport.write(head + b"content-length: %d\r\nconnection: close\r\n\r\n" % len(content) + content)
        self.transport.close()
