"""What is to be told, and what was."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from deploy import pages as module
from deploy.alerts import parse
from deploy.pages import Page, Pages, page_of, rollback_pages, with_delivered, with_pending
from retain.rollout import advance, forgive, propose, release_latch, roll_back
from tests.deploy.alerting import alert, blaming, body
from tests.rollouts import ANN, CHAMPION, GOOD, MISSED, PLAN, evidence, figures


def page(number: int) -> Page:
    return Page(id=f"p{number}", severity="page", title="T", says="S", at=1)


def ids(pages: Pages) -> list[str]:
    return [page.id for page in pages.pending]


def test_a_page_says_what_the_alert_says() -> None:
    first, second = parse(body(blaming("A", GOOD), alert("B", severity="ticket"))).alerts
    assert page_of(first, 7) == Page(
        id=first.id, severity="page", title="A", says="A is above its limit.", at=7, release=GOOD
    )
    assert page_of(second, 7).severity == "ticket"


def test_each_rollback_is_told_once_with_who_why_and_figures() -> None:
    shadow = propose(None, CHAMPION, GOOD, **ANN)
    canary = advance(shadow, "canary", evidence(shadow), PLAN, **ANN)
    seen = figures(["errors"], errors="fail")
    back = roll_back(canary, by="controller", why="RetainArmErrors: too many", at=5, figures=seen)
    again = propose(release_latch(back, **ANN), CHAMPION, MISSED, **ANN)
    twice = roll_back(again, by="Ann", why="a hunch", at=6)
    later = forgive(twice, GOOD, **ANN)
    assert rollback_pages(canary, "local") == []
    one, other = rollback_pages(later, "local")
    assert (one.id, other.id) == (f"rollback/local/{back.generation}/5", f"rollback/local/{twice.generation}/6")
    assert one.title == f"{GOOD} was rolled back by controller"
    assert one.says.startswith(f"RetainArmErrors: too many. Before: {GOOD} for 5 % of customers. Now: latched")
    assert (one.figures, one.at, one.release) == (seen, 5, GOOD)
    assert other.title == f"{MISSED} was rolled back by Ann"


def test_a_rollback_of_a_rollout_begun_anew_is_another_one() -> None:
    def began(at: int) -> str:
        back = roll_back(propose(None, CHAMPION, GOOD, **ANN), by="Ann", why="x", at=at)
        (told,) = rollback_pages(back, "local")
        return told.id

    assert began(5) != began(6)


def test_what_is_known_changes_nothing() -> None:
    pages = with_delivered(with_pending(Pages(), page(1), page(2)), ["p1"], ["r1"])
    assert pages == Pages(rollbacks=("r1",), pending=(page(2),), delivered=("p1",))
    assert with_pending(pages, page(1), page(2)) is pages
    assert with_delivered(pages, ["p1"], ["r1"]) is pages
    assert with_delivered(pages, rollbacks=["r2", "r1"]).rollbacks == ("r1", "r2")


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=60))
def test_nothing_is_lost_and_nothing_is_told_twice(steps: list[tuple[bool, int]]) -> None:
    pages, told, delivered = Pages(), set(), set()
    for deliver, number in steps:
        if deliver:
            delivered.add(number)
            pages = with_delivered(pages, [f"p{number}"])
        else:
            told.add(number)
            pages = with_pending(pages, page(number), page(number))
        assert set(ids(pages)) == {f"p{each}" for each in told - delivered}
        assert len(set(ids(pages))) == len(ids(pages))
        assert Pages.model_validate_json(pages.model_dump_json()) == pages


def test_no_storm_of_alerts_fills_the_store() -> None:
    pages = Pages()
    for number in range(module.MAX_PENDING + 5):
        pages = with_pending(pages, page(number))
    assert len(pages.pending) == module.MAX_PENDING
    assert pages.pending[-1] == page(module.MAX_PENDING + 4)
    for number in range(module.MAX_KNOWN + 5):
        pages = with_delivered(pages, [f"p{number}"], [f"r{number}"])
    assert len(pages.delivered) == module.MAX_KNOWN
    assert len(pages.rollbacks) == module.MAX_KNOWN + 5, "none is told again"
    assert pages.pending == ()
