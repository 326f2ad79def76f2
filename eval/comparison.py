"""The decision as people read it: the learned policy beside every baseline and both limits.

    python -m eval.comparison --experiment exp_001_mvp [--short] [--json]

Everything comes from the artifact of `decision` that completed last, each of its files checked against its hash; the
criteria are those of the YAML as it stands now. Shares are printed in percent; nothing is computed but ratios of rows.

Exit code: 0 printed, whatever the verdicts (eval.verdict decides by them); 2 bad input, or nothing to print yet.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise

from pydantic import BaseModel, ConfigDict
from rich import box
from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from engine.config import EXPERIMENT_HELP, Resolved, argument, check_lock, experiment_path, load, validate
from engine.criteria import Criterion, Verdict, check_criteria
from engine.errors import RetainError
from engine.output import make_decoration
from eval.console import make_console
from eval.decision import (
    BOUND,
    DECISION,
    DP,
    LEARNED,
    NOBODY,
    BudgetRow,
    Comparison,
    Measure,
    PolicyRow,
    Report,
    latest,
)

WIDTH = 100  # columns that every table here is made for
NAMES = {
    NOBODY: "no contact",
    "threshold": "threshold",
    "thompson_sampling": "Thompson sampling",
    "uplift_tree": "two-model uplift",
    LEARNED: "Lagrangian PPO",
    DP: "DP on features",
    BOUND: "upper bound",
}
# What a gain is called, and the figure of a row that it is the relative change of.
GAINS = {
    "nrr_gain": ("NRR, whole cohort", "nrr"),
    "nrr_gain_at_risk": ("NRR, customers at risk", "nrr_at_risk"),
    "lift_gain": ("lift over no contact", "lift"),
    "offer_cost_change": ("offer cost", "offer_cost"),
}
# Metrics of the policy alone that a criterion may be about; lower ends are those of the gains' intervals.
ALONE = {
    "nrr_gain_at_risk_low": "NRR at risk, lower end",
    "lift_gain_low": "lift, lower end",
    "attempted_overspend": "attempted overspend",
    "violations_executed": "executed violations",
    "over_cap": "over the cap",
}
SHARES = {"share_of_dp": "lift, of the DP's", "share_of_bound": "lift, of the bound's"}  # at PPO's cost
CURVES = {
    "nrr": "NRR",
    "offer_cost": "offer cost",
    "attempted_overspend": "attempted overspend",
    "validation": "NRR, validation",
    "multiplier_offer_cost": "multiplier of cost",
    "multiplier_contacts": "multiplier of contacts",
    "entropy": "entropy",
    "approx_kl": "approximate KL",
}
BARS = " ▁▂▃▄▅▆▇█"


class _Experiment(BaseModel):
    """The part of an experiment that is read here; the whole is checked before a run."""

    model_config = ConfigDict(strict=True)

    criteria: dict[str, dict[str, Criterion]]


def criteria_of(resolved: Resolved) -> Mapping[str, Criterion]:
    """The stage's criteria. Raises ConfigError."""
    return validate(resolved, _Experiment).criteria.get(DECISION, {})


def short(report: Report) -> Iterator[RenderableType]:
    """The policies alone: the end of `make run`."""
    yield heading(report)
    yield returns_table(report)
    yield promises_table(report.comparison)


def whole(report: Report, criteria: Mapping[str, Criterion]) -> Iterator[RenderableType]:
    """Everything that the artifact tells, most important first."""
    yield from short(report)
    yield gains_table(report, criteria)
    if report.worlds:
        yield worlds_table(report)
    if report.budgets:
        yield budgets_table(report)
    if report.groups:
        yield groups_table(report)
    if report.tuning:
        yield tuning_table(report)
    yield from off_policy_lines(report)
    if any(report.curves.values()):
        yield curves_table(report)


def heading(report: Report) -> Text:
    comparison, terms = report.comparison, report.terms
    customers = (
        f"{comparison.customers:,} customers of the {comparison.part} part, {comparison.at_risk:,} of them at risk"
    )
    return Text.assemble(
        (f"Decision of {report.experiment}: {customers}\n", "bold"),
        f"{comparison.seeds} training{'s' * (comparison.seeds > 1)} x {comparison.years} simulated years, the same for "
        f"every policy; budget {100 * comparison.budget:g} % of {terms.budget.months} months' revenue "
        f"({terms.budget.amount:,.0f} {terms.offers.currency} for the whole table), wallet {terms.wallet}. "
        "In parentheses 95 % intervals; * is the best baseline.",
    )


