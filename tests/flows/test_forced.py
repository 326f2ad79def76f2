"""What a run makes again is set aside once, wherever its process is killed, and comes back if it isn't made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from engine.artifact import MANIFEST
from engine.errors import StoreUnavailable
from engine.store import FolderStore
from flows.forced import put_back, set_aside
from flows.run import Run
from flows.step import step
from tests.flows.toy_plan import board_of, toy_plan, toy_stage


class Killed(BaseException):
    pass


class Dying(FolderStore):
    """A store whose user is killed before the change of this number, or right after it."""

    def __init__(self, root: Path, change: int, *, after: bool) -> None:
        super().__init__(root)
        self.left, self.after = change, after

    def write(self, key: str, data: bytes, expect: str | None = None) -> str:
        self._die(not self.after)
        version = super().write(key, data, expect)
        self._die(self.after)
        return version

    def delete(self, key: str, expect: str | None = None) -> None:
        self._die(not self.after)
        super().delete(key, expect)
        self._die(self.after)

    def _die(self, now: bool) -> None:
        if now:
            self.left -= 1
            if self.left < 0:
                raise Killed


def artifact_of(run: Run) -> str:
    identity = run.plan.identity(run.plan.stages[0], {})
    return f"{run.plan.artifacts.prefix('customers', identity.fingerprint)}/{MANIFEST}"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    plan = toy_plan(tmp_path, (toy_stage("customers"),))
    run = Run(plan, board_of(plan))
    plan.store.write(artifact_of(run), b"old")
    return run


@pytest.mark.parametrize("gives_up", [False, True])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("change", range(3))
def test_it_is_set_aside_once_wherever_the_process_is_killed(
    run: Run, tmp_path: Path, change: int, after: bool, gives_up: bool
) -> None:
    """`gives_up`: the process comes back, and the run ends as failed before it gets there again."""
    store, manifest = run.plan.store, artifact_of(run)
    dying = replace(run.plan, store=Dying(tmp_path, change, after=after))
    with pytest.raises(Killed):
        set_aside(Run(dying, run.board), "customers", "run")
    if gives_up:
        put_back(store, "run")
        assert (store.read(manifest) or (b"",))[0] == b"old"
    set_aside(run, "customers", "run")
    assert store.read(manifest) is None
    store.write(manifest, b"new")
    set_aside(run, "customers", "run")
    assert store.read(manifest) is not None
    put_back(store, "run")
    set_aside(run, "customers", "run")  # the parent was killed before its last state was known, and comes back
    assert (store.read(manifest) or (b"",))[0] == b"new"
    put_back(store, "run")
    assert [key.rpartition("/")[2] for key in store.list("forced")] == ["removed"]


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("change", range(3))
def test_it_is_put_back_wherever_the_process_is_killed(run: Run, tmp_path: Path, change: int, after: bool) -> None:
    store, manifest = run.plan.store, artifact_of(run)
    set_aside(run, "customers", "run")
    with pytest.raises(Killed):
        put_back(Dying(tmp_path, change, after=after), "run")
    put_back(store, "run")
    assert (store.read(manifest) or (b"",))[0] == b"old"
    assert list(store.list("forced")) == []


def test_what_was_never_there_is_not_put_back(run: Run) -> None:
    store, manifest = run.plan.store, artifact_of(run)
    store.delete(manifest)
    set_aside(run, "customers", "run")
    put_back(store, "run")
    assert store.read(manifest) is None
    assert list(store.list("forced")) == []


def test_another_run_sets_it_aside_again(run: Run) -> None:
    set_aside(run, "customers", "run")
    run.plan.store.write(artifact_of(run), b"new")
    set_aside(run, "customers", "another")
    assert run.plan.store.read(artifact_of(run)) is None


def test_a_stage_that_can_not_be_prepared_ends_with_the_reason(run: Run) -> None:
    def prepare(stage: str) -> None:
        raise StoreUnavailable("/store: can't be written")

    with pytest.raises(StoreUnavailable):
        step.fn(run, "customers", prepare, None)  # type: ignore[arg-type]
    row = run.board.rows["customers"]
    assert (row.state, row.message) == ("failed", "/store: can't be written")
    assert run.exit_codes == {"customers": StoreUnavailable.exit_code}
