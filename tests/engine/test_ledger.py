"""Money is whole micro-dollars, reserved once, settled once, and never above the cap, whoever races and dies."""

from __future__ import annotations

import json
import os
import signal
import time
from datetime import datetime
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine import ledger
from engine.errors import BudgetExceeded, RetainError
from engine.ledger import (
    CONTAINER_STARTS_S,
    MICRO,
    STARTS_S,
    Entry,
    Held,
    entries,
    look,
    mean_hours_between_preemptions,
    reserve,
    set_cap,
    settle,
    starting_elsewhere,
)
from engine.process import this_process
from engine.store import FolderStore
from tests.engine.processes import killed_at, race

SCOPE = "exp_001_mvp"
KEY = f"ledger/{SCOPE}.json"
RATE = 0.72  # dollars an hour: 200 micro-dollars a second


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path)


def take(store: FolderStore, attempt: str = "exp/risk/f00/1", **changes: Any) -> Entry:
    """Reserves 100 s and 10 s of overhead: 22,000 micro-dollars."""
    asked: dict[str, Any] = {
        "cap_usd": 1.0,
        "experiment": "exp",
        "stage": "risk",
        "usd_per_hour": RATE,
        "limit_s": 100.0,
        "overhead_s": 10.0,
    }
    return reserve(store, SCOPE, attempt_id=attempt, **(asked | changes))


def total(store: FolderStore) -> tuple[int, int]:
    """Micro-dollars metered, and held by open reservations."""
    all_of_them = entries(store, SCOPE)
    held = sum(entry.reserved_micro_usd for entry in all_of_them if entry.state == "open")
    return sum(entry.metered_micro_usd for entry in all_of_them), held


# --- arithmetic --------------------------------------------------------------------------------------------------


def test_a_reservation_is_rate_times_limit_and_overhead(store: FolderStore) -> None:
    entry = take(store)
    assert entry.reserved_micro_usd == 22_000
    assert (entry.state, entry.seconds, entry.metered_micro_usd, entry.estimated) == ("open", 0.0, 0, False)
    assert (entry.reserved_usd, entry.metered_usd, entry.rate_usd_per_hour) == (0.022, 0.0, 0.72)
    assert entry.holder == this_process()
    assert entries(store, SCOPE) == [entry]


def test_a_settlement_is_rate_times_what_was_used_and_overhead(store: FolderStore) -> None:
    take(store)
    settled = settle(store, SCOPE, "exp/risk/f00/1", 42.5, estimated=False)
    assert (settled.state, settled.seconds, settled.metered_micro_usd) == ("settled", 42.5, 10_500)
    assert settled.reserved_micro_usd == 22_000
    assert settled.metered_usd == 0.0105
    assert entries(store, SCOPE) == [settled]


@pytest.mark.parametrize("seconds", [100.001, 345.0, 1e9])
def test_an_attempt_is_never_metered_more_than_it_reserved(store: FolderStore, seconds: float) -> None:
    take(store)
    settled = settle(store, SCOPE, "exp/risk/f00/1", seconds, estimated=False)
    assert (settled.seconds, settled.metered_micro_usd) == (100.0, settled.reserved_micro_usd)


def test_an_estimate_is_marked(store: FolderStore) -> None:
    take(store)
    assert settle(store, SCOPE, "exp/risk/f00/1", 1.0, estimated=True).estimated
    assert entries(store, SCOPE)[0].estimated


def test_settling_again_changes_nothing(store: FolderStore) -> None:
    take(store)
    first = settle(store, SCOPE, "exp/risk/f00/1", 42.5, estimated=False)
    before = store.read(KEY)
    assert settle(store, SCOPE, "exp/risk/f00/1", 99.0, estimated=True) == first
    assert store.read(KEY) == before


