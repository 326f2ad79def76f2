from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from bench import serving
from retain.release import Release, load
from tests.releases import dataset, inputs, rows, run_stage


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    base = tmp_path_factory.mktemp("bench")
    out = run_stage(base, inputs(base / "inputs", dataset("telco"), dataset("bank")))
    return load({path.relative_to(out).as_posix(): path for path in Path(out).rglob("*") if path.is_file()})


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(serving, "REPEATS", 1)
    found = {"risk": rows(dataset("telco"), 30, seed=1), "accept": rows(dataset("bank"), 30, seed=1)}
    for row in found["accept"]:
        del row["duration"]
    return {name: (None, table) for name, table in found.items()}


def test_both_arms_are_measured_and_add_up(release: Release, tables: dict[str, Any]) -> None:
    costs = serving.cpu_per_customer(release, tables)
    assert set(serving.LIMITS) <= set(costs)
    shared = costs["features"] + costs["risk"] + costs["bridge"]
    assert costs["scoring"] == pytest.approx(shared + costs["decision"])
    assert costs["scoring, learned"] == pytest.approx(shared + costs["decision, learned"])
    assert costs["whole handler, without a database"] > 0


def test_a_release_without_a_policy_is_measured_by_its_baseline(release: Release, tables: dict[str, Any]) -> None:
    costs = serving.cpu_per_customer(dataclasses.replace(release, policy=None), tables)
    assert "scoring" in costs
    assert not [name for name in costs if "learned" in name or name == "policy"]


def test_limits_are_shown_as_met_or_not(capsys: pytest.CaptureFixture[str]) -> None:
    costs = {"features": 3.0, "scoring": 59.0, "policy": 16.0}
    serving.show({"cpu_us": costs, "parity": {"risk": {"met": True}}, "load": None})
    printed = capsys.readouterr().out
    assert "limit 60: met" in printed
    assert "limit 15: NOT MET" in printed
