"""The flow of a retrain: a run that says whether anything has changed, and proposes the release that comes of it.

It carries out the same stages as any run, and reuses what is there. Around them it says what has changed since the
release before, refuses to begin where the month's budget is too small for one of the stages alone, and at last asks
flows/promote.py whether the current release becomes the challenger. That is asked where nothing has changed, too: what
kept a release back may be over by now. On this machine, without containers, the same is `make retrain`.
"""

from __future__ import annotations

from prefect import State, flow

from flows import parent
from flows.pools import CpuPool, GpuPool, Pools
from flows.train import RUNNER, ExperimentFile, KnownExperiment, carry_out_stages

BY = "retrain/weekly"  # who proposes it, by the rollout's history


@flow(name="retrain", flow_run_name="retrain-{experiment}", task_runner=RUNNER, retries=0, persist_result=False)  # type: ignore[arg-type]
def retrain(
    experiment: KnownExperiment | ExperimentFile = "retrain",
    cpu_pool: CpuPool = "docker",
    gpu_pool: GpuPool = "docker",
) -> State[None]:
    """Trains again what has changed, and proposes the release as challenger if it is not worse than the champion.

    Prefect shows these lines in the form of a run.

    Args:
        experiment: One of the experiments in ops/configs by its name, or the path of a file in the container.
        cpu_pool: The work pool whose machines the stages work on that compute on no GPU.
        gpu_pool: The work pool for the stages that compute on one.
    """
    pools = Pools(cpu_pool, gpu_pool)
    return parent.carry_out(experiment, (), carry_out_stages, force=False, budget_usd=None, pools=pools, proposed_by=BY)
