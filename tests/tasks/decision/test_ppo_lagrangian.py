from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch

from engine.checkpoint import Preempted
from engine.errors import RetainError
from retain.policy import Policy, price_input, reprice
from tasks.decision import ppo_lagrangian as ppo
from tasks.decision.ppo_lagrangian import Learner, Multipliers, train
from tests.tasks.decision.tiny import LIMIT, SETTINGS, Tiny, TwoLimits, best, nothing, results, solve

SHORT = replace(SETTINGS, iterations=12, hidden=(8, 8), validate_every=5)


def every(iterations: int) -> Callable[[], bool]:
    """A checkpoint is due at each `iterations`-th iteration."""
    asked = 0

    def due() -> bool:
        nonlocal asked
        asked += 1
        return asked % iterations == 0

    return due


@pytest.fixture(scope="module")
def trained() -> ppo.Trained:
    return train(Tiny(), SETTINGS, seed=0, threads=1)


# -- it learns -----------------------------------------------------------------------------------------------------


def test_a_year_with_a_known_optimum_is_solved_within_one_percent(trained: ppo.Trained) -> None:
    env = Tiny()
    bound, _ = solve(env)
    policy, _ = reprice(trained.policy, lambda policy: float(results(env, policy)[1][0]), LIMIT)
    reward, cost = results(env, policy)
    assert cost[0] <= LIMIT
    # Of what can be won over doing nothing, not of the reward, most of which comes by itself.
    assert (reward - nothing(env)) / (bound - nothing(env)) > 0.99
    assert reward < bound  # or the bound is none


@pytest.mark.parametrize("start", [0.25, 1.5])
def test_the_multiplier_converges_to_the_dual_price(start: float) -> None:
    price = solve(Tiny())[1]
    assert 0.4 < price < 0.6
    found = train(Tiny(), replace(SETTINGS, multipliers=(start,)), seed=0, threads=1)
    late = [row["multiplier_budget"] for row in found.curves[-20:]]
    # Both starts are further off. From 0 it may settle on a worse policy that needs a price of 0.75.
    assert 1 + np.mean(late) == pytest.approx(1 + price, rel=0.1)
    assert np.mean([row["cost_budget"] for row in found.curves[-20:]]) == pytest.approx(LIMIT, rel=0.05)


def test_one_training_gives_the_policies_of_a_range_of_prices(trained: ppo.Trained) -> None:
    env = Tiny()
    low, high = trained.policy.prices
    for price in np.linspace(low, high, 5):
        reward, cost = results(env, trained.policy.at(price))
        won, possible = reward - price * cost[0] - nothing(env), best(env, (price,)).mean() - nothing(env)
        assert won / possible > 0.97
    costs = [results(env, trained.policy.at(price))[1][0] for price in np.linspace(low, high, 9)]
    assert (np.diff(costs) < 0.002).all()


def test_without_a_spread_the_price_is_the_multiplier_alone() -> None:
    env = Tiny()
    found = train(env, replace(SETTINGS, price_spread=0.0), seed=1, threads=1)
    assert found.policy.prices == (found.policy.price, found.policy.price)
    bound, price = solve(env)
    reward, cost = results(env, found.policy)
    assert 1 + found.policy.price == pytest.approx(1 + price, rel=0.1)
    assert (reward - nothing(env)) / (bound - nothing(env)) == pytest.approx(1, abs=0.04)
    assert cost[0] == pytest.approx(LIMIT, rel=0.15)


def test_two_limits_are_kept_each_by_its_own_multiplier() -> None:
    env = TwoLimits()
    limits = (LIMIT, 0.8)
    found = train(env, replace(SETTINGS, limits=limits, multipliers=(0.5, 0.0)), seed=0, threads=1)
    late = found.curves[-15:]
    assert np.mean([row["cost_budget"] for row in late]) <= LIMIT * 1.03
    assert np.mean([row["cost_contacts"] for row in late]) <= 0.8 * 1.03
    prices = tuple(float(np.mean([row[f"multiplier_{name}"] for row in late])) for name in env.constraints)
    assert prices[1] > 0
    # Weak duality: no prices give less than the optimum. The dual at those found bounds what limits allow.
    bound = best(env, prices).mean() + prices[0] * limits[0] + prices[1] * limits[1]
    reward, costs = results(env, found.policy)
    assert costs[1] <= 0.8 * 1.1
    assert (reward - nothing(env)) / (bound - nothing(env)) > 0.95


