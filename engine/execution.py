"""The record of one attempt: `execution/<number>.json` beside the artifact.

Written first by whoever starts the attempt (which also numbers it, so numbers only grow and can fence), then at every
beat by the attempt itself: its last sign of life is what an attempt is charged by when nobody saw its end.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from engine.artifact import canonical
from engine.errors import RetainError
from engine.process import Holder
from engine.store import ABSENT, Conflict, Store

Status = Literal[
    "planned",  # numbered, not started
    "running",
    "complete",
    "preempted",  # asked to stop; a next attempt goes on from the checkpoint
    "killed",  # gone without a word
    "claimed",  # another attempt was at it
    "overdue",  # stopped itself at its deadline
    "refused",  # missed criteria that it can't do without
    "failed",
]


class Execution(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    attempt: int
    status: Status
    host: str
    machine_type: str
    usd_per_hour: float
    commit: str
    libraries: dict[str, str]
    started_at: str  # UTC, ISO 8601
    holder: Holder  # the process that starts it, then the process that runs it
    seconds: float = 0.0  # of the attempt's process
    run_seconds: float = 0.0  # from the first line of run() to its last
    message: str = ""

    @property
    def ended(self) -> bool:
        return self.status not in ("planned", "running")


def key(prefix: str, attempt: int) -> str:
    return f"{prefix}/execution/{attempt:04d}.json"


def number(store: Store, prefix: str, first: Execution, above: int = 0) -> Execution:
    """`first` under the next free number that is higher than `above`."""
    taken = [k for k in store.list(f"{prefix}/execution") if k.endswith(".json")]
    attempt = 1 + max((above, *(int(k.rsplit("/", 1)[1].split(".")[0]) for k in taken)))
    while True:
        execution = first.model_copy(update={"attempt": attempt})
        try:
            store.write(key(prefix, attempt), _dump(execution), expect=ABSENT)
            return execution
        except Conflict:
            attempt += 1


def write(store: Store, prefix: str, execution: Execution) -> None:
    store.write(key(prefix, execution.attempt), _dump(execution))


def read(store: Store, prefix: str, attempt: int) -> Execution | None:
    found = store.read(key(prefix, attempt))
    try:
        return Execution.model_validate_json(found[0]) if found else None
    except ValueError:
        where = f"{store.url}/{key(prefix, attempt)}"
        raise RetainError(f"{where}: not the record of an attempt; remove that folder of the artifact") from None


def _dump(execution: Execution) -> bytes:
    return canonical(execution.model_dump(mode="json"))
