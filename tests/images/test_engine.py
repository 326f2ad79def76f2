"""An engine that hangs, and what is said of the images that it runs."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from engine.errors import RetainError
from images import build as building
from images.build import Pushed, accelerator_of, engine
from images.context import read_context
from images.table import IMAGES
from tests.images.checkouts import copy


def test_an_engine_that_hangs_is_told_before_the_patience_of_a_build(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(building, "ANSWER_S", 0.1)
    monkeypatch.setattr(building, "SILENCE_S", 20)  # an hour, if this test fails
    with socket.socket(socket.AF_UNIX) as hung:
        hung.bind(str(tmp_path / "docker.sock"))
        hung.listen()
        monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
        with pytest.raises(RetainError, match=r"no Docker engine answers at unix://.*timeout=0\.1"), engine():
            pass


def test_the_accelerator_is_that_of_the_image_that_is_run(tmp_path: Path) -> None:
    root = copy(tmp_path / "checkout")
    assert accelerator_of(root, "gpu") == "cpu"  # what `make images` builds here
    tag = read_context(root, IMAGES["gpu"], "cuda").tag
    pushed = Pushed(accelerator="cuda", tag=tag, reference=f"registry/retain/gpu@sha256:{'ab' * 32}")
    building._write_pushed(root, {"gpu": pushed})
    assert accelerator_of(root, "gpu") == "cuda"
    building._write_pushed(root, {"gpu": pushed.model_copy(update={"tag": "of-other-content"})})
    assert accelerator_of(root, "gpu") == "cpu"
