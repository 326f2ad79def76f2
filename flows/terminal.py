"""What a run prints: a live table on a terminal, elsewhere a line for every change, and a summary at the end."""

from __future__ import annotations

import json
import shlex
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from queue import SimpleQueue

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from engine import ledger
from engine.approvals import look
from engine.artifact import open_artifact
from engine.errors import RetainError
from eval import comparison, words
from eval.decision import DECISION, read
from flows.board import ENDED, Board, Row, critical_path, makespan
from flows.plan import Plan
from retain.parts import Part
from retain.release import Release, ReleaseError, load
from retain.request import examples
from serve.messages import summary

STYLES = {
    "complete": "green",
    "reused": "cyan",
    "running": "yellow",
    "held": "magenta",
    "preempted": "magenta",
    "refused": "bold red",
    "failed": "bold red",
    "stopped": "magenta",
}
NOT_MADE = {"failed": "failed", "refused": "was refused", "stopped": "was stopped"}
WARNING = "bold red"
REFRESH_PER_S = 4


@contextmanager
def shown(board: Board, console: Console) -> Iterator[None]:
    """Shows the board while the block runs.

    Whoever changes the board waits for no terminal: one that was stopped by Ctrl-S would hold up a stage's settlement.
    """
    if console.is_interactive and console.file.isatty():  # FORCE_COLOR makes a file a terminal, in rich's words
        with Live(
            get_renderable=lambda: stage_table(board, warned=True), console=console, refresh_per_second=REFRESH_PER_S
        ):
            yield
        return
    began = time.monotonic()
    lines: SimpleQueue[tuple[str, str] | None] = SimpleQueue()  # and their styles

    def line(row: Row) -> None:
        detail = row.message or row.metric
        seconds = f"{row.seconds:7.1f} s" if row.state in ENDED and row.attempts else " " * 9
        lines.put((f"[{time.monotonic() - began:6.1f}] {row.stage:<12} {row.state:<10} {seconds}  {detail}", ""))
        for warning in _warnings(row):
            lines.put((warning, WARNING))

    def print_lines() -> None:
        while (next_line := lines.get()) is not None:
            text, style = next_line
            console.print(text, style=style, soft_wrap=True)

    printer = threading.Thread(target=print_lines, name="printer", daemon=True)
    printer.start()
    board.on_change = line
    board.on_notice = lambda words: lines.put((words, WARNING))
    try:
        yield
    finally:
        board.on_change = board.on_notice = None
        lines.put(None)
        printer.join()
    console.print(stage_table(board))


def stage_table(board: Board, warned: bool = False) -> Table:
    """A row for each stage; if `warned`, with what its artifact warns of and the run's notices."""
    table = Table(title=None, show_edge=False, pad_edge=False)
    for name, justify in (("stage", "left"), ("state", "left"), ("seconds", "right"), ("metered $", "right")):
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    table.add_column("metric against its criterion, or progress", overflow="fold")
    now = time.monotonic()
    for row in list(board.rows.values()):
        running = now - row.attempt_began if row.attempt_began is not None else 0.0
        state = row.state + (f" ({row.attempts} attempts)" if row.attempts > 1 else "")
        table.add_row(
            row.stage,
            Text(state, style=STYLES.get(row.state, "dim")),
            f"{row.seconds + running:.1f}" if row.attempts else "",
            f"{row.usd + running * row.usd_per_hour / 3600:.5f}" if row.attempts else "",
            (row.state not in ENDED and row.progress) or row.message or row.metric,
        )
        for warning in _warnings(row) if warned else ():
            table.add_row("", "", "", "", Text(warning, style=WARNING))
    for notice in list(board.notices) if warned else ():
        table.add_row("", "", "", "", Text(notice, style=WARNING))
    return table


def show_sources(plan: Plan, console: Console) -> None:
    """Prints where each dataset comes from; synthetic data and missing files stand out."""
    for stage, source in plan.sources.items():
        if source.kind == "synthetic":
            console.print(f"  SYNTHETIC DATA for {stage}: {source.note}", style="bold white on red")
        else:
            style = "bold yellow" if source.missing else "dim"
            console.print(f"  {stage}: {source.kind} {source.note}".rstrip(), style=style)


def show_summary(plan: Plan, board: Board, console: Console) -> None:
    """Prints what the run cost, how long it took, and whether it used synthetic data."""
    costs = plan.experiment.costs
    standing, _ = ledger.look(plan.store, costs.scope, costs.budget_usd)
    this_run = sum(row.usd for row in board.rows.values())
    machines = {machine.type: machine.usd_per_hour for machine in map(plan.machine, plan.stages)}
    prices = " and ".join(f"{name} at ${usd:g} an hour" for name, usd in machines.items())
    console.print(
        f"metered, not billed: ${this_run:.4f} this run, ${standing.metered / ledger.MICRO:.4f} of "
        f"${standing.cap / ledger.MICRO:g} in {costs.scope} "
        f"(priced as {prices})",
    )
    ran = {name: row for name, row in board.rows.items() if row.attempts}
    if ran:
        path, span = critical_path(ran), makespan(ran)
        overhead = [
            row.seconds - row.run_seconds for row in ran.values() if row.state == "complete" and row.attempts == 1
        ]
        console.print(
            f"makespan {span:.1f} s, critical path {path:.1f} s (x{span / max(path, 1e-9):.2f}); "
            f"overhead per stage at most {max(overhead, default=0.0):.1f} s",
        )
    if any(source.kind == "synthetic" for source in plan.sources.values()):
        console.print("  this ran on SYNTHETIC DATA: good for a look, not for a decision  ", style="bold white on red")