def returns_table(report: Report) -> Table:
    comparison = report.comparison
    table = _table(f"What it brings, % of {report.terms.budget.months} x the starting monthly revenue", "policy")
    for name in ("NRR", "lift", "NRR at risk", "exit NRR"):
        table.add_column(name, justify="right")
    for row in comparison.rows:
        measures = (row.nrr, row.lift, row.nrr_at_risk, row.exit_nrr)
        table.add_row(_policy(row.policy, comparison), *map(_measure, measures), style=_style(row.policy))
    table.caption = "The bound's NRR at risk is one of its own: the whole budget for customers at risk."
    return table


def promises_table(comparison: Comparison) -> Table:
    table = _table("What it costs, and whether promises are kept, %", "policy")
    for name in ("offer\ncost", "attempted\noverspend", "refused", "executed\nviolations", "over\nthe cap"):
        table.add_column(name, justify="right")
    for row in comparison.rows:
        table.add_row(
            _policy(row.policy, comparison),
            _measure(row.offer_cost),
            _measure(row.attempted_overspend),
            _percent(row.refused.value) if row.refused else "-",
            _measure(row.executed_violations),
            _measure(row.over_cap),
            style=_style(row.policy),
        )
    table.caption = (
        "Overspend: beyond the budget if no wallet stood in the way, of the budget. Refused: of the offers wanted and "
        "allowed, those that the wallet didn't admit. Violations: years in which the budget was passed all the same; "
        "over the cap: years in which any customer was contacted more often than it allows."
    )
    return table


