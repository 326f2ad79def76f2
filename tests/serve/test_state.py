"""What the service remembers, on SQLite and on PostgreSQL."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from itertools import pairwise

import psycopg
import pytest

from retain.decision import NO_HISTORY, History
from retain.wallet import Wallet
from serve.operations import Ask, Choice, Complete, KeyConflict, Look, Outcome, Past, Suppress, Withdraw
from tests.serve.memory import DAY, MONTH, START, Memory, balance, choice, nobody, offer

ONE = 500_000  # microseconds


@pytest.fixture
def memory(url: str) -> Iterator[Memory]:
    memory = Memory(url)
    yield memory
    balance(memory.database)  # whatever a test has done
    memory.close()


# -- requests ------------------------------------------------------------------------------------------------------


def test_a_key_brings_the_same_answer_after_a_restart_for_thirty_days(memory: Memory, url: str) -> None:
    first = memory.ask("Ann", key="k", body=b"x")
    assert (first.repeated, first.replayed) == (False, False)
    assert memory.ask("Ann", key="k", body=b"y") == KeyConflict()
    again = Memory(url, clock=memory.clock)
    memory.clock.now += 30 * DAY - 1
    same = again.ask("Ann", key="k", body=b"x", choose=nobody)
    assert (same.answer, same.decision_id, same.repeated, same.replayed) == (
        first.answer,
        first.decision_id,
        False,
        True,
    )
    memory.clock.now += 1
    assert again.ask("Ann", key="k", body=b"y").decision_id != first.decision_id
    assert again.ask("Ann", key="k", body=b"x") == KeyConflict()
    again.close()


def test_an_open_offer_is_repeated_for_fourteen_days(memory: Memory) -> None:
    first = memory.ask("Ann")
    held = memory.state.standing
    memory.clock.now += 14 * DAY - 1
    second = memory.ask("Ann", key="k")
    assert (second.decision_id, second.answer, second.repeated) == (first.decision_id, first.answer, True)
    assert (memory.state.standing.held, memory.state.standing.open) == (held.held, 1)
    replayed = memory.ask("Ann", key="k")
    assert (replayed.repeated, replayed.replayed, replayed.answer) == (True, True, first.answer)
    memory.clock.now += 1
    assert not memory.ask("Ann").repeated
    assert memory.find(first.decision_id).answered == "expired"


def test_nothing_is_repeated_to_whoever_opted_out(memory: Memory) -> None:
    for customer in ("Ann", "Ben"):
        memory.ask(customer)
    seen: list[Past] = []
    assert not memory.do(Ask("Ann", None, b"", offer(seen=seen), opted_out=True)).repeated
    assert memory.do(Suppress("Ben", "by post")).status == "recorded"
    assert memory.do(Suppress("Ben", "again")).status == "repeated"
    answered = memory.ask("Ben", offer(seen=seen))
    assert (answered.repeated, answered.suppressed) == (False, True)
    assert [past.suppressed for past in seen] == [False, True]


def test_a_replay_tells_that_the_customer_opted_out_since(memory: Memory) -> None:
    memory.ask("Ann", key="k")
    memory.do(Suppress("Ann", "by post"))
    assert memory.ask("Ann", key="k").suppressed


def test_a_request_without_a_customer_has_no_past(memory: Memory) -> None:
    seen: list[Past] = []
    first, second = memory.ask(None, offer(seen=seen)), memory.ask(None, offer(seen=seen))
    assert first.decision_id != second.decision_id
    assert seen == [Past(History(), False)] * 2


def test_operations_of_a_batch_see_each_other(memory: Memory) -> None:
    asked = [Ask("Ann", "k", b"", offer()), Ask("Ann", "k", b"", offer()), Ask("Ann", None, b"", offer())]
    first, replayed, repeated, conflict = memory.state.carry_out([*asked, Ask("Ann", "k", b"x", offer())])
    assert [one.decision_id for one in (replayed, repeated)] == [first.decision_id] * 2
    assert (replayed.replayed, repeated.repeated, conflict) == (True, True, KeyConflict())
    told = [Outcome(first.decision_id, "accepted"), Outcome(first.decision_id, "declined"), Suppress("Ben", "x")]
    noted = memory.state.carry_out([*told, Suppress("Ben", "x"), Complete(first.decision_id, b"{}")])
    assert [one and one.status for one in noted] == ["recorded", "contradicts", "recorded", "repeated", None]


def test_what_one_request_raises_is_its_own(memory: Memory) -> None:
    def breaks(past: Past, wallet: Wallet, period_left: float, now: int) -> Choice:
        assert wallet.admit_one(1.0, 30.0, 0.25)
        raise ZeroDivisionError

    first, broken, last = memory.state.carry_out(
        [Ask(name, None, b"", how) for name, how in (("Ann", offer()), ("Ben", breaks), ("Cem", offer()))]
    )
    assert isinstance(broken, ZeroDivisionError)
    assert memory.state.standing.open == 2
    assert memory.find(first.decision_id).offer == memory.find(last.decision_id).offer == 10


def test_what_can_not_be_written_is_its_own(memory: Memory) -> None:
    name = memory.ask("Ann").decision_id

    def same(past: Past, wallet: Wallet, period_left: float, now: int) -> Choice:
        assert wallet.admit_one(1.0, 30.0, 0.25)
        made = choice(10)
        return Choice(name, *(getattr(made, field) for field in made.__slots__[1:]))

    results = memory.state.carry_out([Ask(who, None, b"", how) for who, how in (("Ben", same), ("Cem", offer()))])
    assert isinstance(results[0], (sqlite3.IntegrityError, psycopg.IntegrityError))
    assert (results[1].repeated, memory.state.standing.open) == (False, 2)


def test_an_offer_that_the_wallet_did_not_admit_is_no_decision(memory: Memory) -> None:
    with pytest.raises(ValueError, match="didn't admit"):
        memory.ask("Ann", lambda *_: choice(10))


# -- history -------------------------------------------------------------------------------------------------------


def history(memory: Memory, customer: str = "Ann") -> History:
    seen: list[Past] = []
    memory.do(Ask(customer, None, b"", lambda past, *_: seen.append(past) or choice(None), opted_out=True))
    return seen[0].history


def test_history_counts_months_back_from_now(memory: Memory) -> None:
    assert history(memory) == History()
    memory.ask("Ann")
    assert history(memory) == History((0, 0, 1), None, 0, 0, 0)
    memory.clock.now += MONTH - 1
    assert history(memory).contacts == (0, 0, 1)
    memory.clock.now += 1
    assert history(memory) == History((0, 1, 0), None, 0, 0, 1)  # expired
    memory.clock.now += 2 * MONTH - 1
    assert history(memory).contacts == (1, 0, 0)
    memory.clock.now += 1
    assert history(memory) == History((0, 0, 0), None, 0, 0, 1)
    memory.clock.now += 9 * MONTH
    assert history(memory) == History((0, 0, 0), None, 0, 0, 0)


def test_history_has_the_running_offer(memory: Memory) -> None:
    first = memory.ask("Ann").decision_id
    memory.clock.now += 3 * DAY
    accepted = memory.clock.now
    memory.tell(first, "accepted")
    for days, left in ((0, 6), (30, 6), (31, 5), (152, 2), (153, 1), (182, 1), (183, 0), (400, 0)):
        memory.clock.now = accepted + days * DAY
        assert history(memory).months_left == left, days
        assert history(memory).running_offer == (10 if left else None)
    assert history(memory).accepted == 0
    memory.clock.now = START + MONTH
    assert history(memory) == History((0, 1, 0), 10, 6, 1, 0)


def test_what_lies_in_the_future_counts_as_now(memory: Memory) -> None:
    first = memory.ask("Ann").decision_id
    memory.tell(first, "accepted")
    memory.clock.now -= 400 * DAY
    assert history(memory) == History((0, 0, 1), 10, 6, 1, 0)


def test_a_contact_without_a_discount_runs_as_well(memory: Memory) -> None:
    memory.tell(memory.ask("Ann", offer(0.0, level=0)).decision_id, "accepted")
    assert history(memory) == History((0, 0, 1), 0, 6, 1, 0)


def test_the_cap_holds_without_any_history_of_the_caller(memory: Memory) -> None:
    contacts = []
    for day in range(0, 400, 5):
        memory.clock.now = START + day * DAY
        answered = memory.ask("Ann")
        if not answered.repeated and memory.find(answered.decision_id).offer is not None:
            contacts.append(memory.clock.now)
    assert len(contacts) > 6
    assert all(later - earlier >= MONTH for earlier, later in pairwise(contacts))
    assert all(later - earlier >= 3 * MONTH for earlier, later in zip(contacts, contacts[2:]))


# -- outcomes ------------------------------------------------------------------------------------------------------


def test_an_answer_settles_the_hold(memory: Memory) -> None:
    first, second = memory.ask("Ann").decision_id, memory.ask("Ben").decision_id
    assert (memory.state.standing.committed, memory.state.standing.open) == (2.0, 2)
    assert memory.tell(first, "accepted") == "recorded"
    assert memory.tell(second, "declined") == "recorded"
    standing = memory.state.standing
    assert (standing.committed, standing.held, standing.open) == (32.0, 0.0, 0)


@pytest.mark.parametrize(("first", "second"), [("accepted", "declined"), ("declined", "accepted")])
def test_the_first_answer_stands(memory: Memory, first: str, second: str) -> None:
    name = memory.ask("Ann").decision_id
    assert [memory.tell(name, kind) for kind in (first, first, second)] == ["recorded", "repeated", "contradicts"]
    assert memory.find(name).answered == first
    assert [one["kind"] for one in memory.find(name).outcomes] == [first]


def test_what_was_not_answered_in_fourteen_days_is_declined(memory: Memory) -> None:
    name = memory.ask("Ann").decision_id
    memory.clock.now += 14 * DAY
    memory.state.carry_out([])
    assert (memory.state.standing.open, memory.state.standing.held) == (0, 0.0)
    assert memory.find(name).answered == "expired"
    assert memory.tell(name, "accepted", at=START + DAY) == "late"
    assert memory.state.standing.committed == 31.0
    assert [memory.tell(name, kind) for kind in ("accepted", "declined")] == ["repeated", "contradicts"]
    assert memory.find(name).answered_at == START + DAY


def test_a_refusal_that_comes_late_changes_no_money(memory: Memory) -> None:
    name = memory.ask("Ann").decision_id
    memory.clock.now += 15 * DAY
    assert [memory.tell(name, kind) for kind in ("declined", "declined", "accepted")] == [
        "late",
        "repeated",
        "contradicts",
    ]
    assert memory.state.standing.committed == 1.0


def test_there_is_nothing_to_answer_without_an_offer(memory: Memory) -> None:
    name = memory.ask("Ann", nobody).decision_id
    assert memory.tell(name, "accepted") == memory.tell(name, "declined") == "no_offer"
    assert memory.tell(name, "churned") == memory.tell(name, "complained") == "recorded"
    assert memory.tell(name, "complained") == "repeated"
    assert memory.tell("nothing", "accepted") == "unknown"


def test_whoever_leaves_gives_back_what_her_offer_costs_no_more(memory: Memory) -> None:
    """Of six months the third has begun: three are given back."""
    before, after = memory.ask("Ann").decision_id, memory.ask("Ben").decision_id
    memory.tell(before, "accepted")
    memory.tell(after, "churned", at=START + 2 * MONTH + DAY)  # a future time counts as now
    memory.tell(after, "accepted")
    assert memory.state.standing.committed == pytest.approx(2 + 30 + 5)
    memory.clock.now += 2 * MONTH + DAY
    assert memory.tell(before, "churned") == "recorded"
    assert memory.state.standing.committed == pytest.approx(2 + 15 + 5)
    assert memory.tell(before, "churned") == "repeated"
    assert memory.state.standing.committed == pytest.approx(2 + 15 + 5)


def test_revenue_is_told_once_a_month(memory: Memory) -> None:
    name = memory.ask("Ann", nobody).decision_id
    told = [(1, 50.0), (2, 40.0), (1, 50.0), (2, 41.0)]
    statuses = [memory.tell(name, "revenue", month=month, amount=amount) for month, amount in told]
    assert statuses == ["recorded", "recorded", "repeated", "contradicts"]
    assert [(one["month"], one["amount"]) for one in memory.find(name).outcomes] == told[:2]


def test_shadow_completes_the_record(memory: Memory) -> None:
    name = memory.ask("Ann").decision_id
    assert memory.find(name).shadow is None
    assert memory.do(Complete(name, b'{"arm":"learned"}')) is None
    assert memory.do(Complete("gone", b"{}")) is None
    assert memory.find(name).shadow == b'{"arm":"learned"}'


# -- answers that nobody received ----------------------------------------------------------------------------------


def test_an_answer_that_nobody_received_leaves_neither_hold_nor_contact(memory: Memory) -> None:
    name = memory.ask("Ann", key="k").decision_id
    assert memory.do(Withdraw(name)) is True
    assert memory.do(Withdraw(name)) is False
    standing = memory.state.standing
    assert (standing.committed, standing.held, standing.open) == (0.0, 0.0, 0)
    assert history(memory) == History()
    assert memory.ask("Ann", key="k", body=b"other").decision_id != name


def test_an_answer_that_somebody_received_again_stands(memory: Memory) -> None:
    first, second, third = (memory.ask(customer, key=customer).decision_id for customer in ("Ann", "Ben", "Cem"))
    memory.ask("Ann")
    memory.ask("Ben", key="Ben")
    memory.tell(third, "declined")
    assert [memory.do(Withdraw(name)) for name in (first, second, third, "nothing")] == [False] * 4


@pytest.mark.parametrize(("answer", "committed"), [("accepted", 31.0), ("declined", 1.0)])
def test_an_answer_to_a_withdrawn_offer_says_that_it_was_received(
    memory: Memory, answer: str, committed: float
) -> None:
    name = memory.ask("Ann").decision_id
    memory.do(Withdraw(name))
    assert memory.tell(name, answer) == "late"
    assert memory.state.standing.committed == committed
    assert history(memory).contacts == (0, 0, 1)


# -- wallet and periods --------------------------------------------------------------------------------------------


def test_the_wallet_survives_to_the_last_bit(memory: Memory, url: str) -> None:
    """Two processes take turns and one is by itself: the same offers are made."""
    other, alone = Memory(url, clock=memory.clock), Wallet(1000.0, "expected")
    for number in range(150):
        answered = (memory, other)[number % 2].ask(f"c{number}", offer(30.0 + number / 7))
        made = memory.find(answered.decision_id).offer is not None
        assert made == alone.admit_one(1.0, 30.0 + number / 7, 0.25)
    assert 0 < alone.open < 150
    memory.state.carry_out([])
    assert (memory.state.standing.committed, memory.state.standing.held) == (alone.committed, alone.held)
    other.close()


def test_a_period_rolls_over_and_liabilities_stay(memory: Memory) -> None:
    first, second = memory.ask("Ann").decision_id, memory.ask("Ben").decision_id
    length = 12 * MONTH
    memory.clock.now = START + length - 1
    late = memory.ask("Cem").decision_id
    assert (memory.state.standing.start, memory.state.standing.committed) == (START, 3.0)
    memory.clock.now += 1
    memory.tell(late, "accepted")
    memory.tell(first, "accepted")
    standing = memory.state.standing
    assert (standing.start, standing.end, standing.committed, standing.budget) == (
        START + length,
        START + 2 * length,
        0,
        1000,
    )
    assert standing.period_left == 1.0
    assert memory.find(second).period == START
    assert balance(memory.database)[0] == 3 + 30 + 30


def test_no_jump_of_the_clock_gives_a_budget_twice(memory: Memory, url: str) -> None:
    """Every period that a clock ever shows has one wallet, and no two of them overlap."""
    length = 12 * MONTH
    for months in (0, 40, -7, 13, 100, 0, 25, 40, 5, 13, 14, 90):
        memory.clock.now = START + months * MONTH
        for _ in range(60):
            memory.ask(None, offer(100.0))
        standing = memory.state.standing
        assert standing.committed + standing.held <= 1000
    other = Memory(
        url, clock=memory.clock, months=5
    )  # the length of new periods: of those that lie between older ones, too
    for months in (17, 30, 60, 83, 110):
        memory.clock.now = START + months * MONTH
        other.ask(None, offer(100.0))
    with other.database.reading() as connection:
        rows = sorted(connection.exec_driver_sql('SELECT start, "end", committed + held FROM wallet').all())
    assert len(rows) >= 6
    assert rows[0][0] == START  # what is before counts as the first start
    assert all(spent <= 1000 for _, _, spent in rows)
    assert all(earlier[1] <= later[0] for earlier, later in pairwise(rows))
    assert all(end - start <= length for start, end, _ in rows)
    other.close()


def test_a_running_period_takes_over_another_budget(memory: Memory, url: str) -> None:
    memory.ask("Ann")
    held = memory.state.standing.held
    other = Memory(url, budget=10.0, clock=memory.clock)
    other.state.carry_out([])
    assert (other.state.standing.budget, other.state.standing.held, other.state.standing.committed) == (10.0, held, 1.0)
    assert memory.find(other.ask("Ben").decision_id).offer is None
    other.close()
    more = Memory(url, budget=2000.0, wallet="worst_case", clock=memory.clock)
    assert memory.find(more.ask("Ben").decision_id).offer == 10
    assert (more.state.standing.mode, more.state.standing.held) == ("worst_case", 60.0)
    more.close()


def test_no_name_is_in_the_database(memory: Memory) -> None:
    memory.ask("Ann-Sophie", key="Ann-Sophie-2026", body=b'{"customer":{"customerID":"Ann-Sophie"}}')
    memory.do(Suppress("Ann-Sophie", "by post"))
    with memory.database.reading() as connection:
        for table in ("meta", "wallet", "decision", "request_key", "outcome", "suppression"):
            for row in connection.exec_driver_sql(f"SELECT * FROM {table}"):
                assert not any("Sophie" in repr(value) for value in row)


def test_a_look_tells_what_a_decision_would_be_told(memory: Memory) -> None:
    seen: list[Past] = []

    def watch(past: Past, wallet: Wallet, period_left: float, now: int) -> Choice:
        seen.append(past)
        return nobody(past, wallet, period_left, now)

    assert memory.do(Look(None)) == (Past(NO_HISTORY, False), 0.0)
    for _ in range(2):
        memory.ask("Ann")
        memory.clock.now += MONTH
        looked = memory.do(Look("Ann"))
        memory.ask("Ann", watch)
        assert looked.past == seen[-1]
    assert looked.past.history.contacts == (1, 1, 0)
    assert 0.1 < looked.pace < 2 / 12  # two months have gone, and little was spent
    memory.do(Suppress("Ann", ""))
    assert memory.do(Look("Ann")).past.suppressed


def test_two_processes_that_have_done_nothing_begin_one_period(memory: Memory, url: str) -> None:
    other = Memory(url, clock=memory.clock)
    for state in (memory.state, other.state):
        assert state.carry_out([]) == []
    for state in (other.state, memory.state):
        (answered,) = state.carry_out([Ask(None, None, b"", offer())])
        assert not isinstance(answered, Exception)
    other.close()
