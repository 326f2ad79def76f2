"""In whatever order a zombie, its successor and its parent act: there is one artifact, and nobody's work is lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.artifact import ArtifactStore
from engine.checkpoint import Checkpointer
from engine.claim import Claim, Fenced, acquire, take_away
from engine.store import Store
from tests.engine.memory import MemoryStore, Operation, Turns

PREFIX = "exp/risk/f00"
CLAIM, CHECKPOINTS, MANIFEST = f"{PREFIX}/claim.json", f"{PREFIX}/checkpoints", f"{PREFIX}/manifest.json"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What each attempt publishes; different bytes, so that it shows whose artifact is in the store."""
    made = {}
    for name in ("zombie", "successor"):
        made[name] = tmp_path_factory.mktemp(name)
        (made[name] / "a.json").write_text(name)
        (made[name] / "b.json").write_text(f"{name}'s other file")
    return made


def work(store: Store, claim: Claim, steps: tuple[int, ...], folder: Path) -> None:
    """What an attempt does that holds the claim; it ends where it is fenced."""
    try:
        for step in steps:
            Checkpointer(store, CHECKPOINTS, claim).save(step, {"state": b"%d" % step})
            claim.renew()
        claim.check()
        ArtifactStore(store, "exp").publish("risk", "f00", folder, claim.check)
    except Fenced:
        pass
    claim.release()


def play(turns: list[int], folders: dict[str, Path]) -> Turns:
    """The zombie holds the claim and is at work. It is taken for dead while it is not."""
    stage = Turns()
    first = acquire(stage.store, CLAIM, 1, 30.0)
    assert first is not None

    def zombie() -> None:
        store = stage.seen_by("zombie")
        first.store = store
        work(store, first, (1, 2), folders["zombie"])

    def parent() -> None:
        take_away(stage.seen_by("parent"), CLAIM, 1)

    def successor() -> None:
        store = stage.seen_by("successor")
        claim = None
        while claim is None and store.read(MANIFEST) is None:
            claim = acquire(store, CLAIM, 2, 30.0)
        if claim is not None:
            work(store, claim, (3, 4), folders["successor"])

    stage.play({"parent": parent, "zombie": zombie, "successor": successor}, turns)
    return stage


def changes(operations: list[Operation], actor: str) -> list[Operation]:
    return [operation for operation in operations if operation.actor == actor and operation.changed]


@settings(max_examples=400, deadline=None)
@given(turns=st.lists(st.integers(0, 5), max_size=90))
def test_two_attempts_never_both_publish(folders: dict[str, Path], turns: list[int]) -> None:
    stage = play(turns, folders)
    written = [operation for operation in stage.operations if operation.key == MANIFEST and operation.changed]
    assert len(written) == 1
    artifacts = ArtifactStore(stage.store, "exp")
    artifacts.verify("risk", "f00")
    manifest = artifacts.manifest("risk", "f00")
    assert manifest is not None
    content = {file.path: stage.store.content[f"{PREFIX}/files/{file.sha256}"].decode() for file in manifest.files}
    assert content == {path.name: path.read_text() for path in folders[written[0].actor].iterdir()}


@settings(max_examples=400, deadline=None)
@given(turns=st.lists(st.integers(0, 5), max_size=90))
def test_a_zombie_changes_nothing_once_it_has_looked_at_its_claim(folders: dict[str, Path], turns: list[int]) -> None:
    operations = play(turns, folders).operations
    taken = next((i for i, one in enumerate(operations) if one.actor == "parent" and one.changed), len(operations))
    after = operations[taken:]
    look = next((i for i, one in enumerate(after) if (one.actor, one.name, one.key) == ("zombie", "read", CLAIM)), None)
    if look is not None:
        assert changes(after[look:], "zombie") == []
    for operation in changes(after, "zombie"):
        assert operation.key != CLAIM, "it touched its successor's claim"


@settings(max_examples=400, deadline=None)
@given(turns=st.lists(st.integers(0, 5), max_size=90))
def test_a_zombie_removes_no_checkpoint_of_its_successor(folders: dict[str, Path], turns: list[int]) -> None:
    removed = [one.key for one in changes(play(turns, folders).operations, "zombie") if one.name == "delete"]
    assert [key for key in removed if "-000002/" in key] == []


def test_whoever_is_fenced_while_it_publishes_writes_no_manifest(folders: dict[str, Path]) -> None:
    def check() -> None:
        raise Fenced(CLAIM)

    store = MemoryStore()
    with pytest.raises(Fenced):
        ArtifactStore(store, "exp").publish("risk", "f00", folders["zombie"], check)
    assert store.content
    assert store.read(MANIFEST) is None


def test_the_order_of_turns_decides_who_publishes(folders: dict[str, Path]) -> None:
    """So the tests above see both ends."""

    def publisher(turns: list[int]) -> str:
        return next(one.actor for one in play(turns, folders).operations if one.key == MANIFEST and one.changed)

    assert publisher([]) == "successor"
    assert publisher([1] * 90) == "zombie"


def test_a_store_in_memory_is_a_store() -> None:
    store: Store = MemoryStore()
    assert store.read("a") is None
