"""The dated price list of rented machines: infra/prices.yaml.

What an attempt on such a machine is metered at, and what a machine costs beside it that nobody takes away. It is no
part of what a stage makes, so a price that changes retrains nothing.
"""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine.errors import ConfigError
from engine.paths import why_unreadable

PRICES = Path(__file__).resolve().parent.parent / "infra" / "prices.yaml"
# Above $100 an hour no attempt of any length would fit a budget; it would be a slip of the decimal point.
Usd = Annotated[float, Field(gt=0, le=100)]


class _Block(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Price(_Block):
    """Dollars an hour of one machine, as it was seen on that day."""

    machine: str
    gpu: str | None
    region: str
    preemptible: bool
    date: datetime.date
    usd_per_hour: Usd


class Prices(_Block):
    currency: Literal["USD"]
    source: str
    prices: Annotated[tuple[Price, ...], Field(min_length=1, strict=False)]

    def find(
        self, machine: str, gpu: str | None, region: str, *, preemptible: bool, today: datetime.date | None = None
    ) -> Price | None:
        """The latest price of that machine which isn't in the future; None if there is none."""
        asked = (machine, gpu, region, preemptible)
        today = today or datetime.datetime.now(datetime.UTC).date()
        known = [
            price
            for price in self.prices
            if (price.machine, price.gpu, price.region, price.preemptible) == asked and price.date <= today
        ]
        return max(known, key=lambda price: price.date, default=None)

    def usd_per_hour(self, machine: str, gpu: str | None, region: str, *, preemptible: bool) -> float:
        """Raises ConfigError, in a line, for a machine, accelerator or region without a price."""
        price = self.find(machine, gpu, region, preemptible=preemptible)
        if price is not None:
            return price.usd_per_hour
        kind = "preemptible " if preemptible else ""
        has = f"with {gpu}" if gpu else "without a GPU"
        raise ConfigError(
            f"{PRICES}: no price of a {kind}{machine} {has} in {region}{self._instead(machine)}. Add a line for it, "
            "with its date, or name another machine (costs.machines) or region (costs.region) in the experiment"
        )

    def on_demand(self, region: str) -> dict[str, float]:
        """Machine -> dollars an hour of one that nobody takes away."""
        found = {price.machine: self.find(price.machine, price.gpu, region, preemptible=False) for price in self.prices}
        return {machine: price.usd_per_hour for machine, price in found.items() if price is not None}

    def seen(self, region: str) -> datetime.date | None:
        """The day of the region's latest price."""
        return max((price.date for price in self.prices if price.region == region), default=None)

    def _instead(self, machine: str) -> str:
        regions = sorted({price.region for price in self.prices if price.machine == machine})
        return f"; it lists that machine in {', '.join(regions)}" if regions else ""


def load_prices(path: Path | None = None) -> Prices:
    """The price list. Raises ConfigError with one line if it can't be read, or isn't one."""
    path = path or PRICES
    try:
        return Prices.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ConfigError(f"{path}: the price list is missing; take it from the repository") from None
    except OSError as error:
        raise ConfigError(f"{path}: {why_unreadable(error)}") from None
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(map(str, problem["loc"])) or "the whole file"
        raise ConfigError(f"{path}: {where}: {problem['msg']}; mend the price list") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        cause = " ".join(str(error).split())
        raise ConfigError(f"{path}: is no YAML ({cause}); mend the price list") from None
