"""A world whose values are known: customers with a context, three decisions each, a behaviour policy that explores."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from engine.errors import DataError
from tasks.decision.off_policy import Log, Thresholds, compare, estimates, overlap

ACTIONS = 4
THRESHOLDS = Thresholds(min_effective=100, max_unsupported=0.01, max_heaviest=0.1, max_weight_errors=4)
NAMES = ("ips", "snips", "dm", "dr")


def softmax(scores: np.ndarray) -> np.ndarray:
    odds = np.exp(scores - scores.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


def behaviour(context: np.ndarray) -> np.ndarray:
    return 0.7 * softmax(context @ np.array([[1.0, 0.0, -1.0, 0.5], [0.0, 1.0, 0.5, -0.5]])) + 0.3 / ACTIONS


def better(context: np.ndarray) -> np.ndarray:
    return softmax(context @ np.array([[-0.5, 0.0, 1.0, 1.5], [0.5, 0.0, 1.0, -0.5]]) + [0, 0, 1, 0])


def worth(context: np.ndarray, curved: float) -> np.ndarray:
    """Expected reward (n, a); linear in the context unless `curved`."""
    linear = np.array([0.0, 0.1, 0.4, 0.2]) + context @ np.array([[0.1, 0.0, 0.3, 0.4], [0.0, 0.2, 0.1, -0.1]])
    return linear + curved * np.maximum(0, context[:, :1]) ** 2 * np.array([0.0, 0.0, 1.0, 0.0])


def logged(seed: int, customers: int = 400, curved: float = 0.0, decisions: int = 3, **changes: Any) -> Log:
    rng = np.random.default_rng(seed)
    context = np.repeat(rng.normal(size=(customers, 2)), decisions, axis=0)
    customer = np.repeat(np.arange(customers), decisions)
    rows = np.arange(len(context))
    played = behaviour(context)
    action = (rng.random((len(rows), 1)) > played.cumsum(axis=1)).sum(axis=1).clip(max=ACTIONS - 1)
    mood = 0.4 * rng.normal(size=customers)[customer]  # what decisions of one customer share
    reward = worth(context, curved)[rows, action] + mood + 0.3 * rng.normal(size=len(rows))
    return replace(Log(context, action, reward, played[rows, action], customer, played), **changes)


def truth(policy: Any, curved: float = 0.0) -> float:
    context = np.random.default_rng(99).normal(size=(400_000, 2))
    return float((policy(context) * worth(context, curved)).sum(axis=1).mean())


def coverage(curved: float, logs: int = 200, customers: int = 400) -> dict[str, float]:
    value = truth(better, curved)
    inside = dict.fromkeys(NAMES, 0)
    for seed in range(logs):
        log = logged(seed, customers, curved)
        for name, found in estimates(log, better(log.context)).items():
            inside[name] += found.ci[0] <= value <= found.ci[1]
    return {name: count / logs for name, count in inside.items()}


def test_intervals_cover_the_true_value_in_nine_of_ten_logs() -> None:
    found = coverage(curved=0.0)
    assert set(found) == set(NAMES)
    # At 95 % the chance of less than .90 in 200 logs is .1 %. All of them covering would be too wide an interval.
    assert all(0.90 <= share < 1.0 for share in found.values()), found


def test_a_wrong_regression_misleads_the_direct_method_alone() -> None:
    found = coverage(curved=1.5, logs=60, customers=3000)
    assert found["dm"] < 0.7
    assert all(found[name] >= 0.90 for name in ("ips", "snips", "dr")), found


def test_doubly_robust_is_surer_than_weighting() -> None:
    widths = dict.fromkeys(NAMES, 0.0)
    for seed in range(30):
        log = logged(seed)
        for name, found in estimates(log, better(log.context)).items():
            widths[name] += found.ci[1] - found.ci[0]
    assert widths["dr"] < 0.95 * widths["ips"]
    assert widths["dm"] <= widths["dr"] < widths["snips"] * 1.02


def test_doubly_robust_survives_wrong_pscores_by_its_regression() -> None:
    value, off = truth(better), dict.fromkeys(NAMES, 0.0)
    for seed in range(20):
        log = logged(seed, customers=2000)
        wrong = replace(log, pscore=np.where(log.action == 2, 0.6, 1.0) * log.pscore, behaviour=None)
        for name, found in estimates(wrong, better(log.context)).items():
            off[name] += (found.value - value) / 20
    assert abs(off["dr"]) < 0.01 < abs(off["ips"])


def test_the_estimate_of_the_behaviour_policy_itself_is_its_mean_reward() -> None:
    log = logged(0)
    rows = np.arange(len(log.reward))
    for name, found in estimates(log, np.asarray(log.behaviour)).items():
        assert found.value == pytest.approx(log.reward.mean(), abs=1e-9 if name in ("ips", "snips") else 0.05)
    one_hot = np.eye(ACTIONS)[log.action]
    certain = replace(log, pscore=np.ones(len(rows)), behaviour=one_hot)
    found_all = estimates(certain, one_hot)
    for name in ("ips", "snips", "dr"):
        assert found_all[name].value == pytest.approx(log.reward.mean())


def test_ips_and_snips_by_hand() -> None:
    log = Log(
        context=np.zeros((2, 1)),
        action=np.array([0, 1]),
        reward=np.array([1.0, 3.0]),
        pscore=np.array([0.5, 0.25]),
        customer=np.array([7, 8]),
    )
    found = estimates(log, np.array([[1.0, 0.0], [0.5, 0.5]]))  # weights 2 and 2
    assert found["ips"].value == 4.0
    assert found["snips"].value == 2.0
    seen = overlap(log, np.array([[1.0, 0.0], [0.75, 0.25]]))  # weights 2 and 1
    assert seen.effective == pytest.approx(9 / 5)
    assert seen.heaviest == pytest.approx(2 / 3)
    assert seen.mean_weight == 1.5
    assert seen.unsupported is None


def test_decisions_of_one_customer_are_one_draw() -> None:
    log = logged(3, decisions=6)
    apart = replace(log, customer=np.arange(len(log.reward)))
    for name in NAMES:
        together, single = estimates(log, better(log.context))[name], estimates(apart, better(log.context))[name]
        assert together.ci[1] - together.ci[0] > 1.1 * (single.ci[1] - single.ci[0])


def test_the_same_seed_gives_the_same_estimates() -> None:
    log = logged(4)
    first, again = (compare(log, better(log.context), THRESHOLDS, seed=1) for _ in range(2))
    assert (first.gain, first.ci) == (again.gain, again.ci)


# -- the verdict ---------------------------------------------------------------------------------------------------


def test_a_better_policy_goes_and_a_worse_one_does_not() -> None:
    log = logged(5, customers=1500)
    found = compare(log, better(log.context), THRESHOLDS)
    assert found.verdict == "go"
    assert found.reasons == ()
    assert found.ci[0] < truth(better) - truth(behaviour) < found.ci[1]
    worse = np.tile([0.85, 0.05, 0.05, 0.05], (len(log.reward), 1))
    assert compare(log, worse, THRESHOLDS).verdict == "no_go"


def test_a_margin_has_to_be_passed() -> None:
    log = logged(5, customers=1500)
    found = compare(log, better(log.context), THRESHOLDS)
    assert compare(log, better(log.context), THRESHOLDS, margin=found.ci[0] + 1e-9).verdict == "inconclusive"
    assert compare(log, better(log.context), THRESHOLDS, margin=found.ci[1] + 1e-9).verdict == "no_go"


def test_no_gain_is_rarely_a_verdict() -> None:
    """The same policy with its actions' names kept: whatever is said beyond inconclusive is a false alarm."""
    alarms = 0
    for seed in range(200):
        log = logged(seed)
        near = np.asarray(log.behaviour) ** 1.0001
        near /= near.sum(axis=1, keepdims=True)
        alarms += compare(log, near, THRESHOLDS).verdict != "inconclusive"
    assert alarms <= 20


