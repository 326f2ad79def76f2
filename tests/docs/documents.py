"""What a document says, taken apart: headings, rows of tables, numbers, and the names that stand in backticks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[2]
NUMBER_WORDS = {"one": 1, "once": 1, "two": 2, "twice": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7}


def read(name: str) -> str:
    return (PROJECT / name).read_text()


def section(text: str, heading: str) -> str:
    """What stands below a heading, up to the next one of any level."""
    (found,) = re.findall(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", text, flags=re.MULTILINE | re.DOTALL)
    return str(found)


def row(text: str, begins: str) -> str:
    """The one row of a table whose first cell begins like this, without that cell."""
    pattern = rf"^\|\s*\**{re.escape(begins)}[^|]*\|(.*)\|$"
    (found,) = re.findall(pattern, text, flags=re.MULTILINE)
    return str(found)


def first_cell(text: str, begins: str) -> str:
    """The first cell of the one row that begins like this."""
    (found,) = re.findall(rf"^\|\s*\**({re.escape(begins)}[^|]*)\|", text, flags=re.MULTILINE)
    return str(found)


def paragraphs(text: str, *words: str) -> str:
    """The paragraphs that hold all of the words."""
    found = [part for part in text.split("\n\n") if all(word in part for word in words)]
    assert found, f"no paragraph says {words}"
    return "\n\n".join(found)


def numbers(text: str) -> set[float]:
    """Every number of the text without its sign, also those written in words up to seven."""
    digits = re.findall(r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?:e-?\d+)?|(?<![\w.])\.\d+", text.replace("−", "-"))
    words = [NUMBER_WORDS[word] for word in re.findall(r"[a-z]+", text.lower()) if word in NUMBER_WORDS]
    return {round(float(digit.replace(",", "").rstrip(".")), 9) for digit in digits} | set(words)


def lacks(text: str, *values: float) -> set[float]:
    """Those of the values that the text does not state."""
    return {round(abs(value), 9) for value in values} - numbers(text)


def targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z0-9.-]*):", read("Makefile"), flags=re.MULTILINE))


def named_targets(text: str) -> set[str]:
    """make targets that a document names, in backticks or at the start of a line of code."""
    found = re.findall(r"(?:^|`|&& |\$ )(?:[A-Z_]+=\S+ )*make ([a-z][a-z0-9.-]*\*?)", text, flags=re.MULTILINE)
    return {name for name in found if not name.endswith("*")}


def quoted(text: str) -> list[str]:
    """Every name in backticks, outside blocks of code."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def named_paths(text: str) -> list[str]:
    """Names in backticks that are paths of this repository: no URLs, no placeholders, no media types."""
    plain = r"\.?[\w.-]+(?:/[\w.-]+)*/?"
    names = [name for name in quoted(text) if "/" in name and re.fullmatch(plain, name)]
    return [name for name in names if (PROJECT / name.split("/")[0]).exists()]


def has_key(content: Any, dotted: str) -> bool:
    """Whether the dotted key leads somewhere in nested mappings."""
    for part in dotted.split("."):
        if not isinstance(content, dict) or part not in content:
            return False
        content = content[part]
    return True
