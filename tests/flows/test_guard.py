"""Prefect's server of `make up` answers its own pages and clients, and no page of another site."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from engine.fingerprint import ROOT
from flows import platform

EVIL = "http://evil.example"
SERVER = yaml.safe_load(platform.COMPOSE_FILE.read_text(encoding="utf-8"))["services"]["server"]
FLOW = {"name": "chosen"}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server, started as infra/compose.yaml states, but with a database of its own and at a free port."""
    home = tmp_path_factory.mktemp("server")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    stated = SERVER["environment"]
    settings = {name: value for name, value in stated.items() if value and "DATABASE" not in name and "$" not in value}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    program, *arguments = SERVER["command"]
    assert (program, arguments[-2:]) == ("python", ["0.0.0.0", "4200"])
    process = subprocess.Popen(
        [sys.executable, *arguments[:-2], "127.0.0.1", str(port)],
        env=kept
        | settings
        | {
            "PREFECT_HOME": str(home),
            "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(home / "ui"),
            "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",
            "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{home}/prefect.db",
        },
        cwd=ROOT,
    )
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                if httpx.get(f"http://127.0.0.1:{port}/api/health", timeout=5, trust_env=False).is_success:
                    break
            except httpx.HTTPError:
                assert process.poll() is None
                assert time.monotonic() < deadline
            time.sleep(0.2)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def post(address: str, **headers: str) -> httpx.Response:
    """What makes a flow, and a deployment in the same way."""
    return httpx.post(f"http://{address}/api/flows/", json=FLOW, headers=headers, timeout=30, trust_env=False)


def count(address: str) -> int:
    answer = httpx.post(f"http://{address}/api/flows/count", json={}, timeout=30, trust_env=False)
    return int(answer.json())


def test_a_page_of_another_site_is_refused(address: str) -> None:
    asked = {"Origin": EVIL, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    before = httpx.options(f"http://{address}/api/deployments/", headers=asked, trust_env=False)
    assert before.status_code == 403
    assert "access-control-allow-origin" not in before.headers
    # What a browser sends without asking before: text, and a form.
    for kind in ("text/plain", "application/x-www-form-urlencoded", "application/json"):
        for origin in (EVIL, "null", "http://127.0.0.1:1", f"http://{address}.evil.example"):
            assert post(address, **{"Origin": origin, "Content-Type": kind}).status_code == 403
    assert count(address) == 0


def test_a_name_that_leads_here_is_refused(address: str) -> None:
    for host in ("evil.example", "evil.example:4200", "127.0.0.1.evil.example"):
        assert post(address, Host=host, Origin=f"http://{host}").status_code == 400
    assert count(address) == 0


def test_web_sockets_are_refused_likewise(address: str) -> None:
    with pytest.raises(InvalidStatus, match="403"):
        connect(f"ws://{address}/api/events/out", origin=EVIL, subprotocols=["prefect"], proxy=None)  # type: ignore[arg-type,list-item]
    connect(f"ws://{address}/api/events/out", subprotocols=["prefect"], proxy=None).close()  # type: ignore[list-item]


def test_its_own_pages_and_clients_are_answered(address: str) -> None:
    _, _, port = address.partition(":")
    for host in (address, f"localhost:{port}", "server:4200"):
        assert httpx.get(f"http://{address}/api/health", headers={"Host": host}, trust_env=False).is_success
        assert post(address, Host=host, Origin=f"http://{host}").is_success
    page = httpx.get(f"http://{address}/", trust_env=False)
    assert page.is_success
    assert "<html" in page.text
    said = subprocess.run(
        [sys.executable, "-m", "prefect", "flow", "ls"],
        env=os.environ | {"PREFECT_API_URL": f"http://{address}/api", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert FLOW["name"] in said.stdout


def test_the_service_is_asked_by_a_name_that_it_answers() -> None:
    assert "Host: localhost" in SERVER["healthcheck"]["test"][-1]
    assert Path(ROOT, *SERVER["command"][2].split(".")).with_suffix(".py").exists()
