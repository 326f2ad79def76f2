"""`campaigns`: the table of calls whose acceptance is predicted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.data import table

if TYPE_CHECKING:
    from engine.stage import Metrics, Workspace
    from tasks.config import TableConfig


def run(config: TableConfig, inputs: Mapping[str, Path], workspace: Workspace) -> Metrics:
    """Writes data.parquet, schema.json and catalog.json; DataError names every cell that is not as described."""
    return table.run(config, inputs, workspace)
