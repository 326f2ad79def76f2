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
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine.artifact import canonical
from engine.errors import RetainError
from engine.store import ABSENT, Conflict, FolderStore, Store, store_url

APPROVALS = "approvals"
SHOWN = "approvals-shown.json"
MAX_NAME = 60
# A folder's time of change is that of its last change, in ticks of a few milliseconds: a look this soon after it is
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

    `problem` says why there are none: the store can't be reached. `damaged`: records that can't be read, whose texts
    count as unread.
    """

    readings: Mapping[str, tuple[Reading, ...]] = field(default_factory=dict)
    damaged: tuple[str, ...] = ()
    problem: str = ""

    @property
    def verdicts(self) -> dict[str, Verdict]:
        return {text: readings[-1].verdict for text, readings in self.readings.items()}


def identifier(text: str) -> str:
    """The hex sha256 of a text, under which its record lies."""
    return hashlib.sha256(text.encode()).hexdigest()


def read(store: Store) -> Approvals:
    readings, damaged = {}, []
    for key in store.list(APPROVALS):
        try:
            record = _parse(stored[0]) if (stored := store.read(key)) else None
        except RetainError:  # it can't be opened
            record = None
        if record is not None and key == _key(record.text):
            readings[record.text] = record.readings
        else:
            damaged.append(key)
    return Approvals(readings, tuple(damaged))


def record(store: Store, text: str, verdict: Verdict, by: str) -> None:
    """Adds a verdict to the text's record. Raises RetainError for a record that is damaged."""
    key = _key(text)
    reading = Reading(verdict=verdict, by=by, at=datetime.now(UTC).isoformat(timespec="seconds"))
    while True:
        stored = store.read(key)
        before = _parse(stored[0]) if stored else None
        if stored and (before is None or before.text != text):
            raise RetainError(f"{store.url}/{key}: is no record of that text; remove it and read the text again")
        content = _Record(text=text, readings=(*(before.readings if before else ()), reading))
        try:
            store.write(key, canonical(content.model_dump(mode="json")), expect=stored[1] if stored else ABSENT)
            return
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


def shown(store: Store, text: str) -> bool:
    """Whether it was shown to somebody."""
    stored = store.read(SHOWN)
    return stored is not None and identifier(text) in _identifiers(stored[0])


class Watch:
    """The records of a store, read again whenever one was added or changed. A store that can't be reached has none."""

    def __init__(self, url: str | None = None) -> None:
        """`url`: of a folder; RETAIN_STORE's, unless given. It is not created."""
        self.url = store_url() if url is None else url
        self._seen: tuple[int, int] | None = None  # of the folder, when it was read

    def changed(self) -> Approvals | None:
        """What the store says now, or None if that is what it said the last time."""
        now, root = time.time_ns(), Path(self.url)
        try:
            os.listdir(root)  # told from a store without records: a folder that isn't there, or may not be entered
            seen = _changed_at(root / APPROVALS)
            if seen == self._seen:
                return None
            approvals = read(FolderStore(root))
        except (OSError, RetainError) as error:
            self._seen = None
            problem = error.strerror if isinstance(error, OSError) else str(error)
            return Approvals(problem=f"{self.url}: can't be read ({problem})")
        self._seen = None if approvals.damaged or now - seen[0] < SETTLED_NS else seen
        return approvals


def _changed_at(folder: Path) -> tuple[int, int]:
    """Time of the last change in ns, and which folder it is; zeros for none. Raises OSError if it can't be read."""
    try:
        status = folder.stat()
        os.listdir(folder)
    except FileNotFoundError:
        return 0, 0
    return status.st_mtime_ns, status.st_ino


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
