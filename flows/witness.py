"""Sees every end of a container of the work pool, whoever died with it: `python -m flows.witness`, beside the worker.

The Docker engine knows exactly when a container began and ended. The worker tells nobody, and may be killed together
with its containers. So this process asks the engine twice a second, and of each container of the pool that has ended it

- puts the end into the store (flows/ends.py), by which an attempt is charged;
- proposes Crashed for its flow run, unless that is final, waits for another start, or already has a newer container;
- removes it, once it has ended for KEEP_S, so that the worker has read its last lines.

A container that outlives its flow run is killed, as is one whose flow run was cancelled and doesn't end, or runs in a
newer container. So nothing leaks, not even a container that was paused until its claim was lost. It gets no SIGTERM: a
run takes that for the loss of its machine and asks to be started again, and a stage could publish nothing any more.
Containers of flow runs that this server doesn't know are another's, and left alone.

A flow run that is about to start and never gets a container, since its worker was killed just then, is proposed as
crashed; one that is being cancelled and has none left, as cancelled. Nobody else would ever tell. And a run that has
crashed is scheduled again, if the automation for that (flows/automations.py) didn't do it: for a quarter of an hour
after a restart Prefect's server holds back events that follow others from before.

All of this is about the flow runs of one work pool, whose other machines have witnesses of their own. So what may be at
work on another machine is left to that one's witness, which puts its end into the store. A machine that is gone has
none: its attempts are missed by their run, and replaced once their claims were not renewed (flows/container.py).

Nothing is remembered that is not in the engine, the store or Prefect: after a restart the same containers are looked
at again. A container stays until its end is in the store and its flow run was told, so no end is lost while either
can't be reached.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

import docker
import httpx
from docker.errors import DockerException, NotFound
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterId,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.states import AwaitingRetry, Cancelled, Cancelling, Crashed
from requests import RequestException

from engine.errors import RetainError, StoreUnavailable
from engine.store import Store, open_store, store_url
from flows import ends
from flows.ends import End
from flows.prefect_api import AT_ONCE_S, RUNS

POOL = "docker"
POOL_LABEL = "retain.pool"  # set by the files of infra/pools/
FLOW_RUN_LABEL = "io.prefect.flow-run-id"  # set by the worker
# Touched at each look, for the health check of infra/compose.yaml.
ALIVE = Path(tempfile.gettempdir()) / "retain-witness"
LOOK_S = 0.5
CARE_S = 5.0  # between two looks for containers that outlive their flow run, and for runs that nobody carries on
KEEP_S = 15.0
OUTLIVED_S = 60.0  # how long a container may outlive its flow run, or a cancellation of it
# How long a flow run may be without a container: its worker may have to pull an image of 2 GB first.
PENDING_S = 600.0
CANCELLED_S = 10.0  # the same, if it had one that has ended, and is being cancelled
RETURN_S = 20.0  # the automation needs a second
CRASHED_LATELY_S = 900.0  # one that crashed before was left alone, by whoever looked after it then
RETRY_S = 5.0  # after a store or server that could not be reached
ENGINE_TIMEOUT_S = 10

ENDED = ("exited", "dead", "removing")
# State of a flow run that nobody carries on -> what it becomes.
STRANDED: dict[StateType, Callable[..., State[Any]]] = {StateType.PENDING: Crashed, StateType.CANCELLING: Cancelled}

UNREACHABLE = (DockerException, RequestException, httpx.HTTPError, PrefectException, RetainError, OSError)


def say(text: str) -> None:
    print(text, flush=True)


class Engine(Protocol):
    """What is called of the Docker engine's API; docker.APIClient has it."""

    def containers(self, *, all: bool, filters: Mapping[str, Any]) -> list[dict[str, Any]]: ...
    def inspect_container(self, container: str) -> dict[str, Any]: ...
    def info(self) -> dict[str, Any]: ...
    def kill(self, container: str) -> None: ...
    def remove_container(self, container: str, *, force: bool) -> None: ...


@dataclass
class Ended:
    """An ended container, and what is still to be done about it."""

    end: End
    written: bool = False
    told: bool = False
    ours: bool = True


