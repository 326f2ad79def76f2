"""The Prefect task that carries out a stage, and what Prefect is told while it runs.

Prefect only shows a run and decides nothing. If its server is slow or gone, stages must still be stopped and their
costs settled, so progress is reported by a thread of its own that nobody waits for.
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
    """Makes sure that the stage's artifact exists."""
    carry_out(run, name, get_run_logger(), _progress(name, reporter))


def _progress(name: str, reporter: Executor) -> Report:
    """Reports every 10 % to Prefect. Errors stay in the futures, whose results are not read."""
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