def test_amounts_are_whole_micro_dollars_rounded_up(store: FolderStore) -> None:
    entry = take(store, usd_per_hour=0.134, limit_s=1.0, overhead_s=0.0)
    assert entry.reserved_micro_usd == 38  # 37.2
    content = json.loads((store.root / KEY).read_text())
    [kept] = content["entries"].values()
    for key in ("micro_usd_per_hour", "reserved_micro_usd", "metered_micro_usd"):
        assert type(kept[key]) is int


@given(rate=st.integers(0, 50_000_000), seconds=st.floats(0, 1e6), overhead=st.floats(0, 600))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=50)
def test_an_amount_is_never_less_than_what_was_used_nor_a_micro_dollar_more(
    tmp_path: Path, rate: int, seconds: float, overhead: float
) -> None:
    store = FolderStore(tmp_path)
    store.delete(KEY)
    entry = take(store, usd_per_hour=rate / MICRO, limit_s=seconds, overhead_s=overhead, cap_usd=1e9)
    settled = settle(store, SCOPE, entry.attempt_id, seconds, estimated=False)
    exact = Fraction(rate) * (Fraction(seconds) + Fraction(overhead)) / 3600
    for amount in (entry.reserved_micro_usd, settled.metered_micro_usd):
        assert abs(amount - ceil(exact)) <= 1  # one for what the float of the seconds can't hold
    assert settled.metered_micro_usd == entry.reserved_micro_usd


def test_entries_keep_the_order_of_reservation(store: FolderStore) -> None:
    assert entries(store, SCOPE) == []
    names = [f"exp/{stage}/f/1" for stage in ("release", "accept", "risk", "backtest")]
    for name in names:
        take(store, name)
    settle(store, SCOPE, names[2], 1.0, estimated=False)
    settle(store, SCOPE, names[0], 1.0, estimated=False)
    assert [entry.attempt_id for entry in entries(store, SCOPE)] == names


def test_scopes_do_not_see_each_other(store: FolderStore) -> None:
    take(store)
    retrain = "retrain/2026-11"
    assert entries(store, retrain) == []
    asked = {"experiment": "exp", "stage": "risk", "usd_per_hour": RATE, "limit_s": 100.0, "overhead_s": 10.0}
    reserve(store, retrain, cap_usd=0.022, attempt_id="exp/risk/f00/1", **asked)  # type: ignore[arg-type]
    assert [entry.reserved_micro_usd for entry in entries(store, retrain)] == [22_000]
    assert len(entries(store, SCOPE)) == 1


# --- the cap -----------------------------------------------------------------------------------------------------


def test_the_last_dollar_can_be_reserved_and_not_a_micro_dollar_more(store: FolderStore) -> None:
    take(store, cap_usd=0.022)
    settle(store, SCOPE, "exp/risk/f00/1", 100.0, estimated=False)
    take(store, "exp/risk/f00/2", cap_usd=0.044)
    settle(store, SCOPE, "exp/risk/f00/2", 100.0, estimated=False)
    with pytest.raises(BudgetExceeded):
        take(store, "exp/risk/f00/3", cap_usd=0.065_999)
    take(store, "exp/risk/f00/3", cap_usd=0.066)


def test_open_reservations_count(store: FolderStore) -> None:
    take(store, "a/a/a/1", cap_usd=0.05)
    take(store, "a/a/a/2", cap_usd=0.05)
    with pytest.raises(BudgetExceeded):
        take(store, "a/a/a/3", cap_usd=0.05)
    settle(store, SCOPE, "a/a/a/1", 0.0, estimated=False)  # overhead alone: 2,000
    take(store, "a/a/a/3", cap_usd=0.05)
    assert total(store) == (2_000, 44_000)


def test_what_was_not_used_is_free_again_and_what_was_used_is_not(store: FolderStore) -> None:
    for number in range(1, 11):
        take(store, f"a/a/a/{number}", cap_usd=0.12)
        settle(store, SCOPE, f"a/a/a/{number}", 40.0, estimated=False)  # 10,000 each
    assert total(store) == (100_000, 0)
    with pytest.raises(BudgetExceeded):
        take(store, "a/a/a/11", cap_usd=0.121_999)


