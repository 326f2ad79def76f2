"""Copies of an SQLite database: made while the service runs, put back while it doesn't."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from engine.errors import RetainError
from engine.paths import why_unreadable, why_unwritable
from serve.database import Database
from serve.place import file_of
from serve.tables import SCHEMA, SCHEMA_TABLE
from serve.turns import InUse, Users


def backup(database: Database, path: Path) -> None:
    """A copy of the database as it is now, in a new file. Raises RetainError."""
    if database.path is None:
        raise RetainError(f"{database.name}: make a backup of PostgreSQL with pg_dump")
    if path.exists():
        raise RetainError(f"{path} is there already: name a new file")
    with _aside(path) as aside, database.reading() as connection, closing(sqlite3.connect(aside)) as copy:
        source: sqlite3.Connection = connection.connection.driver_connection  # type: ignore[assignment]
        source.backup(copy)
        copy.execute("PRAGMA journal_mode=DELETE")  # one file, without a log beside it


def restore(url: str, path: Path, replace: bool = False) -> None:
    """Puts a backup in the place of the database at `url`, which nobody may use meanwhile.

    One that holds decisions is replaced only if `replace` says so. Raises RetainError.
    """
    target = file_of(url)
    if target is None:
        raise RetainError("DATABASE_URL: restore PostgreSQL with pg_restore, or psql, from what pg_dump wrote")
    _check(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        users = Users(target, alone=True)
    except InUse:
        raise RetainError(f"{target} is in use: stop the service first") from None
    except OSError as error:
        raise RetainError(f"{target.parent} {why_unwritable(error)}") from None
    with closing(users):
        if _holds_decisions(target) and not replace:
            raise RetainError(f"{target} holds decisions, which would be lost: say --replace, or move it away")
        with _aside(target) as aside, _read(path) as source, closing(sqlite3.connect(aside)) as copy:
            source.backup(copy)
            copy.close()
            # Of the database that is replaced. SQLite has written them into it and removed them, unless it is damaged.
            for log in ("-wal", "-shm"):
                Path(f"{target}{log}").unlink(missing_ok=True)


@contextmanager
def _aside(path: Path) -> Iterator[Path]:
    """A new file that takes the place of `path`, whole, if nothing is raised."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        os.close(os.open(aside, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        yield aside
        _sync(aside)
        os.replace(aside, path)
        _sync(path.parent)
    except OSError as error:
        raise RetainError(f"{path.parent} {why_unwritable(error)}") from None
    except sqlite3.Error as error:
        raise RetainError(f"{path} can't be written: {error}") from None
    finally:
        aside.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


@contextmanager
def _read(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True)) as connection:
        yield connection


def _check(path: Path) -> None:
    """Raises RetainError for what is no whole backup of a schema that this program knows."""
    if not path.is_file():
        raise RetainError(f"{path}: there is no such file")
    try:
        with _read(path) as connection:
            (verdict,) = connection.execute("PRAGMA integrity_check").fetchone()
            (schema,) = connection.execute(f"SELECT version_num FROM {SCHEMA_TABLE}").fetchone()
            connection.execute("SELECT salt FROM meta").fetchone()
    except (sqlite3.Error, TypeError) as error:
        raise RetainError(f"{path} is no backup of the service's database: {error}") from None
    except OSError as error:
        raise RetainError(f"{path} {why_unreadable(error)}") from None
    if verdict != "ok":
        raise RetainError(f"{path} is damaged: {verdict}")
    if schema > SCHEMA:
        raise RetainError(f"{path}: its schema {schema} is newer than this program's, {SCHEMA}")


def _holds_decisions(path: Path) -> bool:
    """What can't be read may hold some. SQLite writes the log beside the file into it, since nobody else uses it."""
    if not path.exists() or not path.stat().st_size:
        return False
    try:
        with closing(sqlite3.connect(path)) as connection:  # not read-only: it may have a log that was not read yet
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'decision'").fetchone():
                return False
            return connection.execute("SELECT 1 FROM decision UNION SELECT 1 FROM suppression").fetchone() is not None
    except sqlite3.Error:
        return True
