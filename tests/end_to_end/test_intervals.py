"""How often a stage saves its state is no part of what it makes: one fingerprint, and the same bytes.

tests/engine/test_outage.py asks the same of a toy stage, in seconds.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from tests.end_to_end.project import Project

pytestmark = pytest.mark.slow

# Each in place of chaos's own `every_steps: 2`. The last is what the engine tells from saves and preemptions.
INTERVALS = (
    {"every_steps": 1},
    {"every_steps": None, "every_s": 0.2},
    {"every_steps": None, "mean_hours_between_preemptions": 0.01},
)


@pytest.mark.parametrize(
    "stages",
    [("decision",), ("base", "sft", "rm", "ppo_text", "judge")],
    ids=["decision", "texts"],
)
def test_intervals_are_no_part_of_a_result(finished: Project, tmp_path: Path, stages: tuple[str, ...]) -> None:
    for number, interval in enumerate(INTERVALS):
        project = finished.apart(tmp_path / str(number)).wanting(*stages)
        path = project.root / "ops" / "configs" / "experiment_chaos.yaml"
        lines = path.read_text().splitlines()
        (at,) = [at for at, line in enumerate(lines) if line.startswith("  checkpoint: ")]
        lines[at] = f"  checkpoint: {json.dumps(interval)}"
        path.write_text("\n".join(lines) + "\n")
        assert yaml.safe_load(path.read_text())["execution"]["checkpoint"] == interval
        before = current(project)
        for stage in stages:
            shutil.rmtree(project.store / "chaos" / stage)
        done = project.run()
        assert done.returncode == 0, done.stdout
        assert {stage: current(project)[stage] for stage in stages} == {stage: before[stage] for stage in stages}
        made, expected = project.artifacts(), finished.artifacts()
        assert {name for name in made if made[name] != expected[name]} == set()


def current(project: Project) -> dict[str, str]:
    """stage -> fingerprint"""
    found: dict[str, str] = json.loads((project.store / "chaos" / "current.json").read_text())
    return found