@pytest.mark.parametrize("with_behaviour", [True, False])
def test_a_deterministic_log_tells_nothing_about_other_actions(with_behaviour: bool) -> None:
    log = logged(6, customers=2000)
    action = behaviour(log.context).argmax(axis=1)
    certain = replace(
        log,
        action=action,
        reward=worth(log.context, 0.0)[np.arange(len(action)), action],
        pscore=np.ones(len(action)),
        behaviour=np.eye(ACTIONS)[action] if with_behaviour else None,
    )
    found = compare(certain, better(log.context), THRESHOLDS)
    assert found.verdict == "inconclusive"
    assert any("never done" in reason for reason in found.reasons)
    if with_behaviour:
        assert found.overlap.unsupported is not None
        assert found.overlap.unsupported > 0.3


def test_no_overlap_at_all_is_inconclusive_and_says_so() -> None:
    log = logged(7)
    never = np.zeros((len(log.reward), ACTIONS))
    never[:, 3] = 1.0
    kept = log.action != 3
    part = Log(log.context[kept], log.action[kept], log.reward[kept], log.pscore[kept], log.customer[kept])
    found = compare(part, never[kept], THRESHOLDS)
    assert found.verdict == "inconclusive"
    assert found.overlap.effective == 0
    assert found.overlap.mean_weight == 0


