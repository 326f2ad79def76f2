"""A rollout: which release's learned policy is tried, on how many customers, and everything that was done about it.

    baseline -> shadow -> canary (a few percent, then more) -> full

The *champion* is the release that answers, by its baseline. The *challenger* is the learned policy of a release, the
same one or another. Forward takes a person, one step at a time, with figures that pass. The last step is promote(): the
release whose policy decides about everybody becomes the one that answers, and nobody is decided about by another policy
than before. Back takes nothing: roll_back() removes the challenger from whatever phase, and can be repeated. If it had
been promoted, the champion of before is the champion again. After it the rollout is latched and the release
quarantined, which a person has to lift, each alone.

A rollout is one small JSON object, which is replaced as a whole. Every function here is pure: it returns another
rollout, of the next generation and with one event more, or raises RolloutError. An object that says of itself what
can't be, such as a challenger in quarantine, is no Rollout. Times are microseconds since 1970, for people to read;
nothing goes by their order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import Field, ValidationError, model_validator

from retain.frozen import Frozen
from retain.parts import Acceptance, Digest, Part, Words, shown, standing_of
from retain.signals import NRR, SIGNALS, Figure

Mode = Literal["baseline", "learned"]
Phase = Literal["baseline", "shadow", "canary", "full"]
Action = Literal["propose", "accept", "advance", "promote", "set_percent", "roll_back", "release_latch", "forgive"]

DEFAULT_PERCENT = 5.0
MAX_WORDS = 500  # characters of a reason
POLICY = "decision"  # the part without which there is nothing to try
# Figures of retain.shadow that have to pass before customers meet a challenger, and the one that may stay unknown.
SHADOW = ("latency_p95", "unsafe", "answers_missed", "unavailable")
VALUE = "value"
ACCEPTABLE_HOLDS = frozenset({NRR})  # a person may go on without; the others only want more traffic


class RolloutError(ValueError):
    """Why a rollout is not changed so, in one line."""


class Arm(Frozen):
    """Who decides: a release, by its version, and whether its baseline or its learned policy."""

    release: Digest
    mode: Mode


class Quarantine(Frozen):
    """A release that was rolled back: when, by whom, why."""

    release: Digest
    why: Words
    at: int
    by: Words


class Event(Frozen):
    """One change. `release`: of the challenger, or the one that was forgiven. `before` and `after` describe() the
    rollout. `acceptance` and `holds`: what a person let pass by this change."""

    at: int
    by: Words
    action: Action
    release: Digest | None
    before: str
    after: str
    reason: Words
    figures: tuple[Figure, ...] = ()
    acceptance: Acceptance | None = None
    holds: tuple[str, ...] = ()


class Rollout(Frozen):
    """`percent` of customers are the challenger's. `accepted`: its shadow_only parts that customers may be shown.
    `accepted_holds`: signals that were not to be told when it went to everybody. `predecessor`: the champion of before
    the challenger was promoted, from which a service may answer until it is started again, and which a rollback makes
    the champion again. `generation` counts the changes."""

    champion: Arm
    challenger: Arm | None
    phase: Phase
    percent: Annotated[float, Field(ge=0, le=100)]
    generation: Annotated[int, Field(ge=1)]
    latched: bool
    quarantined: tuple[Quarantine, ...]
    accepted: tuple[Acceptance, ...]
    accepted_holds: tuple[str, ...]
    history: tuple[Event, ...]
    predecessor: Digest | None = None  # which rollouts from before there were promotions don't state

    @model_validator(mode="after")
    def _consistent(self) -> Rollout:
        if self.champion.mode != "baseline":
            raise ValueError("the champion decides by its baseline")
        if self.generation != len(self.history):
            raise ValueError(f"generation {self.generation}, but {len(self.history)} changes are on record")
        if self.challenger is None:
            if self.phase != "baseline" or self.percent or self.accepted or self.accepted_holds:
                raise ValueError("something is served or accepted, but there is no challenger")
            if self.predecessor is not None:
                raise ValueError("another release than the champion may answer, but there is no challenger")
            return self
        if self.predecessor is not None and self.challenger.release != self.champion.release:
            raise ValueError("another release than the champion may answer, but the challenger is not the champion's")
        if self.phase != _phase_at(self.percent):
            raise ValueError(f"{self.phase} and {self.percent:g} % don't go together")
        if self.challenger.mode != "learned" or self.latched:
            raise ValueError("a challenger is a learned policy, and there is none while the rollout is latched")
        if _quarantine(self, self.challenger.release) is not None:
            raise ValueError("the challenger's release is in quarantine")
        return self


class Plan(Frozen):
    """`percents` of the canary, rising; everybody comes after the last. Each is watched for `watch_s` seconds."""

    percents: Annotated[tuple[Annotated[float, Field(gt=0, lt=100)], ...], Field(min_length=1)] = (DEFAULT_PERCENT,)
    watch_s: Annotated[float, Field(ge=0)] = 86_400.0

    @model_validator(mode="after")
    def _rising(self) -> Plan:
        if list(self.percents) != sorted(set(self.percents)):
            raise ValueError("the percents of a canary have to rise")
        return self


class Evidence(NamedTuple):
    """What somebody goes by who wants to advance: the rollout of which `generation` was looked at, of which `release`
    the `figures` are and what `parts` it has, and for how many seconds its challenger was watched at this percent, by
    elapsed time."""

    generation: int
    release: str
    parts: Mapping[str, Part]
    figures: tuple[Figure, ...]
    watched_s: float


class Served(NamedTuple):
    """`arm` decides about `percent` of customers, the baseline about the others; `shadow` is computed for those. The
    arm's parts that are shadow_only may be shown as `accepted` says."""

    arm: Arm | None
    percent: float
    shadow: Arm | None
    accepted: tuple[Acceptance, ...]