def gains_table(report: Report, criteria: Mapping[str, Criterion]) -> Table:
    """Every criterion with its verdict. The playbook's "+3 % NRR" twice, whole cohort first; beside each gain, what
    the DP and the bound would gain."""
    comparison = report.comparison
    metrics = {name: measure.model_dump() for name, measure in report.metrics.items()}
    verdicts = {verdict.metric: verdict for verdict in check_criteria(DECISION, metrics, criteria)}
    best = comparison.by_policy[comparison.best_baseline]
    table = _table(f"Against the best baseline, {NAMES.get(best.policy, best.policy)}, and the criteria, %", "")
    for name in ("PPO", "the DP", "the bound", "wanted"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for name, (words, figure) in GAINS.items():
        gain = comparison.gains.get(name)
        limits = (_relative(comparison.by_policy[policy], best, figure) for policy in (DP, BOUND))
        table.add_row(words, _measure(gain, signed=True), *map(_signed, limits), *_wanted(verdicts.get(name)))
    for name in criteria:
        if name not in (*GAINS, *SHARES):
            measure = _measure(report.metrics.get(name))
            table.add_row(ALONE.get(name, name), measure, "", "", *_wanted(verdicts.get(name)))
    for name, words in SHARES.items():
        table.add_row(words, _measure(comparison.gains.get(name)), "", "", *_wanted(verdicts.get(name)))
    table.caption = (
        "The DP knows the world, plans with mean parameters, ignores what answers tell and may spend what PPO may: a "
        "policy can pass it. The bound knows everything and has the whole budget, for customers at risk once more for "
        "them alone: no policy passes it. Shares of it are at PPO's cost."
    )
    return table


def worlds_table(report: Report) -> Table:
    """A row for each world: lift of every policy, and of all policies the worst of what is promised."""
    policies = list(dict.fromkeys(row.policy for world in report.worlds for row in world.rows))
    policies = [policy for policy in policies if policy != NOBODY]
    table = _table("If the world is another one: lift, nothing trained or tuned again, %", "world")
    for policy in policies:
        table.add_column(_policy(policy, report.comparison).replace(" ", "\n", 1), justify="right")
    for name in ("PPO's\ncost", "most\ncommitted", "over\ncap", "fell\nback"):
        table.add_column(name, justify="right")
    for world in report.worlds:
        rows = {row.policy: row for row in world.rows}
        lifts = {policy: rows[policy].lift for policy in policies if policy in rows}
        top = max((lift for policy, lift in lifts.items() if policy not in (DP, BOUND)), default=0.0)
        table.add_row(
            world.world.replace("_", " "),
            *(
                Text(_percent(lifts[p]), style="bold" if lifts[p] == top else "") if p in lifts else "-"
                for p in policies
            ),
            _percent(rows[LEARNED].offer_cost) if LEARNED in rows else "-",
            _percent(max((row.peak for row in world.rows), default=0.0), 1),
            _percent(max((row.over_cap for row in world.rows), default=0.0), 1),
            _percent(max((row.fell_back for row in world.rows), default=0.0), 0),
        )
    table.caption = (
        "Bold: the highest lift. The last three are the highest of all policies: committed, of the budget; years with "
        "a customer over the cap; years in which answers drove the wallet to its worst case."
    )
    return table


def budgets_table(report: Report) -> Table:
    """The budget-to-lift curve as bars."""
    table = _table("What a budget buys, %", "budget")
    for name in ("policy", "lift", "", "cost"):
        table.add_column(name, justify="right" if name in ("lift", "cost") else "left", no_wrap=True)
    longest = max((row.lift for row in report.budgets), default=0.0)
    by_budget: dict[float, list[BudgetRow]] = {}
    for row in report.budgets:
        by_budget.setdefault(row.budget, []).append(row)
    for budget, rows in sorted(by_budget.items()):
        for index, row in enumerate(rows):
            table.add_row(
                f"{100 * budget:g}" if index == 0 else "",
                _policy(row.policy, report.comparison),
                _percent(row.lift),
                _bar(row.lift / longest if longest > 0 else 0.0, 40),
                _percent(row.offer_cost),
                style=_style(row.policy),
                end_section=index == len(rows) - 1,
            )
    table.caption = "For each budget the baselines are tuned with the same effort, and a policy is trained."
    return table


def groups_table(report: Report) -> Table:
    policies = list(dict.fromkeys(row.policy for group in report.groups for row in group.rows))
    shown = [policy for policy in policies if policy in (report.comparison.best_baseline, LEARNED)] or policies
    table = _table("Protected groups: offers for each customer and year, and lift in %", "group")
    table.add_column("customers", justify="right")
    for policy in shown:
        table.add_column(f"{_policy(policy, report.comparison)}\noffers".replace(" ", "\n", 1), justify="right")
        table.add_column("lift", justify="right")
    for group in report.groups:
        rows = {row.policy: row for row in group.rows}
        cells: list[RenderableType] = []
        for policy in shown:
            row = rows.get(policy)
            cells += [f"{row.offer_share:.2f}", _measure(row.lift)] if row else ["-", "-"]
        table.add_row(f"{group.column} {group.value}", f"{group.customers:,}", *cells)
    table.caption = "No policy sees these columns; the risk model does, since risk differs between groups."
    return table


def tuning_table(report: Report) -> Table:
    table = _table("How the baselines were tuned, on training customers", "baseline")
    table.add_column("evaluations", justify="right")
    table.add_column("setting chosen")
    for name in ("NRR, %", "cost, %"):
        table.add_column(name, justify="right")
    order = list(report.comparison.by_policy)
    for policy, tuned in sorted(report.tuning.items(), key=lambda one: order.index(one[0]) if one[0] in order else 0):
        table.add_row(
            _policy(policy, report.comparison),
            str(len(tuned.evaluations)),
            ", ".join(f"{name} {value:.4g}" for name, value in tuned.setting.items() if name not in ("nrr", "cost")),
            _percent(tuned.nrr),
            _percent(tuned.cost),
        )
    return table


def off_policy_lines(report: Report) -> Iterator[RenderableType]:
    """What a log would have told of the learned policy, and what it truly gains."""
    if not report.off_policy:
        return
    table = _table("What a log of uplift's decisions tells of the learned ones, % of a year's charge", "log")
    for name in ("verdict", "their gain (DR)", "true gain", "effective n"):
        table.add_column(name, justify="left" if name == "verdict" else "right")
    for name, told in report.off_policy.items():
        style = {"go": "green", "no_go": "red"}.get(told.verdict, "yellow")
        gain, true = _measure(told.gain, signed=True), _signed(told.true_gain)
        table.add_row(name, Text(told.verdict, style=style), gain, true, f"{told.effective:,.0f}")
    yield table
    for name, told in report.off_policy.items():
        values = ", ".join(f"{kind.upper()} {_percent(told.estimates[kind].value)}" for kind in sorted(told.estimates))
        lines = [f"{name}: their value by {values}"] if values else []
        lines += [f"{name}: {reason}" for reason in told.reasons]
        for line in lines:
            yield Padding(Text(line, style="dim"), (0, 0, 0, 1))


def curves_table(report: Report) -> Table:
    table = _table("Training, mean over seeds", "")
    table.add_column("")
    for name in ("first", "last"):
        table.add_column(name, justify="right")
    for name, words in CURVES.items():
        if values := report.curves.get(name):
            table.add_row(words, sparkline(values, 50), f"{values[0]:.4g}", f"{values[-1]:.4g}")
    table.caption = "Without a wallet, at the multiplier's own price; curves.parquet in the artifact has every figure."
    return table


def sparkline(values: Sequence[float], width: int) -> str:
    """Values from left to right as bars from their lowest to their highest; more than `width` are averaged."""
    width = min(width, len(values))
    ends = [round(index * len(values) / width) for index in range(width + 1)]
    means = [sum(values[start:end]) / (end - start) for start, end in pairwise(ends)]
    low, high = min(means), max(means)
    steps = len(BARS) - 2
    return "".join(BARS[1 + (round((v - low) / (high - low) * steps) if high > low else 0)] for v in means)


def _table(title: str, first: str) -> Table:
    table = Table(title=f"\n{title}", title_justify="left", title_style="bold", caption_justify="left")
    table.box, table.show_edge, table.pad_edge, table.padding = box.SIMPLE_HEAD, False, False, (0, 1, 0, 0)
    table.add_column(first, no_wrap=True)
    return table


def _policy(name: str, comparison: Comparison) -> str:
    return NAMES.get(name, name) + (" *" if name == comparison.best_baseline else "")


def _style(policy: str) -> str:
    return "bold" if policy == LEARNED else "dim" if policy in (NOBODY, DP, BOUND) else ""


def _percent(value: float, digits: int = 2) -> str:
    text = f"{100 * value:.{digits}f}"
    return "0" if float(text) == 0 else text


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:+.2f}"


