"""Opening a database: its schema, its place, and what is said of one that can't be used."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import select

from engine.errors import RetainError
from retain.wallet import Wallet
from serve import batch, keep
from serve import database as databases
from serve.database import Database, StateUnavailable
from serve.operations import Ask, Choice, Past
from serve.place import database_url
from serve.statements import Statement
from serve.tables import SCHEMA, SCHEMA_TABLE, metadata
from tests.serve.databases import Server
from tests.serve.memory import Memory, choice, nobody


def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'state' / 'serving.db'}"


def test_migrations_make_the_tables_as_they_are_described(url: str) -> None:
    database = Database(url)
    with database.reading() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": SCHEMA_TABLE, "compare_type": True})
        assert compare_metadata(context, metadata) == []
    database.close()


def test_the_first_start_is_remembered(url: str) -> None:
    first = Database(url, clock=lambda: 5)
    second = Database(url, clock=lambda: 9)
    assert (second.started_at, second.salt) == (5, first.salt)
    assert len(first.salt) == 32
    first.close()
    second.close()


def test_many_processes_open_it_at_once(url: str) -> None:
    code = f"from serve.database import Database; print(Database({url!r}).salt.hex())"
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, encoding="utf-8")
        for _ in range(5)
    ]
    salts = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 5
    assert len(set(salts)) == 1


def test_a_newer_schema_is_refused(url: str) -> None:
    database = Database(url)
    with database.writing() as transaction:
        transaction._cursor.execute(f"UPDATE {SCHEMA_TABLE} SET version_num = '9999'")
    database.close()
    with pytest.raises(
        RetainError, match=rf"its schema 9999 is newer than this program's, {SCHEMA}: start the program"
    ):
        Database(url)


def test_an_older_schema_is_migrated_and_a_killed_migration_leaves_it(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first migration there is nothing; one that fails half-way leaves that."""
    from alembic.operations import Operations

    def fails(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Operations, "create_index", fails)
        with pytest.raises(KeyboardInterrupt):
            Database(url)
    database = Database(url)
    with database.reading() as connection:
        assert connection.exec_driver_sql(f"SELECT version_num FROM {SCHEMA_TABLE}").scalar() == SCHEMA
    database.close()


