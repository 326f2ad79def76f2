"""Which commit the code on this machine is of."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from functools import partial
from pathlib import Path


def commit(root: Path, environment: Mapping[str, str]) -> str:
    """The checked-out commit, with "+" when files differ from it; "unknown" outside a repository."""
    # Without GIT_DIR and the like: while git runs a hook, they name the repository that the hook is of.
    own = {name: value for name, value in environment.items() if not name.startswith("GIT_")}
    git = partial(
        subprocess.run, cwd=root, env=own, capture_output=True, encoding="utf-8", errors="replace", check=True
    )
    try:
        head, changed = git(["git", "rev-parse", "HEAD"]), git(["git", "status", "--porcelain"])
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{head.stdout.strip()}{'+' if changed.stdout.strip() else ''}"
