"""What the learned policy is worth on customers that nothing was tuned on, and how sure that is.

Every part is kept in the checkpoint once it is known (`Keep`), so an interruption costs one of them.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from retain.policy import Policy as Network
from retain.policy import reprice
from tasks.decision import baselines, bound, off_policy
from tasks.decision.baselines import Fitted, Nobody
from tasks.decision.comparison import Comparison, Metric, Returns, metric, returns
from tasks.decision.simulator import Actions, Bools, Cohort, Floats, Policy, Simulator, Singles, parameters
from tasks.decision.worlds import Setting, changed

if TYPE_CHECKING:
    from engine.stage import Metrics, Workspace
    from tasks.config import DecisionConfig

NO_CONTACT, PPO, DP, BOUND = "no_contact", "lagrangian_ppo", "dp_on_features", "upper_bound"
# Added to the experiment's seed: no two purposes meet the same years.
VALIDATED, PRICED, EVALUATED = 1, 2, 3
VALIDATION_YEARS = 8  # of a cohort of 735 a price is off by 1 % after 4
PRICED_YEARS = 2  # of mean parameters: only answers are drawn, and thousands of them
PRICE_ROUNDS = 9  # halvings of a price's range; the last one moves cost by less than .1 % of the budget

PLAYED = "played."  # before the names of what only a policy has

# (name, makes its bytes) -> those bytes, made once and kept.
Keep = Callable[[str, Callable[[], bytes]], bytes]


@dataclass(frozen=True)
class Learned:
    """The network's likeliest action, as the service takes it."""

    network: Network

    def start(self, rng: np.random.Generator) -> Callable[[Singles, Bools], Actions]:
        return self.network.choose


@dataclass(frozen=True)
class Customers:
    """The parts of the split that a training uses; `target` is the one that policies are compared on."""

    training: Cohort
    validation: Cohort
    target: Cohort


@dataclass(frozen=True)
class Rivals:
    """All that are compared: `baselines` as tuned, `best` of them on training customers, and the `learned` policy of
    each seed at the price that fits `limit`, what it may cost as a share of revenue; `chosen` is the one to deploy.
    `by_budget` are those trained for each budget of the curve."""

    baselines: Mapping[str, Policy]
    fitted: Fitted
    best: str
    learned: tuple[Priced, ...]
    chosen: int
    by_budget: Mapping[float, Network]
    limit: float


def on_validation(setting: Setting, customers: Cohort, policy: Policy, seed: int) -> tuple[float, float]:
    """NRR and offer cost on validation customers, as shares of revenue."""
    return _simulated(setting, setting.simulator(customers), policy, VALIDATION_YEARS, seed + VALIDATED)


def foreseen_cost(setting: Setting, customers: Cohort, policy: Policy, seed: int) -> float:
    """What a policy will cost as far as features tell: wallet and all, on `customers` of mean parameters."""
    return _simulated(setting, setting.simulator(customers, latents=False), policy, PRICED_YEARS, seed + PRICED)[1]


def _simulated(setting: Setting, simulator: Simulator, policy: Policy, years: int, seed: int) -> tuple[float, float]:
    found, revenue = setting.play(simulator, policy, years, seed), simulator.cohort.revenue
    net, cost = (float(np.mean([getattr(year, name).sum() for year in found])) for name in ("net", "cost"))
    return net / revenue, cost / revenue


@dataclass(frozen=True)
class Priced:
    """A policy at the price for what it may cost on validation customers, and refitted to those it is compared on."""

    validation: Network
    target: Network


def prices(
    setting: Setting, validation: Cohort, target: Cohort, network: Network, limit: float, seed: int
) -> tuple[float, float]:
    """The price at which it costs `limit`, a share of revenue, on validation customers; and the one at which it is
    foreseen to cost on the target's what it would have been foreseen to cost on those.

    (Those who accept stay longer than features tell, so a year costs more than foreseen: 2 % on validation customers.)
    """
    there = _within(network, lambda of: on_validation(setting, validation, Learned(of), seed)[1], limit)
    foreseen = foreseen_cost(setting, validation, Learned(there), seed)
    here = _within(network, lambda of: foreseen_cost(setting, target, Learned(of), seed), foreseen)
    return there.price, here.price


