"""What people do with a rollout. Each command changes the one object in the store, and needs no controller that runs.

Every function returns what there is to say of it, or raises RolloutError where it is refused, Unanswered where somebody
who has to answer doesn't, and RetainError for anything else. Nothing is changed then.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import ValidationError

from deploy.calls import Unanswered, get_json
from deploy.candidate import VERSION, Candidate, named, of_version
from deploy.measured import MICROSECOND, VERSIONS, Measured, Prometheus, firing, measured
from deploy.plan import read_plan, time_scale
from deploy.settings import Settings
from engine.document import Document
from engine.releases import current_release, version_of
from engine.store import Store, open_store, store_url
from retain.parts import Acceptance, Part
from retain.rollout import (
    POLICY,
    Evidence,
    Phase,
    Rollout,
    RolloutError,
    accept,
    advance,
    check_promotable,
    describe,
    forgive,
    may_answer,
    promote,
    propose,
    release_latch,
    roll_back,
    rollout_key,
    set_percent,
)
from retain.signals import Figure, Verdict

SHADOW_SECONDS = 120.0  # for a look at all records, which may be many
WORST = ("pass", "hold", "fail")
FIGURE = ("name", "verdict", "value", "limit", "samples", "says")


def wall_clock() -> int:
    """Microseconds since 1970."""
    return time.time_ns() // 1000


@dataclass(frozen=True)
class Signature:
    """Who does something, and why."""

    by: str
    reason: str


@dataclass(frozen=True)
class Desk:
    """Where people work: a store with the rollout of one experiment, and whom they may ask. `say` is told what takes a
    while."""

    settings: Settings
    store: Store
    say: Callable[[str], None]
    clock: Callable[[], int] = wall_clock

    @property
    def rollout(self) -> Document[Rollout]:
        return Document(self.store, rollout_key(self.settings.experiment), Rollout)

    @property
    def prometheus(self) -> Prometheus:
        return Prometheus(self.settings.prometheus, seconds=10.0)

    def change(self, transition: Callable[[Rollout], Rollout]) -> Rollout:
        """Of the rollout that is there."""

        def changed(rollout: Rollout | None) -> Rollout:
            if rollout is None:
                raise RolloutError(f"nothing was ever proposed in {self.settings.experiment}")
            return transition(rollout)

        return self.rollout.change(changed)


def desk(settings: Settings, say: Callable[[str], None]) -> Desk:
    """Of RETAIN_STORE. Raises RetainError."""
    return Desk(settings, open_store(store_url()), say)


# -- forward -------------------------------------------------------------------------------------------------------


def propose_release(
    desk: Desk,
    release: str,
    who: Signature,
    champion: str | None = None,
    *,
    in_place_of: str | None = None,
    looked_at: Rollout | None = None,
) -> list[str]:
    """Puts a release's learned policy into the shadow of the champion, which is the one of before, or at first the
    current release, unless another is named. Both are versions or folders, as is the challenger that leaves without
    blame, `in_place_of` which it comes. Where it follows from a rollout that was `looked_at`, it is refused if that has
    changed meanwhile."""
    candidate = named(release, desk.settings.experiment)
    part = candidate.parts[POLICY]
    if part.standing == "left_out":
        missed = ", ".join(missed.criterion for missed in part.missed)
        raise RolloutError(f"release {candidate.version} has no learned policy to try, since it missed {missed}")
    answers = None if champion is None else named(champion, desk.settings.experiment).version
    leaves = None if in_place_of is None else _version(desk, in_place_of)

    def proposed(before: Rollout | None) -> Rollout:
        if looked_at is not None and before != looked_at:
            now = "gone" if before is None else describe(before)
            raise RolloutError(f"the rollout has changed meanwhile, it is now {now}: look again")
        of_before = None if before is None else before.champion.release
        stays = answers or of_before or version_of(current_release(desk.settings.named))
        at = desk.clock()
        return propose(before, stays, candidate.version, by=who.by, reason=who.reason, at=at, in_place_of=leaves)

    rollout = desk.rollout.change(proposed)
    return [
        _now(rollout),
        *_others_answer(desk, rollout),
        *_to_accept(candidate),
        "Once GET /shadow says that its figures pass: advance --to canary.",
    ]


def accept_part(desk: Desk, part: str, criteria: Sequence[str], digest: str, who: Signature) -> list[str]:
    """Lets customers be shown a part of the challenger that missed criteria of value."""
    acceptance = acceptance_of(part, criteria, digest, who)
    candidate = _challenger(desk, desk.rollout.read())
    rollout = desk.change(lambda rollout: accept(rollout, acceptance, candidate.parts, at=desk.clock()))
    return [f"{part} may be shown to customers, though it missed {', '.join(criteria)}.", _now(rollout)]


def advance_to(
    desk: Desk, to: Phase, who: Signature, *, accepted: Acceptance | None = None, holds: Sequence[str] = ()
) -> list[str]:
    """One step forward, by what the services' shadow has shown, or what Prometheus has measured."""
    rollout = desk.rollout.read()
    candidate = _challenger(desk, rollout)
    assert rollout is not None
    plan = read_plan(time_scale(desk.store))
    evidence = _evidence(desk, rollout, candidate)
    if names := firing(desk.prometheus, candidate.version):
        raise RolloutError(f"{', '.join(names)}: would roll it back and fires now, wait until that is over")

    def forward(current: Rollout) -> Rollout:
        basis = evidence
        if accepted is not None and current.generation == evidence.generation:
            current = accept(current, accepted, candidate.parts, at=desk.clock())
            basis = evidence._replace(generation=current.generation)  # nothing but that has changed
        at = desk.clock()
        return advance(current, to, basis, plan, by=who.by, reason=who.reason, at=at, accept_holds=holds)

    after = desk.change(forward)
    served = f"It is served only while the controller at {desk.settings.controller} runs and renews its lease."
    return [*map(_line, evidence.figures), _now(after), served]


