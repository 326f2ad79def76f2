"""The learned policy: a small network over what a request and the contact history tell, in numpy.

One scalar of it may be refitted without training: its price, what a unit of offer cost has to earn back beyond itself.
The network was trained on a spread of prices and takes the price as an input, so another price is another policy of
the same family, and a target cost finds its price by bisection (`reprice`).

A file of plain numbers (JSON). Observations are standardised with the statistics stored in it; those, and the price,
are folded into the first layer, so that one decision is three small products.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Mask = NDArray[np.bool_]
Layer = tuple[Singles, Singles]  # weight (inputs, outputs), bias (outputs,)

PRICE_UNIT = 0.25  # the network sees log(1 + price) in steps of this: a quarter more per unit of cost is one unit
MAX_WIDTH = 4096


class PolicyError(ValueError):
    """A policy file or an observation that can't be used: what is wrong in it."""


def price_input(price: float | Floats) -> Any:
    """What the network sees of a price: log(1 + price) / PRICE_UNIT, since rewards are net of what an offer costs."""
    return np.log1p(price) / PRICE_UNIT


def softmax(logits: Floats) -> Floats:
    """The probabilities (n, a) of the actions with those logits; an action of -inf has none."""
    odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=-1, keepdims=True))


@dataclass(frozen=True)
class Policy:
    """`observed` names the columns of an observation, `actions` what the outputs mean; action 0 is no contact.

    `mean`, `scale` (o,) standardise an observation; `layers` are those of the network, with tanh between them; the
    first takes o + 1 inputs, the last of which is the price. `prices`: the lowest and highest it was trained at.
    `medians`: what it was shown in place of a missing number, by the number's column.
    """

    observed: tuple[str, ...]
    actions: tuple[str, ...]
    mean: Singles
    scale: Singles
    layers: tuple[Layer, ...]
    price: float
    prices: tuple[float, float]
    medians: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def _folded(self) -> tuple[tuple[Floats, Floats], ...]:
        weight, bias = (part.astype(np.float64) for part in self.layers[0])
        scaled = weight[:-1] / self.scale[:, None].astype(np.float64)
        bias = bias - self.mean.astype(np.float64) @ scaled + price_input(self.price) * weight[-1]
        rest = [(weight.astype(np.float64), bias.astype(np.float64)) for weight, bias in self.layers[1:]]
        return ((scaled, bias), *rest)

    def logits(self, observation: Singles) -> Floats:
        """(n, a) of observations (n, o), or (a,) of one (o,). Raises PolicyError when one of them is not finite."""
        *hidden, (weight, bias) = self._folded
        activations = observation.astype(np.float64)
        if not math.isfinite(activations.sum()):  # here, as tanh would make infinity look like a number
            raise PolicyError(f"the observation is not finite in {_not_finite(observation, self.observed)}")
        for inner, offset in hidden:
            activations = np.tanh(activations @ inner + offset)
        return np.asarray(activations @ weight + bias)

    def probabilities(self, observation: Singles, mask: Mask) -> Floats:
        """(n, a), zero where `mask` (n, a) forbids an action."""
        return softmax(np.where(mask, self.logits(observation), -np.inf))

    def choose(self, observation: Singles, mask: Mask) -> NDArray[np.intp]:
        """The likeliest allowed action (n,) of each row, or of the one row given."""
        return np.asarray(np.where(mask, self.logits(observation), -np.inf).argmax(axis=-1))

    def best(self, observation: Singles) -> int:
        """The likeliest action for one observation (o,) with every action allowed. Raises PolicyError when a logit is
        not finite: the largest of such numbers is no decision."""
        logits = self.logits(observation)
        if not math.isfinite(logits.sum()):
            raise PolicyError("the network's output is not finite")
        return int(logits.argmax())

    def at(self, price: float) -> Policy:
        """The same network at another price of those it was trained at."""
        if not self.prices[0] <= price <= self.prices[1]:
            low, high = self.prices
            raise PolicyError(f"a price of {price:g}: the policy was trained at {low:g} to {high:g}")
        return replace(self, price=float(price))

    def to_json(self) -> bytes:
        """Sorted JSON; float32 values are written so that they come back the same."""
        content = {
            "observed": list(self.observed),
            "actions": list(self.actions),
            "mean": self.mean.tolist(),
            "scale": self.scale.tolist(),
            "layers": [{"weight": weight.tolist(), "bias": bias.tolist()} for weight, bias in self.layers],
            "price": self.price,
            "prices": list(self.prices),
        } | ({"medians": dict(self.medians)} if self.medians else {})
        return json.dumps(content, sort_keys=True, allow_nan=False).encode()

    @classmethod
    def from_json(cls, data: bytes, where: str = "policy.json") -> Policy:
        """Raises PolicyError for anything but a whole policy of finite numbers whose sizes fit."""
        try:
            content = json.loads(data)
            observed, actions = _names(content["observed"]), _names(content["actions"])
            mean, scale = (np.asarray(content[key], dtype=np.float32) for key in ("mean", "scale"))
            layers = tuple(
                (np.asarray(layer["weight"], dtype=np.float32), np.asarray(layer["bias"], dtype=np.float32))
                for layer in content["layers"]
            )
            price, (low, high) = float(content["price"]), map(float, content["prices"])
            medians = {name: float(median) for name, median in content.get("medians", {}).items()}
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError, AttributeError):
            raise PolicyError(
                f"{where}: wants observed, actions, mean, scale, layers of weight and bias, price, prices"
            ) from None
        widths = [len(observed) + 1, *(len(bias) if bias.ndim == 1 else 0 for _, bias in layers)]
        shapes = [weight.shape for weight, _ in layers]
        if not layers or max(widths) > MAX_WIDTH or shapes != list(pairwise(widths)) or widths[-1] != len(actions):
            raise PolicyError(f"{where}: layers do not lead from {len(observed)} columns to {len(actions)} actions")
        if mean.shape != (len(observed),) or scale.shape != (len(observed),):
            raise PolicyError(f"{where}: mean and scale want one number for each of {len(observed)} columns")
        numbers = (mean, scale, *(part for layer in layers for part in layer))
        if not all(np.isfinite(part).all() for part in numbers) or not (scale > 0).all():
            raise PolicyError(f"{where}: a number is not finite, or a scale is not above 0")
        if not all(map(math.isfinite, medians.values())):
            raise PolicyError(f"{where}: a median is not finite")
        if not 0 <= low <= price <= high < math.inf:
            raise PolicyError(f"{where}: a price of {price:g} in {low:g} to {high:g}: wants one within, from 0")
        return cls(observed, actions, mean, scale, layers, price, (low, high), medians)


