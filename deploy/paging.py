"""Tells somebody: delivers pages, again and again until each was taken.

What is to be told lies in memory and in the store (pages.py). One thread delivers from memory alone, another keeps both
the same: so neither a full disk nor a store that hangs keeps a page from being delivered, and no restart keeps one from
being delivered later. Without a webhook a page is a line of the log, and waits until there is one.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Iterable
from typing import NamedTuple

from deploy.alerts import Alert
from deploy.calls import Unanswered, post_json
from deploy.pages import Page, Pages, page_of, rollback_pages, with_delivered, with_pending
from deploy.rollback import NO_ROLLOUT
from engine.document import Document
from engine.errors import RetainError
from retain.rollout import Rollout

DELIVER_SECONDS = 10.0  # for an answer of the webhook
FIRST_AGAIN, LAST_AGAIN = 1.0, 60.0  # seconds until a page is tried again, doubled each time
KEEP_SECONDS = 5.0  # between looks at the store

log = logging.getLogger("retain.deploy")


class _Try(NamedTuple):
    """When a page is tried next, and for how long that was waited for."""

    at: float
    pause: float


class Pager:
    """Of one experiment's rollout. `clock` is monotonic, `now` in microseconds since 1970."""

    def __init__(
        self,
        experiment: str,
        url: str | None,
        rollout: Document[Rollout],
        pages: Document[Pages],
        clock: Callable[[], float],
        now: Callable[[], int],
    ) -> None:
        self._experiment = experiment
        self._url = url
        self._rollout = rollout
        self._document = pages
        self._clock = clock
        self._now = now
        self._lock = threading.Lock()  # of the four that follow
        self._pages = Pages()  # as they should be in the store, which may be behind
        self._unwritten: set[str] = set()  # ids of alerts' pages that were delivered, which the store doesn't know yet
        self._rollbacks: dict[
            str, Page
        ] = {}  # that were heard of and not delivered yet, whatever becomes of the rollout
        self._no_rollout = False  # when it was read last
        self._logged: frozenset[str] = frozenset()  # ids of pages that are a line of the log, without a webhook
        self._process = secrets.token_hex(4)
        self._tries: dict[str, _Try] = {}
        self._to_deliver, self._to_keep = threading.Event(), threading.Event()
        self._said = ""

    @property
    def pending(self) -> int:
        """How many pages nobody has taken yet."""
        return len(self._due())

    def tell(self, alerts: Iterable[Alert]) -> list[Page]:
        """The pages of alerts, which are delivered from now on."""
        with self._lock:
            more = NO_ROLLOUT if self._no_rollout else ""
        new = [page_of(alert, self._now(), more if alert.rolls_back else "") for alert in alerts]
        self._take(*new)
        return new

    def tell_lost(self, says: str, number: int) -> None:
        """That the lease is lost, for the `number`-th time of this process; that is delivered from now on."""
        identity = f"lease/{self._experiment}/{self._process}/{number}"
        title = "The lease of the challenger is lost, and the baseline decides"
        self._take(Page(id=identity, severity="ticket", title=title, says=says, at=self._now()))

    def _take(self, *new: Page) -> None:
        with self._lock:
            self._pages = with_pending(self._pages, *new)
        self._to_deliver.set()

    def rolled_back(self, rollout: Rollout) -> None:
        """The rollout after a rollback, which is told from now on."""
        with self._lock:
            pages = rollback_pages(rollout, self._experiment)
            self._rollbacks |= {page.id: page for page in pages if page.id not in self._pages.rollbacks}
            self._no_rollout = False
        self._to_deliver.set()

    def keep(self, pages: list[Page]) -> None:
        """Puts what was told into the store, so that it outlasts this process. Raises RetainError."""
        if pages:
            self._document.change(lambda stored: with_pending(stored or Pages(), *pages))

    # -- delivering ------------------------------------------------------------------------------------------------

    def deliver_forever(self) -> None:
        while True:
            try:
                self.deliver()
            except Exception:
                log.exception("pages could not be delivered")
            self._to_deliver.wait(FIRST_AGAIN)
            self._to_deliver.clear()

    def deliver(self) -> None:
        """Tries each page whose time has come, once, until one isn't taken."""
        due = self._due()
        if self._url is None:
            self._log(page for page, _ in due)
            return
        rollbacks_wait = False
        for page, of_rollback in due:
            last = self._tries.get(page.id, _Try(0.0, FIRST_AGAIN / 2))
            if self._clock() < last.at or (of_rollback and rollbacks_wait):
                rollbacks_wait |= of_rollback  # they are told in their order
                continue
            if not self._taken(self._url, page):
                pause = min(2 * last.pause, LAST_AGAIN)
                self._tries[page.id] = _Try(self._clock() + pause, pause)
                break  # nor would others be taken now, and each takes its time
            self._tries.pop(page.id, None)
            with self._lock:
                if of_rollback:
                    self._pages = with_delivered(self._pages, rollbacks=[page.id])
                    self._rollbacks.pop(page.id, None)
                else:
                    self._pages = with_delivered(self._pages, [page.id])
                    self._unwritten.add(page.id)
            self._to_keep.set()

    def _due(self) -> list[tuple[Page, bool]]:
        """All that is not delivered yet, rollbacks first; and of each, whether it is one."""
        with self._lock:
            rollbacks, alerts = list(self._rollbacks.values()), self._pages.pending
        return [*((page, True) for page in rollbacks), *((page, False) for page in alerts)]

    def _log(self, pages: Iterable[Page]) -> None:
        """Each once, as long as it waits."""
        waiting = {page.id: page for page in pages}
        for page in waiting.values():
            if page.id not in self._logged:
                level = logging.ERROR if page.severity == "page" else logging.WARNING
                log.log(level, "nobody is paged, %s: %s", page.title, page.says)
        self._logged = frozenset(waiting)

    def _taken(self, url: str, page: Page) -> bool:
        try:
            content = {"experiment": self._experiment, **page.model_dump(mode="json")}
            post_json(url, content, seconds=DELIVER_SECONDS, who="the webhook of RETAIN_PAGE_URL")
        except Unanswered as error:
            log.warning("not delivered yet, %s: %s (%s)", page.title, page.says, error)
            return False
        log.warning("delivered, %s: %s", page.title, page.says)
        return True

    # -- the store -------------------------------------------------------------------------------------------------

    def keep_forever(self) -> None:
        while True:
            try:
                self.synchronise()
                self._said = ""
            except RetainError as error:
                if str(error) != self._said:
                    log.warning("pages are kept in memory alone: %s", error)
                self._said = str(error)
            except Exception:
                log.exception("pages are kept in memory alone")
            self._to_keep.wait(KEEP_SECONDS)
            self._to_keep.clear()

    def synchronise(self) -> None:
        """Takes over what the store knows, and writes down what was delivered. Raises RetainError."""
        stored, rollout = self._document.read() or Pages(), self._rollout.read()
        with self._lock:
            known = with_delivered(self._pages, stored.delivered, stored.rollbacks)
            self._pages = known = with_pending(known, *stored.pending)
            for told in self._rollbacks.keys() & set(known.rollbacks):  # by a spare
                del self._rollbacks[told]
            self._no_rollout = rollout is None
            unwritten = frozenset(self._unwritten)
        if rollout is not None:
            self.rolled_back(rollout)
        if unwritten or set(known.pending) - set(stored.pending) or set(known.rollbacks) - set(stored.rollbacks):
            self._document.change(
                lambda pages: with_delivered(with_pending(pages or Pages(), *known.pending), unwritten, known.rollbacks)
            )
        with self._lock:
            self._unwritten -= unwritten
