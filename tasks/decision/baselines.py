"""The three baselines of the playbook, each as strong as it can be made.

- `Threshold`: whoever's risk reaches a threshold gets one fixed offer.
- `Thompson`: Thompson sampling over the offers (Thompson 1933; linear: Agrawal and Goyal, ICML 2013). What an offer
  gains is a Bayesian linear regression on a few features; a decision draws each offer's gain from its posterior and
  makes the best one, if it is worth its price.
- `Uplift`: two models (Radcliffe 2007; "T-learner", Kuenzel et al., PNAS 116, 2019), boosted trees of what follows
  without and with each offer. The treated models start from the control's prediction, so that what they learn is the
  uplift, and shrinking it is shrinking towards no effect; separate ones were weaker.

The last two learn from the same log of training customers: a simulated test in which each month a random tenth gets a
random offer. The outcome is what a customer pays from then on to the year's end, net, and what offers to her cost; so
both know what PPO knows: history, later contacts, and the whole year's worth of a decision. The month itself explains
most of an outcome and is known to no policy, so the control model alone sees it.

All are tuned on training customers by the same search with the same number of evaluations, each a number of years
under the wallet, the mask and the budget that everybody gets. Each keeps one scalar (`threshold`, `price`) that may be
refitted.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import xgboost as xgb
from numpy.typing import NDArray

from engine.errors import DataError
from retain.wallet import Mode, Wallet
from tasks.decision.simulator import Actions, Bools, Floats, Policy, Simulator, Singles, Year, play

TESTED = 0.1  # share of those who may be contacted that the log's test contacts each month
# The control model explains what follows no contact, mostly by the month: the better, the less noise in the uplift.
CONTROL = {"max_depth": 5, "learning_rate": 0.1, "min_child_weight": 100.0, "rounds": 200}
# Of depths 2-4, rates .03-.08 and leaves of 50-2,000 rows the best on training customers, by .0005 of NRR or less.
TREATED = {"max_depth": 2, "learning_rate": 0.04, "min_child_weight": 500.0, "rounds": 100}
PRIOR = 1.0  # rows' worth of "no gain" in each direction of Thompson's regressions


@dataclass(frozen=True)
class Nobody:
    """No contact: where lift starts from."""

    def start(self, rng: np.random.Generator) -> Callable[[Singles, Bools], Actions]:
        return lambda observation, mask: np.zeros(len(observation), np.int64)


@dataclass(frozen=True)
class Threshold:
    """`action` for whoever's `risk` (a column of the observation) is at or above `threshold`."""

    risk: int
    action: int
    threshold: float

    def start(self, rng: np.random.Generator) -> Callable[[Singles, Bools], Actions]:
        return lambda observation, mask: np.where(
            (observation[:, self.risk] >= self.threshold) & mask[:, self.action], self.action, 0
        )


@dataclass(frozen=True)
class Log:
    """Decisions of a random test: one row for each customer-month in which a contact was allowed.

    `gain`, `cost` (rows,): net revenue and offer cost from that month to the year's end, both per unit of charge.
    `weight`: probability that the customer was still there. `control`: the gain and the cost that follow no contact,
    as far as month and observation tell them.
    """

    observation: Singles
    month: NDArray[np.int64]
    action: NDArray[np.int64]
    gain: Floats
    cost: Floats
    weight: Floats
    control: tuple[Floats, Floats]


