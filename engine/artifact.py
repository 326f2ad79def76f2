"""An artifact is a list of hashes. The only writer of artifacts.

Files lie under their sha256; `manifest.json` (path, sha256, bytes) is created last and once, so two attempts can't
mix. Nothing in it depends on when, where or by whom it was made: equal results have equal manifests, and the sha256
of the manifest is what the next stage's fingerprint sees. Beside it lie `identity.json` (what the fingerprint was
made of) and `execution/<number>.json` (time, host, price, log).

Bytes that vary without a reason were measured: JSON from unsorted sets, parquet's `created_by` and pandas' metadata.
ArtifactWriter writes none of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.cache import setting_of
from engine.errors import ArtifactError, RetainError, StoreUnavailable
from engine.faults import fault
from engine.paths import NOT_THERE, why_unreadable, why_unwritable
from engine.store import ABSENT, Conflict, Store, has_sha256, sha256_of

MANIFEST = "manifest.json"
WARNINGS = "warnings.json"


@dataclass(frozen=True)
class File:
    path: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Manifest:
    files: tuple[File, ...]

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.dump()).hexdigest()

    @property
    def version(self) -> str:
        """The name by which people know a release."""
        return self.digest[:12]

    def dump(self) -> bytes:
        files = [{"path": f.path, "sha256": f.sha256, "bytes": f.bytes} for f in self.files]
        return canonical({"files": files})


class ArtifactWriter:
    """Writes the files of one artifact into a folder of the stage's own; the engine publishes them later."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def json(self, name: str, content: Any) -> None:
        """Writes JSON with sorted keys; NaN and infinities, which JSON lacks, raise ValueError."""
        self.bytes(name, canonical(content))

    def warnings(self, warnings: Sequence[str]) -> None:
        """Writes what a reader of the artifact is to be warned of; no file where there is nothing."""
        if warnings:
            self.json(WARNINGS, {"warnings": list(warnings)})

    def bytes(self, name: str, content: bytes) -> None:
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def parquet(self, name: str, columns: Any) -> None:
        """Writes a DataFrame, or a mapping of column names to sequences of one length."""
        import pyarrow as pa  # slow to import, and only stages that write tables need it
        import pyarrow.parquet as pq

        if isinstance(columns, Mapping):
            table = pa.table({key: pa.array(values) for key, values in columns.items()})
        else:
            table = pa.Table.from_pandas(columns, preserve_index=False)
        sink = pa.BufferOutputStream()
        pq.write_table(table.replace_schema_metadata(None), sink, compression="zstd", store_schema=False)
        self.bytes(name, _without_version(sink.getvalue().to_pybytes()))

    def _path(self, name: str) -> Path:
        if not _is_name(name):
            raise ValueError(f"{name!r} is no name of an artifact's file")
        return self.folder / name


