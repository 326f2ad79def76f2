"""docs/SETTINGS.md lists what a stage and the run's Prefect take from the environment, as the code does."""

from __future__ import annotations

import re

import pytest

from engine import environment
from flows import server
from tests.docs.documents import read, section

TEXT = section(read("docs/SETTINGS.md"), "What a run takes from the environment")


def rows() -> list[tuple[list[str], list[str]]]:
    """The names in the first cell of each row, and its other cells."""
    lines = [line.strip("| ").split(" | ") for line in TEXT.splitlines() if line.startswith("| `")]
    return [(re.findall(r"`([^`]+)`", first), others) for first, *others in lines]


@pytest.mark.parametrize(("column", "names"), [(0, server.TAKEN), (1, environment.TAKEN)])
def test_what_is_taken_is_in_the_table(column: int, names: tuple[str, ...]) -> None:
    taken = [name for row, cells in rows() if cells[column] == "taken" for name in row]
    assert sorted(taken) == sorted(names)


def test_what_is_set_is_in_the_table() -> None:
    rows_of_values = {name: cells[0].strip("`") for row, cells in rows() if len(cells) == 2 for name in row}
    values = environment.SET | environment.SET_FOR_LIBRARIES
    assert rows_of_values.keys() == values.keys() | {*environment.THREADS}
    sizes = {int(values.pop(name)) >> 20 for name in [*values] if name.startswith("MALLOC_")}
    assert sizes == {int(number) for number in re.findall(r"\d+", rows_of_values["MALLOC_TOP_PAD_"])}
    assert {name: rows_of_values[name] for name in values} == values
