"""The release that is tried, by its version or its folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from deploy.candidate import named, of_version
from engine.errors import RetainError
from tests.deploy.fakes import EXPERIMENT, GOOD_PARTS, MISSED_PARTS, release
from tests.releases import MONITORING


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RETAIN_STORE", str(tmp_path / "store"))
    return tmp_path / "store"


def folder(root: Path, number: int) -> Path:
    (found,) = (root / EXPERIMENT / "release").glob(f"*{number:04x}")
    return found


def test_a_release_is_named_by_its_version_or_its_folder(root: Path) -> None:
    versions = [release(root, 1, GOOD_PARTS), release(root, 2, MISSED_PARTS)]
    for number, (version, parts) in enumerate(zip(versions, (GOOD_PARTS, MISSED_PARTS)), start=1):
        by_version, by_folder = named(version, EXPERIMENT), named(str(folder(root, number)), EXPERIMENT)
        assert by_version == by_folder == of_version(version, EXPERIMENT)
        assert by_version == (version, parts, MONITORING)


def test_a_copy_elsewhere_is_the_release_that_is_in_the_store(root: Path, tmp_path: Path) -> None:
    version = release(root, 1, GOOD_PARTS)
    shutil.copytree(folder(root, 1), tmp_path / "copy")
    assert named(str(tmp_path / "copy"), EXPERIMENT).version == version
    shutil.rmtree(folder(root, 1))
    with pytest.raises(RetainError, match=version):
        named(str(tmp_path / "copy"), EXPERIMENT)


def test_what_is_no_release_is_said(root: Path, tmp_path: Path) -> None:
    release(root, 1, GOOD_PARTS)
    with pytest.raises(RetainError, match=r"^'latest' is neither the version of a release"):
        named("latest", EXPERIMENT)
    with pytest.raises(RetainError, match="0123456789ab"):
        named("0123456789ab", EXPERIMENT)
    with pytest.raises(RetainError, match=f"^{tmp_path}/x"):
        named(f"{tmp_path}/x", EXPERIMENT)


def test_a_damaged_release_is_not_tried(root: Path) -> None:
    version = release(root, 1, GOOD_PARTS)
    for file in (folder(root, 1) / "files").iterdir():
        file.chmod(0o644)
        file.write_bytes(b"{}")
    with pytest.raises(RetainError, match=f"^release {version} can't be tried: "):
        named(version, EXPERIMENT)


def test_a_release_from_before_standings_is_refused_in_one_line(root: Path) -> None:
    version = release(root, 1, {"risk": GOOD_PARTS["risk"]})
    with pytest.raises(RetainError, match=r"release.json: its parts are risk, not risk, accept") as raised:
        named(version, EXPERIMENT)
    assert "\n" not in str(raised.value)
