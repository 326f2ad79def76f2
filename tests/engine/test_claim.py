"""Of two attempts only one may write; the dead are replaced at once, the distant when they fall silent."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from engine.claim import MISSED_RENEWALS, Claim, ClaimState, Fenced, Watch, acquire, take_away
from engine.errors import RetainError
from engine.process import Holder, this_process
from engine.stage import CLAIMED, COMPLETE
from engine.store import FolderStore
from tests.engine.processes import FORK, PATIENCE_S, race, start
from tests.engine.test_stage import make_request, run

KEY = "exp/risk/f00/claim.json"
INTERVAL_S = 30.0


class Clock:
    """Elapsed seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path)


def take(store: FolderStore, token: int, watch: Watch | None = None) -> Claim:
    claim = acquire(store, KEY, token, INTERVAL_S, watch)
    assert claim is not None
    return claim


def state_of(store: FolderStore) -> ClaimState:
    found = store.read(KEY)
    assert found is not None
    return ClaimState.model_validate_json(found[0])


def put(store: FolderStore, token: int, holder: Holder, renewal: int = 0) -> None:
    state = ClaimState(token=token, holder=holder, interval_s=INTERVAL_S, renewal=renewal)
    store.write(KEY, state.model_dump_json().encode())


def elsewhere() -> Holder:
    """A holder on another machine, with the pid of a living process of this one."""
    return this_process().model_copy(update={"machine": "another-boot/pid:[1]"})


def hold(store: FolderStore, token: int, said: Connection) -> None:
    """What a holding process does: takes the claim, says so, and lives on."""
    take(store, token)
    said.send("held")
    time.sleep(PATIENCE_S)


def holding_process(store: FolderStore, token: int) -> BaseProcess:
    receive, send = FORK.Pipe(duplex=False)
    process = start(hold, store, token, send)
    assert receive.poll(PATIENCE_S)
    return process


# --- on one machine ----------------------------------------------------------------------------------------------


def test_a_claim_is_refused_while_its_holder_lives_and_taken_over_at_once_after_kill_9(store: FolderStore) -> None:
    process = holding_process(store, 1)
    assert acquire(store, KEY, 2, INTERVAL_S) is None
    assert Watch(store, KEY).held()
    assert state_of(store).token == 1
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    # Dead, but not yet reaped by its parent: a zombie still has its pid and its start.
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not Watch(store, KEY).held()
    claim = take(store, 2)
    process.join()
    claim.check()
    assert state_of(store).token == 2
    assert state_of(store).holder == this_process()


def test_a_dead_holders_claim_goes_to_one_of_eight(store: FolderStore) -> None:
    process = holding_process(store, 1)
    process.kill()
    process.join()
    won = race(8, lambda number: acquire(store, KEY, 2 + number, INTERVAL_S) is not None)
    assert sum(won) == 1
    assert state_of(store).token == 2 + won.index(True)


def test_a_free_claim_goes_to_one_of_eight(store: FolderStore) -> None:
    won = race(8, lambda number: acquire(store, KEY, 1 + number, INTERVAL_S) is not None)
    assert sum(won) == 1


def test_a_reused_pid_is_another_process(store: FolderStore) -> None:
    me = this_process()
    put(store, 1, me.model_copy(update={"start": me.start - 60}))
    take(store, 2)


def test_one_process_does_not_hold_a_claim_twice(store: FolderStore) -> None:
    take(store, 1)
    assert acquire(store, KEY, 2, INTERVAL_S) is None


# --- elsewhere ---------------------------------------------------------------------------------------------------


def test_a_holder_elsewhere_is_replaced_after_three_missed_renewals_and_no_sooner(store: FolderStore) -> None:
    put(store, 1, elsewhere())
    clock = Clock()
    watch = Watch(store, KEY, clock)
    assert acquire(store, KEY, 2, INTERVAL_S, watch) is None
    clock.now += MISSED_RENEWALS * INTERVAL_S - 0.001
    assert watch.held()
    assert acquire(store, KEY, 2, INTERVAL_S, watch) is None
    clock.now += 0.002
    assert not watch.held()
    take(store, 2, watch).check()


def test_each_renewal_starts_the_wait_again(store: FolderStore) -> None:
    clock = Clock()
    watch = Watch(store, KEY, clock)
    for renewal in range(5):
        put(store, 1, elsewhere(), renewal)
        assert watch.held()
        clock.now += MISSED_RENEWALS * INTERVAL_S - 1
        assert watch.held()
    clock.now += 2
    assert not watch.held()


