"""A name is imported from the module that defines it, also inside functions that no test calls."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from engine.fingerprint import ROOT

PACKAGES = ("engine", "retain", "tasks", "flows", "serve", "deploy", "eval", "images", "bench", "tests")
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def module_file(name: str) -> Path | None:
    path = ROOT.joinpath(*name.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


@cache
def defined(file: Path) -> set[str]:
    """Names that the module itself binds at its top level, rather than imports."""
    names = set()
    nodes: list[ast.AST] = [ast.parse(file.read_bytes())]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif not isinstance(node, ast.Lambda | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
            nodes += ast.iter_child_nodes(node)
    return names


def imported_modules(tree: ast.Module) -> dict[str, str]:
    """What the file calls modules of the repository, as it writes them -> their full names."""
    modules = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            modules |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    ours = {written: name for written, name in modules.items() if name.split(".")[0] in PACKAGES}
    return {written: name for written, name in ours.items() if module_file(name) is not None}


def attributes(node: ast.AST, hidden: frozenset[str] = frozenset()) -> Iterator[tuple[int, str, str]]:
    """(line, what stands before the dot, the attribute) of what is read; not where a local variable or a parameter of
    a function hides the module."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        inside = list(ast.walk(node))
        hidden |= {argument.arg for argument in inside if isinstance(argument, ast.arg)}
        hidden |= {name.id for name in inside if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)}
    elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
        before = ast.unparse(node.value)
        if before.split(".")[0] not in hidden:
            yield node.lineno, before, node.attr
    for child in ast.iter_child_nodes(node):
        yield from attributes(child, hidden)


def is_module(name: str) -> bool:
    """A namespace package, such as a folder of tests, has no file of its own."""
    return module_file(name) is not None or ROOT.joinpath(*name.split(".")).is_dir()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_names_are_imported_from_where_they_are_defined(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_bytes())):
        if not isinstance(node, ast.ImportFrom) or node.level or not node.module:
            continue
        file = module_file(node.module)
        if file is None or node.module.split(".")[0] not in PACKAGES:
            continue
        for alias in node.names:
            assert alias.name in defined(file) or is_module(f"{node.module}.{alias.name}"), (
                f"line {node.lineno}: {node.module} does not define {alias.name}"
            )


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_attributes_of_a_module_are_defined_in_it(path: Path) -> None:
    tree = ast.parse(path.read_bytes())
    modules = imported_modules(tree)
    for line, before, attribute in attributes(tree):
        file = module_file(modules[before]) if before in modules else None
        if file is None or attribute.startswith("__"):
            continue
        assert attribute in defined(file) or is_module(f"{modules[before]}.{attribute}"), (
            f"line {line}: {modules[before]} does not define {attribute}"
        )