@dataclass
class Witness:
    """`pool`: the work pool whose flow runs are looked after. `label`: of its containers on this machine, which two
    platforms on one machine are told apart by; unless given, the pool. `clock`: seconds since 1970, to be compared with
    the engine's."""

    engine: Engine
    api: SyncPrefectClient
    store: Callable[[], Store]
    pool: str = POOL
    label: str = ""
    clock: Callable[[], float] = time.time
    say: Callable[[str], None] = say
    _host: str = ""
    _ended: dict[str, Ended] = field(default_factory=dict)  # container -> what is done about it
    _outlived_since: dict[str, float] = field(default_factory=dict)  # container -> when it was first seen to
    _next_care: float = 0.0
    _retry_at: float = 0.0

    @property
    def is_behind(self) -> bool:
        """Whether something could not be done, and is tried again."""
        return self._retry_at > 0.0

    def look(self) -> None:
        """Looks once at all containers of the pool. Raises one of UNREACHABLE; a later look makes up for it."""
        self._host = self._host or str(self.engine.info()["Name"])
        # The pool's file in infra/pools/ sets the first, the worker the second.
        labels = [f"{POOL_LABEL}={self.label or self.pool}", FLOW_RUN_LABEL]
        listed = self.engine.containers(all=True, filters={"label": labels})
        ended = [each for each in listed if each["State"] in ("exited", "dead")]
        for each in ended:
            if each["Id"] not in self._ended:
                self._see(each)
        self._forget_all_but({each["Id"] for each in listed})
        now = self.clock()
        if now >= self._retry_at:
            self._retry_at = now + RETRY_S  # unless all of it can be done
            self._settle()
            if now >= self._next_care:
                self._next_care = now + CARE_S
                living = [each for each in listed if each["State"] not in ENDED]
                self._end_outlived(living)
                self._end_stranded(living)
                self._return_crashed(now)
            self._retry_at = 0.0

    def _forget_all_but(self, there: set[str]) -> None:
        memories: list[dict[str, Any]] = [self._ended, self._outlived_since]
        for memory in memories:
            for gone in memory.keys() - there:
                del memory[gone]

    def _see(self, listed: Mapping[str, Any]) -> None:
        try:
            end = end_of(self.engine.inspect_container(listed["Id"]), self._host)
        except NotFound:
            return
        self._ended[end.container] = Ended(end)

    def _settle(self) -> None:
        failure: Exception | None = None
        store_is_away = False
        for ended in list(self._ended.values()):
            # The record first, and both are tried though one may fail: neither has to wait for the other.
            for step in (self._write, self._tell):
                if step == self._write and store_is_away:
                    continue  # a bucket is asked for 20 seconds each time
                try:
                    step(ended)
                except UNREACHABLE as error:
                    store_is_away = store_is_away or isinstance(error, StoreUnavailable)
                    failure = error
            if ended.written and ended.told and ended.ours and self.clock() - ended.end.finished_at >= KEEP_S:
                self._remove(ended.end.container)
        if failure is not None:
            raise failure

    def _write(self, ended: Ended) -> None:
        if ended.written:
            return
        store = self.store()
        if ends.read(store, ended.end.flow_run) != ended.end:
            ends.write(store, ended.end)
            self.say(f"flow run {ended.end.flow_run}: {described(ended.end)}")
        ended.written = True

    def _tell(self, ended: Ended) -> None:
        if ended.told:
            return
        try:
            state = self.api.read_flow_run(ended.end.flow_run).state
        except ObjectNotFound:
            ended.told, ended.ours = True, False
            return
        proposed = proposal(ended.end, state)
        if proposed is not None:
            self._propose(ended.end.flow_run, proposed)
            self.say(f"flow run {ended.end.flow_run}: proposed {proposed.name}")
        ended.told = True

    def _end_outlived(self, listed: list[dict[str, Any]]) -> None:
        if not listed:
            return
        states = self._states({flow_run_of(each) for each in listed})
        newest = {flow_run_of(each): each["Id"] for each in sorted(listed, key=lambda each: float(each["Created"]))}
        now = self.clock()
        for each in listed:
            container, flow_run = each["Id"], flow_run_of(each)
            state = states.get(flow_run)
            if state is None:
                continue
            replaced = newest[flow_run] != container
            if not replaced and not (state.is_final() or state.is_cancelling()):
                self._outlived_since.pop(container, None)
                continue
            since = self._outlived_since.setdefault(container, now)
            if replaced or now - since >= OUTLIVED_S:
                why = "runs in a newer container" if replaced else f"is {state.name}"
                self._end(each, f"flow run {flow_run} {why}")

    def _end_stranded(self, listed: list[dict[str, Any]]) -> None:
        """`listed`: the containers that have not ended."""
        created = {flow_run_of(each): each["Id"] for each in listed if each["State"] == "created"}
        started = {flow_run_of(each) for each in listed if each["State"] != "created"}
        chosen = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[*STRANDED])))
        for each in self.api.read_flow_runs(flow_run_filter=chosen, work_pool_filter=self._of_pool()):
            if each.state is None or each.id in started:
                continue
            # One that never had a container may get one yet. While it is cancelling, that container is refused. One
            # whose end isn't known may be saving a checkpoint on another machine of the pool.
            longest_s = CANCELLED_S if each.state.is_cancelling() and self._had_one(each) else PENDING_S
            if self.clock() - each.state.timestamp.timestamp() < longest_s:
                continue
            if each.id in created:
                self.say(f"flow run {each.id}: removing container {created[each.id][:12]}, which was never started")
                self._remove(created[each.id])
            proposed = STRANDED[each.state.type](message=f"No container of it was running for {longest_s:.0f} s.")
            self._propose(each.id, proposed)
            self.say(f"flow run {each.id}: proposed {proposed.name}, as it has no container")

    def _of_pool(self) -> WorkPoolFilter:
        return WorkPoolFilter(name=WorkPoolFilterName(any_=[self.pool]))

    def _had_one(self, flow_run: FlowRun) -> bool:
        """Whether the container that its worker has named is known to have ended, on whatever machine."""
        container = (flow_run.infrastructure_pid or "").rpartition(":")[2]
        with suppress(RetainError):  # a store that can't be read doesn't know
            return bool(container) and ends.is_written(self.store(), flow_run.id, container)
        return False

    def _return_crashed(self, now: float) -> None:
        lately = datetime.fromtimestamp(now - CRASHED_LATELY_S, UTC)
        crashed = FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.CRASHED])),
            end_time=FlowRunFilterEndTime.model_validate({"after_": lately}),
        )
        runs = FlowFilter(name=FlowFilterName(any_=list(RUNS)))
        for each in self.api.read_flow_runs(
            flow_filter=runs, flow_run_filter=crashed, work_pool_filter=self._of_pool()
        ):
            if each.run_count and each.state is not None and now - each.state.timestamp.timestamp() >= RETURN_S:
                states = self.api.read_flow_run_states(each.id)
                *_, before, last = [0.0, *sorted(state.timestamp.timestamp() for state in states if state.is_crashed())]
                if last - before >= AT_ONCE_S:
                    self.api.set_flow_run_state(each.id, AwaitingRetry(message="It crashed; it goes on by itself."))
                    self.say(f"flow run {each.id}: scheduled again, as it crashed")

    def _propose(self, flow_run: UUID, proposed: State[Any]) -> None:
        """Proposes it; a run that is cancelled has its stages cancelled, which it can't ask itself any more."""
        if proposed.is_cancelled():
            below = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[flow_run]))
            for stage in self.api.read_flow_runs(flow_run_filter=below):
                if stage.state is not None and not stage.state.is_final():
                    self.api.set_flow_run_state(stage.id, Cancelling(message="Its run was cancelled."))
        self.api.set_flow_run_state(flow_run, proposed)

    def _states(self, flow_runs: Iterable[UUID]) -> dict[UUID, State[Any] | None]:
        """The states of those that the server knows."""
        chosen = FlowRunFilter(id=FlowRunFilterId(any_=sorted(flow_runs)))
        return {each.id: each.state for each in self.api.read_flow_runs(flow_run_filter=chosen)}

    def _end(self, listed: Mapping[str, Any], why: str) -> None:
        container = listed["Id"]
        if listed["State"] == "created":  # the worker died, or failed, before it started it
            self.say(f"{why}; removing container {container[:12]}, which was never started")
            self._remove(container)
            return
        self.say(f"{why}; killing container {container[:12]}")
        with suppress(NotFound):
            self.engine.kill(container)

    def _remove(self, container: str) -> None:
        with suppress(NotFound):
            self.engine.remove_container(container, force=False)