def _measure(measure: Measure | None, signed: bool = False) -> str:
    """In percent, with its interval where that is more than a point."""
    if measure is None:
        return "-"
    digits = 1 if abs(measure.value) >= 0.1 else 2  # three digits of an end are as many as it is known to
    value = _signed(measure.value) if signed else _percent(measure.value)
    return _interval(value, measure, lambda end: _percent(end, digits))


def _interval(value: str, measure: Measure, end: Callable[[float], str]) -> str:
    if measure.ci is None or measure.ci == (measure.value, measure.value):
        return value
    return f"{value} ({end(measure.ci[0])}..{end(measure.ci[1])})"


def _relative(row: PolicyRow, best: PolicyRow, figure: str) -> float | None:
    one, other = getattr(row, figure), getattr(best, figure)
    return one.value / other.value - 1 if one and other and other.value else None


def _wanted(verdict: Verdict | None) -> tuple[str, Text]:
    if verdict is None:
        return "", Text()
    wanted = f"{verdict.op} {_percent(verdict.limit)}"
    if verdict.passed:
        return wanted, Text("met" if verdict.gating else "met (shown, not gating)", style="green")
    return wanted, Text("MISSED", style="bold red") if verdict.gating else Text("not met (not gating)", style="yellow")


def _bar(share: float, width: int) -> str:
    """A bar of a share of `width`, to an eighth of a column; nothing below 0."""
    eighths = round(8 * width * max(0.0, share))
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m eval.comparison", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--experiment", required=True, help=EXPERIMENT_HELP)
    parser.add_argument("--short", action="store_true", help="the policies alone, as at the end of `make run`")
    parser.add_argument("--json", action="store_true", help="print what the artifact holds instead of tables")
    options = parser.parse_args(arguments)
    try:
        resolved = load(experiment_path(options.experiment))
        check_lock(resolved)
        criteria = criteria_of(resolved)
        report = latest(resolved.tag, argument(resolved.path))
    except RetainError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if options.json:
        print(json.dumps({"experiment": report.experiment, **report.raw}, indent=2, sort_keys=True, allow_nan=False))
        return 0
    # Where there is no terminal, the tables have the width that they are made for.
    console = make_console(WIDTH)
    for part in short(report) if options.short else whole(report, criteria):
        console.print(part)
    return 0


if __name__ == "__main__":
    make_decoration()
    raise SystemExit(main(sys.argv[1:]))
