"""Attempts in containers: each is a flow run of the deployment `stage/<image>`, on whatever machine's worker takes it.

**Starting is repeatable.** The same attempt started twice is the same flow run, by its idempotency key (the parent's
flow run, the stage, the attempt's number). A parent that was killed and comes back finds its attempts by starting them
again.

**Who says that an attempt has ended**: the attempt itself, in its record; whoever watches the Docker engine that ran
its container (flows/ends.py), also where that was killed together with the worker; and Prefect, which is told by the
flow or by the worker. An attempt that wrote no beat for as long as would cost it its claim is lost: it may be paused,
cut off, or gone with its machine. The run goes on with another attempt, and the claim decides between the two.
"""

from __future__ import annotations

import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from uuid import UUID

import httpx
from prefect import Task
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, StateType, TaskRunResult
from prefect.context import TaskRunContext
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Cancelling, Crashed, Pending, Scheduled

from engine import records
from engine.artifact import ArtifactStore
from engine.claim import MISSED_RENEWALS
from engine.errors import RetainError
from engine.patience import SHARED_S, Outage, PatientStore
from engine.records import AttemptRecord
from engine.stage import FAILED, GRACE_S, OVERDUE, PREEMPTED, StageRequest
from engine.store import Store, open_store
from flows import ends
from flows.ends import End
from flows.launch import Launcher, NotStarted
from flows.pools import RENTED, Pool, PricedMachine, is_unwitnessed
from flows.prefect_api import client, flow_run_of, patiently, propose, state_of
from tasks.stages import STAGES

# What a container may live longer than the attempt in it, which stops itself at its limit: it loads Prefect first, and
# in the end copies log and progress. It is charged by the container's life, so that much is reserved on top.
AROUND_S = 30.0
WORK = Path(tempfile.gettempdir(), "work")  # in the container: local disk, gone with it
REQUEST = "request"  # what is kept beside an attempt's record
LOOK_S = 0.5  # between two looks at an attempt
# After an attempt's own last word its container takes 1-2 s to end, and whoever watches the engine half a second more.
# One that takes longer is settled later.
END_S = 3.0
# For an attempt that was asked to stop: its flow looks every 2 s, then it has GRACE_S.
STOPPING_S = GRACE_S + 20.0
BEGINS_S = 180.0  # from its container's start to an attempt's first sign of life; 5 to 20 s, as a machine is busy
VERTEX_BEGINS_S = 3600.0  # a job of Vertex AI counts as started while it waits for its machine
GROWING = threading.Lock()  # two stages that start at once would each ask for the size that one of them wants
GROW_S = 60.0  # an attempt that waits for a rented machine sees so often to it that there is one
# An idle machine may delete itself just when it is wanted. One that can't work does, too, and so would all that follow.
MACHINES_GONE = 3
MISSED_S = 20.0  # at least, without a beat, until an attempt counts as lost: a busy machine skips some
KILLED = -signal.SIGKILL
UNFINISHED = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
MISSING = "Prefect has no deployment {}. `make deploy` registers it"


def containers(parent: UUID, region: str, gpu: str | None = None) -> Launcher:
    """Starts attempts in containers, for the run that is the flow run `parent`. `region`, `gpu`: of rented machines."""
    api = client()

    def start(request: StageRequest, caller: Mapping[str, str], pool: str) -> Container:
        started = _start(request, pool, parent, api)
        if is_unwitnessed(pool):
            started.witnessed, started.begins_s = False, VERTEX_BEGINS_S
        elif pool in RENTED:
            started.grow = partial(_grow, region, RENTED[pool], api)
            _machine_for(started)
        return started

    def available(machine: PricedMachine) -> bool:
        if machine.pool not in RENTED:
            return True
        from flows import capacity  # whoever rents no machines needs none of Google's libraries

        try:
            capacity.check(capacity.Cloud(region), [RENTED[machine.pool]], gpu)
        except RetainError:
            return False
        return True

    def work(here: Path, attempt_id: str) -> Path:
        return WORK / attempt_id.replace("/", "-")

    return Launcher(start=start, available=available, work=work, owner=str(parent), shared=True, around_s=AROUND_S)


def check_deployments(needed: Iterable[tuple[str, str]]) -> None:
    """Raises RetainError where Prefect lacks a deployment. `needed`: stages, and a pool in which each may work."""
    with client() as api:
        for name in sorted({_deployment(stage, pool) for stage, pool in needed}):
            try:
                patiently(lambda name=name: api.read_deployment_by_name(name))  # type: ignore[misc]
            except ObjectNotFound:
                raise RetainError(MISSING.format(name)) from None


