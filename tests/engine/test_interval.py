"""A checkpoint is due by the rate of preemptions and what a save takes, or as often as the experiment says."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import ValidationError

from engine.interval import FIRST_S, LONGEST_S, SHORTEST_S, CheckpointInterval, Schedule

HOURS = 4.0


@dataclass
class Clock:
    """Elapsed seconds that pass when a test says so."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def interval(**changes: Any) -> CheckpointInterval:
    return CheckpointInterval(
        **{"mean_hours_between_preemptions": HOURS, "every_s": None, "every_steps": None} | changes
    )


def save(schedule: Schedule, clock: Clock, seconds: float) -> None:
    began = clock.now
    clock.now += seconds
    schedule.saved(began)


def first_due(schedule: Schedule, clock: Clock, step_s: float = 0.25) -> float:
    """Seconds from now until a stage whose steps take that long is told to save."""
    began = clock.now
    while clock.now - began < 10 * LONGEST_S:
        clock.now += step_s
        if schedule.due():
            return clock.now - began
    return math.inf


@pytest.mark.parametrize("save_s", [0.05, 0.5, 2.0])
def test_the_interval_follows_young(save_s: float) -> None:
    clock = Clock()
    schedule = Schedule(interval(), clock)
    assert first_due(schedule, clock) == FIRST_S  # early, so that a save is measured
    save(schedule, clock, save_s)
    expected = math.sqrt(2 * save_s * HOURS * 3600)
    assert schedule.interval_s == pytest.approx(expected)
    assert first_due(schedule, clock) == pytest.approx(expected, abs=0.25)

    def expected_loss(every_s: float) -> float:
        """Share of the time that goes into saves and into work that is done again."""
        return save_s / every_s + every_s / (2 * HOURS * 3600)

    for factor in (0.8, 1.25):
        assert expected_loss(schedule.interval_s) < expected_loss(factor * schedule.interval_s)


def test_more_preemptions_mean_more_checkpoints() -> None:
    seconds = []
    for hours in (0.1, 1.0, 24.0):
        clock = Clock()
        schedule = Schedule(interval(mean_hours_between_preemptions=hours), clock)
        save(schedule, clock, 0.5)
        seconds.append(first_due(schedule, clock))
    assert seconds == sorted(seconds)
    assert len(set(seconds)) == 3


@pytest.mark.parametrize(("save_s", "hours", "expected"), [(1e-6, 0.01, SHORTEST_S), (60.0, 1000.0, LONGEST_S)])
def test_the_interval_stays_within_bounds(save_s: float, hours: float, expected: float) -> None:
    clock = Clock()
    schedule = Schedule(interval(mean_hours_between_preemptions=hours), clock)
    save(schedule, clock, save_s)
    assert schedule.interval_s == expected


def test_the_mean_of_all_saves_counts_with_what_was_collected_for_them() -> None:
    clock = Clock()
    schedule = Schedule(interval(), clock)
    clock.now += FIRST_S
    assert schedule.due()
    clock.now += 0.3  # the stage collects what goes into the checkpoint
    save(schedule, clock, 0.1)
    assert schedule.waited_s == pytest.approx(0.4)
    save(schedule, clock, 0.2)  # of a part that is finished: nobody asked whether it is due
    assert schedule.waited_s == pytest.approx(0.6)
    assert schedule.interval_s == pytest.approx(math.sqrt(2 * 0.3 * HOURS * 3600))


def test_an_answer_that_was_not_followed_is_no_save() -> None:
    clock = Clock()
    schedule = Schedule(interval(every_steps=1), clock)
    assert schedule.due()
    clock.now += 100.0
    assert schedule.due()
    save(schedule, clock, 0.5)
    assert schedule.waited_s == pytest.approx(0.5)


def test_every_so_many_steps() -> None:
    clock = Clock()
    schedule = Schedule(interval(every_steps=3), clock, busy=lambda: True)
    for _ in range(2):
        assert [schedule.due() for _ in range(3)] == [False, False, True]
        clock.now += 10_000
        save(schedule, clock, 1.0)
    save(schedule, clock, 1.0)
    assert [schedule.due() for _ in range(3)] == [False, False, True], "counted from the last save on"


def test_every_so_many_seconds() -> None:
    clock = Clock()
    schedule = Schedule(interval(every_s=7.0), clock)
    for _ in range(3):
        assert first_due(schedule, clock) == 7.0
        save(schedule, clock, 1.0)


def test_of_steps_and_seconds_whichever_comes_first() -> None:
    clock = Clock()
    schedule = Schedule(interval(every_s=7.0, every_steps=3), clock)
    assert first_due(schedule, clock, step_s=1.0) == 3.0
    save(schedule, clock, 1.0)
    assert first_due(schedule, clock, step_s=3.0) == 9.0
    save(schedule, clock, 1.0)
    assert first_due(schedule, clock, step_s=8.0) == 8.0


def test_nothing_is_due_while_the_last_save_is_being_copied() -> None:
    clock, copying = Clock(), True
    schedule = Schedule(interval(), clock, busy=lambda: copying)
    assert first_due(schedule, clock) == math.inf
    copying = False
    assert schedule.due()


@pytest.mark.parametrize(
    "wrong",
    [
        {"mean_hours_between_preemptions": 0.0},
        {"mean_hours_between_preemptions": math.inf},
        {"every_s": 0.0},
        {"every_steps": 0},
        {"every_steps": 1.5},
        {"every": 3},
    ],
)
def test_an_interval_that_can_not_be_meant_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        interval(**wrong)
