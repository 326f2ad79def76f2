"""Whatever becomes of what is printed, the work goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.fingerprint import ROOT

WORK = """
import sys
from pathlib import Path
from engine.output import make_decoration
make_decoration()
done = open(sys.argv[1], "w")
for line in range(20_000):
    print("output \u2265 0.78", flush=line % 100 == 0)
    print("error \u2265 0.78", file=sys.stderr)
print(done.fileno(), file=done)
done.close()
"""


@pytest.mark.parametrize(
    "streams",
    [
        "> /dev/full 2> /dev/full",
        ">&- 2>&-",
        "<&- >&- 2> /dev/null",
        "| head -1",
        "2>&1 | head -1",
        "> /dev/null 2>&1",
    ],
)
def test_the_work_is_done_whatever_becomes_of_its_output(streams: str, tmp_path: Path) -> None:
    """And no file of the work takes the place of a closed stream, where a library's message would end up in it."""
    done = tmp_path / "done"
    command = f"{{ {sys.executable} -c '{WORK}' {done} {streams.partition('|')[0]}; echo $? > {tmp_path}/code; }}"
    subprocess.run(
        ["sh", "-c", command + (f" | {streams.partition('|')[2]}" if "|" in streams else "")],
        cwd=ROOT,
        env=os.environ | {"PYTHONIOENCODING": "ascii:strict"},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (tmp_path / "code").read_text().strip() == "0"
    assert int(done.read_text()) > 2


def test_what_a_terminal_can_not_show_is_replaced() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", "from engine.output import make_decoration\nmake_decoration()\nprint('\u2265 0.78')"],
        cwd=ROOT,
        env=os.environ | {"PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        check=True,
    )
    assert ended.stdout == b"? 0.78\n"