def test_a_limit_that_does_not_bind_ends_without_a_multiplier() -> None:
    found = train(Tiny(), replace(SETTINGS, limits=(2.0,), price_spread=0.0), seed=0, threads=1)
    assert found.curves[-1]["multiplier_budget"] == 0.0


def test_the_critic_foresees_what_it_can(trained: ppo.Trained) -> None:
    assert trained.curves[0]["explained_variance"] < 0.9 < trained.curves[-1]["explained_variance"]


# -- same seed, same bytes -----------------------------------------------------------------------------------------


def bytes_of(trained: ppo.Trained) -> tuple[Any, ...]:
    return trained.policy.to_json(), trained.last.to_json(), trained.curves, trained.validation


def score(policy: Policy) -> float:
    reward, cost = results(Tiny(300), policy)
    return reward - 2 * max(0.0, float(cost[0]) - LIMIT)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_same_seed_and_threads_give_the_same_bytes_and_another_seed_others(threads: int) -> None:
    runs = [train(Tiny(), SHORT, seed, threads, validate=score) for seed in (3, 3, 4)]
    assert bytes_of(runs[0]) == bytes_of(runs[1])
    assert runs[0].policy.to_json() != runs[2].policy.to_json()


def test_threads_share_the_work_without_changing_it() -> None:
    """Up to rounding: after one iteration policies are the same, and so is the year that was played."""
    runs = [train(Tiny(), replace(SHORT, iterations=1), 3, threads) for threads in (1, 2, 3)]
    for other in runs[1:]:
        assert other.curves[0] == pytest.approx(runs[0].curves[0], rel=1e-3, abs=1e-5)
        for (mine, _), (theirs, _) in zip(other.last.layers, runs[0].last.layers):
            np.testing.assert_allclose(mine, theirs, atol=2e-4)


def test_more_threads_than_a_minibatch_has_customers() -> None:
    found = train(Tiny(10), replace(SHORT, iterations=2, minibatches=10), 0, threads=3)
    assert np.isfinite(found.last.layers[0][0]).all()


@pytest.mark.parametrize("seed", range(3))
def test_a_run_stopped_at_random_again_and_again_ends_with_the_bytes_of_an_undisturbed_one(seed: int) -> None:
    whole = train(Tiny(), SHORT, seed, 2, validate=score)
    rng, kept, ended = np.random.default_rng(seed), dict[str, bytes](), None
    while ended is None:
        try:
            ended = train(
                Tiny(), SHORT, seed, 2, validate=score,
                resume=kept or None,
                save=lambda iteration, files: kept.update(files),
                should_stop=lambda: rng.random() < 0.4,
                checkpoint_due=every(4),
            )  # fmt: skip
        except Preempted:
            assert kept
    assert bytes_of(ended) == bytes_of(whole)


@pytest.mark.parametrize("validate", [score, None])
@pytest.mark.parametrize("stop_after", [1, 4, 5, 11])
def test_a_stopped_run_ends_with_the_bytes_of_an_undisturbed_one(
    stop_after: int, validate: Callable[[Policy], float] | None
) -> None:
    whole = train(Tiny(), SHORT, 5, 1, validate=validate)
    kept: list[tuple[int, dict[str, bytes]]] = []
    done: list[int] = []
    with pytest.raises(Preempted):
        train(
            Tiny(), SHORT, 5, 1, validate=validate,
            save=lambda iteration, files: kept.append((iteration, files)),
            should_stop=lambda: len(done) == stop_after,
            checkpoint_due=every(4),
            progress=lambda iteration, total, figures: done.append(iteration),
        )  # fmt: skip
    assert kept[-1][0] == stop_after
    resumed = train(Tiny(), SHORT, 5, 1, validate=validate, resume=kept[-1][1])
    assert bytes_of(resumed) == bytes_of(whole)


