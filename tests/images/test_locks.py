"""The lock files fix every library of every image, as pyproject.toml pins it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from engine.fingerprint import ROOT, library_versions
from engine.stage import Stage
from images.build import build
from images.locks import locked, outdated, pins
from images.table import IMAGES, VARIANTS, Image, lock_file
from tasks.stages import STAGES

every_variant = pytest.mark.parametrize(
    ("image", "accelerator"), VARIANTS, ids=[f"{image.name}-{accelerator}" for image, accelerator in VARIANTS]
)


@every_variant
def test_they_agree_with_the_pins(image: Image, accelerator: str) -> None:
    assert outdated(ROOT, image, accelerator) == []


@every_variant
def test_every_line_is_a_version_or_a_hash_of_it(image: Image, accelerator: str) -> None:
    comment, *lines = (ROOT / lock_file(image, accelerator)).read_text(encoding="utf-8").splitlines()
    assert comment.startswith("# Written by `make images.lock`")
    entries = "\n".join(lines).split("\n")
    versions = [line for line in entries if re.fullmatch(r"[a-z0-9._-]+==[\w.+!]+ \\", line)]
    hashes = [line for line in entries if re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}(?: \\)?", line)]
    assert len(versions) + len(hashes) == len(entries)
    assert len(versions) == len(locked(ROOT, image, accelerator)) > 20
    # Each version is followed by a hash, and the line of a hash goes on exactly if another one follows.
    for line, following in zip(entries, [*entries[1:], ""], strict=True):
        assert line.endswith("\\") == following.startswith("    --hash")


def test_a_library_has_one_version_in_all_images() -> None:
    """Besides PyTorch, whose builds are told apart by their versions."""
    versions: dict[str, set[str]] = {}
    for variant in VARIANTS:
        for name, version in locked(ROOT, *variant).items():
            versions.setdefault(name, set()).add(version)
    several = {name: found for name, found in versions.items() if len(found) > 1}
    assert several == {"torch": versions["torch"]}


def test_images_for_cpus_have_nothing_of_cuda_and_the_other_has_all_of_it() -> None:
    for image, accelerator in VARIANTS:
        names = locked(ROOT, image, accelerator)
        nvidia = {name for name in names if name.startswith(("nvidia-", "cuda-", "triton"))}
        assert bool(nvidia) == (accelerator == "cuda")
        if "torch" in names:
            assert names["torch"].endswith("+cpu") == (accelerator == "cpu")
    assert {"nvidia-cublas", "nvidia-cudnn-cu13", "nvidia-nccl-cu13", "triton"} <= locked(
        ROOT, IMAGES["gpu"], "cuda"
    ).keys()


@every_variant
def test_an_image_reads_a_store_in_a_bucket(image: Image, accelerator: str) -> None:
    names = locked(ROOT, image, accelerator)
    assert "google-cloud-storage" in names
    assert ("prefect-gcp" in names) == (image.name == "orchestrator")  # with Google's client of everything, 0.1 GB


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES.keys())
def test_an_image_has_the_libraries_of_its_stages(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the versions that a stage computes with here: a fingerprint is the same in a container and outside."""
    here = library_versions(stage.libraries)
    monkeypatch.setattr("engine.fingerprint._installed", lambda name: None)
    for accelerator in IMAGES[stage.image].accelerators:
        assert library_versions(stage.libraries, locked(ROOT, IMAGES[stage.image], accelerator)) == here


def test_pins_are_those_of_the_extras_and_of_single_libraries() -> None:
    serve = pins(ROOT, IMAGES["serve"], "cpu")
    assert any(pin.startswith("orjson==") for pin in serve)
    assert not any(pin.startswith(("torch==", "prefect==", "pandas==")) for pin in serve)
    assert next(pin for pin in pins(ROOT, IMAGES["gpu"], "cpu") if pin.startswith("torch==")).endswith("+cpu")
    assert not [pin for pin in pins(ROOT, IMAGES["gpu"], "cuda") if "+" in pin]


def test_a_pin_that_was_changed_is_named_before_anything_is_built(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "images", tmp_path / "images")
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text(text.replace('"orjson==', '"orjson==99'), encoding="utf-8")
    (changed,) = outdated(tmp_path, IMAGES["serve"], "cpu")
    assert changed.startswith("orjson==99")
    with pytest.raises(Exception, match=r"images/locks/serve.txt: pyproject.toml pins orjson==99.*`make images.lock`"):
        build(tmp_path, ["serve"])
