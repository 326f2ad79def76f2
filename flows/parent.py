"""The run that a flow run of the deployment `train` is: the parent of the stages' containers.

Whatever happens to the parent, its stages go on. On SIGTERM (its machine is wanted back) it asks Prefect to schedule it
again and leaves at once; a killed one is scheduled again by an automation. When it comes back, it takes up its open
attempts. Only a cancellation, or the budget, stops the stages as well: they save their checkpoints, and their costs are
settled.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from prefect import State
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext
from prefect.logging import get_run_logger
from prefect.states import AwaitingRetry, Cancelled, Completed, Failed

from engine.errors import RetainError, StoreUnavailable
from engine.patience import SHARED_S, Outage, PatientStore
from engine.store import open_store, store_url
from flows.attempt import settle_lost, unsettled
from flows.automations import announcer
from flows.board import Board, Row
from flows.budget import watched
from flows.changes import Begun, begin
from flows.container import check_deployments, containers
from flows.dashboard import published
from flows.forced import put_back, set_aside
from flows.plan import Plan, make_plan, put_sources
from flows.pools import ON_THIS_MACHINE, RENTED, Pools
from flows.prefect_api import OwnState, client, flow_run_of, propose, state_of
from flows.retries import LATER_AND_LATER
from flows.run import Run

PROBE, PROBE_BYTES = "probe", 1 << 20  # what is written to see whether the store can be
RETURNS = 50  # how often a run may come back before something must be wrong with it itself
# A container that was lost is stopped a minute after its flow run was given up (flows/witness.py).
ENDS_S = 90.0
CANCELLED_ENDS_S = 30.0  # since the cancellation: a minute after it this container is killed as well
SETTLE_AGAIN_S = 1.0


Log = logging.Logger | logging.LoggerAdapter[Any]
Prepare = Callable[[str], None]  # takes a stage's name, before that stage is carried out


def carry_out(
    experiment: str,
    stages: Sequence[str],
    dag: Callable[[Run, Prepare], State[None]],
    *,
    force: bool,
    budget_usd: float | None,
    pools: Pools = ON_THIS_MACHINE,
    proposed_by: str | None = None,
) -> State[None]:
    """Carries out the experiment inside a flow run, and returns the state in which that ends.

    `dag` carries out a run's stages within that flow run. `force`: the named stages are made again, or all. `pools`:
    where the stages work.
    `proposed_by`: of a retrain (flows/retrain.py), who proposes its release.
    """
    context = FlowRunContext.get()
    assert context is not None
    assert context.flow_run is not None
    flow_run, log = context.flow_run, get_run_logger()
    with _leaving_on_sigterm(flow_run.id):
        try:
            if flow_run.run_count > RETURNS:
                raise RetainError(f"ended {RETURNS} times without finishing; see the logs of its containers")
            # A store that can't be written when a run is started is more likely another user's than away.
            patience_s = SHARED_S if flow_run.run_count > 1 else 0.0
            began = _began(flow_run)
            plan = _plan(
                lambda: make_plan(experiment, stages, elsewhere=True, budget_usd=budget_usd, began=began, pools=pools),
                patience_s,
            )
            most = plan.experiment.execution.max_preemptions
            check_deployments((stage.name, each.pool) for stage in plan.stages for each in plan.machines(stage, most))
            if flow_run.run_count <= 1:  # one that comes back has its attempts, and waits for machines as they do
                _check_capacity(plan)
            forced = [stage.name for stage in plan.stages if force and (not stages or stage.name in stages)]
            return _carried_out(plan, flow_run, forced, dag, log, proposed_by)
        except RetainError as error:
            return Failed(message=str(error))
        finally:
            if force:
                _put_back(str(flow_run.id), log)


def _carried_out(
    plan: Plan,
    flow_run: FlowRun,
    forced: Container[str],
    dag: Callable[[Run, Prepare], State[None]],
    log: Log,
    proposed_by: str | None = None,
) -> State[None]:
    owner = str(flow_run.id)
    # A month's ledger refuses by itself what else comes in that month, and what comes in the next one is not to wait.
    paused_with = flow_run.deployment_id if plan.earlier_scope is None else None
    rows = [Row(stage.name, stage.inputs, usd_per_hour=plan.machine(stage).usd_per_hour) for stage in plan.stages]
    run = Run(
        plan,
        Board({row.stage: row for row in rows}, on_notice=log.warning),
        launcher=containers(flow_run.id, plan.experiment.costs.region, plan.experiment.costs.machines.gpu.gpu),
        waits_s=LATER_AND_LATER,
        announce=announcer(plan.experiment.costs.scope, flow_run.id, paused_with),
    )

    def prepare(name: str) -> None:
        if name in forced:
            set_aside(run, name, owner)

    # What is settled in here is seen by those who watch the budget and show the costs.
    with OwnState(flow_run.id, run.stopping) as own, watched(run), published(run):
        settle_lost(plan)
        begun = begin(plan, owner, run.launcher.around_s) if proposed_by else None
        put_sources(plan)
        state = dag(run, prepare)
        _settle(plan, own, owner, log)
    for row in run.board.rows.values():
        log.info("%-12s %-10s %s", row.stage, row.state, row.message or row.metric)
    if own.cancelled:
        return Cancelled(message="stopped; the next run goes on from here")
    if run.over_budget and not state.is_completed():
        return Failed(message=f"stopped by the budget: {run.over_budget}. The next run goes on from here")
    if proposed_by and begun:
        return _concluded(run, state, begun, proposed_by, log)
    return state


def _check_capacity(plan: Plan) -> None:
    """Raises RetainError where the rented machines can't be had that stages begin on which are still to be made."""
    identities = plan.standing()
    to_make = [stage for stage in plan.stages if not plan.is_made(stage.name, identities[stage.name])]
    named = {plan.machine(stage).pool for stage in to_make} & RENTED.keys()
    if named:
        from flows import capacity  # whoever rents no machines needs none of Google's libraries

        costs = plan.experiment.costs
        capacity.check(capacity.Cloud(costs.region), [RENTED[name] for name in named], costs.machines.gpu.gpu)


