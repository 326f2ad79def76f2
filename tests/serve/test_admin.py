"""The admin port's application, without a network, and its port."""

from __future__ import annotations

import asyncio
import re
import struct
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from serve.admin import TRIES, create_admin
from serve.database import Database
from serve.folder import write_processes
from serve.metrics import Metrics
from serve.oversight import Oversight
from serve.periods import Standing
from serve.worth import TrialGauges
from tests.serve.client import Client
from tests.serve.services import Served, get, serve

TOKEN = "0123456789abcdef"


class Unseen(TrialGauges):
    async def keep_looking(self) -> None: ...


class Overseen(Oversight):
    """No database: the wallet that is given, and nothing else."""

    def __init__(self, standing: Standing | None = None) -> None:
        self.currency = "EUR"
        self._standing = standing
        self.worth = Unseen(cast(Database, None), lambda: None)

    def wallet(self) -> Standing | None:
        return self._standing

    async def prune_daily(self) -> None: ...

    async def checkpoint_often(self) -> None: ...


def admin(folder: Path, token: str | None = None, oversight: Oversight | None = None) -> Client:
    return Client(create_admin(Metrics(), folder, token, oversight or Overseen()))


def ask(client: Client, path: str, **headers: str) -> int:
    return client.request("GET", path, headers={"host": "localhost:8001"} | headers).status_code


def test_with_a_token_everything_but_health_wants_it(tmp_path: Path) -> None:
    client = admin(tmp_path, TOKEN)
    assert ask(client, "/healthz") == 200
    for path in ("/metrics", "/nowhere"):
        assert ask(client, path) == 401
        assert ask(client, path, authorization=f"Bearer {TOKEN}x") == 401
    assert ask(client, "/metrics", authorization=f"Bearer {TOKEN}") == 200
    assert ask(client, "/metrics", authorization=f"Bearer {TOKEN}", host="retain.example") == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8001", 200),
        ("127.0.0.1:8001", 200),
        ("[::1]:8001", 200),
        ("[::1]", 200),
        ("evil.example", 403),
        ("evil.example:8001", 403),
        ("localhost.evil.example", 403),
        ("", 403),
    ],
)
def test_without_a_token_a_page_of_another_site_is_refused(tmp_path: Path, host: str, status: int) -> None:
    assert ask(admin(tmp_path), "/metrics", host=host) == status


def test_there_is_no_page_of_its_api(tmp_path: Path) -> None:
    for path in ("/docs", "/redoc", "/openapi.json"):
        assert ask(admin(tmp_path), path) == 404


def test_how_the_processes_are_is_shown(tmp_path: Path) -> None:
    client = admin(tmp_path)
    assert "retain_workers" not in client.request("GET", "/metrics", headers={"host": "localhost"}).text
    write_processes(tmp_path, {"wanted": 2, "ready": 1, "ended": {"died": 3, "hung": 0}})
    lines = client.request("GET", "/metrics", headers={"host": "localhost"}).text.splitlines()
    for line in ("retain_workers 2.0", "retain_workers_ready 1.0", 'retain_processes_ended_total{why="died"} 3.0'):
        assert line in lines


def test_the_wallet_is_shown_while_the_database_answers(tmp_path: Path) -> None:
    standing = Standing(0, 1, 0.5, 1_000.0, 10.0, 20.0, 15.0, 970.0, 3, "expected")
    lines = (
        admin(tmp_path, oversight=Overseen(standing))
        .request("GET", "/metrics", headers={"host": "localhost"})
        .text.splitlines()
    )
    for line in ("retain_state_available 1.0", "retain_wallet_budget 1000.0", "retain_wallet_held 20.0"):
        assert line in lines
    text = admin(tmp_path, oversight=Overseen(None)).request("GET", "/metrics", headers={"host": "localhost"}).text
    assert "retain_state_available 0.0" in text
    assert "retain_wallet" not in text


@pytest.mark.parametrize("content", [b"", struct.pack("i4xi", 100, 5_000)])
@pytest.mark.parametrize(("tries", "status"), [(1, 200), (TRIES - 1, 200), (TRIES, 500)])
def test_a_file_that_is_only_just_being_made_is_read_again(
    tmp_path: Path, content: bytes, tries: int, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "counter_worker-0.db"
    file.write_bytes(content)
    waits = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == tries:
            file.unlink()

    monkeypatch.setattr(asyncio, "sleep", sleep)
    assert ask(admin(tmp_path), "/metrics") == status
    assert len(waits) == min(tries, TRIES - 1)


@pytest.fixture(scope="module")
def guarded(artifact: Path, store: Path) -> Iterator[Served]:
    environment = {"RELEASE_PATH": str(artifact), "RETAIN_STORE": str(store), "RETAIN_WORKERS": "1"}
    secrets = {"RETAIN_ADMIN_TOKEN": TOKEN, "RETAIN_API_KEYS": f"shop:{TOKEN[::-1]}"}
    hosts = {"RETAIN_HOST": "0.0.0.0", "RETAIN_ADMIN_HOST": "0.0.0.0"}
    with serve(environment | secrets | hosts) as process:
        yield process.begun()


def test_the_ports_are_bound_for_others_once_there_are_secrets(guarded: Served) -> None:
    for address, path in ((guarded.admin, "/metrics"), (guarded.api, "/retain")):
        with pytest.raises(urllib.error.HTTPError) as error:
            get(address, path)
        with error.value:  # the answer
            assert error.value.code == 401
    assert "retain_requests_total" in get(guarded.admin, "/metrics", Authorization=f"Bearer {TOKEN}")
    assert TOKEN not in guarded.line
    assert TOKEN not in get(guarded.api, "/readyz")


@pytest.mark.parametrize("lacking", ["RETAIN_API_KEYS", "RETAIN_ADMIN_TOKEN"])
def test_another_address_without_its_secret_is_one_line(artifact: Path, lacking: str) -> None:
    secrets = {"RETAIN_ADMIN_TOKEN": TOKEN, "RETAIN_API_KEYS": f"shop:{TOKEN}"} | {lacking: ""}
    hosts = {"RETAIN_HOST": "0.0.0.0", "RETAIN_ADMIN_HOST": "0.0.0.0"}
    process = serve({"RELEASE_PATH": str(artifact), **secrets, **hosts})
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (2, "")
    assert re.fullmatch(rf"RETAIN_(ADMIN_)?HOST=0\.0\.0\.0: .* so {lacking} has to be set; .*\n", err)
