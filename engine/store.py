"""Where bytes live: keys to bytes, with compare-and-set. In a folder, or in a bucket (engine/bucket.py).

Every write is made aside, synced and renamed, so a key holds all of its bytes or none. `expect` makes a write
conditional: `ABSENT` creates, a version replaces just that version. A bucket has generations for this. In a folder the
version is the sha256 of the content, so whoever relies on it writes content that never repeats (a counter, a token).
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Protocol

from engine.errors import RetainError, StoreUnavailable
from engine.faults import fault
from engine.paths import NOT_THERE, path_of, why_unreadable, why_unwritable

if TYPE_CHECKING:
    from engine.bucket import BucketStore

ABSENT: Final = "absent"
STALE_ASIDE_S: Final = 3600.0
PIECE: Final = 1 << 20
LOCK: Final = ".lock"
LOCKED_S: Final = 10.0  # a writer that keeps the lock for longer was paused: it needs a fraction of a millisecond
OWN: Final = ("aside", LOCK, f"{LOCK}-guard")  # what the folder store keeps for itself below its root
# A path that can't be: trying again changes nothing. Any other OSError may pass.
LASTING: Final = (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ENAMETOOLONG, errno.ELOOP)


class Conflict(Exception):
    """The key does not hold the version that was expected."""


class Store(Protocol):
    """`here`: the folder on this machine for what belongs to the store and need not outlive the machine. For a store in
    a folder it is that folder itself."""

    url: str

    @property
    def here(self) -> Path: ...

    def check(self) -> None:
        """Raises RetainError, one line, for whatever would keep a run from working in it."""

    def read(self, key: str) -> tuple[bytes, str] | None:
        """Bytes and version, or None."""

    def write(
        self, key: str, data: bytes, expect: str | None = None, *, last_look: Callable[[], None] | None = None
    ) -> str:
        """The new version; raises Conflict when `expect` is neither None nor what is there.

        `last_look` is called when nothing is left to do that can take long. What it raises is raised, and nothing is
        written.
        """

    def delete(self, key: str, expect: str | None = None) -> None:
        """Absent keys are fine; raises Conflict as write() does."""

    def list(self, prefix: str) -> Iterator[str]:
        """Keys below the folder `prefix`, sorted."""

    def versions(self, prefix: str) -> dict[str, str]:
        """Those keys, each with its version."""

    def put_file(self, key: str, path: Path) -> None:
        """Writes a file's bytes under a key that names its content; does nothing if the key has them already."""

    def local(self, key: str, scratch: Path) -> Path:
        """A path with the bytes of the key, to be read only."""


def check_key(key: str) -> None:
    """Raises ValueError for what would leave the store, or be a second name of something."""
    parts = key.split("/")
    if "\0" in key or {"", ".", ".."}.intersection(parts) or parts[0] in OWN:
        raise ValueError(f"{key!r} is no key of a store")


class FolderStore:
    """A store in a folder, shared by processes. Raises StoreUnavailable for what can't be read or written.

    `made`: the folder is there. When it no longer is, the store is unavailable, not empty, and no other folder is made
    in its place.
    """

    def __init__(self, root: Path, *, made: bool = False) -> None:
        self.root = root.absolute()
        self.url = str(self.root)
        self.made = made

    @property
    def here(self) -> Path:
        return self.root

    def check(self) -> None:
        self._check_root()

    def read(self, key: str) -> tuple[bytes, str] | None:
        try:
            data = self._path(key).read_bytes()
        except NOT_THERE:
            self._check_root()
            return None
        except OSError as error:
            raise unavailable(error, f"{self.root}/{key}: {why_unreadable(error)}") from None
        return data, _version(data)

    def write(
        self, key: str, data: bytes, expect: str | None = None, *, last_look: Callable[[], None] | None = None
    ) -> str:
        target = self._path(key)
        with self._aside(io.BytesIO(data), key) as aside:
            with self._locked() as still_locked:
                self._check(key, expect)
                self._make(target.parent)
                still_locked()
                if last_look is not None:
                    last_look()
                self._rename(aside, target)
            _sync(target.parent)
        return _version(data)

    def delete(self, key: str, expect: str | None = None) -> None:
        target = self._path(key)
        with self._writing(), self._locked() as still_locked:
            self._check(key, expect)
            still_locked()
            target.unlink(missing_ok=True)

    def list(self, prefix: str) -> Iterator[str]:
        walk = os.walk(self._path(prefix), onerror=self._unlistable)
        paths = [Path(folder) / name for folder, _, names in walk for name in names]
        yield from sorted(path.relative_to(self.root).as_posix() for path in paths)

    def versions(self, prefix: str) -> dict[str, str]:
        return {key: stored[1] for key in self.list(prefix) if (stored := self.read(key)) is not None}

    def put_file(self, key: str, path: Path) -> None:
        target = self._path(key)
        try:
            if has_sha256(target, sha256_of(path)):
                return
        except OSError as error:
            raise unavailable(error, f"{error.filename or target}: {why_unreadable(error)}") from None
        with path.open("rb") as content, self._aside(content, key) as aside:
            aside.chmod(0o444)
            self._make(target.parent)
            self._rename(aside, target)
            _sync(target.parent)

    def local(self, key: str, scratch: Path) -> Path:
        return self._path(key)

    def sweep(self) -> None:
        """Removes files that killed writers left aside; younger files may belong to a writer that is still alive."""
        for path in (self.root / "aside").glob("*"):
            try:
                if time.time() - path.stat().st_mtime > STALE_ASIDE_S:
                    path.unlink()
            except FileNotFoundError:
                continue

    def _path(self, key: str) -> Path:
        check_key(key)
        return self.root.joinpath(*key.split("/"))

    @contextmanager
    def _aside(self, content: BinaryIO, key: str) -> Iterator[Path]:
        """A synced file with the content, which the caller renames; removed otherwise.

        The content is copied in pieces, since weights may be large.
        """
        aside = self.root / "aside" / uuid.uuid4().hex
        with self._writing():
            self._make(aside.parent)
            try:
                with aside.open("wb") as file:
                    shutil.copyfileobj(content, file, PIECE)
                    fault("store.write", key)
                    file.flush()
                    os.fsync(file.fileno())
                yield aside
            finally:
                aside.unlink(missing_ok=True)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        self._check_root()
        try:
            yield
        except OSError as error:
            self._check_root()
            text = f"{self.root}: {why_unwritable(error)}. RETAIN_STORE may name another folder"
            raise unavailable(error, text) from None

    def _make(self, folder: Path) -> None:
        """Makes a folder of the store, but never the root of one that was made already."""
        if not self.made:
            folder.mkdir(parents=True, exist_ok=True)
            return
        made = self.root
        for part in folder.relative_to(self.root).parts:
            made /= part
            made.mkdir(exist_ok=True)

    def _check_root(self) -> None:
        if self.made and not self.root.is_dir():
            raise StoreUnavailable(f"{self.root}: the store's folder is gone")

    def _unlistable(self, error: OSError) -> None:
        if not isinstance(error, NOT_THERE):
            raise unavailable(error, f"{error.filename}: {why_unreadable(error)}") from None
        self._check_root()  # otherwise removed meanwhile, or never made

    def _rename(self, aside: Path, target: Path) -> None:
        key = target.relative_to(self.root).as_posix()
        fault("store.rename", key)
        os.replace(aside, target)
        fault("store.renamed", key)

    def _check(self, key: str, expect: str | None) -> None:
        if expect is None:
            return
        stored = self.read(key)
        version = ABSENT if stored is None else stored[1]
        if version != expect:
            raise Conflict(key)

    @contextmanager
    def _locked(self) -> Iterator[Callable[[], None]]:
        """Locks the store; the block calls what it is given before it changes anything.

        flock goes with its process, so a killed writer can't leave the store locked. One that was paused can: after
        LOCKED_S its lock is taken from it, and when it wakes up it changes nothing.
        """
        self._make(self.root)
        path = self.root / LOCK
        file = _lock(path)
        try:

            def still_locked() -> None:
                if not _is_at(file, path):
                    raise StoreUnavailable(f"{self.root}: held the lock for more than {LOCKED_S:.0f} s and lost it")

            yield still_locked
        finally:
            os.close(file)


