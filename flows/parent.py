"""The run that a flow run of the deployment `train` is: the parent of the stages' containers.

Whatever happens to the parent, its stages go on. On SIGTERM (its machine is wanted back) it asks Prefect to schedule it
again and leaves at once; a killed one is scheduled again by an automation. When it comes back, it takes up its open
attempts. Only a cancellation, or the budget, stops the stages as well: they save their checkpoints, and their costs are
settled.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from uuid import UUID

from prefect import State
from prefect.context import FlowRunContext
from prefect.logging import get_run_logger
from prefect.states import AwaitingRetry, Cancelled, Failed

from engine.errors import RetainError, StoreUnavailable
from engine.patience import SHARED_S, Outage, PatientStore
from engine.store import open_store, store_url
from flows.attempt import settle_lost, unsettled
from flows.automations import announcer
from flows.board import Board, Row
from flows.container import containers
from flows.plan import Plan, make_plan, put_sources
from flows.prefect_api import OwnState, client, propose, state_of
from flows.retries import LATER_AND_LATER
from flows.run import Run

PROBE, PROBE_BYTES = "probe", 1 << 20  # what is written to see whether the store can be
RETURNS = 50  # how often a run may come back before something must be wrong with it itself
# A container that was lost is stopped a minute after its flow run was given up (flows/witness.py).
ENDS_S = 90.0


def carry_out(
    experiment: str,
    stages: list[str],
    dag: Callable[[Run], State[None]],
    *,
    force: bool,
    budget_usd: float | None,
) -> State[None]:
    """Carries out the experiment inside a flow run, and returns the state in which that ends."""
    context = FlowRunContext.get()
    assert context is not None
    assert context.flow_run is not None
    flow_run = context.flow_run
    if flow_run.run_count > RETURNS:
        return Failed(message=f"ended {RETURNS} times without finishing; see the logs of its containers")
    log = get_run_logger()
    with _leaving_on_sigterm(flow_run.id):
        returns = flow_run.run_count - 1
        try:
            plan = _plan(
                lambda: make_plan(experiment, stages, budget_usd=budget_usd), patience_s=SHARED_S * bool(returns)
            )
            settle_lost(plan)
            if force and not returns:
                _set_aside(plan, stages)
            put_sources(plan)
        except RetainError as error:
            return Failed(message=str(error))
        rows = [Row(stage.name, stage.inputs, usd_per_hour=plan.machine(stage).usd_per_hour) for stage in plan.stages]
        scope = plan.experiment.costs.scope
        run = Run(
            plan,
            Board({row.stage: row for row in rows}),
            launcher=containers(flow_run.id),
            waits_s=LATER_AND_LATER,
            announce=announcer(scope, flow_run.id, flow_run.deployment_id),
        )
        with OwnState(flow_run.id, run.stopping) as own:
            state = dag(run)
        _settle(plan, str(flow_run.id))
        for row in run.board.rows.values():
            log.info("%-12s %-10s %s", row.stage, row.state, row.message or row.metric)
    if own.cancelled:
        return Cancelled(message="stopped; the next run goes on from here")
    if run.over_budget and not state.is_completed():
        return Failed(message=f"stopped by the budget: {run.over_budget}. The next run goes on from here")
    return state


def _plan(make: Callable[[], Plan], patience_s: float) -> Plan:
    """The plan, on a store that is waited for during the run. For planning itself it is waited for `patience_s`: a
    store that can't be written when a run is started for the first time is more likely another user's."""

    def plan() -> Plan:
        try:
            return make()
        except RetainError as error:
            try:
                probe = open_store(store_url())
                probe.write(PROBE, bytes(PROBE_BYTES))  # a full disk still takes an empty file
                probe.delete(PROBE)
            except RetainError:
                raise StoreUnavailable(str(error)) from None
            raise

    made = Outage(patience_s).call(plan)
    return replace(made, store=PatientStore(made.store, Outage(SHARED_S)))


@contextmanager
def _leaving_on_sigterm(flow_run: UUID) -> Iterator[None]:
    """Inside the block SIGTERM ends this process at once, and the flow run is scheduled again.

    Everything that a killed parent can be missing has to be in the store anyway, so nothing is tidied up.
    """
    asked = threading.Event()

    def leave() -> None:
        asked.wait()
        with client() as api:
            state = state_of(api, flow_run)
            if state is not None and state.is_cancelling():
                return  # it is stopping, in order
            if state is None or not state.is_final():
                propose(api, flow_run, AwaitingRetry(message="its machine was wanted back"), force=True)
        os._exit(0)

    threading.Thread(target=leave, name="leave", daemon=True).start()
    before = signal.signal(signal.SIGTERM, lambda number, frame: asked.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _settle(plan: Plan, owner: str) -> None:
    """Settles what can be, and waits a while for the ends of containers that were lost."""
    deadline = time.monotonic() + ENDS_S
    while settle_lost(plan) or (unsettled(plan, owner) and time.monotonic() < deadline):
        time.sleep(1.0)


def _set_aside(plan: Plan, stages: list[str]) -> None:
    """Forgets the artifacts of the named stages, or of all, so that they are made again."""
    for name, fingerprint in plan.reusable().items():
        if not stages or name in stages:
            plan.artifacts.forget(name, fingerprint)
