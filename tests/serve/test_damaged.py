"""A release of which only the learned arm's own files are damaged: the baseline answers without them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.artifact import MANIFEST, parse_manifest
from engine.errors import RetainError
from serve.arms import learned_arm
from serve.loading import Source, challenger, load_release, warnings_about
from serve.metrics import Metrics
from tests.releases import decided, rows


def damage(artifact: Path, name: str, *, remove: bool = False) -> None:
    manifest = parse_manifest((artifact / MANIFEST).read_bytes(), "")
    path = artifact / "files" / next(file.sha256 for file in manifest.files if file.path == name)
    if remove:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1] + b"?")


@pytest.fixture
def copy(artifact: Path, tmp_path: Path) -> Path:
    shutil.copytree(artifact, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.mark.parametrize("remove", [False, True])
@pytest.mark.parametrize(("name", "part"), [("decision/policy.json", "decision"), ("rlhf/rlhf.json", "rlhf")])
def test_the_worker_goes_on_without_it_and_says_so(
    artifact: Path, copy: Path, name: str, part: str, remove: bool
) -> None:
    whole_version, whole = load_release(Source(artifact, {}))
    damage(copy, name, remove=remove)
    version, release = load_release(Source(copy, {}))
    assert version == f"{whole_version}-{part}"
    assert (release.policy is None) == (part == "decision")
    assert ("rlhf" in release.banks) == (part != "rlhf")
    assert set(whole.versions) - set(release.versions) == {"policy" if part == "decision" else "rlhf"}
    (warning,) = set(warnings_about(release)) - set(warnings_about(whole))
    assert f"{name} is missing or damaged" in warning
    assert warning.endswith(f"the service goes on without {part}")
    row = rows(whole.spec, 1, seed=3)[0]
    assert decided(release, row)[0] == decided(whole, row)[0]
    with pytest.raises(RetainError, match=f"RELEASE_PATH: .*{name} is missing or damaged"):
        load_release(Source(copy, {}), whole=True)


@pytest.mark.parametrize("name", ["risk/model.json", "decision.json", "guard.json", "sft/sft.json", "release.json"])
def test_no_other_file_may_be_damaged(copy: Path, name: str) -> None:
    damage(copy, name)
    damage(copy, "decision/policy.json")
    with pytest.raises(RetainError, match=f"RELEASE_PATH: .*{name} is missing or damaged"):
        load_release(Source(copy, {}))


@pytest.mark.parametrize(("part", "name"), [("decision", "policy.json"), ("rlhf", "rlhf.json")])
def test_a_damaged_replacement_leaves_no_part_and_not_the_release_s_own(
    artifact: Path, store: Path, tmp_path: Path, part: str, name: str
) -> None:
    stage = {"decision": "decision", "rlhf": "messages"}[part]
    shutil.copytree(store / "toy" / stage / ("f" * 64), tmp_path / "other")
    damage(tmp_path / "other", name)
    version, release = load_release(Source(artifact, {part: tmp_path / "other"}))
    assert version.endswith(f"-{part}")
    assert (release.policy is None) == (part == "decision")
    assert ("rlhf" in release.banks) == (part != "rlhf")
    assert release.damaged.keys() == {part}
    with pytest.raises(RetainError, match=f"{name} is missing or damaged"):
        load_release(Source(artifact, {part: tmp_path / "other"}), whole=True)


def test_a_sound_replacement_makes_good_for_damaged_files(artifact: Path, copy: Path, store: Path) -> None:
    damage(copy, "decision/policy.json")
    version, release = load_release(Source(copy, {"decision": store / "toy" / "decision" / ("f" * 64)}))
    assert version == load_release(Source(artifact, {}))[0] + f"+decision:{release.versions['policy']}"
    assert release.policy is not None
    assert release.damaged == {}


def test_the_arm_s_process_is_started_all_the_same_and_waits_for_whole_files(copy: Path) -> None:
    damage(copy, "decision/policy.json")
    version, release = load_release(Source(copy, {}))
    settings: Any = SimpleNamespace(challenger=None, release=copy, parts={}, arm_memory=1 << 29)
    assert learned_arm(settings, version, release, Metrics()) is not None
    assert learned_arm(settings, version, replace(release, damaged={}), Metrics()) is None  # left out, and not damaged


def test_what_a_challenger_does_not_answer_counts_as_its_own(artifact: Path, copy: Path, tmp_path: Path) -> None:
    version, release = load_release(Source(artifact, {}))
    for folder, expected in ((copy, version), (tmp_path / "gone", None)):
        settings: Any = SimpleNamespace(challenger=folder, release=artifact, parts={}, arm_memory=1 << 29)
        arm = learned_arm(settings, "own", release, Metrics())
        assert arm is not None
        assert (arm.release_version, challenger(folder).version) == (expected, expected)
    assert challenger(copy).reference == release.reference
