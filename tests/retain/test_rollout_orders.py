"""Rollout and lease, changed in any order by several people and controllers: what a service then serves."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from retain.lease import LEASE_SECONDS, Lease, LeaseError, Sighting, fresh, renewed, sighted
from retain.parts import shown
from retain.rollout import (
    BASELINE_ONLY,
    Arm,
    Phase,
    Rollout,
    RolloutError,
    accept,
    advance,
    effective,
    forgive,
    promote,
    propose,
    release_latch,
    roll_back,
    set_percent,
)
from retain.signals import Verdict
from tests.rollouts import ACCEPTED, ANN, CHAMPION, DAY, GOOD, LIFT, MISSED, NONE, PARTS, PLAN, evidence

RELEASES = st.sampled_from([GOOD, GOOD, MISSED, MISSED, NONE])
WRITERS = st.sampled_from([0, 1])
VERDICTS = st.sampled_from(["pass", "pass", "pass", "pass", "hold", "fail"])


class Copy(NamedTuple):
    """The rollout as somebody read it, and its version in the store."""

    rollout: Rollout | None
    version: int


class Rollouts(RuleBasedStateMachine):
    """Two people and two controllers change what is in the store, two services look at it when they like.

    `rolled_back` and `accepted` are kept by the test itself: release -> when it was rolled back, and whether a person
    accepted what the present challenger missed. `vouched`: generation -> when the lease was last renewed for it.
    """

    served_percent = 0.0  # the most that any example served

    @initialize(
        canary=st.sampled_from([None, None, 50.0, 2.0, 0.0]),
        release=RELEASES,
        accepts=st.sampled_from([True, True, False]),
        steps=st.integers(0, 4),
    )
    def begin(self, canary: float | None, release: str, accepts: bool, steps: int) -> None:
        """With nothing, or after some steps forward that went well."""
        self.now = 0.0
        self.stored = Copy(None, 0)
        self.lease: Lease | None = None
        self.old_leases: list[Lease] = []
        self.people = [self.stored, self.stored]
        self.controllers: list[Sighting | None] = [None, None]
        self.services: list[Copy] = [self.stored, self.stored]
        self.sightings: list[Sighting | None] = [None, None]
        self.rolled_back: dict[str, float] = {}
        self.latched = False
        self.accepted = False
        self.vouched: dict[int, float] = {}
        self.canary = canary
        self.force = False
        for _ in range(steps):
            self.somebody_does_what_comes_next(0, release, accepts)
            self.a_minute_of_health()

    def _change(self, who: int, change: Callable[[Rollout], Rollout]) -> Rollout | None:
        """By compare-and-set on what that person has read; None if it was refused, or somebody was faster."""
        copy = self.people[who]
        if copy.rollout is None:
            return None
        try:
            after = change(copy.rollout)
        except RolloutError:
            return None
        return self._write(who, after)

    def _write(self, who: int, after: Rollout) -> Rollout | None:
        copy = self.people[who]
        if copy.version != self.stored.version:
            return None
        if after is not copy.rollout:
            assert after.generation == (copy.rollout.generation if copy.rollout else 0) + 1
            self.stored = Copy(after, copy.version + 1)
        self.people[who] = self.stored
        return after

    @rule(seconds=st.sampled_from([0.0, 1.0, 1.0, 5.0, LEASE_SECONDS + 1]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(who=WRITERS)
    def somebody_reads(self, who: int) -> None:
        self.people[who] = self.stored

    @rule(who=WRITERS, release=RELEASES)
    def propose(self, who: int, release: str) -> None:
        copy = self.people[who]
        try:
            after = propose(copy.rollout, CHAMPION, release, **ANN)
        except RolloutError:
            return
        if self._write(who, after):
            assert release not in self.rolled_back
            assert not self.latched
            assert copy.rollout is None or copy.rollout.challenger is None
            self.accepted = False

    @rule(who=WRITERS, release=RELEASES, leaves=RELEASES)
    def propose_in_place(self, who: int, release: str, leaves: str) -> None:
        before = self.people[who].rollout
        if before is None or before.challenger is None:
            return
        answers, instead = before.champion.release, before.challenger.release

        def change(rollout: Rollout) -> Rollout:
            return propose(rollout, answers, release, in_place_of=leaves, **ANN)

        if self._change(who, change):
            assert leaves == instead
            assert release not in self.rolled_back
            assert not self.latched
            self.accepted = False

    @rule(who=WRITERS, release=RELEASES)
    def promote(self, who: int, release: str) -> None:
        before = self.people[who].rollout

        def change(rollout: Rollout) -> Rollout:
            if rollout.challenger is None:
                raise RolloutError("nothing to be looked at")
            return promote(rollout, release, evidence(rollout), PLAN, **ANN)

        if self._change(who, change) and before:
            assert before.percent == 100
            assert before.challenger == Arm(release=release, mode="learned")

    @rule(who=WRITERS, whole=st.booleans())
    def accept(self, who: int, whole: bool) -> None:
        """What the policy of MISSED missed, whoever is the challenger."""
        given = ACCEPTED if whole else ACCEPTED.model_copy(update={"criteria": LIFT[:1]})

        def change(rollout: Rollout) -> Rollout:
            assert rollout.challenger is None or rollout.challenger.release in PARTS
            of = rollout.challenger.release if rollout.challenger else MISSED
            return accept(rollout, given, PARTS[of], at=1)

        if self._change(who, change):
            assert whole
            self.accepted = True

    @rule(who=WRITERS, to=st.sampled_from(["canary", "canary", "full"]), verdicts=st.lists(VERDICTS, max_size=1),
          watched=st.sampled_from([DAY, DAY, 0.0]), late=st.sampled_from([0, 0, 0, 1]))  # fmt: skip
    def advance(self, who: int, to: Phase, verdicts: list[Verdict], watched: float, late: int) -> None:
        other = dict(zip(("unsafe",), verdicts))

        def change(rollout: Rollout) -> Rollout:
            if rollout.challenger is None:
                raise RolloutError("nothing to be looked at")
            seen = evidence(rollout, watched_s=watched, **other)
            return advance(rollout, to, seen._replace(generation=seen.generation - late), PLAN, **ANN)

        before = self.people[who].rollout
        after = self._change(who, change)
        if after and before:
            assert set(verdicts) <= {"pass"}
            assert not late
            assert watched == DAY or before.phase == "shadow"
            assert after.percent in (5.0, 20.0, 100.0)
            assert after.percent > before.percent

    @rule(who=WRITERS, release=RELEASES, accepts=st.sampled_from([True, True, False]))
    def somebody_does_what_comes_next(self, who: int, release: str, accepts: bool) -> None:
        """What leads forward, which chance alone seldom finds."""
        self.somebody_reads(who)
        rollout = self.stored.rollout
        if rollout is None or rollout.challenger is None:
            self.propose(who, release)
            if accepts:
                self.accept(who, True)
        else:
            last = rollout.percent >= PLAN.percents[-1]
            self.advance(who, "full" if last else "canary", [], DAY, 0)

    @rule(who=WRITERS, percent=st.sampled_from([0.0, 1.0, 4.0, 5.0, 30.0, 100.0]))
    def set_percent(self, who: int, percent: float) -> None:
        before = self.people[who].rollout
        after = self._change(who, lambda rollout: set_percent(rollout, percent, **ANN))
        if after and before:
            assert after.percent <= before.percent

    @rule()
    def roll_back(self) -> None:
        """As whoever rolls back does it: on what is there, until it is done."""
        before = self.stored.rollout
        if before is None:
            return
        after = roll_back(before, by="controller", why="errors", at=1)
        assert (after.challenger, after.phase, after.percent) == (None, "baseline", 0)
        assert after.champion.release == (before.predecessor or before.champion.release)
        assert roll_back(after, by="controller", why="errors", at=1) is after
        assert effective(after, True, False, None) == BASELINE_ONLY
        if before.challenger is not None:
            self.stored = Copy(after, self.stored.version + 1)
            self.rolled_back[before.challenger.release] = self.now
            self.latched, self.accepted = True, False

    @rule(who=WRITERS)
    def release_latch(self, who: int) -> None:
        if self._change(who, lambda rollout: release_latch(rollout, **ANN)):
            assert self.latched
            self.latched = False

    @rule(who=WRITERS, release=RELEASES)
    def forgive(self, who: int, release: str) -> None:
        if self._change(who, lambda rollout: forgive(rollout, release, **ANN)):
            del self.rolled_back[release]

    @rule(who=WRITERS)
    def renew(self, who: int) -> None:
        """A controller that finds all well, by document.change(): on the lease and the rollout that are there."""
        if self.stored.rollout is None:
            return
        sighting = self.controllers[who] = sighted(self.controllers[who], self.lease, self.now)
        generation = self.stored.rollout.generation
        try:
            lease = renewed(sighting, f"controller {who}", generation, self.now)
        except LeaseError:
            return
        if self.lease:
            self.old_leases.append(self.lease)
        self.lease = lease
        self.vouched[generation] = self.now

    @rule(restored=st.booleans())
    @precondition(lambda self: self.lease)
    def lose_the_lease(self, restored: bool) -> None:
        """Removed, or replaced by an old copy."""
        self.lease = self.old_leases[-1] if restored and self.old_leases else None

    @rule(who=WRITERS, rollout=st.sampled_from([True, True, False]), lease=st.sampled_from([True, True, False]))
    def a_service_looks(self, who: int, rollout: bool, lease: bool) -> None:
        """At both, or at one of them alone."""
        if rollout:
            self.services[who] = self.stored
        if lease:
            self.sightings[who] = sighted(self.sightings[who], self.lease, self.now)

    @rule(force=st.sampled_from([False, False, True]))
    def force_baseline(self, force: bool) -> None:
        self.force = force

    @rule()
    def a_minute_of_health(self) -> None:
        """What is there most of the time: a controller renews, and services look."""
        for _ in range(12):
            self.time_passes(5.0)
            self.renew(0)
            for who in (0, 1):
                self.a_service_looks(who, True, True)

    @rule(who=WRITERS, restored=st.booleans())
    @precondition(lambda self: self.lease)
    def a_service_sleeps(self, who: int, restored: bool) -> None:
        """While the last controller dies; then it looks, at the last renewal or at an old copy of the lease."""
        self.a_service_looks(who, True, True)
        self.time_passes(1.0)
        self.renew(0)
        self.time_passes(LEASE_SECONDS + 1)
        if restored:
            self.lose_the_lease(True)
        self.a_service_looks(who, True, True)

    @invariant()
    def nothing_is_served_that_should_not_be(self) -> None:
        for copy, sighting in zip(self.services, self.sightings):
            rollout = copy.rollout
            if rollout is None:
                continue  # the settings rule there
            vouched = fresh(sighting, rollout.generation, self.now)
            served = effective(rollout, vouched, self.force, self.canary)
            assert (served.arm is None) == (served.percent == 0)
            if served.arm is None:
                continue
            release = served.arm.release
            assert served.arm == served.shadow == Arm(release=release, mode="learned")
            assert not self.force
            assert served.percent <= rollout.percent
            assert served.percent <= (100 if self.canary is None else self.canary)
            assert "decision" in shown(PARTS[release], served.accepted)
            assert not rollout.latched
            assert release not in {barred.release for barred in rollout.quarantined}
            # By the test's own books, whenever the service looked last:
            assert self.now - self.vouched.get(rollout.generation, -math.inf) <= LEASE_SECONDS
            if copy.version == self.stored.version:
                assert release not in self.rolled_back
                assert not self.latched
                assert release == GOOD or self.accepted
            Rollouts.served_percent = max(Rollouts.served_percent, served.percent)

    @invariant()
    def a_rollback_ends_it_though_nobody_looks(self) -> None:
        """Since nobody vouches for the generation before a rollback any longer."""
        for copy, sighting in zip(self.services, self.sightings):
            if copy.rollout is None or copy.rollout.challenger is None:
                continue
            gone = self.rolled_back.get(copy.rollout.challenger.release)
            if gone is not None and self.now - gone > LEASE_SECONDS:
                assert not fresh(sighting, copy.rollout.generation, self.now)


def test_in_any_order_nothing_is_served_that_should_not_be() -> None:
    run_state_machine_as_test(Rollouts, settings=settings(max_examples=150, stateful_step_count=40))
    assert Rollouts.served_percent > 0, "no example served a challenger, so nothing was tested"
