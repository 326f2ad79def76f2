"""The chain of the alerts: dead or doubtful anywhere, the lease isn't renewed; and nobody's wall clock counts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.watch import REPLICA_SECONDS, WATCHDOG_SECONDS, Sign, arrived, gap, sign
from retain.lease import LEASE_SECONDS

A, B = "retain-1:8001", "retain-2:8001"
ALIVE = Sign(100.0, 60.0, 55.0)
NOW = 60.0


def looks(*seen: tuple[float, float]) -> Sign | None:
    """(when, number) of each look."""
    last = None
    for now, number in seen:
        last = sign(last, number, now)
    return last


def test_all_alive_is_no_gap() -> None:
    assert gap(None, {A: ALIVE, B: ALIVE, "another": Sign(0.0, 0.0, None)}, [A, B], ALIVE, NOW) is None


@pytest.mark.parametrize(
    ("unanswered", "samples", "watchdog", "link"),
    [
        ("Prometheus doesn't answer", {A: ALIVE, B: ALIVE}, ALIVE, "prometheus"),
        (None, {A: ALIVE}, ALIVE, "replica"),
        (None, {A: ALIVE, B: Sign(1.0, NOW, None)}, ALIVE, "replica"),
        (None, {A: ALIVE, B: Sign(1.0, NOW, NOW - REPLICA_SECONDS - 0.1)}, ALIVE, "replica"),
        (None, {A: ALIVE, B: ALIVE}, None, "watchdog"),
        (None, {A: ALIVE, B: ALIVE}, Sign(1.0, NOW, None), "watchdog"),
        (None, {A: ALIVE, B: ALIVE}, Sign(1.0, NOW, NOW - WATCHDOG_SECONDS - 0.1), "watchdog"),
    ],
)
def test_any_link_that_shows_no_life_is_a_gap(
    unanswered: str | None, samples: dict[str, Sign], watchdog: Sign | None, link: str
) -> None:
    found = gap(unanswered, samples, [A, B], watchdog, NOW)
    assert found is not None
    assert found.link == link
    assert link in ("prometheus", "watchdog") or B in found.says


def test_the_first_look_shows_nothing() -> None:
    first = looks((0, 100))
    assert first is not None
    assert first.after is None


def test_a_number_that_rose_is_as_old_as_the_look_before() -> None:
    assert looks((0, 100), (5, 101)) == Sign(101, 5, 0)
    assert looks((0, 100), (5, 101), (10, 101)) == Sign(101, 10, 0)
    assert looks((0, 100), (5, 101), (10, 102)) == Sign(102, 10, 5)


def test_a_clock_that_is_put_back_is_no_sign_of_life_until_it_has_caught_up() -> None:
    back = looks((0, 1000), (5, 1005), (10, 400), (15, 405), (20, 410))
    assert back == Sign(1005, 20, 0)
    assert sign(back, 1010, 25) == Sign(1010, 25, 20)


def test_a_watchdog_without_a_number_is_alive_whenever_it_comes() -> None:
    assert arrived(None, 3.0).after == 3.0
    assert arrived(arrived(None, 3.0), 20.0).after == 20.0


def test_from_the_death_of_any_link_to_the_baseline_it_is_a_minute() -> None:
    assert max(WATCHDOG_SECONDS, REPLICA_SECONDS) + LEASE_SECONDS + 2 <= 60


@given(
    st.lists(st.tuples(st.floats(0.1, 30), st.integers(-3, 3)), min_size=1, max_size=40),
    st.floats(0, 100),
)
def test_nobody_is_thought_younger_than_they_are(steps: list[tuple[float, int]], later: float) -> None:
    """Whatever number was read at each look: the known age is at least the time since a number was first seen that is
    as large as any before."""
    now, number, highest, risen = 0.0, 0, -(10**9), None
    before: Sign | None = None
    for pause, change in steps:
        now += pause
        number += change
        if number > highest:
            highest, risen = number, now
        before = sign(before, float(number), now)
    assert before is not None
    assert risen is not None
    assert before.after is None or before.after <= risen
    watchdog = before
    if gap(None, {}, [], watchdog, now + later) is None:
        assert now + later - risen <= WATCHDOG_SECONDS
