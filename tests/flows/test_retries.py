"""What follows an attempt's end, by its exit code, its status and the preemptions before."""

from __future__ import annotations

import signal

import pytest

from engine.stage import BAD_INPUT, CLAIMED, COMPLETE, FAILED, FENCED, OVERDUE, PREEMPTED, REFUSED
from flows.retries import AT_ONCE, LATER_AND_LATER, Next, after


@pytest.mark.parametrize("code", [PREEMPTED, FENCED, -signal.SIGKILL, -signal.SIGTERM])
def test_a_preempted_attempt_is_tried_again_at_once_and_then_later_and_later(code: int) -> None:
    following = [after(code, "running", earlier, 6, LATER_AND_LATER) for earlier in range(8)]
    assert following == [Next("retry", wait) for wait in (0.0, 15.0, 30.0, 60.0, 60.0, 60.0)] + [Next("give up")] * 2
    assert [after(code, "running", earlier, 6, AT_ONCE).wait_s for earlier in range(6)] == [0.0] * 6


@pytest.mark.parametrize("code", [FAILED, BAD_INPUT, REFUSED, OVERDUE, -signal.SIGSEGV, -signal.SIGABRT, 127])
@pytest.mark.parametrize("earlier", [0, 5])
def test_a_failure_is_never_tried_again(code: int, earlier: int) -> None:
    assert after(code, "failed", earlier, 100) == Next("fail")


def test_an_attempt_that_wrote_that_it_failed_was_not_preempted() -> None:
    """It was killed while it ended."""
    assert after(-signal.SIGKILL, "failed", 0, 100) == Next("fail")


@pytest.mark.parametrize("code", [COMPLETE, CLAIMED])
def test_what_completed_or_was_at_work_elsewhere_is_looked_for(code: int) -> None:
    assert after(code, "complete", 5, 0) == Next("look")


def test_an_experiment_may_allow_no_preemption() -> None:
    assert after(PREEMPTED, "preempted", 0, 0) == Next("give up")
