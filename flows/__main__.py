"""`python -m flows run|retrain|why|debug|budget`: what `make run`, `make train.*`, `make why`, ... call."""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from types import FrameType

from rich.console import Console

from engine import ledger
from engine.errors import BudgetExceeded, ConfigError, RetainError
from engine.output import make_decoration
from engine.stage import BAD_INPUT, REFUSED
from engine.store import FolderStore, open_store, store_url
from eval.console import make_console
from eval.decision import DECISION
from eval.words import MESSAGES, TEXT_EVAL
from flows import terminal
from flows.attempt import settle_lost
from flows.board import Board, Row
from flows.changes import begin
from flows.debug import debug
from flows.plan import Plan, key_metrics, load_experiment, make_plan, put_sources, why
from flows.run import Run
from flows.server import Server, ServerGone, in_one_line, private_server

BY = "make retrain"  # who proposes a release, by the rollout's history


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    console = make_console()
    try:
        if options.command == "run":
            return _run(make_plan(options.experiment, options.stage), options.stage, console)
        if options.command == "retrain":
            return _retrain(options.experiment, console)
        if options.command == "debug":
            return debug(options.experiment, options.stage)
        if options.command == "budget":
            return _budget(options.experiment, options.usd, console)
        return _why(options.experiment, options.stage, console)
    except ServerGone as error:
        print(f"error: {error}", file=sys.stderr)
        # At once: an orderly exit would take down Prefect's client, which waits for its server.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(error.exit_code)
    except RetainError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror or error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 128 + signal.SIGINT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m flows", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run the stages that are not there yet")
    run.add_argument("--experiment", default="local")
    run.add_argument("--stage", action="append", default=[], help="this stage and what it needs (may be repeated)")
    again = commands.add_parser("retrain", help="run what has changed, and propose the release as challenger")
    again.add_argument("--experiment", default="retrain")
    cause = commands.add_parser("why", help="say what would make each stage run again")
    cause.add_argument("--experiment", default="local")
    cause.add_argument("stage", nargs="*")
    foreground = commands.add_parser("debug", help="run one stage in the foreground, for a debugger")
    foreground.add_argument("--experiment", default="local")
    foreground.add_argument("stage")
    budget = commands.add_parser("budget", help="show the cap, or set one below the experiment's, during a run too")
    budget.add_argument("--experiment", default="local")
    budget.add_argument("usd", nargs="?", help="dollars, or none: the experiment's cap alone")
    return parser


def _why(experiment: str, wanted: list[str], console: Console) -> int:
    causes = why(make_plan(experiment, wanted, to_run=False))
    for stage, lines in causes.items():
        if wanted and stage not in wanted:
            continue
        console.print(f"{stage}: {'would run' if lines else 'is there'}", style="yellow" if lines else "green")
        for line in lines:
            console.print(f"  {line}", soft_wrap=True)
    return 0


def _budget(experiment: str, usd: str | None, console: Console) -> int:
    costs, store = load_experiment(experiment).costs, open_store(store_url())
    if usd is not None:
        ledger.set_cap(store, costs.scope, None if usd == "none" else _dollars(usd))
    standing, _ = ledger.look(store, costs.scope, costs.budget_usd)
    own = "none" if standing.own_cap is None else f"${standing.own_cap / ledger.MICRO:g}"
    console.print(f"{standing} (the experiment's: ${costs.budget_usd:g}, set by make budget: {own})", soft_wrap=True)
    if standing.over:
        console.print("that is more than the cap: runs that are at work checkpoint and stop", style="bold red")
    return 0


def _dollars(text: str) -> float:
    with suppress(ValueError):
        if 0 <= float(text) < math.inf:
            return float(text)
    raise ConfigError(f"USD={text}: dollars from 0 up, or none to leave the experiment's cap alone")


def _retrain(experiment: str, console: Console) -> int:
    from flows.promote import concluded  # no other command needs what it reads tables with

    plan = make_plan(experiment)
    settle_lost(plan)
    begun = begin(plan, owner="")
    code = _run(plan, [], console)
    if code == 0:
        for line in concluded(plan, begun, BY):
            console.print(line, style="bold", soft_wrap=True)
    return code


def _run(plan: Plan, wanted: list[str], console: Console) -> int:
    console.print(f"experiment {plan.named}, store {plan.store.url}", style="bold", soft_wrap=True)
    terminal.show_sources(plan, console)
    settle_lost(plan)
    reusable = plan.reusable()
    rows = [Row(stage.name, stage.inputs, usd_per_hour=plan.machine(stage).usd_per_hour) for stage in plan.stages]
    run = Run(plan, Board({row.stage: row for row in rows}))
    if len(reusable) == len(plan.stages):
        _show_reused(run, reusable, console)
        code = 0
    else:
        if isinstance(plan.store, FolderStore):
            plan.store.sweep()
        put_sources(plan)
        code = _carry_out(run, console)
        settle_lost(plan)
    if DECISION in run.board.rows and _is_news(run, code, DECISION):
        terminal.show_decision(plan, run.board.rows[DECISION], console, whole=DECISION in wanted)
    if TEXT_EVAL in run.board.rows and _is_news(run, code, TEXT_EVAL, MESSAGES):
        terminal.show_words(plan, run.board, console, whole=TEXT_EVAL in wanted)
    terminal.show_summary(plan, run.board, console)
    terminal.show_warnings(run.board.rows.values(), console)
    if "release" in run.board.rows:
        terminal.show_release(plan, run.board.rows["release"], console)
    return code


