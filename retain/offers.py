"""What may be offered, how often, and how likely it is to be accepted.

The terms that an experiment states, a simulated year obeys and a release carries: declared and checked here for all
three. Whoever reads them from JSON gets pydantic's errors, which name the key.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, TypeAdapter, model_validator
from pydantic.dataclasses import dataclass

from retain.bounds import MAX_PERCENT

Floats = NDArray[np.float64]

Percent = Annotated[int, Field(ge=0, le=MAX_PERCENT)]
# A year is as far as anything here looks ahead.
Months = Annotated[int, Field(ge=1, le=12)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
# Of earlier contacts, by which a customer is tired, a month.
Decay = Annotated[float, Field(ge=0, lt=1)]

STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(11)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


class _Stated:
    def model_dump(self, mode: Literal["json"]) -> dict[str, Any]:
        """As JSON holds it; by the name that it has in the models of an experiment, which this is part of."""
        content: dict[str, Any] = TypeAdapter(type(self)).dump_python(self, mode=mode)
        return content


@dataclass(frozen=True, config=STRICT)
class Offers(_Stated):
    """What may be offered: `levels` in percent off the monthly charge, rising, for `months`; action i is levels[i - 1].

    `contact_cost` in units of `currency` is paid for every offer made, accepted or not.
    """

    levels: Annotated[tuple[Percent, ...], Field(min_length=1)]
    months: Months
    contact_cost: NotNegative
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")]

    @model_validator(mode="after")
    def _rising(self) -> Offers:
        if list(self.levels) != sorted(set(self.levels)):
            raise ValueError(f"levels {list(self.levels)}: wants rising percentages, each once")
        return self

    @property
    def discounts(self) -> Floats:
        """(1 + offers,) share of the charge that each action takes off; 0 for no contact."""
        return np.array([0.0, *(level / 100 for level in self.levels)])


@dataclass(frozen=True, config=STRICT)
class Cap(_Stated):
    """At most `max_contacts` in any `window` months, the one that ends now among them."""

    max_contacts: Annotated[int, Field(ge=1, le=120)]
    window: Months


@dataclass(frozen=True, config=STRICT)
class Acceptance:
    """P(accept): log-odds = level + shrink x log-odds of the bridge's score + slope ln(1 + percent / unit)
    - fatigue x F, F the earlier contacts, decayed.

    What no feature tells is taken as normal around it: `slope_sd` of the slope (a share of it), and the spread of the
    scores within a customer's cell. `probability` is the mean over both: what a wallet has to reckon with.
    """

    level: float
    shrink: Share
    slope: NotNegative
    unit: Positive
    slope_sd: Share
    fatigue: NotNegative

    def log_odds(self, score: Floats, percent: float | Floats) -> Floats:
        """(n,) of customers with bridge scores (n,), not yet contacted."""
        return np.asarray(self.level + self.shrink * logit(score) + self.slope * np.log1p(percent / self.unit))

    def sd(self, spread: Floats, percent: float | Floats) -> Floats:
        """(n,) standard deviation of the log-odds, `spread` (n,) that of the score's log-odds within the cell."""
        return np.hypot(self.shrink * spread, self.slope_sd * self.slope * np.log1p(percent / self.unit))

    def probability(
        self, score: Floats, spread: Floats, percent: float | Floats, tired: float | Floats = 0.0
    ) -> Floats:
        """(n,) mean acceptance, `tired` the F of each."""
        centre = self.log_odds(score, percent) - self.fatigue * tired
        return mean_probability(centre, self.sd(spread, percent))


def logit(p: Floats) -> Floats:
    return np.asarray(np.log(p) - np.log1p(-p))


def mean_probability(centre: Floats, sd: Floats) -> Floats:
    """(...,) mean of the logistic function of a normal variable, by Gauss-Hermite quadrature: 1e-9 at sd 0.7."""
    return np.asarray(1 / (1 + np.exp(-(centre[..., None] + sd[..., None] * _NODES))) @ _WEIGHTS)


def tiredness(contacts: Sequence[int] | NDArray[np.int64], decay: float) -> float:
    """F of one customer: contacts of each month so far, oldest first, each decayed once per month since."""
    tired = 0.0
    for count in contacts:
        tired = decay * tired + count
    return tired
