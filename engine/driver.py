"""execute(): the one driver of every stage, on every machine.

It checks that this machine has the code that the request was made for, takes the claim, opens the inputs, runs the
stage and publishes its files; the exit code says how it ended. SIGTERM, the notice that a spot machine is taken away, a
dead parent, the deadline and a store that stays unavailable are handled alike: should_stop() turns true, the stage
saves a checkpoint and raises Preempted. If it doesn't do so within GRACE_S, the process ends anyway.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from engine import notice, records
from engine.artifact import ArtifactStore, ArtifactWriter, canonical
from engine.background import BackgroundCheckpoints
from engine.checkpoint import Checkpointer, Preempted, clear
from engine.claim import Claim, Fenced, Watch, acquire
from engine.errors import CriteriaMissed, RetainError, StoreUnavailable
from engine.fingerprint import code_digests, library_versions
from engine.interval import Schedule
from engine.patience import Outage, PatientStore
from engine.process import age_s, this_process
from engine.progress import Progress
from engine.records import PROGRESS, AttemptRecord, Saves, Status, Transcript
from engine.stage import (
    ALREADY_THERE,
    BAD_INPUT,
    CHECKPOINTS,
    CLAIM,
    CLAIMED,
    COMPLETE,
    FAILED,
    FENCED,
    GRACE_S,
    IDENTITY,
    OVERDUE,
    PREEMPTED,
    REFUSED,
    UNAVAILABLE,
    Metrics,
    StageRequest,
    Workspace,
    load_entry,
    open_inputs,
)
from engine.store import Store, open_store

LOADING_GRACE_S = 1.0  # in place of GRACE_S while a stage's inputs and modules are still being loaded
SIGNALS = {signal.SIGTERM, signal.SIGINT}
OVERTAKEN = "another attempt took over"


@dataclass
class _Stop:
    """Whether and why the attempt has to end; shared by its threads."""

    reason: int = PREEMPTED  # the exit code
    message: str = "asked to stop"
    asked: threading.Event = field(default_factory=threading.Event)
    wake: threading.Event = field(default_factory=threading.Event)  # asked, or the stage has ended: the beat looks up

    def ask(self, reason: int = PREEMPTED, message: str = "asked to stop") -> None:
        if not self.asked.is_set():
            self.reason, self.message = reason, message
            self.asked.set()
            self.wake.set()


@dataclass
class _Attempt:
    """State of the running attempt, shared by the driver, the beat and the thread that copies checkpoints."""

    request: StageRequest
    store: Store
    record: AttemptRecord
    stop: _Stop
    outage: Outage
    claim: Claim | None = None
    checkpoints: BackgroundCheckpoints | None = None
    schedule: Schedule | None = None
    began: float | None = None  # when the stage's run() was called
    answered: float | None = None  # when run() ended
    finished: threading.Event = field(default_factory=threading.Event)  # so have the last copy and the publication
    writing: threading.Lock = field(default_factory=threading.Lock)
    born: float = field(default_factory=lambda: time.monotonic() - age_s())
    transcript: Transcript | None = None  # for a parent that doesn't see the work folder

    @property
    def prefix(self) -> str:
        return ArtifactStore(self.store, self.request.experiment).prefix(self.request.stage, self.request.fingerprint)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.born

    def fenced(self) -> None:
        self.stop.ask(FENCED, OVERTAKEN)

    def write(self, status: Status, message: str = "", exit_code: int | None = None) -> None:
        """Raises Fenced as check_record() does."""
        with self.writing:
            if self.record.ended:
                return
            self.check_record()
            seconds = round(self.seconds, 3)
            changes = {"status": status, "message": message, "seconds": seconds, "exit_code": exit_code}
            self.record = self.record.model_copy(update=changes)
            records.write(self.store, self.prefix, self.record)

    def check_record(self) -> None:
        """Raises Fenced where somebody who saw this attempt end, or thought so, has closed its record."""
        stored = records.read(self.store, self.prefix, self.record.number)
        if stored is not None and stored.ended:
            raise Fenced(self.prefix)

    def keep_figures(self) -> None:
        """Puts into the record how long run() took, and what its checkpoints cost."""
        if self.began is None or self.schedule is None or self.checkpoints is None:
            return
        run_seconds = (self.answered or time.monotonic()) - self.began
        saves = Saves(
            saved=self.checkpoints.saves,
            copied=self.checkpoints.copied,
            bytes=self.checkpoints.saved_bytes,
            waited_s=round(self.schedule.waited_s, 3),
            share=round(self.schedule.waited_s / run_seconds, 5),
        )
        with self.writing:
            changes = {"run_seconds": round(run_seconds, 3), "checkpoints": saves if saves.saved else None}
            self.record = self.record.model_copy(update=changes)

    def keep_transcript(self) -> None:
        if self.transcript is not None:
            self.transcript.keep()


def execute(request: StageRequest, *, lifeline: bool = False) -> int:
    """Runs one attempt and returns its exit code. With `lifeline`, the end of stdin means that the parent died."""
    # A thread of its own takes the signals: Python runs handlers in the main thread, which XGBoost may keep busy.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    stop = _Stop()
    watchers: list[Callable[[_Stop], None]] = [_watch_signals, *([_watch_parent] if lifeline else [])]
    if host := notice.server():
        watchers.append(partial(_watch_notice, host))
    for watch in watchers:
        threading.Thread(target=watch, args=(stop,), daemon=True).start()
    outage = Outage(request.store_patience_s, wait=stop.asked.wait)
    try:
        attempt = outage.call(lambda: _attempt(request, stop, outage))
        if attempt is None:
            return FENCED
        outage.call(lambda: attempt.write("running"))
    except StoreUnavailable as error:
        print(error, file=sys.stderr, flush=True)
        return stop.reason if stop.asked.is_set() else _unavailable(request)
    beat = threading.Thread(target=_beat, args=(attempt,), daemon=True)
    beat.start()
    code, message = _run(attempt)
    attempt.finished.set()
    stop.wake.set()
    beat.join()
    return _end(attempt, code, message)


def _attempt(request: StageRequest, stop: _Stop, outage: Outage) -> _Attempt | None:
    """None if the attempt is over before it begins: nobody waits for this process any more, and nobody would pay."""
    store = open_store(request.store)
    prefix = ArtifactStore(store, request.experiment).prefix(request.stage, request.fingerprint)
    record = records.read(store, prefix, request.number)
    if record is None:
        raise RetainError(f"{prefix}: attempt {request.number} was never planned")
    if record.ended:
        print(f"attempt {request.number} is over: {record.status}", file=sys.stderr, flush=True)
        return None
    attempt = _Attempt(request, store, record.model_copy(update={"holder": this_process()}), stop, outage)
    if request.shared:
        attempt.transcript = Transcript(store, prefix, request.number, Path(request.work))
    return attempt


def _unavailable(request: StageRequest) -> int:
    """The exit code where the store stays unavailable: another machine may reach it, here a person has to help."""
    return UNAVAILABLE if request.shared else BAD_INPUT


def _run(attempt: _Attempt) -> tuple[int, str]:
    """Runs the attempt and returns its exit code and message; raises nothing."""
    request, stop = attempt.request, attempt.stop
    patient = PatientStore(attempt.store, attempt.outage)
    artifacts = ArtifactStore(patient, request.experiment)
    try:
        _same_code(request)
        attempt.claim = _claim(attempt, patient)
        if attempt.claim is None:
            return CLAIMED, "another attempt is at it"
        if artifacts.manifest(request.stage, request.fingerprint) is not None:
            return COMPLETE, ALREADY_THERE
        workspace = _workspace(attempt, attempt.claim)
        assert attempt.checkpoints is not None
        stored = ArtifactStore(attempt.store, request.experiment)
        inputs = attempt.outage.call(lambda: open_inputs(request, stored))
        with _no_collection():
            run = load_entry(request.entry)
            config = load_entry(request.config_model).model_validate_json(json.dumps(request.identity.config))
        attempt.began = time.monotonic()
        metrics = _answer(attempt, attempt.checkpoints, lambda: run(config, inputs, workspace))
        workspace.out.json("metrics.json", metrics)
        _publish(attempt, attempt.claim, patient, workspace.out.folder)
        return COMPLETE, ""
    except Preempted:
        return stop.reason, stop.message
    except Fenced:
        return FENCED, OVERTAKEN
    except CriteriaMissed as error:
        return REFUSED, str(error)
    except StoreUnavailable as error:
        return (stop.reason, stop.message) if stop.asked.is_set() else (_unavailable(request), str(error))
    except RetainError as error:
        return BAD_INPUT, str(error)
    except Exception as error:
        traceback.print_exc()
        return FAILED, f"{type(error).__name__}: {error}"


def _answer(attempt: _Attempt, checkpoints: BackgroundCheckpoints, run: Callable[[], Metrics]) -> Metrics:
    """What the stage returns. However it ends, its last checkpoint is copied or given up when this returns."""
    complete = False
    try:
        metrics = run()
        complete = True
        return metrics
    except Preempted:
        attempt.answered = time.monotonic()
        if attempt.stop.reason not in (UNAVAILABLE, BAD_INPUT):
            checkpoints.wait()  # the beat ends the process where this takes too long
        raise
    finally:
        attempt.answered = attempt.answered or time.monotonic()
        checkpoints.close(drop=complete)


def _publish(attempt: _Attempt, claim: Claim, patient: PatientStore, folder: Path) -> None:
    """Raises Fenced if another attempt has taken over."""

    def check() -> None:
        attempt.outage.call(claim.check)

    check()
    request = attempt.request
    patient.write(f"{attempt.prefix}/{IDENTITY}", canonical(request.identity.model_dump(mode="json")))
    ArtifactStore(patient, request.experiment).publish(request.stage, request.fingerprint, folder, check)
    clear(patient, f"{attempt.prefix}/{CHECKPOINTS}")


_STATUS: dict[int, Status] = {
    COMPLETE: "complete",
    REFUSED: "refused",
    CLAIMED: "claimed",
    UNAVAILABLE: "unavailable",
    PREEMPTED: "preempted",
    FENCED: "claimed",
    OVERDUE: "overdue",
}


def _end(attempt: _Attempt, code: int, message: str) -> int:
    attempt.keep_figures()
    saves = attempt.record.checkpoints
    if saves is not None:
        print(saves, flush=True)
    if message:
        print(message, file=sys.stderr, flush=True)
    # What can't be written now, whoever sees this process end does in its place.
    with suppress(StoreUnavailable):
        if attempt.claim is not None:
            attempt.claim.release()
        with suppress(Fenced):
            attempt.check_record()
            attempt.keep_transcript()  # before the record, by which a parent knows that nothing more will come
            attempt.write(_STATUS.get(code, "failed"), message, code)
    return code


def _beat(attempt: _Attempt) -> None:
    """Renews the claim, writes the record and enforces the deadline, until the attempt has ended."""
    request, stop, outage = attempt.request, attempt.stop, attempt.outage
    limit, interval = request.time_limit_s, request.heartbeat_s
    while not stop.wake.wait(min(interval, max(0.0, limit - attempt.seconds))):
        if attempt.seconds >= limit:
            stop.ask(OVERDUE, "outlived its time limit and stopped itself")
        try:
            if attempt.claim is not None:
                attempt.claim.renew()
            attempt.write("running")
            attempt.keep_transcript()
            outage.succeeded("beat")
        except Fenced:
            attempt.fenced()
        except StoreUnavailable as error:  # this beat is skipped; the deadline is enforced all the same
            outage.failed("beat", error)
        except RetainError as error:
            print(error, file=sys.stderr, flush=True)
        if outage.hopeless:
            stop.ask(_unavailable(request), outage.message)
    # Before run() starts there is nothing to checkpoint, and nothing that would ask should_stop().
    begun = attempt.began is not None
    if not attempt.finished.wait(GRACE_S if begun else LOADING_GRACE_S):
        # The stage is in a call that doesn't ask should_stop(), or what it saved last can't be copied in time.
        message = stop.message
        if begun:
            late = "its last checkpoint did not get into the store" if attempt.answered else "it did not answer"
            message += f"; {late} within {GRACE_S:.0f} s"
        code = stop.reason
        try:
            _end(attempt, code, message)
        finally:
            os._exit(code)


def _watch_signals(stop: _Stop) -> None:
    signal.sigwait(SIGNALS)
    stop.ask()


def _watch_parent(stop: _Stop) -> None:
    # Not sys.stdin.read(): a thread that waits in it holds a lock, and the interpreter would abort at shutdown.
    while os.read(0, 1):
        pass
    stop.ask()


def _watch_notice(host: str, stop: _Stop) -> None:
    notice.await_notice(host)
    stop.ask(PREEMPTED, notice.TAKEN_AWAY)


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


def _claim(attempt: _Attempt, patient: PatientStore) -> Claim | None:
    """The claim, or None while another attempt holds it. Renewals and checks don't wait for the store.

    That a holder on another machine died shows only by the lack of renewals, so this waits for the next one.
    """
    interval = attempt.request.heartbeat_s
    watch = Watch(patient, f"{attempt.prefix}/{CLAIM}")
    while True:
        claim = acquire(patient, watch.key, attempt.request.number, interval, watch)
        if claim is not None or not watch.undecided or attempt.stop.asked.wait(interval / 4):
            break
    if claim is not None:
        claim.store = attempt.store
    return claim


def _workspace(attempt: _Attempt, claim: Claim) -> Workspace:
    request, work = attempt.request, Path(attempt.request.work)
    for name in ("out", "scratch", "checkpoints"):
        shutil.rmtree(work / name, ignore_errors=True)
        (work / name).mkdir(parents=True)
    progress = Progress(work / PROGRESS, lambda: attempt.seconds)
    attempt.outage.tell(progress.note)
    checkpointer = Checkpointer(attempt.store, f"{attempt.prefix}/{CHECKPOINTS}", claim)
    in_turn = request.checkpoint.every_steps is not None
    checkpoints = BackgroundCheckpoints(checkpointer, work / "checkpoints", attempt.outage, attempt.fenced, in_turn)
    attempt.checkpoints = checkpoints
    attempt.schedule = Schedule(request.checkpoint, busy=checkpoints.busy)
    return Workspace(
        out=ArtifactWriter(work / "out"),
        scratch=work / "scratch",
        checkpoints=checkpoints,
        seed=request.identity.seed,
        threads=request.threads,
        device=request.device,
        deadline=attempt.born + request.time_limit_s,
        report=progress.report,
        stopping=attempt.stop.asked,
        schedule=attempt.schedule,
    )


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
