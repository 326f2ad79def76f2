"""Where each file that a stage reads comes from: a folder, else its public download; of a package, its folder.

What a table or a text is made up of where there is no file is the stage's business; here it is only said that there is
none, and why. A folder that is named has to be there; a file that is not in it is looked for elsewhere, and the note
says so. A download is verified against the pinned sha256, where one is pinned, before anything else sees it, and kept
in a cache. Files are read in pieces: weights and texts may be larger than memory.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import importlib.util
import io
import json
import os
import threading
import time
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, cast

from engine.errors import DataError, RetainError
from retain.dataset import DatasetSpec
from tasks.data import synthetic, synthetic_text

if TYPE_CHECKING:
    from tasks.config import BaseConfig, DialoguesConfig, PreferencesConfig

# What is above these is not one of those described: memory and disk are spent on no mistake, nor on a zip bomb.
LARGEST_BYTES = 512 * 2**20  # of a table
LARGEST_TEXT = 8 * 2**30
LARGEST_WEIGHTS = 32 * 2**30
# Once a server answers, the downloads may take this long in all; each read at most the budget for being offline.
DOWNLOAD_S = 1800.0
PIECE = 2**20
TABLE = "source.csv"  # what a stage finds a table under


@dataclass(frozen=True)
class Wanted:
    """A file that a stage reads as inputs["source"]/`name`, and where it may be.

    `names`: in the data folder, each also with `.gz`; `package`: in that installed Python package instead. A file of
    another hash than `sha256` is the user's own data, unless `exact`.
    """

    name: str
    names: tuple[str, ...]
    url: str | None
    sha256: str | None
    members: tuple[str, ...] = ()
    package: str | None = None
    exact: bool = False
    largest: int = LARGEST_BYTES


@dataclass(frozen=True)
class Found:
    """A file that is there, decompressed; `sha256` is that of its bytes."""

    name: str
    kind: Literal["folder", "download", "package"]
    path: Path
    sha256: str


@dataclass(frozen=True)
class Source:
    """What a stage reads: `files` in the order in which they are wanted, those that are `missing`, and a `note` that
    says in a line what was found and what was not. Without files it is synthetic: `generator` says which version."""

    files: tuple[Found, ...]
    missing: Mapping[str, str]  # name in the data folder -> what was tried
    note: str
    generator: str | None = None

    @property
    def kind(self) -> str:
        return " and ".join(dict.fromkeys(file.kind for file in self.files)) or "synthetic"

    @property
    def path(self) -> Path | None:
        """Of a source of one file, as tables are."""
        return self.files[0].path if self.files else None

    @property
    def sha256(self) -> str | None:
        return self.files[0].sha256 if self.files else None

    @property
    def digest(self) -> str:
        """The source's part of a fingerprint: names and bytes, in order; of a synthetic one, without the seed."""
        if not self.files:
            return str(self.generator)
        listed = json.dumps([[file.name, file.sha256] for file in self.files])
        return f"sha256:{hashlib.sha256(listed.encode()).hexdigest()}"


def table(spec: DatasetSpec) -> tuple[Wanted, ...]:
    source = spec.source
    return (Wanted(TABLE, source.files, source.url, source.sha256, source.members),)


def text(config: DialoguesConfig | PreferencesConfig) -> tuple[Wanted, ...]:
    return tuple(Wanted(f.names[0], f.names, f.url, f.sha256, largest=LARGEST_TEXT) for f in config.files)


def weights(config: BaseConfig) -> tuple[Wanted, ...]:
    """None for weights that are made here."""
    if config.weights == "package":
        return tuple(
            Wanted(f.name, (f.name,), f.url, f.sha256, package=f.name.partition("/")[0], exact=True)
            for f in config.files
        )
    if config.weights == "hub":
        return tuple(
            Wanted(f.name, (f"{config.model}/{f.name}",), f.url, f.sha256, exact=True, largest=LARGEST_WEIGHTS)
            for f in config.files
        )
    return ()


