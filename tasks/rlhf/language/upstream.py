"""What stages read of the artifacts of others: one reader, whose errors name the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from engine.errors import DataError
from tasks.text_tables import Table


def read(folder: Path, table: Table) -> list[dict[str, Any]]:
    """The rows of a table in the artifact `folder`. Raises DataError if it can't be read or lacks a column."""
    name = f"{folder.name}/{table.file}"
    try:
        with pq.ParquetFile(folder / table.file) as file:
            if lacking := [column for column in table.columns if column not in file.schema_arrow.names]:
                raise DataError(f"{name}: has no column {lacking[0]}; run that stage again")
            rows: list[dict[str, Any]] = file.read(list(table.columns)).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{name}: can't be read ({error}); run that stage again") from None
    return rows


def about(prompts: Path) -> dict[str, Any]:
    """about.json of `prompts`: months (an int), offers, ... Raises DataError without months, too."""
    try:
        content: dict[str, Any] = json.loads((prompts / "about.json").read_bytes())
        content["months"] = int(content["months"])
        return content
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{prompts.name}/about.json: can't be read ({error!r}); run that stage again") from None
