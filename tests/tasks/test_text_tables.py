"""Rows become exactly the columns that their table declares."""

from __future__ import annotations

import pytest

from tasks.text_tables import Table, as_columns

PAIRS = Table("pairs.parquet", ("id", "text"))


def test_rows_are_columns_in_the_table_s_order() -> None:
    assert list(PAIRS.of([{"text": "b", "id": 1}, {"id": 2, "text": "a"}]).items()) == [
        ("id", [1, 2]),
        ("text", ["b", "a"]),
    ]
    assert PAIRS.of([]) == {"id": [], "text": []}


def test_a_row_with_a_column_too_many_or_too_few_is_refused() -> None:
    with pytest.raises(KeyError, match=r"pairs\.parquet has no column flaw"):
        PAIRS.of([{"id": 1, "text": "a"}, {"id": 2, "text": "b", "flaw": ""}])
    with pytest.raises(KeyError, match="text"):
        PAIRS.of([{"id": 1}])


def test_columns_without_names_are_those_of_the_first_row() -> None:
    assert as_columns([{"a": 1, "b": 2}, {"b": 4, "a": 3}]) == {"a": [1, 3], "b": [2, 4]}
    assert as_columns([], ["a"]) == {"a": []}
