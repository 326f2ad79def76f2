"""Releases that are proposed in tests, and figures of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from retain.parts import Acceptance, Missed, Part, Standing
from retain.rollout import SHADOW, Evidence, Plan, Rollout
from retain.signals import SIGNALS, Figure, Verdict

CHAMPION, GOOD, MISSED, NONE = "c" * 12, "a" * 12, "b" * 12, "d" * 12
DAY = 86_400.0
PLAN = Plan(percents=(5.0, 20.0), watch_s=DAY)
ANN: Mapping[str, Any] = {"by": "Ann", "reason": "the weekly release", "at": 1_000_000}


def part(standing: Standing, *missed: str, kind: str = "value", digest: str = "1" * 12) -> Part:
    each = tuple(Missed(criterion=criterion, kind=kind, verdict=criterion) for criterion in missed)
    return Part(standing=standing, digest=digest, artifact="2" * 12, missed=each)


LIFT = ("decision.lift_gain", "decision.lift_gain_low")
PARTS = {
    GOOD: {"decision": part("served"), "rlhf": part("shadow_only", "rm.auc", digest="3" * 12)},
    MISSED: {"decision": part("shadow_only", *LIFT), "rlhf": part("served")},
    NONE: {"decision": part("left_out", "decision.overspend", kind="safety"), "rlhf": part("served")},
}
ACCEPTED = Acceptance(part="decision", by="Ann", reason="a trial", criteria=LIFT, digest="1" * 12)


def figure(name: str, verdict: Verdict = "pass") -> Figure:
    return Figure(name=name, verdict=verdict, value=0.001, limit=0.01, samples=900, says=f"{name} was looked at")


def figures(names: Iterable[str], **other: Verdict) -> tuple[Figure, ...]:
    return tuple(figure(name, other.get(name, "pass")) for name in dict.fromkeys((*names, *other)))


def evidence(rollout: Rollout, *, watched_s: float = DAY, release: str | None = None, **other: Verdict) -> Evidence:
    assert rollout.challenger is not None
    of = rollout.challenger.release
    names = (*SHADOW, "value") if rollout.phase == "shadow" else SIGNALS
    return Evidence(rollout.generation, release or of, PARTS[of], figures(names, **other), watched_s)
