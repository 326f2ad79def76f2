"""The playbook's cost table: component, estimated, actual, status, left; and what preemptions cost and saved.

    python -m eval.costs --experiment exp_001_mvp

Estimates and the stages of each component come from the experiment, actual money from the ledger of its scope.
Actual means metered: run time by our own clock at the stated price of the machine. It is never what was billed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from pydantic import BaseModel, ConfigDict
from rich.table import Table

from engine import ledger, records
from engine.config import EXPERIMENT_HELP, check_lock, experiment_path, load, validate
from engine.errors import RetainError
from engine.ledger import MICRO, Entry, Standing
from engine.output import make_decoration
from engine.prices import Prices, load_prices
from engine.store import Store, open_store, store_url
from eval.console import make_console

NOTES = (
    "Metered from run time and stated prices, never billed.",
    "Repeated: seconds that a preempted attempt worked beyond the first step that a later attempt reports; an upper "
    "bound, all of its time where it reported no steps.",
)


class ComponentLike(Protocol):
    """A component of the costs, as the experiment's own model or the one here has it."""

    @property
    def name(self) -> str: ...
    @property
    def estimate_usd(self) -> float: ...
    @property
    def stages(self) -> tuple[str, ...]: ...


class _Component(BaseModel):
    model_config = ConfigDict(strict=True)

    name: str
    estimate_usd: float
    stages: tuple[str, ...]


class _Costs(BaseModel):
    model_config = ConfigDict(strict=True)

    budget_usd: float
    scope: str
    region: str
    components: tuple[_Component, ...]


class _Experiment(BaseModel):
    """The part of an experiment that is read here; the whole is checked before a run."""

    model_config = ConfigDict(strict=True)

    costs: _Costs


@dataclass(frozen=True)
class Line:
    """One row of the table, in dollars.

    `estimated_ends` counts attempts whose end nobody saw. `saved`: on-demand machines that nobody takes away, without
    the repeated seconds, less what was metered; None where the price list lacks a machine.
    """

    name: str
    estimate: float
    metered: float
    reserved: float
    attempts: int
    open: int
    estimated_ends: int
    preemptions: int
    repeated_s: float
    saved: float | None

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


@dataclass(frozen=True)
class Steps:
    """An attempt that has ended, as its progress lines tell it: (seconds since its start, step), in order."""

    attempt_id: str
    seconds: float
    preempted: bool
    lines: tuple[tuple[float, int], ...]


@dataclass(frozen=True)
class Spending:
    """What the table is made of: the attempts of a scope, and what is known of them besides.

    `repeated_s`: attempt -> seconds; `on_demand`: machine type -> dollars an hour; `types`: micro-dollars an hour ->
    machine type, for entries that don't name theirs.
    """

    attempts: Sequence[Entry]
    repeated_s: Mapping[str, float] = field(default_factory=dict)
    on_demand: Mapping[str, float] = field(default_factory=dict)
    types: Mapping[int, str] = field(default_factory=dict)


def spending(store: Store, attempts: Sequence[Entry], prices: Prices, region: str) -> Spending:
    """Reads what preempted attempts reported. `region`: whose prices of on-demand machines are compared with."""
    return Spending(
        attempts,
        repeated_s=_repeated(store, attempts),
        on_demand=prices.on_demand(region),
        types={round(price.usd_per_hour * MICRO): price.machine for price in prices.prices},
    )


def repeated_seconds(attempts: Sequence[Steps]) -> dict[str, float]:
    """Attempt -> seconds of its work that a later attempt at the same artifact did again.

    `attempts`: all at one artifact that have ended, in order. A preempted attempt's work counts from the last step that
    lies before the first one that a later attempt reports, up to its end.
    """
    repeated = {}
    for index, attempt in enumerate(attempts):
        later = attempts[index + 1 :]
        if not attempt.preempted or not later:
            continue
        first = next((each.lines[0][1] for each in later if each.lines), None)
        kept = [seconds for seconds, step in attempt.lines if first is not None and step < first]
        repeated[attempt.attempt_id] = max(0.0, attempt.seconds - max(kept, default=0.0))
    return repeated


def _repeated(store: Store, attempts: Sequence[Entry]) -> dict[str, float]:
    artifacts: dict[str, list[Entry]] = defaultdict(list)
    for entry in attempts:
        if entry.state == "settled":
            artifacts[entry.attempt_id.rpartition("/")[0]].append(entry)
    repeated: dict[str, float] = {}
    for those in artifacts.values():
        if any(entry.preempted for entry in those):
            repeated |= repeated_seconds([_steps(store, entry) for entry in those])
    return repeated


def _steps(store: Store, entry: Entry) -> Steps:
    prefix, _, number = entry.attempt_id.rpartition("/")
    lines = []
    stored = None
    with suppress(RetainError):
        stored = store.read(records.key(prefix, int(number), "progress.jsonl"))
    for line in stored[0].splitlines() if stored else ():
        with suppress(ValueError, KeyError, TypeError):  # the last line of an attempt that was killed may be cut short
            content = json.loads(line)
            lines.append((float(content["seconds"]), int(content["step"])))
    return Steps(entry.attempt_id, entry.seconds, entry.preempted, tuple(lines))