def test_a_killed_run_goes_on_from_any_checkpoint_and_saves_the_same_again() -> None:
    first: list[dict[str, bytes]] = []
    whole = train(Tiny(), SHORT, 6, 1, save=lambda iteration, files: first.append(files), checkpoint_due=every(4))
    assert len(first) == 3
    again: list[dict[str, bytes]] = []
    resumed = train(
        Tiny(), SHORT, 6, 1, resume=first[0], save=lambda _, files: again.append(files), checkpoint_due=every(4)
    )
    assert again == first[1:]
    assert bytes_of(resumed) == bytes_of(whole)
    finished = train(Tiny(), SHORT, 6, 1, resume=first[-1])
    assert bytes_of(finished) == bytes_of(whole)


@pytest.mark.parametrize("lost", ["adam", "multipliers", "scales"])
def test_whatever_the_checkpoint_holds_matters(lost: str) -> None:
    """A resume without it ends elsewhere: so the tests above would notice if it were left out."""
    kept: list[dict[str, bytes]] = []
    whole = train(Tiny(), SHORT, 7, 1, save=lambda iteration, files: kept.append(files), checkpoint_due=every(4))
    learner = Learner(Tiny(), SHORT, 7)
    fresh = Learner(Tiny(), SHORT, 8)
    learner.restore(kept[0])
    if lost == "adam":
        learner.optimizer = torch.optim.Adam(learner.network.parameters(), lr=1e-3, eps=1e-5, fused=True)
    else:
        setattr(learner, lost, getattr(fresh, lost))
    while learner.iteration < SHORT.iterations:
        learner.iterate()
    assert learner.policy().to_json() != whole.last.to_json()


def test_the_policy_to_deploy_is_the_one_that_validated_best() -> None:
    wanted = {5: 1.0, 10: 3.0, 12: 2.0}
    seen: dict[int, bytes] = {}

    def judged(policy: Policy) -> float:
        iteration = sorted(wanted)[len(seen)]
        seen[iteration] = policy.to_json()
        return wanted[iteration]

    found = train(Tiny(), SHORT, 9, 1, validate=judged)
    assert found.validation == wanted
    assert found.policy.to_json() == seen[10]
    assert found.last.to_json() == seen[12]


# -- its parts -----------------------------------------------------------------------------------------------------


