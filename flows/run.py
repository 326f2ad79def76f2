"""One run of a plan: each stage's artifact is reused, or the stage is attempted until there is one.

This is the only owner of retries (flows/retries.py has the rules). A stage that failed, missed criteria that it can't
do without, passed its time limit or exceeds the budget is not tried again; and where the budget is exceeded, the other
stages are stopped, too.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from engine import records
from engine.claim import Watch
from engine.errors import BudgetExceeded, RetainError
from engine.fingerprint import Identity
from engine.ledger import Held
from engine.records import PROGRESS
from engine.stage import ALREADY_THERE, CLAIM, CLAIMED, COMPLETE, OVERDUE, PREEMPTED, REFUSED, Stage
from flows import retries
from flows.attempt import Ending, open_number, preempted_before, run_attempt, starting_elsewhere
from flows.board import ENDED, Board
from flows.launch import HERE, Child, Launcher, last_progress
from flows.plan import Plan, key_metrics

HELD_POLL_S = 0.5
PROGRESS_S = 0.5
LONG_WAIT_S = 300.0  # for a machine, until it is said
LOG_LINES = 100  # the last ones of an attempt go to Prefect; all of them lie beside the artifact

Log = logging.Logger | logging.LoggerAdapter[Any]
Report = Callable[[float], None]  # takes the percentage that is done; must not wait
# Takes what happened to the budget, "warning" or "exceeded", and in words how it stands; must not wait.
Announce = Callable[[str, str], None]


class StageEnded(RetainError):
    """The stage did not complete; the run ends with `exit_code`."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass
class Run:
    """What the stages of one run share. `stopping` asks children to checkpoint, `killing` ends them.

    `made`: stage -> fingerprint of the artifact that this run made or reused. Inputs are taken from here and not from
    `current.json`, which another run of the experiment may have changed. `over_budget`: why the budget stopped the run,
    empty if it didn't. `waits_s`: see flows/retries.py. `announce` tells others of the budget.
    """

    plan: Plan
    board: Board
    launcher: Launcher = HERE
    made: dict[str, str] = field(default_factory=dict)
    exit_codes: dict[str, int] = field(default_factory=dict)  # stages that did not complete
    stopping: threading.Event = field(default_factory=threading.Event)
    killing: threading.Event = field(default_factory=threading.Event)
    gpu: threading.Lock = field(default_factory=threading.Lock)
    over_budget: str = ""
    waits_s: tuple[float, ...] = retries.AT_ONCE
    announce: Announce = lambda event, words: None
    _budget: threading.Lock = field(default_factory=threading.Lock)

    def stop_for_budget(self, why: str) -> None:
        """Asks the children to checkpoint and end. What comes after the first reason is its consequence."""
        with self._budget:
            if self.over_budget:
                return
            self.over_budget = why
        self.stopping.set()
        self.announce("exceeded", why)

    def at_work(self) -> bool:
        """Whether a stage is being carried out, so that there is money to settle."""
        return any(row.state not in (*ENDED, "waiting") for row in self.board.rows.values())


def carry_out(run: Run, name: str, log: Log, report: Report) -> None:
    """Makes sure that the stage's artifact exists. Raises StageEnded or another RetainError if it can't be made."""

    def harmless(percent: float) -> None:
        with suppress(Exception):  # what is shown of a stage decides nothing about it
            report(percent)

    try:
        _carry_out(run, name, log, harmless)
    except BudgetExceeded as error:
        run.stop_for_budget(str(error))
        _end(run, name, "refused", error.exit_code, str(error))
        raise
    except StageEnded as error:
        states = {REFUSED: "refused", PREEMPTED: "stopped"}
        _end(run, name, states.get(error.exit_code, "failed"), error.exit_code, str(error))
        raise
    except RetainError as error:
        _end(run, name, "failed", error.exit_code, str(error))
        raise
    except Exception as error:
        _end(run, name, "failed", 1, f"{type(error).__name__}: {error}")
        raise


