"""The release that is tried, as far as a rollout has to know it: its parts, and the limits of what is watched."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from engine.artifact import open_artifact
from engine.errors import ArtifactError, RetainError
from engine.paths import path_of, why_unreadable
from engine.releases import find, version_of
from retain.monitoring import Monitoring
from retain.parts import Part, read_parts

VERSION = re.compile("[0-9a-f]{12}")


class Candidate(NamedTuple):
    """`version`: of a release; `parts`: what it says of them; `limits`: those that it is watched by."""

    version: str
    parts: Mapping[str, Part]
    limits: Monitoring


def named(release: str, experiment: str) -> Candidate:
    """The release of a version, or in a folder, which has to be one of the experiment's in the store, since that is
    where the service looks for it. Raises RetainError."""
    if VERSION.fullmatch(release):
        return of_version(release, experiment)
    folder = path_of("RELEASE", release)
    if os.sep not in release and not folder.is_dir():
        raise RetainError(f"{release!r} is neither the version of a release, 12 digits 0-9a-f, nor a folder")
    try:
        version = version_of(folder)
    except OSError as error:
        raise RetainError(f"{folder}: {why_unreadable(error)}") from None
    return of_version(version, experiment)


def of_version(version: str, experiment: str) -> Candidate:
    """Raises RetainError for a release that isn't there, or whose files are damaged."""
    folder = find(version, experiment)
    try:
        return read_candidate(folder)
    except ArtifactError as error:
        raise RetainError(f"release {version} can't be tried: {error}") from None


def read_candidate(folder: Path) -> Candidate:
    """Of the release in a folder, every file checked against its hash. Raises ArtifactError."""
    files = open_artifact(folder)
    try:
        parts = read_parts(files["release.json"].read_bytes())
        limits = Monitoring.model_validate_json(files["monitoring.json"].read_bytes())
        return Candidate(version_of(folder), parts, limits)
    except KeyError as error:
        raise ArtifactError(f"{folder}: has no {error.args[0]}") from None
    except ValidationError as error:
        raise ArtifactError(f"{folder}: monitoring.json: {error.errors()[0]['msg']}") from None
    except ValueError as error:
        raise ArtifactError(f"{folder}: release.json: {error}") from None
    except OSError as error:
        raise ArtifactError(f"{error.filename or folder}: {why_unreadable(error)}") from None
