"""One attempt (see engine/records.py), from its reservation to its settlement; and attempts whose end nobody saw.

Number -> reserve -> launch -> settle. If this process is killed between two of these steps, the ledger and the
attempt's record say enough for settle_lost(), which every run calls first and last.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from platform import node

from engine import ledger, records
from engine.artifact import MANIFEST
from engine.checkpoint import clear
from engine.claim import clear_dead
from engine.errors import BudgetExceeded, RetainError
from engine.fingerprint import Identity
from engine.process import Holder, this_process
from engine.records import AttemptRecord
from engine.stage import CHECKPOINTS, CLAIM, GRACE_S, Stage, StageRequest
from flows.launch import LOG, PROGRESS, Child, launch, work_folder
from flows.plan import Plan
from tasks.config import Machine

POLL_S = 0.05
CLOCKS_DIFFER_S = 60.0  # at most, between two machines
ENDING_S = GRACE_S + 5.0  # an attempt may outlive its limit by this: asked to stop, it ends, and we notice


@dataclass(frozen=True)
class Ending:
    """How an attempt ended: its exit code (negative: killed by that signal), its record and what it cost."""

    code: int
    record: AttemptRecord
    seconds: float
    usd: float


def run_attempt(
    plan: Plan,
    stage: Stage,
    identity: Identity,
    inputs: dict[str, str],
    watch: Callable[[Child], None],
    start: Callable[[StageRequest, Mapping[str, str]], Child] = launch,
) -> Ending:
    """Runs one attempt to its end. `watch` is called every POLL_S while it lives. Raises BudgetExceeded."""
    store, experiment = plan.store, plan.experiment
    prefix = plan.artifacts.prefix(stage.name, identity.fingerprint)
    machine, execution = plan.machine(stage), experiment.execution
    # The ledger's numbers count too: whoever removes an artifact's folder removes its records, but no money spent.
    ids = [entry.attempt_id for entry in _entries(plan) if entry.attempt_id.startswith(f"{prefix}/")]
    charged = max((_prefix_and_number(attempt_id)[1] for attempt_id in ids), default=0)
    record = records.create(store, prefix, _planned(plan, machine, identity), above=charged)
    attempt_id = f"{prefix}/{record.number}"
    try:
        ledger.reserve(
            store,
            experiment.costs.scope,
            cap_usd=experiment.costs.budget_usd,
            attempt_id=attempt_id,
            experiment=experiment.tag,
            stage=stage.name,
            usd_per_hour=machine.usd_per_hour,
            limit_s=plan.time_limit_s(stage) + ENDING_S,
            overhead_s=execution.overhead_s,
        )
    except BudgetExceeded as error:
        records.write(store, prefix, record.model_copy(update={"status": "refused", "message": str(error)}))
        raise
    request = plan.request(stage, identity, inputs, record.number, work_folder(store.url, attempt_id))
    child = start(request, plan.environment)
    try:
        watch(child)
        while child.poll() is None:
            time.sleep(POLL_S)
            watch(child)
    finally:
        code = child.end()  # even if an error is on its way here, no attempt goes on unwatched or unpaid
        entry = ledger.settle(store, experiment.costs.scope, attempt_id, child.seconds, estimated=False)
        final = _close(plan, prefix, record.number, child.work, child.seconds)
    return Ending(code=code, record=final or record, seconds=child.seconds, usd=entry.metered_usd)


def settle_lost(plan: Plan) -> int:
    """Settles the attempts of this scope whose parent died, and returns how many.

    An attempt that wrote how it ended is charged the seconds it wrote. Any other is charged up to its last sign of life
    plus one heartbeat, and the charge is marked as estimated. Not settled yet are attempts whose process still lives
    (it will stop by itself) and those of another machine or boot, whose processes can't be seen from here, until
    their deadline has passed.
    """
    store, scope = plan.store, plan.experiment.costs.scope
    settled = 0
    for entry in _entries(plan):
        prefix, number = _prefix_and_number(entry.attempt_id)
        work = work_folder(store.url, entry.attempt_id)
        if entry.state == "settled" and not work.exists():
            continue
        record = _readable(plan, prefix, number)
        holders = [entry.holder]
        if record is not None and record.status == "running":
            holders.append(record.holder)
        if not all(_gone(holder, entry) for holder in holders):
            continue
        end_known = record is not None and record.ended
        seconds = record.seconds if record else 0.0
        if not end_known:
            seconds += plan.experiment.execution.heartbeat_s
        if entry.state == "open":
            ledger.settle(store, scope, entry.attempt_id, seconds, estimated=not end_known)
            settled += 1
        _close(plan, prefix, number, work, seconds)
    return settled


def _entries(plan: Plan) -> list[ledger.Entry]:
    return ledger.entries(plan.store, plan.experiment.costs.scope)


def _prefix_and_number(attempt_id: str) -> tuple[str, int]:
    prefix, _, number = attempt_id.rpartition("/")
    return prefix, int(number)


def _gone(holder: Holder, entry: ledger.Entry) -> bool:
    alive = holder.alive()
    if alive is None:
        return time.time() > entry.reserved_at + entry.reserved_s + CLOCKS_DIFFER_S
    return not alive


def _readable(plan: Plan, prefix: str, number: int) -> AttemptRecord | None:
    """The attempt's record; None if it is missing or damaged."""
    try:
        return records.read(plan.store, prefix, number)
    except RetainError:
        return None


def _planned(plan: Plan, machine: Machine, identity: Identity) -> AttemptRecord:
    return AttemptRecord(
        number=0,
        status="planned",
        host=node(),
        machine_type=machine.type,
        usd_per_hour=machine.usd_per_hour,
        commit=plan.commit,
        libraries=identity.libraries,
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        holder=this_process(),
    )


def _close(plan: Plan, prefix: str, number: int, work: Path, seconds: float) -> AttemptRecord | None:
    """Writes the final record, keeps log and progress beside it, and removes what the attempt left behind."""
    store = plan.store
    record = _readable(plan, prefix, number)
    if record is not None and not record.ended:
        record = record.model_copy(update={"status": "killed", "seconds": round(seconds, 3)})
        records.write(store, prefix, record)
    for name, suffix in ((LOG, "log"), (PROGRESS, "progress.jsonl")):
        path = work / name
        with suppress(OSError, RetainError):  # a log that can't be kept is no failure of its stage
            if record is not None and path.exists() and path.stat().st_size:
                store.write(records.key(prefix, number, suffix), path.read_bytes())
    # An attempt that was killed after it wrote its manifest leaves a claim and checkpoints that nobody needs any more.
    clear_dead(store, f"{prefix}/{CLAIM}")
    if store.read(f"{prefix}/{MANIFEST}") is not None:
        clear(store, f"{prefix}/{CHECKPOINTS}")
    shutil.rmtree(work, ignore_errors=True)
    return record
