"""The comparison as it is printed, from made-up artifacts: what stands where, and what a damaged one says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engine import config
from eval import comparison
from tests.eval import made_decision

PROJECT = Path(__file__).resolve().parents[2]

EXPERIMENT = """
tag: tried
criteria:
  decision:
    nrr_gain: {at_least: 0.03, gating: false}
    nrr_gain_at_risk: {at_least: 0.03}
    lift_gain: {at_least: 0.12}
    lift_gain_low: {above: 0.05}
    nrr_gain_at_risk_low: {above: 0.0}
    attempted_overspend: {at_most: 0.01}
    offer_cost_change: {at_most: -0.05}
    violations_executed: {at_most: 0.0}
    over_cap: {below: 0.01}
"""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    configs = tmp_path / "configs"
    configs.mkdir()
    (configs / "experiment_tried.yaml").write_text(EXPERIMENT)
    monkeypatch.setattr(config, "CONFIGS", configs)
    monkeypatch.setenv("RETAIN_STORE", str(tmp_path / "store"))
    return tmp_path / "store"


def printed(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    assert comparison.main(["--experiment", "tried", *options]) == 0
    return capsys.readouterr().out


def table(text: str, title: str) -> str:
    """The part of the output from a title to the next empty line."""
    return re.split(r"\n *\n", text[text.index(title) :])[0]


def line(text: str, title: str, name: str) -> str:
    (found,) = re.findall(rf"^{re.escape(name)} .*", table(text, title), flags=re.MULTILINE)
    return str(found)


def test_every_policy_has_its_figures_with_intervals(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made_decision.publish(store, "tried", tmp_path)
    text = printed(capsys)
    policies = [comparison.NAMES[name] for name in made_decision.POLICIES]
    brings, costs = table(text, "What it brings"), table(text, "What it costs")
    for part in (brings, costs):
        names = re.findall(r"^(\S+(?: \S+)*)  ", part.partition("──\n")[2], flags=re.MULTILINE)
        assert names[:7] == [name + (" *" if name == "two-model uplift" else "") for name in policies]
    ppo = line(text, "What it brings", "Lagrangian PPO")
    assert re.search(
        r"67\.00 \(66\.0\.\.68\.0\) +7\.00 \(6\.00\.\.8\.00\) +52\.00 \(51\.0\.\.53\.0\) +57\.00 \(56\.0\.\.58\.0\)",
        ppo,
    )
    ppo = line(text, "What it costs", "Lagrangian PPO")
    assert re.search(r"2\.70 \(2\.60\.\.2\.80\) +0\.40 \(0\.20\.\.0\.60\) +3\.21 +0 +0$", ppo.rstrip())
    # The bound is no policy: it attempts nothing and keeps no promise.
    assert re.search(r"2\.85 .* +- +- +- +-$", line(text, "What it costs", "upper bound").rstrip())
    assert "2,110 customers of the test part, 800 of them at risk" in text
    assert "45,000 EUR" in text


def test_the_playbooks_gain_stands_twice_and_beside_the_bounds(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made_decision.publish(store, "tried", tmp_path)
    text = printed(capsys)
    gains = table(text, "Against the best baseline, two-model uplift")
    assert gains.index("NRR, whole cohort") < gains.index("NRR, customers at risk") < gains.index("lift over")
    # DP .672 / .66, bound .676 / .66; .525 / .50 and .53 / .50 of those at risk.
    whole = line(text, "Against the best", "NRR, whole cohort")
    assert re.search(r"\+1\.52 \(1\.32\.\.1\.72\) +\+1\.82 +\+2\.42 +>= 3\.00 +not met \(not gating\)", whole)
    at_risk = line(text, "Against the best", "NRR, customers at risk")
    assert re.search(r"\+4\.00 \(3\.50\.\.4\.50\) +\+5\.00 +\+6\.00 +>= 3\.00 +met", at_risk)
    cost = line(text, "Against the best", "offer cost")
    assert re.search(r"-10\.00 .* -6\.67 +-5\.00 +<= -5\.00 +met", cost)


def test_every_criterion_has_a_row_with_its_verdict(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (tmp_path / "configs" / "experiment_tried.yaml").open("a") as file:
        file.write("    still_without_words: {at_most: 0.5}\n")
    made = made_decision.content()
    made["metrics"] |= {"lift_gain_low": {"value": 0.0123}, "over_cap": {"value": 0.05, "ci": [0.01, 0.1]}}
    made_decision.publish(store, "tried", tmp_path, made)
    text = printed(capsys)
    rows = {
        "NRR at risk, lower end": r"3\.50 +> 0 +met",
        "lift, lower end": r"1\.23 +> 5\.00 +MISSED",
        "attempted overspend": r"0\.40 +<= 1\.00 +met",
        "executed violations": r"0 +<= 0 +met",
        "over the cap": r"5\.00 \(1\.00\.\.10\.00\) +< 1\.00 +MISSED",
        "still_without_words": r"- +<= 50\.00 +MISSED",
    }
    for name, figures in rows.items():
        assert re.search(f"{name} +{figures}", line(text, "Against the best", name)), name
    body = table(text, "Against the best")
    assert len(re.findall(r" (?:met|not met|MISSED)\b", body)) == 10


def test_a_gating_criterion_that_is_missed_is_said_in_capitals(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = made_decision.content()
    made["metrics"]["nrr_gain_at_risk"] = made["comparison"]["gains"]["nrr_gain_at_risk"] = {"value": 0.0299}
    made_decision.publish(store, "tried", tmp_path, made)
    assert re.search(r"\+2\.99 .* MISSED", line(printed(capsys), "Against the best", "NRR, customers at risk"))


def test_the_other_tables(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made_decision.publish(store, "tried", tmp_path)
    text = printed(capsys)
    worlds = line(text, "If the world is another one", "acceptance doubled")
    # Lift of threshold, Thompson, uplift, PPO; PPO's cost; the most committed; over the cap; fell back.
    assert worlds.split()[2:] == ["2.00", "3.00", "4.00", "5.00", "2.70", "97.3", "0", "75"]
    short, long = re.findall(r"█+", line(text, "What a budget buys", "2").strip()), re.findall(r"█{40}", text)
    assert len(short[0]) == 28  # .05 of the longest bar's .07, of 40 columns
    assert len(long) == 1
    assert re.search(r"gender Female +1,043 +1\.25 +6\.00 .* 1\.25 +7\.00", text)
    assert re.search(r"threshold +24 +threshold 0\.2345 +64\.00 +1\.90", text)
    assert re.search(r"exploring +go +\+0\.50 \(0\.30\.\.0\.70\) +\+0\.45 +412", text)
    assert "41.0% of what it would do was never done" in text
    assert re.search(r"^entropy +█.*▁ +1\.2 +0\.61", text, flags=re.MULTILINE)
    # Looked at six times: six bars, not sixty with gaps.
    assert re.search(r"^NRR, validation +[▁▂▃▄▅▆▇█]{6} +0\.619", text, flags=re.MULTILINE)


def test_the_short_one_is_the_policies_alone(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made_decision.publish(store, "tried", tmp_path)
    text = printed(capsys, "--short")
    assert "What it brings" in text
    assert "What it costs" in text
    assert "Against the best" not in text
    assert "Training" not in text


def test_every_line_fits_into_100_columns_whole(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No ellipsis, and no policy's row broken into two."""
    made = made_decision.content()
    made["worlds"] += [made["worlds"][0] | {"world": "sleeping_dogs_doubled"}]
    made["comparison"]["rows"][1]["attempted_overspend"] = {"value": 0.2345, "ci": [0.2, 0.27]}
    for row in made["comparison"]["rows"][:-1]:
        row["executed_violations"] = row["over_cap"] = {"value": 0.0, "ci": [0.0, 0.161]}
        row["refused"] = {"value": 0.4321, "ci": [0.4, 0.5]}
    made_decision.publish(store, "tried", tmp_path, made)
    text = printed(capsys)
    assert max(len(row) for row in text.splitlines()) <= comparison.WIDTH
    assert "…" not in text
    for title in ("What it brings", "What it costs", "Against the best", "If the world"):
        body = table(text, title).splitlines()
        rows = body[next(i for i, row in enumerate(body) if row.startswith("──")) + 1 :]
        assert not any(row.startswith("  ") for row in rows), title


