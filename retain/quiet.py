"""Quiet hours: when a message may be sent, which is no question of whether there is one.

A decision is made at any hour, and its answer says from when on its message may be sent. Hours are those of the
recipient. Where her time zone isn't known, the message waits until it is day in every zone where customers live.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, time, timedelta
from functools import lru_cache
from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, Field, model_validator

from retain.frozen import Frozen

SEARCHED = timedelta(days=3)  # for an hour at which it is day in every zone

_Clock = Annotated[str, Field(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")]


def zone(name: str) -> ZoneInfo:
    """Raises ValueError for a name that isn't in the IANA time zone database."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # OSError: a folder of the database, or a name too long
        raise ValueError("is no time zone, such as America/New_York") from None


def zone_name(name: str) -> str:
    """The name itself. Raises ValueError as zone() does."""
    zone(name)
    return name


class QuietHours(Frozen):
    """No message is sent from `start` to `end` (HH:MM, recipient's time); `zones` are those where customers live."""

    start: _Clock
    end: _Clock
    zones: Annotated[tuple[Annotated[str, AfterValidator(zone_name)], ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _leave_an_hour(self) -> QuietHours:
        if self.start == self.end:
            raise ValueError(f"start and end are both {self.start}")
        for month in (1, 7):  # between some zones lie other hours in summer
            if _first_day(self, datetime(2026, month, 15, tzinfo=UTC), self.zones) is None:
                raise ValueError("it is never day in all of the zones at the same time")
        return self

    def send_after(self, now: float, recipient: str | None) -> int:
        """The first second since 1970, from `now` on, in which a message may be sent to somebody who lives in the zone
        `recipient`; None: nobody knows where she lives."""
        minute = int(now // 60)
        first = _first_minute(self, minute, recipient)
        return int(now) if first == minute else first * 60


@lru_cache(maxsize=4096)  # of minutes and zones, a service meets few at a time
def _first_minute(quiet: QuietHours, minute: int, recipient: str | None) -> int:
    day = _first_day(quiet, datetime.fromtimestamp(minute * 60, UTC), (recipient,) if recipient else quiet.zones)
    assert day is not None  # a single zone has its day, and those of the release were looked at when it was loaded
    return int(day.timestamp()) // 60


def _first_day(quiet: QuietHours, start: datetime, zones: Sequence[str]) -> datetime | None:
    """The first moment from `start` on at which it is day in all zones; None if there is none for days."""
    moment = start
    while moment < start + SEARCHED:
        later = max(_after_night(quiet, moment, zone(name)) for name in zones)
        if later == moment:
            return moment
        moment = later
    return None


def _after_night(quiet: QuietHours, moment: datetime, where: ZoneInfo) -> datetime:
    """The moment itself, or the end of the quiet hours that it lies in."""
    start, end = time.fromisoformat(quiet.start), time.fromisoformat(quiet.end)
    local = moment.astimezone(where)
    clock = local.time()
    is_quiet = start <= clock < end if start < end else clock >= start or clock < end
    if not is_quiet:
        return moment
    day = local.date() + timedelta(days=clock >= end)
    return max(moment, datetime.combine(day, end, where).astimezone(UTC))
