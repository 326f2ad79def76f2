"""What is counted of the two arms by release, so that a challenger is judged by its own figures alone, and before any
guard that keeps customers from noticing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from retain.decision import Arm
from retain.monitoring import SECONDS_BOUNDS
from serve.standing import Standing

# Why the process of the learned arm has given no answer (learned.py).
ArmFailure = Literal[
    "error",
    "not_finite",
    "unsafe_message",
    "malformed",
    "out_of_memory",
    "deadline",
    "died",
    "circuit_open",
    "not_running",
    "overloaded",
]
ARM_FAILURES: tuple[ArmFailure, ...] = get_args(ArmFailure)


@dataclass(frozen=True)
class ArmCounts:
    """What is counted of one arm of one release, about its own customers whom it may contact. `errors`: decisions that
    it failed; `messages` and `unsafe`: what it chose to say, and what of that may not be sent, before any guard.
    `seconds` are those of the learned arm's process."""

    seconds: Histogram | None
    decisions: Counter
    errors: Counter
    messages: Counter
    unsafe: Counter


@dataclass(frozen=True)
class ShadowCounts:
    """As ArmCounts, where nobody meets the arm."""

    questions: Counter
    failures: Mapping[ArmFailure, Counter]
    messages: Counter
    unsafe: Counter


class TrialMetrics:
    """Of each release that was tried since the process began."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, about: str, *labels: str) -> Counter:
            return Counter(f"retain_{name}", about, labels, registry=registry)

        unsafe = "Of those, the ones that break a rule, or would have been sent though nobody approved them"
        arm = "arm", "release"
        self._decisions = counter(
            "arm_decisions", "Decisions about an arm's customers, by draw, where no rule forbids a contact", *arm
        )
        self._errors = counter("arm_errors", "Of those, the ones that the arm failed: another decided, or nobody", *arm)
        self._messages = counter("arm_messages", "Messages that an arm chose for its customers, before any guard", *arm)
        self._unsafe = counter("arm_unsafe", unsafe, *arm)
        self._seconds = Histogram(
            "retain_arm_seconds",
            "Seconds until the learned arm answered about a customer of its own, also when it was too late",
            arm,
            buckets=SECONDS_BOUNDS,
            registry=registry,
        )
        self._questions = counter("shadow_questions", "Questions to the learned arm in its shadow", "release")
        self._failures = counter(
            "shadow_failures", "Of those, the ones that it did not answer, by kind", "release", "kind"
        )
        self._chosen = counter("shadow_messages", "Messages that the learned arm chose in its shadow", "release")
        self._broken = counter("shadow_unsafe", unsafe, "release")
        self._arms: dict[tuple[Arm, str], ArmCounts] = {}
        self._shadows: dict[str, ShadowCounts] = {}

    def of(self, arm: Arm, release: str) -> ArmCounts:
        if (known := self._arms.get((arm, release))) is None:
            counters = (self._decisions, self._errors, self._messages, self._unsafe)
            children = [counter.labels(arm, release) for counter in counters]
            seconds = self._seconds.labels(arm, release) if arm == "learned" else None
            known = self._arms[arm, release] = ArmCounts(seconds, *children)
        return known

    def in_shadow(self, release: str) -> ShadowCounts:
        if (known := self._shadows.get(release)) is None:
            failures = {kind: self._failures.labels(release, kind) for kind in ARM_FAILURES}
            known = self._shadows[release] = ShadowCounts(
                self._questions.labels(release), failures, self._chosen.labels(release), self._broken.labels(release)
            )
        return known


class RolloutGauges:
    """Where the rollout stands for one worker. Made by workers alone: another process would tell of a rollout that it
    doesn't follow."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ["release", "generation"]
        self._percent = Gauge(
            "retain_rollout_percent", "% of customers that the challenger decides about, really", labels,
            registry=registry, multiprocess_mode="livemax",
        )  # fmt: skip
        self._wanted = Gauge(
            "retain_rollout_wanted_percent", "% of customers that it should decide about, by the rollout", labels,
            registry=registry, multiprocess_mode="livemax",
        )  # fmt: skip
        self._problem = Gauge(
            "retain_rollout_problem", "1: the rollout can't be followed, and the baseline decides", registry=registry,
            multiprocess_mode="livemax",
        )  # fmt: skip
        self._fresh = Gauge(
            "retain_lease_fresh", "1: somebody who watches the alerts renews the lease of the rollout",
            registry=registry, multiprocess_mode="livemin",
        )  # fmt: skip
        self._last: tuple[str, str] | None = None

    def stand(self, standing: Standing, percent: float, fresh: bool) -> None:
        """`percent` of customers are the challenger's now; `fresh`: so is the lease."""
        rollout = standing.rollout
        now = None
        if rollout is not None and rollout.challenger is not None:
            now = rollout.challenger.release, str(rollout.generation)
        if self._last is not None and self._last != now:
            for gauge in (self._percent, self._wanted):
                gauge.labels(*self._last).set(0)
        self._last = now
        if now is not None and rollout is not None:
            self._percent.labels(*now).set(percent)
            self._wanted.labels(*now).set(rollout.percent)
        self._problem.set(standing.problem is not None)
        self._fresh.set(rollout is not None and fresh)
