from __future__ import annotations

import json
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from retain.wallet import Mode, Wallet

Floats = NDArray[np.float64]
offer = st.tuples(st.floats(0, 5), st.floats(0, 100), st.floats(0, 1))  # contact cost, liability, acceptance


def arrays(offers: list[tuple[float, float, float]]) -> tuple[Floats, Floats, Floats]:
    cost, liability, acceptance = np.array(offers, dtype=np.float64).reshape(-1, 3).T
    return cost, liability, acceptance


@given(months=st.lists(st.lists(offer, max_size=12), max_size=4), budget=st.floats(0, 400), seed=st.integers(0, 99))
@pytest.mark.parametrize("mode", ["expected", "worst_case"])
def test_many_at_once_are_admitted_as_one_after_the_other(
    mode: Mode, months: list[list[tuple[float, float, float]]], budget: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    together, alone, single = Wallet(budget, mode), Wallet(budget, mode), Wallet(budget, mode)
    for offers in months:
        cost, liability, acceptance = arrays(offers)
        made = together.admit(cost, liability, acceptance)
        one_by_one = [
            bool(alone.admit(cost[i : i + 1], liability[i : i + 1], acceptance[i : i + 1])[0]) for i in range(len(cost))
        ]
        singly = [single.admit_one(*map(float, one)) for one in zip(cost, liability, acceptance)]
        assert made.tolist() == one_by_one == singly
        assert state(together) == state(alone) == state(single)
        yes = rng.random(int(made.sum())) < acceptance[made]
        for wallet in (together, alone, single):
            wallet.settle(liability[made], acceptance[made], yes)
        assert state(together) == state(alone) == state(single)


def state(wallet: Wallet) -> tuple[object, ...]:
    """Everything that later decisions follow from, to the last bit."""
    exact = (wallet._psi.tobytes(), wallet._above.tobytes(), wallet._liability, wallet._mean)
    return (wallet.committed, wallet.held, wallet.expected, wallet.open, wallet.batch, wallet.mode, *exact)


@pytest.mark.parametrize(
    ("cost", "liability", "acceptance"),
    [
        (-1.0, 1.0, 0.5),
        (math.nan, 1.0, 0.5),
        (1.0, -1.0, 0.5),
        (1.0, math.inf, 0.5),
        (1.0, 1.0, 1.1),
        (1.0, 1.0, math.nan),
    ],
)
def test_an_offer_without_a_price_is_refused_and_nothing_held(cost: float, liability: float, acceptance: float) -> None:
    for wallet in (Wallet(100.0), Wallet(100.0, "worst_case")):
        before = state(wallet)
        with pytest.raises(ValueError, match="an offer's"):
            wallet.admit_one(cost, liability, acceptance)
        assert state(wallet) == before


@given(months=st.lists(st.lists(offer, max_size=12), max_size=6), budget=st.floats(0, 400), seed=st.integers(0, 9999))
def test_in_worst_case_nothing_is_ever_overdrawn(
    months: list[list[tuple[float, float, float]]], budget: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    wallet = Wallet(budget, "worst_case")
    for offers in months:
        cost, liability, acceptance = arrays(offers)
        made = wallet.admit(cost, liability, acceptance)
        wallet.settle(liability[made], acceptance[made], np.ones(int(made.sum()), np.bool_))
        assert wallet.committed <= wallet.budget * (1 + 1e-12)
        wallet.release(wallet.committed * rng.random() / 2)


@given(offers=st.lists(offer, max_size=20))
def test_expected_never_holds_more_than_the_worst_case_nor_less_than_the_mean(
    offers: list[tuple[float, float, float]],
) -> None:
    cost, liability, acceptance = arrays(offers)
    wallet = Wallet(10_000.0)
    assert wallet.admit(cost, liability, acceptance).all()
    worst, mean = liability.sum(), (liability * acceptance).sum()
    assert mean - 1e-6 <= wallet.held <= worst * (1 + 1e-12)


def beyond(k: int, n: int, p: float) -> float:
    """P(more than k of n accept)."""
    return sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1, n + 1))


def test_the_hold_is_chernoffs_bound_of_the_exact_tail_at_twice_the_acceptance() -> None:
    """60 equal offers: the binomial tail beyond the hold is below delta, and the hold not much above its quantile."""
    n, p, price = 60, 0.2, 10.0
    wallet = Wallet(5_000.0)
    wallet.admit(np.zeros(n), np.full(n, price), np.full(n, p))
    yes = math.floor(wallet.held / price)
    delta = 1e-6 / 2  # the first batch has half
    assert beyond(yes, n, 2 * p) <= delta
    assert yes <= next(k for k in range(n) if beyond(k, n, 2 * p) <= delta) + 3


