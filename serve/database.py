"""The service's database: a file of SQLite, or PostgreSQL. Opening, schema, and transactions that nobody shares.

Every transaction that writes takes one lock first: SQLite's own of the file, in PostgreSQL that of the one row of
`meta`. So writers of any number of processes and machines come one after the other, and what one of them has read stays
true until it commits. Nothing here waits for long: a lock for WAIT_SECONDS, a server for two seconds.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import psycopg
from sqlalchemy import Connection, Dialect, Engine, create_engine, event, insert, inspect, select, text
from sqlalchemy.dialects.postgresql import psycopg as psycopg_dialect
from sqlalchemy.dialects.sqlite import pysqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnection
from sqlalchemy.pool import QueuePool

from engine.artifact import MANIFEST
from engine.errors import RetainError
from engine.paths import why_unwritable
from engine.store import store_url
from serve.statements import Statement, Transaction
from serve.tables import SCHEMA, SCHEMA_TABLE, meta
from serve.turns import InUse, Turns, Users

Synchronous = Literal["normal", "full"]

WAIT_SECONDS = 0.25  # for other writers
MIGRATION_SECONDS = 60  # for another process that migrates
FILE_NAME = "serving.db"
MIGRATIONS = Path(__file__).with_name("migrations")
MIGRATION_LOCK = 0x52657461696E  # any number that no other program takes for a lock in the same database


class StateUnavailable(RetainError):
    """The database can't be used now, though the next moment it may. EX_IOERR."""

    exit_code = 74


def database_url(given: str | None) -> str:
    """What DATABASE_URL says, or a file beside the artifacts of the store. Raises RetainError."""
    if given:
        return given
    store = store_url()
    if "://" in store:
        raise RetainError("DATABASE_URL: wants a database's address, since the store is no folder to put a file beside")
    return f"sqlite:///{Path(store).resolve() / 'serving' / FILE_NAME}"


def wall_clock() -> int:
    """Microseconds since 1970, UTC."""
    return time.time_ns() // 1000