def lacking(
    wanted: Mapping[str, Sequence[Wanted]], data_dir: Path | None, cache: Path, budget_s: float = 10.0
) -> dict[str, dict[str, str]]:
    """stage -> name in the data folder -> what was tried: files that are neither here nor on a server that answers.

    Told by names alone: no file is read and none downloaded, so it takes `budget_s` at most, whatever lies here.
    """
    _check_folder(data_dir)
    notes: dict[tuple[str, int], list[str]] = {}
    absent: dict[tuple[str, int], Wanted] = {}
    for stage, files in wanted.items():
        for index, file in enumerate(files):
            note = notes[stage, index] = []
            if not _is_here(file, data_dir, cache, note):
                absent[stage, index] = file
    there = _download(absent, {}, cache, budget_s, notes, probe=True)
    gone: dict[str, dict[str, str]] = {stage: {} for stage in wanted}
    for key, file in absent.items():
        if key not in there:
            gone[key[0]][file.names[0]] = "; ".join(notes[key])
    return gone


def unobtainable(files: Sequence[Wanted], data_dir: Path | None, cache: Path) -> bool:
    """Whether one of them is not here and has no address either. No file is read."""
    return any(file.url is None and not _is_here(file, data_dir, cache, []) for file in files)


def resolve(
    wanted: Mapping[str, Sequence[Wanted]],
    data_dir: Path | None,
    cache: Path,
    offline_budget_s: float = 10.0,
    *,
    given_up: Mapping[str, Mapping[str, str]] | None = None,
) -> dict[str, Source]:
    """The source of each stage. Raises DataError for a folder that isn't there or a file it can't read.

    Takes at most `offline_budget_s` for all files together when no server answers. Servers of what `lacking` has
    `given_up` are not asked again.
    """
    _check_folder(data_dir)
    found: dict[tuple[str, int], Found] = {}
    notes: dict[tuple[str, int], list[str]] = {}
    missing: dict[tuple[str, int], Wanted] = {}
    for stage, files in wanted.items():
        for index, file in enumerate(files):
            note = notes[stage, index] = []
            there = _here(file, data_dir, cache, note)
            if there is not None:
                found[stage, index] = there
            elif tried := (given_up or {}).get(stage, {}).get(file.names[0]):
                notes[stage, index] = [tried]
            else:
                missing[stage, index] = file
    _download(missing, found, cache, offline_budget_s, notes, probe=False)
    sources = {}
    for stage, files in wanted.items():
        keys = [(stage, index) for index in range(len(files))]
        gone = {files[key[1]].names[0]: "; ".join(notes[key]) for key in keys if key not in found}
        lines = ["; ".join(notes[key]) if key in found else "without " + "; ".join(notes[key]) for key in keys]
        whole = (
            "; ".join(dict.fromkeys(lines))
            if any(key in found for key in keys)
            else "; ".join(dict.fromkeys(line for key in keys for line in notes[key]))
        )
        sources[stage] = Source(tuple(found[key] for key in keys if key in found), gone, whole, _generator(files))
    return sources


def _check_folder(data_dir: Path | None) -> None:
    if data_dir is not None and not data_dir.is_dir():
        raise DataError(
            f"RETAIN_DATA_DIR is {data_dir}: no such folder. Name the folder that holds the data, or unset it"
        )


def _generator(files: Sequence[Wanted]) -> str:
    if [file.name for file in files] == [TABLE]:
        return f"synthetic:v{synthetic.GENERATOR_VERSION}"
    return f"synthetic text:v{synthetic_text.GENERATOR_VERSION}"


def _is_here(file: Wanted, data_dir: Path | None, cache: Path, notes: list[str]) -> bool:
    """Whether there is a file of the name where `_here` would read one."""
    if file.package is not None:
        return _in_package(file, notes) is not None
    return _in_folder(file, data_dir, notes) is not None or (cache / _cached(file)).is_file()