def test_rare_acceptances_are_held_for_where_4_75_standard_deviations_are_not() -> None:
    """The docstring's example: three of 200 accept once in 900 times, and the normal margin holds for 2.3."""
    n, p = 200, 0.001
    normal = n * p + 4.75 * math.sqrt(n * p * (1 - p))
    assert normal < 3
    assert beyond(2, n, p) > 1e-3
    wallet = Wallet(1000.0)
    wallet.admit(np.zeros(n), np.ones(n), np.full(n, p))
    assert beyond(math.floor(wallet.held), n, p) <= 1e-6


# What an adversary offers in a month, given the wallet and how things went: (contact cost, liability, acceptance).
Adversary = Callable[[Wallet, np.random.Generator], tuple[Floats, Floats, Floats]]


def rare(wallet: Wallet, rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
    """Many offers that hardly anybody accepts, each as large as a twentieth of the wallet."""
    return np.zeros(200), np.full(200, wallet.budget / 20), np.full(200, 0.002)


def even(wallet: Wallet, rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
    """As many coin tosses as fit."""
    return np.full(200, 0.1), np.full(200, 5.0), np.full(200, 0.5)


def quarter(wallet: Wallet, rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
    """Offers that even twice the acceptance leaves to chance."""
    return np.zeros(200), np.full(200, 5.0), np.full(200, 0.25)


def doubling(wallet: Wallet, rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
    """All that is free on a few offers, again and again: what bankrupts who prices by the mean."""
    return np.zeros(8), np.full(8, max(wallet.free, 0.0) / 3), rng.uniform(0.05, 0.6, 8)


def sure(wallet: Wallet, rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
    """Acceptances of 0 and 1 among others, amounts over six orders."""
    return rng.random(60), 10 ** rng.uniform(-3, 3, 60), rng.choice([0.0, 1.0, 0.01, 0.3], 60)


def overdraws(adversary: Adversary, wallets: int, overdraw: float, ratio: float) -> int:
    """How many wallets are, if acceptance is `ratio` times what they are told."""
    found = 0
    for seed in range(wallets):
        rng = np.random.default_rng([7, seed])
        wallet = Wallet(300.0, overdraw=overdraw)
        for _ in range(12):
            cost, liability, acceptance = adversary(wallet, rng)
            made = wallet.admit(cost, liability, acceptance)
            yes = rng.random(int(made.sum())) < ratio * acceptance[made]
            wallet.settle(liability[made], acceptance[made], yes)
            if wallet.committed > wallet.budget * (1 + 1e-12):
                found += 1
                break
    return found


@pytest.mark.parametrize("ratio", [1.0, 2.0])
@pytest.mark.parametrize("adversary", [rare, even, quarter, doubling, sure])
def test_no_adversary_overdraws(adversary: Adversary, ratio: float) -> None:
    """Nor if acceptance is twice what is believed."""
    assert overdraws(adversary, 200, 1e-6, ratio) == 0


@pytest.mark.parametrize("adversary", [rare, even, quarter, doubling, sure])
def test_overdraws_stay_below_what_the_bound_allows(adversary: Adversary) -> None:
    """At 1e-6 a wrong bound would hardly show; at 20 % it does."""
    assert overdraws(adversary, 200, 0.2, 2.0) <= 0.2 * 200


def test_beyond_what_is_doubted_budgets_are_passed() -> None:
    """Otherwise the tests above could not fail: at 2.5 times the acceptance the hold is too small."""
    assert overdraws(quarter, 100, 0.2, 2.5) > 0.2 * 100


def test_answers_to_one_kind_of_offer_do_not_dispel_the_doubt_about_another() -> None:
    """Thousands of contacts without a discount, accepted as told; then discounts, accepted twice as often as told."""
    free, told, true = np.full(3_000, 0.3), np.full(2_000, 0.3), 0.6
    none, price = np.zeros(3_000), np.full(2_000, 0.2 * 6 * 20.0)
    overdrawn = 0
    for seed in range(50):
        rng = np.random.default_rng([8, seed])
        wallet = Wallet(12_000.0)
        assert wallet.admit(none, none, free).all()
        wallet.settle(none, free, rng.random(3_000) < free)
        for _ in range(12):
            made = wallet.admit(none[:2_000], price, told)
            wallet.settle(price[made], told[made], rng.random(int(made.sum())) < true)
            overdrawn += wallet.committed > wallet.budget * (1 + 1e-12)
    assert overdrawn == 0


def test_what_is_expected_is_committed_plus_the_mean_of_what_is_open() -> None:
    wallet = Wallet(1_000.0)
    assert wallet.expected == 0.0
    cost, liability, p = np.full(3, 1.0), np.array([10.0, 20.0, 40.0]), np.array([0.1, 0.5, 0.25])
    assert wallet.admit(cost, liability, p).all()
    assert wallet.admit_one(1.0, 100.0, 0.2)
    assert wallet.expected == pytest.approx(4 + 1 + 10 + 10 + 20)
    wallet.settle(liability[:2], p[:2], np.array([False, True]))
    assert wallet.expected == pytest.approx(4 + 20 + 10 + 20)
    wallet.settle(np.array([40.0, 100.0]), np.array([0.25, 0.2]), np.array([False, False]))
    assert wallet.expected == wallet.committed == 24.0


def test_an_early_yes_misleads_nobody() -> None:
    """All acceptances of calibrated offers are answered first: no alarm."""
    rng = np.random.default_rng(2)
    wallet = Wallet(1e6)
    p = np.full(3000, 0.3)
    wallet.admit(np.zeros(3000), np.ones(3000), p)
    yes = rng.random(3000) < p
    wallet.settle(np.ones(int(yes.sum())), p[yes], yes[yes])
    assert wallet.mode == "expected"
    wallet.settle(np.ones(int((~yes).sum())), p[~yes], yes[~yes])
    assert wallet.mode == "expected"


def test_from_the_alarm_on_offers_are_held_for_in_full() -> None:
    """What was open keeps the smaller hold it was admitted on, so it alone may still pass the budget."""
    wallet = Wallet(1_000.0)
    price, p = np.full(1_000, 10.0), np.full(1_000, 0.1)
    made = wallet.admit(np.zeros(1_000), price, p)
    n = int(made.sum())
    assert wallet.held < 10 * n
    wallet.settle(price[:60], p[:60], np.ones(60, np.bool_))  # far above what was told
    assert (wallet.mode, wallet.held) == ("worst_case", pytest.approx(10 * (n - 60)))
    assert wallet.free < 0
    assert not wallet.admit_one(0.0, 0.01, 0.1)
    wallet.settle(price[60:n], p[60:n], np.zeros(n - 60, np.bool_))
    room = int(wallet.free // 10)
    assert wallet.admit(np.zeros(1_000), price, p).sum() == room


def test_acceptance_above_its_interval_ends_in_worst_case() -> None:
    rng = np.random.default_rng(3)
    wallet = Wallet(1e6)
    p, price = np.full(100, 0.3), np.ones(100)
    seen = 0
    while wallet.mode == "expected":
        wallet.admit(np.zeros(100), price, p)
        wallet.settle(price, p, rng.random(100) < 0.45)
        seen += 100
    assert seen <= 500
    wallet.admit(np.zeros(100), price, p)
    assert wallet.held == 100
    wallet.settle(price, p, np.zeros(100, np.bool_))
    assert wallet.mode == "worst_case"


def test_calibrated_acceptance_raises_few_false_alarms() -> None:
    rng = np.random.default_rng(4)
    alarms = 0
    for _ in range(300):
        wallet = Wallet(1e6)
        for _ in range(12):
            p = rng.uniform(0.05, 0.6, 40)
            wallet.admit(np.zeros(40), np.ones(40), p)
            wallet.settle(np.ones(40), p, rng.random(40) < p)
        alarms += wallet.mode == "worst_case"
    assert alarms <= 2  # 0.3 expected at most; three or more has probability .004


def test_without_a_budget_nothing_is_offered() -> None:
    wallet = Wallet(0.0)
    assert not wallet.admit(np.array([1.0, 0.5]), np.array([0.0, 3.0]), np.array([0.1, 0.1])).any()
    assert wallet.committed == 0


def test_what_leaving_customers_give_back_can_be_offered_again() -> None:
    wallet = Wallet(10.0, "worst_case")
    one = (np.array([0.0]), np.array([10.0]), np.array([0.5]))
    assert wallet.admit(*one).all()
    wallet.settle(one[1], one[2], np.array([True]))
    assert not wallet.admit(*one).any()
    wallet.release(10.0)
    assert wallet.admit(*one).all()


@pytest.mark.parametrize("budget", [-1.0, math.nan, math.inf])
def test_a_budget_that_is_none_is_refused(budget: float) -> None:
    with pytest.raises(ValueError, match="a budget of"):
        Wallet(budget)


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="wants expected or worst_case"):
        Wallet(1.0, "hopeful")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cost", "liability", "acceptance"),
    [
        (math.nan, 1.0, 0.5),
        (-1.0, 1.0, 0.5),
        (1.0, -1.0, 0.5),
        (1.0, math.inf, 0.5),
        (1.0, 1.0, 1.5),
        (1.0, 1.0, math.nan),
    ],
)
def test_an_offer_without_a_price_is_refused(cost: float, liability: float, acceptance: float) -> None:
    wallet = Wallet(100.0)
    with pytest.raises(ValueError, match="an offer's"):
        wallet.admit(np.array([cost]), np.array([liability]), np.array([acceptance]))
    assert (wallet.committed, wallet.open) == (0.0, 0)


def test_more_answers_than_open_offers_are_refused() -> None:
    with pytest.raises(ValueError, match="1 answers to 0 open offers"):
        Wallet(100.0).settle(np.array([1.0]), np.array([0.5]), np.array([True]))


@given(
    offers=st.lists(st.tuples(st.floats(0, 5), st.floats(0, 60), st.floats(0, 1)), min_size=1, max_size=30),
    answered=st.sets(st.integers(0, 29)),
)
def test_what_would_be_admitted_is_what_is_admitted(
    offers: list[tuple[float, float, float]], answered: set[int]
) -> None:
    wallet = Wallet(100.0)
    for place, offer in enumerate(offers):
        expected, held = wallet.would_admit(*offer), wallet.held
        assert (wallet.held, wallet.open) == (held, wallet.open)
        assert wallet.admit_one(*offer) == expected
        if expected and place in answered:
            wallet.settle(np.array([offer[1]]), np.array([offer[2]]), np.array([False]))


event = st.tuples(
    st.sampled_from(["admit", "one", "accepted", "declined", "late", "withdraw", "release", "budget"]), offer
)


@given(events=st.lists(event, max_size=40), budget=st.floats(0, 400), mode=st.sampled_from(["expected", "worst_case"]))
def test_a_restored_wallet_goes_on_as_an_undisturbed_one(
    events: list[tuple[str, tuple[float, float, float]]], budget: float, mode: Mode
) -> None:
    """Through JSON before every step, to the last bit."""
    wallet, undisturbed = Wallet(budget, mode), Wallet(budget, mode)
    waiting: list[tuple[float, float, float]] = []
    for kind, asked in events:
        wallet = Wallet.restored(json.loads(json.dumps(wallet.state(), allow_nan=False)))
        both = (wallet, undisturbed)
        if kind == "admit":
            made, same = (one.admit(*arrays([asked, asked])).tolist() for one in both)
            waiting += [asked] * sum(made)
            assert made == same
        elif kind == "one":
            made, same = (one.admit_one(*asked) for one in both)
            waiting += [asked] * made
            assert made == same
        elif kind == "budget":
            for one in both:
                one.budget = 2 * asked[1]
        elif kind == "late":
            for one in both:
                one.settle_late(asked[1])
        elif kind == "release":
            for one in both:
                one.release(asked[0])
        elif waiting:
            settled = waiting.pop(0)
            for one in both:
                if kind == "withdraw":
                    one.withdraw(*settled)
                else:
                    one.settle(*arrays([settled])[1:], np.array([kind == "accepted"]))
        assert state(wallet) == state(undisturbed)
        assert wallet.budget == undisturbed.budget


def test_a_copy_stays_as_it_was() -> None:
    wallet = Wallet(400.0)
    wallet.admit_one(1.0, 30.0, 0.2)
    copied = wallet.copy()
    before = state(copied)
    wallet.admit(*arrays([(1.0, 20.0, 0.3)] * 3))
    wallet.settle(*arrays([(1.0, 20.0, 0.3)])[1:], np.array([True]))
    wallet.settle_late(3.0)
    wallet.withdraw(1.0, 30.0, 0.2)
    assert state(copied) == before != state(wallet)


def test_a_withdrawn_offer_was_never_made() -> None:
    wallet, without = Wallet(400.0), Wallet(400.0)
    for one in (wallet, without):
        one.admit_one(1.0, 30.0, 0.2)
    wallet.admit_one(1.0, 50.0, 0.6)
    wallet.withdraw(1.0, 50.0, 0.6)
    assert (wallet.committed, wallet.open) == (without.committed, without.open)
    assert wallet.expected == pytest.approx(without.expected)
    np.testing.assert_allclose(wallet._psi, without._psi)
    np.testing.assert_allclose(wallet._above, without._above)


def test_what_is_accepted_late_is_committed_and_counts_as_accepted() -> None:
    wallet = Wallet(400.0)
    for _ in range(30):
        wallet.admit_one(0.0, 1.0, 0.01)
        wallet.settle(np.array([1.0]), np.array([0.01]), np.array([False]))
        wallet.settle_late(1.0)
    assert wallet.committed == 30.0
    assert wallet.mode == "worst_case"  # by the alarm


@pytest.mark.parametrize(
    "change", [{"psi": [0.0]}, {"above": []}, {"mode": "else"}, {"scale": math.nan}, {"psi": None}, {"budget": "x"}]
)
def test_what_is_no_state_of_a_wallet_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"state|wallet|budget|float"):
        Wallet.restored(Wallet(10.0).state() | change)
    with pytest.raises(ValueError, match="no state"):
        Wallet.restored({})
