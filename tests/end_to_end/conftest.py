"""One undisturbed run that the tests of whole runs share, also those of another process of pytest's."""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.project import Project, copy_project

# The first makes `finished`, which takes more than a minute. The next two need no such run, so that a second process of
# pytest's has something to do meanwhile. All others, in the order of their names, follow.
FIRST = ("test_decision_kills.py", "test_locked_experiment.py", "test_dryrun.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the files of this folder in order, at the places that they have among all files."""
    places = [place for place, item in enumerate(items) if item.path.parent == Path(__file__).parent]
    names = [*FIRST, *sorted({items[place].path.name for place in places} - set(FIRST))]
    ours = sorted((items[place] for place in places), key=lambda item: names.index(item.path.name))
    for place, item in zip(places, ours):
        items[place] = item


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder that all processes of these tests see."""
    own = tmp_path_factory.getbasetemp()
    return own if worker_id == "master" else own.parent


def once(folder: Path, make: Callable[[Path], None]) -> Path:
    """The folder, made by whoever comes first; the others wait for it."""
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "made").exists():
            make(folder)
            (folder / "made").touch()
    return folder


@pytest.fixture(scope="session")
def ready(shared: Path) -> Project:
    """Everything that `decision` reads from is there; not to be changed."""

    def make(folder: Path) -> None:
        done = copy_project(folder).wanting("risk", "accept").run()
        assert done.returncode == 0, done.stdout

    return Project.at(once(shared / "ready", make)).wanting("risk", "accept")


@pytest.fixture(scope="session")
def finished(ready: Project, shared: Path) -> Project:
    """The whole run; not to be changed."""

    def make(folder: Path) -> None:
        done = ready.with_its_store(folder / "store").run()
        assert done.returncode == 0, done.stdout

    folder = once(shared / "finished", make)
    return ready.wanting().at_store(folder / "store")
