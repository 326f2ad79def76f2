"""What long tests counted, as they write it into docs/RELIABILITY.md."""

from __future__ import annotations

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
