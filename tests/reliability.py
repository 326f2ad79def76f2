"""What long tests counted, as they write it into docs/RELIABILITY.md."""

from __future__ import annotations

import fcntl
from collections.abc import Sequence
from pathlib import Path

REPORT = Path(__file__).resolve().parent.parent / "docs" / "RELIABILITY.md"
END = "<!-- /written -->"


def write_block(name: str, lines: Sequence[str]) -> None:
    """Puts the lines between the marks of that name."""
    begin = f"<!-- written by a test: {name} -->"
    before, mark, rest = REPORT.read_text(encoding="utf-8").partition(begin)
    assert mark, f"{REPORT} has no {begin}"
    after = rest.partition(END)[2]
    REPORT.write_text(f"{before}{begin}\n" + "\n".join(lines) + f"\n{END}{after}", encoding="utf-8")


def write_row(name: str, row: str) -> None:
    """Puts a row of a table between the marks of that name, in the place of the one that has the same first cell. The
    table's head has to be there. Tests of several processes may do so at the same time."""
    with REPORT.open() as locked:
        fcntl.flock(locked, fcntl.LOCK_EX)
        block = (
            REPORT.read_text(encoding="utf-8").partition(f"<!-- written by a test: {name} -->\n")[2].partition(END)[0]
        )
        first = row.split("|")[1]
        lines = block.splitlines()
        places = [number for number, line in enumerate(lines) if line.split("|")[1:2] == [first]]
        place = places[0] if places else len(lines)
        write_block(name, [*lines[:place], row, *lines[place + 1 :]])
