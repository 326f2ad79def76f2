"""The console that tables and texts are printed on: as they stand.

Paths, messages and names of columns come from users and models. What they hold in brackets or between colons is
neither a style nor an emoji.
"""

from __future__ import annotations

import sys
from typing import IO, Any

from rich.console import Console


def make_console(width: int = 160, file: IO[str] | None = None, **more: Any) -> Console:
    """On standard output, or on a `file`. `width` counts where there is no terminal: lines then stay whole, since
    people's tools read them. `more` goes to rich as it is."""
    columns = None if file is None and sys.stdout.isatty() else width
    return Console(markup=False, emoji=False, highlight=False, width=columns, file=file, **more)
