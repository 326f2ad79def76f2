"""A Prefect server for one run, on this machine, which ends when the run ends or dies.

Prefect's ephemeral mode leaves its server behind when its parent is killed. This server reads from a pipe to the
parent, as stages do. Its database lies in a locked folder of its own (a "home") under the store. A second run at the
same time takes the next home, so no two servers share one SQLite file. Starting takes 8 s with a new home, later 3 s.

Server and client are the run's own. Prefect reads its settings from the environment, from .env, prefect.toml and
pyproject.toml of the working directory, and from profiles in the user's home; its HTTP client reads proxies and
certificates. So while Prefect runs, its home is the working directory and the user's home as well, and the environment
is the one made here.
"""

from __future__ import annotations

import fcntl
import gc
import importlib
import itertools
import os
import re
import socket
import subprocess
import sys
import threading
import time
import traceback
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from engine.environment import taken
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


# Taken from the caller while Prefect runs: what any process needs, and what the terminal is drawn by.
TAKEN = (
    *("PATH", "LANG", "LC_*", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "RETAIN_*"),
    *("TERM", "COLORTERM", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"),
)


class PrefectFailed(RetainError):
    """Prefect's server or client ended the run."""

    exit_code = 1


class ServerGone(PrefectFailed):
    """The server ended while it was needed."""


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
        return ServerGone(
            f"Prefect's server ended ({_last_words(self.log)}); see {self.log}. The same command goes on from here"
        )


@contextmanager
def private_server(root: Path, stopping: threading.Event) -> Iterator[Server]:
    """Runs the server while the block runs, and sets Prefect's settings: call it before Prefect is imported.

    Raises PrefectFailed if it doesn't start or Prefect can't be imported; yields early, with a server that may not
    answer, once `stopping` is set.
    """
    home, lock = _free_home(root)
    listener = socket.create_server(("127.0.0.1", 0))
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    environment = _environment(home, address)
    log = home / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.server", str(listener.fileno()), str(home)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            cwd=ROOT,
            env=environment,
            # The lock's file too, so that the home stays locked until both processes have ended.
            pass_fds=[listener.fileno(), lock.fileno()],
            process_group=0,  # Ctrl-C must not end it: the run still has to report how it ended
        )
    listener.close()
    server = Server(address, process, log)
    try:
        with _alone(home, environment):
            with in_one_line(server):
                importlib.import_module("flows.train")  # takes as long as the server does: Prefect, in this environment
            _wait(server, stopping)
            yield server
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
        lock.close()


@contextmanager
def in_one_line(server: Server) -> Iterator[None]:
    """Turns whatever Prefect raises into one line that says where the traceback is."""
    try:
        yield
    except RetainError:
        raise
    except Exception as error:
        path = server.log.with_name("error.log")
        with suppress(OSError):
            path.write_text(traceback.format_exc(), encoding="utf-8", errors="replace")
        cause = next(iter(str(error).splitlines()), "")
        raise PrefectFailed(f"Prefect failed ({type(error).__name__}: {cause}); the traceback is in {path}") from None


def _environment(home: Path, address: str) -> dict[str, str]:
    """All of the environment in which Prefect's server and client run."""
    return taken(os.environ, TAKEN) | {
        "HOME": str(home),
        "NO_PROXY": "*",  # on a Mac the system's own proxies are asked for where no variable says otherwise
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


@contextmanager
def _alone(home: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """While the block runs, this process has that environment, and `home` as its working directory."""
    before = dict(os.environ)
    _replace_environment(environment)
    try:
        with chdir(home):
            yield
    finally:
        _replace_environment(before)


def _replace_environment(environment: Mapping[str, str]) -> None:
    os.environ |= environment
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]


def _free_home(root: Path) -> tuple[Path, BinaryIO]:
    for number in itertools.count():
        home = root / f"home-{number}"
        home.mkdir(parents=True, exist_ok=True)
        lock = (home / "lock").open("wb")
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
        if server.process.poll() is not None:
            raise PrefectFailed(
                f"Prefect's server did not start ({_last_words(server.log)}); see {server.log}. "
                f"If it fails again, remove {server.log.parent}, which holds nothing that a run needs"
            )
        if time.monotonic() > deadline:
            raise ServerGone(f"Prefect's server did not answer within {START_S:.0f} s; see {server.log}")
        try:
            with opener.open(f"{server.address}/api/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)


def _last_words(log: Path) -> str:
    """The last exception in the server's log, else its last line."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    exceptions = [line for line in lines if re.match(r"[\w.]+(?:Error|Exception|Warning)\b", line)]
    return next(reversed(exceptions or lines), "it said nothing")


def serve(descriptor: int, home: str) -> None:
    """Serves Prefect's API on an open listening socket until stdin ends."""
    os.chdir(home)  # before Prefect looks for its settings there
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
    serve(int(sys.argv[1]), sys.argv[2])
