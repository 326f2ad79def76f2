"""Text of users is printed as it stands."""

from __future__ import annotations

import pytest
from rich.table import Table

from eval.console import make_console

AS_IT_STANDS = r"stores/a[/b]/[red]x/:key:/\[c]"


def test_brackets_and_colons_are_no_styles(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(title=f"of {AS_IT_STANDS}", caption=AS_IT_STANDS, show_footer=True)
    table.add_column(AS_IT_STANDS, AS_IT_STANDS)
    table.add_row(AS_IT_STANDS)
    console = make_console()
    console.print(table)
    console.print(f"experiment local, store {AS_IT_STANDS}")
    assert capsys.readouterr().out.count(AS_IT_STANDS) == 6