def promote_challenger(desk: Desk, release: str, who: Signature) -> list[str]:
    """Makes the challenger that decides about everybody the champion. It is named, by its version or its folder, so
    that nobody promotes another than is meant."""
    version = _version(desk, release)
    rollout = desk.rollout.read()
    candidate = _challenger(desk, rollout)
    assert rollout is not None
    check_promotable(rollout, version)
    if rollout.champion.release == version:
        return [f"{version} is the champion already.", _now(rollout)]
    plan = read_plan(time_scale(desk.store))
    evidence = _evidence(desk, rollout, candidate)
    if names := firing(desk.prometheus, version):
        raise RolloutError(f"{', '.join(names)}: would roll it back and fires now, wait until that is over")

    def promoted(current: Rollout) -> Rollout:
        return promote(current, version, evidence, plan, by=who.by, reason=who.reason, at=desk.clock())

    after = desk.change(promoted)
    return [
        *map(_line, evidence.figures),
        _now(after),
        f"Start the services again, so that {version} answers in place of {after.predecessor}; until then its learned "
        f"policy goes on deciding all the same. A rollback makes {after.predecessor} the champion again.",
    ]


def acceptance_of(part: str, criteria: Sequence[str], digest: str, who: Signature) -> Acceptance:
    """Raises RolloutError for what can't be one."""
    try:
        return Acceptance(part=part, by=who.by, reason=who.reason, criteria=tuple(criteria), digest=digest)
    except ValidationError as error:
        raise RolloutError(f"{error.errors()[0]['loc'][0]}: {error.errors()[0]['msg']}") from None


# -- back ----------------------------------------------------------------------------------------------------------


def roll_back_now(desk: Desk, who: Signature) -> list[str]:
    """Without the challenger, at once; asks nobody."""
    before = desk.rollout.read()
    rollout = desk.change(lambda rollout: roll_back(rollout, by=who.by, why=who.reason, at=desk.clock()))
    if before is not None and before.generation == rollout.generation:
        return [f"There is no challenger to roll back: {describe(rollout)}."]
    return [
        _now(rollout),
        "Before another release is proposed a person has to release the latch; before this one is, to forgive it.",
    ]


def set_percent_to(desk: Desk, percent: float, who: Signature) -> list[str]:
    """Fewer customers, at once; asks nobody."""
    return [
        _now(
            desk.change(
                lambda rollout: set_percent(rollout, percent, by=who.by, reason=who.reason, at=desk.clock()),
            )
        )
    ]


