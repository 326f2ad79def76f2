"""`customers`: the table whose churn is predicted.

What later stages ask of it is asked here: in seconds, all at once, and in words of the description.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from retain.dataset import DatasetSpec
from retain.needs import CHARGE, ageing_faults, price_faults
from tasks.data import table
from tasks.data.cells import number
from tasks.data.text import Text

if TYPE_CHECKING:
    from engine.stage import Metrics, Workspace
    from tasks.config import TableConfig

EXAMPLES = 3


def run(config: TableConfig, inputs: Mapping[str, Path], workspace: Workspace) -> Metrics:
    """Writes data.parquet, schema.json and catalog.json; DataError tells every cell that is not as described, and what
    `decision` and `release` would refuse."""
    return table.run(config, inputs, workspace, asked_later)


def asked_later(cells: Text, spec: DatasetSpec) -> list[str]:
    """What a simulated year (`decision`) and the price of an offer (`release`) miss in the table, a line each."""
    return [*price_faults(spec), *ageing_faults(spec), *_free(cells, spec)]


def _free(cells: Text, spec: DatasetSpec) -> list[str]:
    """Whether customers pay nothing; nobody can be offered a share of that, and revenue is what a year is judged by."""
    charge = cells.columns.get(spec.roles.get(CHARGE, ""), [])
    free = {value for value in set(charge) if number(value, spec.source.decimal) == 0}
    rows = [row for row, value in enumerate(charge) if value in free]
    if not rows:
        return []
    shown = ", ".join(f"row {cells.lines[row]}" for row in rows[:EXAMPLES])
    shown += f" and {len(rows) - EXAMPLES:,} more" if len(rows) > EXAMPLES else ""
    return [
        f"column {spec.roles[CHARGE]!r} (role {CHARGE}) is 0 in {shown}: nobody can be offered a share of nothing. "
        "Take these rows out of the file, and write `minimum: 0.01`, so that no request has such a charge"
    ]