def log(simulator: Simulator, years: int, rng: np.random.Generator) -> Log:
    """The log of a random test on the simulator's customers."""
    if len(simulator.cohort) < 2 * len(simulator.actions):
        raise DataError(f"{len(simulator.cohort)} customers are too few to learn {len(simulator.actions)} actions from")
    parts: list[dict[str, NDArray[Any]]] = []
    charge = simulator.cohort.charge
    for world in rng.spawn(years):
        chance = world.spawn(1)[0]
        observation, rows = simulator.reset(world), []
        for month in range(simulator.months):
            mask = simulator.mask()[:, 1]
            tested = mask & (chance.random(len(charge)) < TESTED)
            action = np.where(tested, chance.integers(1, len(simulator.actions), len(charge)), 0)
            step = simulator.step(action)
            rows.append((observation, np.full(len(charge), month), action, mask, step))
            observation = step.observation
        gain, cost = np.zeros(len(charge)), np.zeros(len(charge))
        for observation, month_of, action, mask, step in reversed(rows):
            gain = step.reward / charge + step.survival * gain
            cost = step.costs[:, 0] / charge + step.survival * cost
            parts.append(
                {
                    "observation": observation[mask],
                    "month": month_of[mask],
                    "action": action[mask],
                    "gain": gain[mask],
                    "cost": cost[mask],
                    "weight": step.weight[mask],
                }
            )
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    seen = np.column_stack((whole["observation"], whole["month"])).astype(np.float32)
    alone = whole["action"] == 0
    control = tuple(
        _predict(_trees(seen[alone], whole[name][alone], whole["weight"][alone], CONTROL), seen)
        for name in ("gain", "cost")
    )
    return Log(**whole, control=(control[0], control[1]))


@dataclass(frozen=True)
class Thompson:
    """`gain` and `cost` (offers, features): means of the posterior weights; `root` (offers, features, features) so that
    |root x| is the standard deviation of a gain. `boldness` scales it."""

    gain: Floats
    cost: Floats
    root: Floats
    columns: tuple[int, int, int]  # of risk, acceptance and contacts a month ago in the observation
    price: float
    boldness: float

    @classmethod
    def fit(cls, log: Log, observed: Sequence[str], offers: int) -> Thompson:
        columns = tuple(observed.index(name) for name in ("risk", "acceptance", "contacts_1_months_ago"))
        found = []
        for action in range(1, offers + 1):
            rows = log.action == action
            x = _basis(log.observation[rows], (columns[0], columns[1], columns[2]))
            weighted = x.T * log.weight[rows]
            precision = weighted @ x + PRIOR * np.eye(x.shape[1])
            surplus = log.gain[rows] - log.control[0][rows]
            extra = log.cost[rows] - log.control[1][rows]
            gain, cost = np.linalg.solve(precision, weighted @ np.column_stack((surplus, extra))).T
            noise = np.sqrt(log.weight[rows] @ (surplus - x @ gain) ** 2 / log.weight[rows].sum())
            found.append((gain, cost, noise * np.linalg.inv(np.linalg.cholesky(precision))))
        gains, costs, roots = (np.array(part) for part in zip(*found))
        return cls(gains, costs, roots, (columns[0], columns[1], columns[2]), price=0.0, boldness=1.0)

    def to_bytes(self) -> bytes:
        """The posterior, for a checkpoint."""
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, gain=self.gain, cost=self.cost, root=self.root, columns=self.columns)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Thompson:
        with np.load(io.BytesIO(data), allow_pickle=False) as found:
            risk, acceptance, recent = found["columns"].tolist()
            return cls(found["gain"], found["cost"], found["root"], (risk, acceptance, recent), 0.0, 1.0)

    def start(self, rng: np.random.Generator) -> Callable[[Singles, Bools], Actions]:
        def decide(observation: Singles, mask: Bools) -> Actions:
            x = _basis(observation, self.columns)
            sd = np.sqrt(((x @ self.root.transpose(0, 2, 1)) ** 2).sum(axis=2)).T
            drawn = x @ self.gain.T + self.boldness * sd * rng.standard_normal(sd.shape)
            return _best(drawn - self.price * (x @ self.cost.T), mask)

        return decide


