"""The one task around a stage: reuse -> reserve -> launch -> settle. The one owner of retries.

A stage that was preempted or killed is tried again, from its checkpoint, until it was preempted more often than the
experiment allows. One that failed, missed its criteria, outlived its limit or may not be paid for is not.
"""

from __future__ import annotations

import json
import logging
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from prefect import task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from engine.claim import Watch
from engine.errors import BudgetExceeded, RetainError
from engine.fingerprint import Identity
from engine.stage import CLAIM, CLAIMED, COMPLETE, FENCED, OVERDUE, PREEMPTED, REFUSED, Stage
from flows.attempt import Ending, attempt
from flows.board import Board
from flows.launch import PROGRESS, Child
from flows.plan import Plan, key_metrics

# Asked to stop, overtaken, or gone without a word. Other signals (a segmentation fault) are failures.
PREEMPTIONS = (PREEMPTED, FENCED, -signal.SIGKILL, -signal.SIGTERM)
HELD_POLL_S = 0.5
PROGRESS_S = 0.5
LOG_LINES = 100  # of an attempt that Prefect gets; all of them lie beside the artifact


class StageEnded(RetainError):
    """A stage that did not complete; `exit_code` is what the run ends with."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass
class Run:
    """One run of a plan: what its steps share. `stopping` asks children to checkpoint, `killing` ends them."""

    plan: Plan
    board: Board
    stopping: threading.Event = field(default_factory=threading.Event)
    killing: threading.Event = field(default_factory=threading.Event)
    exit_codes: dict[str, int] = field(default_factory=dict)  # stages that did not complete


@task(retries=0, cache_policy=NO_CACHE, persist_result=False)
def step(run: Run, name: str) -> None:
    """Makes sure that the stage's artifact is there."""
    carry_out(run, name, get_run_logger(), _prefect_progress(name))


def carry_out(
    run: Run, name: str, log: logging.Logger | logging.LoggerAdapter[Any], report: Callable[[float], None]
) -> None:
    """What step() does, without Prefect. `report` gets the percentage done. Raises StageEnded, RetainError."""
    try:
        _carry_out(run, name, log, report)
    except BudgetExceeded as error:
        run.exit_codes[name] = error.exit_code
        run.board.update(name, state="refused", message=str(error))
        raise
    except StageEnded as error:
        run.exit_codes[name] = error.exit_code
        states = {REFUSED: "refused", PREEMPTED: "stopped"}
        run.board.update(name, state=states.get(error.exit_code, "failed"), message=str(error))
        raise
    except Exception as error:
        run.exit_codes[name] = getattr(error, "exit_code", 1)
        run.board.update(name, state="failed", message=f"{type(error).__name__}: {error}")
        raise


def _carry_out(
    run: Run, name: str, log: logging.Logger | logging.LoggerAdapter[Any], report: Callable[[float], None]
) -> None:
    plan = run.plan
    stage = next(stage for stage in plan.stages if stage.name == name)
    inputs = {upstream: plan.artifacts.current()[upstream] for upstream in stage.inputs}
    identity = plan.identity(stage, {i: _digest(plan, i, fingerprint) for i, fingerprint in inputs.items()})
    claim = Watch(plan.store, f"{plan.artifacts.prefix(name, identity.fingerprint)}/{CLAIM}")
    preemptions = 0
    while True:
        if _finish(run, stage, identity):
            log.info("%s: %s", name, run.board.rows[name].metric or "complete")
            report(100.0)
            return
        if run.stopping.is_set():
            raise StageEnded("stopped; run again to go on", PREEMPTED)
        if claim.held():
            run.board.update(name, state="held", message="another run is at it")
            time.sleep(HELD_POLL_S)
            continue
        ending = _attempt(run, stage, identity, inputs, report)
        for line in _log_lines(plan, stage, identity, ending)[-LOG_LINES:]:
            log.info(line)
        log.info("%s: attempt %d %s after %.1f s, $%.5f", name, ending.record.attempt, *_words(ending))
        if ending.code in PREEMPTIONS and ending.record.status != "failed":
            preemptions += 1
            if preemptions > plan.experiment.execution.max_preemptions:
                raise StageEnded(f"preempted {preemptions} times, more than execution.max_preemptions", 1)
            run.board.update(name, state="preempted", message=f"{ending.record.status}; trying again")
        elif ending.code not in (COMPLETE, CLAIMED):
            raise StageEnded(
                ending.record.message or _last_words(plan, stage, identity, ending), _exit_code(ending.code)
            )


