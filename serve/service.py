"""A loaded release behind its routes: from the bytes of a request to the bytes of its answer, without HTTP."""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import orjson
from pydantic import BaseModel

from engine.approvals import Approvals
from retain.decision import Action, Arm, Decision, Why
from retain.message import SITUATIONS
from retain.plausible import when_outside
from retain.policy import PolicyError
from retain.release import SOURCES, TEMPLATES, Assessment, Release
from serve.loading import warnings_about
from serve.metrics import Metrics
from serve.router import EVERYBODY_BASELINE, Router, routed
from serve.schema import Invalid, RequestReader

MONTH_SECONDS = 365.2425 / 12 * 86_400
REFUSALS = 20  # offers refused one after the other from which on the wallet counts as used up
DOUBT_SECONDS = 60.0  # between two lines in the log about doubts in the learned policy

log = logging.getLogger("retain.serve")


class Reason(BaseModel):
    """A column's share in the log-odds of churn, along the paths of the trees; protected columns are left out."""

    feature: str
    value: Any
    contribution: float


class Text(BaseModel):
    """`text` ends in a line of its own that says how to opt out, and who writes. `source`: who wrote what is above it,
    nobody's model (template), or the language model before (sft) or after (rlhf) it was trained on preferences."""

    situation: Literal[SITUATIONS]  # type: ignore[valid-type]
    text: str
    source: Literal[SOURCES]  # type: ignore[valid-type]


class Answer(BaseModel):
    """What /retain answers; here for OpenAPI, the service writes it itself.

    `mode` is the arm that decided: in any doubt about the learned policy's decision it is the baseline.
    """

    decision_id: str
    risk: float
    acceptance: float
    acceptance_full: float | None
    action: Action
    offer: int | None
    why: Why
    message: Text | None
    reasons: list[Reason]
    mode: Arm
    versions: dict[str, str]