def end_of(inspected: Mapping[str, Any], host: str) -> End:
    """The end of a container, from `docker inspect`."""
    state = inspected["State"]
    return End(
        flow_run=inspected["Config"]["Labels"][FLOW_RUN_LABEL],
        container=inspected["Id"],
        image=inspected["Config"]["Image"],
        host=host,
        started_at=datetime.fromisoformat(state["StartedAt"]).timestamp(),
        finished_at=datetime.fromisoformat(state["FinishedAt"]).timestamp(),
        exit_code=state["ExitCode"],
        oom_killed=state["OOMKilled"],
    )


def described(end: End) -> str:
    cause = f"exit code {end.exit_code}{', out of memory' if end.oom_killed else ''}"
    return f"container {end.container[:12]} of {end.image} ended after {end.seconds:.1f} s, {cause}"


def proposal(end: End, state: State[Any] | None) -> State[Any] | None:
    """What is proposed for the flow run of an ended container, if that doesn't know of its end.

    A state that is younger than the end belongs to a newer container. Of one that was rescheduled or paused there is
    none at the moment.
    """
    if state is None or state.type not in (StateType.PENDING, StateType.RUNNING, StateType.CANCELLING):
        return None
    if state.timestamp.timestamp() > end.finished_at:
        return None
    if state.type == StateType.CANCELLING:
        return Cancelled(message=f"Its {described(end)}.")
    return Crashed(message=f"Its {described(end)}.")


def flow_run_of(listed: Mapping[str, Any]) -> UUID:
    return UUID(listed["Labels"][FLOW_RUN_LABEL])


def main(pool: str = POOL, label: str = "") -> None:
    last = ""
    witness: Witness | None = None
    with get_client(sync_client=True) as api:
        while True:
            try:
                if witness is None:
                    engine = docker.from_env(timeout=ENGINE_TIMEOUT_S).api
                    witness = Witness(engine, api, lambda: open_store(store_url()), pool, label)
                witness.look()
                last = last if witness.is_behind else ""
            except UNREACHABLE as error:
                if str(error) != last:  # once, however long it lasts
                    say(f"{type(error).__name__}: {error}")
                last = str(error)
            ALIVE.touch()
            time.sleep(LOOK_S)


if __name__ == "__main__":
    main(*sys.argv[1:3])
