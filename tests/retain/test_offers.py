"""Terms that mean nothing are refused, by name, and acceptance is the mean over what nobody sees."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from retain.offers import Acceptance, Cap, Offers, logit, mean_probability

OFFERS = {"levels": [0, 5, 20], "months": 6, "contact_cost": 1.0, "currency": "EUR"}
CAP = {"max_contacts": 2, "window": 3}


@pytest.mark.parametrize(
    ("levels", "months", "cost", "message"),
    [
        ((), 6, 1.0, "at least 1 item"),
        ((5, 5), 6, 1.0, "levels .5, 5.: wants rising percentages, each once"),
        ((10, 5), 6, 1.0, "rising"),
        ((5, 51), 6, 1.0, "less than or equal to 50"),
        ((-5, 5), 6, 1.0, "greater than or equal to 0"),
        ((5,), 0, 1.0, "greater than or equal to 1"),
        ((5,), 13, 1.0, "less than or equal to 12"),
        ((5,), 6, -1.0, "greater than or equal to 0"),
        ((5,), 6, math.nan, "finite number"),
    ],
)
def test_offers_that_mean_nothing_are_refused(levels: tuple[int, ...], months: int, cost: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Offers(levels, months, cost, "EUR")


@pytest.mark.parametrize(
    ("kind", "content", "key", "value"),
    [
        (Offers, OFFERS, "levels", [0, 5.5]),
        (Offers, OFFERS, "currency", "euro"),
        (Offers, OFFERS, "curency", "EUR"),
        (Cap, CAP, "max_contacts", 0),
        (Cap, CAP, "max_contacts", 121),
        (Cap, CAP, "window", 13),
        (Cap, CAP, "window", 2.5),
    ],
)
def test_what_is_read_is_checked_by_name(kind: Any, content: dict[str, Any], key: str, value: Any) -> None:
    with pytest.raises(ValidationError) as error:
        TypeAdapter(kind).validate_python(content | {key: value}, strict=False)
    assert error.value.errors()[0]["loc"][0] == key


def test_what_is_stated_is_written_as_it_was_read() -> None:
    for kind, content in ((Offers, OFFERS), (Cap, CAP)):
        read: Any = TypeAdapter(kind).validate_json(TypeAdapter(dict).dump_json(content))
        assert read.model_dump("json") == content
        with pytest.raises(dataclasses.FrozenInstanceError):
            read.months = 3


def test_mean_acceptance_is_the_mean_over_latents() -> None:
    model = Acceptance(level=-1.3, shrink=0.5, slope=1.1, unit=5.0, slope_sd=0.2, fatigue=0.4)
    score, spread = np.array([0.05, 0.4]), np.array([0.9, 0.7])
    rng = np.random.default_rng(0)
    z = rng.standard_normal((2, 400_000))
    odds = (
        model.log_odds(score, 10.0)[:, None] - 0.4 * 1.6 + 0.5 * spread[:, None] * z[0] + 0.2 * 1.1 * math.log(3) * z[1]
    )
    drawn = 1 / (1 + np.exp(-odds))
    error = drawn.std(axis=1) / math.sqrt(drawn.shape[1])
    assert (np.abs(model.probability(score, spread, 10.0, 1.6) - drawn.mean(axis=1)) < 4 * error).all()


def test_the_quadrature_is_exact_where_nothing_varies() -> None:
    p = np.array([0.02, 0.3, 0.9])
    assert np.allclose(mean_probability(logit(p), np.zeros(3)), p, rtol=1e-12)
