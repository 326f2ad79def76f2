"""Who is decided about by which arm."""

from __future__ import annotations

import dataclasses
from collections import Counter
from itertools import pairwise

import pytest

from retain.decision import Terms
from retain.parts import Acceptance
from retain.release import Release
from retain.request import examples
from serve.router import EVERYBODY_BASELINE, Router, routed
from tests.releases import DECISION, dataset, standing

IDS = [f"{number:05d}-CUST" for number in range(20_000)]


def learned(percent: float, key: str = "a key") -> set[str]:
    router = Router(force_baseline=False, percent=percent, key=key)
    return {customer for customer in IDS if router.arm(customer) == "learned"}


def test_about_the_percent_asked_for_are_learned_and_always_the_same_ones() -> None:
    five = learned(5)
    assert 900 <= len(five) <= 1100  # 1,000, give or take 3.2 standard deviations
    assert learned(5) == five


def test_a_growing_percent_only_adds_customers() -> None:
    shares = [learned(percent) for percent in (0, 0.5, 5, 10, 50, 100)]
    for smaller, larger in pairwise(shares):
        assert smaller < larger
    assert (len(shares[0]), len(shares[-1])) == (0, len(IDS))


def test_another_key_draws_other_customers() -> None:
    one, other = learned(5), learned(5, "another key")
    assert 900 <= len(other) <= 1100
    assert 20 <= len(one & other) <= 90  # 5 % of the 5 %, as if they were drawn apart


def test_arms_are_the_same_after_a_restart_and_in_every_version() -> None:
    """Customers would change arms if these did."""
    assert sorted(learned(0.03, "retain"))[:2] == ["03601-CUST", "08440-CUST"]


def test_a_number_is_the_customer_that_its_text_is() -> None:
    router = Router(force_baseline=False, percent=50)
    assert {router.arm(number) for number in range(50)} == {"baseline", "learned"}
    for number in range(50):
        assert router.arm(number) == router.arm(str(number))


def test_who_has_no_id_and_everybody_when_forced_gets_the_baseline() -> None:
    assert Router(force_baseline=False, percent=100).arm(None) == "baseline"
    forced = Router(force_baseline=True, percent=100)
    assert {forced.arm(customer) for customer in IDS} == {"baseline"}
    assert {EVERYBODY_BASELINE.arm(customer) for customer in IDS[:100]} == {"baseline"}


def test_what_can_not_be_routed_is_warned_of(release: Release, bank_release: Release) -> None:
    asked = Router(force_baseline=False, percent=100)
    assert routed(asked, release) == (asked, [])
    lacking = dataclasses.replace(standing(release, "decision", "left_out", "decision.over_cap"), policy=None)
    in_shadow = standing(release, "decision", "shadow_only", "decision.lift_gain", "decision.nrr_gain")
    missed = "decision.lift_gain 0 (wanted >= 1); decision.nrr_gain 0 (wanted >= 1)"
    for other, says in (
        (lacking, "the release has no learned policy (it missed decision.over_cap 0 (wanted >= 1))"),
        (in_shadow, f"its learned policy is shadow_only (it missed {missed})"),
        (dataclasses.replace(release, policy=None), "the release has no learned policy"),
        (bank_release, "bank has no id that an arm could be drawn by"),
    ):
        router, warnings = routed(asked, other)
        assert router.learned_percent == 0
        assert warnings == [f"FORCE_BASELINE=false, but {says}: everybody gets the baseline"]
        for quiet in (Router(), Router(force_baseline=False, percent=0)):
            assert routed(quiet, other) == (quiet, [])


def test_a_policy_in_the_shadow_that_somebody_accepted_is_routed_to(release: Release) -> None:
    in_shadow = standing(release, "decision", "shadow_only", "decision.lift_gain")
    acceptance = Acceptance(
        part="decision", by="Ann", reason="a trial", criteria=("decision.lift_gain",), digest=release.versions["policy"]
    )
    asked = Router(force_baseline=False, percent=100)
    assert routed(asked, in_shadow)[0].learned_percent == 0
    assert routed(asked, dataclasses.replace(in_shadow, accepted=(acceptance,))) == (asked, [])


@pytest.mark.parametrize("customer", ["x" * 128, "é", "客户", 2**63, -1, 0])
def test_every_id_that_a_request_may_state_has_an_arm(customer: str | int) -> None:
    assert Router(force_baseline=False, percent=100).arm(customer) == "learned"


def test_the_hold_out_is_its_share_and_no_other_draw_follows_it() -> None:
    router = Router(False, 50.0, hold_out=10.0)
    out = [router.held_out(str(i)) for i in range(20_000)]
    learned = [router.arm(str(i)) == "learned" for i in range(20_000)]
    assert 0.09 < sum(out) / len(out) < 0.11
    assert 0.46 < sum(map(bool.__and__, out, learned)) / sum(out) < 0.54
    assert not Router(hold_out=0.0).held_out("1")
    assert all(Router(hold_out=100.0).held_out(str(i)) for i in range(100))
    assert not Router(hold_out=100.0).held_out(None)


def test_a_larger_hold_out_only_adds_customers_and_another_key_draws_others() -> None:
    small, large, other = Router(hold_out=5.0), Router(hold_out=20.0), Router(hold_out=5.0, key="another")
    out = {i for i in range(5_000) if small.held_out(str(i))}
    assert out < {i for i in range(5_000) if large.held_out(str(i))}
    assert out != {i for i in range(5_000) if other.held_out(str(i))}
    assert small.held_out(7) == small.held_out("7")


@pytest.mark.parametrize("name", ["telco", "bank"])
def test_the_examples_customer_is_not_held_out(name: str) -> None:
    spec, terms = dataset(name), Terms.from_json(DECISION)
    for example in examples(spec, terms).values():
        customer = example["value"]["customer"].get(spec.roles.get("id", ""))
        assert not Router().held_out(customer)


def test_decisions_explore_their_share_with_every_action_alike() -> None:
    router = Router(exploration=0.2)
    drawn = [router.explored(str(i), 4) for i in range(40_000)]
    counts = Counter(drawn)
    assert 0.19 < 1 - counts[None] / len(drawn) < 0.21
    assert all(0.23 < counts[action] / (len(drawn) - counts[None]) < 0.27 for action in range(4))
    assert drawn == [router.explored(str(i), 4) for i in range(40_000)]
    assert {Router().explored(str(i), 4) for i in range(100)} == {None}
