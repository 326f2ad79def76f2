"""Progress of a stage: read from the lines that it writes, and shown as an artifact of Prefect.

Prefect only shows a run and decides nothing. If its server is slow or gone, stages must still be stopped and their
costs settled, so progress is reported by a thread of its own that nobody waits for.
"""

from __future__ import annotations

from concurrent.futures import Executor
from contextvars import copy_context
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

from flows.run import Report


def progress_reporter(name: str, reporter: Executor) -> Report:
    """Reports every 10 % to Prefect. Errors stay in the futures, whose results are not read."""
    context = copy_context()  # the run that the artifact belongs to
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
