"""Attempts in real processes whose store goes away for a while, or for good, or to whoever took it over."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from engine import records
from engine.artifact import ArtifactStore
from engine.claim import acquire, take_away
from engine.fingerprint import ROOT
from engine.interval import CheckpointInterval
from engine.records import LOG, PROGRESS, AttemptRecord
from engine.stage import BAD_INPUT, COMPLETE, FENCED, PREEMPTED, UNAVAILABLE, StageRequest
from engine.store import FolderStore
from tests.engine.processes import PATIENCE_S
from tests.engine.test_stage import artifact_of, has_checkpoint, make_request, next_attempt, record_of, wait_for

STEPS = 40


def request_of(tmp_path: Path, function: str = "amble", pause_s: float = 0.03, **changes: Any) -> StageRequest:
    """Of an attempt whose store and work folder are two places."""
    given = {"shared": True, "store_patience_s": PATIENCE_S} | changes
    return elsewhere(
        make_request(tmp_path / "store", function, config={"steps": STEPS, "pause_s": pause_s}, **given), tmp_path
    )


def elsewhere(request: StageRequest, tmp_path: Path) -> StageRequest:
    return request.model_copy(update={"work": str(tmp_path / f"work-{request.number}")})


def start(request: StageRequest) -> subprocess.Popen[bytes]:
    """As whoever starts an attempt does: its output goes into the log of its work folder."""
    work = Path(request.work)
    work.mkdir(parents=True)
    (work / "request.json").write_text(request.model_dump_json())
    with (work / LOG).open("ab") as log:
        command = [sys.executable, "-m", "engine", str(work / "request.json")]
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)


def log_of(request: StageRequest) -> str:
    return (Path(request.work) / LOG).read_text()


def steps_of(request: StageRequest) -> int:
    progress = Path(request.work) / PROGRESS
    return progress.read_bytes().count(b"\n") if progress.exists() else 0


def stored(request: StageRequest, suffix: str) -> str:
    found = FolderStore(Path(request.store)).read(records.key(prefix_of(request), request.number, suffix))
    return found[0].decode() if found else ""


def prefix_of(request: StageRequest) -> str:
    return f"test/toy/{request.fingerprint}"


def content(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    request = request_of(tmp_path_factory.mktemp("undisturbed"), pause_s=0.03)
    assert start(request).wait() == COMPLETE
    return artifact_of(request)


def test_a_store_that_is_gone_for_a_while_is_waited_for(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    request = request_of(tmp_path)
    process = start(request)
    wait_for(lambda: has_checkpoint(request))
    (tmp_path / "store").rename(tmp_path / "away")
    wait_for(lambda: "gone; trying again" in log_of(request))
    wait_for(lambda: steps_of(request) >= STEPS)  # the stage goes on meanwhile, and then wants to publish
    time.sleep(0.3)
    assert process.poll() is None
    (tmp_path / "away").rename(tmp_path / "store")
    assert process.wait(timeout=PATIENCE_S) == COMPLETE
    assert artifact_of(request) == undisturbed
    assert log_of(request).count("trying again") == 1
    assert "the store's folder is gone" in (Path(request.work) / PROGRESS).read_text()
    assert record_of(request).status == "complete"


def test_beats_and_checkpoints_go_on_once_the_store_is_back(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    request = request_of(tmp_path, pause_s=0.03)
    process = start(request)
    wait_for(lambda: has_checkpoint(request))
    (tmp_path / "store").rename(tmp_path / "away")
    wait_for(lambda: "trying again" in log_of(request))
    (tmp_path / "away").rename(tmp_path / "store")
    assert process.wait(timeout=PATIENCE_S) == COMPLETE
    saves = record_of(request).checkpoints
    assert saves is not None
    assert saves.copied > 1
    assert artifact_of(request) == undisturbed


@pytest.mark.parametrize(("shared", "code"), [(True, UNAVAILABLE), (False, BAD_INPUT)])
def test_a_store_that_stays_away_ends_the_attempt(
    tmp_path: Path, shared: bool, code: int, undisturbed: dict[str, bytes]
) -> None:
    request = request_of(tmp_path, shared=shared, store_patience_s=0.5, pause_s=0.03)
    process = start(request)
    wait_for(lambda: has_checkpoint(request))
    (tmp_path / "store").rename(tmp_path / "away")
    assert process.wait(timeout=PATIENCE_S) == code
    assert log_of(request).splitlines()[-1].endswith("store: the store's folder is gone")
    assert not (tmp_path / "store").exists()
    (tmp_path / "away").rename(tmp_path / "store")
    assert take_away(FolderStore(tmp_path / "store"), f"{prefix_of(request)}/claim.json", request.number)
    again = elsewhere(next_attempt(request), tmp_path)
    assert start(again).wait() == COMPLETE
    assert artifact_of(again) == undisturbed
    assert steps_of(again) < STEPS, "it began again"


def test_asked_to_stop_while_the_store_is_gone_it_does(tmp_path: Path) -> None:
    request = request_of(tmp_path)
    process = start(request)
    wait_for(lambda: has_checkpoint(request))
    (tmp_path / "store").rename(tmp_path / "away")
    wait_for(lambda: "trying again" in log_of(request))
    process.terminate()
    assert process.wait(timeout=PATIENCE_S) == PREEMPTED
    assert "its last checkpoint did not get into the store within 10 s" in log_of(request)


def test_the_last_checkpoint_of_a_stop_is_in_the_store(tmp_path: Path) -> None:
    seldom = CheckpointInterval(mean_hours_between_preemptions=4.0, every_s=1000.0, every_steps=None)
    request = request_of(tmp_path, checkpoint=seldom)
    process = start(request)
    wait_for(lambda: steps_of(request) >= 3)
    process.terminate()
    assert process.wait(timeout=PATIENCE_S) == PREEMPTED
    assert has_checkpoint(request)
    saves = record_of(request).checkpoints
    assert saves is not None
    assert (saves.saved, saves.copied) == (1, 1)


def test_log_and_progress_reach_a_parent_that_shares_the_store_alone(tmp_path: Path) -> None:
    request = request_of(tmp_path)
    process = start(request)
    wait_for(lambda: "ambling" in stored(request, "log") and '"step"' in stored(request, "progress.jsonl"))
    assert process.poll() is None
    process.wait()
    assert stored(request, "log") == log_of(request)
    assert "checkpoints: " in stored(request, "log")
    assert json.loads(stored(request, "progress.jsonl").splitlines()[-1])["step"] == STEPS


def test_log_and_progress_stay_where_the_parent_sees_the_folder(tmp_path: Path) -> None:
    request = request_of(tmp_path, shared=False, pause_s=0.0)
    assert start(request).wait() == COMPLETE
    assert (stored(request, "log"), stored(request, "progress.jsonl")) == ("", "")


@pytest.mark.parametrize("shared", [True, False])
def test_inputs_are_copied_where_the_store_may_go_away(tmp_path: Path, shared: bool) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "place.json").write_text('{"place": 1.0}')
    artifacts = ArtifactStore(FolderStore(tmp_path / "store"), "test")
    manifest = artifacts.publish("before", "f00", tmp_path / "made")
    request = request_of(
        tmp_path, shared=shared, inputs={"before": "f00"}, input_digests={"before": manifest.digest}, pause_s=0.0
    )
    assert start(request).wait() == COMPLETE
    assert (Path(request.work) / "inputs" / "before" / "place.json").is_symlink() == (not shared)
    assert json.loads(artifact_of(request)["place.json"])["read"] == {"before": '{"place": 1.0}'}


def test_what_checkpoints_cost_is_recorded_and_said(tmp_path: Path) -> None:
    request = request_of(tmp_path, pause_s=0.01)
    assert start(request).wait() == COMPLETE
    record = record_of(request)
    assert record.checkpoints is not None
    assert record.checkpoints.saved == STEPS
    assert 1 <= record.checkpoints.copied <= STEPS
    assert record.checkpoints.bytes > STEPS * 100
    assert 0 < record.checkpoints.waited_s < record.run_seconds
    assert record.checkpoints.share * record.run_seconds == pytest.approx(record.checkpoints.waited_s, abs=0.001)
    (line,) = [line for line in log_of(request).splitlines() if line.startswith("checkpoints: ")]
    assert line == str(record.checkpoints)
    assert line.startswith(f"checkpoints: {STEPS} of 0.0 MB, the stage waited ")


def test_intervals_are_no_part_of_a_result(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    fingerprints = set()
    for number, changes in enumerate(({"every_steps": 7}, {"every_s": 0.05}, {}, {"every_s": 1000.0})):
        given = {"mean_hours_between_preemptions": 0.001, "every_s": None, "every_steps": None} | changes
        request = request_of(tmp_path / str(number), checkpoint=CheckpointInterval(**given), pause_s=0.03)
        assert start(request).wait() == COMPLETE
        assert artifact_of(request) == undisturbed
        fingerprints.add(request.fingerprint)
        saves = record_of(request).checkpoints
        assert (saves is None) == (changes == {"every_s": 1000.0} or changes == {})
    assert len(fingerprints) == 1


def test_a_zombie_that_wakes_up_changes_nothing(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    """Paused until its parent took it for dead; its successor completed meanwhile."""
    request = request_of(tmp_path)
    process = start(request)
    wait_for(lambda: has_checkpoint(request))
    os.kill(process.pid, signal.SIGSTOP)
    store = FolderStore(tmp_path / "store")
    close(store, request)
    again = elsewhere(next_attempt(request), tmp_path)
    assert start(again).wait() == COMPLETE
    assert artifact_of(again) == undisturbed
    before = content(tmp_path / "store")
    os.kill(process.pid, signal.SIGCONT)
    assert process.wait(timeout=PATIENCE_S) == FENCED
    assert {name: data for name, data in content(tmp_path / "store").items() if before.get(name) != data} == {}


def close(store: FolderStore, request: StageRequest) -> None:
    """What a parent does that saw the attempt end."""
    record = record_of(request)
    records.write(store, prefix_of(request), record.model_copy(update={"status": "killed", "seconds": 1.0}))
    assert take_away(store, f"{prefix_of(request)}/claim.json", request.number)


def test_a_process_that_comes_after_its_attempt_was_closed_does_nothing(tmp_path: Path) -> None:
    request = request_of(tmp_path)
    store = FolderStore(tmp_path / "store")
    planned = record_of(request)
    records.write(store, prefix_of(request), planned.model_copy(update={"status": "killed"}))
    before = content(tmp_path / "store")
    assert start(request).wait() == FENCED
    assert content(tmp_path / "store") == before
    assert log_of(request) == f"attempt {request.number} is over: killed\n"


def test_an_attempt_whose_record_was_closed_stops(tmp_path: Path) -> None:
    """Somebody took it for dead, and nobody has taken its claim yet."""
    request = request_of(tmp_path, pause_s=0.5)
    process = start(request)
    wait_for(lambda: record_of(request).status == "running" and steps_of(request) > 0)
    closed: AttemptRecord = record_of(request).model_copy(update={"status": "killed"})
    store = FolderStore(tmp_path / "store")
    records.write(store, prefix_of(request), closed)
    time.sleep(0.05)  # a beat that was under way when the record was closed may have written it again
    records.write(store, prefix_of(request), closed)
    assert process.wait(timeout=PATIENCE_S) == FENCED
    assert record_of(request) == closed
    assert acquire(store, f"{prefix_of(request)}/claim.json", 99, 30.0) is not None, "its claim was left behind"
