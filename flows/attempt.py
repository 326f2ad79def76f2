"""One attempt (see engine/records.py), from its reservation to its settlement; and attempts whose end nobody saw.

Number -> reserve -> launch -> settle. If this process is killed between two of these steps, the ledger and the
attempt's record say enough for settle_lost(), which every run calls first and last.
"""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable, Container
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from platform import node
from typing import Literal

from engine import ledger, records
from engine.artifact import MANIFEST
from engine.checkpoint import clear
from engine.claim import take_away
from engine.errors import BudgetExceeded, RetainError
from engine.fingerprint import Identity
from engine.process import this_process
from engine.records import AttemptRecord, Transcript
from engine.stage import CHECKPOINTS, CLAIM, GRACE_S, OVERDUE, Stage
from flows.ends import end_of
from flows.launch import HERE, Child, Launcher, NotStarted, work_folder
from flows.plan import Plan, with_scope
from flows.pools import PricedMachine, is_unwitnessed
from flows.retries import was_preempted

POLL_S = 0.05
CLOCKS_DIFFER_S = 60.0  # at most, between two machines
ENDING_S = GRACE_S + 5.0  # an attempt may outlive its limit by this: asked to stop, it ends, and we notice
STAMP_S = 300.0  # between two stamps of an attempt that waits for a machine
LOST = -signal.SIGKILL  # exit code of an attempt that nobody has seen end: for all we know it was killed
OVERRUN = "outlived its time limit, did not stop itself, and was killed"


@dataclass(frozen=True)
class Ending:
    """How an attempt ended: its exit code (negative: killed by that signal), its record and what it cost.

    Not `settled`: when its container ended is not known yet, so its reservation counts until settle_lost() knows.
    `never_began`: its container could not be started. `message`: why it was lost.
    """

    code: int
    record: AttemptRecord
    seconds: float
    usd: float
    settled: bool = True
    never_began: bool = False
    message: str = ""


def run_attempt(
    plan: Plan,
    stage: Stage,
    identity: Identity,
    inputs: dict[str, str],
    watch: Callable[[Child], None],
    launcher: Launcher = HERE,
    unsettled: Container[int] = (),
    asked_to_stop: Callable[[], bool] = lambda: False,
    preemptions: int = 0,
) -> Ending:
    """Runs one attempt to its end. `watch` is called every POLL_S while it lives.

    Raises BudgetExceeded, ledger.Held, or NotStarted where it can't be started.

    An open attempt of the launcher's owner is taken up again, unless its number is among those that this run has left
    `unsettled`. `asked_to_stop`: whether the run wants its attempts to end, so that this is no preemption.
    `preemptions`: how many attempts at the artifact have lost their machines in this run.
    """
    store, scope = plan.store, plan.experiment.costs.scope
    prefix = plan.artifacts.prefix(stage.name, identity.fingerprint)
    limit_s = plan.time_limit_s(stage)
    number = open_number(plan, prefix, launcher.owner, unsettled) or _reserve(
        plan, stage, identity, prefix, launcher, preemptions
    )
    attempt_id = f"{prefix}/{number}"
    overrun = False
    work = launcher.work(store.here, attempt_id)
    request = plan.request(stage, identity, inputs, number, work, shared=launcher.shared)
    try:
        child = launcher.start(request, plan.environment, _pool(plan, attempt_id))
    except NotStarted as error:
        ledger.settle(store, scope, attempt_id, 0.0, estimated=False, began=False)
        _close(plan, prefix, number, None if launcher.shared else work, 0.0, "killed", str(error))
        raise
    if launcher.shared:
        watch = _stamping(plan, attempt_id, watch)
    try:
        overrun = _overruns(child, limit_s, watch)
    finally:
        code = child.end()  # even if an error is on its way here, no attempt goes on unwatched or unpaid
        record = _readable(plan, prefix, number)
        settled = code is not None and (child.end_seen or not launcher.shared)
        seconds, estimated = _lived(child, record, plan.experiment.execution.heartbeat_s)
        usd = 0.0
        if settled and code is not None:
            preempted = (
                was_preempted(code, record.status if record else "killed")
                and not child.never_began
                and not (overrun or asked_to_stop())
            )
            entry = ledger.settle(
                store,
                scope,
                attempt_id,
                seconds,
                estimated=estimated,
                preempted=preempted,
                began=not child.never_began,
            )
            seconds, usd = entry.seconds, entry.metered_usd
        if code is not None:
            status: Literal["killed", "overdue"] = "overdue" if overrun else "killed"
            record = _close(plan, prefix, number, child.work, seconds, status, child.message)
    record = record or _planned(plan, plan.machine(stage), identity).model_copy(update={"number": number})
    if code is None:
        return Ending(LOST, record, seconds, usd, settled=False, message=child.message)
    code = OVERDUE if overrun and code < 0 else code  # it may have ended in the last moment
    return Ending(code, record, seconds, usd, settled, child.never_began)


