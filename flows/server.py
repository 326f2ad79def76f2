"""A Prefect server for one run: ours, on this machine, gone when the run ends or dies.

Prefect's ephemeral mode leaves its server behind when its parent is killed. This one holds a pipe to the parent, as
stages do. Its database lies in a home of its own under the store, held by a lock: a second run at the same time
takes the next home, so no two processes share one SQLite file. Measured: 9 s with a new home, 3 s later.
"""

from __future__ import annotations

import fcntl
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
from pathlib import Path
from typing import TextIO

from engine.errors import RetainError
from engine.fingerprint import ROOT

START_S = 120.0


@contextmanager
def private_server(root: Path) -> Iterator[str]:
    """The API's address while the block runs. Sets PREFECT_HOME; call it before Prefect is imported."""
    home, lock = _free_home(root)
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
    environment = os.environ | {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED": "false",
        "PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED": "false",
        "PREFECT_LOGGING_SERVER_LEVEL": "ERROR",
    }
    log = home / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.server", str(listener.fileno())],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            cwd=ROOT,
            env=environment,
            pass_fds=[listener.fileno()],
            process_group=0,  # Ctrl-C is not for it: the run still has to tell it how it ended
        )
    listener.close()
    try:
        _wait(process, url, log)
        os.environ |= {
            "PREFECT_HOME": str(home),
            "PREFECT_API_URL": url,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # the table is what the terminal shows
        }
        yield url
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
        lock.close()


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


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    process.kill()
    lines = log.read_text(errors="replace").strip().splitlines()
    raise RetainError(f"Prefect's server did not start: {lines[-1] if lines else 'it said nothing'}. See {log}")


def serve(descriptor: int) -> None:
    """Serves Prefect's API on an open listening socket until stdin ends."""
    import uvicorn
    from prefect.server.api.server import create_app

    def watch_parent() -> None:
        while os.read(0, 1):
            pass
        os._exit(0)

    threading.Thread(target=watch_parent, daemon=True).start()
    server = uvicorn.Server(uvicorn.Config(create_app(), log_level="error", lifespan="on"))
    server.run(sockets=[socket.socket(fileno=descriptor)])


if __name__ == "__main__":
    serve(int(sys.argv[1]))
