"""Public downloads, side by side and within a time budget, and the folder in which files are kept under their hash.

A download is verified against the pinned sha256, where one is pinned, before anything else sees it. Files are read in
pieces: weights and texts may be larger than memory.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import os
import threading
import time
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO, cast

from engine.cache import setting_of
from engine.errors import RetainError
from engine.paths import why_unwritable
from engine.store import sha256_of
from flows.wanted import Wanted

# Time limit of all downloads together, once their servers have answered.
DOWNLOAD_S = 1800.0
PIECE = 2**20

Key = tuple[str, int]  # a stage, and the position of the file among those that it wants


class TooLarge(Exception):
    """More bytes than the wanted file may have."""


@dataclass(frozen=True)
class Kept:
    """A file in the cache."""

    path: Path
    sha256: str


def unanswered(wanted: Mapping[Key, Wanted], cache: Path, budget_s: float) -> dict[Key, str]:
    """The files that no server has, each with the reason. Nothing is downloaded; takes at most `budget_s`."""
    fetches = _fetched(wanted, cache, budget_s, probe=True)
    return {key: f"{fetch.file.url}: {fetch.problem}" for key, fetch in fetches.items() if not fetch.has_it}


def download(wanted: Mapping[Key, Wanted], cache: Path, budget_s: float) -> tuple[dict[Key, Kept], dict[Key, str]]:
    """The files that are now in the cache, and the reason why each of the others is not.

    Takes at most `budget_s` when no server answers. A file of another sha256 than the pinned one is not kept. Raises
    RetainError if the cache can't be written.
    """
    kept, problems = {}, {}
    for key, fetch in _fetched(wanted, cache, budget_s, probe=False).items():
        file = fetch.file
        if fetch.kept is None:
            problems[key] = f"{file.url}: {fetch.problem}"
        elif file.sha256 not in (None, fetch.kept.sha256):
            problems[key] = f"{file.url} served something else (sha256 {fetch.kept.sha256[:12]}...): not used"
            fetch.kept.path.unlink()
        else:
            kept[key] = fetch.kept
    return kept, problems


def cached_name(file: Wanted, sha256: str | None = None) -> str:
    """A file's name in the cache: its hash, or that of its address where the publisher states no hash."""
    known = sha256 or file.sha256 or f"url-{hashlib.sha256(str(file.url).encode()).hexdigest()}"
    return known + Path(file.name).suffix


def keep(
    content: BinaryIO,
    cache: Path,
    file: Wanted,
    suffix: str,
    abandoned: threading.Event | None = None,
    *,
    by_address: bool = False,
) -> Kept:
    """Writes what can be read into the cache, under its hash or under that of its address.

    It is written aside, synced and renamed, so that no name ever holds half a file. Raises TooLarge, ValueError once
    `abandoned` is set, and RetainError if the cache can't be written.
    """
    aside = cache / f"{os.getpid()}.{hashlib.sha256(file.name.encode()).hexdigest()[:12]}{suffix}"
    digest, size = hashlib.sha256(), 0
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: _remove(aside))
        with _writing(cache, file):
            cache.mkdir(parents=True, exist_ok=True)
            out = stack.enter_context(aside.open("wb"))
        while piece := content.read(PIECE):
            size += len(piece)
            if size > file.max_bytes:
                raise TooLarge
            if abandoned is not None and abandoned.is_set():
                raise ValueError("took too long")
            digest.update(piece)
            with _writing(cache, file):
                out.write(piece)
        path = cache / cached_name(file, None if by_address else digest.hexdigest())
        with _writing(cache, file):
            if not (path.is_file() and sha256_of(path) == digest.hexdigest()):
                out.flush()
                os.fsync(out.fileno())
                aside.replace(path)
    return Kept(path, digest.hexdigest())


@dataclass
class _Fetch:
    """One download in a thread of its own, so that a name server that hangs holds nobody up."""

    file: Wanted
    cache: Path
    timeout_s: float
    probe: bool  # only ask the server, without reading the body
    kept: Kept | None = None
    has_it: bool = False  # the server answered with a file
    problem: str = "no answer"
    broken: RetainError | None = None  # an error of this machine, which another try would meet again
    abandoned: threading.Event = field(default_factory=threading.Event)  # nobody waits for it any more
    answered: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        try:
            with urllib.request.urlopen(str(self.file.url), timeout=self.timeout_s) as response:
                self.has_it = True
                self.answered.set()
                if not self.probe:
                    self.kept = self._body(response)
        except TooLarge:
            self.problem = "larger than any file here"
        except RetainError as error:
            self.broken = error
        # HTTPException: what answered speaks no HTTP, a SOCKS proxy for instance.
        except (OSError, ValueError, KeyError, EOFError, HTTPException, zipfile.BadZipFile, zlib.error) as error:
            self.problem = str(getattr(error, "reason", error)) or type(error).__name__
        finally:
            self.answered.set()
            self.ended.set()

    def _body(self, response: BinaryIO) -> Kept:
        file = self.file
        if file.members:
            archive = response.read(file.max_bytes + 1)
            if len(archive) > file.max_bytes:
                raise TooLarge
            response = io.BytesIO(_member(archive, file.members, file.max_bytes))
        elif str(file.url).endswith(".gz"):
            response = cast(BinaryIO, gzip.GzipFile(fileobj=response))
        kept = keep(response, self.cache, file, f".{id(self)}.part", self.abandoned, by_address=file.sha256 is None)
        unread = getattr(response, "length", None)  # what is left of the body, as the server announced it
        if unread:
            kept.path.unlink()
            raise ValueError(f"ended {unread:,} bytes too early")
        return kept


def _fetched(wanted: Mapping[Key, Wanted], cache: Path, budget_s: float, probe: bool) -> dict[Key, _Fetch]:
    """One fetch for each file, side by side. When this returns they have ended or were given up."""
    started = time.monotonic()
    fetches = {key: _Fetch(file, cache, budget_s, probe) for key, file in wanted.items()}
    for fetch in fetches.values():
        threading.Thread(target=fetch.run, daemon=True).start()
    for fetch in fetches.values():
        if fetch.answered.wait(max(0.0, started + budget_s - time.monotonic())):
            fetch.ended.wait(max(0.0, started + DOWNLOAD_S - time.monotonic()))
        fetch.abandoned.set()
        if fetch.broken is not None:
            raise fetch.broken
    return fetches


def _member(archive: bytes, members: tuple[str, ...], max_bytes: int) -> bytes:
    """The bytes of the last member, found by opening nested zip files one after the other."""
    for member in members:
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            if opened.getinfo(member).file_size > max_bytes:
                raise TooLarge
            archive = opened.read(member)
    return archive


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


@contextlib.contextmanager
def _writing(cache: Path, file: Wanted) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RetainError(
            f"{file.names[0]} can't be kept. {cache}: {why_unwritable(error)}. {setting_of(cache)} may name another "
            "folder"
        ) from None