def test_an_older_schema_keeps_what_is_in_it(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if there were a second migration; without it the database is refused afterwards."""
    memory = Memory(url)
    before = memory.ask("Ann").decision_id
    memory.close()
    shutil.copytree(databases.MIGRATIONS, tmp_path / "migrations")
    (tmp_path / "migrations" / "versions" / "s0002_second.py").write_text(
        "import sqlalchemy as sa\nfrom alembic import op\n\nrevision = '0002'\ndown_revision = '0001'\n\n"
        "def upgrade() -> None:\n    op.add_column('decision', sa.Column('mood', sa.Text))\n",
        encoding="utf-8",
    )
    with monkeypatch.context() as patch:
        patch.setattr(databases, "MIGRATIONS", tmp_path / "migrations")
        patch.setattr(databases, "SCHEMA", "0002")
        with pytest.raises(
            RetainError, match=r"its schema 0001 is older than this program's, 0002; the service changes"
        ):
            Database(url, create=False)
        memory = Memory(url, clock=memory.clock)
        assert memory.ask("Ann").decision_id == before
        with memory.database.reading() as connection:
            assert connection.exec_driver_sql("SELECT mood FROM decision").all() == [(None,)]
        memory.close()
    for create in (True, False):
        with pytest.raises(RetainError, match="its schema 0002 is newer"):
            Database(url, create=create)


def test_where_nothing_is_made_an_empty_database_is_refused(server: Server, tmp_path: Path) -> None:
    (tmp_path / "serving.db").touch()
    for url in (server.create("empty"), f"sqlite:///{tmp_path / 'serving.db'}"):
        with pytest.raises(RetainError, match="it holds no records"):
            Database(url, create=False)


def test_a_service_with_the_right_schema_does_not_load_alembic(url: str) -> None:
    Database(url).close()
    code = f"import sys; from serve.database import Database; Database({url!r}); print('alembic' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8", check=True)
    assert ended.stdout == "False\n"


@pytest.mark.parametrize(
    "url",
    [
        "mysql://x/y",
        "serving.db",
        "",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///x.db?mode=ro",
        "postgresql+asyncpg://x/y",
    ],
)
def test_an_address_that_can_not_be_used_is_refused(url: str) -> None:
    with pytest.raises(RetainError, match=r"^DATABASE_URL"):
        Database(url)


def test_a_password_is_not_repeated() -> None:
    with pytest.raises(RetainError) as refused:
        Database("mysql://retain:hunter2@db/retain")
    assert "hunter2" not in str(refused.value)
    with pytest.raises(RetainError) as refused:
        Database("sqlite://retain:hunter2@/serving.db?password=hunter2")
    assert "hunter2" not in str(refused.value)
    for url in (
        "postgresql://retain:hunter2@127.0.0.1:1/retain",
        "postgresql://127.0.0.1:1/retain?user=retain&password=hunter2",
    ):
        with pytest.raises(StateUnavailable) as unavailable:
            Database(url)
        assert "hunter2" not in str(unavailable.value)
        assert "127.0.0.1:1/retain can't be used now" in str(unavailable.value)


def test_it_never_lies_in_an_artifact(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}", encoding="utf-8")
    with pytest.raises(RetainError, match="lies in an artifact"):
        Database(sqlite_url(tmp_path))
    assert not (tmp_path / "state").exists()


def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    memory = Memory(sqlite_url(tmp_path))
    memory.ask("Ann")
    folder = tmp_path / "state"
    assert folder.stat().st_mode & 0o777 == 0o700
    files = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert {"serving.db", "serving.db-wal"} <= files.keys()
    assert set(files.values()) == {0o600}
    memory.close()


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "state" / "serving.db"
    file.parent.mkdir()
    file.write_bytes(b"hello" * 1000)
    with pytest.raises(StateUnavailable, match="file is not a database"):
        Database(sqlite_url(tmp_path))
    file.unlink()
    file.mkdir()
    with pytest.raises(RetainError, match="is no file"):
        Database(sqlite_url(tmp_path))


def test_its_place_by_default_is_beside_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETAIN_STORE", str(tmp_path))
    assert database_url(None) == f"sqlite:///{tmp_path}/serving/serving.db"
    assert database_url("postgresql://x/y") == "postgresql://x/y"
    monkeypatch.setenv("RETAIN_STORE", "gs://bucket")
    with pytest.raises(RetainError, match=r"^DATABASE_URL"):
        database_url(None)


def test_every_statement_finds_its_rows_by_an_index(tmp_path: Path) -> None:
    """A scan would cost more with every day that the service runs."""
    database = Database(sqlite_url(tmp_path))
    statements = {
        name: statement
        for module in (batch, keep)
        for name, statement in vars(module).items()
        if isinstance(statement, Statement)
    }
    assert len(statements) > 15
    with database.writing() as transaction:
        for name, statement in statements.items():
            sql, names, _ = statement.text(database._dialect, 4 if "among" in str(statement._clause) else 0)
            plan = transaction._cursor.execute(f"EXPLAIN QUERY PLAN {sql}", [1] * len(names)).fetchall()
            assert not [step for *_, step in plan if step.startswith("SCAN")], name
    database.close()


# -- while it is used ----------------------------------------------------------------------------------------------


def test_a_file_that_is_gone_or_another_is_not_written_to(tmp_path: Path) -> None:
    memory = Memory(sqlite_url(tmp_path))
    file = tmp_path / "state" / "serving.db"
    before = memory.ask("Ann").decision_id
    memory.state.carry_out([])
    for name in ("", "-wal", "-shm"):
        os.rename(f"{file}{name}", f"{file}{name}.aside")
    for _ in range(2):
        with pytest.raises(StateUnavailable, match=r"is gone .*restore it from a backup"):
            memory.ask("Ben")
    sqlite3.connect(file).close()  # an empty one
    with pytest.raises(StateUnavailable):
        memory.ask("Ben")
    file.unlink()
    other = Memory(f"sqlite:///{tmp_path / 'other.db'}")
    other.close()
    os.rename(tmp_path / "other.db", file)
    with pytest.raises(StateUnavailable, match="is another database than at the start"):
        memory.ask("Ben")
    for name in ("", "-wal", "-shm"):
        os.rename(f"{file}{name}.aside", f"{file}{name}")
    assert memory.ask("Ann").decision_id == before
    memory.close()


def test_a_database_that_somebody_locked_is_not_waited_for(tmp_path: Path) -> None:
    memory = Memory(sqlite_url(tmp_path))
    with sqlite3.connect(tmp_path / "state" / "serving.db", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StateUnavailable, match="database is locked"):
            memory.ask("Ann")
        other.execute("ROLLBACK")
        other.execute("PRAGMA busy_timeout = 0")
        with memory.database.writing(), pytest.raises(sqlite3.OperationalError, match="database is locked"):
            other.execute("BEGIN IMMEDIATE")
    other.close()
    assert memory.ask("Ann", nobody).decision_id
    memory.close()


FULL = """
import resource, signal, sys
from serve.database import StateUnavailable
from serve.operations import Complete
from tests.serve.memory import Memory, nobody, balance

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
memory = Memory(sys.argv[1])
first = memory.ask("Ann", key="k").decision_id
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, resource.RLIM_INFINITY))
decided = []
try:
    for number in range(1000):
        decided.append(memory.ask(f"c{number}", key=f"k{number}").decision_id)
        memory.do(Complete(decided[-1], b'"' + b"x" * 3000 + b'"'))
    print("never full")
