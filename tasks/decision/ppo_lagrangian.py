"""PPO under constraints: the most reward whose costs stay within their limits, each by a multiplier of its own.

One iteration plays the whole cohort for a year, moves the multipliers by what that year cost (on-policy, before the
policy: OmniSafe's order), and improves the policy on (A_reward - sum of multiplier x A_cost) / (1 + sum of
multipliers). `Learner.iterate` is the algorithm; what it calls stands above it.

- PPO: Schulman et al. 2017 (https://arxiv.org/abs/1707.06347); advantages: GAE, https://arxiv.org/abs/1506.02438.
- Multipliers: PID control, Stooke, Achiam and Abbeel 2020 (https://arxiv.org/abs/2007.03964).

Four ideas are not textbook:

- **Survival is integrated out.** The environment says how likely a customer stays instead of drawing it. Rewards and
  costs are per customer still there, survival is the discount of the next month, and a sample weighs as much as the
  share of its customer that is left. The expectation is the same, the noise is less.
- **The critic knows the month, the policy doesn't.** They share a body, and each month has a value head of its own:
  what is still to come shrinks with every month, and a policy in service has no clock.
- **Every customer plays at a price of her own**, spread around the first multiplier, and the network sees it. So one
  training gives the policies of a whole range of prices (retain/policy.py), and the multiplier is driven by the cost
  at its own price, read off a parabola through costs over prices.
- **Every draw comes from (seed, iteration)**, so a checkpoint needs no generator, and none of torch's is used.

The loss' gradient by logits and values is written out (`gradients`), in numpy: autograd through a softmax over five
columns took as long as half the network. The network itself is torch's.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.checkpoint import Preempted
from engine.errors import RetainError
from retain.policy import Policy, price_input

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Mask = NDArray[np.bool_]

Part = TypeVar("Part")
Result = TypeVar("Result")

WORLD, DRAWS, ORDER = 0, 1, 2  # what a generator of (seed, iteration, purpose) draws
LARGE_STEP = 0.1  # approx_kl of an iteration; those of a training that goes well stay below .03


class Step(Protocol):
    """A month of n customers. Reward, costs and survival are per customer still there at its start."""

    @property
    def observation(self) -> Singles:
        """(n, o), of the next month."""
        ...

    @property
    def reward(self) -> Floats:
        """(n,)"""
        ...

    @property
    def costs(self) -> Floats:
        """(n, k)"""
        ...

    @property
    def survival(self) -> Floats:
        """(n,): probability of being there at the next month's start."""
        ...


class Environment(Protocol):
    """n customers at once; an episode has a fixed number of months, and what comes after them is worth nothing."""

    @property
    def customers(self) -> int: ...
    @property
    def months(self) -> int: ...
    @property
    def observed(self) -> tuple[str, ...]:
        """Names of the columns of an observation."""
        ...

    @property
    def actions(self) -> tuple[str, ...]:
        """Names of the actions; the first one is always allowed."""
        ...

    @property
    def constraints(self) -> tuple[str, ...]:
        """Names of the costs. The first is in units of the reward, and its price can be refitted after training."""
        ...

    def reset(self, rng: np.random.Generator) -> Singles:
        """The first observation (n, o) of an episode, which draws from `rng` alone."""
        ...

    def mask(self) -> Mask:
        """(n, a): what is allowed now."""
        ...

    def step(self, actions: NDArray[np.int64]) -> Step: ...


@dataclass(frozen=True)
class Settings:
    """`limits`: cost of an episode, mean over customers; one for each constraint, above 0. `multipliers`: at the start.

    `pid`: gains of the multipliers, per relative excess of cost over its limit. `price_spread`: every customer's
    1 + price lies within a factor exp(+-price_spread) of 1 + the first multiplier; 0 trains at one price. Learning rate
    and entropy bonus fall to 0 in a straight line.
    """

    iterations: int
    epochs: int
    minibatches: int  # of an epoch
    hidden: tuple[int, ...]
    learning_rate: float
    gae_lambda: float
    clip: float
    entropy: float
    value_weight: float
    limits: tuple[float, ...]
    multipliers: tuple[float, ...]
    pid: tuple[float, float, float]
    price_spread: float
    validate_every: int  # iterations