def test_a_refusal_names_stage_price_metered_and_cap_and_writes_nothing(store: FolderStore) -> None:
    take(store, "exp/risk/f00/1", cap_usd=0.1, limit_s=290.0)
    settle(store, SCOPE, "exp/risk/f00/1", 290.0, estimated=False)
    take(store, "exp/risk/f00/2", cap_usd=0.1)
    before = store.read(KEY)
    with pytest.raises(BudgetExceeded) as caught:
        take(store, "exp/accept/f01/1", stage="accept", cap_usd=0.1)
    message = str(caught.value)
    assert message.startswith("accept: refused before it started")
    for part in (
        "reserves $0.0220 (110 s at $0.72 an hour)",
        "metered so far $0.0600",
        "running attempts $0.0220",
        "cap of exp_001_mvp $0.1",
        "costs.budget_usd",
    ):
        assert part in message, message
    assert store.read(KEY) == before
    assert caught.value.exit_code == 2


def test_an_attempt_is_reserved_once(store: FolderStore) -> None:
    take(store)
    with pytest.raises(RetainError, match=r"attempt exp/risk/f00/1 is reserved already"):
        take(store)
    settle(store, SCOPE, "exp/risk/f00/1", 1.0, estimated=False)
    with pytest.raises(RetainError, match="reserved already"):
        take(store)
    assert len(entries(store, SCOPE)) == 1


def test_what_was_never_reserved_can_not_be_settled(store: FolderStore) -> None:
    with pytest.raises(RetainError, match=r"ledger exp_001_mvp: attempt exp/risk/f00/1 was never reserved"):
        settle(store, SCOPE, "exp/risk/f00/1", 1.0, estimated=False)
    assert store.read(KEY) is None


@given(st.lists(st.tuples(st.sampled_from(["reserve", "settle"]), st.integers(0, 5), st.integers(0, 100)), max_size=25))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=40)
def test_metered_and_reserved_stay_below_the_cap_in_any_order(
    tmp_path: Path, events: list[tuple[str, int, int]]
) -> None:
    store = FolderStore(tmp_path)
    store.delete(KEY)
    cap = 0.06
    expected: dict[str, int] = {}  # attempt -> micro-dollars that count
    settled: set[str] = set()
    for number, (event, attempt, seconds) in enumerate(events):
        name = f"a/a/a/{attempt}"
        if event == "reserve" and name not in expected:
            if sum(expected.values()) + 22_000 <= cap * MICRO:
                take(store, name, cap_usd=cap)
                expected[name] = 22_000
            else:
                with pytest.raises(BudgetExceeded):
                    take(store, f"a/a/a/refused{number}", cap_usd=cap)
        elif event == "settle" and name in expected:
            settle(store, SCOPE, name, float(seconds), estimated=False)
            if name not in settled:  # settling again changes nothing
                expected[name] = 200 * (seconds + 10)
            settled.add(name)
        assert sum(total(store)) == sum(expected.values()) <= cap * MICRO


# --- a cap of the ledger's own ---------------------------------------------------------------------------------


def test_the_lowest_cap_counts(store: FolderStore) -> None:
    set_cap(store, SCOPE, 0.043_999)
    take(store, "a/a/a/1")
    with pytest.raises(BudgetExceeded, match=r"cap of exp_001_mvp \$0\.043999.*make budget"):
        take(store, "a/a/a/2")
    with pytest.raises(BudgetExceeded, match=r"cap of exp_001_mvp \$0\.03\..*costs\.budget_usd"):
        take(store, "a/a/a/2", cap_usd=0.03)
    set_cap(store, SCOPE, 0.044)
    take(store, "a/a/a/2")
    with pytest.raises(BudgetExceeded):
        take(store, "a/a/a/3")
    set_cap(store, SCOPE, None)
    take(store, "a/a/a/3")


