"""`make run.docker`: a run of the deployment `train`, followed from a terminal. Ctrl-C cancels it.

Prefect's own `prefect deployment run --watch` follows as well, but leaves the run at work when it is interrupted.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID, uuid4

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, State
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_UI_URL
from prefect.states import Cancelling

from engine.errors import RetainError
from engine.output import make_decoration
from flows.login import logged_in, stated_address
from flows.prefect_api import UNREACHABLE, client, patiently

DEPLOYMENT = "train/local"  # any of them: the experiment is a parameter
LOOK_S = 1.0
# A killed parent is scheduled again by an automation, so Crashed is the end only if it stays.
CRASHED_S = 60.0
STOPPED = 128 + signal.SIGINT


def follow(experiment: str, stages: list[str]) -> int:
    """Starts a run and prints the states of it and its stages.

    Returns 0 if it completed, STOPPED if Ctrl-C cancelled it, else 1. Raises RetainError.
    """
    with logged_in(stated_address()), client() as api:
        started: FlowRun | None = None
        try:
            with interrupts_held():  # or a run would be at work of which nobody here knows
                started = _start({"experiment": experiment, "stages": stages})
                print(f"{started.name}: {PREFECT_UI_URL.value()}/runs/flow-run/{started.id}", flush=True)
            return 0 if _watch(api, started.id).is_completed() else 1
        except KeyboardInterrupt:
            if started is None:
                return STOPPED
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            run = started.id
            print("stopping: its stages save their checkpoints", flush=True)
            patiently(lambda: api.set_flow_run_state(run, Cancelling(message="Ctrl-C")))
            ended = _watch(api, run)
            return 0 if ended.is_completed() else STOPPED if ended.is_cancelled() else 1


def _start(parameters: dict[str, Any]) -> FlowRun:
    try:
        # With a key, so that a request that is sent again starts no second run.
        started = run_deployment(
            DEPLOYMENT, parameters=parameters, timeout=0, as_subflow=False, idempotency_key=str(uuid4())
        )
    except ObjectNotFound:
        raise RetainError(f"Prefect has no deployment {DEPLOYMENT}. `make deploy` registers it") from None
    assert isinstance(started, FlowRun)
    return started


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Ctrl-C waits until the block has ended; raises KeyboardInterrupt then."""
    held: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: held.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if held:
        raise KeyboardInterrupt


def _watch(api: SyncPrefectClient, run: UUID) -> State[Any]:
    """Prints states as they change, and returns the run's last one."""
    shown: dict[str, str] = {}
    crashed_at: float | None = None
    while True:
        this = patiently(lambda: api.read_flow_run(run))
        for each in (*_children(api, run), this):
            state = each.state.name if each.state and each.state.name else ""
            if shown.get(each.name) != state:
                shown[each.name] = state
                message = (each.state.message or "") if each.state else ""
                print(f"{time.strftime('%H:%M:%S')}  {each.name:<16} {state:<14} {message}".rstrip(), flush=True)
        state_now = this.state
        if state_now is not None and state_now.is_final():
            crashed_at = (crashed_at or time.monotonic()) if state_now.is_crashed() else None
            if crashed_at is None or time.monotonic() - crashed_at > CRASHED_S:
                return state_now
        else:
            crashed_at = None
        time.sleep(LOOK_S)


def _children(api: SyncPrefectClient, run: UUID) -> list[FlowRun]:
    try:
        chosen = FlowRunFilter.model_validate({"parent_flow_run_id": {"any_": [run]}})
        return api.read_flow_runs(flow_run_filter=chosen, limit=200)
    except UNREACHABLE:
        return []


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m flows.follow", description=__doc__)
    parser.add_argument("--experiment", default="local")
    parser.add_argument("--stage", action="append", default=[], help="this stage and what it needs (may be repeated)")
    options = parser.parse_args(arguments)
    try:
        return follow(options.experiment, options.stage)
    except RetainError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return STOPPED


if __name__ == "__main__":
    make_decoration()
    sys.exit(main())