def _concluded(run: Run, state: State[None], begun: Begun, by: str, log: Log) -> State[None]:
    """The state in which a retrain ends whose stages ended in `state`: what came of it, or why nothing did."""
    if not state.is_completed():
        rows = [row for row in run.board.rows.values() if row.state not in ("complete", "reused", "waiting")]
        reasons = "; ".join(f"{row.stage}: {row.message}" for row in rows) or state.message
        return Failed(message=f"no new release, {begun.release or 'none'} stays the current one. {reasons}")
    from flows.promote import concluded  # a run that is no retrain needs none of what it reads with

    lines = concluded(run.plan, begun, by)
    for line in lines:
        log.info(line)
    return Completed(message="\n".join(lines))


def _plan(make: Callable[[], Plan], patience_s: float) -> Plan:
    """The plan, on a store that is waited for during the run; for planning itself it is waited for `patience_s`."""

    def plan() -> Plan:
        _probe()
        try:
            return make()
        except RetainError as error:
            try:
                _probe()
            except RetainError:
                raise StoreUnavailable(str(error)) from None
            raise

    made = Outage(patience_s).call(plan)
    return replace(made, store=PatientStore(made.store, Outage(SHARED_S)))


def _began(flow_run: FlowRun) -> datetime:
    """When the flow run was started first: what comes back spends from the ledger of the month that it began in."""
    if flow_run.start_time is None:  # as it was read before it was started
        with client() as api:
            flow_run = flow_run_of(api, flow_run.id) or flow_run
    return flow_run.start_time or datetime.now(UTC)


def _probe() -> None:
    """Raises StoreUnavailable where the store can't be written."""
    store = open_store(store_url())
    store.write(PROBE, bytes(PROBE_BYTES))  # a full disk still takes an empty file
    store.delete(PROBE)


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


def _settle(plan: Plan, own: OwnState, owner: str, log: Log) -> None:
    """Settles what can be, and waits a while for the ends of containers that were lost. Raises nothing: what can't be
    settled now, the next run of the experiment settles."""
    at_once = replace(plan, store=open_store(store_url()))  # which waits for no store: the loop does
    deadline = time.monotonic() + ENDS_S
    while True:
        try:
            settle_lost(at_once)
            left = unsettled(at_once, owner)
            why = f"the ends of {left} attempts are not known" if left else ""
        except RetainError as error:
            why = str(error)
        if not why:
            return
        if own.cancelled_at is not None:
            deadline = min(deadline, own.cancelled_at + CANCELLED_ENDS_S)
        if time.monotonic() >= deadline:
            log.warning(f"not all costs are settled yet, but will be by the next run: {why}")
            return
        time.sleep(SETTLE_AGAIN_S)


def _put_back(flow_run: str, log: Log) -> None:
    try:
        put_back(open_store(store_url()), flow_run)
    except RetainError as error:
        log.warning(f"artifacts that were to be made again may be missing; the next run makes them: {error}")