class Database:
    """Opens the database at `url`, makes it if there is none, and migrates it if its schema is older.

    `synchronous` is for SQLite: with `full` a loss of power loses nothing that was answered, with `normal` it may lose
    the last seconds; neither loses anything when a process is killed. With `create` off a file that isn't there isn't
    made. Raises RetainError for what can't be opened, StateUnavailable if it may be there in a moment.
    """

    def __init__(
        self,
        url: str,
        synchronous: Synchronous = "normal",
        create: bool = True,
        clock: Callable[[], int] = wall_clock,
    ) -> None:
        parsed = _parsed(url)
        self.path = file_of(url)
        self.name = str(self.path) if self.path else parsed.render_as_string(hide_password=True)
        self._users: Users | None = None
        self._turns: Turns | None = None
        if self.path:
            if create:
                _make(self.path)
            elif not self.path.exists():
                raise RetainError(f"DATABASE_URL: there is no database {self.path}")
            try:
                self._users, self._turns = Users(self.path), Turns(self.path)
            except InUse:
                raise RetainError(f"{self.path} is being restored: start again when that is done") from None
            except OSError as error:
                raise RetainError(f"DATABASE_URL: {self.path.parent} {why_unwritable(error)}") from None
        self._lock = threading.Lock()
        self._connection: Any = None  # the writing one: the driver's own, see serve/statements.py
        self._connect: Callable[[], Any]
        self._connect = partial(_sqlite, self.path, synchronous) if self.path else partial(_postgresql, parsed)
        self._dialect = _SQLITE if self.path else _POSTGRESQL
        self._engine = _engine(self._connect, self._dialect.name)
        self._inode: tuple[int, int] | None = None
        try:
            self.salt, self.started_at = self._opened(clock)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """May be called again."""
        self._close_connections()
        for lock in (self._users, self._turns):
            if lock:
                lock.close()
        self._users = self._turns = None

    @contextmanager
    def writing(self) -> Iterator[Transaction]:
        """A transaction that no other writer shares. Committed at the end unless something is raised.

        Raises StateUnavailable.
        """
        with self._available(), self._alone():
            if self.path:
                self._see_file(self.path)
            if self._connection is None:
                self._connection = self._connect()
            try:
                cursor = self._connection.cursor()
                transaction = Transaction(cursor, self._dialect)
                if self.path:
                    cursor.execute("BEGIN IMMEDIATE")
                self._count(transaction)
                yield transaction
                self._connection.commit()
            except BaseException:
                self._give_up()
                raise

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that keeps no writer waiting. Raises StateUnavailable."""
        with self._available():
            if self.path:
                self._see_file(self.path)
            with self._engine.connect() as connection, connection.begin():
                yield connection

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No other thread, and in SQLite no other process, is here meanwhile. Raises InUse."""
        if not self._lock.acquire(timeout=WAIT_SECONDS):
            raise InUse
        try:
            with self._turns.mine(WAIT_SECONDS) if self._turns else nullcontext():
                yield
        finally:
            self._lock.release()

    def _count(self, transaction: Transaction) -> None:
        """Reads the transaction's version; in PostgreSQL it waits for its turn by that."""
        rows = transaction.select(_VERSION if self.path else _VERSION_LOCKED)
        if not rows or rows[0][1] != self.salt:  # restored from elsewhere, or emptied, while this process was running
            raise StateUnavailable(f"{self.name} is another database than at the start: start again")
        transaction.version = rows[0][0]

    def _give_up(self) -> None:
        """Ends a transaction that failed; the connection, too, if that is what failed."""
        try:
            self._connection.rollback()
        except _ERRORS:
            self._hang_up()

    def _close_connections(self) -> None:
        self._hang_up()
        self._engine.dispose()

    def _hang_up(self) -> None:
        if self._connection is not None:
            with suppress(*_ERRORS):
                self._connection.close()
            self._connection = None

    def _see_file(self, path: Path) -> None:
        """SQLite writes on into a file that was removed, and what it writes is lost."""
        try:
            status = os.stat(path)
        except OSError as error:
            self._close_connections()
            raise StateUnavailable(f"{path} is gone ({error.strerror}): restore it from a backup") from None
        if (status.st_dev, status.st_ino) != self._inode:
            self._close_connections()  # the next one opens the file that is there now
            self._inode = (status.st_dev, status.st_ino)

    @contextmanager
    def _available(self) -> Iterator[None]:
        try:
            yield
        except (*_ERRORS, DBAPIError, NoConnection) as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            if isinstance(cause, _AT_FAULT):
                raise
            raise StateUnavailable(f"{self.name} can't be used now: {' '.join(str(cause).split())}") from None
        except InUse:
            raise StateUnavailable(f"{self.name} can't be used now: others have written for too long") from None

    # -- schema ----------------------------------------------------------------------------------------------------

    def _opened(self, clock: Callable[[], int]) -> tuple[bytes, int]:
        """The database's salt and its first start, once its schema is this program's."""
        with self._available():
            if self.path and self._turns:
                status = os.stat(self.path)
                self._inode = (status.st_dev, status.st_ino)
                with self._turns.mine(MIGRATION_SECONDS):
                    return self._migrated(clock)
            return self._migrated(clock)

    def _migrated(self, clock: Callable[[], int]) -> tuple[bytes, int]:
        if self.path:
            with self._engine.connect() as connection:  # outside of a transaction
                connection.connection.execute("PRAGMA journal_mode=WAL")
        with self._engine.connect() as connection, connection.begin():
            if self._schema(connection) == SCHEMA and (row := connection.execute(_META).one_or_none()):
                return row.salt, row.started_at
        with self._engine.connect().execution_options(writes=True) as connection, connection.begin():
            if not self.path:
                connection.execute(text(f"SET LOCAL lock_timeout = '{MIGRATION_SECONDS}s'"))
                connection.execute(text(f"SET LOCAL statement_timeout = '{10 * MIGRATION_SECONDS}s'"))
                connection.execute(text(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"))
            if (schema := self._schema(connection)) != SCHEMA:
                self._migrate(connection, schema)
            row = connection.execute(_META).one_or_none()
            if row is not None:
                return row.salt, row.started_at
            salt, now = secrets.token_bytes(32), clock()
            connection.execute(insert(meta).values(id=1, salt=salt, started_at=now, version=0))
            return salt, now

    def _schema(self, connection: Connection) -> str | None:
        if not inspect(connection).has_table(SCHEMA_TABLE):
            return None
        version: str | None = connection.execute(text(f"SELECT version_num FROM {SCHEMA_TABLE}")).scalar()
        return version

    def _migrate(self, connection: Connection, schema: str | None) -> None:
        # Imported here: a tenth of a second and some memory that a service with the right schema doesn't need.
        from alembic import command
        from alembic.config import Config
        from alembic.script import ScriptDirectory

        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
        known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
        if schema is not None and schema not in known:
            raise RetainError(
                f"{self.name}: its schema {schema} is newer than this program's, {SCHEMA}: start the program that "
                "wrote it, or restore a backup from before"
            )
        command.upgrade(config, SCHEMA)


_META = select(meta.c.salt, meta.c.started_at)
_VERSION = Statement(select(meta.c.version, meta.c.salt))
_VERSION_LOCKED = Statement(select(meta.c.version, meta.c.salt).with_for_update())

_SQLITE: Dialect = pysqlite.dialect()
_POSTGRESQL: Dialect = psycopg_dialect.dialect(paramstyle="format")  # type: ignore[no-untyped-call]

_ERRORS = (sqlite3.Error, psycopg.Error)
# Something is wrong with what was to be written.
_AT_FAULT = (
    *(sqlite3.DataError, sqlite3.IntegrityError, sqlite3.ProgrammingError),
    *(psycopg.DataError, psycopg.IntegrityError, psycopg.ProgrammingError),
)


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url.replace("postgres://", "postgresql://", 1))
    except (ArgumentError, ValueError):
        parsed = None
    if parsed is None or parsed.drivername not in ("sqlite", "postgresql", "postgresql+psycopg"):
        # It may hold a password: not repeated.
        raise RetainError("DATABASE_URL: wants sqlite:////folder/file.db or postgresql://user:password@host/database")
    return parsed if parsed.drivername == "sqlite" else parsed.set(drivername="postgresql+psycopg")


def file_of(address: str) -> Path | None:
    """The file of an SQLite database, None for PostgreSQL. Raises RetainError for one that can't be used."""
    url = _parsed(address)
    if url.drivername != "sqlite":
        return None
    if not url.database or url.database == ":memory:" or url.database.startswith("file:") or url.query:
        raise RetainError(
            f"DATABASE_URL={url}: wants the path of a file, such as sqlite:////var/lib/retain/{FILE_NAME}"
        )
    path = Path(url.database).expanduser().absolute()
    for folder in path.resolve().parents:
        if (folder / MANIFEST).exists():
            raise RetainError(f"DATABASE_URL: {path} lies in an artifact ({folder}), which never changes: name another")
    return path


def _make(path: Path) -> None:
    """The file, which nobody else may read, and its folder. SQLite gives the files beside it the same permissions."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        if not path.is_file():
            raise RetainError(f"DATABASE_URL: {path} is no file") from None
    except OSError as error:
        raise RetainError(f"DATABASE_URL: {path.parent} {why_unwritable(error)}") from None


def _sqlite(path: Path, synchronous: Synchronous) -> sqlite3.Connection:
    # isolation_level None: the driver begins no transaction by itself. mode=rw: it makes no file that is gone.
    connection = sqlite3.connect(
        f"file:{quote(str(path))}?mode=rw",
        uri=True,
        timeout=WAIT_SECONDS,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
    )
    for pragma in (
        "page_size=8192",  # of a new file: three records of 2 kB fit, of 4096 bytes only one; a third less in all
        f"synchronous={synchronous}",
        "foreign_keys=on",
        # Pages: 16 MB. A page that many transactions change goes into the database once.
        "wal_autocheckpoint=2000",
        "journal_size_limit=67108864",  # what a long reader made of the write-ahead log isn't kept
        "cache_size=-16000",  # kB
    ):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def _postgresql(url: URL) -> psycopg.Connection[Any]:
    return psycopg.connect(
        url.set(drivername="postgresql").render_as_string(hide_password=False),
        connect_timeout=2,
        tcp_user_timeout=2000,  # ms: a server that is cut off
        keepalives_idle=5,
        # A process that is frozen while it writes keeps the others waiting for two seconds.
        options=f"-c lock_timeout={WAIT_SECONDS * 1000:.0f} -c statement_timeout=2000 "
        "-c idle_in_transaction_session_timeout=2000 -c default_transaction_isolation=read\\ committed",
    )


def _engine(connect: Callable[[], Any], name: str) -> Engine:
    """For whatever isn't done often."""
    address = "sqlite://" if name == "sqlite" else "postgresql+psycopg://"
    engine = create_engine(address, creator=connect, poolclass=QueuePool, pool_size=1, max_overflow=4, pool_timeout=2)
    if name == "sqlite":

        @event.listens_for(engine, "begin")
        def begin(connection: Connection) -> None:
            writes = connection.get_execution_options().get("writes")
            connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine
