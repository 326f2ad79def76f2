"""A rollout and its lease in a store: of two writers neither undoes what the other did, and nothing damaged is read."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.document import Document
from engine.errors import RetainError, StoreUnavailable
from engine.store import FolderStore
from retain.lease import Lease, LeaseError, Sighting, renewed, sighted
from retain.rollout import (
    Rollout,
    RolloutError,
    advance,
    lease_key,
    propose,
    release_latch,
    roll_back,
    rollout_key,
    set_percent,
)
from tests.engine.processes import message_without_privileges, race
from tests.rollouts import ANN, CHAMPION, GOOD, MISSED, PLAN, evidence

SHADOWED = propose(None, CHAMPION, GOOD, **ANN)
CANARY = advance(SHADOWED, "canary", evidence(SHADOWED), PLAN, **ANN)


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path)


@pytest.fixture
def rollout(store: FolderStore) -> Document[Rollout]:
    return Document(store, rollout_key("local"), Rollout)


@pytest.fixture
def lease(store: FolderStore) -> Document[Lease]:
    return Document(store, lease_key("local"), Lease)


def there(found: Rollout | None) -> Rollout:
    assert found is not None
    return found


def back(found: Rollout | None) -> Rollout:
    return roll_back(there(found), by="controller", why="errors", at=2)


class FasterWriter(FolderStore):
    """Somebody else writes first, each time that there is something left to do."""

    def __init__(self, root: Path, *others: Callable[[], object]) -> None:
        super().__init__(root)
        self.others = list(others)

    def write(self, key: str, data: bytes, expect: str | None = None, **more: Any) -> str:
        if self.others:
            self.others.pop(0)()
        return super().write(key, data, expect, **more)


def test_what_is_not_there_is_none(rollout: Document[Rollout], tmp_path: Path) -> None:
    assert rollout.read() is None
    assert not list(tmp_path.iterdir())


def test_what_was_written_is_read(rollout: Document[Rollout], lease: Document[Lease], tmp_path: Path) -> None:
    assert rollout.change(lambda _: CANARY) == CANARY
    assert rollout.read() == CANARY
    assert lease.change(lambda _: Lease(holder="a", generation=2, count=1)).count == 1
    assert {path.name for path in (tmp_path / "rollout" / "local").iterdir()} == {"rollout.json", "lease.json"}


def test_a_transition_that_changes_nothing_writes_nothing(rollout: Document[Rollout], tmp_path: Path) -> None:
    rollout.change(lambda _: CANARY)
    gone = rollout.change(back)
    path = tmp_path / rollout_key("local")
    before = path.stat().st_mtime_ns, path.stat().st_ino
    assert rollout.change(back) == gone
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == before
    with pytest.raises(RolloutError):
        rollout.change(lambda found: set_percent(there(found), 50, **ANN))
    assert rollout.read() == gone


def test_a_rollback_wins_over_whoever_is_faster(tmp_path: Path) -> None:
    quick = Document(FolderStore(tmp_path), rollout_key("local"), Rollout)
    quick.change(lambda _: CANARY)
    others = [
        lambda percent=percent: quick.change(lambda found: set_percent(there(found), percent, **ANN))
        for percent in (4.0, 3.0, 2.0)
    ]
    slow = Document(FasterWriter(tmp_path, *others), rollout_key("local"), Rollout)
    gone = slow.change(back)
    assert gone == quick.read()
    assert gone.latched
    assert [event.action for event in gone.history[2:]] == ["set_percent"] * 3 + ["roll_back"]


def test_of_two_who_go_forward_at_once_one_is_told_to_look_again(tmp_path: Path) -> None:
    quick = Document(FolderStore(tmp_path), rollout_key("local"), Rollout)
    quick.change(lambda _: CANARY)

    def forward(found: Rollout | None) -> Rollout:
        return advance(there(found), "canary", evidence(CANARY), PLAN, **ANN)

    slow = Document(FasterWriter(tmp_path, lambda: quick.change(forward)), rollout_key("local"), Rollout)
    with pytest.raises(RolloutError, match="look again"):
        slow.change(forward)
    assert there(quick.read()).percent == 20


def test_who_goes_forward_after_a_rollback_is_refused(tmp_path: Path) -> None:
    quick = Document(FolderStore(tmp_path), rollout_key("local"), Rollout)
    quick.change(lambda _: SHADOWED)
    slow = Document(FasterWriter(tmp_path, lambda: quick.change(back)), rollout_key("local"), Rollout)
    with pytest.raises(RolloutError, match="there is no challenger"):
        slow.change(lambda found: advance(there(found), "canary", evidence(SHADOWED), PLAN, **ANN))
    assert there(quick.read()).latched


def test_of_two_first_proposals_one_is_refused(tmp_path: Path) -> None:
    quick = Document(FolderStore(tmp_path), rollout_key("local"), Rollout)
    first = FasterWriter(tmp_path, lambda: quick.change(lambda found: propose(found, CHAMPION, GOOD, **ANN)))
    slow = Document(first, rollout_key("local"), Rollout)
    with pytest.raises(RolloutError, match=f"{GOOD} is the challenger"):
        slow.change(lambda found: propose(found, CHAMPION, MISSED, **ANN))


def test_of_processes_that_propose_at_once_one_wins(tmp_path: Path) -> None:
    def try_it(number: int) -> str | None:
        mine = Document(FolderStore(tmp_path), rollout_key("local"), Rollout)
        try:
            mine.change(lambda found: propose(found, CHAMPION, f"{number}" * 12, **ANN))
        except RolloutError as error:
            return str(error)
        return None

    results = race(4, try_it)
    final = there(Document(FolderStore(tmp_path), rollout_key("local"), Rollout).read())
    (winner,) = [number for number, result in enumerate(results) if result is None]
    assert final.generation == 1
    assert final.challenger is not None
    assert final.challenger.release == f"{winner}" * 12
    assert all("is the challenger" in result for result in results if result)


def test_threads_that_change_it_at_once_lose_nothing(tmp_path: Path) -> None:
    turns = 15

    def work(number: int) -> None:
        mine = Document(FolderStore(tmp_path), lease_key("local"), Lease)
        for _ in range(turns):
            mine.change(
                lambda found: Lease(holder=str(number), generation=1, count=1 if found is None else found.count + 1)
            )

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    final = Document(FolderStore(tmp_path), lease_key("local"), Lease).read()
    assert final is not None
    assert final.count == 4 * turns


def test_a_lease_is_renewed_as_its_reader_sees_it(lease: Document[Lease]) -> None:
    """How a controller puts sighted() and renewed() together."""
    seen: dict[str, Sighting] = {}

    def renew(holder: str, now: float) -> Lease:
        def transition(found: Lease | None) -> Lease:
            seen[holder] = sighted(seen.get(holder), found, now)
            return renewed(seen[holder], holder, 3, now)

        return lease.change(transition)

    assert [renew("a", now).count for now in (0, 5, 10)] == [1, 2, 3]
    for now in (11, 20):
        with pytest.raises(LeaseError):
            renew("b", now)
    assert renew("b", 30) == Lease(holder="b", generation=3, count=4)
    with pytest.raises(LeaseError):
        renew("a", 31)


WHOLE = CANARY.model_dump_json()


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "Invalid JSON"),
        (b"\x00" * 40, "Invalid JSON"),
        (b"\xff\xfe", "Invalid JSON"),
        (WHOLE[:-20].encode(), "Invalid JSON"),
        (WHOLE.replace('"latched":false', '"latched":true').encode(), "none while the rollout is latched"),
        (WHOLE.replace('"generation":2', '"generation":2.5').encode(), "generation: "),
        (WHOLE.replace('"percent":5.0', '"percent":NaN').encode(), "percent: |Invalid JSON"),
        (WHOLE.replace('"phase":"canary"', '"phase":"everything"').encode(), "phase: "),
        (b"[]", "is damaged"),
        (b"null", "is damaged"),
    ],
)
def test_what_is_damaged_is_neither_read_nor_overwritten(
    content: bytes, match: str, store: FolderStore, rollout: Document[Rollout]
) -> None:
    version = store.write(rollout_key("local"), content)
    for attempt in (rollout.read, lambda: rollout.change(lambda _: CANARY)):
        with pytest.raises(RetainError, match=match) as caught:
            attempt()
        message = str(caught.value)
        assert message.startswith(f"{store.url}/rollout/local/rollout.json: is damaged (")
        assert "\n" not in message
        assert "Put back a sound copy" in message
    assert store.read(rollout_key("local")) == (content, version)


def test_a_folder_in_its_place_is_no_missing_one(rollout: Document[Rollout], tmp_path: Path) -> None:
    (tmp_path / rollout_key("local")).mkdir(parents=True)
    with pytest.raises(RetainError, match=r"rollout\.json"):
        rollout.read()


def test_a_store_that_is_gone_is_no_missing_rollout(tmp_path: Path) -> None:
    gone = Document(FolderStore(tmp_path / "store", made=True), rollout_key("local"), Rollout)
    with pytest.raises(StoreUnavailable):
        gone.read()
    with pytest.raises(StoreUnavailable):
        gone.change(lambda _: CANARY)


def test_a_file_that_may_not_be_read_is_no_missing_one(rollout: Document[Rollout], tmp_path: Path) -> None:
    rollout.change(lambda _: CANARY)
    (tmp_path / rollout_key("local")).chmod(0)
    assert "rollout.json" in message_without_privileges(rollout.read)


def test_after_everything_was_restarted_the_rollback_still_holds(tmp_path: Path) -> None:
    first = Document(FolderStore(tmp_path), rollout_key("local"), Rollout)
    first.change(lambda _: CANARY)
    first.change(back)
    again = Document(FolderStore(tmp_path), rollout_key("local"), Rollout)
    with pytest.raises(RolloutError, match="latched"):
        again.change(lambda found: propose(found, CHAMPION, MISSED, **ANN))
    again.change(lambda found: release_latch(there(found), **ANN))
    with pytest.raises(RolloutError, match="in quarantine"):
        again.change(lambda found: propose(found, CHAMPION, GOOD, **ANN))
