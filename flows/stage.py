"""The flow `stage`: one attempt at one stage, in whatever container it is started in.

The stage itself is a process of its own (`python -m engine`), as everywhere. This flow passes on what Prefect or the
machine asks of it: SIGTERM, and a cancellation in the UI. It retries nothing; the run that started it does.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from prefect import State, flow
from prefect.context import FlowRunContext
from prefect.logging import get_run_logger
from prefect.states import Cancelled, Completed, Crashed, Failed

from engine import records
from engine.artifact import ArtifactStore
from engine.errors import RetainError, StoreUnavailable
from engine.paths import why_unwritable
from engine.patience import SHARED_S, Outage, PatientStore
from engine.records import LOG, PROGRESS
from engine.stage import CLAIMED, COMPLETE, FENCED, OVERDUE, PREEMPTED, REFUSED, UNAVAILABLE, StageRequest
from engine.store import Store, open_store, store_url
from flows.container import REQUEST
from flows.launch import last_progress, start_engine
from flows.prefect_api import OwnState
from flows.progress import progress_reporter
from flows.run import Report

POLL_S = 0.1
SHOW_S = 1.0  # between two looks at log and progress
Log = logging.Logger | logging.LoggerAdapter[Any]


@flow(name="stage", flow_run_name="{stage}-{number}", retries=0, persist_result=False)
def run_stage(experiment: str, stage: str, fingerprint: str, number: int) -> State[None]:
    """One attempt at a stage. Runs start these themselves: start the deployment `train` instead."""
    context = FlowRunContext.get()
    assert context is not None
    assert context.flow_run is not None
    log = get_run_logger()
    stopping = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda number, frame: stopping.set())
    try:
        store = PatientStore(open_store(store_url()), Outage(SHARED_S))
        prefix = ArtifactStore(store, experiment).prefix(stage, fingerprint)
        request = _request(store, prefix, number)
        process = _started(request)
        with OwnState(context.flow_run.id, stopping) as own:
            code = _watched(process, Path(request.work), stopping, log)
        record = records.read(store, prefix, number)
        message = record.message if record is not None and record.ended else ""
    except StoreUnavailable as error:
        return state_after(UNAVAILABLE, str(error), cancelled=False)
    except RetainError as error:
        return Failed(message=str(error))
    finally:
        signal.signal(signal.SIGTERM, before)
    return state_after(code, message, cancelled=own.cancelled)


def _started(request: StageRequest) -> subprocess.Popen[bytes]:
    try:
        return start_engine(request, os.environ)
    except OSError as error:  # another machine's disk may have room
        raise StoreUnavailable(f"{request.work}: {why_unwritable(error)}") from None


def _request(store: Store, prefix: str, number: int) -> StageRequest:
    key = records.key(prefix, number, REQUEST)
    stored = store.read(key)
    if stored is None:
        raise RetainError(f"{store.url}/{key}: no such request. Is this the store that the run writes to?")
    try:
        return StageRequest.model_validate_json(stored[0])
    except ValueError as error:
        cause = str(error).splitlines()[0]
        raise RetainError(f"{store.url}/{key}: not a request of this version of Retain ({cause})") from None


def state_after(code: int, message: str, *, cancelled: bool) -> State[None]:
    """The state of a flow run whose attempt ended with the exit code `code` (negative: killed by that signal)."""
    if code == COMPLETE:
        return Completed(message=message or None)
    if code == PREEMPTED:
        if cancelled:
            return Cancelled(message="stopped; its checkpoint carries it on")
        return Crashed(name="Preempted", message=message)
    if code < 0:
        return Crashed(message=f"killed by {signal.Signals(-code).name}")
    names = {CLAIMED: "Claimed", FENCED: "Fenced", UNAVAILABLE: "StoreUnavailable"}
    if code in names:
        return Crashed(name=names[code], message=message)
    return Failed(name={OVERDUE: "Overdue", REFUSED: "Refused"}.get(code, "Failed"), message=message)


def _watched(process: subprocess.Popen[bytes], work: Path, stopping: threading.Event, log: Log) -> int:
    """Watches the attempt to its end, shows its log and progress, and returns its exit code."""
    shown_at = 0.0
    asked = False
    # What Prefect is shown must not keep a signal from the stage, so a thread of its own calls Prefect.
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="progress") as reporter, (work / LOG).open("rb") as lines:
        report = progress_reporter(work.name, reporter)
        while process.poll() is None:
            if not asked and stopping.is_set():
                asked = True
                process.send_signal(signal.SIGTERM)
            if time.monotonic() - shown_at > SHOW_S:
                shown_at = time.monotonic()
                _show(lines.read(), work / PROGRESS, log, report)
            time.sleep(POLL_S)
        _show(lines.read(), work / PROGRESS, log, report)
        reporter.shutdown(wait=False, cancel_futures=True)
    return process.returncode


def _show(new: bytes, progress: Path, log: Log, report: Report) -> None:
    for line in new.decode(errors="replace").splitlines():
        log.info(line)
    with suppress(OSError):  # none yet
        last = last_progress(progress.read_bytes())
        if last is not None:
            report(last.percent)
