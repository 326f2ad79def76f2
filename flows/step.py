"""The Prefect task that carries out a stage."""

from __future__ import annotations

from concurrent.futures import Executor

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from flows.progress import progress_reporter
from flows.run import Run, carry_out


@task(retries=0, cache_policy=NO_CACHE, persist_result=False)
def step(run: Run, name: str, reporter: Executor) -> None:
    """Makes sure that the stage's artifact exists."""
    carry_out(run, name, get_run_logger(), progress_reporter(name, reporter))
