from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from bench import decision
from engine import config
from retain.policy import Policy
from tasks.config import DecisionConfig, Experiment
from tasks.decision.ppo_lagrangian import Learner


@pytest.fixture(scope="module")
def stated() -> DecisionConfig:
    return config.validate(config.load(config.experiment_path("exp_001_mvp")), Experiment).stages.decision


def test_every_part_of_the_benchmark_is_measured(stated: DecisionConfig) -> None:
    found = decision.measure(*decision.made(stated, 60), threads=2, years=1, rounds=1)
    assert "share_of_limit" in found
    assert all(math.isfinite(value) and value > 0 for value in found.values())
    parts = (found[f"{name}_steps_per_s"] for name in ("simulator", "inference", "updates"))
    assert math.isclose(1 / found["limit_steps_per_s"], sum(1 / part for part in parts))
    assert math.isclose(found["share_of_limit"], found["ppo_steps_per_s"] / found["limit_steps_per_s"])


def test_a_decision_is_timed_with_everything_that_the_service_does_for_it(
    stated: DecisionConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 200 decisions each is asked for what forbids it, observed, and made by the policy; none is skipped."""
    simulator, settings = decision.made(stated, 60)
    policy = Learner(simulator, settings, seed=0, threads=1).policy()
    calls: Counter[str] = Counter()

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            calls[name] += 1
            return function(*arguments)

        return call

    for name in ("forbidden", "observe", "pace"):
        monkeypatch.setattr(decision, name, counted(name, getattr(decision, name)))
    monkeypatch.setattr(Policy, "best", counted("best", Policy.best))
    monkeypatch.setattr(decision, "DECISIONS", 200)
    assert 0 < decision.decision_us(stated, simulator, policy) < math.inf
    assert calls == dict.fromkeys(("forbidden", "observe", "pace", "best"), 200)


def test_the_updates_of_the_limit_leave_the_learner_alone(stated: DecisionConfig) -> None:
    simulator, settings = decision.made(stated, 60)
    learner = Learner(simulator, settings, seed=0, threads=2)
    before = learner.policy().to_json()
    decision.updated(learner)()
    decision.asked(learner)()
    assert learner.policy().to_json() == before


def test_the_time_to_the_final_lift_is_not_after_the_end(
    stated: DecisionConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    lifts = iter([0.0, 0.5, 0.99, 0.9, 0.985, 1.0])  # of no contact, and after 4, 8, 12, 16 and 18 iterations
    monkeypatch.setattr(decision, "lift_of", lambda simulator, policy: next(lifts))
    simulator, settings = decision.made(stated, 60)
    short = replace(settings, iterations=18)
    found = decision.followed(simulator, short, threads=1)
    assert found["final_lift"] == 1.0
    assert 0 < found["time_to_98_s"] < found["training_s"]


@pytest.mark.slow  # 8,192 steps of single customers
def test_stable_baselines_is_measured_beside(stated: DecisionConfig) -> None:
    pytest.importorskip("stable_baselines3")
    simulator, settings = decision.made(stated, 24)
    found = decision.stable_baselines(simulator, settings, 1, partial(decision.made, stated, 1), iterations=1)
    assert set(found) == {"whole_cohort", "documented"}
    assert all(np.isfinite(speed) and speed > 0 for speed in found.values())


def test_without_stable_baselines_the_rest_is_measured(stated: DecisionConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    simulator, settings = decision.made(stated, 24)
    assert decision.stable_baselines(simulator, settings, 1, partial(decision.made, stated, 1)) == {}
