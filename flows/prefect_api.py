"""Prefect's API as a run in containers needs it: without it the run goes on, and asks again.

What is decided comes from the store. A server that is restarted, or a database behind it, must stop nothing: whatever
can wait is tried again, and what is only shown is left out.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import PrefectException

from engine.errors import RetainError

PATIENCE_S = 180.0  # for a server that doesn't answer, where nothing can go on without it
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 10.0
RETRAIN, STAGE = "retrain", "stage"  # flows, by their names
RUNS = ("train", RETRAIN)
# A run that crashes twice within this time does so for a reason of its own, and isn't started again.
AT_ONCE_S = 15
LOOK_S = 2.0  # between two looks at one's own state
UNREACHABLE = (httpx.HTTPError, PrefectException, OSError)

Result = TypeVar("Result")


def client() -> SyncPrefectClient:
    return get_client(sync_client=True)


def flow_run_of(api: SyncPrefectClient, flow_run: UUID) -> FlowRun | None:
    """The flow run of this id; None where the server doesn't say."""
    try:
        return api.read_flow_run(flow_run)
    except UNREACHABLE:
        return None


def state_of(api: SyncPrefectClient, flow_run: UUID) -> State[Any] | None:
    """The flow run's state; None where the server doesn't say."""
    known = flow_run_of(api, flow_run)
    return known.state if known is not None else None


def propose(api: SyncPrefectClient, flow_run: UUID, state: State[Any], *, force: bool = False) -> bool:
    """Proposes a state, and returns whether the server answered."""
    try:
        api.set_flow_run_state(flow_run, state, force=force)
        return True
    except UNREACHABLE:
        return False


def patiently(call: Callable[[], Result], *, clock: Callable[[], float] = time.monotonic) -> Result:
    """The call's result. While the server can't be reached it is called again, for PATIENCE_S."""
    began, wait_s = clock(), FIRST_WAIT_S
    while True:
        try:
            return call()
        except httpx.HTTPStatusError as error:
            if error.response.status_code < 500:
                raise
            failure: Exception = error
        except (httpx.TransportError, OSError) as error:
            failure = error
        if clock() - began > PATIENCE_S:
            raise RetainError(f"Prefect's server did not answer for {PATIENCE_S:.0f} s ({failure})") from None
        time.sleep(wait_s)
        wait_s = min(LONGEST_WAIT_S, 2 * wait_s)


class OwnState:
    """While its block runs, `stopping` is set once somebody cancels this flow run, in the UI for instance.

    `cancelled_at`: when that was seen (time.monotonic()).
    """

    def __init__(self, flow_run: UUID, stopping: threading.Event) -> None:
        self.flow_run, self.stopping = flow_run, stopping
        self.cancelled_at: float | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, name="own state", daemon=True)

    @property
    def cancelled(self) -> bool:
        return self.cancelled_at is not None

    def __enter__(self) -> OwnState:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()

    def _look(self) -> None:
        with client() as api:
            while not self._done.wait(LOOK_S):
                state = state_of(api, self.flow_run)
                if state is not None and (state.is_cancelling() or state.is_cancelled()):
                    self.cancelled_at = time.monotonic()
                    self.stopping.set()
                    return
