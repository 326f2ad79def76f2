from __future__ import annotations

import math

from bench import decision


def test_every_part_of_the_benchmark_is_measured() -> None:
    found = decision.measure(decision.made(60), threads=2, years=1, rounds=1)
    assert set(decision.LIMITS) <= set(found)
    assert all(math.isfinite(value) and value > 0 for value in found.values())
    parts = (found[f"{name}_steps_per_s"] for name in ("simulator", "inference", "updates"))
    assert math.isclose(1 / found["limit_steps_per_s"], sum(1 / part for part in parts))
    assert math.isclose(found["share_of_limit"], found["ppo_steps_per_s"] / found["limit_steps_per_s"])


def test_the_updates_of_the_limit_leave_the_learner_alone() -> None:
    simulator = decision.made(60)
    learner = decision.Learner(simulator, decision.settings(simulator), seed=0)
    before = learner.policy().to_json()
    decision.updated(learner)()
    decision.asked(learner)()
    assert learner.policy().to_json() == before
