"""The playbook's cost table, from a ledger."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine import config, ledger, prices, records
from engine.store import FolderStore
from eval import costs
from eval.costs import Steps, repeated_seconds

EXPERIMENT = """
tag: tried
costs:
  budget_usd: 100
  scope: tried
  region: us-central1
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


def reserve(
    store: FolderStore, stage: str, attempt: str, usd_per_hour: float, limit_s: float, machine_type: str = ""
) -> None:
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
        machine_type=machine_type,
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


def test_the_cap_that_counts_is_shown(store: FolderStore, capsys: pytest.CaptureFixture[str]) -> None:
    ledger.set_cap(store, "tried", 2.5)
    text = printed(capsys)
    assert "Budget $2.50 (scope tried)" in text
    assert "set by `make budget`" in text
    ledger.set_cap(store, "tried", 250)
    assert "make budget" not in printed(capsys)


# --- what preemptions cost and saved -----------------------------------------------------------------------------


def steps(number: int, seconds: float, lines: list[tuple[float, int]], preempted: bool = True) -> Steps:
    return Steps(f"a/{number}", seconds, preempted, tuple(lines))


def test_seconds_are_repeated_from_the_step_at_which_a_later_attempt_begins() -> None:
    first = steps(1, 60.0, [(10.0, 1), (20.0, 2), (30.0, 3), (40.0, 4)])
    # It went on from the checkpoint of step 2.
    assert repeated_seconds([first, steps(2, 30.0, [(5.0, 3), (10.0, 4), (15.0, 5)], preempted=False)]) == {"a/1": 40.0}
    # It had been asked to stop: its checkpoint is of its last step.
    assert repeated_seconds([first, steps(2, 30.0, [(5.0, 5)], preempted=False)]) == {"a/1": 20.0}
    # It began anew.
    assert repeated_seconds([first, steps(2, 30.0, [(5.0, 1)], preempted=False)]) == {"a/1": 60.0}


def test_seconds_of_an_attempt_that_nobody_followed_are_not_known_to_be_repeated() -> None:
    assert repeated_seconds([steps(1, 60.0, [(10.0, 1)])]) == {}
    assert repeated_seconds([]) == {}


def test_without_steps_all_of_a_preempted_attempt_counts() -> None:
    assert repeated_seconds([steps(1, 60.0, []), steps(2, 30.0, [], preempted=False)]) == {"a/1": 60.0}
    # One that was taken before its first step is looked past.
    chain = [steps(1, 60.0, [(10.0, 1), (20.0, 2)]), steps(2, 4.0, []), steps(3, 9.0, [(5.0, 2)], preempted=False)]
    assert repeated_seconds(chain) == {"a/1": 50.0, "a/2": 4.0}


def test_preempted_attempts_are_counted_with_what_was_repeated_and_saved(
    store: FolderStore, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, seconds, preempted in ((1, 1800, True), (2, 3600, False)):
        attempt = f"tried/sft/f/{number}"
        reserve(store, "sft", attempt, usd_per_hour=0.28, limit_s=7200, machine_type="g2-standard-4")
        ledger.settle(store, "tried", attempt, seconds, estimated=False, preempted=preempted)
    lines = b'{"seconds": 600.0, "step": 1, "total": 9}\n{"seconds": 1200.0, "step": 2, "total": 9}\n{"seco'
    store.write(records.key("tried/sft/f", 1, "progress.jsonl"), lines)
    store.write(records.key("tried/sft/f", 2, "progress.jsonl"), b'{"seconds": 60.0, "step": 3, "total": 9}\n')
    line = row(printed(capsys), "SFT Training").replace(" ", "")
    # 5,400 s at $0.28 were metered; 4,800 s at $0.71 on demand would have done.
    assert "$0.4200" in line
    assert "│2│1│600s│$0.5267│" in line


def test_what_is_saved_is_not_told_without_a_price(store: FolderStore, capsys: pytest.CaptureFixture[str]) -> None:
    reserve(store, "risk", "b/1", usd_per_hour=2.0, limit_s=3600, machine_type="my-laptop")
    ledger.settle(store, "tried", "b/1", 3600, estimated=False)
    assert "│-│$3.00│" in row(printed(capsys), "Risk + Accept Training").replace(" ", "")


def test_an_entry_without_its_machine_has_the_one_of_its_price(
    store: FolderStore, capsys: pytest.CaptureFixture[str]
) -> None:
    reserve(store, "risk", "b/1", usd_per_hour=0.059, limit_s=3600)
    ledger.settle(store, "tried", "b/1", 3600, estimated=False)
    assert "│$0.0750│" in row(printed(capsys), "Risk + Accept Training").replace(" ", "")


def test_a_price_list_that_can_not_be_read_is_one_line_and_2(
    store: FolderStore, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prices, "PRICES", tmp_path / "prices.yaml")
    assert costs.main(["--experiment", "tried"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "the price list is missing" in line


def test_bad_input_is_one_line_and_2(store: FolderStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert costs.main(["--experiment", "no_such"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
