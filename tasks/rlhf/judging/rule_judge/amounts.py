"""Numbers that count percent, money or time, in digits and in words. The number words are the judge's own."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

_ONES = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_NUMBERS = {word: float(value) for value, word in enumerate(_ONES)}
_NUMBERS |= {word: 10.0 * value for value, word in enumerate(_TENS, start=2)}
_NUMBERS |= {"fourty": 40.0, "dozen": 12.0, "couple": 2.0}
_PARTS = {"half": 2, "halves": 2, "third": 3, "quarter": 4, "fifth": 5, "sixth": 6, "eighth": 8, "tenth": 10}
_PARTS |= {"twentieth": 20}
_PARTS |= {f"{word}s": parts for word, parts in _PARTS.items() if word not in ("half", "halves")}
_PERCENT = {"%", "percent", "pct", "percentage", "procent"}
_MONEY = {
    *("$", "€", "£", "dollar", "dollars", "euro", "euros", "pound", "pounds", "buck", "bucks", "cents"),
    *("usd", "eur", "gbp"),
}
_MONTHS = {"month": 1.0, "months": 1.0, "year": 12.0, "years": 12.0, "quarter": 3.0, "quarters": 3.0}
_DAYS = {"day": 1.0, "days": 1.0, "week": 7.0, "weeks": 7.0, "fortnight": 14.0}


@dataclass(frozen=True)
class Amount:
    """A number with what it counts; it is read from the tokens `start` to `end`, the last one not included."""

    value: float
    kind: str  # percent | money | months | days
    start: int
    end: int


def read_amounts(tokens: Sequence[str], reduction: Collection[str]) -> list[Amount]:
    """Every number that counts percent, money or time; in digits or words, with fractions as percent.

    `reduction`: words for a lower price, after which "a third" is a percentage.
    """
    amounts: list[Amount] = []
    place = 0
    waiting: list[tuple[float, int, int]] = []  # numbers of a list or range whose unit is yet to come
    while place < len(tokens):
        value, after_number = _number(tokens, place)
        if value is None:
            if waiting and tokens[place] not in ("or", "to", "and", ",", "/"):
                waiting = []
            place += 1
            continue
        kind, factor, end = _unit(tokens, place, after_number, reduction)
        if kind:
            amounts += [Amount(number * factor, kind, first, last) for number, first, last in waiting]
            amounts.append(Amount(value * factor, kind, place, end))
            waiting = []
        else:
            waiting.append((value, place, after_number))
        place = max(end, after_number)
    return sorted(amounts, key=lambda amount: amount.start)


def digits(token: str) -> float:
    """ "1,000" is a thousand, "7,5" and "7.5" seven and a half."""
    whole = re.sub(r",(?=\d{3}(?:\D|$))", "", token).replace(",", ".")
    head, *rest = whole.split(".")
    return float(f"{head}.{''.join(rest)}" if rest else head)


def _number(tokens: Sequence[str], start: int) -> tuple[float | None, int]:
    """The number that begins at a token, and where it ends; a fraction is its share of 100, marked by _unit."""
    token = tokens[start]
    if token[0].isdigit():
        if tokens[start + 1 : start + 2] == ["/"] and start + 2 < len(tokens) and tokens[start + 2].isdigit():
            return digits(token) / max(digits(tokens[start + 2]), 1.0), start + 3
        return digits(token), start + 1
    if token in _PARTS and token.startswith("hal"):
        return 0.5, start + 1
    if token in ("a", "an") and start + 1 < len(tokens):
        following = tokens[start + 1]
        if following == "hundred":
            return 100.0, start + 2
        if following in _PARTS or following in _MONTHS or following in _DAYS or following in ("dozen", "couple"):
            if following == "couple":
                return 2.0, start + 2 + (tokens[start + 2 : start + 3] == ["of"])
            return (12.0, start + 2) if following == "dozen" else (1.0, start + 1)
        return None, start + 1
    if token not in _NUMBERS and token != "hundred":
        return None, start + 1
    total, end = (100.0, start + 1) if token == "hundred" else (_NUMBERS[token], start + 1)
    while end < len(tokens):
        if tokens[end] == "hundred":
            total *= 100
        elif total >= 20 and total % 10 == 0 and 0 < _NUMBERS.get(tokens[end], 0) < 10:
            total += _NUMBERS[tokens[end]]
        elif tokens[end] == "point" and tokens[end + 1 : end + 2] and tokens[end + 1] in _NUMBERS:
            return total + _NUMBERS[tokens[end + 1]] / 10, end + 2
        else:
            break
        end += 1
    return total, end


def _unit(tokens: Sequence[str], start: int, end: int, reduction: Collection[str]) -> tuple[str, float, int]:
    """(kind, factor, where it ends) of the number of tokens `start` to `end`; no kind where it counts something
    else."""
    after = [*tokens[end : end + 3], "", "", ""]
    if after[0] in _PERCENT:
        return "percent", 1.0, end + 1
    if after[0] == "per" and after[1] in ("cent", "hundred"):
        return "percent", 1.0, end + 2
    if after[0] in _PARTS and tokens[start - 1 : start] == ["by"]:
        return "percent", 100.0 / _PARTS[after[0]], end + 1
    if after[0] in _PARTS and (after[1] in ("of", "off", "less", "cheaper", "lower") or after[1] in reduction):
        return "percent", 100.0 / _PARTS[after[0]], end + 1
    if tokens[end - 1].startswith("hal") or "/" in tokens[start:end]:
        priced = {"price", "prices", "cost", "bill", "rate", "off", "charge", "fee", "discount", "what"}
        return ("percent", 100.0, end) if priced & set(after[:3]) else ("", 1.0, end)
    if (start and tokens[start - 1] in "$€£") or after[0] in _MONEY:
        return "money", 1.0, end + (after[0] in _MONEY)
    whole_before = (["for"], ["whole"], ["full"], ["over"], ["entire"])
    if tokens[start] in ("a", "an") and tokens[start - 1 : start] not in whole_before:
        return "", 1.0, end  # "a month" alone is a rate, not a duration
    unit = 1 if after[0] in ("more", "full", "whole", "calendar", "billing", "entire") else 0
    if after[unit] in _MONTHS:
        return "months", _MONTHS[after[unit]], end + unit + 1
    if after[unit] in _DAYS:
        return "days", _DAYS[after[unit]], end + unit + 1
    if after[0] in ("off", "discount", "less", "reduction"):
        return "percent", 1.0, end
    return "", 1.0, end