# Without a challenger; also where a rollout is there but damaged, or can't be read.
BASELINE_ONLY: Final = Served(None, 0.0, None, ())

# What the first proposal changes.
_NEW: Final[Mapping[str, Any]] = {
    "challenger": None,
    "generation": 0,
    "latched": False,
    "quarantined": (),
    "accepted": (),
    "accepted_holds": (),
    "predecessor": None,
    "history": (),
}


def rollout_key(experiment: str) -> str:
    """Where an experiment's rollout lies in the store."""
    return f"rollout/{experiment}/rollout.json"


def lease_key(experiment: str) -> str:
    """Where its lease lies (retain/lease.py)."""
    return f"rollout/{experiment}/lease.json"


def effective(rollout: Rollout, lease_fresh: bool, force_baseline: bool, canary_percent: float | None) -> Served:
    """What a service does whose settings are these; `canary_percent`: None where it isn't set. One that has no rollout
    goes by its settings alone; of one that is damaged or can't be read BASELINE_ONLY holds."""
    if rollout.challenger is None:
        return BASELINE_ONLY
    percent = rollout.percent if canary_percent is None else min(canary_percent, rollout.percent)
    if force_baseline or not lease_fresh:
        percent = 0.0
    return Served(rollout.challenger if percent else None, percent, rollout.challenger, rollout.accepted)


def continues(before: Rollout, after: Rollout) -> bool:
    """Whether changes have led from `before` to `after`, or none was made. Not to an older copy that was put back, to
    what became of that, or to a rollout that was begun anew: each of them has forgotten what was done meanwhile."""
    return after.generation >= before.generation and after.history[before.generation - 1] == before.history[-1]


def may_answer(rollout: Rollout) -> frozenset[str]:
    """Releases from which a service may answer that serves the challenger."""
    return frozenset({rollout.champion.release, rollout.predecessor or rollout.champion.release})


def describe(rollout: Rollout) -> str:
    """In a few words, for people."""
    if rollout.challenger is None:
        return f"{'latched, ' if rollout.latched else ''}baseline of {rollout.champion.release} for everybody"
    release = rollout.challenger.release
    if rollout.phase == "shadow":
        return f"{release} in the shadow of {rollout.champion.release}"
    if rollout.phase == "full" and release == rollout.champion.release:
        return f"{release}, which is the champion, for {rollout.percent:g} % of customers"
    return f"{release} for {rollout.percent:g} % of customers"


