"""The lease: nobody thinks it younger than it is, and only one renews it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retain.lease import LEASE_SECONDS, Lease, LeaseError, Sighting, fresh, renewed, sighted


def lease(count: int, holder: str = "a", generation: int = 7) -> Lease:
    return Lease(holder=holder, generation=generation, count=count)


def looks(*seen: tuple[float, Lease | None]) -> Sighting:
    sighting = None
    for now, one in seen:
        sighting = sighted(sighting, one, now)
    assert sighting is not None
    return sighting


def test_who_has_just_started_takes_it_for_stale_until_it_is_renewed() -> None:
    assert not fresh(None, 7, 0.0)
    assert not fresh(looks((0, lease(5))), 7, 0.0)
    assert not fresh(looks((0, lease(5)), (1, lease(5)), (2, lease(5))), 7, 2.0)
    assert fresh(looks((0, lease(5)), (1, lease(6))), 7, 1.0)


def test_it_is_as_old_as_the_last_look_at_a_smaller_count() -> None:
    seen = looks((0, lease(5)), (1, lease(5)), (2, lease(6)), (3, lease(6)), (9, lease(6)))
    assert fresh(seen, 7, 1 + LEASE_SECONDS)
    assert not fresh(seen, 7, 1.001 + LEASE_SECONDS)
    slept = looks((0, lease(5)), (100, lease(6)))  # renewed, perhaps long ago
    assert not fresh(slept, 7, 100.0)
    assert fresh(looks((0, lease(5)), (100, lease(6)), (101, lease(7))), 7, 101.0)


def test_it_vouches_for_its_own_generation_alone() -> None:
    seen = looks((0, lease(5)), (1, lease(6)))
    assert fresh(seen, 7, 1.0)
    assert not fresh(seen, 6, 1.0)
    assert not fresh(seen, 8, 1.0)
    moved = sighted(seen, lease(7, generation=8), 2.0)
    assert fresh(moved, 8, 2.0)
    assert not fresh(moved, 7, 2.0)


def test_a_count_that_fell_or_stayed_is_no_renewal() -> None:
    restored = looks((0, lease(5)), (1, lease(6)), (2, lease(3)))
    assert not fresh(restored, 7, 2.0)
    assert fresh(sighted(restored, lease(4), 3.0), 7, 3.0)
    other = looks((0, lease(5)), (1, lease(6)), (2, lease(6, holder="b")))
    assert not fresh(other, 7, 2.0)
    rewritten = looks((0, lease(5)), (1, lease(6)), (2, lease(6, generation=8)))
    assert not fresh(rewritten, 8, 2.0)


def test_without_a_lease_nothing_is_known() -> None:
    gone = looks((0, lease(5)), (1, lease(6)), (2, None))
    assert not fresh(gone, 7, 2.0)
    back = sighted(gone, lease(7), 3.0)
    assert not fresh(back, 7, 3.0)
    assert fresh(sighted(back, lease(8), 4.0), 7, 4.0)


def test_its_holder_renews_it_and_another_waits_until_it_is_abandoned() -> None:
    assert renewed(looks((0, None)), "a", 7, 0.0) == lease(1)
    assert renewed(looks((0, lease(5))), "a", 8, 0.0) == lease(6, generation=8)
    seen = looks((0, lease(5)), (1, lease(6)), (2, lease(6)))
    with pytest.raises(LeaseError, match="a renews the lease"):
        renewed(seen, "b", 7, 1 + LEASE_SECONDS)
    assert renewed(seen, "b", 7, 1.001 + LEASE_SECONDS) == lease(7, holder="b")
    slept = looks((0, lease(5)), (100, lease(6)))  # it has seen this count for no time at all
    with pytest.raises(LeaseError):
        renewed(slept, "b", 7, 100.0)


def test_from_the_last_sign_of_life_to_the_baseline_it_is_a_minute_at_most() -> None:
    assert 45 + LEASE_SECONDS + 2 <= 60


@given(st.lists(st.tuples(st.floats(0, 30), st.booleans(), st.booleans()), max_size=60))
def test_a_lease_is_never_fresh_for_longer_than_it_was_renewed_ago(steps: list[tuple[float, bool, bool]]) -> None:
    """Each step: time passes, the lease may be renewed, and the reader may look."""
    now, count, renewed_at, sighting = 0.0, 1, float("-inf"), None
    for seconds, renews, reads in steps:
        now += seconds
        if renews:
            count, renewed_at = count + 1, now
        if reads:
            sighting = sighted(sighting, lease(count), now)
        if fresh(sighting, 7, now):
            assert now - renewed_at <= LEASE_SECONDS
