"""The dated price list of machines: infra/prices.yaml.

What is metered is an experiment's own price. The list says beside it what a machine costs that nobody takes away.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine.errors import ConfigError
from engine.paths import why_unreadable

PRICES = Path(__file__).resolve().parent.parent / "infra" / "prices.yaml"
Usd = Annotated[float, Field(gt=0, le=100)]  # an hour


class _Block(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class MachinePrice(_Block):
    """Dollars an hour."""

    on_demand: Usd
    spot: Usd


class Prices(_Block):
    seen: str  # the month
    region: str
    currency: str
    source: str
    machines: Annotated[dict[str, MachinePrice], Field(min_length=1)]


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


def check_priced(machine_types: Iterable[str], path: Path | None = None) -> None:
    """Raises ConfigError if a machine isn't in the list: before money is reserved for it."""
    path = path or PRICES
    missing = sorted(set(machine_types) - load_prices(path).machines.keys())
    if missing:
        raise ConfigError(
            f"{path}: no price of machine {missing[0]!r}, which stages of this experiment run on (costs.machines). "
            "Add what it costs on demand and as a spot machine, or name another"
        )
