"""`python .ci/installed.py EXTRA...`: whether this Python has what pyproject.toml pins, before set-up counts as done.

pip may end well and have installed elsewhere (PIP_TARGET, a `target` in its configuration) or nothing (PIP_DRY_RUN).
"""

from __future__ import annotations

import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pip._vendor.packaging.requirements import Requirement  # pip is what an environment has in any case

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def lacking(extras: list[str]) -> list[str]:
    """The pins that are not met, the project itself among them."""
    pins = [PROJECT["name"], *PROJECT["dependencies"]]
    pins += [pin for extra in extras for pin in PROJECT["optional-dependencies"][extra]]
    return [pin for pin in pins if not _met(Requirement(pin))]


def _met(wanted: Requirement) -> bool:
    if wanted.marker is not None and not wanted.marker.evaluate():
        return True  # of other platforms
    try:
        return wanted.specifier.contains(version(wanted.name), prereleases=True)
    except PackageNotFoundError:
        return False


if __name__ == "__main__":
    missing = lacking(sys.argv[1:])
    if missing:
        print(
            f"pip ended well, but {sys.prefix} lacks {', '.join(missing)}. Something sends what it installs elsewhere: "
            f"see `{sys.executable} -m pip config list`, and the variables PIP_*",
            file=sys.stderr,
        )
    sys.exit(2 if missing else 0)