def _start(request: StageRequest, pool: str, parent: UUID, api: SyncPrefectClient) -> Container:
    store = open_store(request.store)
    patient = PatientStore(store, Outage(SHARED_S))
    prefix = ArtifactStore(store, request.experiment).prefix(request.stage, request.fingerprint)
    # In the order of the experiment's keys, which a stage may go by: `release` lists missed criteria in it.
    patient.write(records.key(prefix, request.number, REQUEST), request.model_dump_json(indent=1).encode())
    name = _deployment(request.stage, pool)
    try:
        flow_run = patiently(lambda: _flow_run(request, name, parent, api))
    except ObjectNotFound:
        raise NotStarted(MISSING.format(name)) from None
    except httpx.HTTPStatusError as error:
        raise NotStarted(f"Prefect refuses a run of {name}: {error.response.text}") from None
    ends.name_flow_run(patient, prefix, request.number, flow_run.id)
    return Container(flow_run.id, store, prefix, request.number, request.heartbeat_s, api)


def _grow(region: str, pool: Pool, api: SyncPrefectClient) -> bool:
    """Sees to it that the pool's group has a machine for each attempt that has not ended; whether it had too few.
    Raises RetainError."""
    from flows import capacity  # whoever rents no machines needs none of Google's libraries

    with GROWING:
        unfinished = patiently(
            lambda: api.count_flow_runs(
                flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=UNFINISHED))),
                work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[pool.name])),
            )
        )
        return capacity.grow(capacity.Cloud(region), pool, unfinished)


def _machine_for(started: Container) -> None:
    """Raises NotStarted, and cancels the attempt, where no machine can be asked for and it has none yet. Where nobody
    answers now, the attempt asks again while it waits."""
    from flows.capacity import CloudAway

    try:
        started.grow()
    except CloudAway:
        return
    except RetainError as error:
        state = state_of(started.api, started.flow_run)
        if state is not None and state.is_scheduled():
            propose(started.api, started.flow_run, Cancelled(message=str(error)), force=True)
            raise NotStarted(str(error)) from None


def _deployment(stage: str, pool: str) -> str:
    return f"stage/{STAGES[stage].image}{f'-on-{pool}' if pool else ''}"


def _flow_run(request: StageRequest, name: str, parent: UUID, api: SyncPrefectClient) -> FlowRun:
    """The attempt's flow run, of the deployment of that name and below the task of its stage; the same one whenever it
    is asked for.

    Prefect's run_deployment numbers the links between tasks and flow runs by the order of its calls, which differs once
    a parent has come back: an attempt would then be shown below another stage.
    """
    key = f"{parent}:{request.stage}:{request.fingerprint}:{request.number}"
    deployment = api.read_deployment_by_name(name)
    context = TaskRunContext.get()
    link = api.create_task_run(
        Task(name=name, fn=lambda: None),
        parent,
        dynamic_key=key,
        state=Pending(),
        task_inputs={"__parents__": [TaskRunResult(id=context.task_run.id)]} if context else {},
    )
    return api.create_flow_run_from_deployment(
        deployment.id,
        parameters={
            "experiment": request.experiment,
            "stage": request.stage,
            "fingerprint": request.fingerprint,
            "number": request.number,
        },
        state=Scheduled(),
        name=f"{request.stage}-{request.number}",
        idempotency_key=key,
        parent_task_run_id=link.id,
    )


