"""What the service counts, for /metrics. Children are made once: looking one up by label costs more than counting.

Several processes count into files of one folder (folder.py), which the admin process adds up (admin.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    disable_created_metrics,
    generate_latest,
    values,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.values import MultiProcessValue

from retain.message import SITUATIONS
from retain.monitoring import SECONDS_BOUNDS
from retain.plausible import Outside
from retain.release import SOURCES
from serve.operations import Kind
from serve.periods import Standing as Wallet
from serve.trial_metrics import ARM_FAILURES, TrialMetrics

TENTHS = tuple(tenth / 10 for tenth in range(1, 11))
CODES = (200, 400, 401, 404, 405, 408, 409, 413, 415, 422, 500, 503)
BARS = (
    "do_not_contact", "hold_out", "running_offer", "contact_cap", "contacted_this_month", "offer_limit", "offer_budget",
)  # fmt: skip
DECISIONS = (
    ("baseline", "contact", "risk_at_threshold"),
    ("baseline", "contact", "exploration"),
    ("baseline", "no_contact", "exploration"),
    ("baseline", "no_contact", "state_unavailable"),
    ("learned", "contact", "policy_contact"),
    *(("baseline", "no_contact", why) for why in ("risk_below_threshold", *BARS)),
    *(("learned", "no_contact", why) for why in ("policy_no_contact", *BARS)),
)
# Why a connection's bytes reached no route: no HTTP/1, a head or a body's framing that is too large or takes too long,
# too many requests behind one another, too many connections.
REFUSALS = ("malformed", "head_too_large", "too_slow", "too_many_pipelined", "too_many_connections")
FOLDERS = ("/docs", "/decisions")  # below which every path counts as one
PATHS = ("/retain", "/outcomes", "/suppress", "/decisions", "/healthz", "/readyz", "/metrics", "/docs", "/openapi.json")


def share(slot: str) -> None:
    """What this process counts from now on goes into the files of a slot, in the folder of folder.VARIABLE."""
    values.ValueClass = MultiProcessValue(lambda: slot)  # type: ignore[no-untyped-call]


class Metrics:
    """One service's metrics in a registry of their own."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series beside each, of when it was made
        self.registry = CollectorRegistry()
        requests = Counter("retain_requests", "Requests by path and code", ["path", "code"], registry=self.registry)
        self._requests = requests
        self._cached = {(path, code): requests.labels(path, str(code)) for path in PATHS for code in CODES}
        refusals = Counter(
            "retain_protocol_errors",
            "What connections sent and no route has seen, by why it was refused",
            ["reason"],
            registry=self.registry,
        )
        self._refusals = {reason: refusals.labels(reason) for reason in REFUSALS}
        self.seconds = Histogram(
            "retain_request_seconds",
            "Seconds from the last byte of a request to /retain until it is answered; refused ones don't count",
            buckets=SECONDS_BOUNDS,
            registry=self.registry,
        )
        decisions = Counter(
            "retain_decisions", "Decisions by arm, action and why", ["mode", "action", "why"], registry=self.registry
        )
        self.decisions = {decision: decisions.labels(*decision) for decision in DECISIONS}
        again = Counter(
            "retain_answers_again",
            "Requests answered as before: since their Idempotency-Key came again (replayed), or since an offer of the "
            "customer is open (repeated)",
            ["why"],
            registry=self.registry,
        )
        self.trial = TrialMetrics(self.registry)
        self.risk = Histogram(
            "retain_risk", "Decisions by the probability that the customer leaves", buckets=TENTHS,
            registry=self.registry,
        )  # fmt: skip
        self.suppressed = Counter("retain_suppressed", "Opt-outs that were noted", registry=self.registry)
        self.arm_answers = Counter(
            "retain_arm_answers", "Questions that the learned arm answered in time", registry=self.registry
        )
        arm_failures = Counter(
            "retain_arm_failures", "Questions that the learned arm did not answer, by kind", ["kind"],
            registry=self.registry,
        )  # fmt: skip
        self.arm_failures = {kind: arm_failures.labels(kind) for kind in ARM_FAILURES}
        self.arm_running = Gauge(
            "retain_arm_running",
            "Workers whose learned arm has loaded its release",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.arm_circuit_open = Gauge(
            "retain_arm_circuit_open",
            "Workers that don't ask their learned arm, since it failed",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.again = {why: again.labels(why) for why in ("replayed", "repeated")}
        self.outcomes = Counter(
            "retain_outcomes", "What became of decisions, and what was done with it", ["kind", "status"],
            registry=self.registry,
        )  # fmt: skip
        for kind in get_args(Kind):
            self.outcomes.labels(kind, "recorded")  # or the first would be no increase to Prometheus
        self.wallet_refused = Counter(
            "retain_wallet_refused", "Offers that the wallet did not let be made", registry=self.registry
        )
        self._implausible = Counter(
            "retain_implausible",
            "Requests with a number that is not like those of training, by column and what became of them",
            ["column", "outcome"],
            registry=self.registry,
        )
        messages = Counter("retain_messages", "Messages by situation", ["situation"], registry=self.registry)
        self.messages = {name: messages.labels(name) for name in SITUATIONS}
        sources = Counter("retain_message_sources", "Messages by who wrote them", ["source"], registry=self.registry)
        self.sources = {name: sources.labels(name) for name in SOURCES}
        self.unsent = Counter(
            "retain_messages_missing", "Contacts for which no message kept the rules", registry=self.registry
        )
        # Gone with its process, so that after a release was replaced no process tells of the old one.
        self._info = Gauge(
            "retain_release_info",
            "The release that answers",
            ["release"],
            registry=self.registry,
            multiprocess_mode="livemax",
        )

    def serves(self, release: str) -> None:
        """What answers."""
        self._info.labels(release).set(1)

    def refused(self, reason: str) -> None:
        """Counts one of REFUSALS."""
        self._refusals[reason].inc()

    def implausible(self, column: str, outcome: Outside) -> None:
        self._implausible.labels(column, {"refuse": "refused", "warn": "decided"}[outcome]).inc()

    def request(self, path: str, code: int) -> None:
        if path not in PATHS:
            # A path that the caller made up must not become a time series.
            path = next((folder for folder in FOLDERS if path.startswith(f"{folder}/")), "other")
        child = self._cached.get((path, code))
        (child or self._requests.labels(path, str(code))).inc()

    def text(self) -> bytes:
        return generate_latest(self.registry)


class WalletGauges(Collector):
    """The wallet of the running period as gauges, read whenever the metrics are, by the process that answers /metrics.

    `read` is None's while the database doesn't answer: then `retain_state_available` alone is there, and says so.
    """

    def __init__(self, read: Callable[[], Wallet | None], currency: str) -> None:
        self._read = read
        self._currency = currency

    def collect(self) -> Iterator[Metric]:
        wallet = self._read()
        yield GaugeMetricFamily(
            "retain_state_available", "1: decisions can be put on record", float(wallet is not None)
        )
        if wallet is None:
            return
        for name, about, value in (
            ("budget", f"Offer budget of the period ({self._currency})", wallet.budget),
            ("committed", f"Contact costs, and what accepted offers still cost ({self._currency})", wallet.committed),
            ("held", f"What open offers are taken to cost at most ({self._currency})", wallet.held),
            ("worst_case", "1: open offers are held for in full", wallet.mode == "worst_case"),
        ):
            yield GaugeMetricFamily(f"retain_wallet_{name}", about, float(value))