def propose(
    rollout: Rollout | None,
    champion: str,
    release: str,
    *,
    by: str,
    reason: str,
    at: int,
    in_place_of: str | None = None,
) -> Rollout:
    """Puts the learned policy of `release` into the shadow of the `champion` that answers now; both are versions.

    The challenger `in_place_of` which it comes leaves without blame; from then on the baseline decides about its
    customers.
    """
    there = None if rollout is None or rollout.challenger is None else rollout.challenger.release
    if in_place_of != there:
        if there is None:
            raise RolloutError(f"{in_place_of} is not the challenger, there is none in whose place another could come")
        if there == release:
            raise RolloutError(f"{release} is the challenger already")
        raise RolloutError(
            f"{there} is the challenger: roll it back before another comes, or propose that one in place of {there}"
        )
    if there == release:
        raise RolloutError(f"{release} is the challenger already")
    if rollout is not None:
        if rollout.latched:
            last = rollout.quarantined[-1:]
            why = f": {last[0].release} was rolled back by {last[0].by}, {last[0].why}" if last else ""
            raise RolloutError(f"the rollout is latched{why}. A person has to release the latch")
        if (barred := _quarantine(rollout, release)) is not None:
            why = f"since {barred.by} rolled it back: {barred.why}"
            raise RolloutError(f"{release} is in quarantine, {why}. A person has to forgive it")
    return _changed(
        rollout,
        "propose",
        by,
        reason,
        at,
        release=release,
        champion=_arm(champion, "baseline"),
        challenger=_arm(release, "learned"),
        phase="shadow",
        percent=0.0,
        accepted=(),
        accepted_holds=(),
        predecessor=None,
    )


def accept(rollout: Rollout, acceptance: Acceptance, parts: Mapping[str, Part], *, at: int) -> Rollout:
    """Lets customers be shown a part of the challenger that missed criteria of value; `parts` are its release's."""
    if rollout.challenger is None:
        raise RolloutError("there is no challenger of which a part could be accepted")
    name, part = acceptance.part, parts.get(acceptance.part)
    if part is None:
        raise RolloutError(f"{name} is no part of the release, which has {', '.join(parts)}")
    if part.standing == "served":
        raise RolloutError(f"{name} met its criteria: there is nothing to accept")
    if part.standing == "left_out" or standing_of(missed.kind for missed in part.missed) != "shadow_only":
        missed = ", ".join(missed.criterion for missed in part.missed)
        raise RolloutError(f"{name} missed {missed}: what it must never do can't be accepted")
    if acceptance.digest != part.digest:
        raise RolloutError(f"{name} has the digest {part.digest}, not {acceptance.digest}: look at this one first")
    wanted = {missed.criterion for missed in part.missed}
    if set(acceptance.criteria) != wanted:
        raise RolloutError(f"{name} missed {', '.join(sorted(wanted))}: accept these, all of them and no others")
    others = tuple(each for each in rollout.accepted if each.part != name)
    return _changed(
        rollout,
        "accept",
        acceptance.by,
        acceptance.reason,
        at,
        acceptance=acceptance,
        accepted=(*others, acceptance),
    )


def advance(
    rollout: Rollout,
    to: Phase,
    evidence: Evidence,
    plan: Plan,
    *,
    by: str,
    reason: str,
    at: int,
    accept_holds: Iterable[str] = (),
) -> Rollout:
    """One step forward: from the shadow into the canary, from there to its next percent, from its last to everybody.

    `accept_holds`: signals, of those that may, without which a person goes to everybody.
    """
    _check_evidence(rollout, evidence)
    percent = _next_percent(rollout, to, plan)
    if POLICY not in shown(evidence.parts, rollout.accepted):
        raise RolloutError(_not_shown(evidence.parts))
    if rollout.phase != "shadow":
        _check_watched(rollout, evidence, plan)
    holds = _holds(to, accept_holds)
    _check(evidence.figures, rollout.phase, holds if to == "full" else ACCEPTABLE_HOLDS)
    return _changed(
        rollout,
        "advance",
        by,
        reason,
        at,
        figures=evidence.figures,
        holds=holds,
        phase=_phase_at(percent),
        percent=percent,
        accepted_holds=holds,
    )


