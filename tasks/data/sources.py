"""Where each table comes from: a folder, else its public download, else a seeded generator.

A folder that is named has to be there; a file that is not in it is looked for elsewhere, and the note says
so. The download is verified against the pinned sha256 before anything else sees it, and kept in a cache
under its hash.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import threading
import time
import urllib.request
import zipfile
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from engine.errors import DataError, RetainError
from retain.dataset import DatasetSpec
from tasks.data.synthetic import GENERATOR_VERSION

# A table or archive above this is not one of those described: memory is spent on no mistake, nor on a zip
# bomb.
LARGEST_BYTES = 512 * 2**20
# Once a server answers, the download may take this long in all; each read at most the budget for being
# offline.
DOWNLOAD_S = 300.0


@dataclass(frozen=True)
class Source:
    """One table's source. `path` is the decompressed CSV, `sha256` that of its bytes; both None if synthetic.

    `note` says in a line what was found and what was not; of a synthetic source, why it is one or would be.
    """

    kind: Literal["folder", "download", "synthetic"]
    path: Path | None
    sha256: str | None
    note: str

    @property
    def digest(self) -> str:
        """The source's part of a fingerprint; of a synthetic one, without the seed."""
        return f"synthetic:v{GENERATOR_VERSION}" if self.sha256 is None else f"sha256:{self.sha256}"


def resolve(
    specs: Mapping[str, DatasetSpec], data_dir: Path | None, cache: Path, offline_budget_s: float = 10.0
) -> dict[str, Source]:
    """The source of each stage's table. Raises DataError for a folder that isn't there or a file it can't read.

    Takes at most `offline_budget_s` for all tables together when no server answers.
    """
    if data_dir is not None and not data_dir.is_dir():
        raise DataError(
            f"RETAIN_DATA_DIR is {data_dir}: no such folder. Name the folder that holds the data, or unset it"
        )
    found: dict[str, Source] = {}
    notes: dict[str, list[str]] = {stage: [] for stage in specs}
    for stage, spec in specs.items():
        source = _from_folder(spec, data_dir, cache, notes[stage]) or _from_cache(spec, cache, notes[stage])
        if source is not None:
            found[stage] = source
    missing = {stage: spec for stage, spec in specs.items() if stage not in found}
    if missing:
        found |= _download(missing, cache, offline_budget_s, notes)
    for stage in missing.keys() - found.keys():
        found[stage] = Source("synthetic", None, None, "; ".join(notes[stage]))
    return {stage: found[stage] for stage in specs}


def _from_folder(spec: DatasetSpec, data_dir: Path | None, cache: Path, notes: list[str]) -> Source | None:
    if data_dir is None:
        notes.append("RETAIN_DATA_DIR is not set")
        return None
    names = [*spec.source.files, *(f"{name}.gz" for name in spec.source.files if not name.endswith(".gz"))]
    # A link that leads nowhere is a file that can't be read, not one that was never there.
    path = next((data_dir / name for name in names if os.path.lexists(data_dir / name)), None)
    if path is None:
        notes.append(f"{data_dir} has no {spec.source.files[0]}")
        return None
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror}). Mend that, or move it out of the folder") from None
    if path.suffix == ".gz":
        try:
            content = gzip.GzipFile(fileobj=io.BytesIO(content)).read(LARGEST_BYTES + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(
                f"{path}: not a whole gzip file ({error}). It was cut short or damaged on its way; get it again"
            ) from None
    if len(content) > LARGEST_BYTES:
        raise DataError(f"{path}: holds more than {LARGEST_BYTES:,} bytes: no table as described. Give a smaller one")
    digest = hashlib.sha256(content).hexdigest()
    if digest != spec.source.sha256:
        notes.append(f"{path} is not the published file (sha256 {digest[:12]}...): taken as your own data")
    else:
        notes.append(str(path))
    return Source("folder", _keep(content, digest, cache) if path.suffix == ".gz" else path, digest, "; ".join(notes))


def _from_cache(spec: DatasetSpec, cache: Path, notes: list[str]) -> Source | None:
    path = cache / f"{spec.source.sha256}.csv"
    try:
        if hashlib.sha256(path.read_bytes()).hexdigest() != spec.source.sha256:
            return None
    except OSError:
        return None
    return Source(
        "download", path, spec.source.sha256, "; ".join([*notes, f"downloaded before from {spec.source.url}"])
    )


@dataclass
class _Fetch:
    """One download in a thread of its own, so that a name server that hangs holds nobody up."""

    spec: DatasetSpec
    timeout_s: float
    content: bytes | None = None
    problem: str = "no answer"
    answered: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        try:
            with urllib.request.urlopen(self.spec.source.url, timeout=self.timeout_s) as response:
                self.answered.set()
                content = response.read(LARGEST_BYTES + 1)
            if len(content) > LARGEST_BYTES:
                raise ValueError("larger than any table here")
            self.content = _member(content, self.spec.source.members)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            self.problem = str(getattr(error, "reason", error)) or type(error).__name__
        finally:
            self.answered.set()
            self.ended.set()


def _download(
    specs: Mapping[str, DatasetSpec], cache: Path, budget_s: float, notes: Mapping[str, list[str]]
) -> dict[str, Source]:
    started = time.monotonic()
    fetches = {stage: _Fetch(spec, budget_s) for stage, spec in specs.items()}
    for fetch in fetches.values():
        threading.Thread(target=fetch.run, daemon=True).start()
    found = {}
    for stage, fetch in fetches.items():
        spec, note = specs[stage], notes[stage]
        if fetch.answered.wait(max(0.0, started + budget_s - time.monotonic())):
            fetch.ended.wait(max(0.0, started + DOWNLOAD_S - time.monotonic()))
        if fetch.content is None:
            note.append(f"{spec.source.url}: {fetch.problem}")
            continue
        digest = hashlib.sha256(fetch.content).hexdigest()
        if digest != spec.source.sha256:
            note.append(f"{spec.source.url} served something else (sha256 {digest[:12]}...): not used")
            continue
        note.append(f"downloaded from {spec.source.url}")
        found[stage] = Source("download", _keep(fetch.content, digest, cache), digest, "; ".join(note))
    return found


def _member(content: bytes, members: tuple[str, ...]) -> bytes:
    """The bytes at the end of the way through nested zip files."""
    for member in members:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if archive.getinfo(member).file_size > LARGEST_BYTES:
                raise ValueError(f"{member} is larger than any table here")
            content = archive.read(member)
    return content


def _keep(content: bytes, digest: str, cache: Path) -> Path:
    """Writes the bytes under their hash: aside, to disk, then in place, so that a name never holds half a file."""
    path = cache / f"{digest}.csv"
    aside = cache / f"{digest}.{os.getpid()}.part"
    try:
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digest:
            return path
        cache.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        with suppress(OSError):
            aside.unlink()
        raise RetainError(
            f"{cache}: a table of {len(content):,} bytes can't be kept there ({error.strerror}). "
            "Make room, or name a folder that can be written to in RETAIN_STORE"
        ) from None
    return path
