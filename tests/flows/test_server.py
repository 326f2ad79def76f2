"""The run's Prefect is its own: what surrounds it neither reaches it nor ends the run."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from fnmatch import fnmatchcase
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psutil
import pytest

from engine.fingerprint import ROOT
from engine.store import FolderStore
from flows import server
from flows.server import PrefectFailed, Server, in_one_line, private_server

OF_THE_CALLER = {
    "ALL_PROXY": "socks5://127.0.0.1:1080",  # httpx has no SOCKS, and says so as soon as a client is made
    "HTTP_PROXY": "http://127.0.0.1:9",
    "https_proxy": "http://127.0.0.1:9",
    "NO_PROXY": "",
    "SSL_CERT_FILE": "/nonexistent.pem",
    "PREFECT_API_KEY": "secret",
    "PREFECT_SERVER_API_AUTH_STRING": "admin:pass",
}


def test_a_run_completes_whatever_surrounds_it(tmp_path: Path) -> None:
    """Proxies, certificates, files of settings, a profile of the user, and a reader that goes away after one line."""
    home, here, store = tmp_path / "home", tmp_path / "here", tmp_path / "store"
    (home / ".prefect").mkdir(parents=True)
    here.mkdir()
    profile = 'active = "mine"\n[profiles.mine]\nPREFECT_API_REQUEST_TIMEOUT = "never"\n'
    (home / ".prefect" / "profiles.toml").write_text(profile)
    (here / ".env").write_text("PREFECT_API_REQUEST_TIMEOUT=never\n")
    (here / "prefect.toml").write_text("no TOML")
    (here / "pyproject.toml").write_text('[tool.prefect.server.api]\nauth_string = "admin:pass"\n')
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.flows.toy_command", str(store)],
        cwd=here,
        env=kept | OF_THE_CALLER | {"HOME": str(home), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("experiment toy")
    process.stdout.close()
    assert process.stderr is not None
    assert (process.stderr.read(), process.wait(timeout=120)) == ("", 0)
    process.stderr.close()
    assert len([key for key in FolderStore(store).list("chaos") if key.endswith("manifest.json")]) == 2


def test_server_and_client_have_a_home_and_an_environment_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in OF_THE_CALLER.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("HOME")
    before, folder = dict(os.environ), Path.cwd()
    stopping = threading.Event()
    stopping.set()  # this waits for no answer
    with private_server(tmp_path, stopping) as running:
        theirs = psutil.Process(running.process.pid)
        until = time.monotonic() + 30
        while theirs.cwd() != str(tmp_path / "home-0") and time.monotonic() < until:
            time.sleep(0.01)
        for environment, where in ((dict(os.environ), str(Path.cwd())), (theirs.environ(), theirs.cwd())):
            assert where == environment["HOME"] == environment["PREFECT_HOME"] == str(tmp_path / "home-0")
            listed = (*server.TAKEN, "HOME", "NO_PROXY", "PREFECT_*", "LC_CTYPE")
            assert {name for name in environment if not any(fnmatchcase(name, each) for each in listed)} == set()
            assert {"PREFECT_API_KEY", "PREFECT_SERVER_API_AUTH_STRING"}.isdisjoint(environment)
            assert environment["NO_PROXY"] == "*"
    assert (dict(os.environ), Path.cwd()) == (before, folder)


def test_a_server_that_can_not_use_its_database_is_one_line(tmp_path: Path) -> None:
    """It names the cause, and what may be removed."""
    home = tmp_path / "home-0"
    home.mkdir()
    (home / "prefect.db").write_text("no database")
    with pytest.raises(PrefectFailed, match=r"DatabaseError.* remove .*home-0,") as raised:  # noqa: SIM117
        with private_server(tmp_path, threading.Event()):
            pass
    assert "\n" not in str(raised.value)


def test_whatever_prefect_raises_is_one_line(tmp_path: Path) -> None:
    running = cast(Server, SimpleNamespace(log=tmp_path / "server.log"))
    with pytest.raises(PrefectFailed) as raised, in_one_line(running):
        raise ImportError("Using SOCKS proxy, but the 'socksio' package is not installed.\nMake sure ...")
    cause = "ImportError: Using SOCKS proxy, but the 'socksio' package is not installed."
    assert str(raised.value) == f"Prefect failed ({cause}); the traceback is in {tmp_path}/error.log"
    assert "Traceback" in (tmp_path / "error.log").read_text()


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        (
            "a\nsqlite3.DatabaseError: no database\n(Background)\n\nERROR:    Application startup failed. Exiting.\n",
            "sqlite3.DatabaseError: no database",
        ),
        ("killed\n", "killed"),
        ("", "it said nothing"),
    ],
)
def test_the_cause_is_the_last_exception_of_the_log(log: str, cause: str, tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    path.write_text(log)
    ended: Any = SimpleNamespace(poll=lambda: 1)
    assert f"({cause})" in str(Server("http://127.0.0.1", ended, path).gone())
