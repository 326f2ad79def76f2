"""The DAG: every stage starts as soon as the stages that it reads from have completed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from prefect import State, flow
from prefect.futures import PrefectFuture, wait
from prefect.logging.handlers import APILogHandler
from prefect.states import Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.utilities.annotations import quote

from flows.run import Run
from flows.server import PrefectFailed
from flows.step import step

DID_NOT_COMPLETE = "did not complete"


def train(run: Run) -> None:
    """Carries out the run's plan. If a stage fails, the stages that depend on it are skipped, and no others."""
    stages = run.plan.stages
    # One thread per stage: a thread only waits for its subprocess, and the system shares the cores between these.
    runner: ThreadPoolTaskRunner[Any] = ThreadPoolTaskRunner(max_workers=len(stages))
    reporter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="progress")

    @flow(name="train", flow_run_name=f"train-{run.plan.experiment.tag}", task_runner=runner)  # type: ignore[arg-type]
    def dag(experiment: str) -> State[None]:
        futures: dict[str, PrefectFuture[None]] = {}
        for stage in stages:
            stage_step = step.with_options(name=stage.name, task_run_name=stage.name)
            upstream = [futures[name] for name in stage.inputs]
            # quote(): these hold no futures, so Prefect need not search them for any.
            arguments = (quote(run), stage.name, quote(reporter))
            futures[stage.name] = stage_step.submit(*arguments, wait_for=upstream)  # type: ignore[call-overload]
        wait(list(futures.values()))
        reporter.shutdown()
        missing = [name for name, future in futures.items() if not future.state.is_completed()]
        for name in missing:
            _name_a_failure_of_prefect(run, name, futures[name].state)
        return Failed(message=f"{DID_NOT_COMPLETE}: {', '.join(missing)}") if missing else Completed()

    state = dag(run.plan.experiment.tag, return_state=True)
    APILogHandler().flush()
    if not state.is_completed() and not str(state.message).startswith(DID_NOT_COMPLETE):
        raise PrefectFailed(f"Prefect failed: {state.message}")


def _name_a_failure_of_prefect(run: Run, name: str, state: State[None]) -> None:
    """Where carry_out() was never called although nothing was missing, what Prefect says is the cause."""
    inputs_there = all(upstream in run.made for upstream in run.board.rows[name].inputs)
    if run.board.rows[name].state == "waiting" and inputs_there and not run.stopping.is_set():
        run.exit_codes[name] = PrefectFailed.exit_code
        run.board.update(name, state="failed", message=f"Prefect failed: {state.message}")