def open_number(plan: Plan, prefix: str, owner: str, unsettled: Container[int]) -> int | None:
    """The number of the owner's open attempt at this artifact, which the owner started before it was killed.

    `unsettled`: the numbers of those that the owner itself has left open.
    """
    for entry in entries(plan) if owner else ():
        number = _prefix_and_number(entry.attempt_id)[1]
        if entry.state == "open" and entry.of_run(owner) and entry.artifact == prefix and number not in unsettled:
            return number
    return None


def preempted_before(plan: Plan, prefix: str, owner: str) -> int:
    """How many attempts at this artifact have been preempted that the owner started before it was killed."""
    if not owner:
        return 0
    return sum(entry.preempted and entry.artifact == prefix and entry.of_run(owner) for entry in entries(plan))


def starting_elsewhere(plan: Plan, prefix: str, owner: str) -> bool:
    """Whether another run is starting an attempt at this artifact, which doesn't show in a claim yet."""
    if not ledger.starting_elsewhere(entries(plan), prefix, owner):
        return False
    settle_lost(plan)  # it may have ended already, and nobody may be left to settle it
    return ledger.starting_elsewhere(entries(plan), prefix, owner)


def _reserve(plan: Plan, stage: Stage, identity: Identity, prefix: str, launcher: Launcher, preemptions: int) -> int:
    """Numbers an attempt, reserves its money and returns the number: for the preferred machine, or where the budget
    has no room for that, for the next one. Raises BudgetExceeded."""
    store, machines = plan.store, plan.machines(stage, preemptions)
    if launcher.shared:
        settle_lost(plan)  # of containers whose end has become known meanwhile
    # The ledger's numbers count too: whoever removes an artifact's folder removes its records, but no money spent.
    charged = max(
        (_prefix_and_number(entry.attempt_id)[1] for entry in entries(plan) if entry.artifact == prefix), default=0
    )
    machines = [*filter(launcher.available, machines[:-1]), machines[-1]]
    record = records.create(store, prefix, _planned(plan, machines[0], identity), above=charged)
    for machine in machines:
        record = _planned(plan, machine, identity).model_copy(update={"number": record.number})
        if machine != machines[0]:
            records.write(store, prefix, record)  # before the ledger has it, which a run that comes back goes by
        try:
            _reserve_money(plan, stage, f"{prefix}/{record.number}", launcher, machine)
            break
        except ledger.Held:
            records.write(
                store, prefix, record.model_copy(update={"status": "claimed", "message": "another run was faster"})
            )
            raise
        except BudgetExceeded as error:
            if machine == machines[-1]:
                records.write(store, prefix, record.model_copy(update={"status": "refused", "message": str(error)}))
                raise
    return record.number