def _end(run: Run, name: str, state: str, exit_code: int, message: str) -> None:
    run.exit_codes[name] = exit_code
    run.board.update(name, state=state, message=message.removeprefix(f"{name}: "))


def _carry_out(run: Run, name: str, log: Log, report: Report) -> None:
    plan = run.plan
    stage = next(stage for stage in plan.stages if stage.name == name)
    inputs = {upstream: run.made[upstream] for upstream in stage.inputs}
    digests = {upstream: _digest(plan, upstream, fingerprint) for upstream, fingerprint in inputs.items()}
    identity = plan.identity(stage, digests)
    prefix, owner = plan.artifacts.prefix(name, identity.fingerprint), run.launcher.owner
    claim = Watch(plan.store, f"{prefix}/{CLAIM}")
    preemptions = preempted_before(plan, prefix, owner)
    never_began = 0  # attempts in a row
    unsettled: set[int] = set()
    worked = False
    while not _finish(run, stage, identity, worked):
        if run.stopping.is_set():
            raise StageEnded("stopped; run again to go on", PREEMPTED)
        # The claim of an attempt that this run started before it was killed is its own: it takes it up again.
        own = open_number(plan, prefix, owner, unsettled)
        if own is None and (claim.held() or starting_elsewhere(plan, prefix, owner)):
            _wait_for_another_run(run, name)
            continue
        try:
            with _gpu_if_needed(run, stage):
                ending = _attempt_once(run, stage, identity, inputs, report, unsettled, preemptions)
        except Held:
            _wait_for_another_run(run, name)
            continue
        # Another run was faster: it holds the claim, or completed the artifact before this attempt could begin.
        idle = ending.code == CLAIMED or (ending.code == COMPLETE and ending.record.message == ALREADY_THERE)
        worked = worked or not idle
        for line in _log_lines(plan, stage, identity, ending)[-LOG_LINES:]:
            log.info(line)
        record = ending.record
        if not ending.settled:
            unsettled.add(record.number)
        status = record.status if record.ended else "lost"
        why = ending.message or (record.message if status == "killed" else "")
        why = f" ({why})" if why else ""
        log.info(
            "%s: attempt %d %s after %.1f s, $%.5f%s",
            name,
            record.number,
            status,
            ending.seconds,
            ending.usd,
            why,
        )
        never_began = never_began + 1 if ending.never_began else 0
        if never_began == retries.STARTS and not run.stopping.is_set():
            raise StageEnded(f"could not be started {never_began} times: {record.message}", 1)
        then = retries.after(
            ending.code, record.status, preemptions, plan.experiment.execution.max_preemptions, run.waits_s
        )
        if then.step == "retry" or (then.step == "give up" and run.stopping.is_set()):
            preemptions += 1
            wait = f" in {then.wait_s:.0f} s" if then.wait_s else ""
            run.board.update(name, state="preempted", message=f"{status}{why}; trying again{wait}")
            run.stopping.wait(then.wait_s)
        elif then.step == "give up":
            raise StageEnded(f"preempted {preemptions + 1} times, more than execution.max_preemptions", 1)
        elif then.step == "fail":
            exit_code = 1 if ending.code == OVERDUE or ending.code < 0 else ending.code
            raise StageEnded(record.message or _last_words(plan, stage, identity, ending), exit_code)
    log.info("%s: %s", name, run.board.rows[name].metric or "complete")
    report(100.0)


def _wait_for_another_run(run: Run, name: str) -> None:
    run.board.update(name, state="held", message="another run is at it")
    time.sleep(HELD_POLL_S)


@contextmanager
def _gpu_if_needed(run: Run, stage: Stage) -> Iterator[None]:
    """Gives the GPU to one stage at a time.

    Three stages side by side would pay for it three times, and an L4 has no memory for three.
    """
    if run.plan.device(stage) != "cuda":
        yield
        return
    while not run.gpu.acquire(timeout=HELD_POLL_S):
        if run.stopping.is_set():
            raise StageEnded("stopped; run again to go on", PREEMPTED)
        run.board.update(stage.name, state="held", message="another stage has the GPU")
    try:
        if run.stopping.is_set():
            raise StageEnded("stopped; run again to go on", PREEMPTED)
        run.board.update(stage.name, message="")
        yield
    finally:
        run.gpu.release()


