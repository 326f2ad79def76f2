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
from contextlib import closing, contextmanager, nullcontext, suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

import psycopg
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Connection, Dialect, Engine, create_engine, event, insert, inspect, select, text
from sqlalchemy.dialects.postgresql import psycopg as psycopg_dialect
from sqlalchemy.dialects.sqlite import pysqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnection
from sqlalchemy.pool import QueuePool

from engine.errors import RetainError
from engine.paths import why_unwritable
from serve.folder import is_in_use, use
from serve.place import file_of, make_file
from serve.statements import Statement, Transaction
from serve.tables import SCHEMA, SCHEMA_TABLE, meta
from serve.turns import InUse, Turns, Users

Synchronous = Literal["normal", "full"]

WAIT_SECONDS = 0.25  # for other writers
LONG_LOG = 1000  # pages of SQLite's write-ahead log
MIGRATION_SECONDS = 60  # for another process that migrates
MIGRATIONS = Path(__file__).with_name("migrations")
MIGRATION_LOCK = 0x52657461696E  # any number that no other program takes for a lock in the same database


class StateUnavailable(RetainError):
    """The database can't be used now, though the next moment it may. EX_IOERR."""

    exit_code = 74


def wall_clock() -> int:
    """Microseconds since 1970, UTC."""
    return time.time_ns() // 1000


class Identity(NamedTuple):
    """Of a database: the key of its digests, and when it was made, in microseconds since 1970."""

    salt: bytes
    started_at: int


class NewerSchema(RetainError):
    """A later version of this program has written the database."""


