"""What an operator does with the database: `python -m serve backup|restore|forget|prune|export`.

All but `restore` may run beside the service. Which database is DATABASE_URL's.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import closing
from hashlib import blake2b
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import Row, bindparam, delete, func, select, tuple_

from engine.errors import RetainError
from serve.backup import backup, restore
from serve.batch import COLUMNS, KEY_KEPT, digest_of
from serve.database import Database, wall_clock
from serve.history import Kept
from serve.operations import Record
from serve.periods import Periods
from serve.place import database_url
from serve.settings import SETTINGS
from serve.shown import shown
from serve.statements import Statement
from serve.tables import decision, outcome, request_key

AT_ONCE = 500  # rows in one transaction: others wait for a few milliseconds
DAY = 86_400_000_000  # microseconds

_HERS = decision.c.customer == bindparam("customer")
_WAITING = Statement(select(*COLUMNS).where(_HERS, decision.c.open_until.is_not(None)))
_FORGET = Statement(delete(decision).where(_HERS))
_TIME: Any = bindparam("time")
_MOST: Any = bindparam("most")
_OLD_KEYS = Statement(select(request_key.c.key).where(request_key.c.at < _TIME).limit(_MOST))
_REMOVE_KEYS = Statement(delete(request_key).where(request_key.c.key == bindparam("of")))
# An offer has to be settled first: the wallet holds for it.
_OLD = Statement(select(decision.c.id).where(decision.c.at < _TIME, decision.c.open_until.is_(None)).limit(_MOST))
_REMOVE = Statement(delete(decision).where(decision.c.id == bindparam("of")))


def forget(database: Database, customer: str) -> int:
    """Deletes a customer's decisions, with their outcomes and keys. How many they were.

    An opt-out stays, as a digest of the id, and so does what the wallet has committed. What is held for an offer that
    is still open is free again. Raises StateUnavailable.
    """
    hers = {"customer": digest_of(customer, database.salt)}
    with database.writing() as transaction:
        waiting = [Kept(*row) for row in transaction.select(_WAITING, **hers)]
        periods = Periods(database.started_at)
        periods.refresh(transaction)
        periods.settle(waiting, False)
        periods.write(transaction)
        return transaction.write(_FORGET, [hers])


def prune(database: Database, days: int, now: int) -> int:
    """Deletes the decisions that are older than `days`, with their outcomes, and the keys that count no more.

    How many decisions. `now` in microseconds since 1970. Raises StateUnavailable.
    """
    _delete_older(database, _OLD_KEYS, _REMOVE_KEYS, now - KEY_KEPT)
    return _delete_older(database, _OLD, _REMOVE, now - days * DAY)


def _delete_older(database: Database, older: Statement, remove: Statement, time: int) -> int:
    total = 0
    while True:
        with database.writing() as transaction:
            rows = [name for (name,) in transaction.select(older, time=time, most=AT_ONCE)]
            transaction.write(remove, [{"of": name} for name in rows])
        total += len(rows)
        if len(rows) < AT_ONCE:
            return total


def exported(database: Database, key: str | None, since: int = 0) -> Iterator[bytes]:
    """Every decision on record with its outcomes, oldest first, as a line of JSON: retain.record.Record. `since`: only
    those made then or later, microseconds since 1970. Raises StateUnavailable.

    In the place of a customer stands a pseudonym by `key`: another key gives other ones. Writers aren't kept waiting;
    what is decided meanwhile may be among the lines.
    """
    columns = [column for column in decision.c if column.name not in ("given_again", "wording")]
    place = tuple_(decision.c.at, decision.c.id)
    page = select(*columns).order_by(decision.c.at, decision.c.id).limit(AT_ONCE)
    outcomes = select(outcome).order_by(outcome.c.received_at, outcome.c.kind, outcome.c.month)
    with database.reading() as connection:
        last = connection.execute(select(func.max(decision.c.at))).scalar()
    after: tuple[int, str] = (since, "")  # before any id
    while last is not None:
        with database.reading() as connection:
            rows = [_plain(row) for row in connection.execute(page.where(place > after, decision.c.at <= last))]
            ids = [row["id"] for row in rows]
            told: dict[str, list[dict[str, Any]]] = {name: [] for name in ids}
            for told_of in map(_plain, connection.execute(outcomes.where(outcome.c.decision.in_(ids)))):
                told[told_of.pop("decision")].append(told_of)
        for row in rows:
            record = Record(**row, outcomes=tuple(told[row["id"]]))
            customer = None if record.customer is None else pseudonym(record.customer, key)
            yield orjson.dumps(shown(record, customer), option=orjson.OPT_APPEND_NEWLINE)
        if len(rows) < AT_ONCE:
            return
        after = (rows[-1]["at"], rows[-1]["id"])


def _plain(row: Row[Any]) -> dict[str, Any]:
    return {str(name): value for name, value in row._mapping.items()}  # names are SQLAlchemy's kind of text


def pseudonym(customer: bytes, key: str | None) -> str:
    """What an export calls the customer, by the digest that her id is kept as."""
    return blake2b(customer, digest_size=16, key=(key or "").encode("utf-8", "surrogateescape")).hexdigest()


def add_commands(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="command", title="commands", metavar="")
    command = commands.add_parser("backup", help="copy SQLite's file, also while the service runs")
    command.add_argument("path", type=Path, help="a new file")
    command = commands.add_parser("restore", help="put a backup in the database's place, while the service doesn't run")
    command.add_argument("path", type=Path, help="what backup wrote")
    command.add_argument("--replace", action="store_true", help="also in the place of a database that holds decisions")
    command = commands.add_parser("forget", help="delete a customer's decisions; an opt-out stays")
    command.add_argument("customer", help="her id, as requests have it")
    commands.add_parser("prune", help="delete what is older than RETAIN_KEEP_DAYS")
    commands.add_parser("export", help="write all decisions with their outcomes as lines of JSON to standard output")


def run(options: argparse.Namespace) -> int:
    """Carries out the command that was asked for, and returns the exit code."""
    try:
        _carry_out(options)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whoever read has gone: nothing to say at the end either
        return 1
    except RetainError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _carry_out(options: argparse.Namespace) -> None:
    setting = {known.name: known for known in SETTINGS}
    url = database_url(setting["DATABASE_URL"].value(os.environ))
    if options.command == "restore":
        restore(url, options.path, options.replace)
        print(f"restored {options.path}")
        return
    with closing(Database(url, create=False)) as database:
        match options.command:
            case "backup":
                backup(database, options.path)
                print(f"wrote {options.path}")
            case "forget":
                print(f"deleted {forget(database, options.customer)} decisions")
            case "prune":
                days = setting["RETAIN_KEEP_DAYS"].value(os.environ)
                print(f"deleted {prune(database, days, wall_clock())} decisions older than {days} days")
            case "export":
                for line in exported(database, setting["PSEUDONYM_KEY"].value(os.environ)):
                    sys.stdout.buffer.write(line)
                sys.stdout.buffer.flush()
