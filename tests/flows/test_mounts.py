"""What containers are given to reach the store, and what of this machine can't be given to them."""

from __future__ import annotations

import os
import re
from pathlib import Path

import google.auth
import pytest
from google.auth.exceptions import DefaultCredentialsError

from engine.errors import RetainError
from engine.fingerprint import ROOT
from flows import mounts
from flows.mounts import Access, Place, place
from images.table import IMAGES


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "CLOUDSDK_CONFIG", *mounts.PASSED):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RETAIN_STORE", "gs://bucket/team/retain")
    monkeypatch.setenv("RETAIN_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_a_folder_is_mounted_and_nothing_else(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETAIN_STORE", str(home / "store"))
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://localhost:1")  # no affair of it
    there = place()
    assert (home / "store").is_dir()  # made by us, or Docker would make it, for root
    assert (there.volumes, there.mounts) == ([f"{home}/store:/store"], [])
    assert there.environment == {"RETAIN_STORE": "/store"}
    assert there.inside(home / "store" / "local" / "release") == "/store/local/release"
    assert there.key == "/dev/null"


def test_a_bucket_has_a_volume_for_its_cache(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETAIN_CACHE_GB", "7")
    there = place()
    here = home / "cache/stores/bucket/team/retain"
    assert there == Place("gs://bucket/team/retain", here, Access({"RETAIN_CACHE_GB": "7"}, None))
    assert there.inside(here / "local" / "release" / "1") == "gs://bucket/team/retain/local/release/1"
    assert (there.volumes, there.mounts) == ([f"retain-cache-{os.getuid()}:/cache"], [])
    assert there.environment == {"RETAIN_STORE": "gs://bucket/team/retain", "RETAIN_CACHE_GB": "7"}
    with pytest.raises(ValueError, match="is not in the subpath"):
        there.inside(home)


def test_a_key_is_mounted_where_google_s_library_looks(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that the environment names goes before that of `gcloud auth application-default login`."""
    of_gcloud = home / ".config" / "gcloud" / "application_default_credentials.json"
    of_gcloud.parent.mkdir(parents=True)
    of_gcloud.write_text("{}")
    assert place().key == str(of_gcloud)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(home / "other"))
    assert place().mounts == []
    (home / "key.json").write_text("{}")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(home / "key.json"))
    assert place().mounts == [{"Type": "bind", "Source": f"{home}/key.json", "Target": mounts.KEY, "ReadOnly": True}]
    assert not [name for name in place().environment if "GOOGLE" in name]


def test_what_is_mounted_for_no_key_is_none_to_google_s_library(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "google").mkdir()
    key = home / "google" / Path(mounts.KEY).name
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(home / "google"))  # as the images have it
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    key.write_text("{}")
    with pytest.raises(DefaultCredentialsError, match=f"{key}"):
        google.auth.default()
    key.unlink()
    key.symlink_to(mounts.NO_KEY)
    with pytest.raises(DefaultCredentialsError, match="credentials were not found"):
        google.auth.default()


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere/key.json", "can't be read (No such file or directory)"),
        ("GOOGLE_APPLICATION_CREDENTIALS", "/", "can't be read (Is a directory)"),
        ("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9023", "in a container that is the container itself"),
        ("STORAGE_EMULATOR_HOST", "http://localhost:9023", "in a container that is the container itself"),
        ("RETAIN_STORE", "gs://", "is no address of a bucket"),
        ("RETAIN_STORE", "s3://bucket", "is neither a folder nor gs://bucket/prefix"),
        ("RETAIN_CACHE_GB", "0", "RETAIN_CACHE_GB=0"),
    ],
)
def test_what_containers_could_not_use_is_one_line(
    name: str, value: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(RetainError, match=rf"^[^\n]*{re.escape(says)}[^\n]*$"):
        place()


def test_an_emulator_wants_no_key(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere/key.json")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://172.17.0.1:9023")
    assert place().environment["STORAGE_EMULATOR_HOST"] == "http://172.17.0.1:9023"
    assert place().mounts == []


@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES.keys())
def test_an_image_names_what_is_mounted(image: object) -> None:
    """A volume takes its rights from the image's folder, and any user may run the image."""
    text = (ROOT / image.dockerfile).read_text(encoding="utf-8")  # type: ignore[attr-defined]
    assert f"RETAIN_STORE={mounts.STORE} " in text
    assert f"RETAIN_CACHE={mounts.CACHE} " in text
    assert f"CLOUDSDK_CONFIG={Path(mounts.KEY).parent}" in text
    assert f"install --directory --mode=1777 {mounts.CACHE}\n" in text
