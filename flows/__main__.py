"""`python -m flows run|why`: what `make run`, `make train.*` and `make why` call."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

from rich.console import Console

from engine.errors import RetainError
from engine.store import FolderStore
from flows import attempt, terminal
from flows.board import Board, Row
from flows.plan import Plan, key_metrics, make_plan, put_sources, why


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    # Where there is no terminal, lines stay whole: they are read by people's tools.
    console = Console() if sys.stdout.isatty() else Console(width=160)
    try:
        if options.command == "run":
            return _run(options.experiment, options.stage, console)
        return _why(options.experiment, options.stage, console)
    except RetainError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped before any stage was started", file=sys.stderr)
        return 128 + signal.SIGINT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m flows", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run the stages that are not there yet")
    run.add_argument("--experiment", default="local")
    run.add_argument("--stage", action="append", default=[], help="this stage and what it needs (may be repeated)")
    cause = commands.add_parser("why", help="say what would make each stage run again")
    cause.add_argument("--experiment", default="local")
    cause.add_argument("stage", nargs="*")
    return parser


def _why(experiment: str, wanted: list[str], console: Console) -> int:
    causes = why(make_plan(experiment, wanted))
    for stage, lines in causes.items():
        if wanted and stage not in wanted:
            continue
        console.print(f"{stage}: {'would run' if lines else 'is there'}", style="yellow" if lines else "green")
        for line in lines:
            console.print(f"  {line}", markup=False, highlight=False)
    return 0


def _run(experiment: str, wanted: list[str], console: Console) -> int:
    plan = make_plan(experiment, wanted)
    console.print(f"experiment {experiment}, store {plan.store.url}", style="bold", highlight=False)
    terminal.show_sources(plan, console)
    attempt.settle_lost(plan)
    reusable = plan.reusable()
    rate = plan.experiment.costs.machines.local.usd_per_hour
    board = Board({stage.name: Row(stage.name, stage.inputs, usd_per_hour=rate) for stage in plan.stages})
    if len(reusable) == len(plan.stages):
        _show_reused(plan, reusable, board, console)
        code = 0
    else:
        if isinstance(plan.store, FolderStore):
            plan.store.sweep()
        put_sources(plan)
        code = _carry_out(plan, board, console)
        attempt.settle_lost(plan)
    terminal.show_summary(plan, board, console)
    if any(stage.name == "release" for stage in plan.stages):
        terminal.show_release(plan, console)
    return code


def _show_reused(plan: Plan, reusable: dict[str, str], board: Board, console: Console) -> None:
    for stage, fingerprint in reusable.items():
        plan.artifacts.set_current(stage, fingerprint)
        board.update(stage, state="reused", metric=key_metrics(plan, stage, fingerprint))
    console.print("nothing changed, nothing to run")
    console.print(terminal.stage_table(board))


def _carry_out(plan: Plan, board: Board, console: Console) -> int:
    """Runs the DAG in a thread of its own: Prefect installs no signal handlers there, so Ctrl-C is ours."""
    from flows.server import private_server

    console.print("starting Prefect's server ...", style="dim")
    with private_server(Path(plan.store.url) / "prefect") as url:
        from flows.step import Run
        from flows.train import train

        console.print(f"Prefect: {url.removesuffix('/api')}", style="dim", highlight=False)
        run = Run(plan, board)
        stop = _Stop(run.stopping, run.killing)
        failure: list[BaseException] = []

        def flow() -> None:
            try:
                train(run)
            except BaseException as error:
                failure.append(error)

        thread = threading.Thread(target=flow, name="flow")
        with stop, terminal.shown(board, console):
            thread.start()
            while thread.is_alive():
                thread.join(0.2)
    if stop.signal is not None:
        console.print("stopped; the same command goes on from here", style="magenta")
        return 128 + stop.signal
    if run.exit_codes:
        for stage in run.exit_codes:
            console.print(f"{stage}: {board.rows[stage].message}", style="bold red", markup=False, highlight=False)
        return max(run.exit_codes.values(), key=lambda code: (code == 3, code))
    if failure:
        raise failure[0]
    return 0


class _Stop:
    """While it is entered, the first Ctrl-C or SIGTERM asks the stages to stop, the second ends them."""

    def __init__(self, stopping: threading.Event, killing: threading.Event) -> None:
        self.stopping, self.killing = stopping, killing
        self.signal: int | None = None

    def __enter__(self) -> None:
        self.before = {number: signal.signal(number, self._asked) for number in (signal.SIGINT, signal.SIGTERM)}

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _asked(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            self.killing.set()
        self.signal = number
        self.stopping.set()


if __name__ == "__main__":
    raise SystemExit(main())
