"""Which release answers where none is named: the champion of the rollout, or the current one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine.document import Document
from engine.errors import RetainError
from engine.releases import version_of
from engine.store import FolderStore
from retain.rollout import Rollout, propose, roll_back, rollout_key
from serve.champion import answering_release, release_to_begin_with
from tests.deploy.fakes import EXPERIMENT, GOOD_PARTS, make_current, release
from tests.rollouts import ANN

KEY = rollout_key(EXPERIMENT)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with two releases, of which the second is current."""
    monkeypatch.setenv("RETAIN_STORE", str(tmp_path / "store"))
    release(tmp_path / "store", 1, GOOD_PARTS)
    release(tmp_path / "store", 2, GOOD_PARTS)
    make_current(tmp_path / "store", 2)
    return tmp_path / "store"


def answers() -> int:
    """The number of the release."""
    return int(answering_release(EXPERIMENT).name)


def put(root: Path, rollout: Rollout) -> None:
    Document(FolderStore(root), KEY, Rollout).change(lambda _: rollout)


def test_without_a_rollout_the_current_release_answers(root: Path) -> None:
    assert answers() == 2


def test_a_release_that_was_made_since_is_no_champion(root: Path) -> None:
    first, second = (version_of(root / EXPERIMENT / "release" / f"{number:064x}") for number in (1, 2))
    rollout = propose(None, first, second, **ANN)
    put(root, rollout)
    assert answers() == 1
    put(root, roll_back(rollout, by="controller", why="errors", at=1))
    assert answers() == 1


@pytest.mark.parametrize("trouble", ["damaged", "champion gone"])
def test_where_the_champion_can_t_be_told_a_service_begins_with_the_current_release(
    root: Path, trouble: str, caplog: pytest.LogCaptureFixture
) -> None:
    put(root, propose(None, "0" * 12 if trouble == "champion gone" else "c" * 12, "a" * 12, **ANN))
    if trouble == "damaged":
        os.truncate(root / KEY, 10)
    with pytest.raises(RetainError):
        answers()
    assert int(release_to_begin_with(EXPERIMENT).name) == 2
    assert "so the current release answers" in caplog.text
