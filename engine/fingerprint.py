"""What makes a result the same result.

A fingerprint is the hash of: the stage's name, its code, the versions of the libraries it names, its slice of the
configuration, the seed, the content of its inputs and of its source. Who runs it, where, with which time limit and
against which exit criteria is not part of it.

*Code* is the normalised syntax tree of every module in the import closure of the entry module inside the repository,
without engine/: no comments, no docstrings, no layout, and nothing below `if TYPE_CHECKING:`, which never runs. Stages
import their config class there, because the values that it holds are in the fingerprint anyway.
"""

from __future__ import annotations

import ast
import hashlib
import json
import platform
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import takewhile
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = "engine"  # the engine's version decides how a stage is run, not what it makes
# Distributions of the same library under another name, which come first: where both are installed, theirs is the code.
BUILDS = {"xgboost": ("xgboost-cpu",)}

# `make why` shows a value of up to SHOWN_WHOLE characters whole; of a longer one SHOWN characters, which begin
# SHOWN_BEFORE characters before the first difference.
SHOWN_WHOLE, SHOWN, SHOWN_BEFORE = 24, 20, 8


class Identity(BaseModel):
    """The parts of a fingerprint, kept beside the artifact so that `make why` can compare them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    code: dict[str, str]  # file -> digest of its syntax tree
    libraries: dict[str, str]
    config: dict[str, Any]
    seed: int
    inputs: dict[str, str]  # stage -> content digest
    source: str | None

    @property
    def fingerprint(self) -> str:
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def code_digests(entry: str, root: Path = ROOT) -> dict[str, str]:
    """file -> digest for the import closure of "package.module:function" inside `root`."""
    pending = [entry.partition(":")[0]]
    seen: set[str] = set()
    digests: dict[str, str] = {}
    while pending:
        module = pending.pop()
        if module in seen or module.split(".")[0] == OUTSIDE:
            continue
        seen.add(module)
        if "." in module:
            pending.append(module.rpartition(".")[0])
        file = _find(module, root)
        if file is None:
            continue
        path, is_package = file
        digest, imported = _read(path.read_bytes(), str(path), module, is_package)
        digests[path.relative_to(root).as_posix()] = digest
        pending.extend(imported)
    return dict(sorted(digests.items()))


def library_versions(names: Iterable[str], elsewhere: Mapping[str, str] | None = None) -> dict[str, str]:
    """Versions of the named libraries and of Python (major.minor: patch releases keep results).

    `elsewhere`: distribution -> version, where the stage will run, for libraries that aren't installed here. Raises
    PackageNotFoundError for a library that neither has.
    """
    python = ".".join(platform.python_version_tuple()[:2])
    return {"python": python} | {name: _version(name, elsewhere or {}) for name in sorted(names)}


def differences(before: Identity, now: Identity) -> list[str]:
    """One line for each part that changed, in words: what `make why` prints."""
    lines = []
    for part in ("code", "libraries", "config", "inputs"):
        old, new = _flat(getattr(before, part)), _flat(getattr(now, part))
        changed = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
        lines += [_line(part, key, old.get(key), new.get(key)) for key in changed]
    if before.seed != now.seed:
        lines.append(f"seed: {before.seed} -> {now.seed}")
    if before.source != now.source:
        old_source, new_source = _cut_both(before.source, now.source)
        lines.append(f"source: {old_source} -> {new_source}")
    return lines


def _version(name: str, elsewhere: Mapping[str, str]) -> str:
    """Without the label of a build, such as +cpu: on what a stage computes is not part of what it computes."""
    distributions = (*BUILDS.get(name, ()), name)
    versions = [_installed(distribution) for distribution in distributions] + [elsewhere.get(d) for d in distributions]
    for known in versions:
        if known is not None:
            return known.partition("+")[0]
    raise PackageNotFoundError(name)


@cache
def _installed(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


@cache
def _read(source: bytes, name: str, module: str, is_package: bool) -> tuple[str, tuple[str, ...]]:
    """Digest of a file's syntax tree, and the modules it may import. A plan asks about most files once for every stage
    that they are part of: parsed each time, they were three quarters of its time."""
    tree = ast.parse(source, filename=name)
    # In a list first: the tree is normalised on the way.
    statements = list(_normalised(tree))
    return hashlib.sha256(_dump(tree)).hexdigest(), tuple(_imports(statements, module, is_package))


def _find(module: str, root: Path) -> tuple[Path, bool] | None:
    base = root.joinpath(*module.split("."))
    if (base / "__init__.py").is_file():
        return base / "__init__.py", True
    if base.with_suffix(".py").is_file():
        return base.with_suffix(".py"), False
    return None


def _normalised(tree: ast.Module) -> Iterator[ast.AST]:
    """Takes out of the tree what makes no difference; yields the statements that stay.

    No statement lies inside an expression: looking there too took a third of the time that all stages' code takes.
    """
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        yield node
        body = getattr(node, "body", None)
        if isinstance(body, list):
            body = [statement for statement in body if not _types_only(statement)]
            documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            if documented and body and _is_text(body[0]):
                body = body[1:]
            node.body = body  # type: ignore[attr-defined]
        for block in ("body", "orelse", "finalbody", "handlers", "cases"):
            pending.extend(getattr(node, block, ()))


def _types_only(node: ast.AST) -> bool:
    if not isinstance(node, ast.If) or node.orelse:
        return False
    name = node.test.attr if isinstance(node.test, ast.Attribute) else getattr(node.test, "id", None)
    return name == "TYPE_CHECKING"


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _dump(tree: ast.Module) -> bytes:
    return ast.dump(tree, annotate_fields=False, include_attributes=False).encode()


def _imports(statements: Iterable[ast.AST], module: str, is_package: bool) -> Iterator[str]:
    """Every module that an import may load: `from a import b` loads a, and a.b if b is a module."""
    for node in statements:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = module.split(".") if is_package else module.split(".")[:-1]
                above = above[: len(above) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _flat(value: Any, prefix: str = "") -> dict[str, str]:
    """Dotted key -> JSON of its value, as the fingerprint sees it: 1 differs from 1.0, and null from a missing key."""
    if not isinstance(value, Mapping) or (prefix and not value):
        return {prefix: json.dumps(value, sort_keys=True)}
    flat: dict[str, str] = {}
    for key, child in value.items():
        flat |= _flat(child, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _line(part: str, key: str, old: str | None, new: str | None) -> str:
    if part == "code":
        change = "is new" if old is None else "is gone" if new is None else "changed"
        return f"code: {key} {change}"
    if part != "config":
        old, new = (text and text.strip('"') for text in (old, new))
    before, now = _cut_both(old, new)
    if part == "inputs":
        return f"inputs: {key} has other bytes ({before} -> {now})"
    return f"{part}: {key} {before} -> {now}"


def _cut_both(old: str | None, new: str | None) -> tuple[str, str]:
    """Both texts as they are shown: a long one is cut around the first character at which they differ."""
    pairs = zip(old or "", new or "", strict=False)
    equal = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    start = max(0, equal - SHOWN_BEFORE)
    return _shown(old, start), _shown(new, start)


def _shown(text: str | None, start: int) -> str:
    if text is None:
        return "nothing"
    if len(text) <= SHOWN_WHOLE:
        return text
    end = start + SHOWN
    return f"{'...' if start else ''}{text[start:end]}{'...' if end < len(text) else ''}"