def test_a_cap_can_be_set_before_anything_was_reserved_and_survives_every_change(store: FolderStore) -> None:
    set_cap(store, SCOPE, 0.5)
    take(store)
    settle(store, SCOPE, "exp/risk/f00/1", 1.0, estimated=False)
    standing, attempts = look(store, SCOPE, 1.0)
    assert (standing.cap, standing.own_cap) == (500_000, 500_000)
    assert attempts == entries(store, SCOPE)
    set_cap(store, SCOPE, 2.0)
    assert look(store, SCOPE, 1.0)[0].cap == 1_000_000


def test_a_scope_is_over_once_its_cap_lies_below_what_is_metered_and_reserved(store: FolderStore) -> None:
    take(store, "a/a/a/1")
    settle(store, SCOPE, "a/a/a/1", 40.0, estimated=False)  # 10,000
    take(store, "a/a/a/2")  # 22,000
    standing, _ = look(store, SCOPE, 0.04)
    assert (standing.metered, standing.reserved, standing.share, standing.over) == (10_000, 22_000, 0.8, False)
    set_cap(store, SCOPE, 0.032)
    assert not look(store, SCOPE, 0.04)[0].over
    set_cap(store, SCOPE, 0.031_999)
    assert look(store, SCOPE, 0.04)[0].over
    settle(store, SCOPE, "a/a/a/2", 40.0, estimated=False)
    assert not look(store, SCOPE, 0.04)[0].over
    set_cap(store, SCOPE, 0.0)
    assert look(store, SCOPE, 0.04)[0].share == float("inf")
    assert look(store, "empty", 0.0)[0].share == 0.0


def test_a_cap_that_is_lowered_while_others_reserve_is_not_lost(store: FolderStore) -> None:
    def work(number: int) -> None:
        if number == 0:
            set_cap(store, SCOPE, 0.06)
            return
        for turn in range(4):
            try:
                take(store, f"a/a/{number}/{turn}")
            except BudgetExceeded:
                continue
            settle(store, SCOPE, f"a/a/{number}/{turn}", 40.0, estimated=False)

    race(4, work)
    assert look(store, SCOPE, 1.0)[0].own_cap == 60_000
    assert all(entry.state == "settled" for entry in entries(store, SCOPE))


# --- what preemptions were seen ----------------------------------------------------------------------------------


def test_a_document_of_an_earlier_version_still_loads(store: FolderStore) -> None:
    take(store)
    settle(store, SCOPE, "exp/risk/f00/1", 40.0, estimated=False)
    path = store.root / KEY
    content = json.loads(path.read_text())
    del content["cap_micro_usd"]
    for name in ("owner", "machine_type", "preempted", "overrun_s"):
        del content["entries"]["exp/risk/f00/1"][name]
    path.write_text(json.dumps(content))
    [entry] = entries(store, SCOPE)
    assert (entry.owner, entry.machine_type, entry.preempted, entry.overrun_s) == ("", "", False, 0.0)
    assert look(store, SCOPE, 1.0)[0].own_cap is None
    take(store, "exp/risk/f00/2")


def test_owner_machine_and_preemption_are_kept(store: FolderStore) -> None:
    take(store, owner="flow-run", machine_type="g2-standard-4")
    settle(store, SCOPE, "exp/risk/f00/1", 40.0, estimated=False, preempted=True)
    [entry] = entries(store, SCOPE)
    assert (entry.owner, entry.machine_type, entry.preempted) == ("flow-run", "g2-standard-4", True)


def test_seconds_beyond_a_reservation_are_told_unless_they_are_estimated(store: FolderStore) -> None:
    take(store, "a/a/a/1")
    take(store, "a/a/a/2")
    take(store, "a/a/a/3")
    assert settle(store, SCOPE, "a/a/a/1", 100.0, estimated=False).overrun_s == 0.0
    assert settle(store, SCOPE, "a/a/a/2", 112.5, estimated=False).overrun_s == 12.5
    assert settle(store, SCOPE, "a/a/a/3", 112.5, estimated=True).overrun_s == 0.0