def refit(
    setting: Setting, target: Cohort, fitted: Fitted, name: str, found: Mapping[str, float], seed: int
) -> dict[str, float]:
    """A baseline's setting with its one scalar refitted to the target's features: for the most NRR foreseen there."""
    simulator = setting.simulator(target, latents=False)
    tuned = baselines.refit(simulator, fitted, name, found, PRICED_YEARS, seed + PRICED, setting.mode)
    return dict(tuned.best)


def _within(network: Network, cost: Callable[[Network], float], limit: float) -> Network:
    """At the lowest price at which it costs `limit`; where even its highest costs more, that one: then the wallet
    alone holds it."""
    highest = network.at(network.prices[1])
    return highest if cost(highest) > limit else reprice(network, cost, limit, PRICE_ROUNDS)[0]


def by_features(setting: Setting, validation: Cohort, target: Cohort, limit: float, seed: int) -> Policy:
    """The DP that knows what features tell, at its own price, found as in `prices`."""

    def of(customers: Cohort) -> Callable[[float], Policy]:
        column = setting.simulator(customers, latents=False).observed.index("contacts_1_months_ago")
        means = parameters(customers, setting.world, setting.offers, None)
        return lambda price: bound.FeaturePolicy.at(
            customers, means, setting.world, setting.offers, setting.cap, price, column
        )

    there, here = of(validation), of(target)
    at = bound.price_of(lambda price: on_validation(setting, validation, there(price), seed)[1], limit, PRICE_ROUNDS)
    foreseen = foreseen_cost(setting, validation, there(at), seed)
    return here(bound.price_of(lambda price: foreseen_cost(setting, target, here(price), seed), foreseen, PRICE_ROUNDS))


