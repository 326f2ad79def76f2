"""That Prefect's server plans the runs of a deployment with a schedule, with the libraries that are pinned."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from engine.fingerprint import ROOT


def test_what_is_scheduled_is_planned(tmp_path: Path) -> None:
    """With SQLAlchemy 2.1 this Prefect says so in its log alone, and no retrain is ever due."""
    command = [sys.executable, "-m", "tests.flows.toy_schedule", str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    planned = json.loads(ended.stdout.splitlines()[-1])
    assert planned
    assert all(planned)  # by the server, and not by us
