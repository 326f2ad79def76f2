"""A named place kills the process that reaches it, when and only when it is asked to."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from engine.faults import POINTS, fault

PROJECT = Path(__file__).resolve().parents[2]

# Says which of its steps it survived.
WALK = """
from engine.faults import fault
for step, point in enumerate({points!r}, 1):
    fault(point)
    print(step, flush=True)
"""


def walk(*points: str, **environment: str) -> tuple[int, int]:
    """Exit code of a process that goes through `points`, and how many of them it survived."""
    done = subprocess.run(
        [sys.executable, "-c", WALK.format(points=points)],
        cwd=PROJECT,
        env={"PATH": "/usr/bin", **environment},
        capture_output=True,
        text=True,
    )
    return done.returncode, len(done.stdout.split())


def test_kills_at_the_place_and_at_no_other() -> None:
    points = ("store.rename", "ledger.settle", "store.renamed")
    assert walk(*points, RETAIN_FAULT="ledger.settle") == (-signal.SIGKILL, 1)
    assert walk(*points, RETAIN_FAULT="ledger.settled") == (0, 3)
    assert walk(*points) == (0, 3)


def test_kills_the_nth_time() -> None:
    points = ("store.write", "store.rename") * 4
    assert walk(*points, RETAIN_FAULT="store.write@3") == (-signal.SIGKILL, 4)
    assert walk(*points, RETAIN_FAULT="store.write@5") == (0, 8)


def test_counts_only_keys_with_the_part_that_is_asked_for(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from engine.store import FolderStore; store = FolderStore(Path('.'))\n"
        "for key in ('a/beat', 'a/checkpoints/1', 'a/beat', 'a/checkpoints/2'):\n"
        "    store.write(key, b'x')\n"
    )
    environment = {"PATH": "/usr/bin", "PYTHONPATH": str(PROJECT), "RETAIN_FAULT": "store.rename:checkpoints/@2"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment)
    assert done.returncode == -signal.SIGKILL
    assert sorted(path.name for path in (tmp_path / "a").rglob("*") if path.is_file()) == ["1", "beat"]


def test_with_a_mark_it_happens_once(tmp_path: Path) -> None:
    mark = tmp_path / "happened"
    environment = {"RETAIN_FAULT": "artifact.seal", "RETAIN_FAULT_MARK": str(mark)}
    assert walk("artifact.seal", **environment) == (-signal.SIGKILL, 0)
    assert mark.exists()
    assert walk("artifact.seal", **environment) == (0, 1)


def test_a_place_that_does_not_exist_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETAIN_FAULT", "store.renamde@2")
    with pytest.raises(ValueError, match=r"RETAIN_FAULT=store\.renamde@2: no such place. Known: store\.write"):
        fault("store.write")


def test_nothing_happens_without_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RETAIN_FAULT", raising=False)
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("killed"))
    for point in POINTS:
        fault(point)


def test_every_place_is_reached_from_one_line_of_the_engine_and_known() -> None:
    calls = [
        point
        for path in (PROJECT / "engine").glob("*.py")
        for point in re.findall(r'^\s+fault\("([a-z.]+)"(?:, key)?\)', path.read_text(), re.MULTILINE)
    ]
    assert sorted(calls) == sorted(POINTS)
