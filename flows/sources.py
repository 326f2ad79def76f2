"""Where each file that a stage reads comes from: the data folder, an installed package, or its public download.

What a stage makes up where there is no file is its own business; here it is only said that there is none, and why. A
data folder that is named has to exist, here or in a bucket; a file that is not in it is looked for elsewhere, and the
note says so.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, cast

from engine.errors import DataError
from engine.paths import NOT_THERE, is_folder, why_unreadable
from engine.store import sha256_of
from flows.data_folder import BucketFile, DataFolder
from flows.download import Kept, Key, TooLarge, cached_name, download, keep, unanswered
from flows.wanted import TABLE, Wanted
from tasks.data import synthetic, synthetic_text

Kind = Literal["folder", "bucket", "download", "package"]


@dataclass(frozen=True)
class SourceFile:
    """A file that is there, decompressed; `sha256` is that of its bytes."""

    name: str
    kind: Kind
    path: Path
    sha256: str


@dataclass(frozen=True)
class Source:
    """What a stage reads: `files` in the order in which they are wanted, those that are `missing`, and a `note` that
    says in a line what is there and what is not. Without files the data is synthetic: `generator` is its version."""

    files: tuple[SourceFile, ...]
    missing: Mapping[str, str]  # name in the data folder -> what was tried
    note: str
    generator: str | None = None

    @property
    def kind(self) -> str:
        return " and ".join(dict.fromkeys(file.kind for file in self.files)) or "synthetic"

    @property
    def path(self) -> Path | None:
        """Path of the first file: tables have only one."""
        return self.files[0].path if self.files else None

    @property
    def sha256(self) -> str | None:
        """Hash of the first file: tables have only one."""
        return self.files[0].sha256 if self.files else None

    @property
    def digest(self) -> str:
        """The source's part of a fingerprint: names and bytes, in order; of synthetic data, without the seed."""
        if not self.files:
            return str(self.generator)
        listed = json.dumps([[file.name, file.sha256] for file in self.files])
        return f"sha256:{hashlib.sha256(listed.encode()).hexdigest()}"


def lacking(
    wanted: Mapping[str, Sequence[Wanted]], data_dir: DataFolder, cache: Path, budget_s: float = 10.0
) -> dict[str, dict[str, str]]:
    """stage -> name in the data folder -> what was tried: files that are neither here nor on a server that answers.

    Only names are looked at: no file is read and none downloaded, so it takes `budget_s` at most.
    """
    _check_folder(data_dir)
    notes: dict[Key, list[str]] = {}
    elsewhere: dict[Key, Wanted] = {}
    for key, file in _keyed(wanted):
        notes[key] = []
        if not _is_here(file, data_dir, cache, notes[key]):
            elsewhere[key] = file
    problems = unanswered(_with_address(elsewhere, notes), cache, budget_s)
    gone: dict[str, dict[str, str]] = {stage: {} for stage in wanted}
    for key, file in elsewhere.items():
        if file.url is None or key in problems:
            tried = [*notes[key], *([problems[key]] if key in problems else [])]
            gone[key[0]][file.names[0]] = "; ".join(tried)
    return gone


def unobtainable(files: Sequence[Wanted], data_dir: DataFolder, cache: Path) -> bool:
    """Whether one of them is not here and has no public address either. No file is read."""
    return any(file.url is None and not _is_here(file, data_dir, cache, []) for file in files)


def resolve(
    wanted: Mapping[str, Sequence[Wanted]],
    data_dir: DataFolder,
    cache: Path,
    offline_budget_s: float = 10.0,
    *,
    given_up: Mapping[str, Mapping[str, str]] | None = None,
) -> dict[str, Source]:
    """The source of each stage. Raises DataError for a folder that isn't there or a file it can't read.

    Takes at most `offline_budget_s` for all files together when no server answers. `given_up` is what lacking() said:
    the servers of those files are not asked again.
    """
    _check_folder(data_dir)
    there: dict[Key, SourceFile] = {}
    notes: dict[Key, list[str]] = {}
    elsewhere: dict[Key, Wanted] = {}
    for key, file in _keyed(wanted):
        notes[key] = []
        here = _here(file, data_dir, cache, notes[key])
        if here is not None:
            there[key] = here
        elif tried := (given_up or {}).get(key[0], {}).get(file.names[0]):
            notes[key] = [tried]
        else:
            elsewhere[key] = file
    kept, problems = download(_with_address(elsewhere, notes), cache, offline_budget_s)
    for key, problem in problems.items():
        notes[key].append(problem)
    for key, copy in kept.items():
        notes[key].append(f"downloaded from {elsewhere[key].url}")
        there[key] = _source_file(elsewhere[key], "download", copy)
    return {stage: _source(stage, files, there, notes) for stage, files in wanted.items()}


