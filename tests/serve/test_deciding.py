"""One decision, apart from the transaction around it."""

from __future__ import annotations

from uuid import UUID

from serve.deciding import new_id

NOW = 1_764_515_000_123_456  # microseconds


def test_ids_are_uuids_that_no_other_decision_has() -> None:
    ids = [new_id(NOW) for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert all(str(UUID(text)) == text for text in ids)
    assert {(UUID(text).version, UUID(text).variant) for text in ids} == {(7, UUID(ids[0]).variant)}
    assert "RFC 4122" in UUID(ids[0]).variant
    assert {text[19] for text in ids} == set("89ab")


def test_ids_of_later_decisions_come_later() -> None:
    assert UUID(new_id(NOW)).int >> 80 == NOW // 1000
    assert new_id(NOW) < new_id(NOW + 1000) < new_id(NOW + 10**12)


def test_a_clock_before_1970_makes_ids_too() -> None:
    assert UUID(new_id(-1)).int >> 80 == 0
