"""A real Prometheus and a real Alertmanager for tests, as deploy/ configures them, on free ports of this machine."""

from __future__ import annotations

import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from deploy import rules
from retain.monitoring import Monitoring
from tests.deploy.fakes import free_port
from tests.deploy.programs import program

READY_S = 60.0
TOKEN = "a-token-of-the-tests"


class Watching(NamedTuple):
    """Base URLs."""

    prometheus: str
    alertmanager: str


def configured(
    folder: Path,
    limits: Monitoring,
    replicas: Sequence[str],
    controller: str,
    scale: float = 60,
    page_url: str | None = None,
) -> tuple[Watching, dict[str, list[str]]]:
    """Where both will be, and the commands that start them: `prometheus` and `alertmanager`. `replicas` and
    `controller`: host:port; both expect TOKEN."""
    prometheus, alertmanager = (f"127.0.0.1:{free_port()}" for _ in range(2))
    admin, token = folder / "admin-token", folder / "controller-token"
    for path in (admin, token):
        path.write_text(TOKEN)
    places = rules.Places(replicas, controller, alertmanager, str(admin), str(token), page_url)
    rules.write(folder, limits, places, scale, print)
    return Watching(f"http://{prometheus}", f"http://{alertmanager}"), {
        "prometheus": [
            program("prometheus"),
            f"--config.file={folder / 'prometheus.yaml'}",
            f"--storage.tsdb.path={folder / 'prometheus'}",
            f"--web.listen-address={prometheus}",
            *rules.PROMETHEUS_FLAGS,
        ],
        "alertmanager": [
            program("prometheus-alertmanager", "alertmanager"),
            f"--config.file={folder / 'alertmanager.yaml'}",
            f"--storage.path={folder / 'alertmanager'}",
            f"--web.listen-address={alertmanager}",
            *rules.ALERTMANAGER_FLAGS,
        ],
    }


@contextmanager
def watching(
    folder: Path,
    limits: Monitoring,
    replicas: Sequence[str],
    controller: str,
    scale: float = 60,
    page_url: str | None = None,
) -> Iterator[Watching]:
    """Both, once they are ready; ended afterwards."""
    places, commands = configured(folder, limits, replicas, controller, scale, page_url)
    started = []
    with (folder / "watching.log").open("wb") as log:
        try:
            started.extend(subprocess.Popen(command, stdout=log, stderr=log) for command in commands.values())
            for url in places:
                wait_for(f"{url}/-/ready", started)
            yield places
        finally:
            for process in started:
                process.kill()
            for process in started:
                process.wait()


def wait_for(url: str, started: Sequence[subprocess.Popen[bytes]]) -> None:
    """Until it answers."""
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        assert all(process.poll() is None for process in started), "it ended: see watching.log"
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise AssertionError(f"{url} isn't ready after {READY_S:.0f} s")
