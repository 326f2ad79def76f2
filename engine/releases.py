"""Which release of an experiment is current, and by which version people know it."""

from __future__ import annotations

import shlex
from pathlib import Path

from engine.artifact import MANIFEST, current, parse_manifest
from engine.config import experiment_path, is_path, tag_of
from engine.errors import ArtifactError, RetainError
from engine.store import open_store, store_url

DEFAULT_EXPERIMENT = "local"


def current_release(named: str) -> Path:
    """The folder of the release that completed last in the experiment that EXPERIMENT names. Raises RetainError where
    none did."""
    experiment = tag_of(experiment_path(named)) if is_path(named) else named  # a release needs no file of its name
    store = open_store(store_url())
    folder = current(Path(store.url), experiment).get("release")
    if folder is None:
        run = "make run" if named == DEFAULT_EXPERIMENT else f"make run EXPERIMENT={shlex.quote(named)}"
        raise RetainError(
            f"experiment {experiment} has no release in {store.url}: run `{run}` first, or set RELEASE_PATH"
        )
    return folder


def find(version: str, named: str) -> Path:
    """The folder of the release of that version in the experiment that EXPERIMENT names. Raises RetainError."""
    experiment = tag_of(experiment_path(named)) if is_path(named) else named
    store = open_store(store_url())
    for folder in sorted(Path(store.url, experiment, "release").glob("*")):
        try:
            if version_of(folder) == version:
                return folder
        except (ArtifactError, OSError):
            continue  # not yet complete, or damaged: another one may be it
    raise RetainError(f"release {version} is not in {store.url}/{experiment}/release")


def version_of(release: Path) -> str:
    """The start of the digest of its content, since a release may be copied into a folder of any name. Raises
    ArtifactError, and OSError."""
    manifest = release / MANIFEST
    return parse_manifest(manifest.read_bytes(), str(manifest)).digest[:12]
