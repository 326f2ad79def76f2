"""What stages read of the artifacts of others: one reader, whose errors name the file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from engine.errors import DataError


def table(path: Path, columns: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Its rows; of these columns alone, where some are named. Raises DataError if it can't be read or lacks one."""
    name = f"{path.parent.name}/{path.name}"
    try:
        with pq.ParquetFile(path) as found:
            if lacking := [column for column in columns if column not in found.schema_arrow.names]:
                raise DataError(f"{name}: has no column {lacking[0]}; run that stage again")
            rows: list[dict[str, Any]] = found.read(list(columns) or None).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{name}: can't be read ({error}); run that stage again") from None
    return rows


def about(prompts: Path) -> dict[str, Any]:
    """about.json of `prompts`: months (an int), offers, ... Raises DataError without months, too."""
    try:
        found: dict[str, Any] = json.loads((prompts / "about.json").read_bytes())
        found["months"] = int(found["months"])
        return found
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{prompts.name}/about.json: can't be read ({error!r}); run that stage again") from None
