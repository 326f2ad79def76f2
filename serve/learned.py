"""The worker's side of its learned arm: asks the arm's process (arm.py) and judges what comes back.

A question ends in exactly one Wish or Failure, whatever the arm does. It has a deadline, and there is room for so many
questions without an answer. A process that says nothing for SILENT_SECONDS is killed, and whenever one ends, another is
started after a pause. Nothing here blocks the event loop, and nothing raises into who asks.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from prometheus_client import Histogram

from retain.alike import dataset_digest, what_is_offered
from retain.decision import Case
from retain.message import Message
from retain.parts import Acceptance
from retain.release import Assessment, Release
from serve.arm_answers import REPORTED, ROUNDED, are_probabilities, is_assessed
from serve.arm_process import ArmProcess, Ended, Ending, valid
from serve.circuit import Circuit
from serve.loading import Loaded, Source
from serve.metrics import Metrics
from serve.spoken import NO_BANKS, NOTHING, Banks, Cell, Chosen, Row, Said, Spoken, judged, without_withdrawn
from serve.trial_metrics import ArmFailure
from serve.wire import READY, ROWS, Ready, frame, observation, told_of

SHADOW_SECONDS = 1.0  # for an answer that nobody waits for
# For which such questions are gathered: one alone costs worker and process 60 us each, of 32 in one frame 9 and 4.
LINGER_SECONDS = 0.03
BATCH = 32
BACKLOG = 256  # questions without an answer
SILENT_SECONDS = 2.0
LOAD_SECONDS = 30.0
TICK_SECONDS = 0.1
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0  # before another process is started
STEADY_SECONDS = 60.0  # of a process after which the pause is the first one again
MEMORY = 512 << 20
UNKNOWN = "unknown"  # the release of an arm whose files don't say

LOADING = "it is loading its release"

log = logging.getLogger("retain.serve")


@dataclass(frozen=True, slots=True)
class Wish:
    """What the learned arm wants to do about a customer, before mask, limit of one offer and wallet.

    `offer` in percent, None for no contact; `probabilities` of all actions, in the order of Terms.actions; `said`,
    `chosen` and `banks` as in spoken.py, nothing without an offer; `case` is what the offer is priced by. `seconds` the
    process took for all questions of one batch; `waited` is the time from the question to the answer.
    """

    offer: int | None
    why: Literal["policy_contact", "policy_no_contact"]
    probabilities: tuple[float, ...]
    said: Said | None
    chosen: Chosen | None
    banks: Banks
    case: Case
    seconds: float
    waited: float

    @property
    def unsafe(self) -> bool | None:
        """Whether the message that it chose breaks a rule; None if it chose none. Where no language model has one for
        the case, the template that would be sent is what it chose, which the guard has let pass."""
        if self.chosen is not None:
            return bool(self.chosen.breaks)
        return None if self.said is None else False


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no wish; `detail` is for a person and tells nothing of the customer. `waited`: seconds from the
    question until that was known; 0 where nothing was asked."""

    kind: ArmFailure
    detail: str = ""
    waited: float = field(default=0.0, compare=False)

    @property
    def unsafe(self) -> bool | None:
        """As of a Wish."""
        return True if self.kind == "unsafe_message" else None


Heard = Wish | Failure
Done = Callable[[Heard], None]


@dataclass(slots=True)
class _Asked:
    """A question to which the process owes an answer. `done` is None once somebody was told what became of it;
    `seconds` counts how long the answer took, however late it is, None in the shadow."""

    permit: int
    assessment: Assessment
    case: Case
    at: float
    deadline: float
    done: Done | None
    seconds: Histogram | None = None