def _reserve_money(plan: Plan, stage: Stage, attempt_id: str, launcher: Launcher, machine: PricedMachine) -> None:
    experiment = plan.experiment
    ledger.reserve(
        plan.store,
        experiment.costs.scope,
        cap_usd=experiment.costs.budget_usd,
        attempt_id=attempt_id,
        experiment=experiment.tag,
        stage=stage.name,
        usd_per_hour=machine.usd_per_hour,
        limit_s=_limit_s(plan, stage, launcher.around_s),
        overhead_s=_overhead_s(plan, machine),
        owner=launcher.owner,
        machine_type=machine.type,
        pool=machine.pool,
    )


def _pool(plan: Plan, attempt_id: str) -> str:
    """The work pool that the attempt's money was reserved for."""
    return next(entry.pool for entry in entries(plan) if entry.attempt_id == attempt_id)


def reserved_s(plan: Plan, stage: Stage, around_s: float) -> float:
    """The seconds that an attempt at the stage reserves; `around_s`: that of its launcher."""
    return _limit_s(plan, stage, around_s) + _overhead_s(plan, plan.machine(stage))


def _overhead_s(plan: Plan, machine: PricedMachine) -> float:
    return plan.experiment.execution.overhead_s if machine.pool else 0.0


def _limit_s(plan: Plan, stage: Stage, around_s: float) -> float:
    return plan.time_limit_s(stage) + ENDING_S + around_s


def _stamping(plan: Plan, attempt_id: str, watch: Callable[[Child], None]) -> Callable[[Child], None]:
    """Watches, and stamps the reservation again while the attempt waits for a machine, and once it has begun.

    Waiting costs nothing and may take hours. Others go by the stamp: an attempt has ended for certain when the time
    that it reserved has passed since, and for a while after it nobody else starts one.
    """
    stamped_at, begun = time.monotonic(), False

    def watched(child: Child) -> None:
        nonlocal begun, stamped_at
        begins = not begun and child.seconds > 0
        if begins or (not begun and time.monotonic() - stamped_at > STAMP_S):
            with suppress(RetainError):  # the next time may succeed
                ledger.stamp_again(plan.store, plan.experiment.costs.scope, attempt_id)
                begun, stamped_at = begins, time.monotonic()
        watch(child)

    return watched


def _overruns(child: Child, limit_s: float, watch: Callable[[Child], None]) -> bool:
    """Watches an attempt until it has ended, or until it has outlived its limit by ENDING_S, seen by us.

    Then it doesn't stop itself, as it should: it may have been stopped by a signal, and would never go on.
    """
    watch(child)
    overdue_since = None
    while child.poll() is None:
        if overdue_since is None and child.seconds > limit_s:
            overdue_since = time.monotonic()
        if overdue_since is not None and time.monotonic() - overdue_since > ENDING_S:
            return True
        time.sleep(POLL_S)
        watch(child)
    return False


def _lived(child: Child, record: AttemptRecord | None, heartbeat_s: float) -> tuple[float, bool]:
    """The seconds from an attempt's start to its end, and whether they are estimated.

    The end is what we saw, not when we looked: this process may have been stopped meanwhile. Else it is what the
    attempt wrote of its end, else its last sign of life and a heartbeat.
    """
    if child.end_seen:
        return child.seconds, False
    if record is not None and record.ended:
        return min(record.seconds, child.seconds), False
    last_sign = max(child.seconds_alive, record.seconds if record else 0.0)
    return min(last_sign + heartbeat_s, child.seconds), True


def settle_lost(plan: Plan) -> int:
    """Settles the attempts of this scope whose parent died, and returns how many.

    An attempt whose container was seen to end is charged that container's seconds, one that wrote how it ended the
    seconds it wrote. Any other is charged up to its last sign of life plus one heartbeat, and the charge is marked as
    estimated. Not settled yet are attempts whose process still lives (it will stop by itself), and until the time that
    they reserved has passed, those in containers whose end nobody has told yet and those of another machine or boot,
    whose processes can't be seen from here. A stamp in the future would put that off for ever, so such a reservation
    counts from now on. Of a ledger that is the month's, that of the month before is looked at as well.
    """
    settled = _settle_lost(plan)
    if plan.earlier_scope is not None:
        settled += _settle_lost(replace(plan, experiment=with_scope(plan.experiment, plan.earlier_scope)))
    return settled


