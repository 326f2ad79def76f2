"""The DAG: every stage starts as soon as the stages that it reads from have completed.

It is run in two ways: by `make run` on this machine (`train_here`), and as the deployment `train`, whose stages run in
containers (`train`).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

from prefect import State, flow
from prefect.futures import PrefectFuture, wait
from prefect.logging.handlers import APILogHandler
from prefect.states import Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.utilities.annotations import quote
from pydantic import Field

from engine.config import known_experiments
from flows import parent
from flows.budget import watched
from flows.dashboard import published
from flows.parent import Prepare
from flows.pools import CpuPool, GpuPool, Pools
from flows.run import Run
from flows.server import PrefectFailed
from flows.step import step
from tasks.stages import STAGES

DID_NOT_COMPLETE = "did not complete"
# One thread per stage: a thread only waits for its attempt, and the system shares the cores between these.
RUNNER: ThreadPoolTaskRunner[Any] = ThreadPoolTaskRunner(max_workers=len(STAGES))


# What the form of a run offers. Two kinds of text for an experiment: the form then has a list and a field.
KnownExperiment = Annotated[str, Field(title="name", json_schema_extra={"enum": known_experiments()})]
ExperimentFile = Annotated[str, Field(title="path")]
StageName = Annotated[str, Field(title="stage", json_schema_extra={"enum": list(STAGES)})]
Dollars = Annotated[float, Field(title="dollars", gt=0)]


@flow(name="train", flow_run_name="train-{experiment}", task_runner=RUNNER, retries=0, persist_result=False)  # type: ignore[arg-type]
def train(
    experiment: KnownExperiment | ExperimentFile = "exp_001_mvp",
    stages: Sequence[StageName] = [],
    force: bool = False,
    budget_usd: Dollars | None = None,
    cpu_pool: CpuPool = "docker",
    gpu_pool: GpuPool = "docker",
) -> State[None]:
    """Trains what isn't there yet, each stage in a container, and stops where the budget ends.

    Prefect shows these lines in the form of a run.

    Args:
        experiment: One of the experiments in ops/configs by its name, or the path of a file in the container.
        stages: Only these stages and what they read from. If none is named, all of them.
        force: Make the stages again although their artifacts are there; if none is named, all of them.
        budget_usd: A cap for as long as this run is at work, at most the experiment's own. What earlier runs of the
            experiment have spent counts as well. None: the experiment's own cap.
        cpu_pool: The work pool whose machines the stages work on that compute on no GPU.
        gpu_pool: The work pool for the stages that compute on one.
    """
    pools = Pools(cpu_pool, gpu_pool)
    return parent.carry_out(experiment, stages, carry_out_stages, force=force, budget_usd=budget_usd, pools=pools)


def train_here(run: Run) -> None:
    """Carries out the run's plan on this machine."""

    @flow(name="train", flow_run_name=f"train-{run.plan.experiment.tag}", task_runner=RUNNER)  # type: ignore[arg-type]
    def dag(experiment: str) -> State[None]:
        with watched(run), published(run):
            return carry_out_stages(run)

    state = dag(run.plan.experiment.tag, return_state=True)
    APILogHandler().flush()
    if not state.is_completed() and not str(state.message).startswith(DID_NOT_COMPLETE):
        raise PrefectFailed(f"Prefect failed: {state.message}")


def carry_out_stages(run: Run, prepare: Prepare = lambda stage: None) -> State[None]:
    """The DAG itself, inside a flow. If a stage fails, the stages that depend on it are skipped, and no others.

    `prepare` is called before each stage that is carried out; what it raises is that stage's failure.
    """
    reporter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="progress")
    futures: dict[str, PrefectFuture[None]] = {}
    for stage in run.plan.stages:
        stage_step = step.with_options(name=stage.name, task_run_name=stage.name)
        upstream = [futures[name] for name in stage.inputs]
        # quote(): these hold no futures, so Prefect need not search them for any.
        arguments = (quote(run), stage.name, quote(prepare), quote(reporter))
        futures[stage.name] = stage_step.submit(*arguments, wait_for=upstream)  # type: ignore[call-overload]
    wait(list(futures.values()))
    reporter.shutdown()
    missing = [name for name, future in futures.items() if not future.state.is_completed()]
    for name in missing:
        _name_a_failure_of_prefect(run, name, futures[name].state)
    return Failed(message=f"{DID_NOT_COMPLETE}: {', '.join(missing)}") if missing else Completed()


def _name_a_failure_of_prefect(run: Run, name: str, state: State[None]) -> None:
    """Where carry_out() was never called although nothing was missing, what Prefect says is the cause."""
    inputs_there = all(upstream in run.made for upstream in run.board.rows[name].inputs)
    if run.board.rows[name].state == "waiting" and inputs_there and not run.stopping.is_set():
        run.exit_codes[name] = PrefectFailed.exit_code
        run.board.update(name, state="failed", message=f"Prefect failed: {state.message}")
