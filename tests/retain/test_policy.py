from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from retain.policy import Policy, PolicyError, price_input, reprice


def make(price: float = 0.5, seed: int = 0) -> Policy:
    rng = np.random.default_rng(seed)

    def layer(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
        return rng.normal(size=(rows, columns)).astype(np.float32) / 2, rng.normal(size=columns).astype(np.float32)

    return Policy(
        observed=("charge", "risk", "contacts"),
        actions=("no_contact", "offer_0", "offer_10"),
        mean=np.array([64.8, 0.3, 1.0], np.float32),
        scale=np.array([30.1, 0.2, 0.7], np.float32),
        layers=(layer(4, 16), layer(16, 16), layer(16, 3)),
        price=price,
        prices=(0.1, 2.0),
    )


@pytest.fixture
def seen() -> np.ndarray:
    rng = np.random.default_rng(1)
    return (rng.normal(size=(200, 3)) * [30, 0.2, 1] + [65, 0.3, 1]).astype(np.float32)


def plain(policy: Policy, observation: np.ndarray) -> np.ndarray:
    """The network as it was trained: standardise, append the price, layer by layer."""
    standardised = (observation - policy.mean) / policy.scale
    x = np.column_stack((standardised, np.full(len(observation), price_input(policy.price)))).astype(np.float64)
    for weight, bias in policy.layers[:-1]:
        x = np.tanh(x @ weight + bias)
    return x @ policy.layers[-1][0] + policy.layers[-1][1]


def test_statistics_and_price_are_folded_into_the_first_layer(seen: np.ndarray) -> None:
    policy = make()
    np.testing.assert_allclose(policy.logits(seen), plain(policy, seen), atol=1e-5)
    other = policy.at(1.5)
    np.testing.assert_allclose(other.logits(seen), plain(other, seen), atol=1e-5)
    assert np.abs(other.logits(seen) - policy.logits(seen)).max() > 0.01


def test_one_row_alone_is_decided_as_among_others(seen: np.ndarray) -> None:
    policy, mask = make(), np.random.default_rng(2).random((200, 3)) < 0.5
    mask[:, 0] = True
    chosen = policy.choose(seen, mask)
    assert len(set(chosen.tolist())) == 3
    for row in range(200):
        assert policy.choose(seen[row], mask[row]) == chosen[row]
        np.testing.assert_allclose(policy.logits(seen[row]), policy.logits(seen)[row], atol=1e-12)


def test_a_single_decision_is_the_likeliest_of_all_actions(seen: np.ndarray) -> None:
    policy = make()
    chosen = policy.choose(seen, np.ones((200, 3), np.bool_))
    assert [policy.best(row) for row in seen] == chosen.tolist()
    with pytest.raises(PolicyError, match="not finite in risk"):
        policy.best(np.array([60, np.nan, 1], np.float32))


def test_an_output_that_is_no_number_is_no_decision(seen: np.ndarray) -> None:
    policy = make()
    # No file holds such weights (see below); a sum over them may still run over.
    broken = replace(policy, layers=(*policy.layers[:-1], (np.full((16, 3), np.nan, np.float32), policy.layers[-1][1])))
    with pytest.raises(PolicyError, match="the network's output is not finite"):
        broken.best(seen[0])


def test_what_the_mask_forbids_has_no_probability(seen: np.ndarray) -> None:
    policy, mask = make(), np.random.default_rng(3).random((200, 3)) < 0.5
    mask[:, 0] = True
    probabilities = policy.probabilities(seen, mask)
    assert (probabilities[~mask] == 0).all()
    assert (probabilities[mask] > 0).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    free = policy.probabilities(seen, np.ones_like(mask))
    np.testing.assert_allclose(probabilities[mask], (free / (free * mask).sum(axis=1, keepdims=True))[mask])
    assert mask[np.arange(200), policy.choose(seen, mask)].all()


def test_large_logits_do_not_overflow(seen: np.ndarray) -> None:
    policy = make()
    weight, bias = policy.layers[-1]
    steep = replace(policy, layers=(*policy.layers[:-1], (weight * 1e4, bias)))
    found = steep.probabilities(seen, np.ones((200, 3), np.bool_))
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found.max(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_observation_that_is_not_finite_is_named(seen: np.ndarray, value: float) -> None:
    seen[7, 1] = value
    for observation in (seen, seen[7]):
        with pytest.raises(PolicyError, match=r"not finite in risk$"):
            make().logits(observation)


def test_a_policy_survives_its_file(seen: np.ndarray) -> None:
    policy = make()
    data = policy.to_json()
    again = Policy.from_json(data)
    assert again.to_json() == data
    assert (again.observed, again.actions, again.price, again.prices) == (
        policy.observed, policy.actions, policy.price, policy.prices,
    )  # fmt: skip
    np.testing.assert_array_equal(again.logits(seen), policy.logits(seen))


def broken(**changes: object) -> bytes:
    return json.dumps(json.loads(make().to_json()) | changes).encode()


LAYERS = json.loads(make().to_json())["layers"]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "wants observed, actions"),
        (b"[1]", "wants observed, actions"),
        (b"{}", "wants observed, actions"),
        (b"[" * 100_000, "wants observed, actions"),
        (broken(layers=3), "wants observed, actions"),
        (broken(layers=[{"weight": [["x"]], "bias": [0]}]), "wants observed, actions"),
        (broken(layers=[{"weight": [[1, 2], [3]], "bias": [0]}]), "wants observed, actions"),
        (broken(observed=["risk", "risk", "x"]), "wants observed, actions"),
        (broken(actions="no_contact"), "wants observed, actions"),
        (broken(prices=[0.1]), "wants observed, actions"),
        (broken(layers=[]), "from 3 columns to 3 actions"),
        (broken(layers=LAYERS[1:]), "from 3 columns to 3 actions"),
        (broken(layers=[{"weight": 1.0, "bias": 2.0}]), "from 3 columns to 3 actions"),
        (broken(actions=["no_contact", "offer_0"]), "from 3 columns to 2 actions"),
        (broken(mean=[0.0, 1.0]), "one number for each of 3 columns"),
        (broken(scale=[1.0, 1.0, 0.0]), "scale is not above 0"),
        (broken(mean=[0.0, 1e39, 0.0]), "not finite"),
        (broken(price=3.0), "a price of 3 in 0.1 to 2"),
        (broken(prices=[-1.0, 2.0]), "a price of 0.5 in -1 to 2"),
        (make().to_json().replace(b'"price": 0.5', b'"price": NaN'), "a price of nan"),
        (make().to_json().replace(b'"prices": [0.1, 2.0]', b'"prices": [0.1, Infinity]'), "a price of 0.5"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_a_file_that_is_no_policy_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(PolicyError, match=f"^ppo.json: .*{said}"):
        Policy.from_json(data, "ppo.json")


@pytest.mark.parametrize("price", [0.0, 2.5, np.nan])
def test_a_price_it_was_not_trained_at_is_refused(price: float) -> None:
    with pytest.raises(PolicyError, match=r"was trained at 0\.1 to 2"):
        make().at(price)


def test_repricing_finds_the_lowest_price_that_keeps_the_target() -> None:
    policy, tried = reprice(make(), lambda policy: 3 / (1 + policy.price), target=1.5, rounds=20)
    assert policy.price == pytest.approx(1.0, abs=1e-5)
    assert 3 / (1 + policy.price) <= 1.5
    assert len(tried) == 22
    assert all(cost == 3 / (1 + price) for price, cost in tried)


def test_repricing_a_cost_in_steps_stays_within_the_target() -> None:
    policy, _ = reprice(make(), lambda policy: 1.0 if policy.price > 0.7 else 2.0, target=1.9)
    assert 0.7 < policy.price < 0.701


def test_a_target_that_no_price_reaches_is_an_error_and_a_loose_one_takes_the_lowest() -> None:
    with pytest.raises(PolicyError, match=r"costs 1 at its highest price of 2: none keeps it within 0\.9"):
        reprice(make(), lambda policy: 3 / (1 + policy.price), target=0.9)
    policy, tried = reprice(make(), lambda policy: 3 / (1 + policy.price), target=5.0)
    assert policy.price == 0.1
    assert len(tried) == 1


def test_medians_are_kept_where_there_are_any() -> None:
    policy = make()
    assert b"medians" not in policy.to_json()
    gapped = replace(policy, medians={"income": 2500.5})
    assert Policy.from_json(gapped.to_json()).medians == {"income": 2500.5}


@pytest.mark.parametrize("medians", [{"income": 1e999}, {"income": "much"}, [1.0]])
def test_medians_that_are_no_numbers_are_refused(medians: object) -> None:
    content = json.loads(make().to_json()) | {"medians": medians}
    with pytest.raises(PolicyError):
        Policy.from_json(json.dumps(content).encode())
