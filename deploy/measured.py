"""What Prometheus has measured: its client, and every question that is asked of it.

A question to which there is no answer, since nothing was counted, has NaN for one. Counters are told from when the
challenger was first served at this percent; that, too, Prometheus knows, so it outlasts restarts of everything else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlencode

from deploy.calls import Unanswered, get_json
from retain.monitoring import Monitoring
from retain.rollout import Rollout
from retain.signals import Counts, Figure, verdicts

SCRAPE_SECONDS = 5  # between two samples of a series
GONE_SECONDS = 15  # without a sample, after which a series tells nothing any more
# How far back is looked at most. Prometheus keeps 15 days, unless it is told otherwise.
MAX_WINDOW = 30 * 86_400
MAX_STEPS = 20_000  # at which a window is looked at
MICROSECOND = 1_000_000

# The last sample of each replica that answered when it was asked last.
REPLICAS = 'timestamp(up{job="retain"}) and on (instance) up{job="retain"} == 1'
FIRING = 'ALERTS{alertstate="firing",rollback="challenger"}'
VERSIONS = "count by (release) (retain_release_info == 1)"
PERCENT = "max by (instance, release, generation) (retain_rollout_percent)"
LEASE = "min by (instance) (retain_lease_fresh)"


class Sample(NamedTuple):
    labels: Mapping[str, str]
    value: float


class Measured(NamedTuple):
    """Of the challenger of a rollout: its four signals, and for how many seconds it was watched at this percent."""

    figures: tuple[Figure, ...]
    watched_s: float


@dataclass(frozen=True)
class Prometheus:
    """`seconds`: how long an answer may take."""

    url: str
    seconds: float = 2.0

    def samples(self, query: str) -> list[Sample]:
        """What an instant query yields. Raises Unanswered."""
        asked = urlencode({"query": query, "timeout": f"{self.seconds:g}s"})
        answer = get_json(f"{self.url}/api/v1/query?{asked}", seconds=self.seconds, who="Prometheus")
        try:
            return [_sample(each) for each in answer["data"]["result"]]
        except (KeyError, TypeError, ValueError, IndexError, AttributeError):
            raise Unanswered(f"Prometheus at {self.url} answers with no vector") from None

    def value(self, query: str) -> float:
        """Of a query that yields one sample at most; NaN if it yields none. Raises Unanswered."""
        samples = self.samples(query)
        if len(samples) > 1:
            raise Unanswered(f"Prometheus at {self.url} has several answers to {query}")
        return samples[0].value if samples else math.nan


def _sample(result: Any) -> Sample:
    labels = {str(name): str(value) for name, value in result["metric"].items()}
    return Sample(labels, float(result["value"][1]))


def measured(prometheus: Prometheus, rollout: Rollout, limits: Monitoring, now: int) -> Measured:
    """`now` is in microseconds since 1970, and says how far back has to be looked. Raises Unanswered."""
    since = prometheus.value(served_since(rollout, now))
    watched = prometheus.value(watched_seconds(rollout, now))
    counted = {}
    for name, query in count_queries(rollout, limits, since).items():
        counted[name] = prometheus.value(query)
    counted["slow"] = counted["timed"] - counted.pop("in_time")
    return Measured(verdicts(Counts(**counted), limits), 0.0 if math.isnan(watched) else watched)


def firing(prometheus: Prometheus, release: str) -> list[str]:
    """Names of the alerts that would roll this challenger back, and fire now. Raises Unanswered."""
    return sorted(
        {
            sample.labels.get("alertname", "an alert")
            for sample in prometheus.samples(FIRING)
            if sample.labels.get("release", release) == release
        }
    )


def served_since(rollout: Rollout, now: int) -> str:
    """How many seconds ago it was first served at this percent."""
    window, step = _window(rollout, now)
    return f"time() - min_over_time(timestamp({_served(rollout)})[{window}s:{step}s])"


def watched_seconds(rollout: Rollout, now: int) -> str:
    window, step = _window(rollout, now)
    return f"{step} * count_over_time(({_served(rollout)})[{window}s:{step}s])"


def count_queries(rollout: Rollout, limits: Monitoring, since: float) -> dict[str, str]:
    """Of each of Counts, but that of `slow` it is told by those `in_time`. `since`: seconds, NaN if it never was."""
    assert rollout.challenger is not None
    release = rollout.challenger.release
    seconds = SCRAPE_SECONDS if math.isnan(since) else max(SCRAPE_SECONDS, math.ceil(since))
    arm = f'arm="learned",release="{release}"'

    def counted(metric: str, labels: str = arm) -> str:
        return f"sum(increase({metric}{{{labels}}}[{seconds}s]))"

    def gauge(combine: str, metric: str, arm: str) -> str:
        # Replicas that share a database tell the same.
        return f'{combine}({metric}{{arm="{arm}",release="{release}"}})'

    return {
        "decisions": counted("retain_arm_decisions_total"),
        "errors": counted("retain_arm_errors_total"),
        "timed": counted("retain_arm_seconds_count"),
        "in_time": counted("retain_arm_seconds_bucket", f'{arm},le="{limits.latency_p95.limit_ms / 1000}"'),
        "messages": counted("retain_arm_messages_total"),
        "unsafe": counted("retain_arm_unsafe_total"),
        "matured": gauge("min", "retain_nrr_matured", "learned"),
        "nrr": gauge("avg", "retain_nrr_proxy", "learned"),
        "baseline_matured": gauge("min", "retain_nrr_matured", "baseline"),
        "baseline_nrr": gauge("avg", "retain_nrr_proxy", "baseline"),
    }


def _served(rollout: Rollout) -> str:
    """What yields a sample while some replica serves the challenger of this generation at its percent."""
    assert rollout.challenger is not None
    labels = f'release="{rollout.challenger.release}",generation="{rollout.generation}"'
    return f"max(last_over_time(retain_rollout_percent{{{labels}}}[{GONE_SECONDS}s])) == {rollout.percent:g}"


def _window(rollout: Rollout, now: int) -> tuple[int, int]:
    """How far back this generation may reach, with a minute for clocks that differ, and the step; in seconds."""
    age = (now - rollout.history[-1].at) // MICROSECOND
    window = min(max(age, 0) + 60, MAX_WINDOW)
    return window, max(SCRAPE_SECONDS, math.ceil(window / MAX_STEPS))
