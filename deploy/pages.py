"""What somebody has to be told, kept until it was delivered. Pure but for its being JSON in the store.

Pages of rollbacks are kept nowhere: they follow from the rollout's history, in which a rollback stands before anybody
is told of it. So a controller that dies between the two pages when it is back. Delivery is at least once: a page has an
id by which whoever gets it twice can tell.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

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
    """`through`: up to which generation of the rollout its rollbacks were delivered; `pending`: pages of alerts that
    were not yet; `delivered`: ids of those that were, the last ones."""

    through: Annotated[int, Field(ge=0)] = 0
    pending: tuple[Page, ...] = ()
    delivered: tuple[str, ...] = ()


def pages_key(experiment: str) -> str:
    """Where they lie in the store."""
    return f"rollout/{experiment}/pages.json"


def page_of(alert: Alert, at: int) -> Page:
    severity: Severity = "ticket" if alert.severity == "ticket" else "page"
    return Page(
        id=alert.id, severity=severity, title=alert.name, says=alert.summary or alert.name, at=at, release=alert.release
    )


def rollback_pages(rollout: Rollout | None, experiment: str, through: int) -> list[tuple[int, Page]]:
    """Of the rollbacks after a generation, with their own, the oldest first."""
    events = enumerate(rollout.history if rollout is not None else (), start=1)
    return [
        (
            generation,
            Page(
                id=f"rollback/{experiment}/{generation}",
                severity="page",
                title=f"{event.release} was rolled back by {event.by}",
                says=f"{event.reason}. Before: {event.before}. Now: {event.after}.",
                at=event.at,
                release=event.release,
                figures=event.figures,
            ),
        )
        for generation, event in events
        if event.action == "roll_back" and generation > through
    ]


def with_pending(pages: Pages, *new: Page) -> Pages:
    """The same pages if all of the new ones are known."""
    known = {page.id for page in pages.pending}.union(pages.delivered)
    added = tuple({page.id: page for page in new if page.id not in known}.values())
    return pages.model_copy(update={"pending": (*pages.pending, *added)[-MAX_PENDING:]}) if added else pages


def with_delivered(pages: Pages, ids: frozenset[str], through: int) -> Pages:
    """The same pages if that was known."""
    new = tuple(sorted(ids.difference(pages.delivered)))
    if not new and through <= pages.through:
        return pages
    return Pages(
        through=max(through, pages.through),
        pending=tuple(page for page in pages.pending if page.id not in ids),
        delivered=(*pages.delivered, *new)[-MAX_KNOWN:],
    )
