"""A Prefect server for one run, on this machine, which ends when the run ends or dies.

Prefect's ephemeral mode leaves its server behind when its parent is killed. This server reads from a pipe to the
parent, as stages do. Its database lies in a locked folder of its own (a "home") under the store. A second run at the
same time takes the next home, so no two servers share one SQLite file. Starting takes 8 s with a new home, later 3 s.
"""

from __future__ import annotations

import fcntl
import gc
import importlib
import itertools
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO
from urllib.parse import quote

from engine.errors import RetainError
from engine.fingerprint import ROOT

START_S = 120.0
# They look again and again for deployments, leases and paused runs, which a private server has none of.
UNUSED_SERVICES = (
    "CANCELLATION_CLEANUP",
    "CLEANUP_RECONCILER",
    "FOREMAN",
    "LATE_RUNS",
    "PAUSE_EXPIRATIONS",
    "REPOSSESSOR",
    "SCHEDULER",
    "TRIGGERS",
)


class ServerGone(RetainError):
    """The server ended while it was needed."""

    exit_code = 1


@dataclass
class Server:
    """A running server. `address` is where a browser finds its pages."""

    address: str
    process: subprocess.Popen[bytes]
    log: Path

    def gone(self) -> ServerGone | None:
        """The error to raise if it has ended, else None."""
        if self.process.poll() is None:
            return None
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return ServerGone(f"Prefect's server ended ({lines[-1] if lines else 'it said nothing'}); see {self.log}")


@contextmanager
def private_server(root: Path, stopping: threading.Event) -> Iterator[Server]:
    """Runs the server while the block runs, and sets Prefect's settings: call it before Prefect is imported.

    Raises ServerGone if it doesn't start; yields early, with a server that may not answer, once `stopping` is set.
    """
    home, lock = _free_home(root)
    listener = socket.create_server(("127.0.0.1", 0))
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    _configure(home, address)
    log = home / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.server", str(listener.fileno())],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            cwd=ROOT,
            # The lock's file too, so that the home stays locked until both processes have ended.
            pass_fds=[listener.fileno(), lock.fileno()],
            process_group=0,  # Ctrl-C must not end it: the run still has to report how it ended
        )
    listener.close()
    server = Server(address, process, log)
    try:
        importlib.import_module("flows.train")  # takes as long as the server does: Prefect, with the settings just made
        _wait(server, stopping)
        yield server
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
        lock.close()


def _configure(home: Path, address: str) -> None:
    """Sets Prefect's environment for the server and this process, in place of the user's own Prefect settings."""
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        del os.environ[name]
    os.environ |= {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"{address}/api",
        # Quoted, since the path of a store may contain characters that mean something in an address.
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{quote(str(home / 'prefect.db'))}",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        # Stages use none of Prefect's blocks. To describe their types took more than a second of a new home's start.
        "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",
        **{f"PREFECT_SERVER_SERVICES_{service}_ENABLED": "false" for service in UNUSED_SERVICES},
        "PREFECT_LOGGING_SERVER_LEVEL": "ERROR",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # the terminal shows the table of stages instead
    }
    for name in ("NO_PROXY", "no_proxy"):  # the server must not be looked for behind a proxy
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), "127.0.0.1")))


def _free_home(root: Path) -> tuple[Path, TextIO]:
    for number in itertools.count():
        home = root / f"home-{number}"
        home.mkdir(parents=True, exist_ok=True)
        lock = (home / "lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        return home, lock
    raise AssertionError


def _wait(server: Server, stopping: threading.Event) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + START_S
    while not stopping.is_set():
        if error := server.gone():
            raise error
        if time.monotonic() > deadline:
            raise ServerGone(f"Prefect's server did not answer within {START_S:.0f} s; see {server.log}")
        try:
            with opener.open(f"{server.address}/api/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)


def serve(descriptor: int) -> None:
    """Serves Prefect's API on an open listening socket until stdin ends."""
    gc.disable()  # nothing that is imported becomes garbage, and looking for it was a fifth of the start
    import uvicorn
    from prefect.server.api.server import create_app

    gc.freeze()
    gc.enable()

    def watch_parent() -> None:
        while os.read(0, 1):
            pass
        os._exit(0)

    threading.Thread(target=watch_parent, daemon=True).start()
    server = uvicorn.Server(uvicorn.Config(create_app(), log_level="error", lifespan="on"))
    server.run(sockets=[socket.socket(fileno=descriptor)])


if __name__ == "__main__":
    serve(int(sys.argv[1]))
