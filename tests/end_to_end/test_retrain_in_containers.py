"""Retrains in containers, one of them because its time has come."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from docker import DockerClient

from engine import ledger
from engine.document import Document
from engine.fingerprint import ROOT
from engine.releases import version_of
from engine.store import FolderStore
from images.build import build
from retain.rollout import Rollout, describe, rollout_key
from tests.containers import engine_or_skip
from tests.end_to_end.containers import FINAL, Platform, evidence_kept, platform_at, postgres, wait_for
from tests.end_to_end.events import assert_nothing_is_left
from tests.end_to_end.project import Project
from tests.end_to_end.retrains import EXPERIMENT, TABLE, TAG, change_rows, from_chaos, one_more

pytestmark = [pytest.mark.slow, pytest.mark.docker]

WEEKLY = "retrain/weekly"
FILE = f"/data/{TAG}.yaml"  # as containers see it
DUE_S, RUN_S = 60.0, 1800.0


@pytest.fixture(scope="module")
def engine() -> Iterator[DockerClient]:
    yield from engine_or_skip()


@pytest.fixture(scope="module")
def platform(engine: DockerClient, finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """Its store has all but the release; its data folder may be changed, and holds the experiment, too."""
    folder, images = tmp_path_factory.mktemp("retrains"), build(ROOT, ["tabular", "gpu"])
    shutil.copytree(finished.data, folder / "data")
    (folder / "data" / f"{TAG}.yaml").write_text(EXPERIMENT)
    shutil.copytree(finished.store / "chaos", folder / "store" / "chaos")
    from_chaos(folder / "store")
    with postgres(engine) as database, platform_at(folder, folder / "data", images, engine, database) as platform:
        yield platform


@pytest.fixture(autouse=True)
def evidence(platform: Platform, request: pytest.FixtureRequest) -> Iterator[None]:
    yield from evidence_kept(platform, request)


def test_what_is_due_runs_proposes_and_is_refused_once_the_month_is_spent(platform: Platform) -> None:
    store, scope = FolderStore(platform.store), ledger.scope_of("weekly/{month}", datetime.now(UTC))
    deployment = platform.ask("GET", f"/deployments/name/{WEEKLY}")["id"]
    platform.ask("PATCH", f"/deployments/{deployment}", json={"parameters": {"experiment": FILE}})

    said = message(platform.wait(platform.run(WEEKLY), RUN_S), "COMPLETED")
    (first,) = releases(platform.store)
    assert said.startswith(f"release {first} is new, the first.")
    assert f"no rollout of {TAG} was begun, which takes a person" in said
    begin_rollout(platform, first)

    change_rows(platform.data / TABLE, one_more)
    due = datetime.now(UTC) + timedelta(seconds=DUE_S)
    every_day = {"schedule": {"interval": 86_400.0, "anchor_date": due.isoformat()}, "active": True}
    platform.ask("POST", f"/deployments/{deployment}/schedules", json=[every_day])
    wait_for(lambda: bool(ended_by_schedule(platform, deployment)), DUE_S + RUN_S, "what is due has ended")
    (run,) = ended_by_schedule(platform, deployment)
    said = message(run, "COMPLETED")
    (second,) = releases(platform.store) - {first}
    assert f"release {second} is new, after {first}. Changed: data of customers" in said
    rollout = Document(store, rollout_key(TAG), Rollout).read()
    assert rollout is not None
    assert describe(rollout) == f"{second} in the shadow of {first}"
    assert (rollout.history[-1].action, rollout.history[-1].by) == ("propose", WEEKLY)

    said = message(platform.wait(platform.run(WEEKLY), RUN_S), "COMPLETED")
    assert said.startswith(f"nothing changed: no new release, {second} stays the current one")
    assert f"it is the challenger already: {describe(rollout)}" in said

    ledger.set_cap(store, scope, 0.001)
    spent = ledger.entries(store, scope)
    change_rows(platform.data / TABLE, lambda rows: rows[:-1])
    change_rows(platform.data / TABLE, lambda rows: rows[:-1])
    said = message(platform.wait(platform.run(WEEKLY), RUN_S), "FAILED")
    assert said.startswith("refused before anything started: ")
    assert f"{scope}: metered $" in said
    assert ledger.entries(store, scope) == spent
    assert releases(platform.store) == {first, second}
    assert not platform.ask("GET", f"/deployments/{deployment}")["paused"]  # the next month has a budget of its own
    assert_nothing_is_left(platform)


def message(run: dict[str, Any], state: str) -> str:
    said = str(run["state"]["message"])
    assert run["state_type"] == state, said
    return said


def ended_by_schedule(platform: Platform, deployment: str) -> list[dict[str, Any]]:
    chosen = {"flow_runs": {"deployment_id": {"any_": [deployment]}, "state": {"type": {"any_": list(FINAL)}}}}
    return [run for run in platform.ask("POST", "/flow_runs/filter", json=chosen) if run["auto_scheduled"]]


def releases(store: Path) -> set[str]:
    return {version_of(path.parent) for path in store.glob(f"{TAG}/release/*/manifest.json")}


def begin_rollout(platform: Platform, version: str) -> None:
    """As a person does, who then takes the challenger back."""
    environment = {name: value for name, value in platform.environment.items() if name != "RETAIN_PAGE_URL"}
    for command in (["propose", version], ["rollback"], ["release-latch"]):
        subprocess.run(
            [sys.executable, "-m", "deploy.controller", *command, "--by", "Ann", "--reason", "as a person does"],
            cwd=ROOT,
            env=environment | {"EXPERIMENT": TAG},
            check=True,
            stdout=subprocess.DEVNULL,
        )
