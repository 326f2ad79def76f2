"""The release of a version is found among those of its experiment, whatever else lies there."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.artifact import MANIFEST, ArtifactStore
from engine.errors import RetainError
from engine.releases import find, version_of
from engine.store import FolderStore


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RETAIN_STORE", str(tmp_path / "store"))
    return tmp_path / "store"


def release(store: Path, fingerprint: str, content: str, experiment: str = "toy") -> Path:
    """The folder of an artifact with that content."""
    made = store.parent / f"{experiment}-{fingerprint}-made"
    made.mkdir()
    (made / "release.json").write_text(content)
    artifacts = ArtifactStore(FolderStore(store), experiment)
    artifacts.publish("release", fingerprint, made)
    return store / artifacts.prefix("release", fingerprint)


def test_each_release_is_found_by_its_version(store: Path) -> None:
    named = store.parent / "experiment_toy.yaml"
    named.touch()
    folders = [release(store, fingerprint, fingerprint) for fingerprint in ("aa", "bb", "cc")]
    for folder in folders:
        assert find(version_of(folder), "toy") == folder
        assert find(version_of(folder), str(named)) == folder


def test_one_that_is_not_there_is_told_in_a_line(store: Path) -> None:
    with pytest.raises(RetainError, match=rf"experiment toy has no release 0{{12}} in {store}, which has none"):
        find("0" * 12, "toy")
    one, other = release(store, "aa", "one"), release(store, "bb", "other", "elsewhere")
    with pytest.raises(RetainError, match=rf"has no release {version_of(other)} .*, which has {version_of(one)}$"):
        find(version_of(other), "toy")


def test_what_is_no_whole_release_hides_no_other(store: Path) -> None:
    damaged, unfinished, whole = (release(store, fingerprint, fingerprint) for fingerprint in ("aa", "bb", "cc"))
    version = version_of(damaged)
    (damaged / MANIFEST).write_text("{}")
    (unfinished / MANIFEST).unlink()
    (store / "toy" / "release" / "a file").touch()
    assert find(version_of(whole), "toy") == whole
    with pytest.raises(RetainError, match=f"has no release {version}"):
        find(version, "toy")