def attempt(hours: float, preempted: bool, machine_type: str = "spot", state: str = "settled") -> Entry:
    return Entry(
        attempt_id="a/a/a/1",
        experiment="a",
        stage="a",
        holder=this_process(),
        machine_type=machine_type,
        micro_usd_per_hour=1,
        overhead_s=0.0,
        reserved_at=0.0,
        reserved_s=0.0,
        reserved_micro_usd=0,
        state=state,  # type: ignore[arg-type]
        seconds=hours * 3600,
        preempted=preempted,
    )


def test_hours_between_preemptions_start_from_the_prior_and_follow_what_was_seen() -> None:
    assert mean_hours_between_preemptions([], 4.0) == 4.0
    assert mean_hours_between_preemptions([attempt(4.0, False)], 4.0) == 8.0
    assert mean_hours_between_preemptions([attempt(0.5, True)] * 10, 4.0) == pytest.approx(9 / 11)
    assert mean_hours_between_preemptions([attempt(4.0, False, state="open")], 4.0) == 4.0
    often = [attempt(0.1, True)] * 1000
    assert mean_hours_between_preemptions(often, 4.0) == pytest.approx(0.1, rel=0.05)


def test_hours_between_preemptions_are_told_by_machine() -> None:
    both = [*[attempt(1.0, True, "often")] * 9, attempt(16.0, False, "never")]
    assert mean_hours_between_preemptions(both, 4.0, "often") == pytest.approx(1.3)
    assert mean_hours_between_preemptions(both, 4.0, "never") == 20.0
    assert mean_hours_between_preemptions(both, 4.0, "another") == 4.0
    assert mean_hours_between_preemptions(both, 4.0) == pytest.approx(2.9)


# --- several processes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("racers", [2, 8])
def test_exactly_one_racer_gets_the_last_dollar(store: FolderStore, racers: int) -> None:
    def grab(number: int) -> bool:
        try:
            take(store, f"exp/risk/f0{number}/1", cap_usd=0.022)
        except BudgetExceeded:
            return False
        return True

    got = race(racers, grab)
    assert sum(got) == 1
    [entry] = entries(store, SCOPE)
    assert entry.attempt_id == f"exp/risk/f0{got.index(True)}/1"


def test_of_two_runs_only_one_starts_an_attempt_at_an_artifact(store: FolderStore) -> None:
    def grab(number: int) -> bool:
        try:
            take(store, f"exp/risk/f00/{number}", owner=f"run-{number}")
        except Held:
            return False
        return True

    got = race(8, grab)
    assert sum(got) == 1
    (entry,) = entries(store, SCOPE)
    take(store, "exp/risk/f00/9", owner=entry.owner)  # its own run may start another one
    settle(store, SCOPE, entry.attempt_id, 1.0, estimated=False)
    settle(store, SCOPE, "exp/risk/f00/9", 1.0, estimated=False)
    take(store, "exp/risk/f00/10", owner="another")


@pytest.mark.parametrize(("owner", "starts_s"), [("one", CONTAINER_STARTS_S), ("", STARTS_S)])
def test_the_claim_says_who_is_at_work_once_an_attempt_has_had_time_to_start(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch, owner: str, starts_s: float
) -> None:
    take(store, "exp/risk/f00/1", owner=owner)
    assert starting_elsewhere(entries(store, SCOPE), "exp/risk/f00", "other")
    assert not starting_elsewhere(entries(store, SCOPE), "exp/risk/f00", owner)
    assert not starting_elsewhere(entries(store, SCOPE), "exp/risk/f01", "other")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + starts_s + 1)
    assert not starting_elsewhere(entries(store, SCOPE), "exp/risk/f00", "other")


def test_nothing_is_lost_when_eight_reserve_and_settle_at_once(store: FolderStore) -> None:
    def work(number: int) -> None:
        for turn in range(4):
            take(store, f"a/a/{number}/{turn}", cap_usd=100.0)
            settle(store, SCOPE, f"a/a/{number}/{turn}", 40.0, estimated=False)

    race(8, work)
    assert len(entries(store, SCOPE)) == 32
    assert total(store) == (32 * 10_000, 0)


