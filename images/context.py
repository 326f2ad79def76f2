"""The build context of an image: how it is built, its lock file and its code. Nothing else of the checkout is sent.

The content of these files alone decides the image's tag: no times, owners or modes, no documentation, no tests.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.errors import RetainError
from engine.paths import why_unreadable
from images.table import BASE, IMAGES, PLATFORM, Image, lock_file

TAG_DIGITS = 12
# Parts of lock files, and the images that share them.
SHARED = {"flows.txt": ("tabular", "gpu", "orchestrator"), "stages.txt": ("tabular", "gpu")}
CODE = "code/"  # folder of the context with what the image gets of this repository
# Of the folders of code. Compiled files are not sent, nor is whatever else may lie there, such as a .env.
SUFFIXES = {".py", ".yaml", ".lock", ".txt"}


@dataclass(frozen=True)
class Context:
    """`files`: path inside the context -> content."""

    image: Image
    accelerator: str
    files: Mapping[str, bytes]

    @property
    def tag(self) -> str:
        return _digest(self.files, BASE, PLATFORM, self.accelerator)[:TAG_DIGITS]

    @property
    def reference(self) -> str:
        """The image in an engine of this machine."""
        return f"{self.image.repository}:{self.tag}"

    @property
    def code_digest(self) -> str:
        """Of the code alone, without libraries."""
        return _digest({name: data for name, data in self.files.items() if name.startswith(CODE)})

    def archive(self) -> bytes:
        """The tar file that is sent to the engine: equal bytes for equal content."""
        buffer = io.BytesIO()
        with tarfile.TarFile(fileobj=buffer, mode="w") as tar:
            for name, data in sorted(self.files.items()):
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(data), 0o644
                tar.addfile(entry, io.BytesIO(data))
        return buffer.getvalue()


def read_context(root: Path, image: Image, accelerator: str) -> Context:
    """The context with the content that the checkout has now. Raises RetainError for a file that can't be read."""
    paths = {"Dockerfile": root / image.dockerfile, "install.sh": root / "images/install.sh"}
    for name in image.code:
        paths |= {f"{CODE}{path.relative_to(root).as_posix()}": path for path in _code_files(root / name)}
    files = {name: _read(path) for name, path in paths.items()}
    return Context(image, accelerator, files | _lock_in_parts(root, image, accelerator))


def _lock_in_parts(root: Path, image: Image, accelerator: str) -> dict[str, bytes]:
    """The lock file, beginning with what other images have as well: the engine then installs that once for all."""
    left = _entries(root, image, accelerator)
    parts = {}
    for name, images in SHARED.items():
        if image.name in images:
            first, *others = (_entries(root, IMAGES[each], "cpu") for each in images)
            shared = [entry for entry in left if entry in first and all(entry in other for other in others)]
            parts[name] = "".join(shared).encode()
            left = [entry for entry in left if entry not in shared]
    return parts | {"own.txt": "".join(left).encode()}


def _entries(root: Path, image: Image, accelerator: str) -> list[str]:
    """The entries of a lock file: a version and its hashes each."""
    text = _read(root / lock_file(image, accelerator)).decode()
    return re.findall(r"^[a-z0-9].*\n(?:    .*\n)+", text, flags=re.MULTILINE)


def _code_files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    for file in sorted(path.rglob("*")):
        hidden = any(part.startswith(".") for part in file.relative_to(path).parts)
        if file.suffix in SUFFIXES and not hidden and file.is_file():
            yield file


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RetainError(f"{path}: {why_unreadable(error)}") from None


def _digest(files: Mapping[str, bytes], *around: str) -> str:
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    return hashlib.sha256(json.dumps([hashes, around], sort_keys=True).encode()).hexdigest()
