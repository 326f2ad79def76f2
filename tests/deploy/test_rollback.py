"""An alert rolls back at once, and again until that is on record."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy import rollback
from deploy.alerts import Alert, parse
from deploy.rollback import Rollbacks
from engine.document import Document
from engine.errors import RetainError, StoreUnavailable
from engine.store import FolderStore
from retain.rollout import Rollout, advance, propose, roll_back, rollout_key
from tests.deploy.alerting import alert, blaming, body
from tests.rollouts import ANN, CHAMPION, GOOD, MISSED, PLAN, evidence, figures

SEEN = figures(["errors"], errors="fail")
SHADOW = propose(None, CHAMPION, GOOD, **ANN)
CANARY = advance(SHADOW, "canary", evidence(SHADOW), PLAN, **ANN)


def alerts(*sent: dict[str, object]) -> tuple[Alert, ...]:
    return parse(body(*sent)).alerts


@pytest.fixture
def document(tmp_path: Path) -> Document[Rollout]:
    document = Document(FolderStore(tmp_path), rollout_key("toy"), Rollout)
    document.change(lambda _: CANARY)
    return document


def rollbacks(document: Document[Rollout], done: Callable[[Rollout], None] = lambda _: None) -> Rollbacks:
    return Rollbacks(document, lambda _: SEEN, lambda: 77, done)


def test_the_challenger_goes_with_reason_and_figures(document: Document[Rollout]) -> None:
    told: list[Rollout] = []
    at_work = rollbacks(document, told.append)
    at_work.judge(alerts(alert("Other"), blaming("RetainArmErrors", GOOD)))
    rollout = document.read()
    assert rollout is not None
    assert (rollout.phase, rollout.latched) == ("baseline", True)
    event = rollout.history[-1]
    assert (event.by, event.reason) == ("controller", "RetainArmErrors: RetainArmErrors is above its limit")
    assert (event.figures, event.at) == (SEEN, 77)
    assert told == [rollout]
    assert (at_work.count, at_work.owing()) == (1, False)


def test_what_blames_nobody_changes_nothing(document: Document[Rollout]) -> None:
    at_work = rollbacks(document)
    for sent in (alert("Other"), blaming("A", MISSED), blaming("B", status="resolved")):
        at_work.judge(alerts(sent))
    assert document.read() == CANARY
    assert at_work.count == 0
    assert not at_work.owing()


def test_it_is_done_once_however_often_the_alert_comes(document: Document[Rollout]) -> None:
    first, spare = rollbacks(document), rollbacks(document)
    threads = [threading.Thread(target=each.judge, args=(alerts(blaming("A", GOOD)),)) for each in (first, spare) * 5]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert first.count + spare.count == 1
    rollout = document.read()
    assert rollout is not None
    assert [event.action for event in rollout.history] == ["propose", "advance", "roll_back"]


def test_without_a_rollout_there_is_nothing_to_roll_back_which_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    document = Document(FolderStore(tmp_path), rollout_key("toy"), Rollout)
    at_work = rollbacks(document)
    at_work.judge(alerts(blaming("A", GOOD)))
    assert document.read() is None
    assert not at_work.owing()
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == f"A would roll a challenger back. {rollback.NO_ROLLOUT}"


def test_a_store_that_does_not_take_it_is_asked_again(
    document: Document[Rollout], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rollback, "AGAIN_SECONDS", 0.001)
    done = threading.Event()
    at_work = rollbacks(document, lambda _: done.set())
    tried = threading.Semaphore(0)
    real, full = FolderStore.write, threading.Event()
    full.set()

    def write(*given: object, **more: object) -> str:
        tried.release()
        if full.is_set():
            raise StoreUnavailable("No space left on device")
        return real(*given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(FolderStore, "write", write)
    threading.Thread(target=at_work.again, daemon=True).start()
    with pytest.raises(StoreUnavailable):
        at_work.judge(alerts(blaming("A", GOOD)))
    assert at_work.owing()
    for _ in range(3):
        assert tried.acquire(timeout=30)
    assert document.read() == CANARY
    full.clear()
    assert done.wait(30)
    assert document.read() == roll_back(CANARY, by="controller", why="A: A is above its limit", at=77, figures=SEEN)
    assert [record.getMessage() for record in caplog.records].count(
        "a rollback could not be put on record, and is tried again: No space left on device"
    ) == 1  # fmt: skip


def test_a_damaged_rollout_is_owed_a_rollback(document: Document[Rollout]) -> None:
    at_work = rollbacks(document)
    document.store.write(document.key, b"{}")
    with pytest.raises(RetainError, match="is damaged"):
        at_work.judge(alerts(blaming("A", GOOD)))
    assert at_work.owing()