def _here(file: Wanted, data_dir: Path | None, cache: Path, notes: list[str]) -> Found | None:
    """On this machine: in a package, in the folder, or downloaded before."""
    if file.package is not None:
        return _from_package(file, notes)
    return _from_folder(file, data_dir, cache, notes) or _from_cache(file, cache, notes)


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


def _from_package(file: Wanted, notes: list[str]) -> Found | None:
    path = _in_package(file, notes)
    if path is None:
        return None
    digest = _sha256(path)
    if file.sha256 not in (None, digest):
        notes.append(f"{path} is not the published file (sha256 {digest[:12]}...): not used")
        return None
    notes.append(f"in the Python package {file.package}")
    return Found(file.name, "package", path, digest)


def _in_folder(file: Wanted, data_dir: Path | None, notes: list[str]) -> Path | None:
    if data_dir is None:
        notes.append("RETAIN_DATA_DIR is not set")
        return None
    names = [*file.names, *(f"{name}.gz" for name in file.names if not name.endswith(".gz"))]
    # A link that leads nowhere is a file that can't be read, not one that was never there.
    path = next((data_dir / name for name in names if os.path.lexists(data_dir / name)), None)
    if path is None:
        notes.append(f"{data_dir} has no {file.names[0]}")
    return path


def _from_folder(file: Wanted, data_dir: Path | None, cache: Path, notes: list[str]) -> Found | None:
    path = _in_folder(file, data_dir, notes)
    if path is None:
        return None
    kept, digest = path, ""
    try:
        with path.open("rb") as content:
            if path.suffix == ".gz":
                with gzip.GzipFile(fileobj=content) as unzipped:
                    kept, digest = _keep(cast(BinaryIO, unzipped), cache, file, ".part")
            else:
                digest = _sha256(path)
                if path.stat().st_size > file.largest:
                    raise _TooLarge
    except _TooLarge:
        raise DataError(
            f"{path}: holds more than {file.largest:,} bytes: no such file as described. Give a smaller one"
        ) from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(
            f"{path}: not a whole gzip file ({error}). It was cut short or damaged on its way; get it again"
        ) from None
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror}). Mend that, or move it out of the folder") from None
    if file.sha256 in (None, digest):
        notes.append(str(path))
    elif file.exact:
        notes.append(f"{path} is not the published file (sha256 {digest[:12]}...): not used")
        return None
    else:
        notes.append(f"{path} is not the published file (sha256 {digest[:12]}...): taken as your own data")
    return Found(file.name, "folder", kept, digest)


def _from_cache(file: Wanted, cache: Path, notes: list[str]) -> Found | None:
    path = cache / _cached(file)
    try:
        digest = _sha256(path)
    except OSError:
        return None
    if file.sha256 not in (None, digest):
        return None
    notes.append(f"downloaded before from {file.url}")
    return Found(file.name, "download", path, digest)


def _cached(file: Wanted, digest: str | None = None) -> str:
    """A file's name in the cache: its hash, or that of its address where the publisher states no hash."""
    known = digest or file.sha256 or f"url-{hashlib.sha256(str(file.url).encode()).hexdigest()}"
    return known + Path(file.name).suffix


class _TooLarge(Exception):
    pass


@dataclass
class _Fetch:
    """One download in a thread of its own, so that a name server that hangs holds nobody up."""

    file: Wanted
    cache: Path
    timeout_s: float
    probe: bool
    kept: tuple[Path, str] | None = None
    there: bool = False
    problem: str = "no answer"
    broken: RetainError | None = None
    abandoned: threading.Event = field(default_factory=threading.Event)
    answered: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        try:
            with urllib.request.urlopen(str(self.file.url), timeout=self.timeout_s) as response:
                self.there = True
                self.answered.set()
                if not self.probe:
                    self.kept = self._body(response)
        except _TooLarge:
            self.problem = "larger than any file here"
        except RetainError as error:
            self.broken = error
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            self.problem = str(getattr(error, "reason", error)) or type(error).__name__
        finally:
            self.answered.set()
            self.ended.set()

    def _body(self, response: BinaryIO) -> tuple[Path, str]:
        file = self.file
        if file.members:
            content = response.read(file.largest + 1)
            if len(content) > file.largest:
                raise _TooLarge
            response = io.BytesIO(_member(content, file.members, file.largest))
        elif str(file.url).endswith(".gz"):
            response = cast(BinaryIO, gzip.GzipFile(fileobj=response))
        kept = _keep(response, self.cache, file, f".{id(self)}.part", self.abandoned, by_address=file.sha256 is None)
        expected = getattr(response, "length", None)  # what is left of the body, as the server announced it
        if expected:
            kept[0].unlink()
            raise ValueError(f"ended {expected:,} bytes too early")
        return kept


