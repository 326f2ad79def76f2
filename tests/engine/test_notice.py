"""A spot machine that is to be taken away says so, and the attempt that works on it saves what it has."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import notice
from engine.stage import COMPLETE, PREEMPTED
from tests.engine.metadata_double import Metadata, metadata
from tests.engine.processes import PATIENCE_S
from tests.engine.test_outage import elsewhere, request_of, start
from tests.engine.test_stage import artifact_of, has_checkpoint, next_attempt, record_of, wait_for


@pytest.fixture
def machine() -> Iterator[Metadata]:
    with metadata() as server:
        yield server


def awaited(machine: Metadata, pauses: list[float]) -> threading.Thread:
    def pause(seconds: float) -> None:
        pauses.append(seconds)
        machine.broken = False

    thread = threading.Thread(target=notice.await_notice, args=(machine.host, pause), daemon=True)
    thread.start()
    return thread


def test_nothing_is_heard_until_there_is_a_notice(machine: Metadata) -> None:
    pauses: list[float] = []
    thread = awaited(machine, pauses)
    assert machine.waiting.wait(PATIENCE_S)
    assert thread.is_alive()
    machine.preempted.set()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    assert pauses == []


def test_a_notice_that_came_before_is_heard(machine: Metadata) -> None:
    machine.preempted.set()
    thread = awaited(machine, [])
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


def test_a_server_that_can_t_answer_is_asked_again(machine: Metadata) -> None:
    machine.broken = True
    pauses: list[float] = []
    thread = awaited(machine, pauses)
    assert machine.waiting.wait(PATIENCE_S)
    assert pauses == [notice.AGAIN_S]
    machine.preempted.set()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


def test_without_a_machine_of_google_s_there_is_no_notice() -> None:
    assert notice.server({}) is None
    assert notice.server({"GCE_METADATA_HOST": "metadata.google.internal"}) == "metadata.google.internal"


def test_an_attempt_saves_what_it_has_and_another_machine_goes_on(
    machine: Metadata, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = request_of(tmp_path / "undisturbed", "walk", pause_s=0.0)
    assert start(undisturbed).wait(PATIENCE_S) == COMPLETE

    monkeypatch.setenv("GCE_METADATA_HOST", machine.host)
    request = request_of(tmp_path, "walk", pause_s=0.1)
    process = start(request)
    wait_for(lambda: has_checkpoint(request))
    machine.preempted.set()
    assert process.wait(PATIENCE_S) == PREEMPTED
    record = record_of(request)
    assert (record.status, record.message) == ("preempted", notice.TAKEN_AWAY)

    monkeypatch.delenv("GCE_METADATA_HOST")
    resumed = elsewhere(next_attempt(request), tmp_path)
    assert start(resumed).wait(PATIENCE_S) == COMPLETE
    assert artifact_of(resumed) == artifact_of(undisturbed)
