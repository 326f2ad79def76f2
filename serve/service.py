"""A loaded release behind its routes: from the bytes of a request to the bytes of its answer, without HTTP.

A decision is made inside the transaction that records it (deciding.py), and answered after that. Where the learned arm
is in its shadow it is asked after the answer, and what it says completes the record. Where it decides about a share of
the customers it is asked before, and has fifty milliseconds.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple

import orjson

from engine.approvals import Approvals
from engine.clock import elapsed
from retain.decision import NO_CONTACT, Decision
from retain.plausible import when_outside
from retain.release import Release
from serve import shadow
from serve.database import StateUnavailable
from serve.deciding import Bound, Deciding, answer
from serve.giving import again, first
from serve.learned import UNKNOWN, Failure, LearnedArm, Wish
from serve.loading import warnings_about
from serve.metrics import Metrics
from serve.operations import (
    Answered,
    Ask,
    Complete,
    Find,
    KeyConflict,
    Look,
    Looked,
    Noted,
    Operation,
    Outcome,
    Record,
    Suppress,
)
from serve.router import EVERYBODY_BASELINE, Router, routed
from serve.schema import Invalid, RequestReader
from serve.standing import SETTINGS_RULE, Standing
from serve.trial_metrics import ArmCounts, ShadowCounts
from serve.writer import Writer

# For all that one request wants of the database, waiting for its turn included, and of the learned arm where that is
# asked before the answer: far below the 0.5 s in which callers are answered.
STATE_SECONDS = 0.4
CANARY_SECONDS = 0.05  # for the learned arm, where it is asked before the answer

log = logging.getLogger("retain.serve")


class Conflict(Exception):
    """The Idempotency-Key came before, with another body."""


class Reply(NamedTuple):
    """`replayed`: the key came before, and this is what was answered then."""

    body: bytes
    replayed: bool = False


class Service:
    """A loaded release behind its routes. `learned` is the arm's process; None where there is no learned policy.

    `router` is that of the settings, which counts until take_standing() says something else.
    """

    def __init__(
        self,
        version: str,
        release: Release,
        metrics: Metrics,
        writer: Writer,
        router: Router = EVERYBODY_BASELINE,
        learned: LearnedArm | None = None,
    ) -> None:
        self.approvals = Approvals()
        self.metrics = metrics
        self.writer = writer
        self.reader = RequestReader(release.spec, release.terms)
        router, unrouted = routed(router, release)
        self.bound = Bound(release, {"release": version, **release.versions}, router, learned)
        self.standing = SETTINGS_RULE
        self.unrouted = unrouted
        self.warnings = warnings_about(release)
        self._router = router
        self.implausible: Counter[str] = Counter()  # requests by column
        self.limited = 0  # offers not made, since one offer may not cost that much
        self.refusals = 0  # by the wallet, since the last contact
        self._id = release.spec.roles.get("id")
        metrics.serves(version)
        self._count_from_zero()

    @property
    def release(self) -> Release:
        return self.bound.release

    def take_approvals(self, approvals: Approvals) -> None:
        """Takes over what people said of messages: from the next request on those alone are sent that are approved
        now."""
        if approvals == self.approvals and approvals.verdicts == self.release.verdicts:
            return  # a release made anew would have to compute again what it has cached
        if approvals.problem:
            log.warning("%s: no message counts as read, and templates are sent", approvals.problem)
        self.approvals = approvals
        self.bound = replace(self.bound, release=replace(self.release, verdicts=approvals.verdicts))
        if self.bound.learned is not None:
            self.bound.learned.take_verdicts(approvals.verdicts)

    @property
    def learned_percent(self) -> float:
        """% of customers that the learned arm decides about now."""
        return self.bound.router.learned_percent if elapsed() <= self.standing.until else 0.0

    def take_standing(self, standing: Standing) -> None:
        """Takes over where the rollout stands: the next request is decided about by that."""
        self.standing = standing
        router = self._router
        if standing.rules:
            router = replace(router, force_baseline=False, percent=standing.served.percent)
        if router != self.bound.router:
            self.bound = replace(self.bound, router=router)

    async def take_arm(self, learned: LearnedArm | None) -> None:
        """Asks another learned arm from the next request on, or none, and ends the one before."""
        before = self.bound.learned
        if learned is not None:
            learned.take_verdicts(self.release.verdicts)
            await learned.start()
        self.bound = replace(self.bound, learned=learned)
        self._count_from_zero()
        if before is not None:
            await before.stop()

    async def start(self) -> None:
        """On the event loop that answers."""
        self.writer.start()
        if self.bound.learned is not None:
            self.bound.learned.take_verdicts(self.release.verdicts)
            await self.bound.learned.start()

    async def stop(self) -> None:
        """Puts on record what waits for it."""
        if self.bound.learned is not None:
            await self.bound.learned.stop()
        if await asyncio.to_thread(self.writer.close):
            self.writer.state.close()

    # -- decisions -------------------------------------------------------------------------------------------------

    async def decide(self, body: bytes, caller: str = "", key: str | None = None) -> Reply:
        """Answers the body of a request by `caller` (the name of an API key). Raises Invalid, and Conflict."""
        arrived = time.perf_counter()
        asked = self.reader.read(body)
        bound = self._bound_now()
        if outside := bound.release.plausible.outside(asked.values):
            self._not_plausible(outside)
        assessment = bound.release.assess(asked.values, asked.history)
        assessment.reasons  # noqa: B018  computed here, and not while the transaction holds the wallet
        customer = _text(asked.values.get(self._id)) if self._id else None
        deciding = Deciding(bound, asked, assessment, customer, assessment.case.opted_out, arrived)
        scoped = None if key is None else f"{caller}\n{key}"
        try:
            if bound.learned is not None and bound.router.arm(customer) == "learned":
                deciding.assigned = deciding.arm = "learned"
                await self._hear(deciding, bound.learned)
            ask = Ask(
                customer, scoped, b"" if key is None else self.reader.canonical(asked), deciding, deciding.opted_out
            )
            result: Answered | KeyConflict = await self._do(ask, arrived)
        except StateUnavailable:
            return Reply(self._unavailable(deciding))
        except Exception:
            counts = self._counts(deciding)
            counts.decisions.inc()
            counts.errors.inc()
            raise
        if isinstance(result, KeyConflict):
            raise Conflict
        if result.replayed or result.repeated:
            self.metrics.again["replayed" if result.replayed else "repeated"].inc()
            return Reply(again(result, deciding), result.replayed)
        self._made(deciding)
        self._in_shadow(result.decision_id, deciding)
        return Reply(first(result, deciding))

    def _bound_now(self) -> Bound:
        """What holds for a request that arrives now: once the lease has run out there is no trial, though nobody has
        looked since."""
        bound = self.bound
        if bound.router.learned_percent and elapsed() > self.standing.until:
            return replace(bound, router=replace(bound.router, percent=0.0))
        return bound

    async def _hear(self, deciding: Deciding, learned: LearnedArm) -> None:
        """Asks the learned arm about a customer of its own, with the history on record, unless nobody may contact her
        anyway."""
        looked: Looked = await self._do(Look(deciding.customer), deciding.arrived)
        deciding.merge(looked.past)
        if deciding.forbidden() is not None:
            return
        if learned.running and not learned.may_decide:  # what it says nobody has seen to here
            deciding.failure, deciding.arm = "other_release", "baseline"
            return
        wish = await learned.ask(deciding.assessment, looked.pace, CANARY_SECONDS)
        if isinstance(wish, Failure):
            deciding.failure, deciding.unsafe, deciding.arm = wish.kind, wish.unsafe, "baseline"
        else:
            deciding.heard, deciding.unsafe = wish, wish.unsafe

    def _count_from_zero(self) -> None:
        """Both arms' counters are there before anything is counted: Prometheus sees no rise in what begins at one."""
        self.metrics.trial.of("baseline", self.bound.versions["release"])
        if (learned := self.bound.learned) is not None:
            self.metrics.trial.of("learned", learned.release_version or UNKNOWN)
            self.metrics.trial.in_shadow(learned.release_version or UNKNOWN)

    def _counts(self, deciding: Deciding) -> ArmCounts:
        """Of the customer's arm."""
        learned, versions = deciding.bound.learned, deciding.bound.versions
        if deciding.assigned == "learned" and learned is not None:
            return self.metrics.trial.of("learned", learned.release_version or UNKNOWN)
        return self.metrics.trial.of("baseline", versions["release"])

    def _made(self, deciding: Deciding) -> None:
        """Counts a decision that is on record now."""
        decision, message, metrics = deciding.decision, deciding.message, self.metrics
        assert decision is not None
        metrics.risk.observe(decision.risk)
        if deciding.bar is None:
            counts = self._counts(deciding)
            counts.decisions.inc()
            if deciding.assigned == "learned":
                _count_message(deciding.unsafe, counts)
                if deciding.heard is None:
                    counts.errors.inc()
            elif decision.offer is not None:
                counts.messages.inc()
        metrics.decisions[decision.arm, decision.action, decision.why].inc()
        if decision.why == "offer_budget":
            metrics.wallet_refused.inc()
            self.refusals += 1
        elif decision.why == "offer_limit":
            self.limited += 1
        elif decision.offer is not None:
            self.refusals = 0
        if message is not None:
            metrics.messages[message.situation].inc()
            metrics.sources[message.source].inc()
        elif decision.offer is not None:
            metrics.unsent.inc()

    def _in_shadow(self, decision_id: str, deciding: Deciding) -> None:
        """Asks the learned arm what it would have done, once the answer is on its way."""
        learned = deciding.bound.learned
        if learned is None or not deciding.in_shadow:
            return
        replied = time.perf_counter() - deciding.arrived
        counts = self.metrics.trial.in_shadow(learned.release_version or UNKNOWN)
        counts.questions.inc()

        def complete(wish: Wish | Failure) -> None:
            _count_message(wish.unsafe, counts)
            if isinstance(wish, Failure):
                counts.failures[wish.kind].inc()
            record = shadow.heard(wish, learned.release_version, replied)
            with suppress(StateUnavailable):  # then the record says nothing of its shadow
                self.writer.submit(Complete(decision_id, record)).add_done_callback(_forget)

        learned.ask_later(deciding.assessment, deciding.pace, complete)

    def _unavailable(self, deciding: Deciding) -> bytes:
        """Nobody is contacted where nothing can be put on record: there would be an offer that nothing is held for."""
        case = deciding.assessment.case
        decision = Decision(case.risk, case.acceptance, NO_CONTACT, None, "state_unavailable")
        self.metrics.decisions[decision.arm, decision.action, decision.why].inc()
        return orjson.dumps(answer(deciding.bound, deciding.asked, deciding.assessment, decision, None))

    # -- what becomes of decisions ---------------------------------------------------------------------------------

    async def note(self, outcome: Outcome) -> Noted:
        """Records what became of a decision. Raises StateUnavailable."""
        noted: Noted = await self._do(outcome)
        self.metrics.outcomes.labels(outcome.kind, noted.status).inc()
        return noted

    async def suppress(self, customer: str, reason: str) -> Noted:
        """Nobody contacts that customer from now on. Raises StateUnavailable."""
        noted: Noted = await self._do(Suppress(customer, reason))
        self.metrics.suppressed.inc()
        return noted

    async def find(self, decision_id: str) -> Record | None:
        """The record of a decision. Raises StateUnavailable."""
        record: Record | None = await self._do(Find(decision_id))
        return record

    async def _do(self, operation: Operation, arrived: float | None = None) -> Any:
        """What the operation's docstring says. `arrived`: when the request did, by time.perf_counter(), if it asks for
        more than this. Raises StateUnavailable."""
        spent = 0.0 if arrived is None else time.perf_counter() - arrived
        return await self.writer.submit(operation, STATE_SECONDS - spent)

    def _not_plausible(self, columns: list[str]) -> None:
        """Counts the columns of a request that are not plausible. Raises Invalid if one of them is refused for it."""
        outcomes = {name: when_outside(self.release.spec, name) for name in columns}
        for name, outcome in outcomes.items():
            self.metrics.implausible(name, outcome)
            self.implausible[name] += 1
        if refused := [name for name, outcome in outcomes.items() if outcome == "refuse"]:
            raise Invalid([("implausible", ("customer", name)) for name in refused])


def _count_message(unsafe: bool | None, counts: ArmCounts | ShadowCounts) -> None:
    """A message that the learned arm chose, before the guard had its say; None for none."""
    if unsafe is not None:
        counts.messages.inc()
    if unsafe:
        counts.unsafe.inc()


def _text(identifier: str | int | None) -> str | None:
    """7 and "7" are the same customer."""
    return None if identifier is None else str(identifier)


def _forget(done: asyncio.Future[Any]) -> None:
    """A record that couldn't be completed stays without its shadow; asyncio would log the error of a future that nobody
    looks at."""
    if not done.cancelled():
        done.exception()
