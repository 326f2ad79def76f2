"""A database that isn't there when the service begins, or when one of its processes begins again."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path

import psycopg
import pytest
from sqlalchemy.engine import make_url

from engine.errors import RetainError
from retain.release import Release
from serve import worker
from serve import writer as writers
from serve.admin import create_admin
from serve.app import create_app
from serve.database import Database, StateUnavailable
from serve.metrics import Metrics
from serve.oversight import oversight_of
from serve.place import file_of, make_file
from serve.settings import read
from serve.tables import SCHEMA_TABLE
from tests.releases import rows
from tests.serve.client import Client
from tests.serve.databases import Server
from tests.serve.memory import Memory
from tests.serve.services import counted, get, serve, until
from tests.serve.test_supervisor import ask, body

HOST = {"host": "localhost"}


@contextmanager
def down(url: str, request: pytest.FixtureRequest) -> Iterator[None]:
    """SQLite's file isn't there; PostgreSQL lets nobody in."""
    path = file_of(url)
    if path is not None:
        if path.exists():
            path.rename(path.with_suffix(".aside"))
        yield
        make_file(path)
        with suppress(FileNotFoundError):
            path.with_suffix(".aside").rename(path)
        return
    server: Server = request.getfixturevalue("server")
    name = make_url(url).database
    with server.admin() as admin:
        admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        yield
        admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')


def empty(url: str) -> None:
    """Takes everything out of it."""
    if path := file_of(url):
        for name in ("", "-wal", "-shm"):
            Path(f"{path}{name}").unlink(missing_ok=True)
        make_file(path)
        return
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")


def tables(url: str) -> int:
    if path := file_of(url):
        with closing(sqlite3.connect(path)) as file:
            return int(file.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone()
        assert row is not None
        return int(row[0])


def test_a_service_begins_without_its_database_and_goes_on_once_it_is_there(
    url: str,
    request: pytest.FixtureRequest,
    artifact: Path,
    tmp_path: Path,
    release: Release,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(writers, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(worker, "learned_arm", lambda *_: None)
    settings = read({"RELEASE_PATH": str(artifact), "DATABASE_URL": url, "RETAIN_HOLD_OUT_PERCENT": "0"})
    customer = {"customer": rows(release.spec, 1, seed=4)[0]}
    with down(url, request):
        service = worker.service_of(settings, partial(worker.state_of, folder=tmp_path))
        api = Client(create_app(service))
        oversight = oversight_of(settings, tmp_path)
        admin = Client(create_admin(Metrics(), tmp_path, None, oversight))
        for _ in range(2):
            answer = api.post(customer)
            assert (answer.status_code, answer.json()["why"]) == (200, "state_unavailable")
            assert answer.json()["decision_id"] is None
        assert api.post({"customer": "7590"}, "/suppress").status_code == 503
        said = api.get("/readyz").json()
        assert (said["status"], said["wallet"]) == ("ready", None)
        (why,) = [line for line in said["warnings"] if line.startswith("nobody is contacted, and nothing is put on")]
        assert ("is gone" if file_of(url) else "is not currently accepting connections") in why
        assert "retain_state_available 0.0" in admin.request("GET", "/metrics", headers=HOST).text
        assert admin.request("GET", "/shadow", headers=HOST).status_code == 503
        assert admin.request("DELETE", "/customers/7590", headers=HOST).status_code == 503
    until(lambda: api.post(customer).json()["why"] != "state_unavailable")
    assert api.post(customer).json()["decision_id"]
    assert api.get("/readyz").json()["wallet"]["open_offers"] == 1
    assert not [line for line in api.get("/readyz").json()["warnings"] if "nobody is contacted" in line]
    assert "retain_state_available 1.0" in admin.request("GET", "/metrics", headers=HOST).text
    assert admin.request("GET", "/shadow", headers=HOST).status_code == 200
    oversight.close()


def test_a_process_that_begins_again_uses_no_other_database_than_the_others(
    url: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if path := file_of(url):
        make_file(path)
    first = Database(url, folder=tmp_path)
    first.open()
    with down(url, request):
        again = Database(url, folder=tmp_path)
        with pytest.raises(StateUnavailable, match=r"is gone|is not currently accepting"):
            again.open()
        assert path is None or not path.exists()
    assert again.salt == first.salt
    for database in (first, again):
        database.close()
    empty(url)
    with pytest.raises(StateUnavailable, match="is another database than at the start"):
        Database(url, folder=tmp_path).open()
    assert tables(url) == 0
    Database(url).close()
    with pytest.raises(StateUnavailable, match="is another database than at the start"):
        Database(url, folder=tmp_path).open()
    # Another service's may.
    (tmp_path / "other").mkdir()
    other = Database(url, folder=tmp_path / "other")
    other.open()
    other.close()


def test_a_newer_schema_stops_a_process_that_begins_and_no_other(url: str, tmp_path: Path) -> None:
    memory = Memory(url)
    with memory.database.writing() as transaction:
        transaction._cursor.execute(f"UPDATE {SCHEMA_TABLE} SET version_num = '9999'")
    memory.close()
    database = Database(url, folder=tmp_path)
    with pytest.raises(RetainError, match="its schema 9999 is newer") as refused:
        database.open()
    assert not isinstance(refused.value, StateUnavailable)
    with pytest.raises(StateUnavailable, match="its schema 9999 is newer"), database.writing():
        pass


def test_what_can_not_be_opened_leaves_nothing_open(tmp_path: Path) -> None:
    """Not even where it is tried again for days. A backup may be put back meanwhile."""
    path = tmp_path / "serving.db"
    path.write_bytes(b"hello" * 1000)
    database = Database(f"sqlite:///{path}", folder=tmp_path)

    def descriptors() -> int:
        with pytest.raises(StateUnavailable, match="file is not a database"), database.reading():
            pass
        return len(os.listdir("/proc/self/fd"))

    before = descriptors()
    Path(f"{path}-turn").unlink()
    Path(f"{path}-turn").mkdir()
    for _ in range(3):
        with pytest.raises(StateUnavailable, match="can't be written"), database.writing():
            pass
    Path(f"{path}-turn").rmdir()
    assert descriptors() == before


def test_a_folder_that_can_not_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RetainError, match=r"^DATABASE_URL: .*/file/state can't be written \(Not a directory\)$"):
        make_file(tmp_path / "file" / "state" / "serving.db")


def test_a_database_that_is_opened_by_another_thread_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.database.WAIT_SECONDS", 0.001)
    database = Database(f"sqlite:///{tmp_path / 'serving.db'}", folder=tmp_path)
    with database._lock, pytest.raises(StateUnavailable, match="is being opened"):
        database.open()


@pytest.mark.kills
def test_processes_begin_and_begin_again_without_their_database(
    artifact: Path, store: Path, tmp_path: Path, release: Release
) -> None:
    path = tmp_path / "state" / "serving.db"
    path.parent.mkdir()
    path.write_bytes(b"hello" * 1000)
    environment = {
        "RELEASE_PATH": str(artifact),
        "RETAIN_STORE": str(store),
        "RETAIN_WORKERS": "1",
        "DATABASE_URL": f"sqlite:///{path}",
    }
    with serve(environment) as service:
        service.begun()
        assert ask(service.api, body(release)) == 200
        assert "file is not a database" in get(service.api, "/readyz")
        assert counted(service)["retain_state_available"] == 0
        path.write_bytes(b"")
        until(lambda: counted(service)["retain_state_available"] == 1)
        until(lambda: "is not a database" not in get(service.api, "/readyz"))
        path.rename(path.with_suffix(".aside"))
        (before,) = service.children("worker").values()
        before.kill()
        assert "restore it from a backup" in get(service.api, "/readyz")
        assert before not in service.children("worker").values()
        assert ask(service.api, body(release)) == 200
        assert not path.exists()
        path.with_suffix(".aside").rename(path)
        until(lambda: "restore it from a backup" not in get(service.api, "/readyz"))
        unrecorded = 'retain_decisions_total{action="no_contact",mode="baseline",why="state_unavailable"}'
        assert counted(service)[unrecorded] == 2
        assert ask(service.api, body(release)) == 200
        assert counted(service)[unrecorded] == 2
