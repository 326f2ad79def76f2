"""A copy of what the images are made from, to be changed by a test."""

from __future__ import annotations

import shutil
from pathlib import Path

from engine.fingerprint import ROOT
from images.table import IMAGES


def copy(folder: Path) -> Path:
    """The folders of code of all images, their lock files and Dockerfiles, and pyproject.toml."""
    tops = {Path(name).parts[0] for image in IMAGES.values() for name in image.code} | {"images"}
    for name in sorted(tops):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder / "pyproject.toml")
    return folder


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")
