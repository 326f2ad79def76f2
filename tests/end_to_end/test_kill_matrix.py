"""The kill matrix: every stage of experiment_chaos in containers, struck by at least 40 events of every kind, ends with
the bytes of an undisturbed plain run. Writes what it counted into docs/RELIABILITY.md."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest
from docker import DockerClient

from engine.fingerprint import ROOT
from images.build import build
from tasks.stages import STAGES
from tests.containers import engine_or_skip
from tests.end_to_end.containers import Platform, check_money, digests, platform_at, postgres
from tests.end_to_end.events import EVENTS, Strikes, Struck, assert_nothing_is_left
from tests.end_to_end.project import Project
from tests.end_to_end.shown import check_shown

pytestmark = pytest.mark.slow

EVENTS_WANTED, SEED = 40, 16
RUN_S = 3000.0
STORE_MB = 700  # so that filling the store's disk fills no other's
USER = 10_321  # of the containers: not root, to whom a store is never unreachable
REPORT = ROOT / "docs" / "RELIABILITY.md"
BEGIN, END = "<!-- written by tests/end_to_end/test_kill_matrix.py -->", "<!-- /written -->"
# What strikes an attempt comes more often than what strikes everything.
DEALT = (*EVENTS, "sigterm", "sigkill", "docker_kill", "worker_and_container_killed", "paused_until_lost")


@pytest.fixture(scope="module")
def engine() -> Iterator[DockerClient]:
    yield from engine_or_skip()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """With a store on a file system of its own."""
    folder = tmp_path_factory.mktemp("matrix")
    store = folder / "store"
    store.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={STORE_MB}m", "tmpfs", str(store)]
    if os.getuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a small disk, be another user and kill what containers run")
    yield folder
    subprocess.run(["umount", "--lazy", str(store)], check=True)


@pytest.fixture(scope="module")
def platform(engine: DockerClient, finished: Project, folder: Path) -> Iterator[Platform]:
    images = build(ROOT, ["tabular", "gpu"])
    with (
        postgres(engine) as database,
        platform_at(folder, finished.data, images, engine, database, USER) as platform,
    ):
        yield platform


def test_every_run_ends_with_the_bytes_of_an_undisturbed_one(platform: Platform, finished: Project) -> None:
    undisturbed = digests(finished.store)
    generator = random.Random(SEED)
    struck: list[Struck] = []
    runs: list[tuple[float, int, int]] = []
    compared = 0
    while len(struck) < EVENTS_WANTED:
        shutil.rmtree(platform.store / "chaos", ignore_errors=True)
        began = time.monotonic()
        run = platform.run()
        strikes = Strikes(platform, run, generator)
        for stage, kinds in dealt(generator, struck).items():
            strikes.plan(stage, kinds)
        ended = platform.wait(run, RUN_S)
        strikes.finish()
        assert ended["state_type"] == "COMPLETED", ended["state"]["message"]
        assert digests(platform.store) == undisturbed
        assert_nothing_is_left(platform)
        compared = check_money(platform)
        check_shown(platform.ask, run, platform.store, "chaos", branches=False)
        struck += strikes.struck
        runs.append((time.monotonic() - began, len(strikes.struck), len(platform.attempts(run))))
        print(f"run {len(runs)}: {len(strikes.struck)} events, {runs[-1][0]:.0f} s", flush=True)
    assert {event.kind for event in struck} == set(EVENTS)
    assert {event.attempt.partition("-")[0] for event in struck} == set(STAGES)
    write_report(struck, runs, compared)


def dealt(generator: random.Random, struck: list[Struck]) -> dict[str, list[str]]:
    """Events for one run, one or two for each stage, first those that have struck least."""
    counts = {kind: sum(event.kind == kind for event in struck) for kind in EVENTS}
    deck = sorted(DEALT, key=lambda kind: (counts[kind], generator.random()))
    stages = list(STAGES)
    generator.shuffle(stages)
    plans: dict[str, list[str]] = {}
    for place, stage in enumerate(stages):
        plans[stage] = [deck[place % len(deck)]]
    return plans


def write_report(struck: list[Struck], runs: list[tuple[float, int, int]], compared: int) -> None:
    lines = ["| event | times | median s to the next attempt | most |", "|---|---|---|---|"]
    for kind in EVENTS:
        again = [event.again_s for event in struck if event.kind == kind and event.again_s is not None]
        figures = f"{median(again):.0f} | {max(again):.0f}" if again else "— | —"
        lines.append(f"| {kind.replace('_', ' ')} | {sum(event.kind == kind for event in struck)} | {figures} |")
    seconds = ", ".join(f"{each[0]:.0f}" for each in runs)
    lines += [
        "",
        f"{len(struck)} events in {len(runs)} runs of {seconds} s, {sum(each[2] for each in runs)} attempts. Every run "
        f"ended with the bytes of an undisturbed plain run. Of {compared} attempts the ledger was compared with the "
        "Docker engine's own times: none differed by more than a second. No container, claim or reservation was left.",
    ]
    text = REPORT.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    REPORT.write_text(f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{after}", encoding="utf-8")
