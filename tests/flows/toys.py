"""Runs the programs beside these tests that want a process of their own, since each starts a server of Prefect."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from engine.fingerprint import ROOT


def said_by(toy: str, *arguments: object) -> Any:
    """What `python -m tests.flows.TOY` prints as its last line, which is JSON."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.flows.{toy}", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
