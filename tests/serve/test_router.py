"""Who is decided about by which arm."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import pytest

from retain.parts import Acceptance
from retain.release import Release
from serve.router import EVERYBODY_BASELINE, Router, routed
from tests.releases import standing

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
