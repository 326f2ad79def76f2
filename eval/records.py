"""Decision records as the service exports them, one a line of JSON, read and written as Parquet."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from engine.errors import DataError
from engine.paths import why_unreadable, why_unwritable
from retain.record import Record

ROWS = 10_000  # that are turned into a row group at a time


def lines(path: str) -> Iterator[bytes]:
    """Of the file, or of standard input for "-". Raises DataError."""
    try:
        if path == "-":
            yield from sys.stdin.buffer
        else:
            with open(path, "rb") as file:
                yield from file
    except OSError as error:
        raise DataError(f"{path}: {why_unreadable(error)}") from None


def records(of: Iterable[bytes], path: str) -> Iterator[Record]:
    """Raises DataError that names the first line which is no record."""
    for number, line in enumerate(of, 1):
        if not line.strip():
            continue
        try:
            yield Record.model_validate_json(line)
        except ValidationError as error:
            fault = error.errors()[0]
            where = ".".join(map(str, fault["loc"])) or "as a whole"
            raise DataError(
                f"{path}: line {number} is no decision record: {where}: {fault['msg']}. It wants what "
                "`python -m serve export` writes"
            ) from None


def write(rows: Iterable[Mapping[str, Any]], schema: pa.Schema, path: Path) -> int:
    """Writes rows as Parquet, beside `path` first, and returns how many. Raises DataError."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    count = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(aside, schema) as writer:
            for group in _groups(rows):
                writer.write_table(pa.Table.from_pylist(group, schema))
                count += len(group)
        with open(aside, "rb") as written:
            os.fsync(written.fileno())
        aside.replace(path)
    except OSError as error:
        raise DataError(f"{path}: {why_unwritable(error)}") from None
    finally:
        aside.unlink(missing_ok=True)
    return count


def _groups(rows: Iterable[Mapping[str, Any]]) -> Iterator[Sequence[Mapping[str, Any]]]:
    group: list[Mapping[str, Any]] = []
    for row in rows:
        group.append(row)
        if len(group) == ROWS:
            yield group
            group = []
    if group:
        yield group