def release_the_latch(desk: Desk, who: Signature) -> list[str]:
    """Lets another release be proposed again."""
    return [_now(desk.change(lambda rollout: release_latch(rollout, by=who.by, reason=who.reason, at=desk.clock())))]


def forgive_release(desk: Desk, release: str, who: Signature) -> list[str]:
    """Lets a release out of quarantine; it need not be in the store any more."""
    version = _version(desk, release)
    rollout = desk.change(lambda rollout: forgive(rollout, version, by=who.by, reason=who.reason, at=desk.clock()))
    return [f"{version} is out of quarantine.", _now(rollout)]


# -- what they go by -----------------------------------------------------------------------------------------------


def _evidence(desk: Desk, rollout: Rollout, candidate: Candidate) -> Evidence:
    if rollout.phase == "shadow":
        figures = shadow_figures(desk, candidate.version)
        return Evidence(rollout.generation, candidate.version, candidate.parts, figures, 0.0)
    seen: Measured = measured(desk.prometheus, rollout, candidate.limits, desk.clock())
    return Evidence(rollout.generation, candidate.version, candidate.parts, *seen)


def shadow_figures(desk: Desk, version: str) -> tuple[Figure, ...]:
    """What the shadow has shown by the records of every replica: of each figure the worst. Raises Unanswered,
    RolloutError."""
    worst: dict[str, Figure] = {}
    for replica in desk.settings.replicas:
        desk.say(f"Asking {replica} what the shadow has shown ...")
        answer = get_json(
            f"{replica}/shadow", seconds=SHADOW_SECONDS, who="the service", token=desk.settings.admin_token
        )
        learned, figures = _shadow(answer, replica)
        if learned != version:
            raise RolloutError(f"{replica} has {learned or 'nothing'} in its shadow, not {version}")
        for figure in figures:
            before = worst.get(figure.name)
            if before is None or WORST.index(figure.verdict) > WORST.index(before.verdict):
                worst[figure.name] = figure
    return tuple(worst.values())


def _shadow(answer: Any, replica: str) -> tuple[str | None, list[Figure]]:
    try:
        figures = [Figure.model_validate({name: each[name] for name in FIGURE}) for each in answer["figures"]]
        if not all(figure.verdict in get_args(Verdict) for figure in figures):
            raise ValueError
        return answer["learned"], figures
    except (KeyError, TypeError, ValueError, AttributeError):
        raise Unanswered(f"the service at {replica} answers GET /shadow with no figures") from None


def _version(desk: Desk, release: str) -> str:
    """Of a release that need not be in the store if its version is given."""
    return release if VERSION.fullmatch(release) else named(release, desk.settings.experiment).version


def _challenger(desk: Desk, rollout: Rollout | None) -> Candidate:
    if rollout is None or rollout.challenger is None:
        raise RolloutError("there is no challenger: propose a release first")
    return of_version(rollout.challenger.release, desk.settings.experiment)


# -- words ---------------------------------------------------------------------------------------------------------


def _now(rollout: Rollout) -> str:
    ago = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(rollout.history[-1].at / MICROSECOND))
    return f"Now: {describe(rollout)} (generation {rollout.generation}, {ago})."


def _line(figure: Figure) -> str:
    return f"  {figure.name}: {figure.verdict}, {figure.says}"


def _to_accept(candidate: Candidate) -> list[str]:
    """What a person has to accept before customers are shown a part, and how."""
    return [
        f"{name} is shadow_only. To let customers be shown it: accept {name} --criteria {_missed(part)} "
        f"--digest {part.digest} --by NAME --reason TEXT"
        for name, part in candidate.parts.items()
        if part.standing == "shadow_only"
    ]


def _missed(part: Part) -> str:
    return ",".join(missed.criterion for missed in part.missed)


def _others_answer(desk: Desk, rollout: Rollout) -> list[str]:
    """A warning if the services answer from another release than the champion."""
    try:
        versions = {sample.labels.get("release", "") for sample in desk.prometheus.samples(VERSIONS)}
    except Unanswered:
        return []  # a lease will be missing, which `status` says
    others = sorted(versions - may_answer(rollout))
    if not others:
        return []
    return [
        f"Warning: the services answer from {', '.join(others)}, and the champion is {rollout.champion.release}. Until "
        "they answer from that one no customer meets the challenger: start them again."
    ]