@pytest.mark.parametrize(
    ("point", "reserved"),
    [
        ("ledger.reserve", False),
        ("store.write", False),
        ("store.rename", False),
        ("store.renamed", True),
        ("ledger.reserved", True),
    ],
)
def test_killed_while_reserving_the_reservation_is_open_or_absent(
    store: FolderStore, point: str, reserved: bool
) -> None:
    take(store, "exp/risk/f00/1")
    assert killed_at(point, take, store, "exp/risk/f01/1") == -signal.SIGKILL
    found = entries(store, SCOPE)
    assert [entry.attempt_id for entry in found] == ["exp/risk/f00/1", "exp/risk/f01/1"][: 1 + reserved]
    assert all(entry.state == "open" for entry in found)
    assert found[0].holder.alive() is True
    if reserved:
        assert found[1].holder.pid != os.getpid()
        assert found[1].holder.alive() is False  # so the next run may settle it
        settle(store, SCOPE, "exp/risk/f01/1", 3.0, estimated=True)
    else:
        take(store, "exp/risk/f01/1")


@pytest.mark.parametrize(
    ("point", "settled"),
    [
        ("ledger.settle", False),
        ("store.write", False),
        ("store.rename", False),
        ("store.renamed", True),
        ("ledger.settled", True),
    ],
)
def test_killed_while_settling_the_attempt_is_open_or_settled(store: FolderStore, point: str, settled: bool) -> None:
    take(store, "exp/risk/f00/1")

    def end() -> None:
        settle(store, SCOPE, "exp/risk/f00/1", 40.0, estimated=False)

    assert killed_at(point, end) == -signal.SIGKILL
    assert total(store) == ((10_000, 0) if settled else (0, 22_000))
    again = settle(store, SCOPE, "exp/risk/f00/1", 50.0, estimated=True)
    assert again.metered_micro_usd == (10_000 if settled else 12_000)
    assert again.estimated == (not settled)


# --- damage ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: b"\xff" + content,
        lambda content: b"[]",
        lambda content: content.replace(b'"open"', b'"spent"'),
        lambda content: content.replace(b"22000", b'"much"'),
        lambda content: content.replace(b'"revision"', b'"version"'),
        lambda content: content.replace(b'"scope": "exp_001_mvp"', b'"scope": "another"'),
    ],
    ids=["empty", "cut", "bytes", "list", "state", "amount", "key", "scope"],
)
def test_a_damaged_ledger_is_one_clear_error_and_spends_nothing(store: FolderStore, damage: Any) -> None:
    take(store)
    path = store.root / KEY
    content = damage(path.read_bytes())
    assert content != path.read_bytes()
    path.write_bytes(content)
    for call in (
        lambda: entries(store, SCOPE),
        lambda: take(store, "exp/risk/f00/2"),
        lambda: settle(store, SCOPE, "exp/risk/f00/1", 1.0, estimated=False),
    ):
        with pytest.raises(RetainError, match=f"{path}: not a ledger; restore it before spending more"):
            call()
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("stated", "began", "scope", "before"),
    [
        ("local", "2026-12-01T00:00:00+00:00", "local", None),
        ("retrain/{month}", "2026-12-01T00:00:00+00:00", "retrain/2026-12", "retrain/2026-11"),
        ("retrain/{month}", "2026-12-01T00:30:00+01:00", "retrain/2026-11", "retrain/2026-10"),
        ("retrain/{month}", "2027-01-31T23:59:59+00:00", "retrain/2027-01", "retrain/2026-12"),
    ],
)
def test_a_scope_may_be_that_of_the_month(stated: str, began: str, scope: str, before: str | None) -> None:
    """By UTC, whatever clock a machine has."""
    at = datetime.fromisoformat(began)
    assert (ledger.scope_of(stated, at), ledger.scope_before(stated, at)) == (scope, before)
