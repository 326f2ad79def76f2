"""Distributions between their own deciles, and what is compared with them later."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from retain.message import Message
from retain.reference import Distribution, Messages, Reference


def test_a_distribution_lies_between_its_own_deciles() -> None:
    made = Distribution.of([float(value) for value in range(1, 101)])
    assert made.edges == (10, 20, 30, 40, 50, 60, 70, 80, 90)
    assert made.counts == (10,) * 10
    assert made.count([-5, 10, 10.5, 90, 91, 1e9]) == (2, 1, 0, 0, 0, 0, 0, 0, 1, 2)


def test_values_that_are_few_have_a_bin_each() -> None:
    made = Distribution.of([3.0] * 50 + [1.0] * 30 + [2.0] * 20)
    assert (made.edges, made.counts) == ((1.0, 2.0), (30, 20, 50))
    assert Distribution.of([7.0, 7.0]) == Distribution(edges=(), counts=(2,))
    assert Distribution.of([]) == Distribution(edges=(), counts=(0,))


@given(st.lists(st.floats(-1e6, 1e6), max_size=60), st.lists(st.floats(-1e6, 1e6), max_size=60))
def test_every_value_is_counted_once_and_no_bin_of_its_own_is_empty(own: list[float], other: list[float]) -> None:
    made = Distribution.of(own)
    assert sum(made.counts) == len(own)
    assert sum(made.count(other)) == len(other)
    assert made.count(own) == made.counts
    assert not own or min(made.counts) > 0
    assert made == Distribution.of(np.random.default_rng(1).permutation(own).tolist())


@pytest.mark.parametrize(
    "content",
    [
        {"edges": [1.0], "counts": [1]},
        {"edges": [2.0, 1.0], "counts": [1, 1, 1]},
        {"edges": [1.0, 1.0], "counts": [1, 1, 1]},
        {"edges": [], "counts": [-1]},
        {"edges": [], "counts": [1.5]},
        {"edges": [], "counts": [1], "more": 1},
    ],
)
def test_counts_that_fit_no_edges_are_refused(content: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Distribution.model_validate_json(json.dumps(content))


def test_a_reference_survives_its_file() -> None:
    said = [Message("price", "text", "sft", score, tokens, 40, "text") for score, tokens in ((1.5, 20), (None, None))]
    messages = Messages.of(said)
    assert (messages.n, messages.tokens.counts, messages.score.counts, messages.characters.counts) == (
        2,
        (1,),
        (1,),
        (2,),
    )
    made = Reference(customers=3, messages={"sft": {"baseline": messages}})
    assert Reference.model_validate_json(json.dumps(made.model_dump(mode="json"))) == made
