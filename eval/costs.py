"""The playbook's cost table: component, estimated, actual, status, left.

    python -m eval.costs --experiment exp_001_mvp

Estimates and the stages of each component come from the experiment, actual money from the ledger of its scope.
Actual means metered: run time by our own clock at the stated price of the machine. It is never what was billed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict
from rich.table import Table

from engine.config import EXPERIMENT_HELP, check_lock, experiment_path, load, validate
from engine.errors import RetainError
from engine.ledger import Entry, entries
from engine.output import make_decoration
from engine.store import open_store, store_url
from eval.console import make_console


class _Component(BaseModel):
    model_config = ConfigDict(strict=True)

    name: str
    estimate_usd: float
    stages: tuple[str, ...]


class _Costs(BaseModel):
    model_config = ConfigDict(strict=True)

    budget_usd: float
    scope: str
    components: tuple[_Component, ...]


class _Experiment(BaseModel):
    """The part of an experiment that is read here; the whole is checked before a run."""

    model_config = ConfigDict(strict=True)

    costs: _Costs


@dataclass(frozen=True)
class Line:
    """One row of the table, in dollars; `estimated_ends` counts attempts whose end nobody saw."""

    name: str
    estimate: float
    metered: float
    reserved: float
    attempts: int
    open: int
    estimated_ends: int

    @property
    def left(self) -> float:
        return self.estimate - self.metered - self.reserved

    @property
    def status(self) -> str:
        if self.open:
            return f"Running, ${self.reserved:.4f} reserved"
        if not self.attempts:
            return "Pending"
        return "Under estimate" if self.metered <= self.estimate else "OVER ESTIMATE"


def lines(components: Sequence[_Component], ledger: Sequence[Entry]) -> list[Line]:
    """A line for each component, and one for stages that no component names, where there are such."""
    named = {stage for component in components for stage in component.stages}
    table = [_line(c.name, c.estimate_usd, [e for e in ledger if e.stage in c.stages]) for c in components]
    others = [entry for entry in ledger if entry.stage not in named]
    return [*table, _line("Stages of no component", 0.0, others)] if others else table


def total(table: Sequence[Line]) -> Line:
    return Line(
        name="Total",
        estimate=sum(line.estimate for line in table),
        metered=sum(line.metered for line in table),
        reserved=sum(line.reserved for line in table),
        attempts=sum(line.attempts for line in table),
        open=sum(line.open for line in table),
        estimated_ends=sum(line.estimated_ends for line in table),
    )


def _line(name: str, estimate: float, ledger: Sequence[Entry]) -> Line:
    running = [entry for entry in ledger if entry.state == "open"]
    return Line(
        name=name,
        estimate=estimate,
        metered=sum(entry.metered_usd for entry in ledger),
        reserved=sum(entry.reserved_usd for entry in running),
        attempts=len(ledger),
        open=len(running),
        estimated_ends=sum(entry.estimated for entry in ledger),
    )


def _dollars(amount: float) -> str:
    return f"-${-amount:.2f}" if amount < 0 else f"${amount:.2f}"


def to_table(table: Sequence[Line], title: str) -> Table:
    result = Table(title=title, title_justify="left", show_footer=True)
    whole = total(table)
    result.add_column("Component", "Total", no_wrap=True)
    result.add_column("Estimated", f"${whole.estimate:.2f}", justify="right", no_wrap=True)
    result.add_column("Actual", f"${whole.metered:.4f}", justify="right", no_wrap=True)
    result.add_column("Status", whole.status, no_wrap=True)
    result.add_column("Left", _dollars(whole.left), justify="right", no_wrap=True)
    for line in table:
        actual = f"${line.metered:.4f}" if line.attempts else "-"
        result.add_row(line.name, f"${line.estimate:.2f}", actual, line.status, _dollars(line.left))
    return result


def budget_line(costs: _Costs, whole: Line) -> str:
    left = costs.budget_usd - whole.metered - whole.reserved
    text = (
        f"Budget ${costs.budget_usd:.2f} (scope {costs.scope}): metered ${whole.metered:.4f} over {whole.attempts} "
        f"attempts, reserved ${whole.reserved:.4f} by {whole.open} still open, left ${left:.4f}."
    )
    if whole.estimated_ends:
        text += f" The end of {whole.estimated_ends} was not seen; their time runs to the last sign of life."
    return text


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m eval.costs", description="Estimated and metered dollars.")
    parser.add_argument("--experiment", required=True, help=EXPERIMENT_HELP)
    options = parser.parse_args(arguments)
    try:
        resolved = load(experiment_path(options.experiment))
        check_lock(resolved)
        costs = validate(resolved, _Experiment).costs
        table = lines(costs.components, entries(open_store(store_url()), costs.scope))
    except RetainError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    console = make_console()
    console.print(to_table(table, f"Costs of {resolved.tag}"))
    console.print(budget_line(costs, total(table)))
    console.print("Metered from run time and stated prices, never billed.")
    return 0


if __name__ == "__main__":
    make_decoration()
    raise SystemExit(main(sys.argv[1:]))
