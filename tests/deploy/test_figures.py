"""What a rollback tells of the challenger: what was last measured of this generation, or nothing; nobody is asked."""

from __future__ import annotations

import pytest

from deploy.calls import Unanswered
from deploy.figures import FIRST_SECONDS, MEASURE_SECONDS, OLD_SECONDS, Figures
from deploy.measured import Prometheus
from deploy.people import desk, wall_clock
from deploy.settings import read
from engine.errors import RetainError
from retain.rollout import Rollout, set_percent
from retain.signals import SIGNALS
from tests.deploy.fakes import EXPERIMENT, FakePrometheus
from tests.deploy.town import ANN, Town


class Watched:
    def __init__(self, town: Town) -> None:
        self.town, self.now = town, 100.0
        prometheus = Prometheus(town.environment["RETAIN_PROMETHEUS_URL"], seconds=30)
        document = desk(read(town.environment), lambda _: None).rollout
        self.figures = Figures(EXPERIMENT, document, prometheus, lambda: self.now, wall_clock)

    def measure(self) -> None:
        """Looks until it is time to ask."""
        for seconds in (0.0, FIRST_SECONDS, MEASURE_SECONDS):
            self.now += seconds
            self.figures.look()

    @property
    def rollout(self) -> Rollout:
        rollout = self.town.rollout
        assert rollout is not None
        return rollout


@pytest.fixture
def watched(town: Town) -> Watched:
    assert town.run("propose", town.good, *ANN) == 0
    return Watched(town)


def names(watched: Watched) -> list[str]:
    return [figure.name for figure in watched.figures.of(watched.rollout)]


def test_what_was_measured_counts_for_its_generation_and_not_for_long(
    watched: Watched, prometheus: FakePrometheus
) -> None:
    watched.town.run("advance", "--to", "canary", *ANN)
    watched.town.measures()
    assert names(watched) == []
    watched.measure()
    asked = len(prometheus.asked)
    assert names(watched) == list(SIGNALS)
    watched.now += OLD_SECONDS
    assert names(watched) == list(SIGNALS)
    watched.now += 0.1
    assert names(watched) == []
    assert len(prometheus.asked) == asked
    watched.measure()
    lower = set_percent(watched.rollout, 1.0, by="Ann", reason="x", at=1)
    assert watched.figures.of(lower) == ()


def test_prometheus_is_asked_soon_after_a_change_and_then_once_a_minute(
    watched: Watched, prometheus: FakePrometheus
) -> None:
    watched.town.run("advance", "--to", "canary", *ANN)
    watched.town.measures()
    prometheus.asked.clear()

    def asked_at(seconds: int) -> list[int]:
        """Of the next ones, those in which it was."""
        times = []
        for second in range(seconds):
            before = len(prometheus.asked)
            watched.figures.look()
            if len(prometheus.asked) > before:
                times.append(second)
            watched.now += 1
        return times

    assert asked_at(140) == [15, 75, 135]
    watched.town.run("set-percent", "1", *ANN)
    assert asked_at(80) == [15, 75]
    prometheus.answers = False
    with pytest.raises(Unanswered):
        asked_at(60)
    prometheus.answers = True
    assert asked_at(70) == [60]  # nor more often if there is no answer


def test_in_the_shadow_nothing_is_measured(watched: Watched, prometheus: FakePrometheus) -> None:
    asked = len(prometheus.asked)
    watched.measure()
    watched.town.run("rollback", *ANN)
    watched.measure()
    assert len(prometheus.asked) == asked
    assert names(watched) == []


def test_without_an_answer_the_last_ones_count_while_they_may(
    watched: Watched, prometheus: FakePrometheus, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.town.run("advance", "--to", "canary", *ANN)
    watched.measure()
    prometheus.answers = False
    with pytest.raises(Unanswered):
        watched.measure()
    assert names(watched) == list(SIGNALS)


def test_a_release_that_is_gone_has_no_figures(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    watched.town.run("advance", "--to", "canary", *ANN)
    monkeypatch.setenv("RETAIN_STORE", f"{watched.town.store.root}-elsewhere")
    with pytest.raises(RetainError):
        watched.measure()
    assert names(watched) == []
