"""What people said of texts that they read: `approvals/<sha256 of the text>.json` in the store.

A record is of the text itself, of no artifact: a text that was read once stays read, whichever training writes it
again. It keeps every verdict with its name and time; the last one counts. Beside the records lies which texts were
shown to somebody, so that nothing is approved that came after the look.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine.artifact import canonical
from engine.errors import RetainError
from engine.store import ABSENT, Conflict, FolderStore, Store, open_store, store_url

APPROVALS = "approvals"
SHOWN = "approvals-shown.json"
MAX_NAME = 60
# A file's time of change is that of its last change, in ticks of a few milliseconds: a look this soon after it is
# taken again, since a second change might have the same.
SETTLED_NS = 2_000_000_000

Verdict = Literal["approved", "rejected"]


class Reading(BaseModel):
    """One verdict. `at`: UTC, ISO 8601."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    verdict: Verdict
    by: str
    at: str


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    readings: tuple[Reading, ...] = Field(min_length=1)


@dataclass(frozen=True)
class Approvals:
    """The readings of every text that has a record, the last one last.

    `problem` says why there are none: the store can't be reached. `damaged`: keys of records that are none.
    `unreadable`: what is said of each record that is there and can't be read. The texts of both count as unread.
    """

    readings: Mapping[str, tuple[Reading, ...]] = field(default_factory=dict)
    damaged: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()
    problem: str = ""

    @property
    def verdicts(self) -> dict[str, Verdict]:
        return {text: readings[-1].verdict for text, readings in self.readings.items()}


def identifier(text: str) -> str:
    """The hex sha256 of a text, under which its record lies."""
    return hashlib.sha256(text.encode()).hexdigest()


def read(store: Store) -> Approvals:
    readings, damaged, unreadable = {}, [], []
    for key in store.list(APPROVALS):
        try:
            record = _parse(stored[0]) if (stored := store.read(key)) else None
        except RetainError as error:
            unreadable.append(str(error))
            continue
        if record is not None and key == _key(record.text):
            readings[record.text] = record.readings
        else:
            damaged.append(key)
    return Approvals(readings, tuple(damaged), tuple(unreadable))


def record(store: Store, text: str, verdict: Verdict, by: str, only_unread: bool = False) -> bool:
    """Adds a verdict to the text's record; with `only_unread` not if there is one by now. Says whether it did.

    Raises RetainError for a record that is damaged or can't be read.
    """
    key = _key(text)
    reading = Reading(verdict=verdict, by=by, at=datetime.now(UTC).isoformat(timespec="seconds"))
    while True:
        stored = store.read(key)
        before = _parse(stored[0]) if stored else None
        if stored and (before is None or before.text != text):
            raise RetainError(f"{store.url}/{key}: is no record of that text; remove it and read the text again")
        if before and only_unread:
            return False
        content = _Record(text=text, readings=(*(before.readings if before else ()), reading))
        try:
            store.write(key, canonical(content.model_dump(mode="json")), expect=stored[1] if stored else ABSENT)
            return True
        except Conflict:
            continue


def show(store: Store, texts: Iterable[str]) -> None:
    """Keeps that the texts were shown, beside those that were before."""
    wanted = {identifier(text) for text in texts}
    while True:
        stored = store.read(SHOWN)
        before = _identifiers(stored[0]) if stored else set[str]()
        if wanted <= before:
            return
        try:
            store.write(SHOWN, canonical(sorted(before | wanted)), expect=stored[1] if stored else ABSENT)
            return
        except Conflict:
            continue


def not_shown(store: Store, texts: Iterable[str]) -> list[str]:
    """Those of the texts that were shown to nobody."""
    stored = store.read(SHOWN)
    before = _identifiers(stored[0]) if stored else set[str]()
    return [text for text in texts if identifier(text) not in before]


def look(url: str | None = None) -> Approvals:
    """What the store says now, read once; `url` as for Watch."""
    return Watch(url).changed() or Approvals()


class Watch:
    """The records of a store, read again whenever one was added or changed. A store that can't be reached has none."""

    def __init__(self, url: str | None = None) -> None:
        """`url`: RETAIN_STORE's, unless given. A folder is not created."""
        self.url = store_url() if url is None else url
        self._store: Store | None = None  # once it could be opened
        self._seen: frozenset[_File] | None = None  # the files, when they were read

    def forget(self) -> None:
        """Makes the next look read everything."""
        self._seen = None

    def changed(self) -> Approvals | None:
        """What the store says now, or None if that is what it said the last time."""
        now = time.time_ns()
        try:
            if self._store is None:
                self._store = open_store(self.url) if "://" in self.url else FolderStore(Path(self.url))
            seen = _records(self._store)
            if seen == self._seen:
                return None
            approvals = read(self._store)
        except (OSError, RetainError) as error:
            self._seen = None
            problem = error.strerror if isinstance(error, OSError) else str(error)
            return Approvals(problem=f"{self.url}: can't be read ({problem})")
        settled = all(now - file.changed_ns >= SETTLED_NS for file in seen)
        self._seen = seen if settled and not approvals.damaged and not approvals.unreadable else None
        return approvals


class _File(NamedTuple):
    """A file as it was seen. `changed_ns`, unlike `modified_ns`, can't be set by whoever copies a file over it. Of an
    object in a bucket, the inode is its generation."""

    name: str
    modified_ns: int
    changed_ns: int
    size: int
    inode: int


def _records(store: Store) -> frozenset[_File]:
    """Raises OSError, and RetainError, for a store that can't be read, which is told from one without records."""
    if isinstance(store, FolderStore):
        os.listdir(store.root)
        return _files(store.root / APPROVALS)
    return frozenset(_File(key, 0, 0, 0, int(version)) for key, version in store.versions(APPROVALS).items())


def _files(folder: Path) -> frozenset[_File]:
    """No files for a folder that isn't there. Raises OSError for one that can't be read.

    The time of the folder's own last change wouldn't do: a file that is written over in place doesn't change it.
    """
    try:
        with os.scandir(folder) as entries:
            return frozenset(map(_seen, entries))
    except FileNotFoundError:
        return frozenset()


def _seen(entry: os.DirEntry[str]) -> _File:
    try:
        status = entry.stat()
    except OSError:  # removed meanwhile, or a link to nothing
        return _File(entry.name, 0, 0, 0, 0)
    return _File(entry.name, status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino)


def _key(text: str) -> str:
    return f"{APPROVALS}/{identifier(text)}.json"


def _identifiers(content: bytes) -> set[str]:
    """None of a damaged list: its texts are shown again."""
    try:
        listed = json.loads(content)
    except ValueError:
        return set()
    return set(map(str, listed)) if isinstance(listed, list) else set()


def _parse(content: bytes) -> _Record | None:
    try:
        return _Record.model_validate_json(content)
    except ValidationError:
        return None