def test_a_watch_that_has_just_begun_waits_the_whole_time(store: FolderStore) -> None:
    put(store, 1, elsewhere())
    early = Watch(store, KEY, clock := Clock())
    early.held()
    clock.now += MISSED_RENEWALS * INTERVAL_S + 1
    assert not early.held()
    assert Watch(store, KEY, clock).held()


def test_a_claim_that_was_renewed_since_the_last_look_is_not_taken(store: FolderStore) -> None:
    put(store, 1, elsewhere())
    clock = Clock()
    watch = Watch(store, KEY, clock)
    watch.held()
    clock.now += MISSED_RENEWALS * INTERVAL_S + 1
    put(store, 1, elsewhere(), renewal=1)
    assert acquire(store, KEY, 2, INTERVAL_S, watch) is None
    assert state_of(store).token == 1


def test_an_attempt_replaces_a_holder_of_another_boot_that_stays_silent(tmp_path: Path) -> None:
    """A machine that lost its power in the middle of a stage: the stage can run again after it is up."""
    request = make_request(tmp_path, heartbeat_s=0.1)
    store = FolderStore(tmp_path)
    state = ClaimState(token=99, holder=elsewhere(), interval_s=0.1, renewal=3)
    store.write(f"test/toy/{request.fingerprint}/claim.json", state.model_dump_json().encode())
    assert run(request) == COMPLETE


def test_an_attempt_leaves_a_holder_elsewhere_that_renews(tmp_path: Path) -> None:
    request = make_request(tmp_path, heartbeat_s=0.2)
    store = FolderStore(tmp_path)
    key = f"test/toy/{request.fingerprint}/claim.json"
    ended = threading.Event()

    def renew() -> None:
        renewal = 0
        while not ended.wait(0.05):
            state = ClaimState(token=99, holder=elsewhere(), interval_s=0.5, renewal=(renewal := renewal + 1))
            store.write(key, state.model_dump_json().encode())

    holder = threading.Thread(target=renew)
    holder.start()
    try:
        assert run(request) == CLAIMED
    finally:
        ended.set()
        holder.join()
    found = store.read(key)
    assert found is not None
    assert json.loads(found[0])["token"] == 99


# --- the fence ---------------------------------------------------------------------------------------------------


def test_a_holder_that_was_replaced_is_fenced(store: FolderStore) -> None:
    claim = take(store, 1)
    claim.renew()
    claim.check()
    put(store, 2, elsewhere())
    with pytest.raises(Fenced):
        claim.check()
    with pytest.raises(Fenced):
        claim.renew()
    assert state_of(store).token == 2


def test_a_holder_whose_claim_is_gone_is_fenced(store: FolderStore) -> None:
    claim = take(store, 1)
    store.delete(KEY)
    with pytest.raises(Fenced):
        claim.check()
    with pytest.raises(Fenced):
        claim.renew()
    assert store.read(KEY) is None


def test_a_renewal_counts_and_changes_nothing_else(store: FolderStore) -> None:
    claim = take(store, 7)
    before = state_of(store)
    for _ in range(3):
        claim.renew()
    assert state_of(store) == before.model_copy(update={"renewal": 3})


def test_release_frees_the_claim_for_the_next(store: FolderStore) -> None:
    claim = take(store, 1)
    claim.renew()
    claim.release()
    assert not Watch(store, KEY).held()
    with pytest.raises(Fenced):
        claim.check()
    take(store, 2).check()


def test_release_by_one_who_was_replaced_leaves_the_new_owners_claim(store: FolderStore) -> None:
    claim = take(store, 1)
    put(store, 2, elsewhere())
    claim.release()
    assert state_of(store).token == 2
    claim.release()
    assert state_of(store).token == 2


def test_release_again_or_of_a_claim_that_is_gone_does_nothing(store: FolderStore) -> None:
    claim = take(store, 1)
    claim.release()
    claim.release()
    claim.renew()
    assert store.read(KEY) is None


# --- taken away by whoever saw the end ---------------------------------------------------------------------------


