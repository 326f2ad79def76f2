"""Attempts in real containers, killed in real ways, end with the bytes of an undisturbed run, and nobody is charged
twice."""

from __future__ import annotations

import base64
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from docker import DockerClient

from engine import ledger
from engine.fingerprint import ROOT
from engine.store import FolderStore
from images.build import build
from tests.containers import engine_or_skip
from tests.end_to_end.containers import (
    FLOW_RUN,
    Platform,
    check_money,
    digests,
    evidence_kept,
    first_step,
    platform_at,
    postgres,
    sealed_step,
    wait_for,
)
from tests.end_to_end.events import Strikes, assert_nothing_is_left
from tests.end_to_end.project import Project
from tests.end_to_end.shown import check_shown

pytestmark = pytest.mark.docker

TABLES = ("risk", "accept")
RUN_S = 420.0
NOTHING_S = 0.1  # that an attempt may be charged which began nothing


@pytest.fixture(scope="module")
def engine() -> Iterator[DockerClient]:
    yield from engine_or_skip()


@pytest.fixture(scope="module")
def platform(engine: DockerClient, ready: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    images, folder = build(ROOT, ["tabular", "serve"]), tmp_path_factory.mktemp("platform")
    with postgres(engine) as database, platform_at(folder, ready.data, images, engine, database) as platform:
        yield platform


@pytest.fixture(autouse=True)
def evidence(platform: Platform, request: pytest.FixtureRequest) -> Iterator[None]:
    yield from evidence_kept(platform, request)


@pytest.fixture(scope="module")
def undisturbed(ready: Project) -> dict[str, str]:
    """The artifacts of a plain run on this machine, without containers."""
    return digests(ready.store)


def test_killed_containers_end_with_the_bytes_of_a_plain_run(platform: Platform, undisturbed: dict[str, str]) -> None:
    run = platform.run(stages=list(TABLES))
    strikes = Strikes(platform, run, random.Random(16), soon_s=1.0)
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


def test_two_runs_at_once_do_nothing_twice(platform: Platform, undisturbed: dict[str, str]) -> None:
    for stage in TABLES:
        shutil.rmtree(platform.store / "chaos" / stage, ignore_errors=True)
    before = {entry.attempt_id for entry in entries(platform)}
    runs = [platform.run(stages=list(TABLES)) for _ in range(2)]
    assert [platform.wait(run, RUN_S)["state_type"] for run in runs] == ["COMPLETED"] * 2
    attempts = [attempt for run in runs for attempt in platform.attempts(run)]
    completed = [attempt["parameters"]["stage"] for attempt in attempts if attempt["state_type"] == "COMPLETED"]
    assert len(completed) == len(set(completed))
    assert set(TABLES) <= set(completed)
    charged = [
        entry.stage for entry in entries(platform) if entry.attempt_id not in before and entry.seconds > NOTHING_S
    ]
    assert sorted(charged) == sorted(completed)
    assert digests(platform.store) == undisturbed
    assert_nothing_is_left(platform)
    check_money(platform)


def test_a_run_that_was_stopped_goes_on_from_its_checkpoints(platform: Platform) -> None:
    """Stopped by Ctrl-C of `make run.docker`, then as the UI does it; and an attempt of its own by SIGTERM."""
    command = [sys.executable, "-m", "flows.follow", "--experiment", "chaos", "--stage", "decision"]
    followed = subprocess.Popen(command, cwd=ROOT, env=platform.environment, stdout=subprocess.PIPE, text=True)
    wait_for_checkpoint(platform)
    with frozen_until_asked_to_stop(platform):
        followed.send_signal(signal.SIGINT)
    said, _ = followed.communicate(timeout=120)
    assert followed.returncode == 130
    assert "stopping: its stages save their checkpoints" in said
    assert "Cancelled" in said.splitlines()[-1]
    assert_nothing_is_left(platform)

    kept = sealed_step(platform, "decision")
    run = platform.run(stages=["decision"])
    wait_for_checkpoint(platform, kept)
    with frozen_until_asked_to_stop(platform):
        platform.ask("POST", f"/flow_runs/{run}/set_state", json={"state": {"type": "CANCELLING"}})
    assert platform.wait(run, 120)["state_type"] == "CANCELLED"
    assert_nothing_is_left(platform)
    assert first_step(platform, "decision") > kept

    kept = sealed_step(platform, "decision")
    run = platform.run(stages=["decision"])
    wait_for_checkpoint(platform, kept)
    kept = sealed_step(platform, "decision")
    platform.container_of("decision-").kill(signal="SIGTERM")
    assert platform.wait(run, RUN_S)["state_type"] == "COMPLETED"
    assert len(platform.attempts(run)) == 2
    assert first_step(platform, "decision") > kept
    check_money(platform)


def test_a_cap_that_is_lowered_stops_the_run_and_pauses_its_deployment(platform: Platform) -> None:
    shutil.rmtree(platform.store / "chaos" / "decision", ignore_errors=True)
    run = platform.run(stages=["decision"])
    wait_for_checkpoint(platform)
    budget = [sys.executable, "-m", "flows", "budget", "--experiment", "chaos"]
    try:
        with frozen_until_asked_to_stop(platform):
            subprocess.run([*budget, "0.0001"], cwd=ROOT, env=platform.environment, check=True, capture_output=True)
        ended = platform.wait(run, 180)
        assert (ended["state_type"], "budget" in ended["state"]["message"]) == ("FAILED", True)
        assert_nothing_is_left(platform)
        wait_for(lambda: deployment(platform)["paused"], 60, "the automation has paused the deployment")
        check_money(platform)
    finally:
        subprocess.run([*budget, "none"], cwd=ROOT, env=platform.environment, check=True, capture_output=True)
        platform.ask("PATCH", f"/deployments/{deployment(platform)['id']}", json={"paused": False})
    kept = sealed_step(platform, "decision")
    assert platform.wait(platform.run(stages=["decision"]), RUN_S)["state_type"] == "COMPLETED"
    assert first_step(platform, "decision") > kept > 0


def test_no_secret_is_in_anything_that_the_runs_left(platform: Platform) -> None:
    """Neither in what the server keeps, which is all that its UI can show, nor in logs, nor in the store."""
    if not platform.environments:
        assert platform.wait(platform.run(stages=["customers"]), RUN_S)["state_type"] == "COMPLETED"
        assert_nothing_is_left(platform)
    # Containers were given what they log in with, so that it could have leaked.
    login = f"PREFECT_API_AUTH_STRING={platform.secrets['PREFECT_API_AUTH_STRING']}"
    assert [container for container, given in platform.environments.items() if login not in given] == []
    dump = what_is_left(platform)
    assert {"server.log", "worker.log", "witness.log", "database"} <= dump.keys()
    assert any(place.endswith("manifest.json") for place in dump)
    assert platform.pool.encode() in dump["database"]  # so the search finds what is there
    for name, value in platform.secrets.items():
        _, _, password = value.rpartition(":")
        forms = (password.encode(), base64.b64encode(value.encode()))
        leaked = [place for place, text in dump.items() if any(form in text for form in forms)]
        assert leaked == [], name


def what_is_left(platform: Platform) -> dict[str, bytes]:
    """place -> its bytes: logs of the services, who print their containers' too, the store, and the database's rows."""
    files = [*platform.folder.glob("*.log"), *(path for path in platform.store.rglob("*") if path.is_file())]
    dump = {str(path.relative_to(platform.folder)): path.read_bytes() for path in files}
    assert platform.database is not None
    code, rows = platform.database.exec_run("pg_dump --username=prefect prefect")
    assert code == 0, rows
    return dump | {"database": rows}


def wait_for_checkpoint(platform: Platform, after: int = 0) -> None:
    """Until `decision` has completed one of a later step than `after`."""
    wait_for(lambda: sealed_step(platform, "decision") > after, 120, f"a checkpoint after step {after}")


@contextmanager
def frozen_until_asked_to_stop(platform: Platform) -> Iterator[None]:
    """Pauses `decision` while its end is asked for, which takes seconds: on a fast machine it would complete."""
    container = platform.container_of("decision-")
    container.pause()
    try:
        yield
        attempt = container.labels[FLOW_RUN]
        wait_for(lambda: platform.flow_run(attempt)["state_type"] == "CANCELLING", 15, "the attempt is to stop")
    finally:
        container.unpause()


def entries(platform: Platform) -> list[ledger.Entry]:
    return ledger.entries(FolderStore(platform.store), "chaos")


def deployment(platform: Platform) -> dict[str, Any]:
    described: dict[str, Any] = platform.ask("GET", "/deployments/name/train/chaos")
    return described