class Service:
    """A loaded release behind its routes.

    Both arms share one wallet, since the baseline's offers cost money, too. It lives in this process, whose start
    begins its period. No answer to an offer reaches it yet, so what it holds for an offer stays held, and a customer
    asked about twice without the first contact in her history is held for twice. All requests are answered on one event
    loop, and nothing is awaited between asking the wallet and the answer, so it needs no lock.
    """

    def __init__(
        self,
        version: str,
        release: Release,
        metrics: Metrics,
        router: Router = EVERYBODY_BASELINE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.release = release
        self.approvals = Approvals()
        self.metrics = metrics
        self.reader = RequestReader(release.spec, release.terms)
        self.router, unrouted = routed(router, release)
        self.warnings = [*warnings_about(release), *unrouted]
        self.wallet = release.terms.new_wallet()
        self.versions = {"release": version, **release.versions}
        self._id = release.spec.roles.get("id")
        self._clock = clock
        self._started = clock()
        self._refusals = 0  # since the last contact
        self._implausible: Counter[str] = Counter()  # requests by column
        self._limited = 0  # offers not made, since one offer may not cost that much
        self._doubts, self._doubt_logged = 0, -math.inf
        metrics.serves(version, self.wallet, release.terms.offers.currency)

    def take_approvals(self, approvals: Approvals) -> None:
        """Takes over what people said of messages: from the next request on those alone are sent that are approved
        now."""
        if approvals == self.approvals and approvals.verdicts == self.release.verdicts:
            return  # a release made anew would have to compute again what it has cached
        if approvals.problem:
            log.warning("%s: no message counts as read, and templates are sent", approvals.problem)
        self.approvals = approvals
        self.release = replace(self.release, verdicts=approvals.verdicts)

    @property
    def mode(self) -> str:
        percent = self.router.learned_percent
        return "baseline" if percent == 0 else "learned" if percent == 100 else "canary"

    @property
    def arms(self) -> str:
        """Who decides, in words."""
        percent = self.router.learned_percent
        return f"the learned policy decides about {percent:g} % of customers" if percent else "the baseline decides"

    @property
    def banks(self) -> str:
        """Who speaks, in words."""
        approved = [
            f"{name} {found.approved} of {found.listed} approved" for name, found in self.release.reviews.items()
        ]
        return "messages: " + ", ".join([f"{len(self.release.banks[TEMPLATES].entries)} of {TEMPLATES}", *approved])

    @property
    def period_left(self) -> float:
        """The share of the budget's period that is to come."""
        gone = (self._clock() - self._started) / (self.release.terms.months * MONTH_SECONDS)
        return min(1.0, max(0.0, 1 - gone))

    def answer(self, body: bytes) -> bytes:
        """The JSON that answers a request's body. Raises Invalid."""
        values, history, _ = self.reader.read(body)
        release = self.release
        if outside := release.plausible.outside(values):
            self._not_plausible(outside)
        assessment = release.assess(values, history)
        decision = self._decide(assessment, self.router.arm(values.get(self._id) if self._id else None))
        message = release.message(assessment, decision)
        self.metrics.decisions[decision.arm, decision.action, decision.why].inc()
        if decision.why == "offer_budget":
            self.metrics.wallet_refused.inc()
            self._refusals += 1
        elif decision.why == "offer_limit":
            self._limited += 1
        elif decision.action == "contact":
            self._refusals = 0
        if message is not None:
            self.metrics.messages[message.situation].inc()
            self.metrics.sources[message.source].inc()
        elif decision.action == "contact":
            self.metrics.unsent.inc()
        return orjson.dumps(
            {
                "decision_id": str(uuid.uuid4()),
                "risk": decision.risk,
                "acceptance": decision.acceptance,
                "acceptance_full": assessment.full_acceptance,
                "action": decision.action,
                "offer": decision.offer,
                "why": decision.why,
                "message": None if message is None else message.answer(),
                "reasons": [
                    {"feature": name, "value": values[name], "contribution": contribution}
                    for name, contribution in assessment.reasons[: release.terms.reasons]
                ],
                "mode": decision.arm,
                "versions": self.versions,
            }
        )

    def _not_plausible(self, columns: list[str]) -> None:
        """Counts the columns of a request that are not plausible. Raises Invalid if one of them is refused for it."""
        outcomes = {name: when_outside(self.release.spec, name) for name in columns}
        for name, outcome in outcomes.items():
            self.metrics.implausible(name, outcome)
            self._implausible[name] += 1
        if refused := [name for name, outcome in outcomes.items() if outcome == "refuse"]:
            raise Invalid([("implausible", ("customer", name)) for name in refused])

    def _decide(self, assessment: Assessment, arm: Arm) -> Decision:
        if arm == "learned":
            try:
                return self.release.decide(assessment, self.wallet, self.period_left, "learned")
            except PolicyError as error:
                self._doubt("not_finite", error)
            except Exception as error:  # whatever it is, the customer gets an answer
                self._doubt("error", error)
        return self.release.decide(assessment, self.wallet, 1.0, "baseline")

    def _doubt(self, reason: str, error: Exception) -> None:
        self.metrics.doubts[reason].inc()
        self._doubts += 1
        now = self._clock()
        if now - self._doubt_logged >= DOUBT_SECONDS:
            log.warning(
                "the learned policy could not decide (%d times so far): the baseline did", self._doubts, exc_info=error
            )
            self._doubt_logged = now

    def _unread(self) -> list[str]:
        """Which messages aren't sent since nobody read them."""
        warnings = [f"{self.approvals.problem}: no message counts as read"] if self.approvals.problem else []
        warnings += [f"{record}: is no record of a text: it counts as unread" for record in self.approvals.damaged]
        warnings += [f"{unreadable}; its text counts as unread" for unreadable in self.approvals.unreadable]
        for name, found in self.release.reviews.items():
            if found.unread and name in self.release.shown:
                waiting = f"{found.unread} of {found.listed} messages of {name} wait for a person to read them"
                warnings.append(f"{waiting} (make messages): others, or templates, are sent")
        return warnings

    def _money(self) -> list[str]:
        """What keeps everybody from being contacted."""
        warnings = []
        if self.period_left == 0:
            warnings.append("the period of the offer budget is over: a restart begins a new one")
        if self.wallet.free < self.release.terms.offers.contact_cost:
            warnings.append("the wallet has no room for another offer: nobody is contacted until a restart")
        elif self._refusals >= REFUSALS:  # cheap offers may still fit where no arm wants to make one
            warnings.append(f"the wallet has no room for the last {self._refusals} offers that were wanted")
        return warnings

    def _not_like_training(self) -> list[str]:
        """What requests stated that nobody in the training part is like."""
        limits, total = self.release.plausible.ranges.columns, self.release.spec.roles.get("total_charge")
        warnings = []
        for name, count in sorted(self._implausible.items()):
            low, high = (f"{limit:,.0f}" if abs(limit) >= 1000 else f"{limit:.4g}" for limit in limits[name])
            outcome = "refused" if when_outside(self.release.spec, name) == "refuse" else "decided about all the same"
            requests = "1 request was" if count == 1 else f"{count} requests were"
            fits = " and to fit tenure x charge" if name == total else ""
            warnings.append(
                f"{requests} {outcome} whose {name} is not plausible: the training part makes it "
                f"{low} to {high}{fits}. Is it in another unit?"
            )
        if self._limited:
            offers = "1 offer was" if self._limited == 1 else f"{self._limited} offers were"
            limit, currency = self.release.offer_limit, self.release.terms.offers.currency
            warnings.append(f"{offers} not made, since one offer may cost at most {limit:,.0f} {currency}")
        return warnings

    def ready(self) -> dict[str, Any]:
        """What /readyz says."""
        release, terms, wallet = self.release, self.release.terms, self.wallet
        return {
            "status": "ready",
            "mode": self.mode,
            "learned_percent": self.router.learned_percent,
            "experiment": release.experiment,
            "dataset": release.spec.name,
            "release": self.versions["release"],
            "parts": dict(release.versions),
            "messages": {TEMPLATES: len(release.banks[TEMPLATES].entries)}
            | {name: found._asdict() for name, found in release.reviews.items()},
            "standings": {name: part.model_dump(mode="json") for name, part in release.parts.items()},
            "history": "comes with the request",
            "wallet": {
                "state": "in this process: a restart forgets it",
                "answers": "not received yet: what each offer made may cost stays held until a restart",
                "mode": wallet.mode,
                "currency": terms.offers.currency,
                "budget": wallet.budget,
                "committed": wallet.committed,
                "held": wallet.held,
                "free": wallet.free,
                "open_offers": wallet.open,
                "months": terms.months,
                "period_left": self.period_left,
            },
            "warnings": [*self.warnings, *self._unread(), *self._not_like_training(), *self._money()],
        }
