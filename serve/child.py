"""What a process does for the supervisor that started it: it says that it is ready and that it lives, and ends with it.

The two share a pair of connected sockets. The child writes lines of JSON: {"ready": ...} once it answers,
{"failed": ..., "exit_code": ...} if it can't, and {} four times a second from its event loop, so that a loop that hangs
is noticed. The supervisor writes nothing: the child waits in a thread for the end of the stream, which comes when the
supervisor has ended, in whatever way.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from engine.errors import RetainError
from engine.output import make_decoration
from serve import logs
from serve.folder import VARIABLE, remove
from serve.metrics import Metrics, share
from serve.protocol import LimitedProtocol, protocol

BEAT_SECONDS = 0.25
MAX_CONNECTIONS = 512  # at a time, idle ones among them (protocol.py says who has to go)
STOP_SECONDS = 10  # for what is being answered when the service is told to stop
LATE_SECONDS = 2  # how much longer than that a process without a supervisor may live


@dataclass(frozen=True)
class Inherited:
    """`name`: of its slot, such as worker-0."""

    name: str
    listening: socket.socket
    channel: socket.socket

    def tell(self, **line: Any) -> None:
        """Raises OSError where nobody reads any more, or not now."""
        self.channel.sendall(json.dumps(line).encode() + b"\n")

    def fail(self, error: RetainError) -> int:
        """Tells the supervisor why this process can't begin. Returns its exit code."""
        self.tell(failed=str(error), exit_code=error.exit_code)
        return error.exit_code


def begin(arguments: Sequence[str] | None = None) -> Inherited:
    """What the supervisor handed over. This process now ends with it, and counts and logs by its slot's name."""
    make_decoration()
    parser = argparse.ArgumentParser(description="Started by `python -m serve` alone.")
    parser.add_argument("--name", required=True)
    parser.add_argument("--listening", type=int, required=True, help="descriptor of the listening socket")
    parser.add_argument("--channel", type=int, required=True, help="descriptor of the socket to the supervisor")
    options = parser.parse_args(arguments)
    inherited = Inherited(options.name, socket.socket(fileno=options.listening), socket.socket(fileno=options.channel))
    threading.Thread(target=_end_with_supervisor, args=(inherited.channel,), name="supervisor", daemon=True).start()
    logs.configure(inherited.name)
    share(inherited.name)
    return inherited


def _end_with_supervisor(channel: socket.socket) -> None:
    with suppress(ConnectionError):  # it ended without having read all that was written
        while channel.recv(1):
            pass
    remove(Path(os.environ[VARIABLE]))  # it was killed, and could not do that itself
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_SECONDS + LATE_SECONDS)
    os._exit(1)


def config_of(app: ASGIApp, http: type[LimitedProtocol], keep_alive: int) -> uvicorn.Config:
    """How a process of the service serves: `keep_alive` is for how many seconds a connection may be idle."""
    return uvicorn.Config(
        app,
        loop="uvloop",
        http=http,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=keep_alive,
        proxy_headers=False,  # nothing here asks who the caller is
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=STOP_SECONDS,
    )


def run(inherited: Inherited, app: ASGIApp, metrics: Metrics, keep_alive: int, ready: Mapping[str, Any]) -> None:
    """Serves until the supervisor says to stop, or ends. `ready` is what it is told once requests are answered."""
    http = protocol(metrics)
    server = _Server(config_of(app, http, keep_alive), http, inherited, ready)
    signal.signal(signal.SIGTERM, server.handle_exit)  # from here on it is an orderly end
    gc.collect()
    gc.freeze()  # what was loaded stays: the collector need not go over it again while requests wait
    server.run(sockets=[inherited.listening])


class _Server(uvicorn.Server):
    """Tells the supervisor when it answers, and from then on that its event loop moves."""

    def __init__(
        self,
        config: uvicorn.Config,
        http: type[LimitedProtocol],
        inherited: Inherited,
        ready: Mapping[str, Any],
    ) -> None:
        super().__init__(config)
        self._inherited = inherited
        self._ready = ready
        self._http = http

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._inherited.tell(ready=self._ready)
        self._beating = asyncio.create_task(_beat(self._inherited.channel))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._http.stopping = True
        await super().shutdown(sockets)


async def _beat(channel: socket.socket) -> None:
    while True:
        try:
            channel.send(b"{}\n", socket.MSG_DONTWAIT)
        except BlockingIOError:
            pass  # the supervisor was paused
        except OSError:
            return  # it has ended
        await asyncio.sleep(BEAT_SECONDS)