def _source(
    stage: str, files: Sequence[Wanted], there: Mapping[Key, SourceFile], notes: Mapping[Key, Sequence[str]]
) -> Source:
    keys = [(stage, position) for position in range(len(files))]
    tried = {key: "; ".join(notes[key]) for key in keys}
    missing = {files[key[1]].names[0]: tried[key] for key in keys if key not in there}
    if any(key in there for key in keys):
        lines = [tried[key] if key in there else f"without {tried[key]}" for key in keys]
    else:
        lines = [line for key in keys for line in notes[key]]
    note = "; ".join(dict.fromkeys(lines))
    return Source(tuple(there[key] for key in keys if key in there), missing, note, _generator(files))


def _keyed(wanted: Mapping[str, Sequence[Wanted]]) -> Iterator[tuple[Key, Wanted]]:
    for stage, files in wanted.items():
        for position, file in enumerate(files):
            yield (stage, position), file


def _with_address(elsewhere: Mapping[Key, Wanted], notes: Mapping[Key, list[str]]) -> dict[Key, Wanted]:
    """Those that have a public address; the notes of the others say that they have none."""
    for key, file in elsewhere.items():
        if file.url is None and file.package is None:
            notes[key].append("no public address is stated")
    return {key: file for key, file in elsewhere.items() if file.url is not None}


def _source_file(file: Wanted, kind: Kind, copy: Kept) -> SourceFile:
    return SourceFile(file.name, kind, copy.path, copy.sha256)


def _check_folder(data_dir: DataFolder) -> None:
    if not isinstance(data_dir, Path):
        return
    try:
        is_there = is_folder(data_dir)
    except OSError as error:
        raise DataError(f"RETAIN_DATA_DIR is {data_dir}: {why_unreadable(error)}") from None
    if not is_there:
        raise DataError(
            f"RETAIN_DATA_DIR is {data_dir}: no such folder. Name the folder that holds the data, or unset it"
        )


def _generator(files: Sequence[Wanted]) -> str:
    if [file.name for file in files] == [TABLE]:
        return f"synthetic:v{synthetic.GENERATOR_VERSION}"
    return f"synthetic text:v{synthetic_text.GENERATOR_VERSION}"


def _is_here(file: Wanted, data_dir: DataFolder, cache: Path, notes: list[str]) -> bool:
    """Whether there is a file of the name where `_here` would read one."""
    if file.package is not None:
        return _in_package(file, notes) is not None
    return _in_folder(file, data_dir, notes) is not None or (_is_kept(file) and (cache / cached_name(file)).is_file())


def _here(file: Wanted, data_dir: DataFolder, cache: Path, notes: list[str]) -> SourceFile | None:
    """On this machine: in a package, in the folder, or downloaded before."""
    if file.package is not None:
        return _from_package(file, notes)
    return _from_folder(file, data_dir, cache, notes) or _from_cache(file, cache, notes)


def _is_kept(file: Wanted) -> bool:
    """Whether a download of the file would have a name of its own in the cache."""
    return file.url is not None or file.sha256 is not None


def _in_package(file: Wanted, notes: list[str]) -> Path | None:
    assert file.package is not None
    spec = importlib.util.find_spec(file.package)  # finds it without importing it
    if spec is None or not spec.submodule_search_locations:
        notes.append(f"the Python package {file.package} is not installed")
        return None
    path = Path(spec.submodule_search_locations[0]).parent / file.name
    if not path.is_file():
        notes.append(f"the Python package {file.package} holds no {file.name.partition('/')[2]}")
        return None
    return path


