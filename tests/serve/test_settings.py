"""Where a release comes from, and what is said when there is none."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from engine.errors import RetainError
from serve.settings import load_release, read
from tests.releases import dataset, part, publish


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETAIN_STORE", str(tmp_path / "empty"))


def test_a_release_is_found_by_its_path(artifact: Path, tmp_path: Path) -> None:
    settings = read({"RELEASE_PATH": str(artifact)})
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    version, release = load_release(settings)
    assert release.experiment == "toy"
    shutil.copytree(artifact, tmp_path / "copy")
    assert load_release(read({"RELEASE_PATH": str(tmp_path / "copy")}))[0] == version


def test_without_a_path_the_current_release_is_served(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETAIN_STORE", str(store))
    settings = read({"EXPERIMENT": "toy", "RETAIN_HOST": "0.0.0.0", "PORT": "0"})
    assert (settings.host, settings.port) == ("0.0.0.0", 0)
    assert load_release(settings)[1].experiment == "toy"


def test_a_part_is_overridden_by_the_playbook_s_names(artifact: Path, store: Path, tmp_path: Path) -> None:
    part(tmp_path / "risk", dataset("telco"), seed=8)
    other = publish(tmp_path / "store", "risk", tmp_path / "risk")
    version, plain = load_release(read({"RELEASE_PATH": str(artifact)}))
    assert plain.replaced == ()
    accept = store / "toy" / "accept" / ("f" * 64)
    settings = read({"RELEASE_PATH": str(artifact), "RISK_MODEL_PATH": str(other), "ACCEPT_MODEL_PATH": str(accept)})
    changed, release = load_release(settings)
    assert changed == f"{version}+risk+accept"
    assert release.replaced == ("risk", "accept")
    assert release.versions["risk"] != plain.versions["risk"]
    assert release.versions["accept"] == plain.versions["accept"]


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"PORT": "http"}, "PORT=http: wants a number"),
        ({"PORT": "70000"}, "PORT=70000: wants a number"),
        ({"PORT": "-1"}, "PORT=-1: wants a number"),
        ({"EXPERIMENT": "../other"}, "EXPERIMENT='../other': wants the name"),
        ({"RELEASE_PATH": "no/such/folder"}, "RELEASE_PATH=no/such/folder: is no folder"),
        ({"RELEASE_PATH": "{here}", "RISK_MODEL_PATH": "nowhere"}, "RISK_MODEL_PATH=nowhere: is no folder"),
        ({}, "experiment local has no release in"),
        ({"EXPERIMENT": "exp_001_mvp"}, "run `make run EXPERIMENT=exp_001_mvp` first"),
    ],
)
def test_a_setting_that_can_not_be_used_is_named(environment: dict[str, str], says: str, tmp_path: Path) -> None:
    with pytest.raises(RetainError) as error:
        read({name: value.format(here=tmp_path) for name, value in environment.items()})
    assert says in str(error.value)
    assert error.value.exit_code == 2
    assert "\n" not in str(error.value)


def test_a_bucket_is_said_not_to_be_a_store_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETAIN_STORE", "gs://retain/artifacts")
    with pytest.raises(RetainError, match=r"RETAIN_STORE=gs://retain/artifacts: only a folder can be a store so far"):
        read({})


def test_a_damaged_pointer_is_named(tmp_path: Path) -> None:
    pointer = tmp_path / "empty" / "local" / "current.json"
    pointer.parent.mkdir(parents=True)
    for content in ("{", "[]"):
        pointer.write_text(content)
        with pytest.raises(
            RetainError, match=r"current\.json: not a list of what completed last; remove it and run again"
        ):
            read({})


def test_a_release_with_a_changed_byte_is_refused(artifact: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(artifact, copy)
    victim = max((copy / "files").iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.chmod(0o644)
    victim.write_bytes(data)
    with pytest.raises(RetainError, match="is missing or damaged"):
        load_release(read({"RELEASE_PATH": str(copy)}))


def test_a_folder_that_is_no_release_is_refused(store: Path, tmp_path: Path) -> None:
    with pytest.raises(RetainError, match=r"holds no manifest\.json"):
        load_release(read({"RELEASE_PATH": str(tmp_path)}))
    accept = store / "toy" / "accept" / ("f" * 64)
    with pytest.raises(RetainError, match=r"RELEASE_PATH: .* can't be served: release\.json: is missing"):
        load_release(read({"RELEASE_PATH": str(accept)}))


def test_a_part_of_another_stage_is_refused(store: Path, artifact: Path) -> None:
    accept = store / "toy" / "accept" / ("f" * 64)
    with pytest.raises(RetainError, match=r"RISK_MODEL_PATH: .* can't be served: risk/featurizer\.json: its column"):
        load_release(read({"RELEASE_PATH": str(artifact), "RISK_MODEL_PATH": str(accept)}))
