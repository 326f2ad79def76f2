"""Many experiments on a simulated clock: whatever happens to machines and caps, no cap is passed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench import preemption
from bench.preemption import (
    DAG,
    ENDS,
    HEARTBEAT_S,
    HOSTILE,
    STATES,
    CapPassed,
    Simulation,
    World,
    draw,
    experiments,
    intervals,
    undisturbed,
)
from engine import ledger
from engine.ledger import Standing, entries
from flows.retries import LATER_AND_LATER

CALM = World(seed=1, per_hour=4.0, cap_usd=50.0)


def test_no_cap_is_passed_by_whatever_happens() -> None:
    ran = experiments(150)  # some 7 s; bench/preemption.py runs 1,000
    assert {outcome.state for _, outcome in ran} == set(STATES)
    assert sum(world.lowered is not None for world, _ in ran) > 30
    assert sum(outcome.preemptions for _, outcome in ran) > 2000
    assert sum(outcome.writes for _, outcome in ran) > 5000
    dearest = max(stage.usd_per_hour for stage in DAG)
    for world, outcome in ran:
        assert outcome.metered_usd <= world.cap_usd
        # More than was used are a heartbeat for each end that nobody saw, and a micro-dollar for each attempt.
        more = outcome.preemptions * HEARTBEAT_S * dearest / 3600 + 1e-6 * outcome.attempts
        assert outcome.metered_usd <= outcome.used_usd + more


@pytest.mark.slow
def test_no_cap_is_passed_in_a_thousand_experiments() -> None:
    experiments(1000)


def test_a_ledger_that_forgets_open_reservations_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = ledger._standing
    monkeypatch.setattr(ledger, "_standing", lambda *asked: replace(honest(*asked), reserved=0))
    with pytest.raises(CapPassed):
        experiments(50)


def test_a_cap_that_is_ignored_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = ledger._standing

    def without_own_cap(document: ledger._Document, cap_usd: float) -> Standing:
        return honest(document.model_copy(update={"cap_micro_usd": None}), cap_usd)

    monkeypatch.setattr(ledger, "_standing", without_own_cap)
    with pytest.raises(CapPassed):
        experiments(50)


def test_an_undisturbed_run_is_its_critical_path_and_costs_its_work() -> None:
    outcome = undisturbed()
    assert (outcome.state, outcome.attempts, outcome.preemptions) == ("complete", len(DAG), 0)
    path = sum(stage.work_s + stage.load_s for stage in DAG if stage.name in ("sft", "rm", "ppo_text", "release"))
    assert path < outcome.makespan_s < 1.03 * path  # saves
    assert outcome.metered_usd == pytest.approx(outcome.used_usd, abs=1e-5)


def test_an_attempt_out_of_sight_keeps_its_reservation_until_its_end_is_known() -> None:
    """So a run with little money is refused instead of paying twice."""
    lost = replace(CALM, per_hour=20.0, ends={"lost": 1.0})
    assert Simulation(lost).run().state == "complete"
    one = max(stage.limit_s * stage.usd_per_hour / 3600 for stage in DAG)
    assert Simulation(replace(lost, cap_usd=1.2 * one + 0.3)).run().state == "over budget"


@pytest.mark.parametrize("end", ["frozen", "zombie"])
def test_an_attempt_that_outlives_its_reservation_stops_the_run(end: str) -> None:
    simulation = Simulation(replace(CALM, ends={end: 1.0}))
    assert simulation.run().state == "over budget"
    assert "longer than it had reserved" in simulation.over_budget


def test_a_bug_ends_its_stage_at_once_and_the_other_branch_goes_on() -> None:
    simulation = Simulation(replace(CALM, per_hour=8.0, seed=3, ends={"failed": 1.0}))
    assert simulation.run().state == "failed"
    failed = [name for name, state in simulation.states.items() if state == "failed"]
    attempts = entries(simulation.store, preemption.SCOPE)
    assert [sum(entry.stage == name for entry in attempts) for name in failed] == [1] * len(failed)
    assert not any(entry.preempted for entry in attempts)


def test_attempts_are_bounded() -> None:
    simulation = Simulation(replace(CALM, per_hour=20.0, most=3, ends={"killed": 1.0}))
    assert simulation.run().state == "gave up"
    attempts = entries(simulation.store, preemption.SCOPE)
    assert max(sum(entry.stage == stage.name for entry in attempts) for stage in DAG) == 4


def test_a_run_waits_longer_after_each_preemption() -> None:
    """Without work and loading, what a stage takes is the waiting."""
    kills = replace(CALM, per_hour=3600.0, ends={"killed": 1.0}, most=6)
    simulation = Simulation(kills, (replace(DAG[0], work_s=1e6),))
    assert simulation.run().state == "gave up"
    waited = sum(LATER_AND_LATER) + 2 * LATER_AND_LATER[-1]
    assert waited < simulation.ended_at < waited + 7 * 10


def test_the_interval_that_follows_the_ledger_is_near_the_best_fixed_one() -> None:
    for row in intervals(6, rates=(1.0, 10.0)):
        assert row["known"] <= 1.15 * row["best"]
        assert row["followed"] <= 1.6 * row["best"]


def test_experiments_are_drawn_from_their_seeds() -> None:
    worlds = [draw(seed) for seed in range(300)]
    assert worlds == [draw(seed) for seed in range(300)]
    assert 0.0 <= min(world.per_hour for world in worlds) < 0.1
    assert 19.0 < max(world.per_hour for world in worlds) <= 20.0
    assert {frozenset(world.ends) for world in worlds} == {frozenset(ENDS), frozenset(HOSTILE)}


def test_what_is_shown_is_what_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    row = {
        "per_hour": [1.0, 5.0],
        "experiments": 7,
        "ended": dict.fromkeys(STATES, 3),
        "preemptions": 9.1,
        "makespan": [1.01, 1.12, 1.23],
        "cost": [],
        "not_metered": 0.0125,
    }
    followed = {"per_hour": 4.0, "followed": 25.25, "known": 20.75, "best": 19.5, "best_every_s": 80.0}
    preemption.show({"experiments": 7, "writes": 1234, "distributions": [row], "intervals": [followed]})
    printed = " ".join(capsys.readouterr().out.split())
    for part in ("7 experiments", "1,234 changes", "1 to 5", "9.1", "1.25%", "25.2 %", "20.8 %", "19.5 %", "80 s"):
        assert part in printed
