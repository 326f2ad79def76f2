"""Retrains by real processes: what makes a release, which release is proposed, and which retrain isn't begun."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from engine import ledger
from engine.document import Document
from engine.releases import version_of
from engine.store import FolderStore
from retain.rollout import Rollout, describe, rollout_key
from tests.end_to_end.project import Project
from tests.end_to_end.retrains import EXPERIMENT, TABLE, TAG, change_rows, from_chaos, one_more, with_labels_shuffled
from tests.engine.bucket_double import Buckets, Session, serving

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Weekly:
    """A project whose retrains go by an experiment of its own."""

    project: Project
    file: Path

    @property
    def store(self) -> FolderStore:
        return FolderStore(self.project.store)

    @property
    def rollout(self) -> Rollout | None:
        return Document(self.store, rollout_key(TAG), Rollout).read()

    @property
    def table(self) -> Path:
        return self.project.data / TABLE

    @property
    def scope(self) -> str:
        return ledger.scope_of("weekly/{month}", datetime.now(UTC))

    def releases(self) -> set[str]:
        return {version_of(path.parent) for path in self.project.store.glob(f"{TAG}/release/*/manifest.json")}

    def flows(self, *arguments: str) -> tuple[int, str]:
        return self._python("flows", *arguments, "--experiment", str(self.file))

    def retrain(self, exit_code: int = 0) -> str:
        code, said = self.flows("retrain")
        assert code == exit_code, said
        return said

    def controller(self, command: str, *arguments: str) -> None:
        code, said = self._python(
            "deploy.controller", command, *arguments, "--by", "Ann", "--reason", "as a person does"
        )
        assert code == 0, said

    def apart(self, folder: Path) -> Weekly:
        return replace(self, project=self.project.apart(folder))

    def _python(self, *arguments: str) -> tuple[int, str]:
        environment = self.project._environment() | {"EXPERIMENT": TAG}
        done = subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=self.project.root,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=600,
            check=False,
        )
        return done.returncode, done.stdout


@pytest.fixture(scope="module")
def begun(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Weekly:
    """A first release, and a rollout that a person has begun; it has no challenger. Not to be changed."""
    folder = tmp_path_factory.mktemp("weekly")
    file = folder / f"{TAG}.yaml"
    file.write_text(EXPERIMENT)
    weekly = Weekly(finished.apart(folder), file)
    from_chaos(weekly.project.store)
    said = weekly.retrain()
    (first,) = weekly.releases()
    assert f"release {first} is new" in said
    assert f"release {first} is not proposed: no rollout of {TAG} was begun, which takes a person" in said
    assert weekly.rollout is None
    weekly.controller("propose", first)
    assert f"release {first} is not proposed: it is the challenger already: {first} in the shadow of {first}" in (
        weekly.retrain()
    )
    weekly.controller("rollback")
    weekly.controller("release-latch")
    return weekly


@pytest.fixture
def weekly(begun: Weekly, tmp_path: Path) -> Weekly:
    """The same, to be changed."""
    return begun.apart(tmp_path)


def test_unchanged_data_makes_no_release_and_one_in_quarantine_is_not_proposed(weekly: Weekly) -> None:
    (first,), before, spent = weekly.releases(), weekly.rollout, ledger.entries(weekly.store, weekly.scope)
    os.utime(weekly.table)  # touched, with the same bytes
    said = weekly.retrain()
    assert f"nothing changed: no new release, {first} stays the current one" in said
    assert f"release {first} is not proposed: it is in quarantine, since Ann rolled it back: as a person does" in said
    assert weekly.releases() == {first}
    assert weekly.rollout == before
    assert ledger.entries(weekly.store, weekly.scope) == spent


def test_one_appended_row_makes_a_release_and_proposes_it(weekly: Weekly) -> None:
    (first,) = weekly.releases()
    change_rows(weekly.table, one_more)
    said = weekly.retrain()
    (second,) = weekly.releases() - {first}
    assert f"release {second} is new, after {first}. Changed: data of customers (sha256:" in said
    assert f"release {second} is proposed as the challenger, in the shadow of {first}" in said
    rollout = weekly.rollout
    assert rollout is not None
    assert describe(rollout) == f"{second} in the shadow of {first}"
    proposed = rollout.history[-1]
    assert (proposed.action, proposed.by) == ("propose", "make retrain")
    assert f"is not worse than {first}: risk on " in proposed.reason
    assert proposed.reason.endswith("Held-out rows have been read for 1 comparison so far")
    assert f"release {second} is not proposed: it is the challenger already" in weekly.retrain()
    assert weekly.rollout == rollout


def test_a_newer_object_of_a_bucket_makes_a_release_as_a_newer_file_does(weekly: Weekly, tmp_path: Path) -> None:
    (first,), buckets = weekly.releases(), Buckets("bucket")

    def put(path: Path) -> None:
        buckets.put(Session("bucket", f"data/{path.name}", None, {}, content=bytearray(path.read_bytes())))

    def fetched() -> list[str]:
        names = [line.split("?")[0].split("data%2F")[1] for line in buckets.requests if "alt=media" in line]
        buckets.requests.clear()
        return sorted(names)

    with serving(buckets) as server:
        there = {
            "STORAGE_EMULATOR_HOST": server.url,
            "RETAIN_DATA_DIR": "gs://bucket/data",
            "RETAIN_CACHE": str(tmp_path / "cache"),
        }
        in_bucket = replace(weekly, project=replace(weekly.project, environment=there))
        for path in weekly.project.data.iterdir():
            put(path)
        said = in_bucket.retrain()
        assert f"nothing changed: no new release, {first} stays the current one" in said  # the bytes are the folder's
        assert "customers: bucket gs://bucket/data/" in said
        assert fetched() == sorted(path.name for path in weekly.project.data.iterdir())
        change_rows(weekly.table, one_more)
        put(weekly.table)
        said = in_bucket.retrain()
        assert fetched() == [TABLE]
    (second,) = weekly.releases() - {first}
    assert f"release {second} is new, after {first}. Changed: data of customers (sha256:" in said
    assert f"release {second} is proposed as the challenger, in the shadow of {first}" in said


def test_a_release_with_a_worse_model_is_made_but_not_proposed(weekly: Weekly) -> None:
    (first,), before = weekly.releases(), weekly.rollout
    change_rows(weekly.table, with_labels_shuffled)
    said = weekly.retrain()
    (second,) = weekly.releases() - {first}
    assert f"release {second} is not proposed: its risk is not shown to be as good as the champion's on " in said
    assert "AUC 0." in said
    assert weekly.rollout == before


def test_the_budget_of_the_month_refuses_the_next_before_anything_starts(weekly: Weekly) -> None:
    (first,), spent = weekly.releases(), ledger.entries(weekly.store, weekly.scope)
    assert {entry.state for entry in spent} == {"settled"}
    assert (weekly.project.store / "ledger" / f"{weekly.scope}.json").is_file()
    assert weekly.flows("budget", "0.001")[0] == 0
    change_rows(weekly.table, one_more)
    said = weekly.retrain(exit_code=2)
    assert said.splitlines()[-1].startswith("error: refused before anything started: ")
    assert f"{weekly.scope}: metered $" in said.splitlines()[-1]
    assert len(said.splitlines()) == 1
    assert ledger.entries(weekly.store, weekly.scope) == spent
    assert weekly.releases() == {first}
    # Another month has a ledger of its own, with all of the cap.
    assert ledger.entries(weekly.store, ledger.scope_of("weekly/{month}", datetime(2031, 1, 1, tzinfo=UTC))) == []
