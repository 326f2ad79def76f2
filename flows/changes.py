"""What a retrain began with, what has changed since the release before, and what came of it.

The first of these is kept in the store, by the flow run's id: a run that is killed and comes back would otherwise find
its own artifacts, and say that nothing had changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from engine.artifact import ArtifactStore, canonical
from engine.errors import RetainError
from engine.releases import RELEASE
from engine.store import Store
from flows.budget import check_affordable
from flows.plan import Plan, why
from retain.frozen import Frozen

FOLDER = "retrains"
WAITS = "waits for "  # how why() begins what is only a consequence
WORDS = {"source": "data", "inputs": "input"}  # what a person calls a part of a fingerprint, where that is another word


class Begun(Frozen):
    """When the run was started first: the version of the `release` that was current, and what had `changed`, so that it
    has to be trained again, a line each."""

    release: str | None
    changed: tuple[str, ...]


def begin(plan: Plan, owner: str, around_s: float = 0.0) -> Begun:
    """What the run began with: now, or when it was started first, which is known of one that has an `owner`.

    Raises BudgetExceeded where the budget is too small for one of its stages alone; `around_s` as check_affordable().
    """
    if owner and (before := _read(plan.store, owner)) is not None:
        return before
    check_affordable(plan, around_s)
    begun = Begun(release=current_version(plan.artifacts), changed=tuple(changes(why(plan))))
    if owner:
        plan.store.write(_key(owner), canonical(begun.model_dump(mode="json")))
    return begun


def changes(causes: Mapping[str, Sequence[str]]) -> list[str]:
    """What why() says, as far as it is no consequence of something else: each cause once, with its stages."""
    stages: dict[str, list[str]] = {}
    for stage, lines in causes.items():
        for line in lines:
            if not line.startswith(WAITS):
                stages.setdefault(line, []).append(stage)
    return [_cause(line, names) for line, names in stages.items()]


def outcome(begun: Begun, version: str) -> str:
    """In a line: whether the release `version`, which is current now, is a new one, and what has changed."""
    changed = "; ".join(begun.changed)
    if version == begun.release:
        if not changed:
            return f"nothing changed: no new release, {version} stays the current one"
        return f"no new release, {version} stays the current one: all came out with the same bytes. Changed: {changed}"
    if not changed:
        return f"no new release: data and code are again those of {version}, which is the current one now"
    before = "the first" if begun.release is None else f"after {begun.release}"
    return f"release {version} is new, {before}. Changed: {changed}"


def current_version(artifacts: ArtifactStore) -> str | None:
    """Of the release that is current; None where there is none."""
    fingerprint = artifacts.current().get(RELEASE)
    manifest = artifacts.manifest(RELEASE, fingerprint) if fingerprint else None
    return manifest.version if manifest else None


def _read(store: Store, owner: str) -> Begun | None:
    stored = store.read(_key(owner))
    try:
        return Begun.model_validate_json(stored[0]) if stored else None
    except ValueError:
        raise RetainError(f"{store.url}/{_key(owner)}: doesn't say what a retrain began with; remove it") from None


def _cause(line: str, stages: Sequence[str]) -> str:
    part, colon, what = line.partition(": ")
    names = ", ".join(stages)
    return f"{WORDS.get(part, part)} of {names} ({what})" if colon else f"{names} {line}"


def _key(owner: str) -> str:
    return f"{FOLDER}/{owner}.json"
