"""What somebody has to be told, kept until it was delivered. Pure but for its being JSON in the store.

Pages of rollbacks are kept nowhere: they follow from the rollout's history, in which a rollback stands before anybody
is told of it. So a controller that dies between the two pages when it is back. A rollback is known by its generation
and its time, since a rollout that is begun anew, or an older copy that is put back, counts its generations again.
Delivery is at least once: a page has an id by which whoever gets it twice can tell.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from deploy.alerts import Alert
from retain.frozen import Frozen
from retain.rollout import Rollout
from retain.signals import Figure

MAX_PENDING = 200  # the newest of them; an Alertmanager that repeats brings the others again
MAX_KNOWN = 500

Severity = Literal["page", "ticket"]


class Page(Frozen):
    """`at`: microseconds since 1970, for people. `release`: whose it is, where that is known."""

    id: str
    severity: Severity
    title: str
    says: str
    at: int
    release: str | None = None
    figures: tuple[Figure, ...] = ()


class Pages(Frozen):
    """`pending`: pages of alerts that were not delivered yet; `delivered`: ids of those that were, the last ones;
    `rollbacks`: ids of all pages of rollbacks that were."""

    rollbacks: tuple[str, ...] = ()
    pending: tuple[Page, ...] = ()
    delivered: tuple[str, ...] = ()


def pages_key(experiment: str) -> str:
    """Where they lie in the store."""
    return f"rollout/{experiment}/pages.json"


def page_of(alert: Alert, at: int, more: str = "") -> Page:
    """`more`: what there is to say beside what the alert says, a sentence."""
    severity: Severity = "ticket" if alert.severity == "ticket" else "page"
    says = alert.summary or alert.name
    if more:
        says = f"{says.rstrip('.')}. {more}"
    return Page(id=alert.id, severity=severity, title=alert.name, says=says, at=at, release=alert.release)


def rollback_pages(rollout: Rollout, experiment: str) -> list[Page]:
    """Of all its rollbacks, the oldest first."""
    return [
        Page(
            id=f"rollback/{experiment}/{generation}/{event.at}",
            severity="page",
            title=f"{event.release} was rolled back by {event.by}",
            says=f"{event.reason}. Before: {event.before}. Now: {event.after}.",
            at=event.at,
            release=event.release,
            figures=event.figures,
        )
        for generation, event in enumerate(rollout.history, start=1)
        if event.action == "roll_back"
    ]


def with_pending(pages: Pages, *new: Page) -> Pages:
    """The same pages if all of the new ones are known."""
    known = {page.id for page in pages.pending}.union(pages.delivered)
    added = tuple({page.id: page for page in new if page.id not in known}.values())
    return pages.model_copy(update={"pending": (*pages.pending, *added)[-MAX_PENDING:]}) if added else pages


def with_delivered(pages: Pages, alerts: Iterable[str] = (), rollbacks: Iterable[str] = ()) -> Pages:
    """With the ids of pages that were delivered; the same pages if that was known."""
    new = tuple(sorted(set(alerts).difference(pages.delivered)))
    told = tuple(sorted(set(rollbacks).difference(pages.rollbacks)))
    if not new and not told:
        return pages
    return Pages(
        rollbacks=(*pages.rollbacks, *told),
        pending=tuple(page for page in pages.pending if page.id not in new),
        delivered=(*pages.delivered, *new)[-MAX_KNOWN:],
    )
