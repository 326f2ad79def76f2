from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from engine.errors import DataError
from retain.offers import Cap, Offers
from tasks.decision import baselines
from tasks.decision.baselines import (
    Fitted,
    Log,
    Nobody,
    Thompson,
    Threshold,
    Tuned,
    Uplift,
    compete,
    search,
    tune,
)
from tasks.decision.simulator import Cohort, Simulator, World

Made = Callable[..., Cohort]


@pytest.fixture(scope="module")
def simulator(cohort: Made, world: World, offers: Offers, cap: Cap) -> Simulator:
    customers = cohort(600)
    return Simulator(customers, world, offers, cap, 0.03 * customers.revenue)


@pytest.fixture(scope="module")
def log(simulator: Simulator) -> Log:
    return baselines.log(simulator, 6, np.random.default_rng(0))


def lift(simulator: Simulator, policy: object) -> float:
    years = [compete(simulator, one, 4, 99, "expected") for one in (policy, Nobody())]  # type: ignore[arg-type]
    return float(np.mean([a.net.sum() - b.net.sum() for a, b in zip(*years)])) / simulator.cohort.revenue


def test_a_threshold_contacts_whoever_reaches_it() -> None:
    observation = np.array([[0.1], [0.5], [0.9], [0.9]], np.float32)
    mask = np.array([[True, True, True]] * 3 + [[True, False, False]])
    decide = Threshold(risk=0, action=2, threshold=0.5).start(np.random.default_rng(0))
    assert decide(observation, mask).tolist() == [0, 2, 2, 0]


def test_the_log_is_a_random_test_with_the_rest_of_the_year_as_outcome(log: Log, simulator: Simulator) -> None:
    tested = log.action > 0
    assert tested.mean() == pytest.approx(0.1, abs=0.01)
    assert np.bincount(log.action[tested])[1:] / tested.sum() == pytest.approx([0.25] * 4, abs=0.03)
    assert log.gain.max() <= 12
    assert (log.gain + log.cost <= 12 - log.month).all()  # in charges: no more than the months that are left
    assert (log.cost[~tested & (log.month == 11)] == 0).all()
    # Control predictions explain most of it, and are not off in the mean.
    gap = log.gain - log.control[0]
    alone = ~tested
    assert abs(np.average(gap[alone], weights=log.weight[alone])) < 0.02
    assert gap[alone].var() < 0.1 * log.gain[alone].var()


def test_what_the_models_say_of_gain_and_cost_is_what_tests_show(log: Log, simulator: Simulator) -> None:
    """Mean predicted uplift of each offer against the difference of means between treated and control rows."""
    uplift, thompson = Uplift.fit(log), Thompson.fit(log, simulator.observed, 4)
    first = log.month < 6
    for action in (3, 4):
        rows = (log.action == action) & first
        gap = np.average(log.gain[rows] - log.control[0][rows], weights=log.weight[rows])
        everywhere = log.action == action
        wanted = np.average((log.gain - log.control[0])[everywhere], weights=log.weight[everywhere])
        trees = baselines._predict(uplift.models[action - 1][0], log.observation[everywhere])
        assert np.average(trees, weights=log.weight[everywhere]) == pytest.approx(wanted, abs=0.02)
        line = baselines._basis(log.observation[everywhere], thompson.columns) @ thompson.gain[action - 1]
        assert np.average(line, weights=log.weight[everywhere]) == pytest.approx(wanted, abs=0.02)
        assert gap > wanted  # early in the year an offer is worth more


def test_each_baseline_gains_and_thompson_more_than_a_threshold(log: Log, simulator: Simulator) -> None:
    fitted = Fitted(baselines.fixed(simulator, 10), Thompson.fit(log, simulator.observed, 4), Uplift.fit(log))
    tuned = {name: search(simulator, fitted, name, 10, 1, 0, "expected") for name in baselines.RANGES}
    found = {name: lift(simulator, one.policy) for name, one in tuned.items()}
    assert {len(one.evaluations) for one in tuned.values()} == {10}
    assert found["threshold"] > 0.005
    assert found["thompson_sampling"] > 1.1 * found["threshold"]
    assert found["uplift_tree"] > 0.005  # its leaves are meant for more customers than these


def test_tuning_returns_the_best_it_tried_and_is_repeatable(simulator: Simulator) -> None:
    rule = baselines.fixed(simulator, 10)

    def tuned() -> Tuned:
        ranges = baselines.RANGES["threshold"]
        return tune(simulator, lambda at: replace(rule, threshold=at["threshold"]), ranges, 9, 2, 5, "expected")

    found = [tuned(), tuned()]
    assert found[0].evaluations == found[1].evaluations
    best = max(found[0].evaluations, key=lambda one: one["nrr"])
    assert found[0].best == best
    assert isinstance(found[0].policy, Threshold)
    assert found[0].policy.threshold == best["threshold"]
    years = compete(simulator, found[0].policy, 2, 5, "expected")
    assert np.mean([year.net.sum() for year in years]) / simulator.cohort.revenue == pytest.approx(best["nrr"])


def test_tuning_closes_in_on_an_optimum(simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a known curve in place of simulated years: a threshold of .37."""

    def curve(simulator: Simulator, policy: Threshold, *rest: object) -> list[object]:
        class Fake:
            net = np.array([1 - (policy.threshold - 0.37) ** 2])
            cost = np.zeros(1)

        return [Fake()]

    monkeypatch.setattr(baselines, "compete", curve)
    found = tune(
        simulator,
        lambda setting: Threshold(0, 1, setting["threshold"]),
        {"threshold": ("linear", 0.0, 1.0)},
        24,
        1,
        0,
        "expected",
    )
    assert isinstance(found.policy, Threshold)
    assert found.policy.threshold == pytest.approx(0.37, abs=0.02)


def test_what_cannot_be_learnt_or_offered_is_refused(cohort: Made, world: World, offers: Offers, cap: Cap) -> None:
    few = Simulator(cohort(6), world, offers, cap, 10.0)
    with pytest.raises(DataError, match="6 customers are too few to learn 5 actions from"):
        baselines.log(few, 1, np.random.default_rng(0))
    with pytest.raises(DataError, match="offer of 15 % is not one of"):
        baselines.fixed(few, 15)


def test_what_a_checkpoint_keeps_of_the_models_decides_the_same(log: Log, simulator: Simulator) -> None:
    observation, mask = simulator.reset(np.random.default_rng(1)), simulator.mask()
    for fitted, kept in (
        (Thompson.fit(log, simulator.observed, 4), lambda model: Thompson.from_bytes(model.to_bytes())),
        (Uplift.fit(log), lambda model: Uplift.from_files(model.to_files())),
    ):
        seen = set[int]()
        for price in (0.0, 0.5, 1.0, 2.0, 4.0, 20.0):
            priced = [replace(of, price=price) for of in (fitted, kept(fitted))]
            chosen = [of.start(np.random.default_rng(2))(observation, mask) for of in priced]
            assert (chosen[0] == chosen[1]).all()
            seen |= set(chosen[0].tolist())
        assert len(seen) > 1