def show_warnings(rows: Iterable[Row], console: Console) -> None:
    """Prints in red what the artifacts of the stages that are done warn of."""
    for row in rows:
        for warning in _warnings(row):
            console.print(warning, style=WARNING, soft_wrap=True)


def _warnings(row: Row) -> list[str]:
    return [f"WARNING from {row.stage}: {warning}" for warning in row.warnings]


def show_decision(plan: Plan, row: Row, console: Console, whole: bool) -> None:
    """Prints the learned policy beside its baselines: the `whole` comparison, or a short one and how to see more."""
    fingerprint = plan.artifacts.current().get(DECISION)
    if fingerprint is None or row.state not in ("complete", "reused"):
        return
    folder = plan.artifacts.folder(DECISION, fingerprint)
    report = read(folder, plan.experiment.tag)
    criteria = {str(stage): limits for stage, limits in plan.experiment.criteria.items()}.get(DECISION, {})
    console.print()
    for part in comparison.whole(report, criteria) if whole else comparison.short(report):
        console.print(part)
    if not whole:
        console.print(f"the rest of it, and the criteria: make compare{_experiment(plan.named)}", style="dim")
    console.print()


def show_words(plan: Plan, board: Board, console: Console, whole: bool) -> None:
    """Prints what RLHF writes beside what SFT writes; with every figure if `whole`."""
    folders, current = [], plan.artifacts.current()
    for stage in (words.TEXT_EVAL, words.MESSAGES):
        if stage in board.rows and stage in current and board.rows[stage].state in ("complete", "reused"):
            folders.append(plan.artifacts.folder(stage, current[stage]))
        elif stage == words.TEXT_EVAL:
            return
    verdicts = look(plan.store.url).verdicts
    report = words.read(folders[0], folders[1] if len(folders) > 1 else None, verdicts)
    console.print()
    for part in words.whole(report) if whole else words.short(report):
        console.print(part)
    if not whole:
        console.print(f"the rest of it: make words{_experiment(plan.named)}", style="dim")
    console.print()


# Part of a release -> what the service does if customers are not shown it.
INSTEAD = {
    "decision": "the baseline decides",
    "sft": "templates speak for the baseline",
    "rlhf": "the sft messages, or templates, speak for the learned policy",
}


def show_standings(parts: Mapping[str, Part], console: Console) -> None:
    """Prints the parts that customers are not shown: in yellow those in the shadow, in red those that are left out."""
    for name, part in parts.items():
        if part.standing == "served":
            continue
        said, style = (
            ("SHADOW ONLY", "bold yellow")
            if part.standing == "shadow_only"
            else ("LEFT OUT of the release", "bold red")
        )
        lines = [f"{said}: {name} {part.digest}; {INSTEAD.get(name, 'the baseline decides')}. Missed:"]
        lines += [f"  {missed.verdict.removeprefix(name).strip()}, {missed.kind}" for missed in part.missed]
        for line in lines:
            console.print(line, style=style, soft_wrap=True)


def show_release(plan: Plan, row: Row, console: Console) -> None:
    """Where the current release lies, and a request to it that runs as it stands; or why there is no new one."""
    made = row.state in ("complete", "reused")
    if not made:
        why = f"release {NOT_MADE.get(row.state, 'did not run')}" + (f": {row.message}" if row.message else "")
        console.print(f"no new release; {why}", soft_wrap=True)
    fingerprint = plan.artifacts.current().get("release")
    if fingerprint is None:
        return
    folder = plan.artifacts.folder("release", fingerprint)
    address = f"{plan.store.url}/{plan.artifacts.prefix('release', fingerprint)}"
    place = address if address == str(folder) else f"{address}, on this machine {folder}"
    if not made:
        console.print(f"the release of an earlier run stays: {place}", soft_wrap=True)
        return
    try:
        release = load(open_artifact(folder))
    except ReleaseError as error:
        raise RetainError(f"{folder}: can't be served: {error}; remove it and run again") from None
    show_standings(release.parts, console)
    approvals = look(plan.store.url)
    read_so_far = replace(release, verdicts=approvals.verdicts)
    for line in summary(read_so_far, approvals):
        console.print(line, soft_wrap=True)
    if any(review.unread for name, review in read_so_far.reviews.items() if name in read_so_far.shown):
        console.print(
            f"until then others, or templates, are sent: make messages{_experiment(plan.named)}",
            style="yellow",
        )
    console.print(f"release: {place}", soft_wrap=True)
    # Beside a store in a folder the service makes a database of its own.
    needed = "://" in plan.store.url and not plan.environment.get("DATABASE_URL")
    database = "DATABASE_URL=sqlite:////FOLDER/serving.db " if needed else ""
    console.print(f"serve it with `{database}make serve{_experiment(plan.named)}`, then ask:", soft_wrap=True)
    # Not through the console, which wraps: the command is to be copied and has to stay on one line.
    print(request_to(release))


def request_to(release: Release, more: str = "", port: int = 8000) -> str:
    """The command that asks a service on this machine about a customer of the release; `more` are arguments of curl."""
    body = json.dumps(examples(release.spec, release.terms)["customer"]["value"])
    return f"curl -s localhost:{port}/retain {more}-H 'content-type: application/json' -d {shlex.quote(body)}"


def _experiment(named: str) -> str:
    """The argument that a make target needs for the experiment; empty for the default one."""
    return "" if named == "local" else f" EXPERIMENT={named}"
