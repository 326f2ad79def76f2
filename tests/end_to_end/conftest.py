"""One undisturbed run that the tests of whole runs share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.end_to_end.project import Project, copy_project


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One process runs all of these: they share a run of two minutes, and shoot at processes that compute."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.xdist_group("end_to_end"))


@pytest.fixture(scope="session")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Everything that `decision` reads from is there; not to be changed."""
    project = copy_project(tmp_path_factory.mktemp("ready"))
    project.wanted = ("risk", "accept")
    done = project.run()
    assert done.returncode == 0, done.stdout
    return project


@pytest.fixture(scope="session")
def finished(ready: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The whole run; not to be changed."""
    project = ready.with_its_store(tmp_path_factory.mktemp("finished") / "store")
    done = project.run()
    assert done.returncode == 0, done.stdout
    return project
