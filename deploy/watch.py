"""Whether the alerts can be relied on, so that the lease may be renewed.

Pure: times are seconds of one monotonic clock. Whoever is alive shows a number that rises: a replica the time of the
sample that Prometheus took of it last, the alerts' watchdog the time at which Prometheus evaluated it. No wall clock is
compared: that a number rose between two looks says that it is younger than the first of them. So neither a clock that
is put back nor an Alertmanager that repeats what it heard from a Prometheus that is gone is a sign of life.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

# Samples are taken every 5 s and looked at every 5 s, so the age that is known of is 10 s at most, 15 if one is missed.
REPLICA_SECONDS = 20.0
# The watchdog arrives every 10 to 15 s, so the age that is known of is up to 30 s.
WATCHDOG_SECONDS = 45.0

Link = Literal["prometheus", "replica", "watchdog"]


class Sign(NamedTuple):
    """Of life. `seen`: when the number was looked at last; `after`: it rose after that time, None if it was never seen
    to rise."""

    number: float
    seen: float
    after: float | None


class Gap(NamedTuple):
    """The first link of the chain that shows no life: which, and what there is to say."""

    link: Link
    says: str


def sign(before: Sign | None, number: float, now: float) -> Sign:
    """After one more look, which began at `now`."""
    if before is None:
        return Sign(number, now, None)
    if number > before.number:
        return Sign(number, now, before.seen)
    return before._replace(seen=now)


def arrived(before: Sign | None, now: float) -> Sign:
    """Of something that shows no number, and is alive whenever it comes."""
    return Sign(0.0 if before is None else before.number, now, now)


def gap(
    unanswered: str | None,
    samples: Mapping[str, Sign],
    replicas: Iterable[str],
    watchdog: Sign | None,
    now: float,
) -> Gap | None:
    """What keeps the lease from being renewed, or None. `unanswered`: what there is to say of a Prometheus that didn't
    answer; `samples`: of the replicas that it can reach, by the names by which it calls them."""
    if unanswered is not None:
        return Gap("prometheus", unanswered)
    for replica in replicas:
        sample = samples.get(replica)
        if sample is None:
            return Gap("replica", f"Prometheus can't reach {replica}, or doesn't know it")
        if sample.after is None:
            return Gap("replica", f"Prometheus has taken no new sample of {replica} yet")
        if now - sample.after > REPLICA_SECONDS:
            return Gap("replica", f"Prometheus has taken no sample of {replica} for {now - sample.after:.0f} s")
    if watchdog is None or watchdog.after is None:
        return Gap("watchdog", "the alerts' watchdog has not arrived yet")
    if now - watchdog.after > WATCHDOG_SECONDS:
        return Gap("watchdog", f"the alerts' watchdog has not arrived for {now - watchdog.after:.0f} s")
    return None