except StateUnavailable as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
for _ in range(3):
    try:
        memory.ask("Ben", nobody)
    except StateUnavailable:
        print("full")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert memory.ask("Ann", key="k").decision_id == first
assert memory.ask("c3", key="k3").decision_id == decided[3]
memory.state.carry_out([])
assert all(memory.find(name) for name in decided)
committed, opened = balance(memory.database)
print("offers", opened - len(decided), committed - opened)
"""


def test_a_full_disk_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", FULL, sqlite_url(tmp_path)],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    first, *others = ended.stdout.splitlines()
    assert "can't be used now: " in first
    assert others == ["full"] * 3 + ["offers 1 0.0"]


def test_a_checkpoint_brings_what_was_written_into_the_file_beside_a_writer(tmp_path: Path) -> None:
    memory = Memory(sqlite_url(tmp_path))
    file = tmp_path / "state" / "serving.db"
    asked = [memory.ask(f"customer-{number}").decision_id for number in range(20)]
    with memory.database.writing() as transaction:
        memory.database.checkpoint()
        transaction.select(Statement(select(1)))
    shutil.copy(file, tmp_path / "alone.db")
    with closing(sqlite3.connect(tmp_path / "alone.db")) as alone:
        assert {name for (name,) in alone.execute("SELECT id FROM decision")} == set(asked)
    memory.close()


def test_a_long_log_begins_anew_though_somebody_always_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint beside a writer never catches up with it."""
    monkeypatch.setattr(databases, "LONG_LOG", 100)
    memory, others = Memory(sqlite_url(tmp_path)), Memory(sqlite_url(tmp_path))
    connect = others.database._connect

    class Busy:
        """The connection of the checkpoint, during which somebody writes: it copies what was there when it began."""

        def __init__(self) -> None:
            self.connection, self.reader = connect(), connect()
            self.reader.execute("BEGIN")
            self.reader.execute("SELECT count(*) FROM decision").fetchone()
            memory.ask()

        def execute(self, statement: str) -> Any:
            done = self.connection.execute(statement)
            self.reader.close()
            return done

        def close(self) -> None:
            self.connection.close()

    monkeypatch.setattr(others.database, "_connect", Busy)
    for _ in range(20):
        for _ in range(30):
            memory.ask()
        others.database.checkpoint()
    assert (tmp_path / "state" / "serving.db-wal").stat().st_size < 400 * 8192
    memory.close()
    others.close()


