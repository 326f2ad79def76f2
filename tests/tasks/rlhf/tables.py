"""Tables of text, as the stages before would have written them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from engine.artifact import ArtifactWriter
from tasks.text_tables import Table

FILLED: Mapping[str, Any] = {"offer": 0}  # what is no text


def write(folder: Path, table: Table, rows: Iterable[Mapping[str, Any]]) -> None:
    """`rows` with whatever columns a test is about; of the others each is empty."""
    empty = {name: FILLED.get(name, "") for name in table.columns}
    ArtifactWriter(folder).parquet(table.file, table.of({**empty, **row} for row in rows))
