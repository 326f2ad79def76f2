"""How containers ended, as whoever watches the Docker engine (flows/witness.py) put it into the store.

An attempt in a container is a flow run of Prefect; the store knows which. The engine that ran the container is the
only one that knows exactly when it began and ended, whatever else died meanwhile, so an attempt is charged by that.
"""

from __future__ import annotations

from uuid import UUID

from pydantic import BaseModel, ConfigDict

from engine import records
from engine.artifact import canonical
from engine.errors import RetainError
from engine.store import Store

FOLDER = "containers"


class End(BaseModel):
    """The end of one container. Times are seconds since 1970, by the clock of the container's machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    flow_run: UUID
    container: str
    image: str
    host: str
    started_at: float
    finished_at: float
    exit_code: int
    oom_killed: bool

    @property
    def seconds(self) -> float:
        return max(0.0, self.finished_at - self.started_at)


def write(store: Store, end: End) -> None:
    store.write(_key(end.flow_run, end.container), canonical(end.model_dump(mode="json")))


def is_written(store: Store, flow_run: UUID, container: str) -> bool:
    """Whether the end of this container is known."""
    return store.read(_key(flow_run, container)) is not None


def read(store: Store, flow_run: UUID) -> End | None:
    """The end of the flow run's last container; None as long as there is none. Raises RetainError."""
    ends = []
    for key in store.list(f"{FOLDER}/{flow_run}"):
        stored = store.read(key)
        try:
            ends += [End.model_validate_json(stored[0])] if stored else []
        except ValueError:
            raise RetainError(f"{store.url}/{key}: not the end of a container; remove it") from None
    return max(ends, key=lambda end: end.finished_at, default=None)


def name_flow_run(store: Store, prefix: str, number: int, flow_run: UUID) -> None:
    """States which flow run the attempt of this number is."""
    store.write(_flow_run_key(prefix, number), f"{flow_run}\n".encode())


def end_of(store: Store, prefix: str, number: int) -> End | None:
    """The end of the attempt's container; None if it isn't known to have ended or runs in none."""
    stored = store.read(_flow_run_key(prefix, number))
    try:
        return read(store, UUID(stored[0].decode().strip())) if stored else None
    except ValueError:
        raise RetainError(f"{store.url}/{_flow_run_key(prefix, number)}: not the id of a flow run; remove it") from None


def _flow_run_key(prefix: str, number: int) -> str:
    return records.key(prefix, number, "flow-run")


def _key(flow_run: UUID, container: str) -> str:
    return f"{FOLDER}/{flow_run}/{container}.json"