def lines(components: Sequence[ComponentLike], spent: Spending) -> list[Line]:
    """A line for each component, and one for stages that no component names, where there are such."""
    named = {stage for component in components for stage in component.stages}
    table = [
        _line(c.name, c.estimate_usd, [e for e in spent.attempts if e.stage in c.stages], spent) for c in components
    ]
    others = [entry for entry in spent.attempts if entry.stage not in named]
    return [*table, _line("Stages of no component", 0.0, others, spent)] if others else table


def total(table: Sequence[Line]) -> Line:
    saved = [line.saved for line in table]
    return Line(
        name="Total",
        estimate=sum(line.estimate for line in table),
        metered=sum(line.metered for line in table),
        reserved=sum(line.reserved for line in table),
        attempts=sum(line.attempts for line in table),
        open=sum(line.open for line in table),
        estimated_ends=sum(line.estimated_ends for line in table),
        preemptions=sum(line.preemptions for line in table),
        repeated_s=sum(line.repeated_s for line in table),
        saved=None if None in saved else sum(each or 0.0 for each in saved),
    )


def _line(name: str, estimate: float, attempts: Sequence[Entry], spent: Spending) -> Line:
    running = [entry for entry in attempts if entry.state == "open"]
    saved = [_saved(entry, spent) for entry in attempts if entry.state == "settled"]
    return Line(
        name=name,
        estimate=estimate,
        metered=sum(entry.metered_usd for entry in attempts),
        reserved=sum(entry.reserved_usd for entry in running),
        attempts=len(attempts),
        open=len(running),
        estimated_ends=sum(entry.estimated for entry in attempts),
        preemptions=sum(entry.preempted for entry in attempts),
        repeated_s=sum(spent.repeated_s.get(entry.attempt_id, 0.0) for entry in attempts),
        saved=None if None in saved else sum(each or 0.0 for each in saved),
    )


def _saved(entry: Entry, spent: Spending) -> float | None:
    machine_type = entry.machine_type or spent.types.get(entry.micro_usd_per_hour, "")
    if machine_type not in spent.on_demand:
        return None
    needed_s = entry.seconds + entry.overhead_s - spent.repeated_s.get(entry.attempt_id, 0.0)
    return spent.on_demand[machine_type] * needed_s / 3600 - entry.metered_usd


def _dollars(amount: float, digits: int = 2) -> str:
    amount = round(amount, digits) + 0.0  # no "-$0.00"
    return f"-${-amount:.{digits}f}" if amount < 0 else f"${amount:.{digits}f}"


def cells(line: Line) -> dict[str, str]:
    """The texts of one row, by the heads of their columns: what terminal and Prefect show alike."""
    any_yet = bool(line.attempts)
    return {
        "Component": line.name,
        "Estimated": _dollars(line.estimate),
        "Reserved": _dollars(line.reserved, 4) if line.open else "-",
        "Actual": f"${line.metered:.4f}" if any_yet else "-",
        "Status": line.status,
        "Attempts": str(line.attempts) if any_yet else "-",
        "Preempted": str(line.preemptions) if any_yet else "-",
        "Repeated": f"{line.repeated_s:.0f} s" if any_yet else "-",
        "Saved": _dollars(line.saved, 4) if any_yet and line.saved is not None else "-",
        "Left": _dollars(line.left),
    }


def to_table(table: Sequence[Line], title: str) -> Table:
    result = Table(title=title, title_justify="left", show_footer=True)
    for name, text in cells(total(table)).items():
        right = name not in ("Component", "Status")
        result.add_column(name, text, justify="right" if right else "left", no_wrap=name == "Component")
    for line in table:
        result.add_row(*cells(line).values())
    return result


def budget_line(standing: Standing, whole: Line) -> str:
    cap = standing.cap / MICRO
    text = (
        f"Budget ${cap:.2f} (scope {standing.scope}): metered ${whole.metered:.4f} over {whole.attempts} "
        f"attempts, reserved ${whole.reserved:.4f} by {whole.open} still open, left "
        f"{_dollars(cap - whole.metered - whole.reserved, 4)}."
    )
    if standing.cap == standing.own_cap:
        text += " That cap was set by `make budget`."
    if whole.estimated_ends:
        text += f" The end of {whole.estimated_ends} was not seen; their time runs to the last sign of life."
    return text


def notes(prices: Prices, region: str) -> tuple[str, ...]:
    """What the columns mean."""
    return (
        *NOTES,
        f"Saved: against on-demand machines ({region}, {prices.seen(region)}; {prices.source}) without the repeated "
        "seconds.",
    )


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m eval.costs", description="Estimated and metered dollars.")
    parser.add_argument("--experiment", required=True, help=EXPERIMENT_HELP)
    options = parser.parse_args(arguments)
    try:
        resolved = load(experiment_path(options.experiment))
        check_lock(resolved)
        costs, prices, store = validate(resolved, _Experiment).costs, load_prices(), open_store(store_url())
        standing, attempts = ledger.look(store, ledger.scope_of(costs.scope, datetime.now(UTC)), costs.budget_usd)
        table = lines(costs.components, spending(store, attempts, prices, costs.region))
    except RetainError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    console = make_console()
    console.print(to_table(table, f"Costs of {resolved.tag}"))
    console.print(budget_line(standing, total(table)))
    for note in notes(prices, costs.region):
        console.print(note)
    return 0


if __name__ == "__main__":
    make_decoration()
    raise SystemExit(main(sys.argv[1:]))
