"""A Docker engine for tests, where there is one."""

from __future__ import annotations

from collections.abc import Iterator

import docker
import pytest
from docker import DockerClient
from docker.errors import DockerException, ImageNotFound

IMAGE = "python:3.11-slim-bookworm"  # the one that images/ are made from


def engine_or_skip() -> Iterator[DockerClient]:
    """The engine, closed afterwards; skips the test where none answers or IMAGE isn't there."""
    try:
        engine = docker.from_env()
    except DockerException as error:
        pytest.skip(f"no Docker engine answers ({error})")
    try:
        engine.images.get(IMAGE)
    except ImageNotFound:
        engine.close()
        pytest.skip(f"the Docker engine lacks {IMAGE}")
    yield engine
    engine.close()
