"""A process of the learned arm as its worker sees it: started, listened to, ended, and what it died of."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple, cast

from pydantic import TypeAdapter, ValidationError

from serve.trial_metrics import ArmFailure
from serve.wire import FrameError, Frames

LAST_WORDS = 1000  # bytes that are kept of what it prints
REAP_SECONDS = 0.02  # between two looks whether a process is gone
DYING_SECONDS = 0.5  # for a process that ends by itself, after it has closed the connection
# It gets what it has to know by the socket; no secret of the service's is among its variables.
VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME", "TMPDIR", "TZ")
# More threads would take more memory than the process may have, and no sooner answer.
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


class Ending(NamedTuple):
    """How a process ended, as a kind of failure for the questions that it still owed an answer to, and in words."""

    kind: ArmFailure
    why: str


class Ended(Exception):
    """Raised by who hears a process, to end it."""

    def __init__(self, kind: ArmFailure, why: str) -> None:
        super().__init__(why)
        self.ending = Ending(kind, why)


def valid(wanted: TypeAdapter[Any], content: Any) -> Any:
    """What a process has sent, as what is `wanted`. Raises Ended."""
    try:
        return wanted.validate_python(content)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise Ended("malformed", f"it sent what is none of its messages ({where}: {first['msg']})") from None


class ArmProcess(asyncio.Protocol):
    """One process, from start to end; what it sends goes to `hear`, frame by frame."""

    def __init__(self, command: list[str], hear: Callable[[dict[str, Any]], None]) -> None:
        """`command` is what Python runs; the socket's descriptor and this process's id are put behind it."""
        self._command = command
        self._hear = hear
        self._frames = Frames()
        self._ending: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._printed = b""
        self._by_itself = False

    async def run(self, first: bytes) -> Ending:
        """Starts the process, sends it the `first` frame, and returns when the connection to it has ended."""
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = self._started(theirs)
            await loop.create_unix_connection(lambda: self, sock=ours)
        except OSError as error:
            ours.close()
            return Ending("died", f"it can't be started ({error.strerror or error})")
        assert self._process.stdout is not None
        printed = self._process.stdout.fileno()
        os.set_blocking(printed, False)
        loop.add_reader(printed, self._read_printed, printed)
        self.send(first)
        return await self._ending

    def _started(self, line: socket.socket) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, *self._command, str(line.fileno()), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[line.fileno()],
            env={name: os.environ[name] for name in VARIABLES if name in os.environ} | ONE_THREAD,
        )

    def send(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def end(self, ending: Ending) -> None:
        """Kills it, since it may hang; nothing that it has sent is heard any more."""
        if not self._ending.done():
            self._ending.set_result(ending)
        if self._process is not None:
            self._process.kill()
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    async def ended(self) -> str:
        """Waits until it is gone; in words how it ended, if it did by itself, and what it printed last."""
        process = self._process
        if process is None or process.stdout is None:
            return ""
        deadline = time.monotonic() + DYING_SECONDS
        while process.poll() is None:
            if time.monotonic() >= deadline:
                process.kill()
            await asyncio.sleep(REAP_SECONDS)
        self._read_printed(process.stdout.fileno())
        asyncio.get_running_loop().remove_reader(process.stdout.fileno())
        process.stdout.close()
        words = self._printed.decode(errors="replace").strip()
        how = f"exit code {process.returncode}" if process.returncode >= 0 else f"signal {-process.returncode}"
        said = [how] if self._by_itself else []
        return "; ".join([*said, f"it printed: {words}"] if words else said)

    def _read_printed(self, descriptor: int) -> None:
        """Reads what was printed, so that the process never waits for a reader, and keeps the end of it."""
        with suppress(BlockingIOError):
            while data := os.read(descriptor, 1 << 16):
                self._printed = (self._printed + data)[-LAST_WORDS:]
                if self._transport is not None:
                    return  # the next call reads on: others have their turn in between
            asyncio.get_running_loop().remove_reader(descriptor)

    # -- what the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # no subclass of it, with uvloop

    def data_received(self, data: bytes) -> None:
        try:
            for content, _ in self._frames.feed(data):
                self._hear(content)
        except FrameError as error:
            self.end(Ending("malformed", f"it sent {error}"))
        except Ended as error:
            self.end(error.ending)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if not self._ending.done():
            self._by_itself = True
            self._ending.set_result(Ending("died", "its process ended"))
