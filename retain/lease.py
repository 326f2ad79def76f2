"""The lease: a challenger is served only while somebody renews it who watches the alerts.

Whoever renews it raises `count`. Nobody's wall clock matters: each reader judges the lease's age by its own monotonic
clock, from when it last saw a smaller count. So a reader never thinks the lease younger than it is, however long it
didn't look, and one that has just started, and has seen no renewal, takes it for stale.
"""

from __future__ import annotations

import math
from typing import Annotated, NamedTuple

from pydantic import Field

from retain.frozen import Frozen
from retain.parts import Words

# From the death of anything in the chain to the baseline on every replica it is 60 s at most. 45 of them may pass until
# a controller misses the alerts' sign of life; 2 are left for a look and an answer. So it is renewed every 5 s or so.
LEASE_SECONDS = 13.0

_Number = Annotated[int, Field(ge=1)]


class Lease(Frozen):
    """`holder` vouches for the rollout of that `generation`, and for no other."""

    holder: Words
    generation: _Number
    count: _Number


class LeaseError(ValueError):
    """The lease is another's."""


class Sighting(NamedTuple):
    """What one process has seen of the lease, in seconds of its monotonic clock. `looked`: when it looked last;
    `first`: when it first saw this count; `after`: the count rose after that time, None if it wasn't seen to rise."""

    lease: Lease | None
    looked: float
    first: float
    after: float | None


def sighted(before: Sighting | None, lease: Lease | None, now: float) -> Sighting:
    """After one more look. `now`: taken before the lease was read; `lease`: None if there is none, or it is damaged."""
    if before is not None and lease is not None and lease == before.lease:
        return before._replace(looked=now)
    last = None if before is None else before.lease
    risen = before is not None and last is not None and lease is not None and lease.count > last.count
    return Sighting(lease, now, now, before.looked if before is not None and risen else None)


def fresh_until(sighting: Sighting | None, generation: int) -> float:
    """Until when the rollout of that generation is vouched for, as far as is known now; -inf if it isn't."""
    if sighting is None or sighting.lease is None or sighting.after is None:
        return -math.inf
    return sighting.after + LEASE_SECONDS if sighting.lease.generation == generation else -math.inf


def fresh(sighting: Sighting | None, generation: int, now: float) -> bool:
    """Whether the rollout of that generation is vouched for; to be asked again as time passes, not at a look alone."""
    return now <= fresh_until(sighting, generation)


def renewed(sighting: Sighting, holder: str, generation: int, now: float) -> Lease:
    """The lease that was sighted, renewed by `holder`; another's only if that one hasn't renewed it for LEASE_SECONDS.
    Raises LeaseError."""
    lease = sighting.lease
    if lease is None:
        return Lease(holder=holder, generation=generation, count=1)
    if lease.holder != holder and now - sighting.first <= LEASE_SECONDS:
        raise LeaseError(f"{lease.holder} renews the lease; two of them would hide that one is dead")
    return Lease(holder=holder, generation=generation, count=lease.count + 1)
