"""A customer's history as a policy learned to see it, from her contacts on record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from retain.decision import NO_HISTORY, History, Terms

MONTH = 2_629_746_000_000  # microseconds of 365.2425 / 12 days
OPEN_FOR = 14 * 86_400_000_000  # microseconds: an offer nobody answered by then counts as declined

Answer = Literal["accepted", "declined", "expired"]


@dataclass(slots=True)
class Kept:
    """A decision on record without its texts; columns as in serve/tables.py, in their order."""

    id: str
    customer: bytes | None
    at: int
    period: int
    arm: str
    offer: int | None
    cost: float
    liability: float
    acceptance: float
    charge: float
    months: int
    open_until: int | None
    answered: Answer | None
    answered_at: int | None
    withdrawn: bool
    given_again: bool
    # Read where it is given again.
    answer: str | None = None
    wording: str | None = None

    def is_open(self, now: int) -> bool:
        return self.open_until is not None and self.open_until > now


def history_of(contacts: Sequence[Kept], now: int, terms: Terms) -> History:
    """Of decisions with an offer that weren't withdrawn.

    One that lies in the future counts as made now, since a clock was set back. An offer that nobody answered in time
    counts as declined.
    """
    if not contacts:
        return NO_HISTORY
    counts = [0] * terms.history_months
    accepted = declined = months_left = 0
    running = None
    for contact in contacts:
        ago = max(0, now - contact.at) // MONTH  # 0: the month that ends now
        if ago < terms.history_months:
            counts[-1 - ago] += 1
        if contact.answered == "accepted":
            accepted += ago < terms.months
            begun = max(0, now - (contact.answered_at or contact.at))
            left = contact.months - begun // MONTH  # a month that has begun counts
            if left > months_left:
                running, months_left = contact.offer, left
        elif not contact.is_open(now):
            declined += ago < terms.months
    return History(tuple(counts), running, months_left, accepted, declined)
