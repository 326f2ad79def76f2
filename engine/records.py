"""The record of an attempt: `execution/<number>.json` beside the artifact.

An *attempt* is one process that tries to make one artifact. Its *number* grows from attempt to attempt of the same
artifact, so it can fence; its *id*, under which the ledger knows it, is `<experiment>/<stage>/<fingerprint>/<number>`.
(Stored JSON says `"attempt"` for either, as the stores that exist do.)

Whoever starts an attempt writes its record first and thereby numbers it. From then on the attempt itself writes it at
every beat: if nobody sees its end, it is charged up to its last sign of life.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from engine.artifact import canonical
from engine.errors import RetainError
from engine.process import Holder
from engine.store import ABSENT, Conflict, Store

Status = Literal[
    "planned",  # numbered, not started
    "running",
    "complete",
    "preempted",  # asked to stop; the next attempt goes on from the checkpoint
    "killed",  # ended without writing how
    "claimed",  # another attempt was at work on the same artifact
    "overdue",  # stopped itself at its deadline
    "refused",  # missed criteria that it can't do without
    "failed",
]


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


def _dump(record: AttemptRecord) -> bytes:
    return canonical(record.model_dump(mode="json", by_alias=True))
