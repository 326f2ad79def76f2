"""Terraform's files, read: blocks by kind, type and name."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import hcl2
from hcl2 import SerializationOptions

from engine.fingerprint import ROOT

FOLDER = ROOT / "infra" / "terraform"
FILES = sorted(FOLDER.glob("*.tf"))
Block = dict[str, Any]


@cache
def parsed(path: Path) -> Block:
    with path.open(encoding="utf-8") as file:
        return dict(hcl2.load(file, serialization_options=SerializationOptions(strip_string_quotes=True)))


def blocks(kind: str) -> dict[str, Block]:
    """name -> block, of variables and outputs."""
    return {name: block for path in FILES for each in parsed(path).get(kind, []) for name, block in each.items()}


def resources() -> dict[str, dict[str, Block]]:
    """type -> name -> block."""
    found: dict[str, dict[str, Block]] = {}
    for path in FILES:
        for each in parsed(path).get("resource", []):
            for kind, named in each.items():
                found.setdefault(kind, {}).update(named)
    return found


def data_sources() -> list[tuple[str, str, Block]]:
    """Type, name, block."""
    return [
        (kind, name, block)
        for path in FILES
        for each in parsed(path).get("data", [])
        for kind, named in each.items()
        for name, block in named.items()
    ]


def local_values() -> Block:
    """All values of `locals`; expressions stay the text that they are."""
    return {name: value for path in FILES for each in parsed(path).get("locals", []) for name, value in each.items()}


def text() -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in FILES)
