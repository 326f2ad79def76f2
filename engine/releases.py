"""Which release of an experiment is current, by which version people know it, and how a machine gets its files."""

from __future__ import annotations

import shlex
from contextlib import suppress
from pathlib import Path

from engine.artifact import MANIFEST, ArtifactStore, parse_manifest
from engine.config import experiment_path, is_path, tag_of
from engine.errors import RetainError
from engine.paths import path_of
from engine.store import check_key, open_store, store_url

DEFAULT_EXPERIMENT = "local"
RELEASE = "release"  # the stage


def current_release(named: str) -> Path:
    """The folder of the release that completed last in the experiment that EXPERIMENT names. Raises RetainError where
    none did."""
    artifacts = _artifacts(named)
    folder = artifacts.folder_of_current(RELEASE)
    if folder is None:
        run = "make run" if named == DEFAULT_EXPERIMENT else f"make run EXPERIMENT={shlex.quote(named)}"
        where = f"experiment {artifacts.experiment} has no release in {artifacts.store.url}"
        raise RetainError(f"{where}: run `{run}` first, or set RELEASE_PATH")
    return folder


def find(version: str, named: str) -> Path:
    """The folder of the release of that version, among those of the experiment that EXPERIMENT names. Raises
    RetainError where there is none.

    It reads every manifest there, and no other file. One that can't be read hides no other.
    """
    artifacts = _artifacts(named)
    versions: dict[str, str] = {}
    for fingerprint in artifacts.fingerprints(RELEASE):
        with suppress(RetainError):  # damaged, or it may not be read
            manifest = artifacts.manifest(RELEASE, fingerprint)
            if manifest is not None:
                versions[manifest.version] = fingerprint
    if version not in versions:
        known = ", ".join(versions) or "none"
        where = f"experiment {artifacts.experiment} has no release {version} in {artifacts.store.url}"
        raise RetainError(f"{where}, which has {known}")
    return artifacts.folder(RELEASE, versions[version])


def folder_of(setting: str, value: str) -> Path:
    """The folder of an artifact that a setting names: by its path, or by its address below that of a store in a bucket,
    from which it is brought to this machine. Raises RetainError."""
    if not value.startswith("gs://"):
        return path_of(setting, value)
    store = open_store(store_url())
    within = value.removeprefix(f"{store.url}/").strip("/")
    try:
        check_key(within)
        experiment, stage, fingerprint = within.split("/")
    except ValueError:
        wanted = f"{store.url}/EXPERIMENT/STAGE/ID" if store.url.startswith("gs://") else "a folder"
        raise RetainError(f"{setting}={value}: is no artifact of RETAIN_STORE; it wants {wanted}") from None
    return ArtifactStore(store, experiment).folder(stage, fingerprint)


def experiment_of(named: str) -> str:
    """The name of the experiment that EXPERIMENT names, by its name or the path of its file. Raises RetainError."""
    return tag_of(experiment_path(named)) if is_path(named) else named  # a release needs no file of its name


def _artifacts(named: str) -> ArtifactStore:
    """Those of the experiment that EXPERIMENT names."""
    return ArtifactStore(open_store(store_url()), experiment_of(named))


def version_of(release: Path) -> str:
    """The start of the digest of its content, since a release may be copied into a folder of any name. Raises
    ArtifactError, and OSError."""
    manifest = release / MANIFEST
    return parse_manifest(manifest.read_bytes(), str(manifest)).version