def _lock(path: Path) -> int:
    """The open file at `path`, locked."""
    since = time.monotonic()
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        while _is_at(file, path):
            if _has_locked(file):
                if _is_at(file, path):
                    return file
                break  # somebody took it away while it was being locked
            if time.monotonic() - since > LOCKED_S:
                _take_lock_away(file, path)
                since = time.monotonic()
            time.sleep(0.001)
        os.close(file)


def _take_lock_away(held: int, path: Path) -> None:
    """Removes the file that somebody keeps locked, unless that was done; a second lock lets one at a time do so."""
    guard = os.open(path.with_name(f"{path.name}-guard"), os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if _has_locked(guard) and _is_at(held, path):
            path.unlink()
    finally:
        os.close(guard)


def _has_locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False


def _is_at(file: int, path: Path) -> bool:
    """Whether `path` is still the open file."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except NOT_THERE:
        return False


def _sync(folder: Path) -> None:
    """Not within the lock: it takes a hundred times as long as all that has to be."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def sha256_of(path: Path) -> str:
    """The hex sha256 of a file's bytes, read in pieces: weights may be large. Raises OSError."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def has_sha256(path: Path, sha256: str) -> bool:
    """Whether a file is there and has the bytes of that hash. Raises OSError if it is there and can't be read."""
    try:
        return sha256_of(path) == sha256
    except (*NOT_THERE, IsADirectoryError):
        return False


def unavailable(error: OSError, text: str) -> RetainError:
    """What to raise for an error of the disk or the network, with that text."""
    return RetainError(text) if error.errno in LASTING else StoreUnavailable(text)


def _version(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def open_store(url: str) -> Store:
    """The store at `url`, a folder or gs://bucket/prefix; raises RetainError where it can't be used."""
    if url.startswith("gs://"):
        return open_bucket(url, "RETAIN_STORE")
    if "://" in url:
        raise RetainError(f"RETAIN_STORE={url}: is neither a folder nor gs://bucket/prefix")
    root = Path(url)
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unavailable(error, f"RETAIN_STORE={url}: can't be used as a folder ({error.strerror})") from None
    return FolderStore(root, made=True)


def open_bucket(url: str, setting: str, *, reads_only: bool = False) -> BucketStore:
    """The store at gs://bucket/prefix, which the setting names. Raises RetainError where it can't be used."""
    try:
        from engine.bucket import BucketStore  # Google's library, which nobody else needs
    except ModuleNotFoundError:
        install = "pip install --editable '.[cloud]'"
        raise RetainError(f"{setting}={url}: wants google-cloud-storage, which isn't installed: {install}") from None
    return BucketStore(url, reads_only=reads_only)


def store_url() -> str:
    """RETAIN_STORE, or `artifacts/` in the project's folder. Raises RetainError for a path that can't be used."""
    given = os.environ.get("RETAIN_STORE") or str(Path(__file__).resolve().parent.parent / "artifacts")
    return given if "://" in given else str(path_of("RETAIN_STORE", given))