def test_little_exploration_is_too_thin() -> None:
    log = logged(8, customers=300)
    greedy = behaviour(log.context).argmax(axis=1)
    thin = 0.99 * np.eye(ACTIONS)[greedy] + 0.01 / ACTIONS
    rng = np.random.default_rng(8)
    action = np.where(rng.random(len(greedy)) < 0.01, rng.integers(0, ACTIONS, len(greedy)), greedy)
    pscore = thin[np.arange(len(action)), action]
    little = replace(log, action=action, pscore=pscore, behaviour=thin)
    other = np.eye(ACTIONS)[(greedy + 1) % ACTIONS]
    found = compare(little, other, THRESHOLDS)
    assert found.verdict == "inconclusive"
    assert found.overlap.unsupported == 0.0
    assert any("decisions count for" in reason for reason in found.reasons)


def test_one_customer_who_carries_the_log_is_no_ground_for_a_verdict() -> None:
    log = logged(9)
    pscore = log.pscore.copy()
    pscore[0] = 1e-4
    found = compare(replace(log, pscore=pscore, behaviour=None), better(log.context), THRESHOLDS)
    assert found.verdict == "inconclusive"
    assert any("one customer carries" in reason for reason in found.reasons)


def test_pscores_that_are_wrong_are_noticed() -> None:
    log = logged(10, customers=2000)
    found = compare(replace(log, pscore=log.pscore / 2, behaviour=None), better(log.context), THRESHOLDS)
    assert found.verdict == "inconclusive"
    assert any("mean of" in reason for reason in found.reasons)


# -- bad input -----------------------------------------------------------------------------------------------------


def spoiled(values: np.ndarray, value: float) -> np.ndarray:
    values = values.astype(np.float64)
    values[0] = value
    return values


LOG = logged(11, customers=10)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"reward": spoiled(LOG.reward, np.nan)}, "not finite"),
        ({"context": spoiled(LOG.context, np.inf)}, "not finite"),
        ({"pscore": spoiled(LOG.pscore, 0.0)}, "a pscore is not in"),
        ({"pscore": spoiled(LOG.pscore, np.nan)}, "a pscore is not in"),
        ({"pscore": spoiled(LOG.pscore, 0.99)}, "pscore is not the behaviour policy's"),
        ({"action": LOG.action + 1}, "none of 0 to 3"),
        ({"customer": LOG.customer[:-1]}, "one row for each of 30 rewards"),
        ({"behaviour": np.ones((30, 3))}, "behaviour of shape"),
        ({"behaviour": np.asarray(LOG.behaviour) + 1e-7 + np.eye(ACTIONS)[(LOG.action + 1) % ACTIONS]}, "behaviour is"),
    ],
)
def test_a_log_that_can_tell_nothing_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        estimates(replace(LOG, **changes), better(LOG.context))


def test_a_policy_that_is_none_is_refused() -> None:
    with pytest.raises(DataError, match="a row of action_dist is no distribution"):
        overlap(LOG, better(LOG.context) * 1.1)
    with pytest.raises(DataError, match="action_dist of shape"):
        overlap(LOG, better(LOG.context)[:-1])
    one = Log(LOG.context[:1], LOG.action[:1], LOG.reward[:1], LOG.pscore[:1], LOG.customer[:1])
    with pytest.raises(DataError, match="a log of 1 decisions"):
        estimates(one, better(one.context))
