"""Whose learned arm a worker asks: that of the release that answers, or of another one that is tried."""

from __future__ import annotations

from retain.parts import Acceptance
from retain.release import Release
from serve.learned import LearnedArm
from serve.loading import Source, challenger, load_challenger
from serve.metrics import Metrics
from serve.settings import Settings


def learned_arm(settings: Settings, version: str, release: Release, metrics: Metrics) -> LearnedArm | None:
    """The one that the settings name, for the worker of that release; None if there is none. What CHALLENGER_PATH names
    is tried in the shadow alone."""
    if settings.challenger is not None:
        arm = LearnedArm(Source(settings.challenger, {}), version, release, metrics, settings.arm_memory)
        arm.release_version = challenger(settings.challenger).version
        return arm
    if release.policy is not None or "decision" in release.damaged:  # the process waits for whole files
        own = Source(settings.release, settings.parts)
        return LearnedArm(own, version, release, metrics, settings.arm_memory)
    return None


def challenger_arm(
    settings: Settings,
    version: str,
    release: Release,
    metrics: Metrics,
    wanted: str,
    accepted: tuple[Acceptance, ...] = (),
) -> LearnedArm:
    """The learned arm of the release that is `wanted`, by its version, for the worker of a release. `accepted`: its
    shadow_only parts that customers may be shown. Raises RetainError.

    It may be the worker's own release, or another one, which takes a thread (load_challenger() says why).
    """
    if wanted == version:
        own = Source(settings.release, settings.parts)
        return LearnedArm(own, version, release, metrics, settings.arm_memory, accepted=accepted)
    other = load_challenger(wanted, release)
    return LearnedArm(other.source, version, release, metrics, settings.arm_memory, challenger=other, accepted=accepted)