def test_json_is_what_the_artifact_holds(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = made_decision.content()
    made_decision.publish(store, "tried", tmp_path, made)
    found = json.loads(printed(capsys, "--json"))
    assert found.pop("experiment") == "tried"
    del made["policy"]
    assert found == made


def failed(capsys: pytest.CaptureFixture[str]) -> str:
    assert comparison.main(["--experiment", "tried"]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    (line,) = error.splitlines()
    return line


def test_before_the_stage_has_run_one_line_says_what_to_do(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "make train.ppo.decision EXPERIMENT=tried" in failed(capsys)


def test_an_artifact_that_was_changed_is_refused(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = made_decision.publish(store, "tried", tmp_path)
    file = next(path for path in (folder / "files").iterdir() if b"best_baseline" in path.read_bytes())
    file.chmod(0o644)
    file.write_bytes(file.read_bytes().replace(b"0.67", b"0.97"))
    assert "comparison.json is missing or damaged" in failed(capsys)


@pytest.mark.parametrize("name", ["comparison", "worlds", "tuning", "metrics"])
def test_a_part_that_is_missing_is_named(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    made = made_decision.content()
    del made[name]
    made_decision.publish(store, "tried", tmp_path, made)
    assert f"holds no {name}.json" in failed(capsys)


def no_bound(made: dict[str, Any]) -> None:
    del made["comparison"]["rows"][-1]


def unknown_baseline(made: dict[str, Any]) -> None:
    made["comparison"]["best_baseline"] = "nobody_knows"


def text_for_a_number(made: dict[str, Any]) -> None:
    made["comparison"]["rows"][2]["nrr"]["value"] = "high"


def half_an_interval(made: dict[str, Any]) -> None:
    made["comparison"]["gains"]["nrr_gain"]["ci"] = [0.1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (no_bound, "has no row of 'upper_bound'"),
        (unknown_baseline, "has no row of 'nobody_knows'"),
        (text_for_a_number, "comparison.json: rows.2.nrr.value"),
        (half_an_interval, "comparison.json: gains.nrr_gain.ci"),
    ],
)
def test_what_cannot_be_read_names_file_and_place(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Any, said: str
) -> None:
    made = made_decision.content()
    change(made)
    made_decision.publish(store, "tried", tmp_path, made)
    assert said in failed(capsys)


def test_curves_that_are_no_table_are_one_line(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made_decision.publish(store, "tried", tmp_path, files={"curves.parquet": b"PAR1"})
    assert "curves.parquet is no table" in failed(capsys)


def test_parts_that_are_empty_are_left_out(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = made_decision.content() | {"worlds": [], "budgets": [], "groups": [], "tuning": {}, "off_policy": {}}
    made_decision.publish(store, "tried", tmp_path, made)
    text = printed(capsys)
    assert "What it brings" in text
    for title in ("another one", "budget buys", "groups", "tuned, on", "Told from"):
        assert title not in text


@pytest.mark.parametrize(
    ("values", "width", "bars"),
    [
        ([0.0, 1.0], 50, "▁█"),
        ([3.0, 3.0, 3.0], 50, "▁▁▁"),
        ([0.0, 0.0, 7.0, 7.0], 2, "▁█"),
        ([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], 50, "▁▂▃▄▅▆▇█"),
    ],
)
def test_sparkline(values: list[float], width: int, bars: str) -> None:
    assert comparison.sparkline(values, width) == bars


def test_it_runs_as_a_file_from_anywhere(tmp_path: Path) -> None:
    made_decision.publish(tmp_path / "store", "exp_001_mvp", tmp_path)
    ended = subprocess.run(
        [sys.executable, str(PROJECT / "eval" / "comparison.py"), "--experiment", "exp_001_mvp"],
        cwd=tmp_path,
        env={**os.environ, "RETAIN_STORE": str(tmp_path / "store"), "LC_ALL": "C"},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "NRR, customers at risk" in ended.stdout
