from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import tabular


def measured(auc: float, ece: float) -> dict[str, Any]:
    """What `repeat` finds for one seed, with the same figures in every stage."""
    values = {name: auc if "auc" in name else ece for names in tabular.SHOWN.values() for name in names}
    metrics = {name: {"value": value} for name, value in values.items()}
    metrics["ece"]["chance"] = 0.006
    return {stage: {**metrics, "seconds": {"value": 1.0}} for stage in tabular.SHOWN}


def test_means_are_held_against_their_targets(capsys: pytest.CaptureFixture[str]) -> None:
    found = {1000: measured(0.86, 0.012), 1001: measured(0.84, 0.028)}
    summary = tabular.means(found)
    assert summary["risk"]["auc"] == pytest.approx({"value": 0.85, "target": ">= 0.848", "met": True})
    assert summary["risk"]["ece"]["met"] is True
    assert summary["accept"]["ece"] == pytest.approx(
        {"value": 0.02, "chance": 0.006, "target": "<= 0.01", "met": False}
    )
    assert "met" not in summary["backtest"]["auc_once"]
    tabular.show(found, summary)
    printed = capsys.readouterr().out
    assert "MISSED" in printed
    assert "0.8500" in printed
    assert "chosen by cross-validation inside the training part of seed 42" in " ".join(printed.split())


def test_what_is_written_says_what_its_figures_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETAIN_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(tabular, "repeat", lambda experiment, seed, data: measured(0.86, 0.009))
    monkeypatch.setattr(tabular, "RESULTS", tmp_path / "results" / "tabular.json")
    assert tabular.main(["--seeds", "7"]) == 0
    written = json.loads(tabular.RESULTS.read_text())
    assert "chosen by cross-validation inside the training part of seed 42" in written["note"]
    assert list(written["seeds"]) == ["7"]


def test_it_needs_real_data(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("RETAIN_DATA_DIR", raising=False)
    assert tabular.main([]) == 2
    assert "RETAIN_DATA_DIR is not set" in capsys.readouterr().err
