"""`python -m images.locks`: writes the lock files of the images, and reads what they lock.

A lock file names every distribution of an image with its version and the hashes of its wheels, so that a build installs
these bytes or fails. uv resolves the pins of pyproject.toml, which needs no wheel: the libraries of CUDA are locked on
machines that never download them. What isn't pinned there keeps the version that the lock file has, if it still fits.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from engine.errors import RetainError
from engine.fingerprint import ROOT
from engine.output import make_decoration
from images.table import VARIANTS, Image, lock_file

TORCH_CPU = "https://download.pytorch.org/whl/cpu/torch"  # a page with the links to the builds for CPUs
UV_PLATFORM = "x86_64-manylinux_2_28"
HEADER = "# Written by `make images.lock` from the pins of pyproject.toml.\n"
LOCKED = re.compile(r"^([A-Za-z0-9._-]+)==(\S+) \\$", re.MULTILINE)


@cache
def locked(root: Path, image: Image, accelerator: str | None = None) -> dict[str, str]:
    """Distribution -> version, as the image has them; in its variant for CPUs unless an accelerator is named."""
    path = root / lock_file(image, accelerator or image.accelerators[0])
    return dict(LOCKED.findall(path.read_text(encoding="utf-8")))


def pins(root: Path, image: Image, accelerator: str) -> list[str]:
    """The requirements of the image, as pyproject.toml pins them; of torch, the build for the accelerator."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    named = {_name(pin): pin for extra in extras.values() for pin in extra}
    wanted = [*project["dependencies"], *(pin for extra in image.extras for pin in extras[extra])]
    wanted += [named[name] for name in image.libraries]
    return [f"{pin}+cpu" if _name(pin) == "torch" and accelerator == "cpu" else pin for pin in wanted]


def outdated(root: Path, image: Image, accelerator: str) -> list[str]:
    """What pyproject.toml pins and the image's lock file doesn't have: its lines, without what follows a semicolon."""
    versions = locked(root, image, accelerator)
    wanted = [pin.partition(";")[0].strip() for pin in pins(root, image, accelerator)]
    return [pin for pin in wanted if versions.get(_name(pin)) != pin.partition("==")[2]]


def lock(root: Path, image: Image, accelerator: str, torch_wheels: str) -> str:
    """The text of the image's lock file, resolved anew. Raises RetainError with what uv says."""
    path = root / lock_file(image, accelerator)
    with tempfile.TemporaryDirectory() as folder:
        wanted, versions, wheels = (Path(folder) / name for name in ("wanted.in", "versions.txt", "pylock.toml"))
        wanted.write_text("\n".join(pins(root, image, accelerator)), encoding="utf-8")
        if path.exists():  # uv keeps the versions of a file that it writes again
            versions.write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
        # Where it is looked for, a build for CPUs is preferred to the one for CUDA, which PyPI has.
        options = ("--find-links", torch_wheels) if accelerator == "cpu" else ()
        _uv(wanted, versions, "requirements.txt", *options)
        _uv(versions, wheels, "pylock.toml", "--no-deps", *options)
        packages = tomllib.loads(wheels.read_text(encoding="utf-8"))["packages"]
    return HEADER + "".join(_entry(package) for package in packages)


def _uv(source: Path, target: Path, form: str, *options: str) -> None:
    command = [sys.executable, "-m", "uv", "pip", "compile", str(source), "--output-file", str(target), "--quiet"]
    command += ["--python-version", "3.11", "--python-platform", UV_PLATFORM, "--format", form, *options]
    command += ["--only-binary", ":all:", "--no-header", "--no-annotate"]
    ended = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
    if ended.returncode:
        raise RetainError(f"uv could not resolve the pins of pyproject.toml:\n{ended.stderr.strip()}")


def _entry(package: dict[str, Any]) -> str:
    hashes = sorted({wheel["hashes"]["sha256"] for wheel in package["wheels"]})
    return (
        f"{package['name']}=={package['version']}"
        + "".join(f" \\\n    --hash=sha256:{digest}" for digest in hashes)
        + "\n"
    )


def _name(pin: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", pin, maxsplit=1)[0]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m images.locks", description="Writes the lock files of the images.")
    parser.add_argument(
        "--torch", default=TORCH_CPU, help="folder or page with PyTorch's wheels for CPUs (%(default)s)"
    )
    options = parser.parse_args(arguments)
    try:
        texts = {lock_file(*variant): lock(ROOT, *variant, options.torch) for variant in VARIANTS}
    except RetainError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    for name, text in texts.items():
        (ROOT / name).parent.mkdir(exist_ok=True)
        (ROOT / name).write_text(text, encoding="utf-8")
        print(f"{name}: {len(LOCKED.findall(text))} distributions")
    return 0


if __name__ == "__main__":
    make_decoration()
    sys.exit(main())
