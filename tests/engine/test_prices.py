"""A machine without a price, and a price list that can't be read, are one clear line."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.config import CONFIGS
from engine.errors import ConfigError
from engine.prices import PRICES, check_priced, load_prices
from flows.plan import load_experiment


def test_every_machine_of_every_experiment_that_ships_has_a_price() -> None:
    prices = load_prices()
    assert prices.seen
    assert prices.source
    for path in CONFIGS.glob("experiment_*.yaml"):
        machines = load_experiment(path.stem.removeprefix("experiment_")).costs.machines
        check_priced(machine.type for machine in (machines.local, machines.cpu, machines.gpu))
    for price in prices.machines.values():
        assert price.spot < price.on_demand


def test_a_machine_without_a_price_is_named() -> None:
    with pytest.raises(
        ConfigError, match=r"prices\.yaml: no price of machine 'n1-standard-8'.*costs\.machines"
    ) as raised:
        check_priced(["e2-standard-4", "n1-standard-8"])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (None, "is missing"),
        (b"", "the whole file"),
        (b"machines: [", "is no YAML"),
        (b"\xff\xfe", "is no YAML"),
        (b"[" * 100_000, "is no YAML"),
        (PRICES.read_bytes().replace(b"spot: 0.28", b"spot: cheap"), r"machines\.g2-standard-4\.spot"),
        (PRICES.read_bytes().replace(b"spot: 0.28", b"spot: .nan"), r"machines\.g2-standard-4\.spot"),
        (PRICES.read_bytes().replace(b", spot: 0.28", b""), r"machines\.g2-standard-4\.spot"),
        (PRICES.read_bytes().replace(b"seen: 2026-11", b"seen: 2026"), "seen"),
    ],
)
def test_a_price_list_that_can_not_be_read_is_one_line(tmp_path: Path, text: bytes | None, cause: str) -> None:
    path = tmp_path / "prices.yaml"
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(ConfigError, match=cause) as raised:
        load_prices(path)
    assert str(raised.value).startswith(str(path))
    assert "\n" not in str(raised.value)