@dataclass
class Container:
    """An attempt that is a flow run. It puts its log and progress into the store itself, so it has no folder here."""

    flow_run: UUID
    store: Store
    prefix: str
    number: int
    heartbeat_s: float
    api: SyncPrefectClient
    work: None = None
    message: str = ""  # why it ended, where its record doesn't say
    lost: bool = False
    never_began: bool = False
    grow: Callable[[], bool] = lambda: False  # sees to it that there is a machine for it; whether there was none
    witnessed: bool = True  # somebody sees its container end; else its own record counts
    begins_s: float = field(default_factory=lambda: BEGINS_S)
    _stopping: bool = False  # it is to stop, and Prefect has not heard of it yet
    _code: int | None = None
    _looked_at: float = 0.0
    _beat: AttemptRecord | None = None  # as last read
    _beat_at: float = 0.0  # when that was first read
    _started_at: float | None = None  # when its container was known to have started, and the store could be read
    _end: End | None = None
    _grown_at: float = field(default_factory=time.monotonic)
    _machines_gone: int = 0

    @property
    def seconds(self) -> float:
        """Those of its container once that has ended; until then, of the attempt in it. Waiting for a machine costs
        nothing."""
        if self._end is not None:
            return self._end.seconds
        if self._beat is None or self._beat.status == "planned":
            return 0.0
        return self._beat.seconds if self._beat.ended else self._beat.seconds + time.monotonic() - self._beat_at

    @property
    def seconds_alive(self) -> float:
        return self._beat.seconds if self._beat is not None else 0.0

    @property
    def end_seen(self) -> bool:
        told = self._beat is not None and self._beat.ended and not self.witnessed
        return self._end is not None or self.never_began or told

    def poll(self) -> int | None:
        now = time.monotonic()
        if self._code is None and now - self._looked_at >= LOOK_S:
            self._looked_at = now
            if self._stopping:
                self._ask_to_stop()
            self._code = self._look(now)
        return self._code

    def preempt(self) -> None:
        """While Prefect doesn't answer, each poll asks again."""
        self._stopping = True
        self._ask_to_stop()

    def kill(self) -> None:
        self.preempt()  # whoever watches the Docker engine stops a container whose flow run doesn't end

    def read(self, name: str) -> bytes:
        stored = self.store.read(records.key(self.prefix, self.number, records.SUFFIXES[name]))
        return stored[0] if stored else b""

    def end(self) -> int | None:
        if self._code is None:
            self.preempt()
            self._wait(STOPPING_S, lambda: self.poll() is not None)
        if self._code is None or self.lost:
            self._say_crashed("nobody knows whether it has ended")
            return None
        self._wait(END_S, self._find_end)
        self.never_began = self.never_began and self._end is None
        if self._beat is None or not self._beat.ended:
            self._say_crashed(self.message)
        return self._code

    def _look(self, now: float) -> int | None:
        record, answered = self._record()
        if record is not None and record.ended:
            self._beat = record
            if record.exit_code is not None:
                return record.exit_code
            return OVERDUE if record.status == "overdue" else KILLED  # somebody else has closed it
        if not answered or self._beat is None or record != self._beat:
            self._beat, self._beat_at = record if answered else self._beat, now
        if self._find_end():
            assert self._end is not None
            cause = "out of memory" if self._end.oom_killed else f"exit code {self._end.exit_code}"
            self.message = f"its container ended ({cause})"
            return KILLED
        flow_run = flow_run_of(self.api, self.flow_run)
        state = flow_run.state if flow_run is not None else None
        if flow_run is not None and state is not None and state.is_final():
            self.message = state.message or state.name or ""
            # The worker names the container once it has started it, and that one's end will be known.
            self.never_began = not (flow_run.run_count or flow_run.infrastructure_pid)
            return self._code_of_state(state.is_failed(), state.is_cancelled())
        if flow_run is not None and flow_run.infrastructure_pid and (self._started_at is None or not answered):
            self._started_at = now
        if state is not None and state.is_scheduled() and now - self._grown_at > GROW_S:
            self._grown_at = now
            with suppress(RetainError):  # the next time may succeed
                self._machines_gone += self.grow()
            if self._machines_gone > MACHINES_GONE:
                return self._without_machine()
        missed_s = self._missed_s(record, now) if answered else 0.0
        if missed_s:
            self.lost = True
            self.message = f"no sign of life for {missed_s:.0f} s"
            return KILLED
        return None

    def _without_machine(self) -> int:
        self.never_began = True
        self.message = (
            f"{self._machines_gone} machines of its pool deleted themselves without taking it: their logs say why "
            "(docs/GOOGLE_CLOUD.md)"
        )
        propose(self.api, self.flow_run, Cancelled(message=self.message), force=True)
        return FAILED  # those that follow would do the same

    def _missed_s(self, record: AttemptRecord | None, now: float) -> float:
        """For how long it has given no sign of life, if that is so long that it counts as lost; else 0."""
        if record is not None and record.status == "running":
            since, longest_s = self._beat_at, max(MISSED_RENEWALS * self.heartbeat_s, MISSED_S)
        else:
            since, longest_s = now if self._started_at is None else self._started_at, self.begins_s
        return now - since if now - since > longest_s else 0.0

    def _code_of_state(self, failed: bool, cancelled: bool) -> int:
        """What an attempt ended with that wrote nothing of its end."""
        return FAILED if failed else PREEMPTED if cancelled else KILLED

    def _ask_to_stop(self) -> None:
        self._stopping = not propose(self.api, self.flow_run, Cancelling(message="the run asks its stages to stop"))

    def _record(self) -> tuple[AttemptRecord | None, bool]:
        """The attempt's record, and whether the store could be read."""
        try:
            return records.read(self.store, self.prefix, self.number), True
        except RetainError:
            return None, False

    def _find_end(self) -> bool:
        if self._end is None:
            try:
                self._end = ends.read(self.store, self.flow_run)
            except RetainError:
                return False
        return self._end is not None

    def _say_crashed(self, message: str) -> None:
        state = state_of(self.api, self.flow_run)
        if state is not None and not state.is_final():
            propose(self.api, self.flow_run, Crashed(message=message), force=True)

    def _wait(self, seconds: float, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + seconds
        while not done() and time.monotonic() < deadline:
            time.sleep(0.1)
