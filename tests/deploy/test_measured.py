"""What is asked of Prometheus: of a fake that answers oddly, and of a real one that has hours of samples."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from deploy.calls import Unanswered
from deploy.measured import (
    LEASE,
    MAX_WINDOW,
    MICROSECOND,
    PERCENT,
    REPLICAS,
    VERSIONS,
    Prometheus,
    Sample,
    count_queries,
    firing,
    measured,
    served_since,
    watched_seconds,
)
from retain.rollout import Rollout, advance, propose
from tests.deploy.fakes import FakePrometheus, answering
from tests.deploy.prometheus import Series, backfill, running
from tests.releases import MONITORING
from tests.rollouts import CHAMPION, GOOD, MISSED, PLAN, evidence


def canary(at: int) -> Rollout:
    """Of generation 2, at 5 %, since then (microseconds)."""
    ann: Any = {"by": "Ann", "reason": "a trial", "at": at}
    shadow = propose(None, CHAMPION, GOOD, **ann)
    return advance(shadow, "canary", evidence(shadow), PLAN, **ann)


# -- a fake --------------------------------------------------------------------------------------------------------


def test_what_is_not_there_is_nan_and_several_are_too_many() -> None:
    prometheus = FakePrometheus()
    prometheus.series = {"one": [({}, 5.0)], "nan": [({}, math.nan)], "two": [({"a": "1"}, 1.0), ({"a": "2"}, 2.0)]}
    with answering(prometheus) as url:
        asked = Prometheus(url, seconds=30)
        assert asked.value("one") == 5
        assert math.isnan(asked.value("nan"))
        assert math.isnan(asked.value("absent"))
        assert asked.samples("two") == [Sample({"a": "1"}, 1.0), Sample({"a": "2"}, 2.0)]
        with pytest.raises(Unanswered, match="has several answers to two"):
            asked.value("two")


@pytest.mark.parametrize(
    "answer",
    [
        {}, [], None, {"data": {}}, {"data": {"result": 5}}, {"data": {"result": [{}]}},
        {"data": {"result": [{"metric": {}, "value": []}]}}, {"data": {"result": [{"metric": [], "value": [1, "2"]}]}},
        {"data": {"result": [{"metric": {}, "value": [1, "x"]}]}}, {"data": {"result": [{"metric": {}, "values": []}]}},
    ],
)  # fmt: skip
def test_an_answer_that_is_no_vector_is_none(answer: Any) -> None:
    with answering(lambda *_: (200, json.dumps(answer).encode())) as url, pytest.raises(Unanswered):
        Prometheus(url, seconds=30).samples("up")


def test_how_far_back_is_looked_follows_from_the_last_change_and_has_an_end() -> None:
    rollout = canary(at=100 * MICROSECOND)
    assert "[110s:5s]" in served_since(rollout, 150 * MICROSECOND)
    assert "[60s:5s]" in served_since(rollout, 50 * MICROSECOND)  # a clock that is behind
    year = watched_seconds(rollout, 365 * 86_400 * MICROSECOND)
    assert f"[{MAX_WINDOW}s:130s]" in year
    assert year.startswith("130 * ")


# -- a real one ----------------------------------------------------------------------------------------------------

STEP = 5
BEGAN, PAUSED, RESUMED = 1800, 900, 600  # seconds ago: served, nobody served, served again
RESTARTED = 1000  # one of the replicas
A, B = {"job": "retain", "instance": "a:8001"}, {"job": "retain", "instance": "b:8001"}


def samples(now: float, since: int, value: Callable[[int], float | None]) -> Iterator[tuple[float, float]]:
    """`value` of how many seconds ago; none where that is None."""
    for ago in range(since - since % STEP, -STEP, -STEP):
        sample = value(ago)
        if sample is not None:
            yield now - ago, sample


def history(now: float) -> list[Series]:
    """Two replicas. For half an hour a challenger is served, but for five minutes in between, and decides once a second
    on each. Before that, in an earlier generation, 100 were counted on one of them."""

    def percent(ago: int) -> float:
        return 0.0 if ago > BEGAN or PAUSED >= ago > RESUMED else 5.0

    def counted(rate: float) -> Callable[[int], float]:
        return lambda ago: 100 * rate + max(0.0, BEGAN - ago) * rate

    def restarted(rate: float) -> Callable[[int], float]:
        return lambda ago: (RESTARTED - ago if ago <= RESTARTED else max(0, BEGAN - ago)) * rate

    def counted_as(value: float) -> Callable[[int], float]:
        return lambda _: value

    label = {"release": GOOD, "generation": "2"}
    arm = {"arm": "learned", "release": GOOD}
    series: list[Series] = []
    for replica, count in ((A, counted), (B, restarted)):
        series += [
            ("retain_rollout_percent", replica | label, samples(now, 3600, percent)),
            ("retain_rollout_percent", replica | label | {"generation": "1"}, samples(now, 3600, lambda _: 0.0)),
            ("retain_rollout_percent", replica | label | {"release": MISSED}, samples(now, 3600, lambda _: 5.0)),
            ("retain_lease_fresh", replica, samples(now, 60, lambda _: 1.0)),
            ("retain_release_info", replica | {"release": CHAMPION}, samples(now, 60, lambda _: 1.0)),
            ("up", replica, samples(now, 60, counted_as(float(replica is A)))),
            ("retain_arm_decisions_total", replica | arm, samples(now, 3600, count(1.0))),
            ("retain_arm_errors_total", replica | arm, samples(now, 3600, count(0.005))),
            ("retain_arm_seconds_count", replica | arm, samples(now, 3600, count(1.0))),
            ("retain_arm_seconds_bucket", replica | arm | {"le": "0.5"}, samples(now, 3600, count(0.98))),
            ("retain_arm_seconds_bucket", replica | arm | {"le": "0.25"}, samples(now, 3600, count(0.5))),
            ("retain_arm_messages_total", replica | arm, samples(now, 3600, count(0.25))),
            ("retain_arm_unsafe_total", replica | arm, samples(now, 3600, count(0.0025))),
            ("retain_arm_decisions_total", replica | {"arm": "baseline", "release": CHAMPION},
             samples(now, 3600, lambda ago: 99.0 * (3600 - ago))),
            ("retain_nrr_matured", replica | arm, samples(now, 60, lambda _: 1400.0)),
            ("retain_nrr_matured", replica | arm | {"arm": "baseline"}, samples(now, 60, lambda _: 30_000.0)),
            ("retain_nrr_proxy", replica | arm, samples(now, 60, lambda _: 0.61)),
            ("retain_nrr_proxy", replica | arm | {"arm": "baseline"}, samples(now, 60, lambda _: 0.60)),
        ]  # fmt: skip
    for alert, labels in (
        ("RetainArmErrors", {"release": GOOD}),
        ("RetainArmUnsafe", {"release": MISSED}),
        ("RetainLatency", {}),
    ):
        more = {"alertname": alert, "alertstate": "firing", "rollback": "challenger", **labels}
        series.append(("ALERTS", more, samples(now, 60, lambda _: 1.0)))
    return series


@pytest.fixture(scope="module")
def now() -> float:
    return float(int(time.time()))


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, now: float) -> Iterator[Prometheus]:
    folder = tmp_path_factory.mktemp("prometheus") / "data"
    backfill(folder, history(now))
    with running(folder) as prometheus:
        yield prometheus


def test_what_was_served_and_counted_is_told_as_it_was(real: Prometheus, now: float) -> None:
    rollout = canary(at=int(now - BEGAN - 5) * MICROSECOND)
    later = time.time() - now  # the samples end there
    watched = real.value(watched_seconds(rollout, int(time.time() * MICROSECOND)))
    assert watched == pytest.approx(BEGAN - (PAUSED - RESUMED) + 15, abs=25)  # a sample counts until it is 15 s old
    since = real.value(served_since(rollout, int(time.time() * MICROSECOND)))
    assert since == pytest.approx(BEGAN + later, abs=10)
    counted = {name: real.value(query) for name, query in count_queries(rollout, MONITORING, since).items()}
    assert counted["decisions"] == pytest.approx(2 * BEGAN, rel=0.02)
    assert counted["errors"] == pytest.approx(2 * BEGAN * 0.005, rel=0.02)
    assert counted["timed"] - counted["in_time"] == pytest.approx(2 * BEGAN * 0.02, rel=0.1)
    assert counted["messages"] == pytest.approx(2 * BEGAN * 0.25, rel=0.02)
    assert counted["unsafe"] == pytest.approx(2 * BEGAN * 0.0025, rel=0.02)
    assert (counted["matured"], counted["nrr"]) == (1400, 0.61)
    assert (counted["baseline_matured"], counted["baseline_nrr"]) == (30_000, 0.60)


def test_the_signals_follow_from_that(real: Prometheus, now: float) -> None:
    rollout = canary(at=int(now - BEGAN) * MICROSECOND)
    figures, watched_s = measured(real, rollout, MONITORING, int(time.time() * MICROSECOND))
    assert [(figure.name, figure.verdict) for figure in figures] == [
        ("errors", "pass"), ("latency_p95", "pass"), ("unsafe", "fail"), ("nrr", "pass"),
    ]  # fmt: skip
    assert watched_s > 1400


def test_of_a_generation_that_was_never_served_nothing_is_known(real: Prometheus, now: float) -> None:
    rollout = canary(at=int(now - BEGAN) * MICROSECOND)
    other = rollout.model_copy(update={"generation": 3})
    figures, watched_s = measured(real, other, MONITORING, int(time.time() * MICROSECOND))
    assert watched_s == 0
    assert {figure.verdict for figure in figures if figure.name != "nrr"} == {"hold"}
    higher = rollout.model_copy(update={"percent": 25.0})
    assert measured(real, higher, MONITORING, int(time.time() * MICROSECOND)).watched_s == 0


def test_every_other_question_has_its_answer(real: Prometheus, now: float) -> None:
    assert real.samples(REPLICAS) == [Sample({"instance": "a:8001", "job": "retain"}, now)]  # b isn't up
    assert [sample.labels["release"] for sample in real.samples(VERSIONS)] == [CHAMPION]
    assert {(sample.labels["instance"], sample.value) for sample in real.samples(LEASE)} == {
        ("a:8001", 1.0), ("b:8001", 1.0),
    }  # fmt: skip
    percents = {
        (sample.labels["release"], sample.labels["generation"]): sample.value for sample in real.samples(PERCENT)
    }
    assert percents == {(GOOD, "2"): 5.0, (GOOD, "1"): 0.0, (MISSED, "2"): 5.0}
    assert firing(real, GOOD) == ["RetainArmErrors", "RetainLatency"]
