"""The beat of an attempt goes on when the store doesn't: the deadline depends on it."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from engine.claim import acquire
from engine.driver import _Attempt, _beat, _Stop
from engine.patience import Outage
from engine.stage import OVERDUE
from engine.store import FolderStore
from tests.engine.processes import PATIENCE_S
from tests.engine.test_stage import make_request, record_of, wait_for


@contextmanager
def beating(root: Path, time_limit_s: float, patience_s: float = PATIENCE_S) -> Iterator[_Attempt]:
    """An attempt of a claimed stage that beats, in a store that can't be written until `root`/aside is removed."""
    request = make_request(root, time_limit_s=time_limit_s, heartbeat_s=0.05)
    store = FolderStore(root)
    claim = acquire(store, "claim.json", request.number, request.heartbeat_s)
    assert claim is not None
    attempt = _Attempt(request, store, record_of(request), _Stop(), Outage(patience_s), claim)
    attempt.born += attempt.seconds  # this process is older than its attempt
    shutil.rmtree(root / "aside")
    (root / "aside").write_text("in the way")
    beat = threading.Thread(target=_beat, args=(attempt,))
    beat.start()
    try:
        yield attempt
    finally:
        attempt.finished.set()
        attempt.stop.wake.set()
        beat.join()


def test_the_deadline_holds_when_the_store_can_not_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with beating(tmp_path, time_limit_s=0.3) as attempt:
        assert attempt.stop.asked.wait(PATIENCE_S)
        assert attempt.stop.reason == OVERDUE
    assert "can't be written" in capsys.readouterr().err


def test_renewals_go_on_once_the_store_can_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with beating(tmp_path, time_limit_s=PATIENCE_S) as attempt:
        wait_for(lambda: "can't be written" in capsys.readouterr().err)
        (tmp_path / "aside").unlink()
        assert attempt.claim is not None
        wait_for(lambda: attempt.claim.state.renewal > 0)
        wait_for(lambda: record_of(attempt.request).status == "running")
