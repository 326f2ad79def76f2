"""Text is read and written as UTF-8, whatever the language of whoever starts a program."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
ROOMS = ("engine", "retain", "tasks", "flows", "serve", "deploy", "eval", "images", "bench")
TEXT = {"read_text", "write_text"}


def without_encoding(code: str) -> list[int]:
    """Lines that open a file as text and leave its encoding to the locale."""
    lines = []
    for node in ast.walk(ast.parse(code)):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        keys = {keyword.arg for keyword in node.keywords}
        modes = [a.value for a in (*node.args, *(k.value for k in node.keywords)) if isinstance(a, ast.Constant)]
        opens = name == "open" and any(isinstance(m, str) and set(m) <= set("rwxat+") for m in modes)
        piped = any(k.arg == "text" and isinstance(k.value, ast.Constant) and k.value.value for k in node.keywords)
        if (name in TEXT or opens or piped) and "encoding" not in keys:
            lines.append(node.lineno)
    return lines


@pytest.mark.parametrize("room", ROOMS)
def test_every_text_file_is_opened_with_its_encoding(room: str) -> None:
    found = {
        str(path.relative_to(PROJECT)): lines
        for path in sorted((PROJECT / room).rglob("*.py"))
        if (lines := without_encoding(path.read_text(encoding="utf-8")))
    }
    assert found == {}


@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        ("path.read_text()", [1]),
        ("path.write_text(text)", [1]),
        ("path.read_text(encoding='utf-8')", []),
        ("path.open('a')", [1]),
        ("open(path, mode='w')", [1]),
        ("path.open('rb')", []),
        ("\nsubprocess.run(command, text=True)", [2]),
        ("subprocess.run(command, text=True, encoding='utf-8')", []),
    ],
)
def test_what_the_check_sees(code: str, wanted: list[int]) -> None:
    assert without_encoding(code) == wanted
