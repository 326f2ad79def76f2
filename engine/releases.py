"""Which release of an experiment is current, and by which version people know it."""

from __future__ import annotations

import shlex
from contextlib import suppress
from pathlib import Path

from engine.artifact import MANIFEST, current, parse_manifest
from engine.config import experiment_path, is_path, tag_of
from engine.errors import ArtifactError, RetainError
from engine.paths import NOT_THERE, why_unreadable
from engine.store import open_store, store_url

DEFAULT_EXPERIMENT = "local"


def current_release(named: str) -> Path:
    """The folder of the release that completed last in the experiment that EXPERIMENT names. Raises RetainError where
    none did."""
    experiment, root = _place(named)
    folder = current(root, experiment).get("release")
    if folder is None:
        run = "make run" if named == DEFAULT_EXPERIMENT else f"make run EXPERIMENT={shlex.quote(named)}"
        raise RetainError(f"experiment {experiment} has no release in {root}: run `{run}` first, or set RELEASE_PATH")
    return folder


def find(version: str, named: str) -> Path:
    """The folder of the release of that version, among those of the experiment that EXPERIMENT names. Raises
    RetainError where there is none.

    It reads every manifest there, and no other file: 0.1 ms each. One that can't be read hides no other.
    """
    experiment, root = _place(named)
    here = root / experiment / "release"
    try:
        folders = sorted(here.iterdir())
    except NOT_THERE:
        folders = []
    except OSError as error:
        raise RetainError(f"{here}: {why_unreadable(error)}") from None
    versions = {}
    for folder in folders:
        with suppress(ArtifactError, OSError):  # no release, not yet a whole one, or damaged
            versions[version_of(folder)] = folder
    if version not in versions:
        known = ", ".join(versions) or "none"
        raise RetainError(f"experiment {experiment} has no release {version} in {root}, which has {known}")
    return versions[version]


def experiment_of(named: str) -> str:
    """The name of the experiment that EXPERIMENT names, by its name or the path of its file. Raises RetainError."""
    return tag_of(experiment_path(named)) if is_path(named) else named  # a release needs no file of its name


def _place(named: str) -> tuple[str, Path]:
    """The name of the experiment that EXPERIMENT names, and the store's folder."""
    return experiment_of(named), Path(open_store(store_url()).url)


def version_of(release: Path) -> str:
    """The start of the digest of its content, since a release may be copied into a folder of any name. Raises
    ArtifactError, and OSError."""
    manifest = release / MANIFEST
    return parse_manifest(manifest.read_bytes(), str(manifest)).digest[:12]
