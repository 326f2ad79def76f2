"""What a notification says, and whether it rolls back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.alerts import Alert, AlertError, blamed, blames, parse, why
from retain.rollout import Rollout, advance, propose, roll_back, set_percent
from tests.deploy.alerting import alert, blaming, body, watchdog
from tests.rollouts import ANN, CHAMPION, GOOD, MISSED, PLAN, evidence

SHADOW = propose(None, CHAMPION, GOOD, **ANN)
CANARY = advance(SHADOW, "canary", evidence(SHADOW), PLAN, **ANN)
ROLLED_BACK = roll_back(CANARY, by="Ann", why="x", at=1)
TO_ZERO = set_percent(CANARY, 0, **ANN)


def one(sent: dict[str, Any]) -> Alert:
    (read,) = parse(body(sent)).alerts
    return read


def test_what_is_needed_is_read() -> None:
    read = one(blaming("RetainArmUnsafe", GOOD))
    assert (read.name, read.firing, read.severity, read.rolls_back, read.release) == (
        "RetainArmUnsafe", True, "page", True, GOOD,
    )  # fmt: skip
    assert why(read) == "RetainArmUnsafe: RetainArmUnsafe is above its limit"
    assert why(read._replace(summary="")) == "RetainArmUnsafe"


@pytest.mark.parametrize(
    ("sent", "rollout", "blamed_for_it"),
    [
        (blaming("RetainArmUnsafe", GOOD), CANARY, True),
        (blaming("RetainArmUnsafe", GOOD), SHADOW, True),  # it was served until now, or it wouldn't have been counted
        (blaming("RetainArmUnsafe", GOOD), TO_ZERO, True),
        (blaming("RetainArmUnsafe", MISSED), CANARY, False),  # of a challenger that is gone
        (blaming("RetainArmUnsafe", GOOD), ROLLED_BACK, False),
        (blaming("RetainServerErrors"), CANARY, True),
        (blaming("RetainServerErrors"), SHADOW, False),  # nobody was served by it
        (blaming("RetainServerErrors"), TO_ZERO, False),
        (blaming("RetainServerErrors"), ROLLED_BACK, False),
        (blaming("RetainServerErrors", status="resolved"), CANARY, False),
        (blaming("RetainArmUnsafe", GOOD, status="resolved"), CANARY, False),
        (blaming("RetainArmUnsafe", GOOD, severity="ticket"), CANARY, True),
        (blaming("RetainServerErrors", release=""), CANARY, True),
        (alert("RetainScoreDrift", severity="ticket"), CANARY, False),
        (alert("RetainServerErrors", rollback="champion"), CANARY, False),
        (watchdog(), CANARY, False),
    ],
)
def test_whom_an_alert_blames(sent: dict[str, Any], rollout: Rollout, blamed_for_it: bool) -> None:
    assert blames(one(sent), rollout) is blamed_for_it


def test_one_of_several_alerts_is_enough() -> None:
    read = parse(body(alert("Other"), blaming("RetainArmErrors", MISSED), blaming("RetainLatency"))).alerts
    found = blamed(read, CANARY)
    assert found is not None
    assert found.name == "RetainLatency"
    assert blamed(read, SHADOW) is None


def test_an_alert_that_can_not_be_read_keeps_no_other_from_being_read() -> None:
    broken: list[Any] = [
        None, 5, [], {}, {"status": "firing"}, {"status": "on", "labels": {"alertname": "x"}},
        {"status": "firing", "labels": {"alertname": 5}}, {"status": "firing", "labels": {"severity": "page"}},
    ]  # fmt: skip
    read = parse(body(*broken, blaming("RetainArmErrors", GOOD)))
    assert [each.name for each in read.alerts] == ["RetainArmErrors"]
    assert len(read.unreadable) == len(broken)
    assert all("\n" not in line for line in read.unreadable)


def test_what_is_not_needed_may_be_missing_or_anything() -> None:
    plain = {"status": "firing", "labels": {"alertname": "A", "rollback": "challenger"}}
    for more in (
        {},
        {"annotations": None},
        {"annotations": {"summary": 5, "evaluated": []}},
        {"startsAt": 7},
        {"x": 1},
    ):
        assert blames(one({**plain, **more}), CANARY)


@pytest.mark.parametrize("sent", [b"", b"{", b"[]", b"null", b"{}", b'{"alerts": {}}', b"[" * 100_000, b"\xff"])
def test_what_is_no_notification_is_refused_in_one_line(sent: bytes) -> None:
    with pytest.raises(AlertError, match=r"^[^\n]+$"):
        parse(sent)


def test_the_same_alert_has_the_same_id_until_it_starts_again() -> None:
    first, again = one(blaming("A", GOOD)), one(blaming("A", GOOD))
    other = one(blaming("A", GOOD) | {"annotations": {}, "fingerprint": "x", "generatorURL": "y"})
    assert first.id == again.id == other.id
    assert len({one(blaming("A", MISSED)).id, one(blaming("B", GOOD)).id, first.id}) == 3
    assert one(blaming("A", GOOD, starts="2026-11-30T21:00:00.000Z")).id != first.id


def test_the_watchdog_is_told_from_others_and_its_newest_number_counts() -> None:
    assert parse(body(alert("Other"))).watchdog is None
    assert parse(body({**watchdog(), "status": "resolved"})).watchdog is None
    read = parse(body(watchdog(7), watchdog(9.5), watchdog())).watchdog
    assert read is not None
    assert read.evaluated == 9.5
    assert parse(body(watchdog())).told == ()
    for nonsense in ("x", "", "NaN", "+Inf", "1e999"):
        sent = watchdog() | {"annotations": {"evaluated": nonsense}}
        assert one(sent).evaluated is None


def test_pages_and_tickets_that_fire_are_told() -> None:
    sent = [
        alert("Page"), alert("Ticket", severity="ticket"), alert("Nothing", severity="none"), watchdog(),
        alert("Over", status="resolved"), blaming("Silent", severity="none"),
    ]  # fmt: skip
    assert [each.name for each in parse(body(*sent)).told] == ["Page", "Ticket", "Silent"]


def test_a_text_is_one_line_that_can_be_kept() -> None:
    read = one(blaming("A\nB", GOOD) | {"annotations": {"summary": "x\r\n\ud800y" + "z" * 1000}})
    assert read.name == "A B"
    assert read.summary.startswith("x   y")
    assert len(read.summary) <= 400
    read.id.encode()
    json.dumps(read).encode()
    assert blames(read, CANARY)
    assert roll_back(CANARY, by="controller", why=why(read), at=1).latched


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
KEYS = st.sampled_from(["status", "labels", "annotations", "startsAt"])


@given(st.lists(st.dictionaries(KEYS, JSON) | JSON, max_size=5), st.integers(0, 5))
def test_no_company_keeps_an_alert_from_rolling_back(others: list[Any], at: int) -> None:
    sent = [*others[:at], blaming("RetainArmErrors", GOOD), *others[at:]]
    found = blamed(parse(json.dumps({"alerts": sent}).encode()).alerts, CANARY)
    assert found is not None
    assert found.name == "RetainArmErrors"
