from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retain import contact


def test_a_contact_is_allowed_while_the_cap_and_the_month_leave_room() -> None:
    contacts = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [2, 0, 0], [0, 0, 1], [0, 1, 0]])
    assert contact.allowed(contacts, 2, 3).tolist() == [True, True, False, False, False, True]
    assert contact.allowed(contacts, 1, 2).tolist() == [True, True, False, True, False, False]
    assert not contact.allowed(contacts, 0, 3).any()


def test_what_lies_before_the_window_does_not_count() -> None:
    assert contact.allowed(np.array([[1, 1, 0, 0, 0]]), 1, 3).all()


def test_opted_out_or_with_a_running_offer_only_no_contact_is_left() -> None:
    none = np.zeros((3, 3), np.int64)
    found = contact.mask(none, np.array([0, 2, 0]), np.array([False, False, True]), offers=2, max_contacts=2, window=3)
    assert found.tolist() == [[True, True, True], [True, False, False], [True, False, False]]


@pytest.mark.parametrize(("max_contacts", "window"), [(-1, 3), (2, 0)])
def test_a_cap_that_means_nothing_is_refused(max_contacts: int, window: int) -> None:
    with pytest.raises(ValueError, match="a cap of"):
        contact.allowed(np.zeros((1, 3)), max_contacts, window)


def test_a_history_shorter_than_the_window_is_refused() -> None:
    with pytest.raises(ValueError, match="3 months or more"):
        contact.allowed(np.zeros((4, 2)), 2, 3)


@given(
    contacts=st.lists(st.integers(0, 3), max_size=6),
    months_left=st.integers(0, 6),
    opted_out=st.booleans(),
    max_contacts=st.integers(0, 4),
    window=st.integers(1, 6),
)
def test_one_customer_is_masked_as_many_are(
    contacts: list[int], months_left: int, opted_out: bool, max_contacts: int, window: int
) -> None:
    whole = np.array([[0] * 6 + contacts])  # what is not known of did not happen
    many = contact.mask(whole, np.array([months_left]), np.array([opted_out]), 1, max_contacts, window)
    bar = contact.barred(contacts, months_left > 0, opted_out, max_contacts, window)
    assert many.tolist() == [[True, bar is None]]


@pytest.mark.parametrize(
    ("contacts", "running", "out", "why"),
    [
        ((1, 1, 1), True, True, "do_not_contact"),
        ((1, 1, 1), True, False, "running_offer"),
        ((0, 1, 1), False, False, "contact_cap"),
        ((0, 0, 1), False, False, "contacted_this_month"),
        ((0, 1, 0), False, False, None),
        ((2, 0, 0, 0), False, False, None),
        ((), False, False, None),
    ],
)
def test_what_forbids_a_contact_is_named(contacts: tuple[int, ...], running: bool, out: bool, why: str | None) -> None:
    assert contact.barred(contacts, running, out, 2, 3) == why


@given(
    wanted=st.lists(st.booleans(), min_size=1, max_size=24),
    max_contacts=st.integers(0, 4),
    window=st.integers(1, 6),
)
def test_whoever_asks_in_whatever_months_the_cap_is_never_passed(
    wanted: list[bool], max_contacts: int, window: int
) -> None:
    made = [0] * window
    for month, wish in enumerate(wanted):
        history = np.array([[*made, 0]])
        if wish and contact.allowed(history, max_contacts, window)[0]:
            made.append(1)
        else:
            # Refused only if one more would pass the cap.
            assert not wish or sum(made[window + month - window + 1 :]) + 1 > max_contacts
            made.append(0)
        assert sum(made[-window:]) <= max_contacts


def test_whoever_is_held_out_is_contacted_by_nobody_but_her_own_word_comes_first() -> None:
    assert contact.barred((), False, False, 2, 3, held_out=True) == "hold_out"
    assert contact.barred((2,), True, False, 2, 3, held_out=True) == "hold_out"
    assert contact.barred((), False, True, 2, 3, held_out=True) == "do_not_contact"
