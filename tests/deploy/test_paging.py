"""Pages reach somebody: whatever is away, and once it is back."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from deploy.alerts import Alert, parse
from deploy.pages import Pages, pages_key
from deploy.paging import LAST_AGAIN, Pager
from deploy.rollback import NO_ROLLOUT
from engine.document import Document
from engine.errors import StoreUnavailable
from engine.store import FolderStore
from retain.rollout import Rollout, propose, release_latch, roll_back, rollout_key
from tests.deploy.alerting import alert, blaming, body
from tests.deploy.fakes import Answer, answering
from tests.rollouts import ANN, CHAMPION, GOOD, MISSED

SHADOW = propose(None, CHAMPION, GOOD, **ANN)
BACK = roll_back(SHADOW, by="controller", why="RetainArmErrors: too many", at=5)


class Webhook:
    """`refuses`: titles of pages that it doesn't take."""

    def __init__(self) -> None:
        self.status = 200
        self.refuses: set[str] = set()
        self.asked: list[str] = []
        self.pages: list[Any] = []

    def __call__(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        page = json.loads(body)
        self.asked.append(page["title"])
        if page["title"] in self.refuses or self.status != 200:
            return 400 if self.status == 200 else self.status, b""
        self.pages.append(page)
        return 200, b""

    @property
    def titles(self) -> list[str]:
        return [page["title"] for page in self.pages]


class Office:
    def __init__(self, root: Path, url: str | None) -> None:
        self.store = FolderStore(root)
        self.rollout = Document(self.store, rollout_key("toy"), Rollout)
        self.document = Document(self.store, pages_key("toy"), Pages)
        self.url = url
        self.now = 0.0
        self.pager = self.another()

    def another(self) -> Pager:
        """After a restart."""
        return Pager("toy", self.url, self.rollout, self.document, lambda: self.now, lambda: 5)


@pytest.fixture
def webhook() -> Webhook:
    return Webhook()


@pytest.fixture
def office(tmp_path: Path, webhook: Webhook) -> Iterator[Office]:
    with answering(webhook) as url:
        yield Office(tmp_path, f"{url}/page")


def firing(*names: str) -> tuple[Alert, ...]:
    return parse(body(*map(alert, names))).alerts


def test_a_page_is_delivered_once(office: Office, webhook: Webhook) -> None:
    for _ in range(3):
        office.pager.keep(office.pager.tell(firing("A", "B")))
        office.pager.deliver()
        office.pager.synchronise()
    assert webhook.titles == ["A", "B"]
    assert webhook.pages[0]["says"] == "A is above its limit."
    assert webhook.pages[0]["experiment"] == "toy"
    assert office.pager.pending == 0
    assert office.document.read() == Pages(delivered=tuple(sorted(page["id"] for page in webhook.pages)))


def test_a_rollback_is_told_from_the_rollout_itself(office: Office, webhook: Webhook) -> None:
    office.rollout.change(lambda _: BACK)
    office.pager.synchronise()
    office.pager.deliver()
    assert webhook.titles == [f"{GOOD} was rolled back by controller"]
    assert webhook.pages[0]["severity"] == "page"
    office.pager.synchronise()
    after = office.another()
    after.synchronise()
    after.deliver()
    assert len(webhook.pages) == 1


def test_what_nobody_took_before_a_restart_is_delivered_after_it(office: Office, webhook: Webhook) -> None:
    webhook.status = 503
    office.pager.keep(office.pager.tell(firing("A")))
    office.rollout.change(lambda _: BACK)
    office.pager.rolled_back(BACK)
    office.pager.deliver()
    assert office.pager.pending == 2
    webhook.status = 200
    after = office.another()
    after.synchronise()
    after.deliver()
    assert webhook.titles == [f"{GOOD} was rolled back by controller", "A"]


def test_a_full_disk_keeps_no_page_from_being_delivered(
    office: Office, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object, **__: object) -> None:
        raise StoreUnavailable("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(FolderStore, "write", away)
        pages = office.pager.tell(firing("A"))
        with pytest.raises(StoreUnavailable):
            office.pager.keep(pages)
        office.pager.rolled_back(BACK)
        office.pager.deliver()
        assert webhook.titles == [f"{GOOD} was rolled back by controller", "A"]
        with pytest.raises(StoreUnavailable):
            office.pager.synchronise()
    office.pager.tell(firing("A"))  # Alertmanager repeats it
    office.pager.deliver()
    office.pager.synchronise()
    assert len(webhook.pages) == 2
    stored = office.document.read()
    assert stored is not None
    assert (len(stored.rollbacks), len(stored.delivered), stored.pending) == (1, 1, ())


def test_what_is_only_in_memory_reaches_the_store_later(office: Office, webhook: Webhook) -> None:
    webhook.status = 503
    office.pager.tell(firing("A"))
    office.pager.synchronise()
    stored = office.document.read()
    assert stored is not None
    assert [page.title for page in stored.pending] == ["A"]


def test_it_is_tried_again_less_and_less_often(office: Office, webhook: Webhook) -> None:
    webhook.status = 500
    office.pager.tell(firing("A"))
    tried = []
    for second in range(400):
        office.now = float(second)
        before = len(webhook.asked)
        office.pager.deliver()
        if len(webhook.asked) > before:
            tried.append(second)
    pauses = [later - earlier for earlier, later in itertools.pairwise(tried)]
    assert pauses[:6] == [1, 2, 4, 8, 16, 32]
    assert set(pauses[6:]) == {int(LAST_AGAIN)}


def test_one_page_that_is_refused_keeps_no_other_from_being_delivered(office: Office, webhook: Webhook) -> None:
    webhook.refuses = {"A"}
    office.pager.tell(firing("A", "B"))
    for second in range(3):
        office.now = second / 10
        office.pager.deliver()
    assert webhook.titles == ["B"]
    assert office.pager.pending == 1


def test_rollbacks_are_told_in_their_order(office: Office, webhook: Webhook) -> None:
    again = propose(release_latch(BACK, **ANN), CHAMPION, MISSED, **ANN)
    office.pager.rolled_back(roll_back(again, by="Ann", why="x", at=9))
    webhook.refuses = {f"{GOOD} was rolled back by controller"}
    for second in range(3):
        office.now = second / 10
        office.pager.deliver()
    assert webhook.titles == []
    webhook.refuses = set()
    office.now = 10.0
    office.pager.deliver()
    assert webhook.titles == [f"{GOOD} was rolled back by controller", f"{MISSED} was rolled back by Ann"]


def test_without_a_webhook_a_page_is_a_line_of_the_log_and_waits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, webhook: Webhook
) -> None:
    office = Office(tmp_path, None)
    office.rollout.change(lambda _: BACK)
    office.pager.tell(firing("A"))
    office.pager.rolled_back(BACK)
    for _ in range(3):
        office.pager.deliver()
        office.pager.synchronise()
    assert [(record.levelname, record.getMessage().partition(".")[0]) for record in caplog.records] == [
        ("ERROR", f"nobody is paged, {GOOD} was rolled back by controller: RetainArmErrors: too many"),
        ("ERROR", "nobody is paged, A: A is above its limit"),
    ]
    assert office.pager.pending == 2
    with answering(webhook) as url:
        office.url = url
        after = office.another()
        after.synchronise()
        after.deliver()
    assert webhook.titles == [f"{GOOD} was rolled back by controller", "A"]
    assert after.pending == 0


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("longer", [False, True])
def test_a_rollback_is_told_though_the_rollout_was_begun_anew(
    office: Office, webhook: Webhook, restarted: bool, longer: bool
) -> None:
    office.rollout.change(lambda _: propose(release_latch(BACK, **ANN), CHAMPION, MISSED, **ANN) if longer else BACK)
    office.pager.synchronise()
    office.pager.deliver()
    office.pager.synchronise()
    assert len(webhook.pages) == 1
    office.store.delete(rollout_key("toy"))  # as it is said of a damaged one
    anew = roll_back(propose(None, CHAMPION, MISSED, **ANN), by="controller", why="RetainArmUnsafe", at=6)
    office.rollout.change(lambda _: anew)
    pager = office.another() if restarted else office.pager
    pager.synchronise()
    pager.deliver()
    pager.synchronise()
    assert webhook.titles[1:] == [f"{MISSED} was rolled back by controller"]
    assert len({page["id"] for page in webhook.pages}) == 2


def test_a_rollback_that_nobody_took_is_told_though_an_older_copy_was_put_back(
    office: Office, webhook: Webhook
) -> None:
    webhook.status = 503
    office.pager.rolled_back(BACK)
    office.pager.deliver()
    office.rollout.change(lambda _: SHADOW)
    office.pager.synchronise()
    webhook.status, office.now = 200, 10.0
    office.pager.deliver()
    assert webhook.titles == [f"{GOOD} was rolled back by controller"]


def test_a_page_says_that_there_is_no_rollout_to_take_back(office: Office, webhook: Webhook) -> None:
    sent = parse(body(blaming("A", GOOD), alert("B"))).alerts
    office.pager.synchronise()
    office.pager.tell(sent)
    office.pager.deliver()
    assert webhook.pages[0]["says"] == f"A is above its limit. {NO_ROLLOUT}"
    assert webhook.pages[1]["says"] == "B is above its limit."
    office.rollout.change(lambda _: SHADOW)
    office.pager.synchronise()
    office.pager.tell(parse(body(blaming("C", GOOD))).alerts)
    office.pager.deliver()
    assert webhook.pages[2]["says"] == "C is above its limit."


def test_two_controllers_do_not_undo_what_the_other_wrote(office: Office, webhook: Webhook) -> None:
    spare = office.another()
    for pager in (office.pager, spare):
        pager.keep(pager.tell(firing("A")))
    office.pager.deliver()
    office.pager.synchronise()
    spare.synchronise()
    spare.deliver()
    assert webhook.titles == ["A"]
    spare.tell(firing("B"))
    spare.deliver()
    spare.synchronise()
    office.pager.synchronise()
    stored = office.document.read()
    assert stored is not None
    assert len(stored.delivered) == 2
    assert office.pager.pending == spare.pending == 0