@dataclass(frozen=True)
class Uplift:
    """Boosted uplift in gain and in cost of each offer; of the trees the first `rounds` are used."""

    models: tuple[tuple[xgb.Booster, xgb.Booster], ...]
    price: float
    rounds: int

    @classmethod
    def fit(cls, log: Log) -> Uplift:
        models = []
        for action in range(1, int(log.action.max()) + 1):
            rows = log.action == action
            outcomes = ((log.gain, log.control[0]), (log.cost, log.control[1]))
            gain, cost = (
                _trees(log.observation[rows], of[rows] - control[rows], log.weight[rows], TREATED)
                for of, control in outcomes
            )
            models.append((gain, cost))
        return cls(tuple(models), price=0.0, rounds=int(TREATED["rounds"]))

    def to_files(self) -> dict[str, bytes]:
        """Every booster, for a checkpoint."""
        return {
            f"{offer}-{name}.ubj": bytes(model.save_raw("ubj"))
            for offer, pair in enumerate(self.models)
            for name, model in zip(("gain", "cost"), pair)
        }

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Uplift:
        models = []
        for offer in range(len(files) // 2):
            gain, cost = xgb.Booster({"nthread": 1}), xgb.Booster({"nthread": 1})
            gain.load_model(bytearray(files[f"{offer}-gain.ubj"]))
            cost.load_model(bytearray(files[f"{offer}-cost.ubj"]))
            models.append((gain, cost))
        return cls(tuple(models), price=0.0, rounds=int(TREATED["rounds"]))

    def start(self, rng: np.random.Generator) -> Callable[[Singles, Bools], Actions]:
        def decide(observation: Singles, mask: Bools) -> Actions:
            worth = np.full((len(observation), len(self.models)), -np.inf)
            may = mask[:, 1:].any(axis=1)
            if may.any():
                for index, (gain, cost) in enumerate(self.models):
                    extra = _predict(cost, observation[may], self.rounds)
                    worth[may, index] = _predict(gain, observation[may], self.rounds) - self.price * extra
            return _best(worth, mask)

        return decide


@dataclass(frozen=True)
class Tuned:
    """`best` of all `evaluations`: the settings that were tried, with mean NRR and offer cost as shares of revenue."""

    policy: Policy
    best: Mapping[str, float]
    evaluations: tuple[Mapping[str, float], ...]


Range = tuple[Literal["linear", "log"], float, float]


def tune(
    simulator: Simulator,
    make: Callable[[Mapping[str, float]], Policy],
    ranges: Mapping[str, Range],
    evaluations: int,
    years: int,
    seed: int,
    mode: Mode,
) -> Tuned:
    """The setting of highest NRR under the wallet. Half of the evaluations are spread over `ranges`, the other half
    close in on the best so far. Every setting meets the same `years` years."""
    rng = np.random.default_rng([seed, 1])
    names = tuple(ranges)
    tried: list[tuple[Floats, float, dict[str, float]]] = []
    for index in range(evaluations):
        spread = (evaluations + 1) // 2
        if index < spread:  # one in each of as many slices of the first range; anywhere in the others
            place = rng.random(len(names))
            place[0] = (index + place[0]) / spread
        else:
            best = max(tried, key=lambda one: one[1])[0]
            width = 0.2 * 0.9 ** (index - spread)
            place = np.clip(best + width * rng.standard_normal(len(names)), 0, 1)
        setting = {name: _value(ranges[name], at) for name, at in zip(names, place)}
        results = compete(simulator, make(setting), years, seed, mode)
        nrr = float(np.mean([year.net.sum() for year in results])) / simulator.cohort.revenue
        cost = float(np.mean([year.cost.sum() for year in results])) / simulator.cohort.revenue
        tried.append((place, nrr, {**setting, "nrr": nrr, "cost": cost}))
    best_setting = max(tried, key=lambda one: one[1])[2]
    return Tuned(make(best_setting), best_setting, tuple(one[2] for one in tried))


def compete(simulator: Simulator, policy: Policy, years: int, seed: int, mode: Mode | None) -> list[Year]:
    """A policy's years, the same worlds for every policy. With no `mode` nothing stands in its way: no wallet, and no
    mask to know of."""
    free = mode is None
    return [
        play(
            simulator,
            policy,
            np.random.default_rng([seed, 0, year]),
            Wallet(simulator.budget, mode) if mode else None,
            masked=not free,
        )
        for year in range(years)
    ]


# What is searched for each baseline: a scalar that may be refitted first, then what else is its own.
RANGES: Mapping[str, Mapping[str, Range]] = {
    "threshold": {"threshold": ("linear", 0.02, 0.9)},
    "thompson_sampling": {"price": ("linear", 0.5, 3.0), "boldness": ("log", 0.03, 1.0)},
    "uplift_tree": {"price": ("linear", 0.5, 3.0), "rounds": ("log", 3, TREATED["rounds"])},
}


SCALAR = {name: next(iter(ranges)) for name, ranges in RANGES.items()}
# How far around the tuned scalar a refit looks, as a share of its range, and how often.
REFIT, REFITS = 0.15, 8


@dataclass(frozen=True)
class Fitted:
    """The baselines before their search: a rule, and two models of what offers bring."""

    threshold: Threshold
    thompson: Thompson
    uplift: Uplift

    def policy(self, name: str, setting: Mapping[str, float]) -> Policy:
        """The baseline `name` of RANGES with what was found for it."""
        if name == "threshold":
            return replace(self.threshold, threshold=setting["threshold"])
        if name == "thompson_sampling":
            return replace(self.thompson, price=setting["price"] - 1, boldness=setting["boldness"])
        return replace(self.uplift, price=setting["price"] - 1, rounds=round(setting["rounds"]))


def fixed(simulator: Simulator, percent: int) -> Threshold:
    """The threshold baseline's rule: nobody's risk reaches it yet. Raises DataError for a level that isn't offered."""
    if percent not in simulator.offers.levels:
        raise DataError(f"the threshold's offer of {percent} % is not one of {list(simulator.offers.levels)}")
    return Threshold(simulator.observed.index("risk"), 1 + simulator.offers.levels.index(percent), 1.0)


def search(
    simulator: Simulator, fitted: Fitted, name: str, evaluations: int, years: int, seed: int, mode: Mode
) -> Tuned:
    """The baseline `name`, tuned."""
    return tune(simulator, lambda found: fitted.policy(name, found), RANGES[name], evaluations, years, seed, mode)


def refit(
    simulator: Simulator, fitted: Fitted, name: str, found: Mapping[str, float], years: int, seed: int, mode: Mode
) -> Tuned:
    """The baseline as tuned, with its one scalar set anew on the simulator's customers: the best of a few around it.

    Of mean parameters, nothing but features tells of them.
    """
    kind, low, high = RANGES[name][SCALAR[name]]
    width = REFIT * (high - low)
    at = found[SCALAR[name]]
    near: Range = (kind, max(low, at - width), min(high, at + width))
    rest = {key: value for key, value in found.items() if key not in ("nrr", "cost")}
    tuned = tune(
        simulator,
        lambda setting: fitted.policy(name, {**rest, **setting}),
        {SCALAR[name]: near},
        REFITS,
        years,
        seed,
        mode,
    )
    return replace(tuned, best={**rest, **tuned.best})


def _value(of: Range, place: float) -> float:
    kind, low, high = of
    return low + place * (high - low) if kind == "linear" else low * (high / low) ** place


def _best(worth: Floats, mask: Bools) -> Actions:
    """The action of highest worth (n, offers), if it is allowed and above 0."""
    best = worth.argmax(axis=1)
    good = np.take_along_axis(worth, best[:, None], axis=1)[:, 0] > 0
    return np.where(good & mask[np.arange(len(best)), 1 + best], 1 + best, 0)


def _basis(observation: Singles, columns: tuple[int, int, int]) -> Floats:
    """(n, 15): 1 and hinges of risk, times 1, acceptance and whether she was contacted a month ago."""
    risk, acceptance, recent = (observation[:, column].astype(np.float64) for column in columns)
    hinges = np.column_stack((np.ones(len(risk)), risk, *(np.maximum(0, risk - at) for at in (0.2, 0.4, 0.7))))
    return np.column_stack((hinges, hinges * acceptance[:, None], hinges * recent[:, None]))


def _trees(x: Singles, y: Floats, weight: Floats, settings: Mapping[str, float]) -> xgb.Booster:
    params = {"objective": "reg:squarederror", "base_score": 0.0, "tree_method": "hist", "nthread": 1, "seed": 0}
    params |= {name: value for name, value in settings.items() if name != "rounds"}
    data = xgb.QuantileDMatrix(x, label=y, weight=weight, nthread=1)
    return xgb.train(params, data, num_boost_round=int(settings["rounds"]))


def _predict(model: xgb.Booster, x: Singles, rounds: int = 0) -> Floats:
    """Of the first `rounds` trees; 0 is all of them."""
    return np.asarray(model.inplace_predict(x, iteration_range=(0, rounds)), dtype=np.float64)
