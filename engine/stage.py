"""Stage, StageRequest, Workspace and execute(): the one driver of every stage, on every machine.

A stage is `run(config, inputs, workspace) -> Metrics`. It sees no environment, clock, network or money. execute()
checks that this machine has the code that the request was made for, takes the claim, opens the inputs, runs the stage
and publishes its files; the exit code says how it ended. SIGTERM, a dead parent and the deadline are handled alike:
should_stop() turns true, the stage saves a checkpoint and raises Preempted. If it doesn't do so within GRACE_S, the
process ends anyway.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from engine import records
from engine.artifact import ArtifactStore, ArtifactWriter, canonical
from engine.checkpoint import Checkpointer, Preempted, clear
from engine.claim import Claim, Fenced, Watch, acquire
from engine.errors import CriteriaMissed, RetainError
from engine.fingerprint import Identity, code_digests, library_versions
from engine.paths import why_unreadable
from engine.process import age_s, this_process
from engine.records import AttemptRecord, Status
from engine.store import Store, has_sha256, open_store

Metric = dict[str, Any]  # {"value": float, "ci": [low, high], ...}
Metrics = dict[str, Metric]

GRACE_S = 10.0  # for a stage to stop once it is asked to
LOADING_GRACE_S = 1.0  # the same while its inputs and modules are still being loaded
SIGNALS = {signal.SIGTERM, signal.SIGINT}
IDENTITY, CLAIM, CHECKPOINTS = "identity.json", "claim.json", "checkpoints"

COMPLETE, FAILED, BAD_INPUT, REFUSED = 0, 1, 2, 3
CLAIMED, PREEMPTED, FENCED, OVERDUE = 73, 75, 76, 77
ALREADY_THERE = "was there already"  # message of an attempt that found its artifact complete


@dataclass(frozen=True)
class Resources:
    """What one attempt needs. Threads are part of how a result is made reproducible on a CPU.

    Nothing reads `memory_gb` yet; work pools of containers will, which are still to come.
    """

    threads: int
    memory_gb: float
    gpu: bool


@dataclass(frozen=True)
class Stage:
    """A row of the table of stages; `entry` and `config` are strings, so reading the table imports no stage.

    Nothing reads `image` yet; work pools of containers will, which are still to come.
    """

    name: str
    entry: str
    config: str
    inputs: tuple[str, ...]
    image: str
    resources: Resources
    libraries: tuple[str, ...]
    source: bool = False


class StageRequest(BaseModel):
    """All that a machine needs to run one attempt (see engine/records.py); read from request.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    experiment: str
    stage: str
    entry: str
    config_model: str
    identity: Identity
    inputs: dict[str, str]  # stage -> fingerprint
    sources: dict[str, str]  # name of a source file -> its key, which ends in its sha256
    number: int  # the attempt's
    store: str
    work: str  # a folder of this machine that no other attempt uses
    threads: int
    device: str
    time_limit_s: float
    heartbeat_s: float

    @property
    def fingerprint(self) -> str:
        return self.identity.fingerprint


