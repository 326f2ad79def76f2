"""execute() in real processes: how attempts end, and what they leave."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from engine import records
from engine.artifact import ArtifactStore, open_artifact
from engine.checkpoint import Checkpointer
from engine.claim import acquire
from engine.fingerprint import ROOT, Identity, code_digests, library_versions
from engine.interval import CheckpointInterval
from engine.process import this_process
from engine.records import AttemptRecord
from engine.stage import BAD_INPUT, CLAIMED, COMPLETE, FAILED, OVERDUE, PREEMPTED, REFUSED, StageRequest, open_inputs
from engine.store import FolderStore, open_store
from tests.engine.processes import message_without_privileges

TOYS = "tests.engine.toy_stages"


def make_request(root: Path, function: str = "walk", **changes: Any) -> StageRequest:
    """A planned attempt at a toy stage."""
    entry = f"{changes.pop('module', TOYS)}:{function}"
    config = {"steps": 5, "pause_s": 0.01, "scale": 1.0} | changes.pop("config", {})
    identity = Identity(
        stage="toy",
        code=code_digests(entry),
        libraries=library_versions(["numpy"]),
        config=config,
        seed=7,
        inputs=changes.pop("input_digests", {}),
        source=None,
    )
    request = StageRequest(
        experiment="test",
        stage="toy",
        entry=entry,
        config_model=f"{TOYS}:WalkConfig",
        identity=identity,
        inputs={},
        sources={},
        number=0,
        store=str(root),
        work=str(root / "work"),
        threads=1,
        device="cpu",
        time_limit_s=60,
        heartbeat_s=0.2,
        checkpoint=CheckpointInterval(mean_hours_between_preemptions=4.0, every_s=None, every_steps=1),
        shared=False,
        store_patience_s=10.0,
    ).model_copy(update=changes)
    return next_attempt(request)


def next_attempt(request: StageRequest) -> StageRequest:
    store = open_store(request.store)
    planned = AttemptRecord(
        number=0,
        status="planned",
        host="here",
        machine_type="e2-standard-4",
        usd_per_hour=0.134,
        commit="none",
        libraries={},
        started_at="2026-11-23T00:00:00+00:00",
        holder=this_process(),
    )
    record = records.create(store, f"test/toy/{request.fingerprint}", planned)
    return request.model_copy(update={"number": record.number, "work": f"{request.store}/work-{record.number}"})


def start(request: StageRequest, *options: str, stdin: int | None = None) -> subprocess.Popen[bytes]:
    Path(request.work).mkdir(parents=True, exist_ok=True)
    path = Path(request.work) / "request.json"
    path.write_text(request.model_dump_json())
    return subprocess.Popen([sys.executable, "-m", "engine", str(path), *options], cwd=ROOT, stdin=stdin)


def run(request: StageRequest) -> int:
    return start(request).wait()


def outlives_its_limit(request: StageRequest) -> StageRequest:
    """The attempt whose time limit passed while its stage ran, which reports progress as soon as it does.

    A limit that passed before that, while a busy machine still loaded the stage, is doubled for the next attempt.
    """
    while True:
        assert run(request) == OVERDUE
        progress = Path(request.work) / "progress.jsonl"
        lines = progress.read_text().splitlines() if progress.exists() else []
        if lines and json.loads(lines[0])["seconds"] < request.time_limit_s:
            return request
        assert request.time_limit_s < 60, "the stage never ran"
        request = next_attempt(request.model_copy(update={"time_limit_s": 2 * request.time_limit_s}))


def record_of(request: StageRequest) -> AttemptRecord:
    found = records.read(FolderStore(Path(request.store)), f"test/toy/{request.fingerprint}", request.number)
    assert found is not None
    return found


def artifact_of(request: StageRequest) -> dict[str, bytes]:
    folder = Path(request.store) / "test" / "toy" / request.fingerprint
    return {name: path.read_bytes() for name, path in open_artifact(folder).items()}


def left_behind(request: StageRequest) -> list[str]:
    folder = Path(request.store) / "test" / "toy" / request.fingerprint
    claims = list(folder.glob("claim.json"))
    return [str(path) for path in (*claims, *folder.glob("checkpoints/*/*"))]


def wait_for(condition: Any, seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "did not happen in time"
        time.sleep(0.01)


def has_checkpoint(request: StageRequest) -> bool:
    folder = Path(request.store) / "test" / "toy" / request.fingerprint / "checkpoints"
    return any(folder.glob("*/complete.json"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    request = make_request(tmp_path_factory.mktemp("undisturbed"), config={"steps": 40, "pause_s": 0.0})
    assert run(request) == COMPLETE
    return artifact_of(request)


def test_an_attempt_publishes_its_artifact_and_leaves_nothing_else(tmp_path: Path) -> None:
    request = make_request(tmp_path)
    assert run(request) == COMPLETE
    files = artifact_of(request)
    assert set(files) == {"metrics.json", "place.json", "evidence/steps.parquet"}
    assert json.loads(files["metrics.json"])["place"]["value"] == json.loads(files["place.json"])["place"]
    record = record_of(request)
    assert record.status == "complete"
    assert 0 < record.run_seconds <= record.seconds
    assert left_behind(request) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_attempt_goes_on_to_the_same_bytes(
    tmp_path: Path, number: signal.Signals, undisturbed: dict[str, bytes]
) -> None:
    request = make_request(tmp_path, config={"steps": 40, "pause_s": 0.02})
    process = start(request)
    wait_for(lambda: has_checkpoint(request))
    process.send_signal(number)
    code = process.wait()
    assert code == (-number if number == signal.SIGKILL else PREEMPTED)
    assert has_checkpoint(request)
    assert record_of(request).status == ("running" if number == signal.SIGKILL else "preempted")
    again = next_attempt(request)
    assert run(again) == COMPLETE
    assert artifact_of(again) == undisturbed
    assert left_behind(again) == []


def test_an_attempt_stops_when_its_parent_dies(tmp_path: Path) -> None:
    request = make_request(tmp_path, config={"steps": 1000, "pause_s": 0.02})
    process = start(request, "--lifeline", stdin=subprocess.PIPE)
    wait_for(lambda: has_checkpoint(request))
    assert process.stdin is not None
    process.stdin.close()  # what the kernel does when the holder of the other end dies
    assert process.wait(timeout=10) == PREEMPTED
    assert record_of(request).status == "preempted"


def test_a_stage_that_outlives_its_deadline_stops_itself(tmp_path: Path) -> None:
    request = outlives_its_limit(make_request(tmp_path, config={"steps": 10_000, "pause_s": 0.02}, time_limit_s=1.0))
    record = record_of(request)
    assert (record.status, record.message) == ("overdue", "outlived its time limit and stopped itself")
    assert left_behind(request) != []  # its checkpoints: a longer limit goes on from there


def test_a_stage_that_never_asks_is_ended_all_the_same(tmp_path: Path) -> None:
    request = outlives_its_limit(make_request(tmp_path, "stubborn", config={"pause_s": 600.0}, time_limit_s=1.0))
    record = record_of(request)
    assert (record.status, record.message) == (
        "overdue",
        "outlived its time limit and stopped itself; it did not answer within 10 s",
    )
    assert left_behind(request) == []


def test_a_stage_that_is_still_being_imported_is_ended_at_once(tmp_path: Path) -> None:
    request = make_request(tmp_path, module="tests.engine.slow_import")
    process = start(request)
    wait_for(lambda: record_of(request).status == "running")
    process.terminate()
    assert process.wait(timeout=30) == PREEMPTED
    assert (record_of(request).status, record_of(request).message) == ("preempted", "asked to stop")
    assert left_behind(request) == []


@pytest.mark.parametrize(
    ("function", "code", "status", "message"),
    [
        ("broken", FAILED, "failed", "ZeroDivisionError: a bug"),
        ("bad_input", BAD_INPUT, "failed", "table.csv, row 7: no such thing; mend it"),
        ("missed", REFUSED, "refused", "risk auc 0.5 (wanted >= 0.78)"),
    ],
)
def test_failures_end_in_one_clear_message(tmp_path: Path, function: str, code: int, status: str, message: str) -> None:
    request = make_request(tmp_path, function)
    assert run(request) == code
    assert (record_of(request).status, record_of(request).message) == (status, message)
    assert not (tmp_path / "test" / "toy" / request.fingerprint / "manifest.json").exists()
    assert left_behind(request) == []


def test_source_files_are_found_under_their_names(tmp_path: Path) -> None:
    contents = {"source.csv": b"a,b\n", "deep/er/text.jsonl": b"{}\n"}
    keys = {name: f"sources/{hashlib.sha256(content).hexdigest()}" for name, content in contents.items()}
    for name, content in contents.items():
        FolderStore(tmp_path).write(keys[name], content)
    request = make_request(tmp_path, "reads_sources", sources=keys)
    assert run(request) == COMPLETE
    assert json.loads(artifact_of(request)["found.json"]) == {n: content.decode() for n, content in contents.items()}


@pytest.mark.parametrize("harm", ["damaged", "gone"])
def test_a_source_file_with_other_bytes_is_refused(tmp_path: Path, harm: str) -> None:
    key = f"sources/{hashlib.sha256(b'a').hexdigest()}"
    if harm == "damaged":
        FolderStore(tmp_path).write(key, b"b")
    request = make_request(tmp_path, "reads_sources", sources={"source.csv": key})
    assert run(request) == BAD_INPUT
    assert "damaged in the store; remove it and run again" in record_of(request).message


def test_a_source_file_that_may_not_be_read_is_not_called_damaged(tmp_path: Path) -> None:
    key = f"sources/{hashlib.sha256(b'a').hexdigest()}"
    FolderStore(tmp_path).write(key, b"a")
    request = make_request(tmp_path, "reads_sources", sources={"source.csv": key})
    path = tmp_path / key
    path.chmod(0)
    try:
        store = ArtifactStore(FolderStore(tmp_path), request.experiment)
        message = message_without_privileges(open_inputs, request, store)
        assert message.startswith(f"{path}: can't be read (Permission denied)")
    finally:
        path.chmod(0o644)


def test_other_code_than_the_request_was_made_for_is_refused(tmp_path: Path) -> None:
    request = make_request(tmp_path)
    code = request.identity.code | {"tests/engine/toy_stages.py": "0" * 64}
    other = next_attempt(request.model_copy(update={"identity": request.identity.model_copy(update={"code": code})}))
    assert run(other) == BAD_INPUT
    assert "other code than the request was made for: tests/engine/toy_stages.py" in record_of(other).message


@pytest.mark.parametrize(
    "changes",
    [{"code": {"tests/engine/toy_stages.py": "0" * 64}}, {"libraries": {"python": "3.11", "numpy": "0"}}],
    ids=["code", "libraries"],
)
def test_an_image_names_the_command_that_brings_it_up_to_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    request = make_request(tmp_path)
    identity = request.identity.model_copy(update=changes)
    other = next_attempt(request.model_copy(update={"identity": identity}))
    assert run(other) == BAD_INPUT
    assert "Run `" not in record_of(other).message
    monkeypatch.setenv("RETAIN_REBUILD", "make images && make deploy")
    again = next_attempt(other)
    assert run(again) == BAD_INPUT
    assert record_of(again).message.endswith(". Run `make images && make deploy`, which brings this image up to date")


def test_an_attempt_leaves_a_claimed_stage_alone(tmp_path: Path) -> None:
    request = make_request(tmp_path)
    store = FolderStore(tmp_path)
    claim = acquire(store, f"test/toy/{request.fingerprint}/claim.json", token=99, interval_s=60)
    assert claim is not None
    assert run(request) == CLAIMED
    assert record_of(request).status == "claimed"
    claim.check()  # still ours


def test_an_attempt_that_was_overtaken_writes_nothing_more(tmp_path: Path) -> None:
    request = make_request(tmp_path, config={"steps": 1000, "pause_s": 0.02})
    process = start(request)
    wait_for(lambda: has_checkpoint(request))
    key = tmp_path / "test" / "toy" / request.fingerprint / "claim.json"
    state = json.loads(key.read_text())
    # Somebody elsewhere took over: from here on the claim names another token.
    FolderStore(tmp_path).write(str(key.relative_to(tmp_path)), json.dumps(state | {"token": 99}).encode())
    assert process.wait(timeout=10) == 76
    assert json.loads(key.read_text())["token"] == 99
    assert record_of(request).status == "claimed"
    assert ArtifactStore(FolderStore(tmp_path), "test").manifest("toy", request.fingerprint) is None


def test_a_damaged_checkpoint_costs_one_interval(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    request = make_request(tmp_path, config={"steps": 40, "pause_s": 0.0})
    process = start(request)
    wait_for(lambda: has_checkpoint(request))
    process.kill()
    process.wait()
    folder = tmp_path / "test" / "toy" / request.fingerprint / "checkpoints"
    newest = max(folder.glob("*/state.json"))
    newest.write_bytes(newest.read_bytes()[:-5])
    again = next_attempt(request)
    assert run(again) == COMPLETE
    assert artifact_of(again) == undisturbed


def test_checkpoints_of_one_fingerprint_are_not_seen_by_another(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    claim = acquire(store, "a/claim.json", token=1, interval_s=60)
    assert claim is not None
    Checkpointer(store, "a/checkpoints", claim).save(3, {"x": b"3"})
    assert Checkpointer(store, "b/checkpoints", claim).load() is None


def test_threads_are_those_of_the_request_and_wait_without_spinning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    request = make_request(tmp_path, "surroundings", threads=2)
    assert run(request) == COMPLETE
    threads = json.loads(artifact_of(request)["threads.json"])
    assert (threads["OMP_NUM_THREADS"], threads["MKL_NUM_THREADS"]) == ("2", "2")
    assert (threads["OMP_WAIT_POLICY"], threads["OPENBLAS_NUM_THREADS"]) == ("PASSIVE", "1")


def test_progress_that_can_not_be_written_is_no_failure(tmp_path: Path) -> None:
    """The disk is full, or was when the line before was written."""
    request = make_request(tmp_path)
    Path(request.work).mkdir()
    (Path(request.work) / "progress.jsonl").symlink_to("/dev/full")
    assert run(request) == COMPLETE


def test_a_request_that_is_none_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "request.json"
    path.write_text("{}")
    done = subprocess.run([sys.executable, "-m", "engine", str(path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == BAD_INPUT
    assert len(done.stderr.strip().splitlines()) == 1
    assert "not a stage request" in done.stderr