def check_promotable(rollout: Rollout, release: str) -> None:
    """Raises RolloutError unless this version is the challenger, and decides about everybody."""
    if rollout.challenger is None:
        raise RolloutError(f"there is no challenger ({describe(rollout)}): propose a release first")
    if rollout.challenger.release != release:
        raise RolloutError(f"{release} is not the challenger, that is {rollout.challenger.release}")
    if rollout.phase != "full":
        raise RolloutError(f"only who decides about everybody becomes the champion, and now it is {describe(rollout)}")


def promote(
    rollout: Rollout, release: str, evidence: Evidence, plan: Plan, *, by: str, reason: str, at: int
) -> Rollout:
    """Makes the challenger's `release` (its version) the champion, so that it also answers where the learned policy
    does not, and what comes next is compared with it. Its learned policy goes on deciding about everybody. The same
    rollout if it is the champion already.

    At 100 % nothing is compared any more, so the NRR proxy may be on hold: it has passed, or somebody signed for it,
    when the challenger went to everybody.
    """
    check_promotable(rollout, release)
    if rollout.champion.release == release:
        return rollout
    _check_evidence(rollout, evidence)
    _check_watched(rollout, evidence, plan)
    _check(evidence.figures, rollout.phase, ACCEPTABLE_HOLDS)
    champion = _arm(release, "baseline")
    before = rollout.champion.release
    return _changed(rollout, "promote", by, reason, at, figures=evidence.figures, champion=champion, predecessor=before)


def set_percent(rollout: Rollout, percent: float, *, by: str, reason: str, at: int) -> Rollout:
    """Fewer customers at once, without blame; of 0 the challenger is in the shadow again. The same rollout if it has
    that percent."""
    if percent == rollout.percent:
        return rollout
    if not 0 <= percent < rollout.percent:
        raise RolloutError(f"{percent:g} % is not below {rollout.percent:g} %, as it is now; up goes advance alone")
    return _changed(
        rollout, "set_percent", by, reason, at, phase=_phase_at(percent), percent=float(percent), accepted_holds=()
    )


def roll_back(rollout: Rollout, *, by: str, why: str, at: int, figures: Iterable[Figure] = ()) -> Rollout:
    """Without the challenger, latched, its release in quarantine; the same rollout if there is no challenger. After a
    promotion the champion of before is the champion again, so that no service begins with the baseline of what was
    rolled back. Never refuses: of `by` and `why` it takes what can be shown."""
    if rollout.challenger is None:
        return rollout
    by, why = _showable(by), _showable(why)
    barred = Quarantine(release=rollout.challenger.release, why=why, at=at, by=by)
    champion = rollout.champion if rollout.predecessor is None else _arm(rollout.predecessor, "baseline")
    return _changed(
        rollout,
        "roll_back",
        by,
        why,
        at,
        figures=tuple(figures),
        champion=champion,
        challenger=None,
        phase="baseline",
        percent=0.0,
        latched=True,
        quarantined=(*rollout.quarantined, barred),
        accepted=(),
        accepted_holds=(),
        predecessor=None,
    )


def release_latch(rollout: Rollout, *, by: str, reason: str, at: int) -> Rollout:
    """Another release may be proposed again; the one that was rolled back stays in quarantine."""
    if not rollout.latched:
        raise RolloutError("the rollout is not latched")
    return _changed(rollout, "release_latch", by, reason, at, latched=False)


def forgive(rollout: Rollout, release: str, *, by: str, reason: str, at: int) -> Rollout:
    """Lets a release out of quarantine; a latch stays."""
    if _quarantine(rollout, release) is None:
        raise RolloutError(f"{release} is not in quarantine")
    left = tuple(barred for barred in rollout.quarantined if barred.release != release)
    return _changed(rollout, "forgive", by, reason, at, release=release, quarantined=left)


def _arm(version: str, mode: Mode) -> Arm:
    try:
        return Arm(release=version, mode=mode)
    except ValidationError:
        raise RolloutError(f"{version!r} is no version of a release, which has 12 digits 0-9a-f") from None


def _phase_at(percent: float) -> Phase:
    """Of a challenger."""
    return "shadow" if percent == 0 else "full" if percent == 100 else "canary"


def _quarantine(rollout: Rollout, release: str) -> Quarantine | None:
    return next((barred for barred in rollout.quarantined if barred.release == release), None)


