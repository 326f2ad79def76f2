"""The digest by which anyone sees that the rule judge is still the same: of its code and of its lists."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parent


def digest(lists: Mapping[str, Any], package: Path = PACKAGE) -> str:
    """sha256 of every module of the judge, without comments and docstrings, and of the resolved lists of cues.yaml:
    equal digests, equal judges. 64 hexadecimal digits."""
    parts = {path.name: _code(path) for path in package.glob("*.py")}
    text = json.dumps({"code": parts, "lists": lists}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _code(path: Path) -> str:
    tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)
