"""A year small enough to be solved exactly: customers who leave at a known rate, two offers, a rest after each.

Everybody pays 1 a month. An offer costs something and holds off leaving for that month; after one comes a month
without. What the best policy gets within a limit is known by dynamic programming and the Lagrangian dual.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retain.policy import Policy
from tasks.decision.ppo_lagrangian import Settings

LEAVING = np.array([1.0, 0.55, 0.2])  # factor on the rate
COST = np.array([0.0, 0.06, 0.2])
LIMIT = 0.2  # of cost, per customer and year

SETTINGS = Settings(
    iterations=60,
    epochs=4,
    minibatches=4,
    hidden=(32, 32),
    learning_rate=5e-3,
    gae_lambda=0.95,
    clip=0.2,
    entropy=0.01,
    value_weight=0.5,
    limits=(LIMIT,),
    multipliers=(0.5,),
    pid=(0.0, 0.2, 0.0),
    price_spread=0.3,
    validate_every=10,
)


@dataclass(frozen=True)
class Step:
    observation: NDArray[np.float32]
    reward: NDArray[np.float64]
    costs: NDArray[np.float64]
    survival: NDArray[np.float64]


class Tiny:
    actions = ("none", "small", "large")
    observed = ("rate", "resting", "month")
    constraints = ("budget",)

    def __init__(self, customers: int = 600, months: int = 4, noise: float = 0.05) -> None:
        self.customers, self.months, self.noise = customers, months, noise
        self.rate = np.linspace(0.02, 1.2, customers)

    def reset(self, rng: np.random.Generator) -> NDArray[np.float32]:
        self.rng, self.month, self.resting = rng, 0, np.zeros(self.customers, np.bool_)
        return self._observe()

    def _observe(self) -> NDArray[np.float32]:
        month = np.full(self.customers, self.month)
        return np.stack((self.rate, self.resting, month), axis=1).astype(np.float32)

    def mask(self) -> NDArray[np.bool_]:
        return np.stack((np.ones_like(self.resting), ~self.resting, ~self.resting), axis=1)

    def step(self, actions: NDArray[np.int64]) -> Step:
        assert not (self.resting & (actions > 0)).any(), "the mask was passed over"
        cost = COST[actions]
        reward = 1 - cost + self.noise * self.rng.normal(size=self.customers)
        self.resting, self.month = actions > 0, self.month + 1
        return Step(self._observe(), reward, cost[:, None], np.exp(-self.rate * LEAVING[actions]))


class TwoLimits(Tiny):
    """The same with a limit on how often, too."""

    constraints = ("budget", "contacts")

    def step(self, actions: NDArray[np.int64]) -> Step:
        step = super().step(actions)
        return Step(
            step.observation, step.reward, np.column_stack((step.costs, (actions > 0).astype(float))), step.survival
        )


def results(env: Tiny, policy: Policy) -> tuple[float, NDArray[np.float64]]:
    """Mean reward and costs of the likeliest actions, without noise."""
    observation = env.reset(np.random.default_rng(0))
    left, reward, costs = np.ones(env.customers), 0.0, np.zeros(len(env.constraints))
    noise, env.noise = env.noise, 0.0
    for _ in range(env.months):
        step = env.step(policy.choose(observation, env.mask()))
        reward += float(left @ step.reward) / env.customers
        costs += left @ step.costs / env.customers
        left, observation = left * step.survival, step.observation
    env.noise = noise
    return reward, costs


def best(env: Tiny, prices: tuple[float, ...]) -> NDArray[np.float64]:
    """Value (n,) at `prices` of each cost, beyond the cost itself, by dynamic programming."""
    charged = COST * (1 + prices[0]) + (np.arange(3) > 0) * (prices[1] if len(prices) > 1 else 0.0)
    free, resting = np.zeros(env.customers), np.zeros(env.customers)
    for _ in range(env.months):
        stays = np.exp(-env.rate * LEAVING[:, None])
        after = np.stack((free, resting, resting))
        free, resting = (1 - charged[:, None] + stays * after).max(axis=0), 1 + stays[0] * free
    return free


def solve(env: Tiny, limit: float = LIMIT) -> tuple[float, float]:
    """The most mean reward within `limit` (the dual's minimum) and the price at which it is reached."""
    prices = np.linspace(0.0, 5.0, 2001)
    dual = [best(env, (price,)).mean() + price * limit for price in prices]
    at = int(np.argmin(dual))
    return float(dual[at]), float(prices[at])


def nothing(env: Tiny) -> float:
    """Mean reward of no contact at all."""
    stays = np.exp(-env.rate)
    return float(sum(stays**month for month in range(env.months)).mean())
