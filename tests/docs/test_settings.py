"""docs/SETTINGS.md has the same table of the service's settings as the code."""

from __future__ import annotations

import re

from serve.settings import SETTINGS
from tests.docs.documents import read, section

# Told among the settings of runs as well, which they are for first.
ELSEWHERE = {"EXPERIMENT"}


def rows() -> dict[str, tuple[str, set[str]]]:
    """By setting: what is written under "unless set", and the processes under "read by"."""
    lines = [line.strip("| ").split(" | ") for line in section(read("docs/SETTINGS.md"), "Serving").splitlines()]
    return {
        name: (cells[0], set(re.findall(r"[a-z]+", cells[1])))
        for first, *cells in lines
        if len(cells) == 3
        for name in re.findall(r"`([A-Z_]+)`", first)
    }


def test_every_setting_has_a_row_and_every_row_a_setting() -> None:
    assert rows().keys() == {setting.name for setting in SETTINGS} - ELSEWHERE
    assert all(f"| `{name}` |" in read("docs/SETTINGS.md") for name in ELSEWHERE)


def test_what_counts_unless_set_is_told() -> None:
    """A default that is text stands there as it is; the public key alone is described."""
    defaults = {setting.name: setting.default for setting in SETTINGS}
    for name, (unless_set, _) in rows().items():
        default = defaults[name]
        if name == "ASSIGNMENT_KEY":
            assert unless_set == "a public value"
        elif default is None:
            assert not unless_set.startswith("`")
        else:
            assert unless_set == f"`{default}`"


def test_which_process_reads_it_is_told() -> None:
    told = {name: processes for name, (_, processes) in rows().items()}
    assert told == {setting.name: set(setting.read_by) for setting in SETTINGS if setting.name not in ELSEWHERE}
