"""Files of a bucket that this machine keeps, each under its sha256: weights and tables are fetched once.

Processes share it without a lock. A file gets there by a rename, leaves when there are too many bytes and nobody has
used it for longest, and whoever uses it has a link of his own, so that it stays with him when it leaves.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from engine.errors import RetainError
from engine.paths import path_of, why_unreadable, why_unwritable
from engine.settings import whole
from engine.store import STALE_ASIDE_S, has_sha256, sha256_of, unavailable

GIGABYTE = 10**9
NOTES = "versions"  # the folder of notes: which hash a version of something had when it was fetched
LINKS, LINKED_S = "links", 86_400.0
FOLDER, SIZE = "~/.cache/retain", "20"  # unless set
SIZES = whole(1, 10_000, " of gigabytes", unit=GIGABYTE)


@dataclass(frozen=True)
class Cache:
    """`limit`: bytes of all files; one that is larger alone is kept until the next one comes."""

    folder: Path
    limit: int

    def bring(self, sha256: str, place: Path, fetch: Callable[[Path], None]) -> None:
        """Makes `place` a read-only file with those bytes, which `fetch` writes to a path where they aren't here yet.

        Bytes that have another hash are put there as well, and not kept: whoever asked finds that they are damaged.
        Raises OSError for an error of `place`, RetainError for one of this folder, and what `fetch` raises.
        """
        if not self._linked(sha256, place):
            self._fetched(place, fetch, sha256)

    def bring_version(self, version: str, place: Path, fetch: Callable[[Path], None]) -> str:
        """As bring(), for bytes whose hash isn't known until they are here; it is returned.

        `version`: what these bytes alone are called, now and later, as a generation of an object is.
        """
        note = self.folder / NOTES / hashlib.sha256(version.encode()).hexdigest()
        known = self._noted(note)
        if known is not None and self._linked(known, place):
            return known
        found = self._fetched(place, fetch)
        if found != known:
            self._write_note(note, found)
        return found

    def folder_of_links(self) -> Path:
        """A new folder for links to what is kept. It stays for a day, since whoever made it may be killed."""
        with self._writing():
            links = self.folder / LINKS / uuid.uuid4().hex
            links.mkdir(parents=True)
            now = links.stat().st_mtime
            for other in links.parent.iterdir():
                with suppress(FileNotFoundError):
                    if now - other.stat().st_mtime > LINKED_S:
                        shutil.rmtree(other, ignore_errors=True)
        return links

    def _linked(self, sha256: str, place: Path) -> bool:
        """Whether those bytes are kept: then `place` has become a link to them."""
        kept = self.folder / sha256
        try:
            if not has_sha256(kept, sha256):
                return False
        except OSError as error:
            raise self._unusable(error, f"{kept}: {why_unreadable(error)}") from None
        with self._writing(), suppress(FileNotFoundError):
            os.utime(kept)
        try:
            _link(kept, place)
        except FileNotFoundError:  # it left between the two
            return False
        return True

    def _fetched(self, place: Path, fetch: Callable[[Path], None], sha256: str | None = None) -> str:
        """The hash of what was fetched; it is kept unless another one was stated."""
        aside = self.folder / f"aside-{uuid.uuid4().hex}"
        with self._writing():
            self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with self._writing():
                fetch(aside)
                aside.chmod(0o444)
                found = sha256_of(aside)
            _link(aside, place)
            if sha256 in (None, found):
                with self._writing():
                    os.replace(aside, self.folder / found)
                    self._make_room(but=self.folder / found)
        finally:
            aside.unlink(missing_ok=True)
        return found

    def _noted(self, note: Path) -> str | None:
        try:
            text = note.read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError):  # none yet, or damaged: the file is fetched
            return None
        return text if re.fullmatch(r"[0-9a-f]{64}", text) else None

    def _write_note(self, note: Path, sha256: str) -> None:
        aside = self.folder / f"aside-{uuid.uuid4().hex}"
        with self._writing():
            note.parent.mkdir(exist_ok=True)
            aside.write_text(sha256, encoding="ascii")
            os.replace(aside, note)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._unusable(error, f"{self.folder}: {why_unwritable(error)}") from None

    def _unusable(self, error: OSError, text: str) -> RetainError:
        return unavailable(error, f"{text}. RETAIN_CACHE may name another folder")

    def _make_room(self, but: Path) -> None:
        files = []
        for path in self.folder.iterdir():
            with suppress(FileNotFoundError):
                status = path.stat()
                if stat.S_ISREG(status.st_mode):  # beside the files lie folders: of stores, of notes, of links
                    files.append((status.st_mtime, status.st_size, path))
        now = max((used for used, _, _ in files), default=0.0)
        total = sum(size for _, size, _ in files)
        for used, size, path in sorted(files):
            unfinished = path.name.startswith("aside-")
            if path == but or (unfinished and now - used < STALE_ASIDE_S):
                continue
            if unfinished or total > self.limit:
                path.unlink(missing_ok=True)
                total -= size


def cache_of_user(environment: Mapping[str, str] = os.environ) -> Cache:
    """RETAIN_CACHE, or a folder of the user's; RETAIN_CACHE_GB limits it. Raises RetainError."""
    folder = path_of("RETAIN_CACHE", environment.get("RETAIN_CACHE") or FOLDER)
    return Cache(folder.absolute(), SIZES("RETAIN_CACHE_GB", environment.get("RETAIN_CACHE_GB") or SIZE))


def _link(source: Path, place: Path) -> None:
    """A second name of the file, or where the two lie on different disks, a copy."""
    place.unlink(missing_ok=True)
    try:
        os.link(source, place)
    except FileNotFoundError:
        raise
    except OSError:
        try:
            shutil.copy(source, place)
        except OSError:
            place.unlink(missing_ok=True)  # no half of it
            raise


def setting_of(folder: Path) -> str:
    """The setting that names another place for a folder of this machine: that of the cache, where a store in a bucket
    has its own (engine/bucket.py), or that of the store."""
    return "RETAIN_CACHE" if folder.is_relative_to(cache_of_user().folder) else "RETAIN_STORE"
