"""Connections of a process that is told to stop, on a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import uvicorn
from starlette.responses import Response

from serve import protocol
from serve.child import config_of
from serve.metrics import Metrics

GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
Connected = Callable[[uvicorn.Server, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def connected(stopping: bool, work: Connected) -> None:
    """Runs `work` on a connection to a server that answers everything."""

    async def run() -> None:
        http = protocol.protocol(Metrics())
        http.stopping = stopping
        config = config_of(Response(b"here"), http, 60)
        config.load()
        server = uvicorn.Server(config)
        listening = await asyncio.get_running_loop().create_server(
            lambda: http(config=config, server_state=server.server_state, app_state={}), "127.0.0.1", 0
        )
        async with listening:
            reader, writer = await asyncio.open_connection(*listening.sockets[0].getsockname())
            while not server.server_state.connections:  # noqa: ASYNC110 it is made in another task
                await asyncio.sleep(0.01)
            await asyncio.wait_for(work(server, reader, writer), 30)
            writer.close()

    asyncio.run(run())


def tell(server: uvicorn.Server) -> None:
    for connection in [*server.server_state.connections]:
        connection.shutdown()


async def last_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The request that is on its way is answered, as the last one."""
    writer.write(GET)
    received = await reader.read()
    assert received.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nconnection: close\r\n" in received
    assert received.endswith(b"here")


def test_a_request_on_its_way_is_answered_as_the_last() -> None:
    async def work(server: uvicorn.Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tell(server)
        await last_answer(reader, writer)

    connected(False, work)


def test_a_request_on_its_way_on_a_connection_that_was_kept_is_answered_as_the_last() -> None:
    async def work(server: uvicorn.Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GET)
        assert b"connection: close" not in await reader.readuntil(b"here")
        tell(server)
        await last_answer(reader, writer)

    connected(False, work)


def test_a_connection_that_is_accepted_while_the_process_stops_is_told_too() -> None:
    async def work(server: uvicorn.Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await last_answer(reader, writer)

    connected(True, work)


def test_a_connection_without_a_request_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "LAST_SECONDS", 0.05)

    async def work(server: uvicorn.Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tell(server)
        assert await reader.read() == b""

    connected(False, work)
