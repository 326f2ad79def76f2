"""A machine without a price, and a price list that can't be read, are one clear line."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from engine.config import CONFIGS
from engine.errors import ConfigError
from engine.prices import PRICES, Prices, load_prices
from flows.plan import load_experiment
from flows.pools import Pools, machines_for

US = "us-central1"
LAST = (
    b"{machine: g2-standard-4, gpu: nvidia-l4, region: us-central1, preemptible: true, date: 2026-11-01, usd_per_hour"
)


def test_every_machine_of_every_experiment_that_ships_has_a_price() -> None:
    prices = load_prices()
    for path in CONFIGS.glob("experiment_*.yaml"):
        costs = load_experiment(path.stem.removeprefix("experiment_")).costs
        for pools in (Pools(), Pools("cpu-spot", "gpu-spot"), Pools("cpu-spot", "gpu-on-demand")):
            for gpu in (False, True):
                assert machines_for(costs, pools, prices, gpu=gpu, lasting=True)
        for machine in {costs.machines.cpu, costs.machines.gpu}:
            asked = (machine.type, machine.gpu, costs.region)
            assert prices.usd_per_hour(*asked, preemptible=True) < prices.usd_per_hour(*asked, preemptible=False)


@pytest.mark.parametrize(
    ("machine", "gpu", "region", "words"),
    [
        ("n1-standard-8", None, US, "of a preemptible n1-standard-8 without a GPU in us-central1. Add"),
        ("g2-standard-4", "nvidia-l4", "europe-west4", "in europe-west4; it lists that machine in us-central1"),
        ("g2-standard-4", "nvidia-t4", US, "of a preemptible g2-standard-4 with nvidia-t4 in us-central1"),
    ],
)
def test_a_machine_region_or_accelerator_without_a_price_is_named(
    machine: str, gpu: str | None, region: str, words: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        load_prices().usd_per_hour(machine, gpu, region, preemptible=True)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_latest_price_counts_that_is_not_in_the_future() -> None:
    dated = [(datetime.date(2026, 3, 1), 0.3), (datetime.date(2026, 9, 1), 0.2), (datetime.date(2027, 1, 1), 0.1)]
    of = {"machine": "m", "gpu": None, "region": US, "preemptible": True}
    listed = [{**of, "date": date, "usd_per_hour": usd} for date, usd in dated]
    prices = Prices.model_validate({"currency": "USD", "source": "a list", "prices": listed})

    def on(year: int, month: int) -> float | None:
        found = prices.find("m", None, US, preemptible=True, today=datetime.date(year, month, 1))
        return found and found.usd_per_hour

    assert [on(2026, 2), on(2026, 3), on(2026, 12), on(2027, 1)] == [None, 0.3, 0.2, 0.1]
    assert prices.find("m", None, US, preemptible=False) is None


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (None, "is missing"),
        (b"", "the whole file"),
        (b"prices: [", "is no YAML"),
        (b"\xff\xfe", "is no YAML"),
        (b"[" * 100_000, "is no YAML"),
        (PRICES.read_bytes().replace(LAST + b": 0.28", LAST + b": cheap"), r"prices\.5\.usd_per_hour"),
        (PRICES.read_bytes().replace(LAST + b": 0.28", LAST + b": .nan"), r"prices\.5\.usd_per_hour"),
        (PRICES.read_bytes().replace(b", usd_per_hour: 0.28", b""), r"prices\.5\.usd_per_hour"),
        (PRICES.read_bytes().replace(b"currency: USD", b"currency: EUR"), "currency"),
        (PRICES.read_bytes().replace(b"date: 2026-11-01", b"date: November"), r"prices\.0\.date"),
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
