"""RETAIN_DATA_DIR: a folder of this machine, or one in a bucket, whose files come into the cache of this machine.

A bucket is listed anew for every plan, so a file that was replaced since is noticed. What was fetched before, in the
generation that is there now, isn't fetched again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from engine.cache import cache_of_user
from engine.errors import DataError, NoBucket, RetainError
from engine.paths import path_of, why_unwritable
from engine.store import Conflict, open_bucket, unavailable
from flows.download import Kept
from flows.mounts import is_bucket

if TYPE_CHECKING:
    from engine.bucket import BucketStore, Object

SETTING = "RETAIN_DATA_DIR"


def data_folder(environment: Mapping[str, str]) -> DataFolder:
    """What RETAIN_DATA_DIR names, if it is set. A bucket is listed, a folder of this machine not looked at. Raises
    RetainError."""
    given = environment.get(SETTING)
    if not given:
        return None
    if is_bucket(given):
        return BucketFolder(given)
    if "://" in given:
        raise DataError(f"{SETTING}={given}: is neither a folder nor gs://bucket/folder")
    return path_of(SETTING, given)


class BucketFolder:
    """What the folder of a bucket holds, as it was when this was made."""

    def __init__(self, url: str) -> None:
        """Raises RetainError for whatever keeps the folder from being read."""
        with _naming_the_setting(url):
            self._bucket: BucketStore = open_bucket(url, SETTING, reads_only=True)
            self._bucket.check_clock()
            found = self._bucket.objects()
        self.url = self._bucket.url
        # Without what stands for a folder, which some tools make.
        self._objects = {key: each for key, each in found.items() if not key.endswith("/")}
        if not self._objects:
            raise DataError(
                f"{SETTING}={url}: nothing lies there. Name the folder of the bucket that holds the data, or unset it"
            )
        self._cache = cache_of_user()
        self._links: Path | None = None

    def __str__(self) -> str:
        return self.url

    def find(self, name: str) -> BucketFile | None:
        """`name`: a path below the folder."""
        wanted = self._objects.get(PurePosixPath(name).as_posix())
        return None if wanted is None else BucketFile(self, wanted)

    def bring(self, wanted: Object) -> Kept:
        """A file of this machine with those bytes, for as long as a plan is made and its sources are copied."""
        address = f"{self.url}/{wanted.key}"
        self._links = self._links or self._cache.folder_of_links()
        place = self._links / f"{hashlib.sha256(wanted.key.encode()).hexdigest()[:12]}-{PurePosixPath(wanted.key).name}"

        def fetch(into: Path) -> None:
            with _naming_the_setting(self.url):
                self._bucket.fetch(wanted, into)

        version = f"{address}#{wanted.generation} {wanted.size} {wanted.crc32c}"
        try:
            return Kept(place, self._cache.bring_version(version, place, fetch))
        except Conflict:
            raise DataError(f"{address}: was replaced or deleted while it was fetched. Run this again") from None
        except OSError as error:
            raise unavailable(
                error, f"{place}: {why_unwritable(error)}. RETAIN_CACHE may name another folder"
            ) from None


DataFolder = Path | BucketFolder | None


@dataclass(frozen=True)
class BucketFile:
    """A file that is there, by its address. `zipped`: its bytes are those of a gzip file."""

    folder: BucketFolder
    object: Object

    def __str__(self) -> str:
        return f"{self.folder.url}/{self.object.key}"

    @property
    def size(self) -> int:
        return self.object.size

    @property
    def zipped(self) -> bool:
        return self.object.zipped or self.object.key.endswith(".gz")

    def bring(self) -> Kept:
        return self.folder.bring(self.object)


@contextmanager
def _naming_the_setting(url: str) -> Iterator[None]:
    try:
        yield
    except NoBucket:
        bucket = url.removeprefix("gs://").partition("/")[0]
        raise DataError(f"{SETTING}={url}: there is no bucket {bucket}; name another one") from None
    except RetainError as error:
        raise type(error)(f"{SETTING}: {error}") from None
