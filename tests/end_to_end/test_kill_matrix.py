"""The kill matrix: every stage of experiment_chaos in containers, struck by at least 40 events of every kind, ends with
the bytes of an undisturbed plain run. Writes what it counted into docs/RELIABILITY.md."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pytest
from docker import DockerClient

from engine.fingerprint import ROOT
from images.build import build
from tasks.stages import STAGES
from tests.containers import engine_or_skip
from tests.end_to_end.containers import Platform, check_money, digests, evidence_kept, platform_at, postgres
from tests.end_to_end.events import EVENTS, Strikes, Struck, assert_nothing_is_left
from tests.end_to_end.project import Project
from tests.end_to_end.shown import check_shown
from tests.reliability import write_block

pytestmark = pytest.mark.slow

EVENTS_WANTED, RUNS_AT_MOST, SEED = 40, 8, 16
RUN_S = 3000.0
STORE_MB = 700  # so that filling the store's disk fills no other's
USER = 10_321  # of the containers: not root, to whom a store is never unreachable
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


@pytest.fixture(autouse=True)
def evidence(platform: Platform, request: pytest.FixtureRequest) -> Iterator[None]:
    yield from evidence_kept(platform, request)


@dataclass(frozen=True)
class RunUnderFire:
    seconds: float
    struck: list[Struck]
    missed: list[str]
    attempts: int
    compared: int  # attempts whose charge was compared with the engine's own times


def test_an_undisturbed_run_makes_what_a_plain_one_makes_with_its_branches_side_by_side(
    platform: Platform, finished: Project
) -> None:
    run = platform.run()
    ended = platform.wait(run, RUN_S)
    assert ended["state_type"] == "COMPLETED", ended["state"]["message"]
    assert digests(platform.store) == digests(finished.store)
    assert_nothing_is_left(platform)
    assert len(platform.attempts(run)) == len(STAGES)
    assert check_money(platform) == len(STAGES)
    check_shown(platform.ask, run, platform.store, "chaos", branches=True)


def test_every_run_ends_with_the_bytes_of_an_undisturbed_one(
    platform: Platform, finished: Project, capfd: pytest.CaptureFixture[str]
) -> None:
    generator = random.Random(SEED)
    runs: list[RunUnderFire] = []
    with capfd.disabled():  # whoever waits for an hour sees what happens
        while not enough(runs):
            assert len(runs) < RUNS_AT_MOST, (untouched(runs), [each for run in runs for each in run.missed])
            runs.append(run_under_fire(platform, digests(finished.store), generator, runs))
            last = runs[-1]
            print(f"run {len(runs)}: {len(last.struck)} events and {len(last.missed)} missed, {last.seconds:.0f} s")
    write_report(runs)


def run_under_fire(
    platform: Platform, undisturbed: dict[str, str], generator: random.Random, before: Sequence[RunUnderFire]
) -> RunUnderFire:
    shutil.rmtree(platform.store / "chaos", ignore_errors=True)  # not the ledger
    began = time.monotonic()
    run = platform.run()
    strikes = Strikes(platform, run, generator)
    for stage, kinds in dealt(generator, struck_in(before)).items():
        strikes.plan(stage, kinds)
    ended = platform.wait(run, RUN_S)
    strikes.finish()
    assert ended["state_type"] == "COMPLETED", ended["state"]["message"]
    assert digests(platform.store) == undisturbed
    assert_nothing_is_left(platform)
    compared, attempts = check_money(platform), len(platform.attempts(run))
    assert compared >= 0.8 * attempts  # not those that no container began, or whose end nobody told
    check_shown(platform.ask, run, platform.store, "chaos", branches=False)
    return RunUnderFire(time.monotonic() - began, strikes.struck, strikes.missed, attempts, compared)


def struck_in(runs: Sequence[RunUnderFire]) -> list[Struck]:
    return [event for run in runs for event in run.struck]


def untouched(runs: Sequence[RunUnderFire]) -> set[str]:
    """Kinds of events that never struck, and stages that none ever struck."""
    struck = struck_in(runs)
    return {*EVENTS, *STAGES} - {event.kind for event in struck} - {event.attempt.partition("-")[0] for event in struck}


def enough(runs: Sequence[RunUnderFire]) -> bool:
    return len(struck_in(runs)) >= EVENTS_WANTED and not untouched(runs)


def dealt(generator: random.Random, struck: Sequence[Struck]) -> dict[str, list[str]]:
    """Events for one run, one for each stage, first those that have struck least."""
    counts = {kind: sum(event.kind == kind for event in struck) for kind in EVENTS}
    deck = sorted(DEALT, key=lambda kind: (counts[kind], generator.random()))
    stages = list(STAGES)
    generator.shuffle(stages)
    return {stage: [deck[place % len(deck)]] for place, stage in enumerate(stages)}


def write_report(runs: Sequence[RunUnderFire]) -> None:
    struck, missed = struck_in(runs), [each.partition(":")[0] for run in runs for each in run.missed]
    lines = ["| event | times | median s to the next attempt | most |", "|---|---|---|---|"]
    for kind in EVENTS:
        again = [event.again_s for event in struck if event.kind == kind and event.again_s is not None]
        figures = f"{median(again):.0f} | {max(again):.0f}" if again else "— | —"
        lines.append(f"| {kind.replace('_', ' ')} | {sum(event.kind == kind for event in struck)} | {figures} |")
    seconds = ", ".join(f"{run.seconds:.0f}" for run in runs)
    lines += [
        "",
        f"{len(struck)} events in {len(runs)} runs of {seconds} s, {sum(run.attempts for run in runs)} attempts. Every "
        f"run ended with the bytes of an undisturbed plain run. The ledger was compared with the Docker engine's own "
        f"times for {sum(run.compared for run in runs)} attempts: none differed by more than a second. No container, "
        "claim or reservation was left.",
        "",
        f"Not counted, since nothing was left to strike: {', '.join(missed) or 'none'}.",
    ]
    write_block("the kill matrix", lines)
