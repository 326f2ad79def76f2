"""English number words: which number a word is, and which words a number has."""

from __future__ import annotations

import re

_SMALL = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
ONES = {word: value for value, word in enumerate(_SMALL[:10])}
TEENS = {word: value for value, word in enumerate(_SMALL[10:], 10)}
TENS = dict(zip(["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"], range(20, 100, 10)))
_UNDER_TWENTY = ONES | TEENS
_TENS_WORD = {number: word for word, number in TENS.items()}
# Words as alternatives of a regular expression.
ANY_ONE, ANY_TEEN, ANY_TEN = ("|".join(words) for words in (ONES, TEENS, TENS))
# A whole number in words, zero to a hundred, in small letters: number_of() says which.
NUMBER_WORD = re.compile(
    rf"\b(?:(?P<tens>{ANY_TEN})(?:[ -]+(?P<unit>{ANY_ONE}))?|(?P<small>{ANY_TEEN}|{ANY_ONE})|(?P<many>hundred))\b"
)


def number(words: str) -> int | None:
    """The value of a whole number of at most three digits, or in English words up to a hundred; None for any other
    text."""
    low = words.lower().strip()
    if re.fullmatch(r"[0-9]{1,3}", low):
        return int(low)
    match = NUMBER_WORD.fullmatch(low)
    return None if match is None else number_of(match)


def number_of(match: re.Match[str]) -> int:
    """The number of a match of NUMBER_WORD."""
    if match["many"]:
        return 100
    if match["tens"]:
        return TENS[match["tens"]] + (ONES[match["unit"]] if match["unit"] else 0)
    return _UNDER_TWENTY[match["small"]]


def numbers_in(text: str) -> list[str]:
    """Every number of a text, in digits or in English words, but for the word "one", which mostly counts nothing."""
    low = re.sub("['’]", "", text.lower())
    words = [match[0] for match in NUMBER_WORD.finditer(low) if match[0] != "one"]
    return [match[0] for match in re.finditer(r"\d[\d.,]*", low)] + words


def in_words(number: int) -> str:
    """A whole number from 0 to 99 in English words: "seven", "forty", "twenty-five"."""
    if number < len(_SMALL):
        return _SMALL[number]
    tens, ones = divmod(number, 10)
    return _TENS_WORD[tens * 10] + (f"-{_SMALL[ones]}" if ones else "")