def _settle_lost(plan: Plan) -> int:
    store, scope = plan.store, plan.experiment.costs.scope
    settled = 0
    for entry in entries(plan):
        prefix, number = _prefix_and_number(entry.attempt_id)
        work = work_folder(store.here, entry.attempt_id)
        if entry.state == "settled" and not work.exists():
            continue
        if entry.state == "open" and entry.reserved_at > time.time() + CLOCKS_DIFFER_S:
            entry = ledger.stamp_again(store, scope, entry.attempt_id)
        record = _readable(plan, prefix, number)
        end = end_of(store, prefix, number)
        if end is None and not _gone(entry, record):
            continue
        end_known = end is not None or (record is not None and record.ended)
        seconds = end.seconds if end else record.seconds if record else 0.0
        if not end_known:
            seconds += plan.experiment.execution.heartbeat_s
        if entry.state == "open":
            status = record.status if record else "killed"
            code = record.exit_code if record and record.exit_code is not None else LOST
            began = end is not None or status != "planned"
            preempted = began and was_preempted(code, status)
            entry = ledger.settle(store, scope, entry.attempt_id, seconds, estimated=not end_known, preempted=preempted)
            settled += 1
        _close(plan, prefix, number, work, entry.seconds, "killed")
    return settled


def unsettled(plan: Plan, owner: str) -> int:
    """How many attempts of the owner are not settled."""
    return sum(entry.state == "open" and entry.owner == owner for entry in entries(plan))


def entries(plan: Plan) -> list[ledger.Entry]:
    """Every attempt of the plan's ledger."""
    return ledger.entries(plan.store, plan.experiment.costs.scope)


def _prefix_and_number(attempt_id: str) -> tuple[str, int]:
    prefix, _, number = attempt_id.rpartition("/")
    return prefix, int(number)


def _gone(entry: ledger.Entry, record: AttemptRecord | None) -> bool:
    """Whether the attempt has ended for certain, though nobody saw it end."""
    passed = time.time() > entry.reserved_at + entry.reserved_s + CLOCKS_DIFFER_S
    if entry.owner:  # in a container, which may live on whatever its parent and the process in it do
        return passed or (record is not None and record.ended and is_unwitnessed(entry.pool))
    holders = [entry.holder]
    if record is not None and record.status == "running":
        holders.append(record.holder)
    alive = [holder.alive() for holder in holders]
    return passed if None in alive and True not in alive else not any(alive)


def _readable(plan: Plan, prefix: str, number: int) -> AttemptRecord | None:
    """The attempt's record; None if it is missing or damaged."""
    try:
        return records.read(plan.store, prefix, number)
    except RetainError:
        return None


def _planned(plan: Plan, machine: PricedMachine, identity: Identity) -> AttemptRecord:
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


def _close(
    plan: Plan,
    prefix: str,
    number: int,
    work: Path | None,
    seconds: float,
    unless_written: Literal["killed", "overdue"],
    message: str = "",
) -> AttemptRecord | None:
    """Writes the final record, keeps log and progress beside it, and removes what the attempt left behind.

    `unless_written` and `message`: its status, and why it ended, if the attempt wrote none.
    """
    store = plan.store
    record = _readable(plan, prefix, number)
    if record is not None and not record.ended:
        message = OVERRUN if unless_written == "overdue" else record.message or message
        changes = {"status": unless_written, "seconds": round(seconds, 3), "message": message}
        record = record.model_copy(update=changes)
        records.write(store, prefix, record)
    if work and record is not None:
        Transcript(store, prefix, number, work).keep()
    # An attempt that was killed after it wrote its manifest leaves a claim and checkpoints that nobody needs any more.
    take_away(store, f"{prefix}/{CLAIM}", number)
    if store.read(f"{prefix}/{MANIFEST}") is not None:
        clear(store, f"{prefix}/{CHECKPOINTS}")
    if work:
        shutil.rmtree(work, ignore_errors=True)
    return record
