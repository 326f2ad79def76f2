"""What a cell of a CSV file says: a number, or nothing; and what it looks like if it is neither."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from retain.dataset import Column, is_blank

# How spreadsheets, databases, R and pandas write that there is no value, in small letters. None of them is a number.
_WORDS = "#n/a #na (null) <na> \\n k.a. missing n.a. n/a na nan nat nil none null unknown"
MISSING = frozenset(("", "?", "-", "--", ".", *_WORDS.split(" ")))
_DATE = re.compile(
    r"(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4})([T ]\d{1,2}:[\d:.]+( ?[AP]M|Z|[-+][\d:]+)?)?",
    re.ASCII | re.IGNORECASE,
)
_THOUSANDS = re.compile(r"[-+]?\d{1,3}([.,' \u00a0\u202f]\d{3})+([.,]\d+)?", re.ASCII)
# $29.85, 29.85 EUR, 12 %, 5 months
_WITH_SIGNS = re.compile(r"[^\d\s+-]{0,4}\s*[-+]?\d+([.,' ]\d+)*\s*[^\d\s]{0,8}", re.ASCII)


def number(value: str, decimal: str = ".") -> float:
    """A cell as float64, `decimal` standing before its decimals; NaN for what is no number (Python would read "1_0" and
    full-width digits, too)."""
    if decimal != "." and not (value := _with_a_point(value, decimal)):
        return math.nan
    try:
        return float(value) if value.isascii() and "_" not in value else math.nan
    except ValueError:
        return math.nan


def _with_a_point(value: str, decimal: str) -> str:
    return "" if "." in value else value.replace(decimal, ".")


def spells_none(value: str) -> bool:
    """Whether a cell where a number should stand says that there is none."""
    return value.strip().lower() in MISSING


def is_empty(column: Column, value: str) -> bool:
    """Whether the cell of a column holds no value: it is blank or, of a number, spells "none". Of a flag or a category
    "none" and "unknown" may be answers, and one that isn't among the column's values is an error, not a lost row."""
    empty = spells_none(value) if column.kind == "number" else is_blank(value)
    return empty and value not in map(str, column.values)


def other_sign(decimal: str) -> str:
    return "," if decimal == "." else "."


def looks_like(values: Iterable[str], decimal: str) -> set[str]:
    """What cells that are no numbers have in common: "date", "decimal" (the other sign before their decimals),
    "thousands" (separators of these), "sign" (of a currency, a percentage, a unit)."""
    stripped = [value.strip() for value in values]
    patterns = {
        "date": _DATE,
        "decimal": re.compile(rf"[-+]?\d+\{other_sign(decimal)}\d+", re.ASCII),
        "thousands": _THOUSANDS,
        "sign": _WITH_SIGNS,
    }
    return {kind for kind, pattern in patterns.items() if all(map(pattern.fullmatch, stripped))}