def _download(
    wanted: Mapping[tuple[str, int], Wanted],
    found: dict[tuple[str, int], Found],
    cache: Path,
    budget_s: float,
    notes: Mapping[tuple[str, int], list[str]],
    probe: bool,
) -> set[tuple[str, int]]:
    """Adds to `found`, or with `probe` returns whose server answered."""
    started = time.monotonic()
    fetches: dict[tuple[str, int], _Fetch] = {}
    for key, file in wanted.items():
        if file.url is not None:
            fetches[key] = _Fetch(file, cache, budget_s, probe)
        elif file.package is None:
            notes[key].append("no public address is stated")
    for fetch in fetches.values():
        threading.Thread(target=fetch.run, daemon=True).start()
    there = set()
    for key, fetch in fetches.items():
        file, note = wanted[key], notes[key]
        if fetch.answered.wait(max(0.0, started + budget_s - time.monotonic())):
            fetch.ended.wait(max(0.0, started + DOWNLOAD_S - time.monotonic()))
        fetch.abandoned.set()
        if fetch.broken is not None:
            raise fetch.broken
        if probe and fetch.there:
            there.add(key)
        elif fetch.kept is None:
            note.append(f"{file.url}: {fetch.problem}")
        elif file.sha256 not in (None, fetch.kept[1]):
            note.append(f"{file.url} served something else (sha256 {fetch.kept[1][:12]}...): not used")
            fetch.kept[0].unlink()
        else:
            note.append(f"downloaded from {file.url}")
            found[key] = Found(file.name, "download", *fetch.kept)
    return there


def _member(content: bytes, members: tuple[str, ...], largest: int) -> bytes:
    """The bytes at the end of the way through nested zip files."""
    for member in members:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if archive.getinfo(member).file_size > largest:
                raise _TooLarge
            content = archive.read(member)
    return content


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _keep(
    content: BinaryIO,
    cache: Path,
    file: Wanted,
    suffix: str,
    abandoned: threading.Event | None = None,
    *,
    by_address: bool = False,
) -> tuple[Path, str]:
    """Writes what can be read under its hash, or under its address's: aside, to disk, then in place, so that a name
    never holds half a file. Returns path and sha256."""
    aside = cache / f"{os.getpid()}.{hashlib.sha256(file.name.encode()).hexdigest()[:12]}{suffix}"
    digest, size = hashlib.sha256(), 0
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: _remove(aside))
        with _writing(cache, file):
            cache.mkdir(parents=True, exist_ok=True)
            out = stack.enter_context(aside.open("wb"))
        while piece := content.read(PIECE):
            size += len(piece)
            if size > file.largest:
                raise _TooLarge
            if abandoned is not None and abandoned.is_set():
                raise ValueError("took too long")
            digest.update(piece)
            with _writing(cache, file):
                out.write(piece)
        path = cache / _cached(file, None if by_address else digest.hexdigest())
        with _writing(cache, file):
            if not (path.is_file() and _sha256(path) == digest.hexdigest()):
                out.flush()
                os.fsync(out.fileno())
                aside.replace(path)
    return path, digest.hexdigest()


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


@contextlib.contextmanager
def _writing(cache: Path, file: Wanted) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RetainError(
            f"{cache}: {file.names[0]} can't be kept there ({error.strerror}). "
            "Make room, or name a folder that can be written to in RETAIN_STORE"
        ) from None