def _is_news(run: Run, code: int, *stages: str) -> bool:
    """Whether tables of these stages are shown: after a failed run they would hide its reason, so only if one of the
    stages was made in it."""
    return code == 0 or any(run.board.rows[stage].state == "complete" for stage in stages if stage in run.board.rows)


def _show_reused(run: Run, reusable: dict[str, str], console: Console) -> None:
    for stage, fingerprint in reusable.items():
        run.plan.artifacts.set_current(stage, fingerprint)
        metric, warnings = key_metrics(run.plan, stage, fingerprint), run.plan.artifacts.warnings(stage, fingerprint)
        run.board.update(stage, state="reused", metric=metric, warnings=warnings)
    console.print("nothing changed, nothing to run")
    console.print(terminal.stage_table(run.board))


def _carry_out(run: Run, console: Console) -> int:
    """Runs the DAG and returns the exit code.

    The DAG has a thread of its own: Prefect installs no signal handlers there, so this process handles Ctrl-C.
    """
    console.print("starting Prefect's server ...", style="dim")
    root = run.plan.store.here / "prefect"
    stop = _Stop(run.stopping, run.killing)
    failure: list[BaseException] = []
    with stop, private_server(root, run.stopping) as server:
        if stop.signal is None:
            console.print(f"Prefect: {server.address}", style="dim")
            with terminal.shown(run.board, console):
                failure += _watch(run, server)
                if stop.signal is None:
                    _skip_what_waits(run.board)
    if stop.signal is not None:
        console.print("stopped; the same command goes on from here", style="magenta")
        return 128 + stop.signal
    for stage in run.exit_codes:
        message = f"{stage}: {run.board.rows[stage].message}"
        console.print(message, style="bold red", soft_wrap=True)
    if all(row.state in ("complete", "reused") for row in run.board.rows.values()):
        for error in failure:  # Prefect only shows a run: without it all of this one was made
            console.print(str(error), style="yellow", soft_wrap=True)
        return 0
    if run.over_budget:
        console.print(
            f"stopped by the budget: {run.over_budget}. What was begun is kept, and the same command goes on from here",
            style="bold red",
            soft_wrap=True,
        )
        return BudgetExceeded.exit_code
    if failure:
        raise failure[0]
    return max(run.exit_codes.values(), key=lambda code: (code == REFUSED, code), default=1)


def _skip_what_waits(board: Board) -> None:
    """Says of each stage that never began why it did not."""
    for stage, row in board.rows.items():
        if row.state == "waiting":
            missing = [name for name in row.inputs if board.rows[name].state not in ("complete", "reused")]
            cause = (
                f"it reads from {', '.join(missing)}, which did not complete"
                if missing
                else "the run ended before it began"
            )
            board.update(stage, state="skipped", message=cause)


def _watch(run: Run, server: Server) -> list[BaseException]:
    """Waits for the DAG and returns the error that ended it, if any.

    If Prefect's server is gone, the stages are stopped and their costs settled, and the DAG is no longer waited for.
    """
    from flows.train import train_here  # Prefect: after its settings are made

    failure: list[BaseException] = []

    def flow() -> None:
        try:
            with in_one_line(server):
                train_here(run)
        except BaseException as error:
            failure.append(error)

    # A daemon thread, because a flow whose server is gone goes on waiting for it for a long time.
    thread = threading.Thread(target=flow, name="flow", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.2)
        if error := server.gone():
            run.stopping.set()
            while run.at_work():
                time.sleep(0.1)
            return [error]
    return failure


class _Stop:
    """Inside its `with` block the first signal asks the stages to stop, and a second Ctrl-C or SIGTERM kills them.

    A terminal that is closed sends SIGHUP, more than once in some shells; nohup lets it be ignored.
    """

    def __init__(self, stopping: threading.Event, killing: threading.Event) -> None:
        self.stopping, self.killing = stopping, killing
        self.signal: int | None = None

    def __enter__(self) -> _Stop:
        hangup = [] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [signal.SIGHUP]
        numbers = (signal.SIGINT, signal.SIGTERM, *hangup)
        self.before = {number: signal.signal(number, self._asked) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _asked(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and number != signal.SIGHUP:
            self.killing.set()
        self.signal = number
        self.stopping.set()


if __name__ == "__main__":
    make_decoration()
    code = main()
    # Everything is shown and written. Taking Prefect's client down takes a second or two more.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
