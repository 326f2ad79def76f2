"""Runs that are killed, at random and at every named place: the same bytes, no claim, no child, honest money."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from engine import faults
from tests.end_to_end.project import Project, Stopwatch, check_unharmed, run_to_the_end, states
from tests.engine.bucket_double import Buckets, Session, serving

pytestmark = pytest.mark.kills

KILLS = 5


@pytest.fixture
def project(finished: Project) -> Project:
    """The undisturbed run; not to be changed."""
    return finished


def shoot(project: Project, rng: random.Random) -> dict[str, float]:
    """Runs the experiment under fire until KILLS kills were made, then to its end; attempt -> seconds seen alive."""
    kills = 0
    with Stopwatch(project) as watch:
        while kills < KILLS:
            run = project.start("run")
            while run.poll() is None and kills < KILLS:
                time.sleep(rng.uniform(0.2, 1.5))  # five shots have to fit into the ten seconds of a run
                attempts = watch.attempts()
                # A parent dies as often as a stage; a run without attempts is starting up or ending.
                target = rng.choice(["parent", "stage"]) if attempts else None
                if target == "stage":
                    kills += _kill(rng.choice(attempts).pid)
                elif target == "parent":
                    kills += _kill(run.pid)
            if kills < KILLS or run.poll() is not None:
                _drain(run)
                if run.returncode == 0 and kills < KILLS:
                    raise AssertionError(f"ended after {kills} kills: too fast for this test")
        _drain(run)
        run_to_the_end(project)
    return watch.seconds


def _kill(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def _drain(run: subprocess.Popen[str]) -> None:
    run.communicate(timeout=300)


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 9))], ids=lambda seed: f"seed{seed}"
)
def test_random_kills(project: Project, tmp_path: Path, seed: int) -> None:
    # In every run: without the language models, which test_text_kills.py shoots at one by one.
    shot = project.with_store(tmp_path / "store", *(() if seed else ("backtest", "decision")))
    seen = shoot(shot, random.Random(seed))
    check_unharmed(shot, project, seen)


@pytest.mark.slow
def test_a_bucket_ends_with_the_bytes_of_a_folder(project: Project, tmp_path: Path) -> None:
    """A whole run. Store and tables lie in the double of Google's buckets, which now and then refuses, loses answers,
    and breaks off what is on its way."""
    buckets = Buckets("bucket")
    for table in project.data.iterdir():
        buckets.put(Session("bucket", f"data/{table.name}", None, {}, content=bytearray(table.read_bytes())))
    cache = tmp_path / "cache"
    with serving(buckets) as server:
        there = {
            "STORAGE_EMULATOR_HOST": server.url,
            "RETAIN_STORE": "gs://bucket/some/prefix",
            "RETAIN_DATA_DIR": "gs://bucket/data",
            "RETAIN_CACHE": str(cache),
        }
        shot = project.with_store(cache / "stores" / "bucket" / "some" / "prefix", **there)
        buckets.set(refused=0.01, lost=0.01, cut=0.01, torn=0.01, seed=1)
        seen = shoot(shot, random.Random(11))
    assert any("/data%2F" in line and "alt=media" in line for line in buckets.requests), "no table was fetched"
    # What the bucket holds, as a folder; work folders are on this machine, where nothing is left of them.
    for name, stored in buckets.objects["bucket"].items():
        if name.startswith("data/"):
            continue
        path = shot.store / name.removeprefix("some/prefix/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(stored.content)
    check_unharmed(shot, project, seen)


# In every run: one inside each of rename and settle, without the stages of longer runs; test_decision_kills.py has one
# inside the save of a checkpoint. The others take their minutes in `make test-slow`.
ALWAYS = ("store.rename@20", "ledger.settle@2")
PLACES = (*faults.POINTS, *(f"store.{place}@40" for place in ("write", "rename", "renamed")), "ledger.settle@2")


@pytest.mark.parametrize(
    "place", [p if p in ALWAYS else pytest.param(p, marks=pytest.mark.slow) for p in dict.fromkeys((*ALWAYS, *PLACES))]
)
def test_a_kill_at_a_named_place(project: Project, tmp_path: Path, place: str) -> None:
    mark = tmp_path / "died"
    wanted = ("risk", "accept") if place in ALWAYS else ()
    shot = project.with_store(tmp_path / "store", *wanted, RETAIN_FAULT=place, RETAIN_FAULT_MARK=str(mark))
    with Stopwatch(shot) as watch:
        run_to_the_end(shot)
    assert mark.exists(), "nobody came by"
    check_unharmed(shot, project, watch.seconds)


def test_ctrl_c_leaves_everything_resumable(project: Project, tmp_path: Path) -> None:
    stopped = project.with_store(tmp_path / "store", "risk", "accept")
    run = stopped.start("run")
    with Stopwatch(stopped) as watch:
        while not any("risk" in name for name in watch.seconds):
            assert run.poll() is None
            time.sleep(0.02)
        os.killpg(run.pid, signal.SIGINT)  # to the foreground group, as a terminal does
        output, _ = run.communicate(timeout=60)
        assert run.returncode == 128 + signal.SIGINT
        assert "the same command goes on from here" in output
        assert states(output)["risk"] == "stopped"
        assert stopped.processes() == []
        assert list(stopped.store.rglob("claim.json")) == []
        assert [entry.state for entry in stopped.entries()] == ["settled"] * len(watch.seconds)
        assert run_to_the_end(stopped) == 1
    check_unharmed(stopped, project, watch.seconds)


def test_a_run_whose_server_dies_stops_and_goes_on_later(project: Project, tmp_path: Path) -> None:
    orphaned = project.with_store(tmp_path / "store", "risk", "accept")
    run = orphaned.start("run")
    with Stopwatch(orphaned) as watch:
        while not any("risk" in name for name in watch.seconds):
            assert run.poll() is None
            time.sleep(0.02)
        (server,) = [p for p in orphaned.processes() if "flows.server" in p.cmdline()]
        server.kill()
        output, _ = run.communicate(timeout=60)
        assert run.returncode == 1
        assert "error: Prefect's server ended" in output
        assert "The same command goes on from here" in output
        assert [entry.state for entry in orphaned.entries()] == ["settled"] * len(watch.seconds)
        assert run_to_the_end(orphaned) == 1
    check_unharmed(orphaned, project, watch.seconds)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_can_be_stopped_before_its_first_stage(project: Project, tmp_path: Path, number: signal.Signals) -> None:
    early = project.with_store(tmp_path / "store")
    run = early.start("run")
    while not any("flows.server" in p.cmdline() for p in early.processes()):
        assert run.poll() is None
        time.sleep(0.02)
    run.send_signal(number)
    output, _ = run.communicate(timeout=30)
    assert run.returncode == 128 + number
    assert "stopped; the same command goes on from here" in output
    assert early.processes() == []


def test_two_runs_in_two_terminals(project: Project, tmp_path: Path) -> None:
    shared = project.with_store(tmp_path / "store", "backtest", "accept", "risk")
    with Stopwatch(shared) as watch:
        runs = [shared.start("run"), shared.start("run")]
        outputs = [run.communicate(timeout=300)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outputs
    done = [states(output) for output in outputs]
    for stage in ("customers", "campaigns", "backtest", "accept", "risk"):
        assert sorted(found[stage] for found in done) == ["complete", "reused"], (stage, outputs)
    check_unharmed(shared, project, watch.seconds)
