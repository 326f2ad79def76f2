"""The progress lines of an attempt: JSON that terminal, Prefect and report read."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path


class Progress:
    """Writes to the file at `path`; `seconds` says how old the attempt is."""

    def __init__(self, path: Path, seconds: Callable[[], float]) -> None:
        self._lines = path.open("ab", buffering=0)
        self._seconds = seconds
        self._last: dict[str, float] = {"step": 0, "total": 0}

    def report(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        self._last = {"step": step, "total": total, **metrics}
        self._write(self._last)

    def note(self, text: str) -> None:
        """Repeats the last line with a remark for whoever looks on."""
        self._write({**self._last, "note": text})

    def _write(self, content: Mapping[str, object]) -> None:
        line = {"seconds": round(self._seconds(), 2), **content}
        with suppress(OSError):  # a full disk: what can't be shown is no failure of the stage
            self._lines.write(json.dumps(line).encode() + b"\n")