def reprice(
    policy: Policy, cost_of: Callable[[Policy], float], target: float, rounds: int = 12
) -> tuple[Policy, list[tuple[float, float]]]:
    """The policy at the lowest of its prices found at which `cost_of` it is within `target`; every (price, cost) tried.

    Bisection on log(1 + price): cost is taken to fall with price. What is returned was measured to be within `target`;
    if even the highest price costs more, PolicyError.
    """
    tried: list[tuple[float, float]] = []

    def within(price: float) -> bool:
        tried.append((price, cost_of(policy.at(price))))
        return tried[-1][1] <= target

    low, high = policy.prices
    if within(low):
        return policy.at(low), tried
    if not within(high):
        raise PolicyError(f"costs {tried[-1][1]:g} at its highest price of {high:g}: none keeps it within {target:g}")
    for _ in range(rounds):
        middle = math.sqrt((1 + low) * (1 + high)) - 1
        if within(middle):
            high = middle
        else:
            low = middle
    return policy.at(high), tried


def _names(values: Sequence[str]) -> tuple[str, ...]:
    if not isinstance(values, list) or not values or not all(isinstance(value, str) for value in values):
        raise TypeError
    if len(set(values)) != len(values):
        raise ValueError
    return tuple(values)


def _not_finite(observation: Singles, names: Sequence[str]) -> str:
    rows = np.atleast_2d(observation)
    return ", ".join(name for name, column in zip(names, rows.T) if not np.isfinite(column).all())
