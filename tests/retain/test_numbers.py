"""Numbers and their words, both ways."""

from __future__ import annotations

import pytest

from retain.numbers import in_words, number, numbers_in


@pytest.mark.parametrize("value", range(100))
def test_a_number_has_words_that_are_read_back(value: int) -> None:
    assert number(in_words(value)) == number(in_words(value).replace("-", " ").upper()) == value
    assert number(f" {value} ") == value


def test_words_are_those_of_english() -> None:
    assert [in_words(value) for value in (0, 7, 12, 19, 20, 41, 99)] == [
        "zero", "seven", "twelve", "nineteen", "twenty", "forty-one", "ninety-nine",
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["", "ten percent", "1000", "1.5", "-1", "tenth", "ten ten", "twenty-eleven", "a"])
def test_anything_else_is_no_number(text: str) -> None:
    assert number(text) is None


def test_a_hundred_is_the_largest_number_in_words() -> None:
    assert number("hundred") == 100
    assert number("a hundred") is None


def test_numbers_of_a_text_are_those_in_digits_and_then_those_in_words_but_one() -> None:
    assert numbers_in("One of 3 lines, twenty-five at 79.95, and don't call ten.") == [
        "3",
        "79.95,",
        "twenty-five",
        "ten",
    ]
