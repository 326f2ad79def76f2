"""Log lines that callers can cause."""

from __future__ import annotations

import logging

import pytest

from serve.logs import SECONDS, Seldom


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(clock: Clock, caplog: pytest.LogCaptureFixture) -> logging.Logger:
    made = logging.Logger("seldom")
    made.addFilter(Seldom(clock))
    made.addHandler(caplog.handler)
    return made


def test_one_line_of_a_kind_in_a_minute(log: logging.Logger, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    for caller in range(1_000):
        log.warning("refused %d", caller)
        log.warning("something else")
    assert caplog.messages == ["refused 0", "something else"]
    clock.now += SECONDS
    log.warning("refused %d", 5)
    assert caplog.messages[2:] == ["refused 5 (999 more since the last such line)"]
    log.warning("refused %d", 6)
    assert len(caplog.messages) == 3


def test_another_error_is_not_hidden_by_a_frequent_one(log: logging.Logger, caplog: pytest.LogCaptureFixture) -> None:
    def fails(index: int) -> float:
        return 1 / 0 if index % 2 else float("x")

    for index in range(100):
        try:
            fails(index)
        except (ValueError, ZeroDivisionError):
            log.exception("failed")
    assert [record.exc_info and record.exc_info[0] for record in caplog.records] == [ValueError, ZeroDivisionError]
