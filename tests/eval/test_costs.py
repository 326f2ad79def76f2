"""The playbook's cost table, from a ledger."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine import config, ledger
from engine.store import FolderStore
from eval import costs

EXPERIMENT = """
tag: tried
costs:
  budget_usd: 100
  scope: tried
  components:
    - {name: Risk + Accept Training, estimate_usd: 5, stages: [customers, risk, accept]}
    - {name: SFT Training, estimate_usd: 30, stages: [sft]}
"""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FolderStore:
    configs = tmp_path / "configs"
    configs.mkdir()
    (configs / "experiment_tried.yaml").write_text(EXPERIMENT)
    monkeypatch.setattr(config, "CONFIGS", configs)
    monkeypatch.setenv("RETAIN_STORE", str(tmp_path / "store"))
    return FolderStore(tmp_path / "store")


def reserve(store: FolderStore, stage: str, attempt: str, usd_per_hour: float, limit_s: float) -> None:
    ledger.reserve(
        store,
        "tried",
        cap_usd=100,
        attempt_id=attempt,
        experiment="tried",
        stage=stage,
        usd_per_hour=usd_per_hour,
        limit_s=limit_s,
        overhead_s=0,
    )


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    assert costs.main(["--experiment", "tried"]) == 0
    return capsys.readouterr().out


def row(text: str, name: str) -> str:
    return next(line for line in text.splitlines() if name in line)


def test_nothing_spent_yet(store: FolderStore, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys)
    assert "Pending" in row(text, "Risk + Accept Training")
    assert "$30.00" in row(text, "SFT Training")
    assert "$35.00" in row(text, "Total")
    assert "Budget $100.00 (scope tried)" in text
    assert "never billed" in text


def test_metered_money_is_taken_from_its_component(store: FolderStore, capsys: pytest.CaptureFixture[str]) -> None:
    reserve(store, "customers", "a/1", usd_per_hour=1.0, limit_s=3600)
    reserve(store, "risk", "b/1", usd_per_hour=2.0, limit_s=3600)
    ledger.settle(store, "tried", "a/1", 1800, estimated=False)
    ledger.settle(store, "tried", "b/1", 1800, estimated=True)
    text = printed(capsys)
    line = row(text, "Risk + Accept Training")
    assert "$1.5000" in line
    assert "Under estimate" in line
    assert "$3.50" in line
    assert "Pending" in row(text, "SFT Training")
    assert "metered $1.5000 over 2 attempts" in text
    assert "left $98.5000" in text
    assert "The end of 1 was not seen" in text


def test_open_reservations_are_shown_and_not_left_to_spend(
    store: FolderStore, capsys: pytest.CaptureFixture[str]
) -> None:
    reserve(store, "risk", "b/1", usd_per_hour=2.0, limit_s=3600)
    text = printed(capsys)
    line = row(text, "Risk + Accept Training")
    assert "Running, $2.0000 reserved" in line
    assert "$3.00" in line
    assert "reserved $2.0000 by 1 still open, left $98.0000" in text


def test_over_the_estimate_is_said(store: FolderStore, capsys: pytest.CaptureFixture[str]) -> None:
    reserve(store, "risk", "b/1", usd_per_hour=10.0, limit_s=3600)
    ledger.settle(store, "tried", "b/1", 3600, estimated=False)
    line = row(printed(capsys), "Risk + Accept Training")
    assert "OVER ESTIMATE" in line
    assert "-$5.00" in line


def test_a_stage_of_no_component_is_not_lost(store: FolderStore, capsys: pytest.CaptureFixture[str]) -> None:
    reserve(store, "tuning", "c/1", usd_per_hour=1.0, limit_s=3600)
    ledger.settle(store, "tried", "c/1", 3600, estimated=False)
    text = printed(capsys)
    assert "$1.0000" in row(text, "Stages of no component")
    assert "$1.0000" in row(text, "Total")


def test_bad_input_is_one_line_and_2(store: FolderStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert costs.main(["--experiment", "no_such"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