@pytest.mark.parametrize("holder", [this_process(), elsewhere()], ids=["here", "elsewhere"])
def test_the_claim_of_an_attempt_whose_end_was_seen_is_taken_away_at_once(store: FolderStore, holder: Holder) -> None:
    """Wherever it ran, and though the process whose pid it names is alive."""
    put(store, 1, holder, renewal=3)
    assert take_away(store, KEY, 1)
    assert store.read(KEY) is None
    take(store, 2).check()


def test_a_claim_that_moved_on_is_left_alone(store: FolderStore) -> None:
    assert not take_away(store, KEY, 1)  # there is none
    claim = take(store, 2)
    assert not take_away(store, KEY, 1)
    claim.check()
    claim.renew()


def test_a_claim_that_is_renewed_meanwhile_is_taken_away_all_the_same(tmp_path: Path) -> None:
    class Renewing(FolderStore):
        renewals = 3

        def delete(self, key: str, expect: str | None = None) -> None:
            if self.renewals:
                self.renewals -= 1
                put(self, 1, elsewhere(), renewal=10 - self.renewals)
            super().delete(key, expect)

    store = Renewing(tmp_path)
    put(store, 1, elsewhere())
    assert take_away(store, KEY, 1)
    assert store.read(KEY) is None
    assert store.renewals == 0


def test_a_claim_that_is_replaced_meanwhile_is_left_alone(tmp_path: Path) -> None:
    class Replaced(FolderStore):
        def delete(self, key: str, expect: str | None = None) -> None:
            put(self, 2, elsewhere())
            super().delete(key, expect)

    store = Replaced(tmp_path)
    put(store, 1, elsewhere())
    assert not take_away(store, KEY, 1)
    assert state_of(store).token == 2


def test_whoever_is_alive_after_all_is_fenced_and_its_renewals_bring_nothing_back(store: FolderStore) -> None:
    claim = take(store, 1)
    assert take_away(store, KEY, 1)
    with pytest.raises(Fenced):
        claim.renew()
    assert store.read(KEY) is None
    successor = take(store, 2)
    for call in (claim.check, claim.renew):
        with pytest.raises(Fenced):
            call()
    claim.release()
    successor.check()


class Slow(FolderStore):
    """A store whose writes wait in the middle until they may go on."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.writing, self.go_on = threading.Event(), threading.Event()

    def write(self, key: str, data: bytes, expect: str | None = None, **more: Any) -> str:
        self.writing.set()
        assert self.go_on.wait(PATIENCE_S)
        return super().write(key, data, expect, **more)


def test_release_waits_for_a_renewal_that_is_under_way(tmp_path: Path) -> None:
    store = Slow(tmp_path)
    store.go_on.set()
    claim = take(store, 1)
    store.writing.clear()
    store.go_on.clear()
    raised: list[BaseException] = []

    def renew() -> None:
        try:
            claim.renew()
        except BaseException as error:
            raised.append(error)

    renewing = threading.Thread(target=renew)
    renewing.start()
    assert store.writing.wait(PATIENCE_S)
    releasing = threading.Thread(target=claim.release)
    releasing.start()
    releasing.join(0.1)  # time enough to do it wrong: to delete under the renewal, which then finds itself fenced
    store.go_on.set()
    renewing.join(PATIENCE_S)
    releasing.join(PATIENCE_S)
    assert raised == []
    assert store.read(KEY) is None


def test_renewals_of_one_thread_and_the_release_of_another_never_leave_a_claim(store: FolderStore) -> None:
    for token in range(1, 41):
        claim = take(store, token)
        raised: list[BaseException] = []

        def renew(claim: Claim = claim, raised: list[BaseException] = raised) -> None:
            try:
                while not claim.released:
                    claim.renew()
                claim.renew()
            except BaseException as error:
                raised.append(error)

        renewing = threading.Thread(target=renew)
        renewing.start()
        while claim.state.renewal < token % 4:
            time.sleep(0)
        claim.release()
        renewing.join(PATIENCE_S)
        assert raised == []
        assert store.read(KEY) is None


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe", b"[]", b'{"token": 1}'])
def test_a_damaged_claim_is_one_clear_error(store: FolderStore, damage: bytes) -> None:
    claim = take(store, 1)
    store.write(KEY, damage)
    for call in (claim.check, Watch(store, KEY).held, lambda: acquire(store, KEY, 2, INTERVAL_S)):
        with pytest.raises(RetainError, match=rf"{KEY}: not a claim; remove it"):
            call()