def play(setting: Setting, simulator: Simulator, years: int, seed: int, policies: tuple[Policy, ...]) -> Returns:
    """The same years for everybody, with mask and wallet, and fewer of them without."""
    held = [setting.play(simulator, policy, years, seed) for policy in policies]
    free = [setting.play(simulator, policy, max(1, years // 4), seed, free=True) for policy in policies]
    return returns(simulator.budget, held, free)


def _play_features(
    setting: Setting, simulator: Simulator, years: int, seed: int, validation: Cohort, limit: float
) -> Returns:
    policy = by_features(setting, validation, simulator.cohort, limit, seed)
    return play(setting, simulator, years, seed, (policy,))


def clairvoyant(setting: Setting, simulator: Simulator, years: int, seed: int, at_risk_from: float) -> Returns:
    """The dual bound over the very years that `play` has; for customers at risk a bound of its own, with the whole
    budget for them alone."""
    customers, budget = simulator.cohort, simulator.budget
    risky = replace(customers, opted_out=customers.opted_out | (customers.risk[:, 0] < at_risk_from))

    def solve(cohort: Cohort, year: int, price: float) -> bound.Solution:
        world = np.random.default_rng([seed, 0, year]).spawn(2)[0]  # as baselines.compete and simulator.play do
        drawn = parameters(cohort, setting.world, setting.offers, world.spawn(4)[0])
        return bound.solve(cohort, drawn, setting.world, setting.offers, setting.cap, price)

    def line(cohort: Cohort) -> tuple[Floats, Floats, float]:
        # One price for all years, found on the first: any price bounds.
        price = bound.price_of(lambda at: float(solve(cohort, 0, at).cost.sum()), budget, PRICE_ROUNDS)
        found = [solve(cohort, year, price) for year in range(years)]
        net = np.mean([one.bound(cohort, budget) for one in found], axis=0)
        return net, np.mean([one.cost for one in found], axis=0), price

    net, cost, price = line(customers)
    return Returns(net[None], cost[None], line(risky)[0][None], price, {})


def evaluate(
    config: DecisionConfig,
    setting: Setting,
    customers: Customers,
    rivals: Rivals,
    workspace: Workspace,
    keep: Keep,
) -> Metrics:
    """Writes comparison, worlds, budgets, groups and off_policy (JSON) and their evidence; returns the metrics."""
    asked, seed, out = config.evaluation, workspace.seed + EVALUATED, workspace.out
    training, target = customers.training, customers.target
    simulator = setting.simulator(target)
    shared = (setting, simulator, asked.years, seed)
    found = {NO_CONTACT: _kept_returns(keep, NO_CONTACT, play, *shared, (Nobody(),))}
    for name, policy in rivals.baselines.items():
        found[name] = _kept_returns(keep, name, play, *shared, (policy,))
    found[PPO] = _kept_returns(keep, PPO, play, *shared, tuple(Learned(of.target) for of in rivals.learned))
    found[DP] = _kept_returns(keep, DP, _play_features, *shared, customers.validation, rivals.limit)
    found[BOUND] = _kept_returns(keep, BOUND, clairvoyant, *shared, asked.at_risk_from)

    rng = np.random.default_rng([workspace.seed, 4])
    cap = setting.cap.max_contacts
    table = Comparison(target, setting.budget, cap, asked.at_risk_from, found, asked.bootstrap, rng)
    gains = _gains(table, rivals.best)
    network = rivals.learned[rivals.chosen].target
    out.json(
        "comparison.json", _about(config, table, rivals) | {"rows": [table.row(of) for of in found], "gains": gains}
    )
    out.json("groups.json", _groups(table, target, (rivals.best, PPO)))
    out.parquet("evidence/returns.parquet", _evidence(target, found))
    out.parquet("evidence/years.parquet", _years(found))
    out.parquet("evidence/probabilities.parquet", _decisions(setting, simulator, network, seed))

    policies = {NO_CONTACT: Nobody(), **rivals.baselines, PPO: Learned(network)}
    worlds = []
    for name, change in {"as_assumed": dict[Any, float](), **asked.worlds}.items():
        rows = kept_json(keep, f"worlds/{name}", _world, config, setting, training, target, change, policies, seed)
        worlds.append({"world": name, "rows": rows})
    out.json("worlds.json", worlds)
    budgets = []
    for share in asked.budgets:
        other = replace(setting, budget=share)
        name = f"budgets/{share:g}"
        budgets += kept_json(keep, name, _budget, config, other, customers, rivals, workspace.seed)
    out.json("budgets.json", budgets)
    looked = kept_json(keep, "off_policy", _looks_back, config, setting, target, rivals, seed)
    logs = [{"log": np.full(len(target), name, object), **of.pop("log")} for name, of in looked.items()]
    out.parquet("evidence/logs.parquet", _stacked([{key: np.asarray(of) for key, of in log.items()} for log in logs]))
    out.json("off_policy.json", looked)
    return _metrics(table, gains)


def _kept_returns(keep: Keep, name: str, make: Callable[..., Returns], *arguments: Any) -> Returns:
    """What `make` finds, or found before an interruption."""
    data = keep(f"returns/{name}.npz", lambda: _pack(make(*arguments)))
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        content = dict(arrays)
    played = {of.removeprefix(PLAYED): values for of, values in content.items() if of.startswith(PLAYED)}
    return Returns(content["net"], content["cost"], content["net_at_risk"], float(content["price"]), played)


def _pack(found: Returns) -> bytes:
    buffer = io.BytesIO()
    played = {PLAYED + name: values for name, values in found.played.items()}
    line = {"net": found.net, "cost": found.cost, "net_at_risk": found.net_at_risk, "price": np.array(found.price)}
    np.savez(buffer, allow_pickle=False, **line, **played)
    return buffer.getvalue()


def kept_json(keep: Keep, name: str, make: Callable[..., Any], *arguments: Any) -> Any:
    """What `make` finds, or found before an interruption."""
    return json.loads(keep(f"{name}.json", lambda: json.dumps(make(*arguments)).encode()))


def _about(config: DecisionConfig, table: Comparison, rivals: Rivals) -> dict[str, Any]:
    return {
        "part": config.evaluation.part,
        "customers": len(table.at_risk),
        "at_risk": int(table.at_risk.sum()),
        "years": config.evaluation.years,
        "seeds": len(rivals.learned),
        "budget": table.budget,
        "best_baseline": rivals.best,
        "deployed_seed": rivals.chosen,
        "bound_price": table.policies[BOUND].price,
        # At the end of its range a price could not be found, and the wallet alone holds the policy.
        "prices": [{"price": of.target.price, "range": list(of.target.prices)} for of in rivals.learned],
    }


def _gains(table: Comparison, best: str) -> dict[str, Metric]:
    # At the price of the full budget the dual bounds every other cost, too.
    at_cost = table.nrr[BOUND] - table.policies[BOUND].price * (table.budget - table.cost[PPO])
    return {
        "nrr_gain": table.gain(table.nrr, PPO, best),
        "nrr_gain_at_risk": table.gain({name: table.nrr_at_risk(name) for name in (PPO, best)}, PPO, best),
        "lift_gain": table.gain(table.lift, PPO, best),
        "offer_cost_change": table.gain(table.cost, PPO, best),
        "share_of_dp": table.share_of(PPO, DP),
        "share_of_bound": metric(table.lift[PPO] / np.maximum(at_cost - table.nrr[NO_CONTACT], 1e-12)),
        "upper_bound": table.gain(table.nrr, BOUND, best),
        "upper_bound_at_risk": table.gain({name: table.nrr_at_risk(name) for name in (BOUND, best)}, BOUND, best),
        "dp_lift_gain": table.gain(table.lift, DP, best),
    }


def _metrics(table: Comparison, gains: Mapping[str, Metric]) -> Metrics:
    row = table.row(PPO)
    lows = {f"{name}_low": {"value": gains[name]["ci"][0]} for name in ("nrr_gain_at_risk", "lift_gain")}
    return {
        **gains,
        **lows,
        **{
            name: row[name]
            for name in ("nrr", "lift", "nrr_at_risk", "exit_nrr", "offer_cost", "attempted_overspend", "refused")
        },
        "violations_executed": row["executed_violations"],
        "over_cap": row["over_cap"],
    }


def _world(
    config: DecisionConfig,
    setting: Setting,
    training: Cohort,
    target: Cohort,
    change: Mapping[Any, float],
    policies: Mapping[str, Policy],
    seed: int,
) -> list[dict[str, Any]]:
    """Rows of one changed world; nothing is trained, tuned or priced again, and the wallet believes what it did."""
    customers, world = changed(setting, config.assumptions, training, target, change)
    simulator = setting.simulator(customers, world=world)
    years, rows, base = max(1, config.evaluation.years // 2), [], 0.0
    for name, policy in policies.items():
        played = setting.play(simulator, policy, years, seed)
        net, cost = (float(np.mean([getattr(year, of).sum() for year in played])) for of in ("net", "cost"))
        nrr = net / customers.revenue
        base = nrr if name == NO_CONTACT else base
        rows.append(
            {
                "policy": name,
                "nrr": nrr,
                "lift": nrr - base,
                "offer_cost": cost / customers.revenue,
                "peak": max(year.peak for year in played) / simulator.budget,
                "over_cap": sum(year.most_contacts > setting.cap.max_contacts for year in played) / years,
                "fell_back": sum(year.mode == "worst_case" for year in played) / years,
            }
        )
    return rows


def _budget(
    config: DecisionConfig, setting: Setting, customers: Customers, rivals: Rivals, seed: int
) -> list[dict[str, Any]]:
    """Rows of one budget: baselines searched for it with the same effort, a policy trained for it, and the bound. At
    the experiment's own budget they are those of the comparison."""
    target, search, validation = customers.target, config.search, customers.validation
    policies = dict(rivals.baselines)
    learned = rivals.learned[rivals.chosen].target
    if setting.budget != config.budget:
        simulator = setting.simulator(customers.training)
        effort = (search.evaluations, search.years, seed, setting.mode)
        tuned = {name: baselines.search(simulator, rivals.fitted, name, *effort) for name in policies}
        found = {name: refit(setting, target, rivals.fitted, name, of.best, seed) for name, of in tuned.items()}
        policies = {name: rivals.fitted.policy(name, of) for name, of in found.items()}
        best = max(tuned, key=lambda name: tuned[name].best["nrr"])
        limit = config.evaluation.cost * on_validation(setting, validation, tuned[best].policy, seed)[1]
        network = rivals.by_budget[setting.budget]
        learned = network.at(prices(setting, validation, target, network, limit, seed)[1])
    policies[PPO] = Learned(learned)
    simulator, years = setting.simulator(target), max(1, config.evaluation.years // 2)
    base = _simulated(setting, simulator, Nobody(), years, seed + EVALUATED)[0]
    rows: list[dict[str, Any]] = []
    for name, policy in policies.items():
        nrr, cost = _simulated(setting, simulator, policy, years, seed + EVALUATED)
        rows.append({"budget": setting.budget, "policy": name, "nrr": nrr, "lift": nrr - base, "offer_cost": cost})
    line = clairvoyant(setting, simulator, years, seed + EVALUATED, config.evaluation.at_risk_from)
    nrr, cost = float(line.net.sum()) / target.revenue, float(line.cost.sum()) / target.revenue
    rows.append({"budget": setting.budget, "policy": BOUND, "nrr": nrr, "lift": nrr - base, "offer_cost": cost})
    return rows


def _groups(table: Comparison, customers: Cohort, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Offers a customer and year, and lift, of each value of the protected columns."""
    found = []
    for (column, value), who in customers.groups.items():
        rows = []
        for name in names:
            contacts = table.policies[name].played["contacts"]
            offers = float(contacts[:, who].mean()) if who.any() else 0.0
            rows.append({"policy": name, "offer_share": offers, "lift": table.lift_of(name, who)})
        found.append({"column": column, "value": value, "customers": int(who.sum()), "rows": rows})
    return found


def _looks_back(
    config: DecisionConfig, setting: Setting, customers: Cohort, rivals: Rivals, seed: int
) -> dict[str, Any]:
    share = config.evaluation.off_policy.exploration
    return {
        "exploring": _look_back(config, setting, customers, rivals, share, seed),
        "deterministic": _look_back(config, setting, customers, rivals, 0.0, seed),
    }


def _look_back(
    config: DecisionConfig, setting: Setting, customers: Cohort, rivals: Rivals, exploration: float, seed: int
) -> dict[str, Any]:
    """What a log of first decisions tells of the learned policy, beside what is true.

    One decision for each customer, made by the uplift baseline, of which a share of `exploration` is uniform over what
    is allowed; nothing is offered after it. The reward is what she paid in the year, of 12 x her charge.
    """
    rng = np.random.default_rng([seed, 5])
    simulator = setting.simulator(customers)
    observation, mask = simulator.reset(rng.spawn(1)[0]), simulator.mask()
    everybody = np.arange(len(customers))

    def certain(policy: Policy) -> Floats:
        found = np.zeros(mask.shape)
        found[everybody, policy.start(rng)(observation, mask)] = 1.0
        return found

    wanted, usual = certain(Learned(rivals.learned[rivals.chosen].target)), certain(rivals.baselines["uplift_tree"])
    behaviour = exploration * mask / mask.sum(axis=1, keepdims=True) + (1 - exploration) * usual

    def drawn(distribution: Floats) -> Actions:
        below: Floats = distribution.cumsum(axis=1)[:, :-1]
        return np.asarray((rng.random(len(everybody))[:, None] >= below).sum(axis=1))

    def reward(actions: Actions, year: int, sampled: bool) -> Floats:
        world = Simulator(customers, setting.world, setting.offers, setting.cap, simulator.budget, sampled=sampled)
        world.reset(np.random.default_rng([seed, 6, year]))
        total = np.zeros(len(customers))
        for month in range(world.months):
            step = world.step(actions if month == 0 else np.zeros_like(actions))
            total += step.weight * step.reward
        return np.asarray(total / (world.months * customers.charge))

    actions = drawn(behaviour)
    columns = [simulator.observed.index(name) for name in ("risk", "acceptance")]
    log = off_policy.Log(
        context=np.column_stack((observation[:, columns], customers.charge)),
        action=actions,
        reward=reward(actions, 0, sampled=True),
        pscore=behaviour[everybody, actions],
        customer=everybody,
        behaviour=behaviour,
    )
    limits = config.evaluation.off_policy
    found = off_policy.compare(
        log,
        wanted,
        off_policy.Thresholds(
            limits.min_effective, limits.max_unsupported, limits.max_heaviest, limits.max_weight_errors
        ),
    )
    true = [
        float((reward(wanted.argmax(axis=1), year, False) - reward(drawn(behaviour), year, False)).mean())
        for year in range(1, 1 + config.evaluation.years)
    ]
    return {
        "log": {
            "customer": [str(name) for name in customers.ids],
            "action": log.action.tolist(),
            "pscore": log.pscore.tolist(),
            "reward": log.reward.tolist(),
            "wanted": wanted.argmax(axis=1).tolist(),
        },
        "verdict": found.verdict,
        "gain": {"value": found.gain, "ci": list(found.ci)},
        "true_gain": float(np.mean(true)),
        "reasons": list(found.reasons),
        "estimates": {name: {"value": one.value, "ci": list(one.ci)} for name, one in found.estimates.items()},
        "effective": found.overlap.effective,
    }


@dataclass(frozen=True)
class _Recorded:
    """A policy that writes down what it was asked."""

    network: Network
    rows: list[tuple[Floats, Bools, Actions]]

    def start(self, rng: np.random.Generator) -> Callable[[Singles, Bools], Actions]:
        def decide(observation: Singles, mask: Bools) -> Actions:
            chosen = self.network.choose(observation, mask)
            self.rows.append((self.network.probabilities(observation, mask), mask, chosen))
            return chosen

        return decide


def _decisions(setting: Setting, simulator: Simulator, network: Network, seed: int) -> dict[str, NDArray[Any]]:
    """Every decision of the policy in the first of the compared years: probabilities, what was allowed and chosen."""
    recorded = _Recorded(network, [])
    setting.play(simulator, recorded, 1, seed)
    n = simulator.customers
    found: dict[str, NDArray[Any]] = {
        "customer": np.tile(np.asarray(simulator.cohort.ids), len(recorded.rows)),
        "month": np.repeat(np.arange(len(recorded.rows)), n),
        "chosen": np.concatenate([chosen for _, _, chosen in recorded.rows]),
        "allowed": np.concatenate([mask[:, 1:].any(axis=1) for _, mask, _ in recorded.rows]),
    }
    probabilities = np.concatenate([rows for rows, _, _ in recorded.rows])
    return found | {f"p_{name}": probabilities[:, at] for at, name in enumerate(simulator.actions)}


def _evidence(customers: Cohort, found: Mapping[str, Returns]) -> dict[str, NDArray[Any]]:
    """One row for each policy, seed and customer: what the comparison's figures are sums of."""

    def row(name: str, of: Returns, at: int) -> dict[str, NDArray[Any]]:
        found: dict[str, NDArray[Any]] = {
            "policy": np.full(len(customers), name, object),
            "seed": np.full(len(customers), at),
            "customer": np.asarray(customers.ids),
            "charge": customers.charge,
            "risk": customers.risk[:, 0],
            "net": of.net[at],
            "net_at_risk": of.net_at_risk[at],
            "cost": of.cost[at],
        }
        unknown = np.full(len(customers), np.nan)
        found |= {figure: of.played[figure][at] if of.played else unknown for figure in ("run_rate", "contacts")}
        return found | {"attempted": of.played["attempted"][at].mean(axis=0) if of.played else unknown}

    return _stacked([row(name, of, at) for name, of in found.items() for at in range(len(of.net))])


def _years(found: Mapping[str, Returns]) -> dict[str, NDArray[Any]]:
    """One row for each policy, seed and year: what it attempted and what wallet and mask made of it.

    `attempted` (currency units), `wanted` and `forbidden` are of the years that were played without them, NaN beyond.
    """
    rows = []
    for name, of in found.items():
        if not of.played:
            continue
        seeds, years = of.played["peak"].shape
        for at in range(seeds):
            row = {"policy": np.full(years, name, object), "seed": np.full(years, at), "year": np.arange(years)}
            whole = ("peak", "most_contacts", "made", "refused", "fell_back")
            row |= {figure: of.played[figure][at] for figure in whole}
            free = {figure: of.played[figure][at] for figure in ("wanted", "forbidden")}
            free["attempted"] = of.played["attempted"][at].sum(axis=1)
            row |= {figure: np.append(values, np.full(years - len(values), np.nan)) for figure, values in free.items()}
            rows.append(row)
    return _stacked(rows)


def _stacked(rows: list[dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
