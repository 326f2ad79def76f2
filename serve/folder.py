"""The folder in which the processes of one service share what they count; the supervisor makes it and takes it away.

A process counts into files that are named after the slot it runs in, such as worker-0, not after itself. Whoever is
started in a slot goes on with the counts of the one before, so none is lost when a process ends, and there are never
more files than slots.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from engine.errors import RetainError

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"  # by which prometheus_client is told the folder
_MEMORY = "/dev/shm"
_PROCESSES = "processes.json"
_DATABASE = "database"


def make() -> Path:
    """A new one, which nobody else may enter: in memory where that can be had, since it is written to all the time.

    Raises RetainError.
    """
    try:
        return Path(tempfile.mkdtemp(prefix="retain-", dir=_MEMORY if os.access(_MEMORY, os.W_OK | os.X_OK) else None))
    except OSError as error:
        raise RetainError(
            f"no temporary folder can be made ({error.strerror}): set TMPDIR to one that can be written to"
        ) from None


def remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def drop_gauges(folder: Path, slot: str) -> None:
    """Removes what only the living tell, of a process that has ended."""
    for file in folder.glob(f"gauge_live*_{slot}.db"):
        file.unlink()


def write_processes(folder: Path, state: Mapping[str, Any]) -> None:
    """How the processes are, from the supervisor for whoever shows it."""
    aside = folder / f"{_PROCESSES}.new"
    aside.write_text(json.dumps(state), encoding="utf-8")
    aside.replace(folder / _PROCESSES)


def read_processes(folder: Path) -> dict[str, Any] | None:
    """What was written last, or None before the first time."""
    try:
        state: dict[str, Any] = json.loads((folder / _PROCESSES).read_bytes())
    except FileNotFoundError:
        return None
    return state


def use(folder: Path, database: str) -> bool:
    """Whether the processes use that database, by whatever tells it from others: the one that the first of them
    named."""
    with suppress(FileExistsError):
        os.symlink(database, folder / _DATABASE)  # at once whole, and once
    return os.readlink(folder / _DATABASE) == database


def is_in_use(folder: Path) -> bool:
    """Whether one of the processes has named a database."""
    return os.path.lexists(folder / _DATABASE)
