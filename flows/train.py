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
from flows.step import step


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
        return Failed(message=f"did not complete: {', '.join(missing)}") if missing else Completed()

    dag(run.plan.experiment.tag, return_state=True)
    APILogHandler().flush()
