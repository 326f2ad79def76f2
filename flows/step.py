"""The Prefect task that carries out a stage."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from engine.errors import RetainError
from flows.progress import progress_reporter
from flows.run import Run, carry_out


@task(retries=0, cache_policy=NO_CACHE, persist_result=False)
def step(run: Run, name: str, prepare: Callable[[str], None], reporter: Executor) -> None:
    """Makes sure that the stage's artifact exists. `prepare` is called with the stage's name before."""
    try:
        prepare(name)
    except RetainError as error:
        run.exit_codes[name] = error.exit_code
        run.board.update(name, state="failed", message=str(error).removeprefix(f"{name}: "))
        raise
    carry_out(run, name, get_run_logger(), progress_reporter(name, reporter))
