"""One attempt at one stage, from its reservation to its settlement; and those whose end nobody saw.

number -> reserve -> launch -> settle. Whatever kills us between two of these, the ledger and the attempt's record
say enough for settle_lost(), which every run calls first and last.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from platform import node

from engine import execution as records
from engine import ledger
from engine.artifact import MANIFEST
from engine.checkpoint import clear
from engine.claim import clear_dead
from engine.errors import BudgetExceeded, RetainError
from engine.execution import Execution
from engine.fingerprint import ROOT, Identity
from engine.process import Holder, this_process
from engine.stage import CHECKPOINTS, CLAIM, GRACE_S, Stage, StageRequest
from flows.launch import LOG, PROGRESS, Child, launch, work_folder
from flows.plan import Plan
from tasks.config import Machine

POLL_S = 0.05
CLOCKS_DIFFER_S = 60.0
ENDING_S = GRACE_S + 5.0  # what an attempt may take beyond its limit: asked to stop, ended by itself, noticed by us


@dataclass(frozen=True)
class Ending:
    """How an attempt ended: its exit code (negative: killed by that signal), its record and what it cost."""

    code: int
    record: Execution
    seconds: float
    usd: float


def attempt(
    plan: Plan,
    stage: Stage,
    identity: Identity,
    inputs: dict[str, str],
    watch: Callable[[Child], None],
) -> Ending:
    """Runs one attempt to its end. `watch` is called every POLL_S while it lives. Raises BudgetExceeded."""
    store, experiment = plan.store, plan.experiment
    prefix = plan.artifacts.prefix(stage.name, identity.fingerprint)
    machine, execution = plan.machine(stage), experiment.execution
    # Past the ledger's numbers too: whoever removes an artifact's folder removes its records, not its money.
    spent = [int(e.attempt.rpartition("/")[2]) for e in _entries(plan) if e.attempt.startswith(f"{prefix}/")]
    record = records.number(store, prefix, _planned(machine, identity), above=max(spent, default=0))
    name = f"{prefix}/{record.attempt}"
    limit = execution.time_limit_s[stage.name]  # type: ignore[index]
    try:
        ledger.reserve(
            store,
            experiment.costs.scope,
            cap_usd=experiment.costs.budget_usd,
            attempt=name,
            experiment=experiment.tag,
            stage=stage.name,
            usd_per_hour=machine.usd_per_hour,
            limit_s=limit + ENDING_S,
            overhead_s=execution.overhead_s,
        )
    except BudgetExceeded as error:
        records.write(store, prefix, record.model_copy(update={"status": "refused", "message": str(error)}))
        raise
    child = launch(
        StageRequest(
            experiment=experiment.tag,
            stage=stage.name,
            entry=stage.entry,
            config_model=stage.config,
            identity=identity,
            inputs=inputs,
            sources=plan.source_keys(stage.name),
            attempt=record.attempt,
            store=store.url,
            work=str(work_folder(store.url, name)),
            threads=stage.resources.threads,
            device=plan.device(stage),
            time_limit_s=limit,
            heartbeat_s=execution.heartbeat_s,
        )
    )
    try:
        watch(child)
        while child.poll() is None:
            time.sleep(POLL_S)
            watch(child)
    finally:
        code = child.end()  # whatever went wrong with us, no attempt goes on unwatched or unpaid
        entry = ledger.settle(store, experiment.costs.scope, name, child.seconds, estimated=False)
        final = _close(plan, prefix, record.attempt, child.work, child.seconds)
    return Ending(code=code, record=final or record, seconds=child.seconds, usd=entry.metered_usd)


def settle_lost(plan: Plan) -> int:
    """Settles the attempts of this scope whose parent died, and returns how many.

    One that wrote how it ended is charged what it wrote; one that didn't, up to its last sign of life and one
    interval, marked estimated. One whose process still lives is left: it stops by itself. So is one of another machine
    or boot, which nobody here can look at, until it must have stopped at its own deadline.
    """
    store, scope = plan.store, plan.experiment.costs.scope
    settled = 0
    for entry in _entries(plan):
        prefix, _, number = entry.attempt.rpartition("/")
        work = work_folder(store.url, entry.attempt)
        if entry.state == "settled" and not work.exists():
            continue
        record = _readable(plan, prefix, int(number))
        at_work = record is not None and record.status == "running"
        holders = [entry.holder, *([record.holder] if record is not None and at_work else [])]
        if not all(_gone(holder, entry) for holder in holders):
            continue
        seen = record is not None and record.ended
        seconds = record.seconds if record else 0.0
        if not seen:
            seconds += plan.experiment.execution.heartbeat_s
        if entry.state == "open":
            ledger.settle(store, scope, entry.attempt, seconds, estimated=not seen)
            settled += 1
        _close(plan, prefix, int(number), work, seconds)
    return settled


def _entries(plan: Plan) -> list[ledger.Entry]:
    return ledger.entries(plan.store, plan.experiment.costs.scope)


def _gone(holder: Holder, entry: ledger.Entry) -> bool:
    alive = holder.alive()
    if alive is None:
        return time.time() > entry.reserved_at + entry.reserved_s + CLOCKS_DIFFER_S
    return not alive


def _readable(plan: Plan, prefix: str, number: int) -> Execution | None:
    """The attempt's record; None if it is gone or damaged, so that nothing is known of the attempt."""
    try:
        return records.read(plan.store, prefix, number)
    except RetainError:
        return None


def _planned(machine: Machine, identity: Identity) -> Execution:
    return Execution(
        attempt=0,
        status="planned",
        host=node(),
        machine_type=machine.type,
        usd_per_hour=machine.usd_per_hour,
        commit=commit(),
        libraries=identity.libraries,
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        holder=this_process(),
    )


def _close(plan: Plan, prefix: str, number: int, work: Path, seconds: float) -> Execution | None:
    """The attempt's final record, with its log and progress beside it; what it left behind goes."""
    store = plan.store
    record = _readable(plan, prefix, number)
    if record is not None and not record.ended:
        record = record.model_copy(update={"status": "killed", "seconds": round(seconds, 3)})
        records.write(store, prefix, record)
    for name, suffix in ((LOG, "log"), (PROGRESS, "progress.jsonl")):
        path = work / name
        if record is not None and path.exists() and path.stat().st_size:
            store.write(f"{prefix}/execution/{number:04d}.{suffix}", path.read_bytes())
    # Killed between its manifest and its end, an attempt leaves a claim and checkpoints that nobody needs any more.
    clear_dead(store, f"{prefix}/{CLAIM}")
    if store.read(f"{prefix}/{MANIFEST}") is not None:
        clear(store, f"{prefix}/{CHECKPOINTS}")
    shutil.rmtree(work, ignore_errors=True)
    return record


@cache
def commit() -> str:
    """The checked-out commit, with "+" when files differ from it; "unknown" outside a repository."""
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
        changed = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")