def check(env: Environment, settings: Settings) -> None:
    """Raises RetainError when nothing can be learnt by these settings in this environment."""
    k = len(env.constraints)
    if len(settings.limits) != k or len(settings.multipliers) != k or not k:
        raise RetainError(f"limits and multipliers: wants one each for {', '.join(env.constraints) or 'no constraint'}")
    for name, limit, multiplier in zip(env.constraints, settings.limits, settings.multipliers):
        if not 0 < limit < np.inf:
            raise RetainError(f"a limit of {limit:g} on {name}: a multiplier needs one above 0")
        if not 0 <= multiplier < np.inf:
            raise RetainError(f"a multiplier of {multiplier:g} on {name}: it is a finite number from 0")
    if len(env.actions) < 2:
        raise RetainError("there are no offers: nothing is to be learnt")
    if not 1 <= settings.minibatches <= env.customers:
        raise RetainError(f"{settings.minibatches} minibatches of {env.customers} customers: wants 1 to that many")
    if min(settings.iterations, settings.epochs, settings.validate_every) < 1:
        raise RetainError("iterations, epochs and validate_every start at 1")


class Workers:
    """Threads that share the work of every step, a part of the customers each.

    Torch computes with one thread within each of them: a whole part (network, loss, gradient) has nothing to wait for
    but its end. Torch's own threads meet at the end of every product instead: they leave numpy to one of them, and on
    a machine that others use, too, they wait for each other most of the time.
    """

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(1)
        self.threads = threads
        self._others = ThreadPoolExecutor(max(1, threads - 1), initializer=torch.set_num_threads, initargs=(1,))

    def split(self, rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        return np.array_split(rows, self.threads)

    def __call__(self, work: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
        """`work` of each part; the first one is done by the caller's thread."""
        others = [self._others.submit(work, part) for part in parts[1:]]
        return [work(parts[0]), *(other.result() for other in others)]


class Multipliers:
    """One for each constraint, by PID control of (cost - limit) / limit.

    Costs have different units. A multiplier of cost k moves in units of limit 0 / limit k, so that the same excess
    moves what a whole limit is worth by the same amount.
    """

    def __init__(self, settings: Settings) -> None:
        self.limits = np.array(settings.limits, dtype=np.float64)
        self.unit = self.limits[0] / self.limits
        self.gains = settings.pid
        self.value = np.array(settings.multipliers, dtype=np.float64)
        self.integral = self.value / self.unit
        self.excess = np.zeros_like(self.limits)

    def update(self, costs: Floats) -> None:
        """`costs` (k,): what an episode cost."""
        proportional, integral, derivative = self.gains
        excess = costs / self.limits - 1
        rise = np.maximum(0.0, excess - self.excess)  # a falling cost is not resisted, as in the paper
        self.integral = np.maximum(0.0, self.integral + integral * excess)
        found = self.integral + proportional * excess + derivative * rise
        self.value = self.unit * np.maximum(0.0, found)
        self.excess = excess


class Network:
    """A tanh body, logits, and for each month a linear value of each stream (reward first, then the costs).

    Inputs are standardised observations and, last, the price; values are standardised, too (`Scales`).
    """

    def __init__(self, inputs: int, actions: int, months: int, streams: int, hidden: tuple[int, ...]) -> None:
        widths = [inputs, *hidden]
        self.weights = [torch.zeros(a, b) for a, b in zip(widths, [*hidden, actions])]
        self.biases = [torch.zeros(b) for b in [*hidden, actions]]
        self.value_weight = torch.zeros(months, hidden[-1], streams)
        self.value_bias = torch.zeros(months, 1, streams)
        for parameter in self.parameters():
            parameter.requires_grad_()

    def initialise(self, rng: np.random.Generator) -> None:
        """Orthogonal; a small last layer, so that every action is as likely at first, as CleanRL does it."""
        gains = [*[2.0**0.5] * (len(self.weights) - 1), 0.01]
        with torch.no_grad():
            for weight, gain in zip(self.weights, gains):
                weight.copy_(torch.from_numpy(np.float32(gain) * _orthogonal(weight.shape[0], weight.shape[1], rng)))

    def parameters(self) -> list[Tensor]:
        return [*self.weights, *self.biases, self.value_weight, self.value_bias]

    def __call__(self, inputs: Tensor) -> Tensor:
        """Logits, then values (months, n, a + streams) of inputs (months, n, i)."""
        months = len(inputs)
        weight = torch.cat((self.weights[-1].expand(months, -1, -1), self.value_weight), dim=2)
        bias = torch.cat((self.biases[-1].expand(months, 1, -1), self.value_bias), dim=2)
        return torch.baddbmm(bias, self._body(inputs), weight)

    def month(self, inputs: Tensor, month: int) -> tuple[Tensor, Tensor]:
        """Logits (n, a) and values (n, streams) of one month's inputs (n, i)."""
        body = self._body(inputs)
        values = body @ self.value_weight[month] + self.value_bias[month]
        return body @ self.weights[-1] + self.biases[-1], values

    def _body(self, inputs: Tensor) -> Tensor:
        for weight, bias in zip(self.weights[:-1], self.biases[:-1]):
            inputs = torch.tanh(inputs @ weight + bias)
        return inputs


def _orthogonal(rows: int, columns: int, rng: np.random.Generator) -> Singles:
    square = rng.normal(size=(max(rows, columns), min(rows, columns)))
    basis, triangle = np.linalg.qr(square)
    basis *= np.sign(np.diag(triangle))
    return np.asarray(basis if rows >= columns else basis.T, dtype=np.float32)


@dataclass
class Scales:
    """What makes observations and returns numbers of order one, measured once.

    Moving statistics would change the function under the optimiser's feet.
    """

    mean: Singles  # (o,)
    scale: Singles  # (o,)
    offset: Floats  # (months, streams)
    spread: Floats  # (streams,)

    @classmethod
    def of(cls, observations: Singles, returns: Floats) -> Scales:
        """Of observations (months, n, o) and returns (months, n, streams); what never varies stays as it is."""
        deviation = observations.std(axis=(0, 1), dtype=np.float64)
        offset = returns.mean(axis=1)
        spread = (returns - offset[:, None]).std(axis=(0, 1))
        return cls(
            observations.mean(axis=(0, 1), dtype=np.float64).astype(np.float32),
            np.where(deviation > 1e-6, deviation, 1.0).astype(np.float32),
            offset,
            np.where(spread > 0, spread, 1.0),
        )


@dataclass
class Episode:
    """A year of the cohort; a stream is the reward or one of the costs."""

    inputs: Singles  # (months, n, o + 1), standardised, the price last
    mask: Mask  # (months, n, a)
    actions: NDArray[np.int64]  # (months, n)
    log_probability: Singles  # (months, n)
    values: Floats  # (months, n, streams)
    streams: Floats  # (months, n, streams)
    survival: Floats  # (months, n)

    @property
    def left(self) -> Floats:
        """(months, n): the share of a customer that is still there at the start of each month."""
        alive = np.ones_like(self.survival)
        np.cumprod(self.survival[:-1], axis=0, out=alive[1:])
        return alive


def play(
    env: Environment, network: Network, scales: Scales, prices: Floats, seed: int, iteration: int, workers: Workers
) -> Episode:
    """One episode at `prices` (n,)."""
    months, n, streams = env.months, env.customers, 1 + len(env.constraints)
    episode = Episode(
        inputs=np.empty((months, n, len(env.observed) + 1), np.float32),
        mask=np.empty((months, n, len(env.actions)), np.bool_),
        actions=np.empty((months, n), np.int64),
        log_probability=np.empty((months, n), np.float32),
        values=np.empty((months, n, streams)),
        streams=np.empty((months, n, streams)),
        survival=np.empty((months, n)),
    )
    episode.inputs[:, :, -1] = price_input(prices)
    chance = np.random.default_rng([seed, iteration, DRAWS]).random((months, n))
    parts = [slice(part[0], part[-1] + 1) for part in workers.split(np.arange(n)) if len(part)]
    observation = env.reset(np.random.default_rng([seed, iteration, WORLD]))
    for month in range(months):
        episode.mask[month] = env.mask()
        workers(partial(_decide, episode, network, scales, month, observation, chance[month]), parts)
        step = env.step(episode.actions[month])
        observation = step.observation
        episode.streams[month, :, 0], episode.streams[month, :, 1:] = step.reward, step.costs
        episode.survival[month] = step.survival
    return episode


def _decide(
    episode: Episode, network: Network, scales: Scales, month: int, observation: Singles, chance: Floats, who: slice
) -> None:
    """What some customers look like in a month, and what is done: into the episode."""
    inputs = episode.inputs[month, who]
    np.subtract(observation[who], scales.mean, out=inputs[:, :-1])
    inputs[:, :-1] /= scales.scale
    with torch.no_grad():
        logits, values = network.month(torch.from_numpy(inputs), month)
    episode.values[month, who] = scales.offset[month] + scales.spread * values.numpy()
    logs = log_probabilities(_actions_first(logits.numpy()), penalty(episode.mask[month, who]))
    actions = episode.actions[month, who] = draw(np.exp(logs), chance[who])
    episode.log_probability[month, who] = logs[actions, np.arange(len(actions))]


def penalty(mask: Mask) -> Singles:
    """(a, ...) of a mask (..., a): what is added to logits so that a forbidden action gets a probability of 0."""
    return np.float32(-1e9) * ~_actions_first(mask)


def log_probabilities(logits: Singles, penalty: Singles) -> Singles:
    """(a, ...) of both."""
    found = logits + penalty
    found -= found.max(axis=0)
    found -= np.log(np.exp(found).sum(axis=0))
    return found


def _actions_first(found: NDArray[Any]) -> NDArray[Any]:
    """(a, ...) of (..., a), and so in memory: over five columns of a last axis a softmax takes ten times as long."""
    return np.ascontiguousarray(np.moveaxis(found, -1, 0))


def draw(probabilities: Singles, chance: Floats) -> NDArray[np.int64]:
    """An action (n,) from each column of `probabilities` (a, n), by `chance` (n,), uniform from 0 to below 1; one of
    probability 0 is never drawn."""
    below = np.cumsum(probabilities, axis=0, dtype=np.float64)
    return np.asarray((chance * below[-1] >= below).sum(axis=0))


def advantages(episode: Episode, gae_lambda: float) -> Floats:
    """Generalised advantage estimates (months, n, streams), discounted by survival."""
    found = np.empty_like(episode.streams)
    following, value = np.zeros_like(found[0]), np.zeros_like(found[0])
    for month in reversed(range(len(found))):
        stays = episode.survival[month][:, None]
        surprise = episode.streams[month] + stays * value - episode.values[month]
        following = found[month] = surprise + gae_lambda * stays * following
        value = episode.values[month]
    return found


def cost_at_own_price(costs: Floats, place: Floats) -> Floats:
    """(k,): what customers with `costs` (n, k) cost on average at the middle of the spread of their prices.

    `place` (n,) in [-1, 1] says where in the spread a customer's price lay; the middle is read off a parabola.
    """
    if not place.any():
        return np.asarray(costs.mean(axis=0))
    return np.asarray(np.polynomial.polynomial.polyfit(place, costs, 2)[0])


@dataclass(frozen=True)
class Batch:
    """An episode as the optimiser reads it. A sample weighs as much as the share of its customer that is left.

    `advantage` is the one that a customer's price and the other multipliers leave, of mean 0 and variance 1 over
    samples that had a choice; `weight` is 0 for those that had none. But for the inputs, customers are the last axis.
    """

    inputs: Singles  # (months, n, i)
    penalty: Singles  # (a, months, n)
    chosen: Singles  # (a, months, n), 1 at the action that was played
    log_probability: Singles  # (months, n)
    advantage: Singles  # (months, n)
    weight: Singles  # (months, n)
    left: Singles  # (months, n)
    targets: Singles  # (streams, months, n)

    @classmethod
    def of(cls, episode: Episode, prices: Floats, multipliers: Floats, scales: Scales, gae_lambda: float) -> Batch:
        """`prices` (n,) are what the first cost is charged at, and what the network is shown; `multipliers` (k,)."""
        found = advantages(episode, gae_lambda)
        targets = (found + episode.values - scales.offset[:, None]) / scales.spread
        charged = np.repeat(multipliers[None], len(prices), axis=0)  # (n, k)
        charged[:, 0] = prices
        advantage = found[..., 0] - np.einsum("mnk,nk->mn", found[..., 1:], charged)
        advantage /= 1 + charged.sum(axis=1)
        left = episode.left
        weight = left * (episode.mask.sum(axis=-1) > 1)
        weight /= max(weight.mean(), 1e-12)
        advantage -= (weight * advantage).mean()
        advantage /= np.sqrt((weight * advantage**2).mean()) + 1e-12
        episode.inputs[:, :, -1] = price_input(prices)
        return cls(
            inputs=episode.inputs,
            penalty=penalty(episode.mask),
            chosen=np.float32(1) * (episode.actions == np.arange(episode.mask.shape[-1])[:, None, None]),
            log_probability=episode.log_probability,
            advantage=advantage.astype(np.float32),
            weight=weight.astype(np.float32),
            left=(left / left.mean()).astype(np.float32),
            targets=np.moveaxis(targets, -1, 0).astype(np.float32, order="C"),
        )

    def of_customers(self, rows: NDArray[np.int64]) -> Batch:
        """The years of some customers."""
        others = (getattr(self, field.name).take(rows, axis=-1) for field in fields(self)[1:])
        return Batch(self.inputs.take(rows, axis=1), *others)


class Gradients(NamedTuple):
    outputs: Singles  # (months, n, a + streams)
    entropy: Singles  # (months, n); this and the ratio are for the curves
    ratio: Singles  # (months, n)


def gradients(
    outputs: Singles, batch: Batch, samples: int, clip: float, entropy: float, value_weight: float
) -> Gradients:
    """Of PPO's loss, by the network's outputs. With p the policy, r its ratio to the one that played, H its entropy:

    loss = mean(- weight x min(r A, clip(r, 1 - clip, 1 + clip) A) - entropy x weight x H
                + value_weight x left x mean over streams of (value - target)^2)

    The mean is over `samples`, those of the whole minibatch that `batch` is a part of.
    """
    actions, streams = len(batch.penalty), len(batch.targets)
    logits, values = np.split(_actions_first(outputs), [actions])
    logs = log_probabilities(logits, batch.penalty)
    p = np.exp(logs)
    ratio = np.exp((logs * batch.chosen).sum(axis=0) - batch.log_probability)
    unclipped = np.sign(batch.advantage) * (ratio - 1) < clip
    gain = batch.weight * batch.advantage * ratio * unclipped
    spread = -(p * logs).sum(axis=0)
    by_logits = (p - batch.chosen) * gain + p * (logs + spread) * (entropy * batch.weight)
    by_values = (values - batch.targets) * batch.left
    by_values *= 2 * value_weight / streams
    by_outputs = np.empty_like(outputs)
    np.divide(np.moveaxis(np.concatenate((by_logits, by_values)), 0, -1), samples, out=by_outputs)
    return Gradients(by_outputs, spread, ratio)


class Learner:
    """What training is between two iterations; `state` is all of it, as named bytes without pickle."""

    def __init__(self, env: Environment, settings: Settings, seed: int, threads: int = 1) -> None:
        check(env, settings)
        self.env, self.settings, self.seed, self.workers = env, settings, seed, Workers(threads)
        inputs, streams = len(env.observed) + 1, 1 + len(env.constraints)
        self.network = Network(inputs, len(env.actions), env.months, streams, settings.hidden)
        self.network.initialise(np.random.default_rng([seed, 0, ORDER]))
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=settings.learning_rate, eps=1e-5, fused=True)
        self.multipliers = Multipliers(settings)
        self.iteration = 0
        self.curves: list[dict[str, float]] = []
        # A year of the untrained network, to which all actions are about as good, says how large things are.
        unit = Scales(
            mean=np.zeros(inputs - 1, np.float32),
            scale=np.ones(inputs - 1, np.float32),
            offset=np.zeros((env.months, streams)),
            spread=np.zeros(streams),
        )
        year = play(env, self.network, unit, np.zeros(env.customers), seed, 0, self.workers)
        self.scales = Scales.of(year.inputs[:, :, :-1], advantages(year, 1.0))
        if odd := [name for name, mean in zip(env.observed, self.scales.mean) if not np.isfinite(mean)]:
            raise RetainError(f"what a policy observes is not finite in {', '.join(odd)}")

    def iterate(self) -> dict[str, float]:
        """One year played, multipliers moved, the policy improved. Returns what the curves show of it."""
        self.iteration += 1
        rng = np.random.default_rng([self.seed, self.iteration, ORDER])
        place = rng.permutation(np.linspace(-1.0, 1.0, self.env.customers)) * self.settings.price_spread
        prices = self._prices(place)
        episode = play(self.env, self.network, self.scales, prices, self.seed, self.iteration, self.workers)
        totals = (episode.left[:, :, None] * episode.streams).sum(axis=0)  # (n, streams)
        costs = cost_at_own_price(totals[:, 1:], place)
        self.multipliers.update(costs)
        figures = {"reward": float(totals[:, 0].mean())}
        for name, cost, multiplier in zip(self.env.constraints, costs, self.multipliers.value):
            figures |= {f"cost_{name}": float(cost), f"multiplier_{name}": float(multiplier)}
        self._check(figures, "before the policy was changed: what was played is not finite")
        figures["explained_variance"] = explained_variance(episode)
        figures |= self._improve(episode, self._prices(place), rng)
        self._check(figures, self._cause())
        self.curves.append(figures)
        return figures

    def _check(self, figures: Mapping[str, float], cause: str) -> None:
        """Raises RetainError with the figures that are not finite, and the `cause`."""
        odd = ", ".join(f"{name} is {value:g}" for name, value in figures.items() if not np.isfinite(value))
        if odd:
            raise RetainError(f"training diverged in iteration {self.iteration}, {cause}: {odd}")

    def _cause(self) -> str:
        """What was seen of how the policy changed; a remedy is named for steps that were too large, and for no other
        cause."""
        steps = [figures["approx_kl"] for figures in self.curves[-3:]]
        seen = "after approx_kl of " + ", ".join(f"{step:.3g}" for step in steps) if steps else "in its first steps"
        return seen + ("; a lower learning_rate makes smaller steps" if max(steps, default=0.0) > LARGE_STEP else "")

    def _prices(self, place: Floats) -> Floats:
        """(n,) around the first multiplier; `place` in +-price_spread."""
        return np.asarray(np.maximum(0.0, np.expm1(np.log1p(self.multipliers.value[0]) + place)))

    def _improve(self, episode: Episode, prices: Floats, rng: np.random.Generator) -> dict[str, float]:
        """PPO's epochs over the episode; a minibatch is the years of some customers, in parts for the workers.

        Who is together is drawn once an iteration, the minibatches' order in every epoch: an episode is copied once.
        """
        settings, workers, parameters = self.settings, self.workers, self.network.parameters()
        remaining = 1 - (self.iteration - 1) / settings.iterations
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate * remaining
        batch = Batch.of(episode, prices, self.multipliers.value, self.scales, settings.gae_lambda)
        minibatches = [
            workers(batch.of_customers, workers.split(rows))
            for rows in np.array_split(rng.permutation(self.env.customers), settings.minibatches)
        ]

        def descend(samples: int, part: Batch) -> tuple[Sequence[Tensor], Gradients]:
            outputs = self.network(torch.from_numpy(part.inputs))
            by = outputs.detach().numpy(), part, samples
            found = gradients(*by, settings.clip, settings.entropy * remaining, settings.value_weight)
            return torch.autograd.grad(outputs, parameters, torch.from_numpy(found.outputs)), found

        watched = np.zeros(4)
        for epoch in range(settings.epochs):
            for at in rng.permutation(settings.minibatches):
                samples = sum(part.weight.size for part in minibatches[at])
                found = workers(partial(descend, samples), minibatches[at])
                for parameter, *by_part in zip(parameters, *(downhill for downhill, _ in found)):
                    # Contiguous: fused Adam reads memory in order, whatever the strides say.
                    parameter.grad = sum(by_part[1:], by_part[0]).contiguous()
                self.optimizer.step()
                if epoch == settings.epochs - 1:
                    watched += sum(_watched(of, part, settings.clip) for (_, of), part in zip(found, minibatches[at]))
        weight, entropy, kl, clipped = watched.tolist()
        weight = max(weight, 1e-12)  # nobody may have had a choice
        return {"entropy": entropy / weight, "approx_kl": kl / weight, "clip_fraction": clipped / weight}

    def policy(self) -> Policy:
        """As it is now, at its own multiplier."""
        layers = zip(self.network.weights, self.network.biases)
        ends = self._prices(np.array([-1.0, 1.0]) * self.settings.price_spread)
        return Policy(
            observed=tuple(self.env.observed),
            actions=tuple(self.env.actions),
            mean=self.scales.mean.copy(),
            scale=self.scales.scale.copy(),
            layers=tuple((weight.detach().numpy().copy(), bias.detach().numpy().copy()) for weight, bias in layers),
            price=float(np.clip(self.multipliers.value[0], *ends)),
            prices=(float(ends[0]), float(ends[1])),
        )

    def state(self) -> dict[str, bytes]:
        arrays = {f"scales.{name}": getattr(self.scales, name) for name in ("mean", "scale", "offset", "spread")}
        arrays |= {f"multipliers.{name}": getattr(self.multipliers, name) for name in ("value", "integral", "excess")}
        for at, parameter in enumerate(self.network.parameters()):
            arrays[f"network.{at}"] = parameter.detach().numpy()
            arrays |= {f"adam.{at}.{key}": value.numpy() for key, value in self.optimizer.state[parameter].items()}
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        text = json.dumps({"iteration": self.iteration, "curves": self.curves}, sort_keys=True)
        return {"learner.npz": buffer.getvalue(), "learner.json": text.encode()}

    def restore(self, files: Mapping[str, bytes]) -> None:
        """From `state` of a learner of the same environment, settings and seed."""
        content = json.loads(files["learner.json"])
        self.iteration, self.curves = content["iteration"], content["curves"]
        adam: dict[int, dict[str, Tensor]] = {}
        parameters = self.network.parameters()
        with np.load(io.BytesIO(files["learner.npz"]), allow_pickle=False) as arrays:
            for key in arrays:
                part, name = key.split(".", 1)
                if part == "network":
                    parameters[int(name)].detach().copy_(torch.from_numpy(arrays[key]))
                elif part == "adam":
                    at, what = name.split(".")
                    adam.setdefault(int(at), {})[what] = torch.from_numpy(arrays[key])
                else:
                    setattr(getattr(self, part), name, arrays[key])
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": adam})


def explained_variance(episode: Episode) -> float:
    """Share of the variance of returns that the critic foresaw; 0 when there is none."""
    returns, following = np.empty_like(episode.survival), np.zeros(episode.survival.shape[1])
    for month in reversed(range(len(returns))):
        following = returns[month] = episode.streams[month, :, 0] + episode.survival[month] * following
    total = returns.var()
    return float(1 - (returns - episode.values[..., 0]).var() / total) if total > 0 else 0.0


def _watched(found: Gradients, part: Batch, clip: float) -> Floats:
    """Sums over samples, by weight: 1, entropy, approximate KL (Schulman's k3), beyond the clip or not."""
    kl = found.ratio - 1 - np.log(found.ratio)
    beyond = abs(found.ratio - 1) > clip
    return np.array([(part.weight * of).sum() for of in (np.ones_like(kl), found.entropy, kl, beyond)])


@dataclass(frozen=True)
class Trained:
    """`policy` is the one that did best in `validation` (iteration -> score), the last one when there was none."""

    policy: Policy
    last: Policy
    curves: list[dict[str, float]]
    validation: dict[int, float]


def train(
    env: Environment,
    settings: Settings,
    seed: int,
    threads: int,
    validate: Callable[[Policy], float] | None = None,
    resume: Mapping[str, bytes] | None = None,
    save: Callable[[int, dict[str, bytes]], None] = lambda iteration, files: None,
    should_stop: Callable[[], bool] = lambda: False,
    checkpoint_due: Callable[[], bool] = lambda: False,
    progress: Callable[[int, int, Mapping[str, float]], None] = lambda iteration, total, figures: None,
) -> Trained:
    """Trains from the start, or from the files that `save` was given by a run of the same environment and settings.

    The same seed and threads give the same bytes, interrupted or not. Raises Preempted, after a save, when asked to
    stop; RetainError for settings that can't work or training that diverges.
    """
    learner = Learner(env, settings, seed, threads)
    best, validation = learner.policy(), dict[int, float]()
    if resume is not None:
        learner.restore(resume)
        best = Policy.from_json(resume["best.json"])
        validation = {int(key): value for key, value in json.loads(resume["validation.json"]).items()}
    while learner.iteration < settings.iterations:
        figures = learner.iterate()
        done = learner.iteration == settings.iterations
        if validate is None:
            best = learner.policy()
        elif done or learner.iteration % settings.validate_every == 0:
            score = validate(learner.policy())
            if score > max(validation.values(), default=-np.inf):
                best = learner.policy()
            validation[learner.iteration] = score
            figures["validation"] = score
        progress(learner.iteration, settings.iterations, figures)
        due, stopping = checkpoint_due(), should_stop()
        if done or stopping or due:
            kept = {"best.json": best.to_json(), "validation.json": json.dumps(validation, sort_keys=True).encode()}
            save(learner.iteration, learner.state() | kept)
        if stopping and not done:
            raise Preempted
    return Trained(best, learner.policy(), learner.curves, validation)