class Database:
    """The database at `url`, opened: made if there is none, and migrated if its schema is older.

    `synchronous` is for SQLite: with `full` a loss of power loses nothing that was answered, with `normal` it may lose
    the last seconds; neither loses anything when a process is killed. With `create` off nothing is made or migrated,
    under a service of another version for example. Raises RetainError for what can't be opened, StateUnavailable if it
    may be there in a moment.

    A process of a service names the `folder` that it shares with the others (serve/folder.py). Then the database is
    opened by `open`, or by whoever uses it first once it is there; no file is made, since one that is gone has to be
    brought back; and none but the one that the first of these processes has opened is used.
    """

    def __init__(
        self,
        url: str,
        synchronous: Synchronous = "normal",
        create: bool = True,
        clock: Callable[[], int] = wall_clock,
        folder: Path | None = None,
    ) -> None:
        self.path = file_of(url)
        self._connect: Callable[[], Any]
        if self.path:
            self.name, self._dialect = str(self.path), _SQLITE
            self._connect = partial(_sqlite, self.path, synchronous)
        else:
            parsed = _parsed(url)
            # Its query may hold a password as well.
            self.name, self._dialect = parsed.set(query={}).render_as_string(hide_password=True), _POSTGRESQL
            self._connect = partial(_postgresql, parsed)
        self._clock = clock
        self._folder = folder
        self._create = create
        self._users: Users | None = None
        self._turns: Turns | None = None
        self._lock = threading.Lock()
        self._connection: Any = None  # the writing one: the driver's own, see serve/statements.py
        self._engine = _engine(self._connect, self._dialect.name)
        self._inode: tuple[int, int] | None = None
        self._identity: Identity | None = None
        if folder is None:
            if self.path and create:
                make_file(self.path)
            self.open()

    @property
    def salt(self) -> bytes:
        """Raises StateUnavailable."""
        return self._known().salt

    @property
    def started_at(self) -> int:
        """When it was made, in microseconds since 1970. Raises StateUnavailable."""
        return self._known().started_at

    def open(self) -> None:
        """Raises RetainError for what can't be opened, StateUnavailable if it may be there in a moment."""
        if not self._lock.acquire(timeout=WAIT_SECONDS):
            raise StateUnavailable(f"{self.name} is being opened")
        try:
            self._identity = self._identity or self._opened()
        except BaseException:
            self.close()
            raise
        finally:
            self._lock.release()

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
        salt = self._known().salt
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
                self._count(transaction, salt)
                yield transaction
                self._connection.commit()
            except BaseException:
                self._give_up()
                raise

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that keeps no writer waiting. Raises StateUnavailable."""
        self._known()
        with self._available():
            if self.path:
                self._see_file(self.path)
            with self._engine.connect() as connection, connection.begin():
                yield connection

    def checkpoint(self) -> None:
        """Copies SQLite's write-ahead log into the database while others write; once the log is long, they wait for the
        rest of it, so that it begins anew. Raises StateUnavailable."""
        if not self.path:
            return
        self._known()
        with self._available(), closing(self._connect()) as connection:
            _, pages, _ = connection.execute(_CHECKPOINT).fetchone()
            if pages > LONG_LOG:
                with self._alone():
                    connection.execute(_CHECKPOINT)

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

    def _count(self, transaction: Transaction, salt: bytes) -> None:
        """Reads the transaction's version; in PostgreSQL it waits for its turn by that."""
        rows = transaction.select(_VERSION if self.path else _VERSION_LOCKED)
        if not rows or rows[0][1] != salt:  # restored from elsewhere, or emptied, while this process was running
            raise self._is_another()
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
            if _is_at_fault(cause):
                raise
            raise StateUnavailable(f"{self.name} can't be used now: {' '.join(str(cause).split())}") from None
        except InUse:
            raise StateUnavailable(f"{self.name} can't be used now: others have written for too long") from None

    # -- schema ----------------------------------------------------------------------------------------------------

    def _known(self) -> Identity:
        """What is known of it since it was opened, which is tried now if it wasn't. Raises StateUnavailable."""
        if self._identity is None:
            try:
                self.open()
            except NewerSchema as error:  # than that of the program that was started before it was there
                raise StateUnavailable(str(error)) from None
        assert self._identity is not None
        return self._identity

    def _opened(self) -> Identity:
        """Once its schema is this program's."""
        with self._available():
            if self.path:
                self._take_locks(self.path)
                status = os.stat(self.path)
                self._inode = (status.st_dev, status.st_ino)
            identity = self._current()
            if identity is None:
                with self._turns.mine(MIGRATION_SECONDS) if self._turns else nullcontext():
                    identity = self._migrated()
        if self._folder and not use(self._folder, sha256(identity.salt).hexdigest()):
            raise self._is_another()
        return identity

    def _take_locks(self, path: Path) -> None:
        """Those of turns.py, until it is closed."""
        if not os.path.exists(path):
            if self._folder is None:
                raise RetainError(f"DATABASE_URL: there is no database {path}")
            raise StateUnavailable(f"{path} is gone: restore it from a backup")
        try:
            self._users = Users(path)
            self._turns = Turns(path)
        except InUse:
            raise StateUnavailable(f"{path} is being restored") from None
        except OSError as error:
            raise StateUnavailable(f"{path.parent} {why_unwritable(error)}") from None

    def _is_another(self) -> StateUnavailable:
        return StateUnavailable(f"{self.name} is another database than at the start: start again")

    def _current(self) -> Identity | None:
        """None for a database that has to be migrated, or made."""
        with self._engine.connect() as connection, connection.begin():
            if self.path and connection.exec_driver_sql("PRAGMA journal_mode").scalar() != "wal":
                return None
            return self._read(connection) if self._schema(connection) == SCHEMA else None

    def _read(self, connection: Connection) -> Identity | None:
        row = connection.execute(_META).one_or_none()
        return None if row is None else Identity(row.salt, row.started_at)

    def _migrated(self) -> Identity:
        if self.path:
            with self._engine.connect() as connection:  # outside of a transaction
                connection.connection.execute("PRAGMA journal_mode=WAL")
        with self._engine.connect().execution_options(writes=True) as connection, connection.begin():
            if not self.path:
                connection.execute(text(f"SET LOCAL lock_timeout = '{MIGRATION_SECONDS}s'"))
                connection.execute(text(f"SET LOCAL statement_timeout = '{10 * MIGRATION_SECONDS}s'"))
                connection.execute(text(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"))
            if (schema := self._schema(connection)) != SCHEMA:
                if schema is None and self._folder and is_in_use(self._folder):
                    raise self._is_another()  # an empty one
                self._migrate(connection, schema)
            identity = self._read(connection)
            if identity is None:
                identity = Identity(secrets.token_bytes(32), self._clock())
                connection.execute(insert(meta).values(id=1, version=0, **identity._asdict()))
            return identity

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
            raise NewerSchema(
                f"{self.name}: its schema {schema} is newer than this program's, {SCHEMA}: start the program that "
                "wrote it, or restore a backup from before"
            )
        if not self._create:
            problem = f"its schema {schema} is older than this program's, {SCHEMA}" if schema else "it holds no records"
            raise RetainError(f"{self.name}: {problem}; the service changes that at its start, a command doesn't")
        command.upgrade(config, SCHEMA)


_META = select(meta.c.salt, meta.c.started_at)
_VERSION = Statement(select(meta.c.version, meta.c.salt))
_VERSION_LOCKED = Statement(select(meta.c.version, meta.c.salt).with_for_update())

_CHECKPOINT = "PRAGMA wal_checkpoint(PASSIVE)"
_SQLITE: Dialect = pysqlite.dialect()
_POSTGRESQL: Dialect = psycopg_dialect.dialect(paramstyle="format")  # type: ignore[no-untyped-call]

_ERRORS = (sqlite3.Error, psycopg.Error)
_BAD_VALUES = (sqlite3.DataError, sqlite3.IntegrityError, psycopg.DataError, psycopg.IntegrityError)
_MISUSE = (sqlite3.ProgrammingError, psycopg.ProgrammingError)


def _is_at_fault(error: BaseException | None) -> bool:
    """Whether something is wrong with what was to be written, and nothing with the database."""
    # PostgreSQL reports a table that is missing, or a right, as misuse as well. Then it states a code.
    return isinstance(error, _BAD_VALUES) or (isinstance(error, _MISUSE) and not getattr(error, "sqlstate", None))


def _parsed(url: str) -> URL:
    """Of PostgreSQL. Raises RetainError."""
    try:
        parsed = make_url(url.replace("postgres://", "postgresql://", 1))
        if parsed.drivername in ("postgresql", "postgresql+psycopg"):
            conninfo_to_dict(parsed.set(drivername="postgresql").render_as_string(hide_password=False))
            return parsed.set(drivername="postgresql+psycopg")
    except (ArgumentError, ValueError, psycopg.ProgrammingError):
        pass
    # It may hold a password: not repeated.
    raise RetainError("DATABASE_URL: wants sqlite:////folder/file.db or postgresql://user:password@host/database")


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
    try:
        for pragma in (
            "page_size=8192",  # of a new file: three records of 2 kB fit, of 4096 bytes only one; a third less in all
            f"synchronous={synchronous}",
            "foreign_keys=on",
            # Pages: 64 MB. The admin process looks after it before that; a transaction that has to takes 20 ms for each
            # 2,000 pages, and more than a hundredth of the requests waited for one.
            "wal_autocheckpoint=8000",
            "journal_size_limit=67108864",  # what a long reader made of the write-ahead log isn't kept
            "cache_size=-16000",  # kB
        ):
            connection.execute(f"PRAGMA {pragma}")
    except sqlite3.Error:
        connection.close()
        raise
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