def _from_package(file: Wanted, notes: list[str]) -> SourceFile | None:
    path = _in_package(file, notes)
    if path is None:
        return None
    digest = sha256_of(path)
    if file.sha256 not in (None, digest):
        notes.append(f"{path} is not the published file (sha256 {digest[:12]}...): not used")
        return None
    notes.append(f"in the Python package {file.package}")
    return SourceFile(file.name, "package", path, digest)


def _in_folder(file: Wanted, data_dir: DataFolder, notes: list[str]) -> Path | BucketFile | None:
    """Where the file is: under one of its names in the data folder, or at the absolute path that is its name."""
    names = [*file.names, *(f"{name}.gz" for name in file.names if not name.endswith(".gz"))]
    own = [Path(os.path.expanduser(name)) for name in names]
    found = next((each for each in (_found(path, data_dir) for path in own) if each is not None), None)
    if found is None and own[0].is_absolute():
        notes.append(f"{own[0]} does not exist")
    elif found is None:
        notes.append("RETAIN_DATA_DIR is not set" if data_dir is None else f"{data_dir} has no {file.names[0]}")
    return found


def _found(path: Path, data_dir: DataFolder) -> Path | BucketFile | None:
    if isinstance(data_dir, Path):
        path = data_dir / path  # which leaves an absolute one as it is
    elif not path.is_absolute():
        return None if data_dir is None else data_dir.find(path.as_posix())
    # A link that leads nowhere is a file that can't be read, not one that was never there.
    return path if _is_there(path) else None


def _is_there(path: Path) -> bool:
    try:
        path.lstat()
    except NOT_THERE:
        return False
    except OSError as error:
        raise DataError(f"{path}: {why_unreadable(error)}") from None
    return True


def _from_folder(file: Wanted, data_dir: DataFolder, cache: Path, notes: list[str]) -> SourceFile | None:
    found = _in_folder(file, data_dir, notes)
    if found is None:
        return None
    try:
        copy = _copy(found, cache, file)
    except TooLarge:
        raise DataError(
            f"{found}: holds more than {file.max_bytes:,} bytes: no such file as described. Give a smaller one"
        ) from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(
            f"{found}: not a whole gzip file ({error}). It was cut short or damaged on its way; get it again"
        ) from None
    except OSError as error:
        raise DataError(f"{found}: can't be read ({error.strerror}). Mend that, or move it out of the folder") from None
    if file.sha256 in (None, copy.sha256):
        notes.append(str(found))
    elif file.exact:
        notes.append(f"{found} is not the published file (sha256 {copy.sha256[:12]}...): not used")
        return None
    else:
        notes.append(f"{found} is not the published file (sha256 {copy.sha256[:12]}...): taken as your own data")
    return _source_file(file, "folder" if isinstance(found, Path) else "bucket", copy)


def _copy(found: Path | BucketFile, cache: Path, file: Wanted) -> Kept:
    """The file on this machine, decompressed. Raises TooLarge, OSError, and what gzip raises."""
    if isinstance(found, BucketFile):
        if found.size > file.max_bytes:
            raise TooLarge
        copy = found.bring()
        return _unzipped(copy.path, cache, file) if found.zipped else copy
    if found.suffix == ".gz":
        return _unzipped(found, cache, file)
    copy = Kept(found, sha256_of(found))
    if found.stat().st_size > file.max_bytes:
        raise TooLarge
    return copy


def _unzipped(path: Path, cache: Path, file: Wanted) -> Kept:
    with path.open("rb") as content, gzip.GzipFile(fileobj=content) as unzipped:
        return keep(cast(BinaryIO, unzipped), cache, file, ".part")


def _from_cache(file: Wanted, cache: Path, notes: list[str]) -> SourceFile | None:
    if not _is_kept(file):
        return None
    path = cache / cached_name(file)
    try:
        digest = sha256_of(path)
    except OSError:
        return None
    if file.sha256 not in (None, digest):
        return None
    notes.append(f"downloaded before from {file.url}")
    return SourceFile(file.name, "download", path, digest)
