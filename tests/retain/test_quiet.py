"""When a message may be sent."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from retain.quiet import QuietHours, zone

AMERICA = (
    "America/New_York", "America/Chicago", "America/Denver", "America/Los_Angeles", "America/Anchorage",
    "Pacific/Honolulu",
)  # fmt: skip
QUIET = QuietHours(start="21:00", end="08:00", zones=AMERICA)


def seconds(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("now", "recipient", "expected"),
    [
        # In New York it is 07:59:30, 08:00, 20:59:59 and 21:00 of a winter's day.
        ("2026-01-15T12:59:30", "America/New_York", "2026-01-15T13:00:00"),
        ("2026-01-15T13:00:00", "America/New_York", "2026-01-15T13:00:00"),
        ("2026-01-16T01:59:59", "America/New_York", "2026-01-16T01:59:59"),
        ("2026-01-16T02:00:00", "America/New_York", "2026-01-16T13:00:00"),
        # In summer an hour earlier.
        ("2026-07-15T11:59:00", "America/New_York", "2026-07-15T12:00:00"),
        # Nobody knows where she lives: 8 in the morning in Honolulu, 9 in the evening in New York.
        ("2026-01-15T13:00:00", None, "2026-01-15T18:00:00"),
        ("2026-01-16T01:59:00", None, "2026-01-16T01:59:00"),
        ("2026-01-16T02:00:00", None, "2026-01-16T18:00:00"),
        # A zone that is none of the release's.
        ("2026-01-15T13:00:00", "Europe/Berlin", "2026-01-15T13:00:00"),
        ("2026-01-15T20:00:00", "Europe/Berlin", "2026-01-16T07:00:00"),
        # The night in which clocks go forward has no 2:30; nobody is woken at any rate.
        ("2026-03-08T07:30:00", "America/New_York", "2026-03-08T12:00:00"),
    ],
)
def test_a_message_waits_for_the_recipients_day(now: str, recipient: str | None, expected: str) -> None:
    assert QUIET.send_after(seconds(now), recipient) == seconds(expected)


def test_quiet_hours_may_lie_within_a_day() -> None:
    siesta = QuietHours(start="13:00", end="15:30", zones=("Europe/Madrid",))
    assert siesta.send_after(seconds("2026-01-15T12:00:00"), None) == seconds("2026-01-15T14:30:00")
    assert siesta.send_after(seconds("2026-01-15T23:00:00"), None) == seconds("2026-01-15T23:00:00")


@given(
    now=st.floats(seconds("2026-01-01T00:00:00"), seconds("2030-01-01T00:00:00")),
    recipient=st.sampled_from((None, *AMERICA)),
)
def test_nobody_is_woken_and_nobody_waits_longer_than_a_day(now: float, recipient: str | None) -> None:
    first = QUIET.send_after(now, recipient)
    assert int(now) <= first <= now + 24 * 3600
    for name in (recipient,) if recipient else AMERICA:
        assert 8 <= datetime.fromtimestamp(first, zone(name)).hour < 21


@pytest.mark.parametrize(
    ("stated", "problem"),
    [
        ({"start": "21:00", "end": "21:00", "zones": ("UTC",)}, "start and end are both 21:00"),
        ({"start": "24:00", "end": "08:00", "zones": ("UTC",)}, "start"),
        ({"start": "21:00", "end": "08:00", "zones": ()}, "zones"),
        ({"start": "21:00", "end": "08:00", "zones": ("Mars/Base",)}, "is no time zone, such as America/New_York"),
        ({"start": "21:00", "end": "08:00", "zones": ("America",)}, "is no time zone"),  # a folder of the database
        ({"start": "21:00", "end": "08:00", "zones": ("../etc/passwd",)}, "is no time zone"),
        ({"start": "17:00", "end": "09:00", "zones": ("Asia/Tokyo", "America/New_York")}, "never day in all"),
    ],
)
def test_hours_that_leave_no_day_are_refused(stated: dict[str, object], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        QuietHours.model_validate(stated)