def test_a_server_that_is_gone_is_not_waited_for(server: Server) -> None:
    """Its connections are cut, then it answers again."""
    memory = Memory(server.create("gone"))
    before = memory.ask("Ann").decision_id
    with server.admin() as admin:
        admin.execute("ALTER DATABASE gone ALLOW_CONNECTIONS false")
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'gone'")
        for _ in range(2):
            with pytest.raises(StateUnavailable, match="can't be used now"):
                memory.ask("Ben")
        admin.execute("ALTER DATABASE gone ALLOW_CONNECTIONS true")
    assert memory.ask("Ann").decision_id == before
    memory.close()


def test_a_row_that_somebody_locked_is_not_waited_for(server: Server) -> None:
    url = server.create("locked")
    memory = Memory(url)
    with psycopg.connect(url) as other:
        other.execute("SELECT version FROM meta FOR UPDATE")
        with pytest.raises(StateUnavailable, match="lock timeout"):
            memory.ask("Ann")
    assert memory.ask("Ann", nobody).decision_id
    memory.close()


def test_a_writer_that_hangs_is_thrown_out(server: Server) -> None:
    """It is stopped in the middle of a transaction: two seconds later others may write."""
    url = server.create("hangs")
    memory = Memory(url)
    hanging = Database(url)
    with pytest.raises(StateUnavailable), hanging.writing() as transaction:  # noqa: PT012
        with psycopg.connect(url, autocommit=True) as watching:
            (own,) = transaction._cursor.execute("SELECT pg_backend_pid()").fetchone()
            while watching.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", (own,)).fetchone():
                time.sleep(0.05)
        assert memory.ask("Ann").decision_id
        transaction._cursor.execute("SELECT 1")
    hanging.close()
    memory.close()


def test_without_one_of_its_tables_it_can_not_be_used(url: str) -> None:
    memory = Memory(url)
    before = memory.ask("Ann").decision_id
    for name, other in (("suppression", "aside"), ("aside", "suppression")):
        with memory.database.writing() as transaction:
            transaction._cursor.execute(f"ALTER TABLE {name} RENAME TO {other}")
        if name == "suppression":
            with pytest.raises(StateUnavailable, match=r"can't be used now: .*suppression"):
                memory.ask("Ann")
    assert memory.ask("Ann").decision_id == before
    memory.close()


def test_a_server_that_takes_a_right_away_can_not_be_used(server: Server) -> None:
    Database(server.create("rights")).close()
    url = server.url("rights").replace("retain@", "guest@")
    with psycopg.connect(server.url("rights"), autocommit=True) as owner:
        owner.execute("CREATE ROLE guest LOGIN")
        with pytest.raises(StateUnavailable, match="permission denied"):
            Database(url)
        owner.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO guest")
        memory = Memory(url)
        memory.ask("Ann")
        owner.execute("REVOKE INSERT ON decision FROM guest")
        with pytest.raises(StateUnavailable, match="can't be used now: permission denied for table decision"):
            memory.ask("Ben")
        owner.execute("GRANT INSERT ON decision TO guest")
    assert memory.ask("Ben").decision_id
    memory.close()


def test_what_a_database_can_not_hold_fails_alone(url: str) -> None:
    memory = Memory(url)

    def too_long(past: Past, wallet: Wallet, period_left: float, now: int) -> Choice:
        return replace(choice(None), detail=b'"\x00"', months=10**30)  # PostgreSQL holds neither, SQLite not the number

    broken, fine = memory.state.carry_out([Ask("Ann", None, b"", too_long), Ask("Ben", None, b"", nobody)])
    assert isinstance(broken, Exception)
    assert not isinstance(broken, StateUnavailable)
    assert memory.find(fine.decision_id)
    memory.close()
