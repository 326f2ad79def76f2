"""That Prefect's server plans the runs of a deployment with a schedule, with the libraries that are pinned."""

from __future__ import annotations

from pathlib import Path

from tests.flows.toys import said_by


def test_what_is_scheduled_is_planned(tmp_path: Path) -> None:
    """With SQLAlchemy 2.1 this Prefect says so in its log alone, and no retrain is ever due."""
    planned = said_by("toy_schedule", tmp_path)
    assert planned
    assert all(planned)  # by the server, and not by us
