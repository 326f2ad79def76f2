"""The four signals: what passes, what fails, and what is too little to tell."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from retain.signals import SIGNALS, Counts, Figure, verdicts
from tests.releases import MONITORING

HEALTHY = Counts(
    decisions=5000, errors=10, timed=5000, slow=50, messages=2000, unsafe=2, matured=1300, nrr=0.9,
    baseline_matured=20_000, baseline_nrr=0.9,
)  # fmt: skip


def figure(name: str, **changes: float) -> Figure:
    (found,) = [each for each in verdicts(HEALTHY._replace(**changes), MONITORING) if each.name == name]
    return found


def test_a_healthy_challenger_passes_by_all_four() -> None:
    figures = verdicts(HEALTHY, MONITORING)
    assert tuple(each.name for each in figures) == SIGNALS == ("errors", "latency_p95", "unsafe", "nrr")
    assert {each.verdict for each in figures} == {"pass"}


@pytest.mark.parametrize(
    ("name", "events_of", "samples_of", "limit", "wanted", "events"),
    [
        ("errors", "errors", "decisions", 0.01, 100, 4),
        ("latency_p95", "slow", "timed", 0.05, 100, 1),
        ("unsafe", "unsafe", "messages", 0.005, 500, 6),
    ],
)
def test_a_share_fails_above_its_limit_with_enough_samples_and_events(
    name: str, events_of: str, samples_of: str, limit: float, wanted: int, events: int
) -> None:
    def of(happened: float, samples: float) -> str:
        return figure(name, **{events_of: happened, samples_of: samples}).verdict

    assert of(wanted - 1, wanted - 1) == "hold"  # too few samples, whatever happened
    assert of(0, wanted - 1) == "hold"
    assert of(0, 0) == "hold"
    assert of(0, wanted) == "pass"
    assert of(wanted, wanted) == "fail"
    assert of(events, wanted) == ("fail" if events / wanted > limit else "pass")
    at_limit = limit * 100_000
    assert of(at_limit, 100_000) == "pass"
    assert of(at_limit + 1, 100_000) == "fail"
    assert figure(name, **{events_of: 0.0, samples_of: 99_999.0}).limit == limit


def test_a_rate_above_the_limit_of_few_events_is_on_hold() -> None:
    for name, changes in (
        ("errors", {"errors": 3.0, "decisions": 100.0}),
        ("unsafe", {"unsafe": 5.0, "messages": 500.0}),
    ):
        seen = figure(name, **changes)
        assert seen.verdict == "hold"
        assert "too few to tell from chance" in seen.says
        assert seen.value is not None
        assert seen.limit is not None
        assert seen.value > seen.limit
    assert figure("errors", errors=4.0, decisions=100.0).verdict == "fail"
    assert figure("unsafe", unsafe=6.0, messages=500.0).verdict == "fail"


def test_of_a_hundred_answers_six_slow_ones_are_too_many() -> None:
    assert figure("latency_p95", slow=5.0, timed=100.0).verdict == "pass"
    assert figure("latency_p95", slow=6.0, timed=100.0).verdict == "fail"


def test_value_fails_by_more_than_three_points_below_the_baseline() -> None:
    assert figure("nrr", nrr=0.871).verdict == "pass"
    assert figure("nrr", nrr=0.869).verdict == "fail"
    assert figure("nrr", nrr=1.2).verdict == "pass"
    below = figure("nrr", nrr=0.85)
    assert below.value == pytest.approx(0.05)
    assert "-0.0500" in below.says
    assert below.samples == 1300


@pytest.mark.parametrize("few", ["matured", "baseline_matured"])
def test_value_is_on_hold_until_both_arms_have_matured(few: str) -> None:
    for nrr in (0.0, 0.9):
        seen = figure("nrr", nrr=nrr, **{few: 1299.0})
        assert (seen.verdict, seen.samples) == ("hold", 1299)
    assert figure("nrr", nrr=0.0, **{few: 1300.0}).verdict == "fail"


@example((1e6,) * 8 + (math.nan, 1.0))
@example((1e6,) * 6 + (math.nan, 1.0, 1e6, 1.0))
@given(st.tuples(*[st.sampled_from([math.nan, math.inf, -math.inf, 0.0, 1.0, 1e6])] * 10))
def test_what_is_no_number_never_passes_or_fails(values: tuple[float, ...]) -> None:
    counts = Counts(*values)
    errors, latency, unsafe, nrr = verdicts(counts, MONITORING)
    for seen, used in (
        (errors, (counts.errors, counts.decisions)),
        (latency, (counts.slow, counts.timed)),
        (unsafe, (counts.unsafe, counts.messages)),
        (nrr, (counts.matured, counts.baseline_matured, counts.nrr, counts.baseline_nrr)),
    ):
        if not all(map(math.isfinite, used)):
            assert seen.verdict == "hold"
        Figure.model_validate_json(seen.model_dump_json())


def test_the_limits_are_the_release_s() -> None:
    tight = MONITORING.model_copy(
        update={"nrr_proxy_drop": MONITORING.nrr_proxy_drop.model_copy(update={"limit": 0.001})}
    )
    assert verdicts(HEALTHY._replace(nrr=0.89), tight)[3].verdict == "fail"
    assert verdicts(HEALTHY._replace(nrr=0.89), MONITORING)[3].verdict == "pass"
    assert "500 ms" in figure("latency_p95").says
