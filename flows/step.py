"""The one task around a stage, and what Prefect is told while it runs.

Prefect watches; it decides nothing. A server that is slow or gone must not keep a stage from being stopped, settled
or paid for, so progress is reported by a thread of its own that nobody waits for.
"""

from __future__ import annotations

from concurrent.futures import Executor
from contextvars import copy_context
from uuid import UUID

from prefect import task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from flows.run import Report, Run, carry_out


@task(retries=0, cache_policy=NO_CACHE, persist_result=False)
def step(run: Run, name: str, reporter: Executor) -> None:
    """Makes sure that the stage's artifact is there."""
    carry_out(run, name, get_run_logger(), _progress(name, reporter))


def _progress(name: str, reporter: Executor) -> Report:
    """Tells Prefect every tenth of the way. What goes wrong stays in the future, which nobody asks."""
    context = copy_context()  # the task run that the artifact belongs to
    artifact = reporter.submit(context.run, create_progress_artifact, progress=0.0, description=name)
    shown = 0.0

    def update(percent: float) -> None:
        identifier = artifact.result()
        assert isinstance(identifier, UUID)
        update_progress_artifact(artifact_id=identifier, progress=percent)

    def report(percent: float) -> None:
        nonlocal shown
        percent = min(100.0, percent)
        if percent >= shown + 10 or (percent == 100.0 and shown < 100.0):
            shown = percent
            reporter.submit(context.run, update, percent)

    return report
