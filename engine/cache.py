"""Files of a bucket that this machine keeps, each under its sha256: weights and tables are fetched once.

Processes share it without a lock. A file gets there by a rename, leaves when there are too many bytes and nobody has
used it for longest, and whoever uses it has a link of his own, so that it stays with him when it leaves.
"""

from __future__ import annotations

import os
import shutil
import stat
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from engine.paths import path_of
from engine.settings import whole
from engine.store import STALE_ASIDE_S, has_sha256

GIGABYTE = 10**9
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
        Raises OSError, and what `fetch` raises.
        """
        kept = self.folder / sha256
        if not has_sha256(kept, sha256):
            self.folder.mkdir(parents=True, exist_ok=True)
            aside = self.folder / f"aside-{uuid.uuid4().hex}"
            try:
                fetch(aside)
                aside.chmod(0o444)
                _link(aside, place)
                if not has_sha256(aside, sha256):
                    return
                os.replace(aside, kept)
            finally:
                aside.unlink(missing_ok=True)
            self._make_room(but=kept)
            return
        with suppress(FileNotFoundError):
            os.utime(kept)
        try:
            _link(kept, place)
        except FileNotFoundError:  # it left between the two
            self.bring(sha256, place, fetch)

    def _make_room(self, but: Path) -> None:
        files = []
        for path in self.folder.iterdir():
            with suppress(FileNotFoundError):
                status = path.stat()
                if stat.S_ISREG(status.st_mode):  # beside the files lie the folders of stores (engine/bucket.py)
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
        shutil.copy(source, place)
