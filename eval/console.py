"""The console that tables and texts are printed on: as they stand.

Paths, messages and names of columns come from users and models. What they hold in brackets or between colons is
neither a style nor an emoji.
"""

from __future__ import annotations

import sys

from rich.console import Console


def make_console(width: int = 160) -> Console:
    """`width` counts where there is no terminal: lines then stay whole, since people's tools read them."""
    return Console(markup=False, emoji=False, highlight=False, width=None if sys.stdout.isatty() else width)