def _attempt_once(
    run: Run,
    stage: Stage,
    identity: Identity,
    inputs: dict[str, str],
    report: Report,
    unsettled: Container[int],
    preemptions: int,
) -> Ending:
    progress_shown = 0.0
    began = asked_to_stop = said_to_wait = False
    since = time.monotonic()

    def watch(child: Child) -> None:
        nonlocal asked_to_stop, began, progress_shown, said_to_wait
        if not began:
            began = True
            run.board.attempt_began(stage.name)
        if not said_to_wait and not child.seconds and time.monotonic() - since > LONG_WAIT_S:
            said_to_wait = True
            run.board.notice(
                f"{stage.name} has waited for a machine for {LONG_WAIT_S / 60:.0f} minutes, and goes on to"
            )
        if run.killing.is_set():
            child.kill()
        elif run.stopping.is_set() and not asked_to_stop:
            asked_to_stop = True
            child.preempt()
        if time.monotonic() - progress_shown > PROGRESS_S:
            progress_shown = time.monotonic()
            with suppress(OSError, RetainError):  # what can't be read is shown the next time
                _show_progress(run.board, stage.name, child.read(PROGRESS), report)

    ending = run_attempt(
        run.plan, stage, identity, inputs, watch, run.launcher, unsettled, run.stopping.is_set, preemptions
    )
    run.board.attempt_ended(stage.name, ending.seconds, ending.usd)
    if ending.code == COMPLETE:
        run.board.update(stage.name, run_seconds=ending.record.run_seconds)
    return ending


def _finish(run: Run, stage: Stage, identity: Identity, worked: bool) -> bool:
    """Whether the artifact exists; if so, it becomes this run's and the experiment's current one."""
    artifacts = run.plan.artifacts
    if artifacts.manifest(stage.name, identity.fingerprint) is None:
        return False
    artifacts.set_current(stage.name, identity.fingerprint)
    run.made[stage.name] = identity.fingerprint
    metric = key_metrics(run.plan, stage.name, identity.fingerprint)
    warnings = run.plan.artifacts.warnings(stage.name, identity.fingerprint)
    state = "complete" if worked else "reused"
    run.board.update(stage.name, state=state, metric=metric, message="", warnings=warnings)
    return True


def _digest(plan: Plan, stage: str, fingerprint: str) -> str:
    manifest = plan.artifacts.manifest(stage, fingerprint)
    if manifest is None:
        raise RetainError(f"{stage}: its artifact {fingerprint} is gone from {plan.store.url}; run again")
    return manifest.digest


def _show_progress(board: Board, stage: str, lines: bytes, report: Callable[[float], None]) -> None:
    progress = last_progress(lines)
    if progress is None:
        return
    figures = " ".join(f"{key} {value:.4g}" for key, value in progress.figures.items())
    board.update(stage, progress=f"{progress.step}/{progress.total} {figures} {progress.note}".strip())
    report(progress.percent)


def _last_words(plan: Plan, stage: Stage, identity: Identity, ending: Ending) -> str:
    """Why an attempt ended that wrote no message: its signal or exit code, and the last line of its log."""
    lines = _log_lines(plan, stage, identity, ending)
    cause = f"killed by {signal.Signals(-ending.code).name}" if ending.code < 0 else f"exit code {ending.code}"
    return f"{cause}: {lines[-1]}" if lines else cause


def _log_lines(plan: Plan, stage: Stage, identity: Identity, ending: Ending) -> list[str]:
    prefix = plan.artifacts.prefix(stage.name, identity.fingerprint)
    try:
        stored = plan.store.read(records.key(prefix, ending.record.number, "log"))
    except RetainError:
        return []
    return stored[0].decode(errors="replace").strip().splitlines() if stored else []
