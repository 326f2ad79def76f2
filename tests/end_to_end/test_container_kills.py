"""Attempts in real containers, killed in real ways, end with the bytes of an undisturbed run, and nobody is charged
twice."""

from __future__ import annotations

import base64
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from docker import DockerClient

from engine.fingerprint import ROOT
from images.build import build
from tests.containers import engine_or_skip
from tests.end_to_end.containers import Platform, check_money, digests, platform_at, wait_for
from tests.end_to_end.events import Strikes, assert_nothing_is_left
from tests.end_to_end.project import Project
from tests.end_to_end.shown import check_shown

pytestmark = pytest.mark.docker

TABLES = ("risk", "accept")
RUN_S = 420.0


@pytest.fixture(scope="module")
def engine() -> Iterator[DockerClient]:
    yield from engine_or_skip()


@pytest.fixture(scope="module")
def platform(engine: DockerClient, ready: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    images = build(ROOT, ["tabular", "serve"])
    with platform_at(tmp_path_factory.mktemp("platform"), ready.data, images, engine) as platform:
        yield platform


@pytest.fixture(scope="module")
def undisturbed(ready: Project) -> dict[str, str]:
    """The artifacts of a plain run on this machine, without containers."""
    return digests(ready.store)


def test_killed_containers_end_with_the_bytes_of_a_plain_run(platform: Platform, undisturbed: dict[str, str]) -> None:
    run = platform.run(stages=list(TABLES))
    strikes = Strikes(platform, run, random.Random(16))
    strikes.plan("risk", ["docker_kill", "sigterm"])
    strikes.plan("accept", ["sigkill", "worker_and_container_killed"])
    ended = platform.wait(run, RUN_S)
    strikes.finish()
    assert (ended["state_type"], strikes.missed) == ("COMPLETED", []), ended["state"]["message"]
    assert len(strikes.struck) == 4
    assert digests(platform.store) == undisturbed
    assert_nothing_is_left(platform)
    assert check_money(platform) >= 6
    check_shown(platform.ask, run, platform.store, "chaos", branches=False)


def test_nothing_is_done_twice(platform: Platform, undisturbed: dict[str, str]) -> None:
    before = len(platform.seen)
    first, second = platform.run(stages=list(TABLES)), platform.run(stages=list(TABLES))
    assert {platform.wait(run, RUN_S)["state_type"] for run in (first, second)} == {"COMPLETED"}
    assert platform.attempts(first) == platform.attempts(second) == []
    assert digests(platform.store) == undisturbed
    assert len(platform.seen) - before <= 2  # the two parents


def test_a_cancelled_run_leaves_nothing_at_work_and_goes_on_later(platform: Platform) -> None:
    """Cancelled by Ctrl-C of `make run.docker`, then as the UI does it."""
    command = [sys.executable, "-m", "flows.follow", "--experiment", "chaos", "--stage", "backtest"]
    followed = subprocess.Popen(command, cwd=ROOT, env=platform.environment, stdout=subprocess.PIPE, text=True)
    platform.container_of("backtest-")
    followed.send_signal(signal.SIGINT)
    said, _ = followed.communicate(timeout=120)
    assert followed.returncode == 1
    assert "stopping: its stages save their checkpoints" in said
    assert "Cancelled" in said.splitlines()[-1]
    assert_nothing_is_left(platform)
    run = platform.run(stages=["backtest"])
    platform.container_of("backtest-")
    platform.ask("POST", f"/flow_runs/{run}/set_state", json={"state": {"type": "CANCELLING"}})
    assert platform.wait(run, 120)["state_type"] == "CANCELLED"
    assert_nothing_is_left(platform)
    again = platform.run(stages=["backtest"])
    assert platform.wait(again, RUN_S)["state_type"] == "COMPLETED"
    check_money(platform)


def test_a_cap_that_is_lowered_stops_the_run_and_pauses_its_deployment(platform: Platform) -> None:
    shutil.rmtree(platform.store / "chaos" / "backtest")
    run = platform.run(stages=["backtest"])
    platform.container_of("backtest-")
    budget = [sys.executable, "-m", "flows", "budget", "--experiment", "chaos"]
    try:
        subprocess.run([*budget, "0.0001"], cwd=ROOT, env=platform.environment, check=True, capture_output=True)
        ended = platform.wait(run, 180)
        assert (ended["state_type"], "budget" in ended["state"]["message"]) == ("FAILED", True)
        assert_nothing_is_left(platform)
        wait_for(lambda: deployment(platform)["paused"], 60, "the automation has paused the deployment")
        check_money(platform)
    finally:
        subprocess.run([*budget, "none"], cwd=ROOT, env=platform.environment, check=True, capture_output=True)
        platform.ask("PATCH", f"/deployments/{deployment(platform)['id']}", json={"paused": False})
    assert platform.wait(platform.run(stages=["backtest"]), RUN_S)["state_type"] == "COMPLETED"


def test_no_secret_is_in_anything_that_the_runs_left(platform: Platform) -> None:
    """Neither in what the server keeps, which is all that its UI can show, nor in logs, nor in the store."""
    dump = what_is_left(platform)
    found = {place: bytes(platform.pool, "utf-8") in text for place, text in dump.items()}
    assert {"server.log", "worker.log", "witness.log", "prefect.db"} <= found.keys()
    assert any(place.endswith("manifest.json") for place in found)
    assert found["prefect.db"]  # so the search finds what is there
    for name, value in platform.secrets.items():
        _, _, password = value.rpartition(":")
        forms = (password.encode(), base64.b64encode(value.encode()))
        leaked = [place for place, text in dump.items() if any(form in text for form in forms)]
        assert leaked == [], name


def what_is_left(platform: Platform) -> dict[str, bytes]:
    """place -> its bytes: logs of the services, who print their containers' too, the store, and the database's rows."""
    files = [*platform.folder.glob("*.log"), *(path for path in platform.store.rglob("*") if path.is_file())]
    dump = {str(path.relative_to(platform.folder)): path.read_bytes() for path in files}
    database = sqlite3.connect(f"file:{platform.folder / 'prefect' / 'prefect.db'}?mode=ro", uri=True)
    with closing(database):
        return dump | {"prefect.db": "\n".join(database.iterdump()).encode()}


def deployment(platform: Platform) -> dict[str, Any]:
    described: dict[str, Any] = platform.ask("GET", "/deployments/name/train/chaos")
    return described
