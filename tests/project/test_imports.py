"""A name is imported from the module that defines it, also inside functions that no test calls."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

from engine.fingerprint import ROOT

PACKAGES = ("engine", "retain", "tasks", "flows", "serve", "eval", "bench", "tests")
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def module_file(name: str) -> Path | None:
    path = ROOT.joinpath(*name.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


@cache
def defined(file: Path) -> set[str]:
    """Names that the module binds itself, rather than imports."""
    names = set()
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_names_are_imported_from_where_they_are_defined(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_bytes())):
        if not isinstance(node, ast.ImportFrom) or node.level or not node.module:
            continue
        file = module_file(node.module)
        if file is None or node.module.split(".")[0] not in PACKAGES:
            continue
        for alias in node.names:
            known = alias.name in defined(file) or module_file(f"{node.module}.{alias.name}") is not None
            # A namespace package, such as a folder of tests, has no file of its own.
            assert known or ROOT.joinpath(*node.module.split("."), alias.name).is_dir(), (
                f"line {node.lineno}: {node.module} does not define {alias.name}"
            )