def canonical(content: Any) -> bytes:
    """JSON of which there is one for each value: sorted keys, an indent of two spaces, a newline at the end."""
    text = json.dumps(content, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


@dataclass(frozen=True)
class ArtifactStore:
    """The artifacts of one experiment: `<experiment>/<stage>/<fingerprint>/` in a store."""

    store: Store
    experiment: str

    def prefix(self, stage: str, fingerprint: str) -> str:
        """The key below which an artifact, its attempts and its checkpoints lie."""
        return f"{self.experiment}/{stage}/{fingerprint}"

    def manifest(self, stage: str, fingerprint: str) -> Manifest | None:
        """None while there is no such artifact; raises ArtifactError for a manifest that can't be read."""
        key = f"{self.prefix(stage, fingerprint)}/{MANIFEST}"
        stored = self.store.read(key)
        return parse_manifest(stored[0], key) if stored else None

    def publish(self, stage: str, fingerprint: str, folder: Path, check: Callable[[], None] = lambda: None) -> Manifest:
        """Writes the files, then the manifest. If there is a manifest already, that one is the artifact.

        `check` is called before the manifest is written, and raises what keeps it from being written.
        """
        fault("artifact.publish")
        prefix = self.prefix(stage, fingerprint)
        files = []
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            digest = sha256_of(path)
            self.store.put_file(f"{prefix}/files/{digest}", path)
            files.append(File(path.relative_to(folder).as_posix(), digest, path.stat().st_size))
        manifest = Manifest(tuple(files))
        fault("artifact.seal")
        check()
        try:
            self.store.write(f"{prefix}/{MANIFEST}", manifest.dump(), expect=ABSENT)
        except Conflict:
            existing = self.manifest(stage, fingerprint)
            assert existing is not None
            return existing
        fault("artifact.sealed")
        return manifest

    def open(self, stage: str, fingerprint: str, into: Path, *, copied: bool = False) -> Path:
        """A folder of links to the artifact's files, or of copies, each checked against its hash."""
        for file, source in self._checked(stage, fingerprint, into):
            place = into / file.path
            place.parent.mkdir(parents=True, exist_ok=True)
            bring(source, place, copied=copied)
        return into

    def fingerprints(self, stage: str) -> list[str]:
        """The fingerprints of all artifacts of the stage."""
        parts = [key.split("/") for key in self.store.list(f"{self.experiment}/{stage}")]
        return [fingerprint for _, _, fingerprint, *rest in parts if rest == [MANIFEST]]

    def folder(self, stage: str, fingerprint: str) -> Path:
        """Where this machine has the artifact for open_artifact(): in the store's own folder, or in a copy of what lies
        in a bucket, made now unless it was before. Raises StoreUnavailable, and ArtifactError for a damaged one."""
        prefix = self.prefix(stage, fingerprint)
        folder = self.store.here / prefix
        stored = None if (folder / MANIFEST).exists() else self.store.read(f"{prefix}/{MANIFEST}")
        if stored is None:
            return folder
        try:
            (folder / "files").mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                for file, source in self._checked(stage, fingerprint, Path(scratch)):
                    os.replace(source, folder / "files" / file.sha256)
                whole = Path(scratch) / MANIFEST
                whole.write_bytes(stored[0])
                os.replace(whole, folder / MANIFEST)  # last: a folder that has it is whole
        except OSError as error:
            raise StoreUnavailable(
                f"{error.filename or folder}: {why_unwritable(error)}. {setting_of(folder)} may name another folder"
            ) from None
        return folder

    def folder_of_current(self, stage: str) -> Path | None:
        """The folder of the stage's artifact that completed last, or None where none did."""
        fingerprint = self.current().get(stage)
        return None if fingerprint is None else self.folder(stage, fingerprint)

    def verify(self, stage: str, fingerprint: str) -> None:
        """Raises ArtifactError unless every file has the bytes of its hash. Reads all of them: 2 ms a megabyte."""
        with tempfile.TemporaryDirectory() as scratch:
            for _ in self._checked(stage, fingerprint, Path(scratch)):
                pass

    def _checked(self, stage: str, fingerprint: str, scratch: Path) -> Iterator[tuple[File, Path]]:
        """Raises ArtifactError for what is missing or damaged, StoreUnavailable for what can't be read now."""
        manifest = self.manifest(stage, fingerprint)
        prefix = self.prefix(stage, fingerprint)
        if manifest is None:
            raise ArtifactError(f"{prefix}: no such artifact in {self.store.url}")
        for file in manifest.files:
            source = self.store.local(f"{prefix}/files/{file.sha256}", scratch)
            _verify(source, file, f"{self.store.url}/{prefix}", StoreUnavailable)
            yield file, source

    def metrics(self, stage: str, fingerprint: str) -> dict[str, dict[str, Any]]:
        """Content of the artifact's metrics.json; empty if there is none."""
        return self.json(stage, fingerprint, "metrics.json")

    def warnings(self, stage: str, fingerprint: str) -> tuple[str, ...]:
        """What a reader of the artifact is to be warned of, a line each."""
        return tuple(map(str, self.json(stage, fingerprint, WARNINGS).get("warnings", ())))

    def json(self, stage: str, fingerprint: str, name: str) -> dict[str, Any]:
        """Content of a JSON file of the artifact; empty if there is none."""
        manifest = self.manifest(stage, fingerprint)
        prefix = self.prefix(stage, fingerprint)
        for file in manifest.files if manifest else ():
            if file.path == name:
                stored = self.store.read(f"{prefix}/files/{file.sha256}")
                if stored is None or hashlib.sha256(stored[0]).hexdigest() != file.sha256:
                    raise ArtifactError(f"{prefix}: {name} is damaged; remove the artifact and run again")
                content: dict[str, Any] = json.loads(stored[0])
                return content
        return {}

    def current(self) -> dict[str, str]:
        """stage -> fingerprint of the artifact that completed last."""
        return self._current()[0]

    def set_current(self, stage: str, fingerprint: str) -> None:
        while True:
            content, version = self._current()
            if content.get(stage) == fingerprint:
                return
            content[stage] = fingerprint
            try:
                self.store.write(self._current_key, canonical(content), expect=version)
                return
            except Conflict:
                continue

    def _current(self) -> tuple[dict[str, str], str]:
        stored = self.store.read(self._current_key)
        if stored is None:
            return {}, ABSENT
        with suppress(ValueError, AttributeError):  # not JSON, no mapping
            content = {str(stage): str(fingerprint) for stage, fingerprint in json.loads(stored[0]).items()}
            if all(map(_is_name, (*content, *content.values()))):
                return content, stored[1]
        where = f"{self.store.url}/{self._current_key}"
        raise ArtifactError(f"{where}: not a list of what completed last; remove it and run again")

    @property
    def _current_key(self) -> str:
        return f"{self.experiment}/current.json"


def open_artifact(folder: Path) -> dict[str, Path]:
    """name -> file of the artifact in `folder`, every file checked against its hash. Raises ArtifactError."""
    files, damaged = open_whole_files(folder)
    for problem in damaged.values():
        raise problem
    return files


def open_whole_files(folder: Path) -> tuple[dict[str, Path], dict[str, ArtifactError]]:
    """name -> file of those files of an artifact that have the bytes of their hash, and name -> what is wrong with the
    others. Raises ArtifactError for what is no artifact."""
    path = folder / MANIFEST
    try:
        content = path.read_bytes()
    except (*NOT_THERE, IsADirectoryError):
        raise ArtifactError(
            f"{folder}: holds no {MANIFEST}, so it is no artifact (or not yet a complete one)"
        ) from None
    except OSError as error:
        raise ArtifactError(f"{path}: {why_unreadable(error)}") from None
    files, damaged = {}, {}
    for file in parse_manifest(content, str(path)).files:
        source = folder / "files" / file.sha256
        try:
            _verify(source, file, str(folder))
        except ArtifactError as error:
            damaged[file.path] = error
        else:
            files[file.path] = source
    return files, damaged


def parse_manifest(data: bytes, where: str) -> Manifest:
    try:
        files = tuple(File(str(f["path"]), str(f["sha256"]), int(f["bytes"])) for f in json.loads(data)["files"])
        if len({file.path for file in files}) != len(files):
            raise ValueError
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise ArtifactError(f"{where}: not a manifest; remove the artifact and run again") from None
    for file in files:
        if not _is_name(file.path) or not re.fullmatch(r"[0-9a-f]{64}", file.sha256):
            raise ArtifactError(f"{where}: names a file outside the artifact ({file.path!r}); do not use it")
    return Manifest(files)


def _is_name(text: str) -> bool:
    """Whether it is a relative path without empty, `.` or `..` parts, so that each file has one name only."""
    return "\0" not in text and not {"", ".", ".."}.intersection(text.split("/"))


def bring(source: Path, place: Path, *, copied: bool) -> None:
    """Makes `place` a link to a file of the store, or a copy of it. Raises StoreUnavailable."""
    if not copied:
        place.symlink_to(source)
        return
    try:
        shutil.copyfile(source, place)
    except OSError as error:
        raise StoreUnavailable(f"{source}: can't be copied to {place} ({error.strerror or error})") from None


def _verify(path: Path, file: File, where: str, unreadable: type[RetainError] = ArtifactError) -> None:
    try:
        whole = has_sha256(path, file.sha256)
    except OSError as error:
        raise unreadable(f"{where}: {file.path} {why_unreadable(error)}") from None
    if not whole:
        raise ArtifactError(f"{where}: {file.path} is missing or damaged; remove the artifact and run again")


def _without_version(data: bytes) -> bytes:
    """Parquet's footer names the library's version in `created_by`; its digits become zeros, its length stays."""
    footer = data.rfind(b"parquet-cpp-arrow version ")
    end = footer + len(b"parquet-cpp-arrow version ")
    if footer < 0:
        return data
    version = re.match(rb"[0-9.]+", data[end:])
    zeros = re.sub(rb"[0-9]", b"0", version.group()) if version else b""
    return data[:end] + zeros + data[end + len(zeros) :]