def test_the_written_gradient_is_autograds() -> None:
    rng = np.random.default_rng(0)
    months, n, a, streams = 3, 40, 5, 3

    def draws(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    mask = rng.random((months, n, a)) < 0.7
    mask[..., 0] = True
    logits, values = draws(months, n, a), draws(months, n, streams)
    logs = ppo.log_probabilities(np.moveaxis(logits, -1, 0), ppo.penalty(mask))
    actions = ppo.draw(np.exp(logs).reshape(a, -1), rng.random(months * n)).reshape(months, n)
    batch = ppo.Batch(
        inputs=draws(months, n, 2),
        penalty=ppo.penalty(mask),
        chosen=(actions == np.arange(a)[:, None, None]).astype(np.float32),
        # Off by so much that both ends of the clip are met.
        log_probability=np.take_along_axis(logs, actions[None], 0)[0] + 0.3 * draws(months, n),
        advantage=draws(months, n),
        weight=abs(draws(months, n)),
        left=abs(draws(months, n)),
        targets=draws(streams, months, n),
    )
    outputs = np.concatenate((logits, values), axis=-1)
    found = ppo.gradients(outputs, batch, samples=months * n, clip=0.2, entropy=0.03, value_weight=0.5)

    by = {field.name: torch.from_numpy(getattr(batch, field.name)) for field in fields(batch)}
    z, v = torch.from_numpy(logits).requires_grad_(), torch.from_numpy(values).requires_grad_()
    log_p = torch.log_softmax(z.masked_fill(~torch.from_numpy(mask), -1e9), dim=-1)
    ratio = (log_p.gather(-1, torch.from_numpy(actions)[..., None])[..., 0] - by["log_probability"]).exp()
    assert (ratio < 0.8).any()
    assert (ratio > 1.2).any()
    gain = torch.minimum(ratio * by["advantage"], ratio.clamp(0.8, 1.2) * by["advantage"])
    entropy = -(log_p.exp() * log_p).sum(-1)
    loss = -(by["weight"] * (gain + 0.03 * entropy)).mean()
    loss = loss + 0.5 * (by["left"] * (v.movedim(-1, 0) - by["targets"]).square()).mean()
    loss.backward()
    assert z.grad is not None
    assert v.grad is not None
    expected = torch.cat((z.grad, v.grad), dim=-1).numpy()
    np.testing.assert_allclose(found.outputs, expected, rtol=1e-5, atol=1e-8)
    assert found.outputs.dtype == np.float32
    np.testing.assert_allclose(found.ratio, ratio.detach().numpy(), rtol=1e-5)
    np.testing.assert_allclose(found.entropy, entropy.detach().numpy(), atol=1e-6)


def test_advantages_with_lambda_one_are_returns_less_values_discounted_by_survival() -> None:
    rng = np.random.default_rng(1)
    months, n = 5, 7
    episode = ppo.Episode(
        inputs=np.zeros((months, n, 1), np.float32),
        mask=np.ones((months, n, 2), np.bool_),
        actions=np.zeros((months, n), np.int64),
        log_probability=np.zeros((months, n), np.float32),
        values=rng.normal(size=(months, n, 2)),
        streams=rng.normal(size=(months, n, 2)),
        survival=rng.random((months, n)),
    )
    found = ppo.advantages(episode, 1.0)
    for month in range(months):
        alive = np.cumprod(np.concatenate((np.ones((1, n)), episode.survival[month:-1])), axis=0)
        returns = (alive[:, :, None] * episode.streams[month:]).sum(axis=0)
        np.testing.assert_allclose(found[month], returns - episode.values[month])
    short = ppo.advantages(episode, 0.0)
    following = episode.survival[0][:, None] * episode.values[1]
    np.testing.assert_allclose(short[0], episode.streams[0] + following - episode.values[0])
    np.testing.assert_allclose(episode.left[0], 1)
    np.testing.assert_allclose(episode.left[2], episode.survival[0] * episode.survival[1])


def test_the_cost_at_the_own_price_is_read_off_the_middle() -> None:
    place = np.random.default_rng(2).permutation(np.linspace(-0.4, 0.4, 501))
    costs = np.stack((2 - 3 * place + 4 * place**2, 1 + place), axis=1)
    np.testing.assert_allclose(ppo.cost_at_own_price(costs, place), [2, 1])
    assert costs[:, 0].mean() > 2.1  # the plain mean would say more
    np.testing.assert_allclose(ppo.cost_at_own_price(costs, np.zeros(501)), costs.mean(axis=0))


def test_draws_follow_the_probabilities_and_never_take_what_is_forbidden() -> None:
    probabilities = np.tile(np.array([[0.0], [0.5], [0.0], [0.2], [0.3], [0.0]], np.float32), 200_000)
    drawn = np.bincount(ppo.draw(probabilities, np.random.default_rng(3).random(200_000)), minlength=6) / 200_000
    np.testing.assert_array_equal(drawn[[0, 2, 5]], 0)
    np.testing.assert_allclose(drawn, probabilities[:, 0], atol=0.005)


def test_multipliers_follow_the_excess_and_never_fall_below_zero() -> None:
    settings = replace(SETTINGS, limits=(2.0, 4.0), multipliers=(1.0, 0.1), pid=(0.3, 0.1, 0.2))
    found = Multipliers(settings)
    found.update(np.array([3.0, 1.0]))  # 50 % too much; 75 % too little
    np.testing.assert_allclose(found.value, [1.0 + 0.1 * 0.5 + 0.3 * 0.5 + 0.2 * 0.5, 0.0])
    found.update(np.array([2.0, 8.0]))  # back at its limit: what falls is not resisted; twice as much
    np.testing.assert_allclose(found.value[0], 1.05)
    # The second one's unit is half the first one's: its limit is twice as large.
    np.testing.assert_allclose(found.value[1], 0.5 * (0.2 - 0.075 + 0.1 + 0.3 + 0.2 * 1.75))


def test_the_exported_policy_is_the_trained_network(trained: ppo.Trained) -> None:
    env = Tiny()
    learner = Learner(env, SHORT, 0)
    for _ in range(3):
        learner.iterate()
    policy = Policy.from_json(learner.policy().to_json())
    rng = np.random.default_rng(4)
    observation = env.reset(rng) + rng.normal(size=(env.customers, 3)).astype(np.float32)
    mask = rng.random((env.customers, 3)) < 0.6
    mask[:, 0] = True
    inputs = np.empty((env.customers, 4), np.float32)
    inputs[:, :3] = (observation - learner.scales.mean) / learner.scales.scale
    inputs[:, 3] = price_input(policy.price)
    with torch.no_grad():
        logits, _ = learner.network.month(torch.from_numpy(inputs), 0)
        whole = learner.network(torch.from_numpy(inputs)[None].repeat(4, 1, 1))[0, :, :3]
    expected = np.exp(ppo.log_probabilities(logits.numpy().T, ppo.penalty(mask))).T
    torch.testing.assert_close(whole, logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(policy.logits(observation), logits.numpy(), atol=1e-6)
    np.testing.assert_allclose(policy.probabilities(observation, mask), expected, atol=1e-6)


# -- what can't be learnt ------------------------------------------------------------------------------------------


class NoOffers(Tiny):
    actions = ("none",)  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("env", "changes", "said"),
    [
        (Tiny(), {"limits": (0.0,)}, "a limit of 0 on budget"),
        (Tiny(), {"limits": (float("nan"),)}, "a limit of nan on budget"),
        (Tiny(), {"limits": (1.0, 1.0)}, "wants one each for budget"),
        (Tiny(), {"multipliers": (-1.0,)}, "a multiplier of -1 on budget"),
        (Tiny(), {"minibatches": 601}, "601 minibatches of 600 customers"),
        (Tiny(), {"iterations": 0}, "start at 1"),
        (NoOffers(), {}, "there are no offers"),
    ],
)
def test_settings_that_cannot_work_are_refused(env: Tiny, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(RetainError, match=said):
        train(env, replace(SHORT, **changes), 0, 1)


def test_training_that_diverges_is_an_error() -> None:
    class Broken(Tiny):
        def step(self, actions: Any) -> Any:
            step = super().step(actions)
            step.reward[0] = np.nan
            return step

    with pytest.raises(RetainError, match="diverged in iteration 1, before the policy was changed") as caught:
        train(Broken(), SHORT, 0, 1)
    assert "reward is nan" in str(caught.value)
    assert "learning_rate" not in str(caught.value)


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([], "in its first steps: entropy is nan"),
        ([0.02, 0.01], "after approx_kl of 0.02, 0.01: entropy is nan"),
        ([0.02, 0.4], "after approx_kl of 0.02, 0.4; a lower learning_rate makes smaller steps: entropy is nan"),
    ],
)
def test_a_remedy_is_named_for_steps_that_were_seen_to_be_large(
    steps: list[float], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = Learner(Tiny(), SHORT, 0, 1)
    learner.curves = [{"approx_kl": step} for step in steps]
    monkeypatch.setattr(learner, "_improve", lambda *_: {"entropy": float("nan"), "approx_kl": 0.1})
    with pytest.raises(RetainError) as caught:
        learner.iterate()
    assert str(caught.value) == f"training diverged in iteration 1, {said}"


def test_what_is_observed_is_finite() -> None:
    class Blind(Tiny):
        def _observe(self) -> Any:
            seen = super()._observe()
            seen[3, 0] = np.nan
            return seen

    with pytest.raises(RetainError, match="what a policy observes is not finite in rate"):
        train(Blind(), SHORT, 0, 1)