def _check_evidence(rollout: Rollout, evidence: Evidence) -> None:
    if rollout.challenger is None:
        raise RolloutError(f"there is no challenger ({describe(rollout)}): propose a release first")
    if evidence.generation != rollout.generation:
        raise RolloutError(f"the rollout has changed meanwhile, it is now {describe(rollout)}: look again")
    if evidence.release != rollout.challenger.release:
        raise RolloutError(f"the figures are those of {evidence.release}, not of {rollout.challenger.release}")


def _check_watched(rollout: Rollout, evidence: Evidence, plan: Plan) -> None:
    if not evidence.watched_s >= plan.watch_s:
        hours = f"{evidence.watched_s / 3600:.1f} of {plan.watch_s / 3600:.1f} hours"
        raise RolloutError(f"it was watched at {rollout.percent:g} % for {hours}: wait")


def _next_percent(rollout: Rollout, to: Phase, plan: Plan) -> float:
    higher = [percent for percent in plan.percents if percent > rollout.percent]
    if to == "canary" and higher:
        return higher[0]
    if to == "full" and rollout.phase == "canary" and not higher:
        return 100.0
    follows = "`promote`" if rollout.phase == "full" else f"canary at {higher[0]:g} %" if higher else "full"
    raise RolloutError(f"{to} is not the next step of {describe(rollout)}: after it comes {follows}")


def _not_shown(parts: Mapping[str, Part]) -> str:
    part = parts.get(POLICY)
    if part is None or part.standing == "left_out":
        return "the release has no learned policy that could be shown to customers"
    missed = ",".join(missed.criterion for missed in part.missed)
    return f"its policy is shadow_only: a person has to accept {POLICY}:{missed} with the digest {part.digest}"


def _holds(to: Phase, accept_holds: Iterable[str]) -> tuple[str, ...]:
    holds = tuple(sorted(set(accept_holds)))
    if holds and to != "full":
        raise RolloutError(f"{', '.join(holds)} may be on hold before full, there is nothing to accept")
    if not ACCEPTABLE_HOLDS.issuperset(holds):
        raise RolloutError(f"of signals on hold only {', '.join(ACCEPTABLE_HOLDS)} can be accepted")
    return holds


def _check(figures: tuple[Figure, ...], phase: Phase, may_hold: Iterable[str]) -> None:
    """Raises RolloutError unless all figures that the phase wants are there, and each is passed or may be on hold."""
    tolerated = {VALUE} if phase == "shadow" else set(may_hold)
    names = [figure.name for figure in figures]
    missing = [name for name in (SHADOW if phase == "shadow" else SIGNALS) if name not in names]
    if missing:
        raise RolloutError(f"nothing is known of {', '.join(missing)}")
    for verdict in ("fail", "hold"):
        for figure in figures:
            if figure.verdict == verdict and not (verdict == "hold" and figure.name in tolerated):
                raise RolloutError(f"{figure.name}: {verdict}, {figure.says}")


def _changed(
    rollout: Rollout | None,
    action: Action,
    by: str,
    reason: str,
    at: int,
    *,
    release: str | None = None,
    figures: tuple[Figure, ...] = (),
    acceptance: Acceptance | None = None,
    holds: tuple[str, ...] = (),
    **changes: Any,
) -> Rollout:
    """The next generation, with one event more."""
    for what, text in (("name", by), ("reason", reason)):
        if text != _showable(text):
            raise RolloutError(f"the {what} {text!r} should be one line of 1 to {MAX_WORDS} characters")
    old = _NEW if rollout is None else dict(rollout)
    new = {**old, **changes}
    after = Rollout.model_construct(**new)
    challenger = old["challenger"] or new["challenger"]
    event = Event(
        at=at,
        by=by,
        action=action,
        release=release or (challenger and challenger.release),
        before="nothing" if rollout is None else describe(rollout),
        after=describe(after),
        reason=reason,
        figures=figures,
        acceptance=acceptance,
        holds=holds,
    )
    return Rollout(**new | {"generation": old["generation"] + 1, "history": (*old["history"], event)})


def _showable(text: str) -> str:
    """What of a text can be shown in one line."""
    line = "".join(character if character.isprintable() else " " for character in text).strip()
    return line[:MAX_WORDS].strip() or "not said"