class LearnedArm:
    """The learned arm of one release, as its worker asks it. Everything happens on one event loop.

    `source` is what the process loads. It may be another release than the worker's own (`version`, `release`), if both
    are for one table and make the same offers. Customers meet that one only if the worker has loaded it as well, as the
    `challenger`, so that it can judge what is said; footer and quiet hours stay the worker's own.
    """

    def __init__(
        self,
        source: Source,
        version: str,
        release: Release,
        metrics: Metrics,
        memory: int = MEMORY,
        clock: Callable[[], float] = time.monotonic,
        command: Sequence[str] = ("-m", "serve.arm"),
        challenger: Loaded | None = None,
        accepted: tuple[Acceptance, ...] = (),
    ) -> None:
        """`memory`: bytes that the process may have. `command`: what Python runs; tests have another arm. `accepted`:
        parts of what the process loads that customers may be shown though they are shadow_only."""
        self._source = source
        self._version = version
        self._release = release
        self._metrics = metrics
        self._memory = memory
        self._clock = clock
        self._command = [*command, str(memory)]
        self.circuit = Circuit(clock)
        self.failures: Counter[ArmFailure] = Counter()
        self.processes = 0  # started so far
        self.version: str | None = None  # what the process has loaded; None while it has not
        known = challenger or Loaded(source, version, release)
        self.release_version: str | None = known.version  # what it is to load, or has loaded last
        self.versions: Mapping[str, str] = {}  # of what it has loaded last, and of its parts, if the worker knows them
        self.problem = "it has not been started"
        self._process: ArmProcess | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._stopped = asyncio.Event()
        self._verdicts, self._number = release.verdicts, 0
        self._loaded = self._verdicts  # those that the process was started with
        self._cells: dict[Cell, Spoken] = {}
        self._known = known._replace(release=replace(known.release, accepted=accepted))
        self._speaker: Release | None = None  # what the process has loaded, as the worker knows it
        self._same = False  # whether that is the worker's own, so that it wants no customer's values
        self._actions = len(release.terms.actions)
        self._private = {column.name for column in release.spec.columns if column.kind in ("id", "text")}
        self._asked: dict[int, _Asked] = {}
        self._last = 0
        # Questions that wait to be sent: their numbers, with what a policy observes of each, or with her values.
        self._numbers: list[int] = []
        self._observations: list[bytes] = []
        self._customers: list[list[Any]] = []
        self._heard_at = self._ticked_at = 0.0
        self._flushing: asyncio.TimerHandle | None = None
        self._ticking: asyncio.TimerHandle | None = None

    # -- what the service calls

    async def start(self) -> None:
        """Starts the process, which loads its release meanwhile, and keeps one running. From now on the gauges tell of
        this arm; one that it replaces has to be stopped next, or before."""
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()  # of no request: what the clock brings to light is nobody's
        self.problem = LOADING
        self._metrics.arm_running.set(0)
        self._metrics.arm_circuit_open.set(0)
        self._keeping = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """Ends the process; questions without an answer end at once, as if it had died."""
        self._stopped.set()
        ending = Ending("died", "it was stopped")
        if self._process is not None:
            self._process.end(ending)
        self._lost(ending)
        self._metrics.arm_circuit_open.set(0)
        if self._keeping is not None:
            await self._keeping

    def take_verdicts(self, verdicts: Mapping[str, str]) -> None:
        """What people say of messages now: what they took back is not said from here on."""
        if verdicts == self._verdicts:
            return
        self._verdicts, self._number = verdicts, self._number + 1
        self._cells = without_withdrawn(self._cells, verdicts)
        if self.running:
            self._send_verdicts()

    async def ask(self, assessment: Assessment, pace: float, deadline: float, case: Case | None = None) -> Heard:
        """What the arm wants, after `deadline` seconds at most.

        `pace` is that of retain.decision.pace(), `case` what counts in place of assessment.case.
        """
        answer: asyncio.Future[Heard] = asyncio.get_running_loop().create_future()

        def done(heard: Heard) -> None:
            if not answer.done():
                answer.set_result(heard)

        number = self._ask(assessment, case or assessment.case, pace, done, deadline)
        if number is None:
            return answer.result()
        self._asked[number].seconds = self._metrics.trial.of("learned", self.release_version or UNKNOWN).seconds
        self._flush()
        timer = self._loop.call_later(deadline, self._expire, number)
        try:
            return await answer
        finally:
            timer.cancel()

    def ask_later(self, assessment: Assessment, pace: float, done: Done, case: Case | None = None) -> None:
        """As ask(), but nobody waits: `done` is called within SHADOW_SECONDS, at once if nothing can be asked now."""
        if self._ask(assessment, case or assessment.case, pace, done, SHADOW_SECONDS) is None:
            return
        if len(self._numbers) + len(self._customers) >= BATCH:
            self._flush()
        elif self._flushing is None:
            self._flushing = self._loop.call_later(LINGER_SECONDS, self._flush)

    def message(self, wish: Wish) -> Message | None:
        """What is sent to the customer with what is wished, with the worker's footer."""
        return None if wish.said is None else self._release.said(wish.said.entry)

    @property
    def running(self) -> bool:
        return self.version is not None

    @property
    def may_decide(self) -> bool:
        """Whether customers may meet what it says, since the worker knows its release and may show that policy."""
        return self._speaker is not None and "decision" in self._speaker.shown

    def state(self) -> dict[str, Any]:
        """What /readyz says."""
        circuit = self.circuit
        return {
            "running": self.running,
            "version": self.version,
            "problem": self.problem,
            "circuit": {"state": circuit.state, "reason": circuit.reason, "retry_in": circuit.retry_in},
            "failures": dict(self.failures),
            "processes": self.processes,
        }

    def warnings(self) -> list[str]:
        """What the person who runs the service should know, a line each."""
        fine = self.running or self.problem == LOADING
        warnings = [] if fine else [f"the learned arm is not running: {self.problem}"]
        if self.circuit.state != "closed":
            again = f"it is tried again in {self.circuit.retry_in:.0f} seconds"
            warnings.append(f"the learned arm is not asked, since it failed ({self.circuit.reason}): {again}")
        return warnings

    # -- questions

    def _ask(self, assessment: Assessment, case: Case, pace: float, done: Done, seconds: float) -> int | None:
        """The number of the question; None if it can't be asked, which `done` has been told by then."""
        if not self.running:
            self._fail(done, Failure("not_running", self.problem))
            return None
        if len(self._asked) >= BACKLOG:
            self._fail(done, Failure("overloaded", f"{BACKLOG} questions have no answer yet"))
            return None
        if (permit := self.circuit.permit()) is None:
            self._fail(done, Failure("circuit_open", self.circuit.reason))
            return None
        now = self._clock()
        self._last = number = self._last + 1
        self._asked[number] = _Asked(permit, assessment, case, now, now + seconds, done)
        if self._same:
            self._numbers.append(number)
            self._observations.append(observation(case, pace))
        else:
            values = {name: value for name, value in assessment.values.items() if name not in self._private}
            self._customers.append([number, pace, values, told_of(case.history)])
        if self._ticking is None:
            self._ticked_at = now
            self._ticking = self._loop.call_later(TICK_SECONDS, self._tick, context=self._context)
        return number

    def _flush(self) -> None:
        """Sends the questions that wait."""
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        if self._numbers:
            self._send({"ids": self._numbers}, b"".join(self._observations))
            self._numbers, self._observations = [], []
        if self._customers:
            self._send({"customers": self._customers})
            self._customers = []

    def _send(self, content: dict[str, Any], block: bytes = b"") -> None:
        if self._process is not None:
            self._process.send(frame(content, block))

    def _send_verdicts(self) -> None:
        self._send({"verdicts": dict(self._verdicts), "number": self._number})

    def _fail(self, done: Done, failure: Failure) -> None:
        """Counts a failure and tells of it."""
        self.failures[failure.kind] += 1
        self._metrics.arm_failures[failure.kind].inc()
        _tell(done, failure)

    def _finish(self, asked: _Asked, heard: Heard) -> None:
        """Tells what became of a question, the first time that anything does."""
        done, asked.done = asked.done, None
        if done is None:
            return
        if isinstance(heard, Failure):
            self.circuit.missed(asked.permit, heard.kind)
            self._metrics.arm_circuit_open.set(self.circuit.state != "closed")
            log.warning("the learned arm has failed (%s): %s", heard.kind, heard.detail)
            self._fail(done, replace(heard, waited=self._clock() - asked.at))
            return
        if self.circuit.succeeded(asked.permit):
            self._metrics.arm_circuit_open.set(0)
        self._metrics.arm_answers.inc()
        _tell(done, heard)

    # -- deadlines

    def _expire(self, number: int) -> None:
        if (asked := self._asked.get(number)) is not None:
            self._finish(asked, Failure("deadline", f"it gave no answer within {asked.deadline - asked.at:g} seconds"))

    def _tick(self) -> None:
        """Looks after deadlines and for signs of life, as long as there are questions without an answer."""
        self._ticking = None
        if not self._asked:
            return
        now = self._clock()
        self._ticking = self._loop.call_later(TICK_SECONDS, self._tick, context=self._context)
        stood_still = now - self._ticked_at > 5 * TICK_SECONDS
        self._ticked_at = now
        if stood_still:  # this process, or the whole machine with the arm's: that was no silence of the arm
            self._heard_at = now
            return
        for number in [number for number, asked in self._asked.items() if asked.done and now >= asked.deadline]:
            self._expire(number)
        silent = now - max(self._heard_at, next(iter(self._asked.values())).at)
        if silent >= SILENT_SECONDS and self._process is not None:
            self._process.end(Ending("deadline", f"it said nothing for {SILENT_SECONDS:g} seconds"))

    # -- answers

    def _hear(self, content: dict[str, Any]) -> None:
        """Takes a frame of the process. Raises Ended for one that it can't mean, or with which it ends."""
        self._heard_at = self._clock()
        if "answers" in content and self.running:
            self._hear_answers(content["answers"], content.get("seconds"))
        elif "table" in content and self.running:
            if content.get("number") == self._number:  # otherwise a later one is on its way
                self._take_table(valid(ROWS, content["table"]), self._verdicts)
        elif "ready" in content and not self.running:
            self._hear_ready(valid(READY, content["ready"]))
        elif content.get("out_of_memory") is True:
            raise Ended("out_of_memory", f"it needs more memory than RETAIN_ARM_MEMORY_MB={self._memory >> 20}")
        elif isinstance(content.get("problem"), str):
            raise Ended("died", content["problem"])
        else:
            raise Ended("malformed", "it sent what is none of its messages")

    def _hear_ready(self, ready: Ready) -> None:
        release = self._release
        if ready.dataset != dataset_digest(release.spec):
            raise Ended("malformed", f"its release {ready.version} is for another table")
        if {"offers": ready.offers, "cap": ready.cap} != what_is_offered(release.terms):
            raise Ended("malformed", f"its release {ready.version} makes other offers, or has another cap")
        known = self._known
        self._speaker = known.release if ready.version == known.version else None
        self._same = self._speaker is not None and ready.version == self._version and release.policy is not None
        self.versions = {"release": ready.version} | ({} if self._speaker is None else dict(self._speaker.versions))
        self._take_table(ready.table, self._loaded)
        self.version = self.release_version = ready.version
        self.problem = ""
        self._metrics.arm_running.set(1)
        if ready.number != self._number:  # people have said something else since it was started
            self._cells = without_withdrawn(self._cells, self._verdicts)
            self._send_verdicts()

    def _take_table(self, rows: list[Row], verdicts: Mapping[str, str]) -> None:
        try:
            self._cells = judged(rows, self._release, verdicts, self._speaker)
        except ValueError as error:
            raise Ended("malformed", str(error)) from None

    def _hear_answers(self, answers: Any, seconds: Any) -> None:
        if type(answers) is not list or type(seconds) is not float or not 0 <= seconds < math.inf:
            raise Ended("malformed", "it sent answers that are none")
        for answer in answers:
            asked = None
            if type(answer) is list and len(answer) in (3, 4) and type(answer[0]) is int:
                asked = self._asked.pop(answer[0], None)
            if asked is None:
                raise Ended("malformed", "it answered what it was not asked")
            if asked.seconds is not None:
                asked.seconds.observe(self._heard_at - asked.at)
            if asked.done is not None:
                self._finish(asked, self._judged(asked, answer, seconds))

    def _judged(self, asked: _Asked, answer: list[Any], seconds: float) -> Heard:
        """What an answer says, if it says anything."""
        _, action, probabilities, *assessed = answer
        waited = self._heard_at - asked.at
        if type(action) is str and action in REPORTED:
            return Failure(REPORTED[action], probabilities[:200] if type(probabilities) is str else "")
        if not are_probabilities(probabilities, self._actions) or type(action) is not int:
            return Failure("malformed", "it sent an action or probabilities that can't be")
        if not 0 <= action < len(probabilities) or max(probabilities) > probabilities[action] + ROUNDED:
            return Failure("malformed", "it sent an action that isn't the likeliest")
        case = asked.case
        if not self._same:
            if not assessed or not is_assessed(assessed[0], action > 0):
                return Failure("malformed", "it sent scores that can't be")
            situation, risk, acceptance, spread = assessed[0]
            case = replace(case, risk=risk, acceptance=acceptance, spread=spread)
        if action == 0:
            return Wish(None, "policy_no_contact", tuple(probabilities), None, None, NO_BANKS, case, seconds, waited)
        if self._same:
            situation = asked.assessment.situation
        offer = self._release.terms.offers.levels[action - 1]
        said, chosen, banks, refused = self._cells.get((situation, offer), NOTHING)
        if refused:
            return Failure("unsafe_message", refused)
        return Wish(offer, "policy_contact", tuple(probabilities), said, chosen, banks, case, seconds, waited)

    # -- the process

    async def _keep(self) -> None:
        """Starts a process, and another one after a pause whenever one has ended."""
        pause = FIRST_PAUSE
        while not self._stopped.is_set():
            started = self._clock()
            process = self._process = ArmProcess(self._command, self._hear)
            self.processes += 1
            slow = self._loop.call_later(LOAD_SECONDS, self._too_slow, process)
            ending = await process.run(frame({"load": self._load()}))
            slow.cancel()
            if not self._stopped.is_set():
                self._lost(ending)
            how = await process.ended()
            if self._stopped.is_set():
                return
            self.problem = f"{ending.why} ({how})" if how else ending.why
            log.warning("the process of the learned arm has ended: %s; another one is started", self.problem)
            if self._clock() - started >= STEADY_SECONDS:
                pause = FIRST_PAUSE
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _load(self) -> dict[str, Any]:
        self._loaded = self._verdicts
        return {
            "folder": str(self._source.release),
            "parts": {part: str(folder) for part, folder in self._source.parts.items()},
            "accepted": [acceptance.model_dump(mode="json") for acceptance in self._known.release.accepted],
            "verdicts": dict(self._verdicts),
            "number": self._number,
        }

    def _too_slow(self, process: ArmProcess) -> None:
        if not self.running:
            process.end(Ending("deadline", f"it has not loaded its release within {LOAD_SECONDS:g} seconds"))

    def _lost(self, ending: Ending) -> None:
        """Nobody will answer what was asked."""
        self._process, self.version, self.problem = None, None, ending.why
        self._metrics.arm_running.set(0)
        self._numbers, self._observations, self._customers = [], [], []
        asked, self._asked = self._asked, {}
        for question in asked.values():
            if question.seconds is not None:  # at least as long
                question.seconds.observe(self._clock() - question.at)
            self._finish(question, Failure(ending.kind, ending.why))


def _tell(done: Done, heard: Heard) -> None:
    try:
        done(heard)
    except Exception:  # of whoever asked: the other questions have their answers all the same
        log.exception("an answer of the learned arm was not taken")
