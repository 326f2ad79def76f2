"""A rollout: what each change wants and does, and that nothing it shouldn't serve is ever served."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from retain import shadow
from retain.parts import Acceptance, Part
from retain.rollout import (
    BASELINE_ONLY,
    MAX_WORDS,
    SHADOW,
    VALUE,
    Arm,
    Evidence,
    Phase,
    Plan,
    Rollout,
    RolloutError,
    accept,
    advance,
    continues,
    describe,
    effective,
    forgive,
    lease_key,
    may_answer,
    promote,
    propose,
    release_latch,
    roll_back,
    rollout_key,
    set_percent,
)
from retain.signals import SIGNALS, Figure
from tests.releases import MONITORING
from tests.rollouts import (
    ACCEPTED,
    ANN,
    CHAMPION,
    DAY,
    GOOD,
    LIFT,
    MISSED,
    NONE,
    PARTS,
    PLAN,
    evidence,
    figure,
    figures,
    part,
)


def forward(rollout: Rollout, to: Phase, holds: Iterable[str] = (), **changes: Any) -> Rollout:
    return advance(rollout, to, evidence(rollout, **changes), PLAN, accept_holds=holds, **ANN)


def back(rollout: Rollout) -> Rollout:
    return roll_back(rollout, by="controller", why="unsafe messages", at=9)


SHADOWED = propose(None, CHAMPION, GOOD, **ANN)
CANARY = forward(SHADOWED, "canary")
WIDER = forward(CANARY, "canary")
FULL = forward(WIDER, "full")
BACK = back(CANARY)
EVERY = (SHADOWED, CANARY, WIDER, FULL)


def refused(match: str) -> Any:
    return pytest.raises(RolloutError, match=match)


# --- forward -----------------------------------------------------------------------------------------------------


def test_forward_it_goes_step_by_step() -> None:
    steps = [(each.phase, each.percent) for each in EVERY]
    assert steps == [("shadow", 0), ("canary", 5), ("canary", 20), ("full", 100)]
    assert [each.generation for each in EVERY] == [1, 2, 3, 4]
    for each in EVERY:
        assert each.champion == Arm(release=CHAMPION, mode="baseline")
        assert each.challenger == Arm(release=GOOD, mode="learned")
        assert not each.latched
    assert [event.action for event in FULL.history] == ["propose", "advance", "advance", "advance"]


def test_each_change_is_on_record() -> None:
    proposed, first, *_ = FULL.history
    assert (proposed.by, proposed.reason, proposed.at) == ("Ann", "the weekly release", 1_000_000)
    assert (proposed.before, proposed.after) == ("nothing", f"{GOOD} in the shadow of {CHAMPION}")
    assert (first.before, first.after) == (proposed.after, f"{GOOD} for 5 % of customers")
    assert first.figures == figures((*SHADOW, "value"))
    assert {event.release for event in FULL.history} == {GOOD}
    last = BACK.history[-1]
    assert (last.action, last.by, last.reason, last.at, last.release) == (
        "roll_back", "controller", "unsafe messages", 9, GOOD,
    )  # fmt: skip
    assert last.after == f"latched, baseline of {CHAMPION} for everybody"
    assert describe(release_latch(BACK, **ANN)) == f"baseline of {CHAMPION} for everybody"


@pytest.mark.parametrize("rollout", EVERY)
def test_a_challenger_has_to_go_before_another_comes(rollout: Rollout) -> None:
    with refused(f"{GOOD} is the challenger"):
        propose(rollout, CHAMPION, MISSED, **ANN)


def test_the_champion_is_the_release_that_answers_when_a_challenger_is_proposed() -> None:
    free = release_latch(BACK, **ANN)
    again = propose(free, MISSED, MISSED, **ANN)
    assert again.champion == Arm(release=MISSED, mode="baseline")
    assert again.challenger == Arm(release=MISSED, mode="learned")
    assert (again.phase, again.percent, again.generation) == ("shadow", 0, 5)


@pytest.mark.parametrize("version", ["", "a" * 11, "a" * 13, "A" * 12, "g" * 12, "a" * 12 + "\n", "../../../../x"])
def test_a_release_is_named_by_its_version(version: str) -> None:
    with refused("is no version of a release"):
        propose(None, CHAMPION, version, **ANN)
    with refused("is no version of a release"):
        propose(None, version, GOOD, **ANN)


@pytest.mark.parametrize(
    ("rollout", "to", "follows"),
    [
        (SHADOWED, "baseline", "canary at 5 %"),
        (SHADOWED, "shadow", "canary at 5 %"),
        (SHADOWED, "full", "canary at 5 %"),
        (CANARY, "baseline", "canary at 20 %"),
        (CANARY, "shadow", "canary at 20 %"),
        (CANARY, "full", "canary at 20 %"),
        (WIDER, "canary", "full"),
        (FULL, "canary", "`promote`"),
        (FULL, "full", "`promote`"),
    ],
)
def test_no_step_is_left_out(rollout: Rollout, to: Phase, follows: str) -> None:
    with refused(f"{to} is not the next step of .*: after it comes {follows}$"):
        forward(rollout, to)


def test_without_a_challenger_there_is_nothing_to_advance() -> None:
    for rollout in (BACK, release_latch(BACK, **ANN)):
        with refused("there is no challenger"):
            advance(rollout, "canary", Evidence(rollout.generation, GOOD, PARTS[GOOD], (), DAY), PLAN, **ANN)


def test_the_figures_are_of_this_rollout_and_this_release() -> None:
    with refused("has changed meanwhile"):
        advance(CANARY, "canary", evidence(SHADOWED)._replace(figures=figures(SIGNALS)), PLAN, **ANN)
    with refused("has changed meanwhile"):
        advance(CANARY, "canary", evidence(CANARY)._replace(generation=3), PLAN, **ANN)
    with refused(f"figures are those of {MISSED}, not of {GOOD}"):
        forward(SHADOWED, "canary", release=MISSED)


@pytest.mark.parametrize("watched_s", [0.0, DAY - 1, math.nan, -math.inf])
def test_customers_are_watched_for_as_long_as_planned(watched_s: float) -> None:
    for rollout, to in ((CANARY, "canary"), (WIDER, "full")):
        with refused("wait"):
            forward(rollout, to, watched_s=watched_s)
    assert forward(SHADOWED, "canary", watched_s=watched_s) == CANARY


@pytest.mark.parametrize("name", [*SHADOW, "message_length (rlhf)"])
def test_a_shadow_has_to_pass(name: str) -> None:
    for verdict in ("hold", "fail"):
        with refused(f"{name.split()[0]}.*: {verdict}, {name.split()[0]}.* was looked at"):
            forward(SHADOWED, "canary", **{name: verdict})
    if name in SHADOW:
        less = evidence(SHADOWED)._replace(figures=tuple(each for each in figures(SHADOW) if each.name != name))
        with refused(f"nothing is known of {name}"):
            advance(SHADOWED, "canary", less, PLAN, **ANN)


def test_a_shadow_may_not_know_its_value_but_not_have_failed_by_it() -> None:
    assert forward(SHADOWED, "canary", value="hold").phase == "canary"
    with refused("value: fail"):
        forward(SHADOWED, "canary", value="fail")
    nothing = evidence(SHADOWED)._replace(figures=())
    with refused("nothing is known of latency_p95, unsafe, answers_missed, unavailable"):
        advance(SHADOWED, "canary", nothing, PLAN, **ANN)


def test_the_shadow_s_figures_have_these_names_and_are_taken_as_they_are_answered() -> None:
    answered = json.dumps([each.model_dump() for each in shadow.figures(shadow.Tally(GOOD, GOOD), MONITORING, None)])
    taken_over = TypeAdapter(tuple[Figure, ...]).validate_json(answered)
    assert {*SHADOW, VALUE} <= {each.name for each in taken_over}
    with refused("latency_p95: hold"):
        advance(SHADOWED, "canary", evidence(SHADOWED)._replace(figures=taken_over), PLAN, **ANN)


@pytest.mark.parametrize(("rollout", "to"), [(CANARY, "canary"), (WIDER, "full")])
@pytest.mark.parametrize("name", SIGNALS)
def test_a_canary_has_to_pass(rollout: Rollout, to: Phase, name: str) -> None:
    with refused(f"{name}: fail"):
        forward(rollout, to, **{name: "fail"})
    with refused(f"{name}: fail"):
        forward(rollout, to, holds=["nrr"] if to == "full" else [], **{name: "fail"})
    less = evidence(rollout)._replace(figures=tuple(each for each in figures(SIGNALS) if each.name != name))
    with refused(f"nothing is known of {name}"):
        advance(rollout, to, less, PLAN, **ANN)
    if name != "nrr":
        with refused(f"{name}: hold"):
            forward(rollout, to, holds=["nrr"] if to == "full" else [], **{name: "hold"})


def test_value_may_be_on_hold_in_the_canary_and_for_everybody_if_a_person_accepts_that() -> None:
    wider = forward(CANARY, "canary", nrr="hold")
    assert (wider.percent, wider.accepted_holds) == (20, ())
    with refused("nrr: hold"):
        forward(wider, "full", nrr="hold")
    full = forward(wider, "full", holds=["nrr", "nrr"], nrr="hold")
    assert full.accepted_holds == full.history[-1].holds == ("nrr",)
    assert FULL.accepted_holds == FULL.history[-1].holds == ()
    assert set_percent(full, 20, **ANN).accepted_holds == ()
    assert back(full).accepted_holds == ()
    with refused("errors, nrr|only nrr can be accepted"):
        forward(wider, "full", holds=["nrr", "errors"])
    with refused("only nrr can be accepted"):
        forward(wider, "full", holds=["value"])
    with refused("nothing to accept"):
        forward(CANARY, "canary", holds=["nrr"])
    with refused("value: hold"):  # that is the shadow's
        forward(wider, "full", holds=["nrr"], value="hold")


@pytest.mark.parametrize("text", ["", " ", "\n", "two\nlines", "\ud800", "\x1b[31mred", " Ann", "x" * (MAX_WORDS + 1)])
def test_who_and_why_are_a_line_each(text: str) -> None:
    free = release_latch(BACK, **ANN)
    for key in ("by", "reason"):
        said = {**ANN, key: text}
        changes: list[Callable[[], Rollout]] = [
            lambda said=said: propose(None, CHAMPION, GOOD, **said),
            lambda said=said: advance(SHADOWED, "canary", evidence(SHADOWED), PLAN, **said),
            lambda said=said: promote(FULL, GOOD, evidence(FULL), PLAN, **said),
            lambda said=said: set_percent(CANARY, 1, **said),
            lambda said=said: release_latch(BACK, **said),
            lambda said=said: forgive(free, GOOD, **said),
        ]
        for change in changes:
            with refused("should be one line"):
                change()
    with refused("should be one line"):
        propose(None, CHAMPION, GOOD, **{**ANN, "by": text})


def test_a_line_may_be_long() -> None:
    assert propose(None, CHAMPION, GOOD, **{**ANN, "reason": "x" * MAX_WORDS}).history[0].reason == "x" * MAX_WORDS


# --- parts that missed criteria ----------------------------------------------------------------------------------


MISSED_SHADOW = propose(None, CHAMPION, MISSED, **ANN)


def taken(**changes: Any) -> Acceptance:
    return ACCEPTED.model_copy(update=changes)


def test_a_policy_that_missed_value_goes_forward_once_a_person_accepted_that() -> None:
    with refused("a person has to accept decision:decision.lift_gain,decision.lift_gain_low with the digest 1{12}"):
        forward(MISSED_SHADOW, "canary")
    accepted = accept(MISSED_SHADOW, ACCEPTED, PARTS[MISSED], at=5)
    assert accepted.accepted == (ACCEPTED,)
    event = accepted.history[-1]
    assert (event.action, event.by, event.reason, event.at, event.acceptance) == (
        "accept",
        "Ann",
        "a trial",
        5,
        ACCEPTED,
    )
    assert accepted.generation == 2
    canary = forward(accepted, "canary")
    assert canary.accepted == (ACCEPTED,)
    assert effective(canary, True, False, None).accepted == (ACCEPTED,)


def test_each_step_asks_for_the_acceptance() -> None:
    canary = forward(accept(MISSED_SHADOW, ACCEPTED, PARTS[MISSED], at=5), "canary")
    other = {**PARTS[MISSED], "decision": part("shadow_only", *LIFT, digest="9" * 12)}
    with refused("with the digest 9{12}"):
        advance(canary, "canary", evidence(canary)._replace(parts=other), PLAN, **ANN)


def test_an_acceptance_ends_with_its_challenger_and_stays_on_record() -> None:
    accepted = accept(MISSED_SHADOW, ACCEPTED, PARTS[MISSED], at=5)
    gone = back(accepted)
    assert gone.accepted == ()
    assert gone.history[1].acceptance == ACCEPTED
    free = forgive(release_latch(gone, **ANN), MISSED, **ANN)
    with refused("has to accept"):
        forward(propose(free, CHAMPION, MISSED, **ANN), "canary")


def test_a_later_acceptance_replaces_the_one_of_the_same_part() -> None:
    parts = {**PARTS[MISSED], "rlhf": part("shadow_only", "rm.auc")}
    rlhf = taken(part="rlhf", criteria=("rm.auc",))
    both = accept(accept(MISSED_SHADOW, ACCEPTED, parts, at=5), rlhf, parts, at=6)
    assert both.accepted == (ACCEPTED, rlhf)
    again = taken(reason="still a trial")
    assert accept(both, again, parts, at=7).accepted == (rlhf, again)


@pytest.mark.parametrize(
    ("acceptance", "match"),
    [
        (taken(part="speech"), "speech is no part of the release, which has decision, rlhf"),
        (taken(part="rlhf"), "rlhf met its criteria"),
        (taken(digest="9" * 12), "has the digest 1{12}, not 9{12}"),
        (taken(criteria=LIFT[:1]), "all of them and no others"),
        (taken(criteria=()), "all of them and no others"),
        (taken(criteria=(*LIFT, "decision.overspend")), "all of them and no others"),
        (taken(by="\n"), "the name '\\\\n' should be one line"),
        (taken(reason=" "), "should be one line"),
    ],
)
def test_an_acceptance_is_of_a_part_as_it_is(acceptance: Acceptance, match: str) -> None:
    with refused(match):
        accept(MISSED_SHADOW, acceptance, PARTS[MISSED], at=5)


@pytest.mark.parametrize(
    "missed",
    [
        part("left_out", "decision.overspend", kind="safety"),
        part("left_out", "decision.overspend"),
        part("shadow_only", "decision.overspend", kind="safety"),
        part("shadow_only"),
    ],
)
def test_what_a_part_must_never_do_cannot_be_accepted(missed: Part) -> None:
    criteria = tuple(each.criterion for each in missed.missed)
    with refused("can't be accepted"):
        accept(MISSED_SHADOW, taken(criteria=criteria), {"decision": missed}, at=5)


def test_without_a_challenger_nothing_is_accepted() -> None:
    with refused("there is no challenger"):
        accept(BACK, ACCEPTED, PARTS[MISSED], at=5)


def test_a_release_without_a_policy_stays_in_the_shadow() -> None:
    with refused("no learned policy that could be shown"):
        forward(propose(None, CHAMPION, NONE, **ANN), "canary")
    with refused("no learned policy that could be shown"):
        advance(SHADOWED, "canary", evidence(SHADOWED)._replace(parts={}), PLAN, **ANN)


# --- the challenger becomes the champion -------------------------------------------------------------------------


def promoted(rollout: Rollout = FULL, release: str = GOOD, **changes: Any) -> Rollout:
    return promote(rollout, release, evidence(rollout, **changes), PLAN, **ANN)


def test_a_challenger_that_is_promoted_goes_on_deciding_about_everybody() -> None:
    after = promoted()
    assert after.champion == Arm(release=GOOD, mode="baseline")
    assert (after.challenger, after.phase, after.percent) == (FULL.challenger, FULL.phase, FULL.percent)
    assert effective(after, True, False, None) == effective(FULL, True, False, None)
    assert (may_answer(FULL), may_answer(after)) == ({CHAMPION}, {GOOD, CHAMPION})
    event = after.history[-1]
    assert (event.action, event.by, event.release, event.figures) == ("promote", "Ann", GOOD, figures(SIGNALS))
    assert (event.before, event.after) == (
        f"{GOOD} for 100 % of customers",
        f"{GOOD}, which is the champion, for 100 % of customers",
    )
    assert continues(FULL, after)
    assert promoted(after) is after, "by somebody who doesn't know whether it was done"
    assert Rollout.model_validate_json(after.model_dump_json()) == after


def test_only_who_decides_about_everybody_becomes_the_champion() -> None:
    for rollout in (SHADOWED, CANARY, WIDER, set_percent(FULL, 20, **ANN)):
        with refused("only who decides about everybody becomes the champion"):
            promoted(rollout)
    with refused("there is no challenger"):
        promote(BACK, GOOD, evidence(FULL), PLAN, **ANN)
    with refused(f"{MISSED} is not the challenger, that is {GOOD}"):
        promoted(release=MISSED)


def test_it_is_promoted_by_figures_of_everybody() -> None:
    with refused("has changed meanwhile"):
        promote(FULL, GOOD, evidence(FULL)._replace(generation=3), PLAN, **ANN)
    with refused("it was watched at 100 % for 0.0 of 24.0 hours: wait"):
        promoted(watched_s=0.0)
    for name in ("errors", "latency_p95", "unsafe"):
        for verdict in ("hold", "fail"):
            with refused(f"{name}: {verdict}"):
                promoted(**{name: verdict})
    with refused("nrr: fail"):
        promoted(nrr="fail")
    assert promoted(nrr="hold").champion.release == GOOD  # at 100 % nothing is compared


@pytest.mark.parametrize("rollout", [promoted(), set_percent(promoted(), 0, **ANN)])
def test_a_rollback_after_a_promotion_leads_to_the_champion_of_before(rollout: Rollout) -> None:
    gone = back(rollout)
    assert (gone.champion, gone.challenger, gone.latched) == (Arm(release=CHAMPION, mode="baseline"), None, True)
    assert effective(gone, True, False, None) == BASELINE_ONLY
    assert [barred.release for barred in gone.quarantined] == [GOOD]
    assert may_answer(gone) == {CHAMPION}
    assert gone.predecessor is None
    assert gone.history[-1].after == f"latched, baseline of {CHAMPION} for everybody"
    assert back(gone) is gone


def test_an_older_rollout_says_nothing_of_a_promotion() -> None:
    older = json.loads(FULL.model_dump_json())
    del older["predecessor"]
    assert Rollout.model_validate_json(json.dumps(older)) == FULL


@pytest.mark.parametrize("rollout", [*EVERY, promoted()])
def test_another_comes_in_place_of_the_challenger_without_blame(rollout: Rollout) -> None:
    after = propose(rollout, rollout.champion.release, MISSED, in_place_of=GOOD, **ANN)
    assert (after.phase, after.percent, after.latched, after.quarantined) == ("shadow", 0, False, ())
    assert after.challenger == Arm(release=MISSED, mode="learned")
    assert after.champion == rollout.champion
    assert (after.accepted, after.accepted_holds, after.predecessor) == ((), (), None)
    event = after.history[-1]
    assert (event.action, event.release, event.before) == ("propose", MISSED, describe(rollout))


def test_it_comes_only_in_place_of_the_one_that_is_meant() -> None:
    with refused(f"{GOOD} is the challenger: roll it back before another comes, or propose that one in place of"):
        propose(FULL, CHAMPION, MISSED, in_place_of=NONE, **ANN)
    with refused(f"{GOOD} is not the challenger, there is none"):
        propose(release_latch(BACK, **ANN), CHAMPION, MISSED, in_place_of=GOOD, **ANN)
    with refused(f"{GOOD} is not the challenger, there is none"):
        propose(None, CHAMPION, MISSED, in_place_of=GOOD, **ANN)
    for leaves in (None, GOOD):
        with refused(f"{GOOD} is the challenger already"):
            propose(FULL, CHAMPION, GOOD, in_place_of=leaves, **ANN)
    barred = propose(release_latch(BACK, **ANN), CHAMPION, MISSED, **ANN)
    with refused(f"{GOOD} is in quarantine"):
        propose(barred, CHAMPION, GOOD, in_place_of=MISSED, **ANN)


# --- back --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rollout", EVERY)
def test_a_rollback_leads_to_the_baseline_from_everywhere(rollout: Rollout) -> None:
    gone = roll_back(rollout, by="controller", why="p95", at=9, figures=[figure("latency_p95", "fail")])
    assert (gone.challenger, gone.phase, gone.percent, gone.latched) == (None, "baseline", 0, True)
    assert gone.generation == rollout.generation + 1
    assert gone.champion == rollout.champion
    (barred,) = gone.quarantined
    assert (barred.release, barred.why, barred.at, barred.by) == (GOOD, "p95", 9, "controller")
    assert gone.history[-1].figures == (figure("latency_p95", "fail"),)
    assert effective(gone, True, False, 100.0) == BASELINE_ONLY == (None, 0, None, ())


def test_a_rollback_can_be_repeated() -> None:
    assert back(BACK) is BACK
    free = release_latch(BACK, **ANN)
    assert back(free) is free


@pytest.mark.parametrize("before", [*EVERY, BACK])
def test_a_rollout_continues_one_that_changes_have_led_from(before: Rollout) -> None:
    assert continues(before, before)
    assert all(continues(earlier, before) for earlier in (SHADOWED, CANARY) if earlier.generation <= before.generation)
    changed = release_latch(before, **ANN) if before.latched else back(before)
    assert continues(before, changed)
    assert not continues(changed, before), "an older copy"


def test_what_has_forgotten_a_rollback_does_not_continue_it() -> None:
    older = set_percent(CANARY, 0, **ANN)
    assert older.generation == BACK.generation
    assert not continues(BACK, older)
    assert not continues(BACK, forward(older, "canary")), "later, but of the older copy"
    again = propose(None, CHAMPION, GOOD, **{**ANN, "at": 7})
    assert not continues(SHADOWED, again)
    assert not continues(BACK, forward(forward(again, "canary"), "canary")), "begun anew"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("", "not said"),
        (" \n", "not said"),
        ("two\nlines ", "two lines"),
        ("\ud800x", "x"),
        ("y" * 600, "y" * MAX_WORDS),
        ("y" * 499 + " z", "y" * 499),
    ],
)
def test_a_rollback_refuses_nothing(text: str, kept: str) -> None:
    gone = roll_back(CANARY, by=text, why=text, at=9)
    assert gone.latched
    assert (gone.quarantined[0].by, gone.quarantined[0].why) == (kept, kept)
    assert (gone.history[-1].by, gone.history[-1].reason) == (kept, kept)
    assert Rollout.model_validate_json(gone.model_dump_json()) == gone


@given(st.text(st.characters(exclude_categories=()), max_size=20), st.integers(0, MAX_WORDS + 1))
@example(" ", MAX_WORDS - 1)
def test_a_rollback_takes_any_text(text: str, before: int) -> None:
    gone = roll_back(CANARY, by="x" * before + text, why=text, at=9)
    assert gone.latched
    assert Rollout.model_validate_json(gone.model_dump_json()) == gone


def test_after_a_rollback_a_person_lifts_latch_and_quarantine_each_alone() -> None:
    with refused(f"latched: {GOOD} was rolled back by controller, unsafe messages"):
        propose(BACK, CHAMPION, MISSED, **ANN)
    free = release_latch(BACK, **ANN)
    assert (free.latched, free.quarantined) == (False, BACK.quarantined)
    assert propose(free, CHAMPION, MISSED, **ANN).phase == "shadow"
    with refused(f"{GOOD} is in quarantine, since controller rolled it back: unsafe messages"):
        propose(free, CHAMPION, GOOD, **ANN)
    forgiven = forgive(BACK, GOOD, **ANN)
    assert (forgiven.latched, forgiven.quarantined) == (True, ())
    assert forgiven.history[-1].release == GOOD
    with refused("the rollout is latched"):
        propose(forgiven, CHAMPION, GOOD, **ANN)
    again = propose(forgive(free, GOOD, **ANN), CHAMPION, GOOD, **ANN)
    assert (again.phase, again.generation) == ("shadow", 6)


def test_a_quarantine_outlasts_other_rollouts() -> None:
    second = propose(release_latch(BACK, **ANN), CHAMPION, MISSED, **ANN)
    free = release_latch(back(second), **ANN)
    assert [barred.release for barred in free.quarantined] == [GOOD, MISSED]
    with refused("in quarantine"):
        propose(free, CHAMPION, GOOD, **ANN)
    assert [barred.release for barred in forgive(free, GOOD, **ANN).quarantined] == [MISSED]


def test_what_is_not_there_cannot_be_lifted() -> None:
    with refused("is not latched"):
        release_latch(SHADOWED, **ANN)
    with refused("is not in quarantine"):
        forgive(BACK, MISSED, **ANN)


@pytest.mark.parametrize(
    ("rollout", "percent", "phase"),
    [
        (FULL, 50.0, "canary"),
        (FULL, 0, "shadow"),
        (CANARY, 4, "canary"),
        (CANARY, 0.01, "canary"),
        (CANARY, 0.0, "shadow"),
    ],
)
def test_fewer_customers_at_once(rollout: Rollout, percent: float, phase: Phase) -> None:
    fewer = set_percent(rollout, percent, **ANN)
    assert (fewer.percent, fewer.phase, fewer.latched, fewer.challenger) == (percent, phase, False, rollout.challenger)
    assert fewer.quarantined == ()
    assert fewer.generation == rollout.generation + 1


@pytest.mark.parametrize("rollout", [SHADOWED, *EVERY, BACK])
def test_more_customers_only_by_a_step_forward(rollout: Rollout) -> None:
    assert set_percent(rollout, rollout.percent, **ANN) is rollout
    for percent in (rollout.percent + 0.1, 101.0, -0.1, math.nan, math.inf):
        with refused("is not below"):
            set_percent(rollout, percent, **ANN)


def test_from_fewer_customers_it_goes_on_by_the_plan() -> None:
    few = set_percent(WIDER, 3, **ANN)
    assert forward(few, "canary").percent == 5
    paused = set_percent(FULL, 0, **ANN)
    assert forward(paused, "canary").percent == 5
    with refused("after it comes canary at 20 %"):
        forward(set_percent(FULL, 12, **ANN), "full")


# --- what is served ----------------------------------------------------------------------------------------------

LEARNED = Arm(release=GOOD, mode="learned")


@pytest.mark.parametrize(
    ("rollout", "canary", "percent"),
    [
        (SHADOWED, None, 0),
        (SHADOWED, 50.0, 0),
        (CANARY, None, 5),
        (CANARY, 50.0, 5),
        (CANARY, 2.0, 2),
        (CANARY, 0.0, 0),
        (FULL, None, 100),
        (FULL, 5.0, 5),
        (FULL, 100.0, 100),
    ],
)
def test_with_a_rollout_the_smaller_percent_rules(rollout: Rollout, canary: float | None, percent: float) -> None:
    assert effective(rollout, True, False, canary) == (LEARNED if percent else None, percent, LEARNED, ())
    for lease, force in ((False, False), (True, True), (False, True)):
        assert effective(rollout, lease, force, canary) == (None, 0, LEARNED, ())


@pytest.mark.parametrize("rollout", [BACK, release_latch(BACK, **ANN)])
def test_without_a_challenger_the_baseline_serves_whatever_the_settings_say(rollout: Rollout) -> None:
    for canary in (None, 100.0):
        assert effective(rollout, True, False, canary) == BASELINE_ONLY


# --- the object --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rollout", [*EVERY, BACK, accept(MISSED_SHADOW, ACCEPTED, PARTS[MISSED], at=5)])
def test_it_comes_back_from_json_as_it_was(rollout: Rollout) -> None:
    assert Rollout.model_validate_json(rollout.model_dump_json()) == rollout


BARRED = {"release": GOOD, "why": "x", "at": 1, "by": "x"}


@pytest.mark.parametrize(
    ("rollout", "changes"),
    [
        (SHADOWED, {"percent": 5.0}),
        (CANARY, {"percent": 0.0}),
        (CANARY, {"percent": 100.0}),
        (CANARY, {"percent": 101.0}),
        (CANARY, {"percent": -1.0}),
        (CANARY, {"phase": "shadow"}),
        (CANARY, {"phase": "baseline"}),
        (FULL, {"percent": 99.0}),
        (CANARY, {"latched": True}),
        (CANARY, {"challenger": None}),
        (CANARY, {"challenger": {"release": GOOD, "mode": "baseline"}}),
        (CANARY, {"champion": {"release": CHAMPION, "mode": "learned"}}),
        (CANARY, {"quarantined": [BARRED]}),
        (CANARY, {"generation": 3}),
        (CANARY, {"generation": 1}),
        (CANARY, {"generation": 0, "history": []}),
        (CANARY, {"history": []}),
        (CANARY, {"later": 1}),
        (BACK, {"phase": "shadow"}),
        (BACK, {"percent": 5.0}),
        (BACK, {"accepted": [ACCEPTED.model_dump(mode="json")]}),
        (BACK, {"accepted_holds": ["nrr"]}),
        (BACK, {"predecessor": MISSED}),
        (FULL, {"predecessor": MISSED}),
        (BACK, {"challenger": {"release": MISSED, "mode": "learned"}, "phase": "shadow"}),
    ],
)
def test_what_cannot_be_is_no_rollout(rollout: Rollout, changes: Mapping[str, Any]) -> None:
    content = {**json.loads(rollout.model_dump_json()), **changes}
    with pytest.raises(ValidationError):
        Rollout.model_validate_json(json.dumps(content))


@pytest.mark.parametrize("name", sorted(json.loads(CANARY.model_dump_json()).keys() - {"predecessor"}))
def test_every_key_has_to_be_there(name: str) -> None:
    content = json.loads(CANARY.model_dump_json())
    del content[name]
    with pytest.raises(ValidationError):
        Rollout.model_validate_json(json.dumps(content))


@pytest.mark.parametrize("content", [{"percents": []}, {"percents": [5.0, 5.0]}, {"percents": [20.0, 5.0]},
                                     {"percents": [0.0]}, {"percents": [100.0]}, {"watch_s": -1.0}])  # fmt: skip
def test_a_plan_rises(content: Mapping[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Plan.model_validate_json(json.dumps(content))


def test_the_playbook_s_plan_is_the_default() -> None:
    assert (Plan().percents, Plan().watch_s) == ((5.0,), DAY)


def test_rollout_and_lease_have_a_key_each() -> None:
    assert rollout_key("local") == "rollout/local/rollout.json"
    assert lease_key("local") == "rollout/local/lease.json"