def _attempt(
    run: Run, stage: Stage, identity: Identity, inputs: dict[str, str], report: Callable[[float], None]
) -> Ending:
    asked = looked = 0.0

    def watch(child: Child) -> None:
        nonlocal asked, looked
        if run.killing.is_set():
            child.kill()
        elif run.stopping.is_set() and not asked:
            asked = time.monotonic()
            child.preempt()
        if time.monotonic() - looked > PROGRESS_S:
            looked = time.monotonic()
            _show_progress(run.board, stage.name, child.read(PROGRESS), report)

    run.board.attempt_began(stage.name)
    ending = attempt(run.plan, stage, identity, inputs, watch)
    run.board.attempt_ended(stage.name, ending.seconds, ending.usd)
    if ending.code == COMPLETE:
        run.board.update(stage.name, run_seconds=ending.record.run_seconds)
    return ending


def _finish(run: Run, stage: Stage, identity: Identity) -> bool:
    """True when the artifact is there; it is then the experiment's current one."""
    artifacts = run.plan.artifacts
    if artifacts.manifest(stage.name, identity.fingerprint) is None:
        return False
    artifacts.set_current(stage.name, identity.fingerprint)
    made = (
        run.board.rows[stage.name].run_seconds > 0
    )  # by an attempt of ours; else it was there, or another run made it
    metric = key_metrics(run.plan, stage.name, identity.fingerprint)
    run.board.update(stage.name, state="complete" if made else "reused", metric=metric, message="")
    return True


def _digest(plan: Plan, stage: str, fingerprint: str) -> str:
    manifest = plan.artifacts.manifest(stage, fingerprint)
    if manifest is None:
        raise RetainError(f"{stage}: its artifact {fingerprint} is gone from {plan.store.url}; run again")
    return manifest.digest


def _show_progress(board: Board, stage: str, lines: bytes, report: Callable[[float], None]) -> None:
    complete = lines[: lines.rfind(b"\n") + 1].splitlines()
    if not complete:
        return
    line = json.loads(complete[-1])
    step, total = line.pop("step"), line.pop("total")
    line.pop("seconds")
    figures = " ".join(f"{key} {value:.4g}" for key, value in line.items())
    board.update(stage, progress=f"{step}/{total} {figures}".strip())
    report(100.0 * step / max(total, 1))


def _prefect_progress(name: str) -> Callable[[float], None]:
    artifact = create_progress_artifact(progress=0.0, description=name)
    shown = 0.0

    def report(percent: float) -> None:
        nonlocal shown
        percent = min(100.0, percent)
        if percent >= shown + 10 or (percent == 100.0 and shown < 100.0):
            shown = percent
            update_progress_artifact(artifact_id=artifact, progress=percent)  # type: ignore[arg-type]

    return report


def _words(ending: Ending) -> tuple[str, float, float]:
    return ending.record.status, ending.seconds, ending.usd


def _exit_code(code: int) -> int:
    return 1 if code == OVERDUE or code < 0 else code


def _last_words(plan: Plan, stage: Stage, identity: Identity, ending: Ending) -> str:
    """What an attempt that died without a message left: the signal, and the last line of its log."""
    lines = _log_lines(plan, stage, identity, ending)
    cause = f"killed by {signal.Signals(-ending.code).name}" if ending.code < 0 else f"exit code {ending.code}"
    return f"{cause}: {lines[-1]}" if lines else cause


def _log_lines(plan: Plan, stage: Stage, identity: Identity, ending: Ending) -> list[str]:
    prefix = plan.artifacts.prefix(stage.name, identity.fingerprint)
    found = plan.store.read(f"{prefix}/execution/{ending.record.attempt:04d}.log")
    return found[0].decode(errors="replace").strip().splitlines() if found else []
