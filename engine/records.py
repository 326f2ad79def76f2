"""The record of an attempt: `execution/<number>.json` beside the artifact.

An *attempt* is one process that tries to make one artifact. Its *number* grows from attempt to attempt of the same
artifact, so it can fence; its *id*, under which the ledger knows it, is `<experiment>/<stage>/<fingerprint>/<number>`.
(Stored JSON says `"attempt"` for either, as the stores that exist do.)

Whoever starts an attempt writes its record first and thereby numbers it. From then on the attempt itself writes it at
every beat: if nobody sees its end, it is charged up to its last sign of life. Once a record says how the attempt ended,
it stays as it is.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from engine.artifact import canonical
from engine.errors import RetainError
from engine.process import Holder
from engine.store import ABSENT, Conflict, Store

LOG, PROGRESS = "log.txt", "progress.jsonl"  # in the work folder of an attempt
SUFFIXES = {LOG: "log", PROGRESS: "progress.jsonl"}  # of what is kept of them, for key()

Status = Literal[
    "planned",  # numbered, not started
    "running",
    "complete",
    "preempted",  # asked to stop; the next attempt goes on from the checkpoint
    "killed",  # ended without writing how
    "claimed",  # another attempt was at work on the same artifact
    "unavailable",  # the store could not be read or written for too long
    "overdue",  # stopped itself at its deadline
    "refused",  # missed criteria that it can't do without
    "failed",
]


class Saves(BaseModel):
    """What the checkpoints of an attempt cost its stage."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    saved: int
    copied: int  # of them into the store; the others were overtaken by newer ones
    bytes: int  # of all that were saved
    waited_s: float  # that the stage waited for them
    share: float  # of the seconds of run()

    def __str__(self) -> str:
        megabytes = self.bytes / self.saved / 1e6
        waited = f"the stage waited {self.waited_s:.2f} s for them ({100 * self.share:.1f} %)"
        return f"checkpoints: {self.saved} of {megabytes:.1f} MB, {waited}"


class AttemptRecord(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_by_name=True)

    number: int = Field(validation_alias="attempt", serialization_alias="attempt")
    status: Status
    host: str
    machine_type: str
    usd_per_hour: float
    commit: str
    libraries: dict[str, str]
    started_at: str  # UTC, ISO 8601
    holder: Holder  # the process that starts the attempt, later the process that is the attempt
    seconds: float = 0.0  # age of the attempt's process
    run_seconds: float = 0.0  # from the first line of the stage's run() to its last
    checkpoints: Saves | None = None  # None where there were none
    message: str = ""
    exit_code: int | None = None  # of the attempt's process, once it has written how it ended

    @property
    def ended(self) -> bool:
        return self.status not in ("planned", "running")


def key(prefix: str, number: int, suffix: str = "json") -> str:
    """Of the record, or with another suffix of what is kept beside it: the log, the progress."""
    return f"{prefix}/execution/{number:04d}.{suffix}"


def numbers(store: Store, prefix: str) -> list[int]:
    """Of the attempts at one artifact that have a record, in order."""
    names = (stored.rsplit("/", 1)[1] for stored in store.list(f"{prefix}/execution"))
    return sorted(int(name.removesuffix(".json")) for name in names if name.endswith(".json"))


def create(store: Store, prefix: str, record: AttemptRecord, above: int = 0) -> AttemptRecord:
    """Writes the record under the next free number that is higher than `above`, and returns it with that number."""
    number = 1 + max((above, *numbers(store, prefix)))
    while True:
        numbered = record.model_copy(update={"number": number})
        try:
            store.write(key(prefix, number), _dump(numbered), expect=ABSENT)
            return numbered
        except Conflict:
            number += 1


def write(store: Store, prefix: str, record: AttemptRecord) -> None:
    store.write(key(prefix, record.number), _dump(record))


def read(store: Store, prefix: str, number: int) -> AttemptRecord | None:
    stored = store.read(key(prefix, number))
    try:
        return AttemptRecord.model_validate_json(stored[0]) if stored else None
    except ValueError:
        where = f"{store.url}/{key(prefix, number)}"
        raise RetainError(f"{where}: not the record of an attempt; remove that folder of the artifact") from None


@dataclass
class Transcript:
    """Log and progress of an attempt, copied from its work folder to where its record is.

    The process that starts an attempt writes the log, by redirecting the attempt's output.
    """

    store: Store
    prefix: str
    number: int
    work: Path
    _copied: dict[str, int] = field(default_factory=dict)  # name of a file -> bytes of it that the store has

    def keep(self) -> None:
        """Copies what has grown since the last call. Raises nothing: a log that is lost is no failure of its stage."""
        for name, suffix in SUFFIXES.items():
            with suppress(OSError, RetainError):
                content = (self.work / name).read_bytes()
                if len(content) > self._copied.get(name, 0):
                    self.store.write(key(self.prefix, self.number, suffix), content)
                    self._copied[name] = len(content)


def _dump(record: AttemptRecord) -> bytes:
    return canonical(record.model_dump(mode="json", by_alias=True))
