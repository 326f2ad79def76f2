"""What people do with a rollout, done as the documents say, in containers: the demo, and the runbook's own commands.

Both begin with a run of `local`, minutes long. RETAIN_TEST_STORE names a store that has one, to be copied.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows import compose, stack
from flows.demo import OURS
from tests.containers import engine_or_skip
from tests.docs.documents import PROJECT, read

pytestmark = [pytest.mark.slow, pytest.mark.docker]

RUN_SECONDS, STORY_SECONDS = 3600, 1200
# In this order.
STORY = (
    "time runs 60 times as fast",
    "The baseline decides",
    "in the shadow of",
    "for 5 % of customers",
    "both replicas serve it",
    "RetainArmErrors is firing",
    "the baseline decides about everybody again",
    "LATCHED",
    "Refused: the rollout is latched",
)


WAY = ("in the shadow of", "requests, decided about", "for 5 % of customers", "latched, baseline of", "quarantine")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("rollout") / "store"
    if there := os.environ.get("RETAIN_TEST_STORE"):
        shutil.copytree(there, store, ignore=shutil.ignore_patterns("rollout", "serving"))
    else:
        command = [sys.executable, "-m", "flows", "run", "--experiment", "local"]
        subprocess.run(command, cwd=PROJECT, env=environment(store), check=True, timeout=RUN_SECONDS)
    return store


def environment(store: Path) -> dict[str, str]:
    """Without what a shell of the person who tests may have set."""
    plain = {name: value for name, value in os.environ.items() if name not in OURS}
    return plain | {"RETAIN_STORE": str(store), "DOCKER_HOST": compose.engine_address()}


@pytest.fixture
def nothing_served() -> Iterator[None]:
    """Skips the test where somebody's own stack is up, or has data."""
    engines = engine_or_skip()
    engine = next(engines)
    ours = stack.SERVING
    if any(compose.services_of(engine, ours.project, service) for service in stack.SERVICES):
        pytest.skip("a stack is up, which this test would disturb: make serve.down")
    if compose.has_volume(engine, ours.database):
        pytest.skip(f"a stack's data is there, which this test would write into: {ours.database}")
    aside = ours.secrets.with_suffix(".kept")
    if ours.secrets.exists():
        ours.secrets.rename(aside)
    try:
        yield
    finally:
        stack.down(print, ours, forget=True)
        ours.secrets.unlink(missing_ok=True)
        if aside.exists():
            aside.rename(ours.secrets)
        next(engines, None)


def test_the_demo_tells_its_story(store: Path) -> None:
    next(engines := engine_or_skip())
    told = subprocess.run(
        [sys.executable, "-m", "flows.demo"],
        cwd=PROJECT, env=environment(store), capture_output=True, text=True, timeout=STORY_SECONDS, check=False,
    )  # fmt: skip
    next(engines, None)
    assert told.returncode == 0, told.stdout + told.stderr
    places = [told.stdout.index(text) for text in STORY]
    assert places == sorted(places)
    assert re.findall(r", (\d+) were not", told.stdout) == ["0", "0", "0"]
    seconds = re.findall(r"^\[ *([\d.]+)\]", told.stdout.partition(STORY[1])[2], flags=re.MULTILINE)
    assert float(seconds[-1]) - float(seconds[0]) < 300


def test_the_runbook_takes_a_release_to_customers_and_back(store: Path, nothing_served: None) -> None:
    blocks = re.findall(r"^```bash\n(.*?)^```", read("docs/OPERATOR_RUNBOOK.md"), flags=re.MULTILINE | re.DOTALL)
    script = "set -euo pipefail\n" + "\n".join(blocks)
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=PROJECT, env=environment(store), capture_output=True, text=True, timeout=STORY_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    places = [done.stdout.index(text) for text in WAY]
    assert places == sorted(places)