@dataclass
class Workspace:
    """A stage's only door to the world, apart from its inputs."""

    out: ArtifactWriter
    scratch: Path
    checkpoints: Checkpointer
    seed: int
    threads: int
    device: str
    deadline: float  # time.monotonic() at which the attempt stops itself
    report: Callable[[int, int, Mapping[str, float]], None]
    stopping: threading.Event

    def progress(self, step: int, total: int, **metrics: float) -> None:
        """One line for terminal, Prefect and the report."""
        self.report(step, total, metrics)

    def should_stop(self) -> bool:
        """True once the attempt has to end: `save` a checkpoint, which then raises Preempted."""
        return self.stopping.is_set()

    def save(self, step: int, files: Mapping[str, bytes]) -> None:
        """Saves a checkpoint of `step`. Raises Preempted if the attempt has to end, RetainError on a full disk."""
        with self.saving():
            self.checkpoints.save(step, files)

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Around whatever saves a checkpoint. If the attempt has to end, raises Preempted afterwards.

        It does so also where nothing could be written (RetainError), since an older checkpoint serves: a stop that
        counted as an error would not be tried again.
        """
        try:
            yield
        except RetainError as error:
            if not self.should_stop():
                raise
            print(f"stopped without a last checkpoint: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        if self.should_stop():
            raise Preempted


@dataclass
class _Attempt:
    """State of the running attempt, shared by the driver, the beat and the two watchers."""

    request: StageRequest
    store: Store
    record: AttemptRecord
    claim: Claim | None = None
    reason: int = PREEMPTED
    stopping: threading.Event = field(default_factory=threading.Event)  # the stage has to end
    begun: threading.Event = field(default_factory=threading.Event)  # the stage's run() was called
    finished: threading.Event = field(default_factory=threading.Event)  # the stage has ended
    wake: threading.Event = field(default_factory=threading.Event)  # stopping or finished is set: the beat looks up
    writing: threading.Lock = field(default_factory=threading.Lock)
    born: float = field(default_factory=lambda: time.monotonic() - age_s())

    @property
    def prefix(self) -> str:
        return ArtifactStore(self.store, self.request.experiment).prefix(self.request.stage, self.request.fingerprint)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.born

    def stop(self, reason: int) -> None:
        if not self.stopping.is_set():
            self.reason = reason
            self.stopping.set()
            self.wake.set()

    def write(self, status: Status, message: str = "", exit_code: int | None = None) -> None:
        with self.writing:
            if self.record.ended:
                return
            changes = {
                "status": status,
                "message": message,
                "seconds": round(self.seconds, 3),
                "exit_code": exit_code,
            }
            self.record = self.record.model_copy(update=changes)
            records.write(self.store, self.prefix, self.record)


def execute(request: StageRequest, *, lifeline: bool = False) -> int:
    """Runs one attempt and returns its exit code. With `lifeline`, the end of stdin means that the parent died."""
    # A thread of its own takes the signals: Python runs handlers in the main thread, which XGBoost may keep busy.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    store = open_store(request.store)
    prefix = ArtifactStore(store, request.experiment).prefix(request.stage, request.fingerprint)
    record = records.read(store, prefix, request.number)
    if record is None:
        raise RetainError(f"{prefix}: attempt {request.number} was never planned")
    attempt = _Attempt(request, store, record.model_copy(update={"holder": this_process()}))
    attempt.write("running")
    watchers = [_watch_signals, *([_watch_parent] if lifeline else [])]
    for watch in watchers:
        threading.Thread(target=watch, args=(attempt,), daemon=True).start()
    beat = threading.Thread(target=_beat, args=(attempt,), daemon=True)
    beat.start()
    code, message = _run(attempt)
    attempt.finished.set()
    attempt.wake.set()
    beat.join()
    return _end(attempt, code, message)


def _run(attempt: _Attempt) -> tuple[int, str]:
    """Runs the attempt and returns its exit code and message; raises nothing."""
    request = attempt.request
    artifacts = ArtifactStore(attempt.store, request.experiment)
    try:
        _same_code(request)
        attempt.claim = _claim(attempt)
        if attempt.claim is None:
            return CLAIMED, "another attempt is at it"
        if artifacts.manifest(request.stage, request.fingerprint) is not None:
            return COMPLETE, ALREADY_THERE
        workspace = _workspace(attempt, attempt.claim)
        inputs = open_inputs(request, artifacts)
        with _no_collection():
            run = load_entry(request.entry)
            config = load_entry(request.config_model).model_validate_json(json.dumps(request.identity.config))
        started = time.monotonic()
        attempt.begun.set()
        metrics = run(config, inputs, workspace)
        run_seconds = round(time.monotonic() - started, 3)
        with attempt.writing:
            attempt.record = attempt.record.model_copy(update={"run_seconds": run_seconds})
        workspace.out.json("metrics.json", metrics)
        attempt.claim.check()
        identity = request.identity.model_dump(mode="json")
        attempt.store.write(f"{attempt.prefix}/{IDENTITY}", canonical(identity))
        artifacts.publish(request.stage, request.fingerprint, workspace.out.folder)
        clear(attempt.store, workspace.checkpoints.prefix)
        return COMPLETE, ""
    except Preempted:
        return attempt.reason, _REASONS[attempt.reason]
    except Fenced:
        return FENCED, _REASONS[FENCED]
    except CriteriaMissed as error:
        return REFUSED, str(error)
    except RetainError as error:
        return BAD_INPUT, str(error)
    except Exception as error:
        traceback.print_exc()
        return FAILED, f"{type(error).__name__}: {error}"


_REASONS = {
    PREEMPTED: "asked to stop",
    FENCED: "another attempt took over",
    OVERDUE: "outlived its time limit and stopped itself",
}
_STATUS: dict[int, Status] = {
    COMPLETE: "complete",
    REFUSED: "refused",
    CLAIMED: "claimed",
    PREEMPTED: "preempted",
    FENCED: "claimed",
    OVERDUE: "overdue",
}


def _end(attempt: _Attempt, code: int, message: str) -> int:
    if attempt.claim is not None:
        attempt.claim.release()
    if message:
        print(message, file=sys.stderr, flush=True)
    attempt.write(_STATUS.get(code, "failed"), message, code)
    return code


def _beat(attempt: _Attempt) -> None:
    """Renews the claim, writes the record and enforces the deadline, until the attempt has ended."""
    limit, interval = attempt.request.time_limit_s, attempt.request.heartbeat_s
    while not attempt.wake.wait(min(interval, max(0.0, limit - attempt.seconds))):
        if attempt.seconds >= limit:
            attempt.stop(OVERDUE)
        try:
            if attempt.claim is not None:
                attempt.claim.renew()
            attempt.write("running")
        except Fenced:
            attempt.stop(FENCED)
        except RetainError as error:
            # The store can't be written, so this beat is skipped; the deadline is enforced all the same.
            print(error, file=sys.stderr, flush=True)
    # Before run() starts there is nothing to checkpoint, and nothing that would ask should_stop().
    begun = attempt.begun.is_set()
    if not attempt.finished.wait(GRACE_S if begun else LOADING_GRACE_S):
        # The stage is in a call that doesn't ask should_stop(), so the process ends without its consent.
        code = attempt.reason
        silent = f"; it did not answer within {GRACE_S:.0f} s" if begun else ""
        try:
            _end(attempt, code, _REASONS[code] + silent)
        finally:
            os._exit(code)


def _watch_signals(attempt: _Attempt) -> None:
    signal.sigwait(SIGNALS)
    attempt.stop(PREEMPTED)


def _watch_parent(attempt: _Attempt) -> None:
    # Not sys.stdin.read(): a thread that waits in it holds a lock, and the interpreter would abort at shutdown.
    while os.read(0, 1):
        pass
    attempt.stop(PREEMPTED)


def _same_code(request: StageRequest) -> None:
    code, libraries = code_digests(request.entry), library_versions(request.identity.libraries.keys() - {"python"})
    # An image names the command that builds it anew; elsewhere the code is whatever the user has checked out.
    command = os.environ.get("RETAIN_REBUILD")
    remedy = f". Run `{command}`, which brings this image up to date" if command else ""
    if code != request.identity.code:
        known = request.identity.code
        other = sorted(name for name in code.keys() | known.keys() if code.get(name) != known.get(name))
        raise RetainError(f"this machine holds other code than the request was made for: {', '.join(other)}{remedy}")
    if libraries != request.identity.libraries:
        raise RetainError(f"this machine has other libraries than the request was made for: {libraries}{remedy}")


def _claim(attempt: _Attempt) -> Claim | None:
    """The claim, or None while another attempt holds it.

    That a holder on another machine died shows only by the lack of renewals, so this waits for the next one.
    """
    interval = attempt.request.heartbeat_s
    watch = Watch(attempt.store, f"{attempt.prefix}/{CLAIM}")
    while True:
        claim = acquire(attempt.store, watch.key, attempt.request.number, interval, watch)
        if claim is not None or not watch.undecided or attempt.stopping.wait(interval / 4):
            return claim


def _workspace(attempt: _Attempt, claim: Claim) -> Workspace:
    request, work = attempt.request, Path(attempt.request.work)
    for name in ("out", "scratch", "inputs"):
        shutil.rmtree(work / name, ignore_errors=True)
        (work / name).mkdir(parents=True)
    lines = (work / "progress.jsonl").open("ab", buffering=0)

    def report(step: int, total: int, metrics: Mapping[str, float]) -> None:
        line = {"seconds": round(attempt.seconds, 2), "step": step, "total": total, **metrics}
        with suppress(OSError):  # a full disk: what can't be shown is no failure of the stage
            lines.write(json.dumps(line).encode() + b"\n")

    return Workspace(
        out=ArtifactWriter(work / "out"),
        scratch=work / "scratch",
        checkpoints=Checkpointer(attempt.store, f"{attempt.prefix}/{CHECKPOINTS}", claim),
        seed=request.identity.seed,
        threads=request.threads,
        device=request.device,
        deadline=attempt.born + request.time_limit_s,
        report=report,
        stopping=attempt.stopping,
    )


def open_inputs(request: StageRequest, artifacts: ArtifactStore) -> dict[str, Path]:
    """stage -> a folder with the files of its artifact, checked; "source" -> the folder of the source files."""
    folder = Path(request.work) / "inputs"
    inputs = {}
    for stage, fingerprint in request.inputs.items():
        inputs[stage] = artifacts.open(stage, fingerprint, folder / stage)
        manifest = artifacts.manifest(stage, fingerprint)
        if manifest is None or manifest.digest != request.identity.inputs[stage]:
            raise RetainError(f"{request.stage}: its input {stage} has other bytes than the request was made for")
    if request.sources:
        inputs["source"] = folder / "source"
    for name, key in request.sources.items():
        source = artifacts.store.local(key, folder)
        try:
            whole = has_sha256(source, key.rsplit("/", 1)[1])
        except OSError as error:
            raise RetainError(f"{source}: {why_unreadable(error)}") from None
        if not whole:
            raise RetainError(f"{source}: damaged in the store; remove it and run again")
        link = inputs["source"] / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(source)
    return inputs


@contextmanager
def _no_collection() -> Iterator[None]:
    """Collects no garbage while libraries are imported, and leaves what they brought out of every later collection.

    Looking for garbage there took a quarter of the time that importing a trainer took, and found none.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def load_entry(entry: str) -> Any:
    """What "package.module:name" names."""
    module, _, name = entry.partition(":")
    return getattr(importlib.import_module(module), name)
