"""docs/PLAYBOOK.md is true: what a row names exists, and no line of the playbook is missing."""

from __future__ import annotations

import ast
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
PLAYBOOK = PROJECT / "docs" / "PLAYBOOK.md"
HEADER = ["Playbook", "Where", "Command", "Test", "Measured", "State"]
STATES = {"met", "not met", "later", "not measurable here"}
NOTHING = "—"

# Copied by hand from the playbook's text.
COMMANDS = [
    "make train.risk",
    "make train.accept",
    "make train.sft",
    "make train.rm",
    "make train.ppo.text",
    "make train.ppo.decision",
    "make train.all",
    "make serve",
    "python eval/generate_report.py --experiment exp_001_mvp",
    "brew install libomp",
    "export FORCE_BASELINE=true",
]
VARIABLES = [
    "RISK_MODEL_PATH",
    "ACCEPT_MODEL_PATH",
    "SFT_PATH",
    "RM_PATH",
    "RLHF_PATH",
    "PPO_POLICY_PATH",
    "FORCE_BASELINE=true",
    "FORCE_BASELINE=false",
    "CANARY_PERCENT=5",
]
CRITERIA = [
    "risk model AUC >= 0.78",
    "acceptance model AUC >= 0.70",
    "risk model ECE < 0.05",
    "acceptance model ECE < 0.05",
    "NRR improvement >= +3 %",
    "offer cost reduction >= -5 %",
    "constraint violations about 0 %",
    "fatigue over-cap < 1 %",
    "training loss < 2.5",
    "eval perplexity reasonable",
    "validation AUC >= 0.70",
    "accuracy >= 0.65",
    "win-rate vs SFT >= +8 points",
    "safety violations < 1 %",
    "average tokens <= 162",
]
ALERTS = ["5xx rate > 1 %", "p95 latency > 500 ms", "safety violations > 0.5 %", "NRR proxy drop > 3 points"]
DELIVERABLES = [
    *("PPO decision learning curves", "constraint violations -> 0", "action entropy histogram"),
    *("NRR vs baselines", "cost vs baselines", "RM AUC ROC curve", "RLHF win-rate bar chart"),
    *("KL divergence trace", "safety probe pass-rate", "decision policy metrics", "baseline comparison"),
    *("RLHF metrics", "safety statistics", "eval/results/exp_001_mvp/", "docs/OPERATOR_RUNBOOK.md"),
    *("Monitoring dashboards", "Catalog", "ops/configs/experiment_exp_001_mvp.yaml"),
    *("Risk + Accept Training", "SFT Training", "RM Training", "PPO Text Training", "PPO Decision Training"),
]


@dataclass(frozen=True)
class Row:
    line: int
    playbook: str
    where: str
    command: str
    test: str
    measured: str
    state: str


def rows() -> list[Row]:
    """Every row of every table with the header above; a row with other cells fails where it stands."""
    found = []
    inside = False
    for number, line in enumerate(PLAYBOOK.read_text().splitlines(), start=1):
        if not line.startswith("|"):
            inside = False
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not inside:
            assert cells == HEADER, f"line {number}: a table here starts with {HEADER}, not {cells}"
            inside = True
        elif not set(line) <= set("|- "):
            assert len(cells) == len(HEADER), f"line {number}: {len(cells)} cells, not {len(HEADER)}"
            found.append(Row(number, *cells))
    return found


ROWS = rows()
TARGETS = set(re.findall(r"^([a-z][a-z0-9.-]*):", (PROJECT / "Makefile").read_text(), flags=re.MULTILINE))


def quoted(cell: str) -> list[str]:
    """What a cell names, each in backticks; a cell that says nothing names nothing."""
    names = re.findall(r"`([^`]+)`", cell)
    assert names or cell == NOTHING, f"{cell!r}: names stand in backticks, and {NOTHING} stands for none"
    return names


def missing_command(command: str) -> str | None:
    """What is missing for the command to run, or None."""
    words = command.split()
    match words:
        case ["make", *targets]:
            unknown = [word for word in targets if "=" not in word and word not in TARGETS]
            return f"make has no target {unknown[0]}" if unknown else None
        case ["python", "-m", module, *_]:
            return None if importlib.util.find_spec(module) else f"no module {module}"
        case ["python", path, *_]:
            return None if (PROJECT / path).is_file() else f"no file {path}"
    return f"{command!r} is neither make nor python"


def missing_test(test: str) -> str | None:
    """What is missing for pytest to find `file::function`, or None."""
    path, _, function = test.partition("::")
    if not (PROJECT / path).is_file():
        return f"no file {path}"
    names = {
        node.name for node in ast.walk(ast.parse((PROJECT / path).read_text())) if isinstance(node, ast.FunctionDef)
    }
    return None if function in names and function.startswith("test_") else f"{path} has no test {function!r}"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"line{row.line}")
def test_rows_name_what_exists(row: Row) -> None:
    assert row.state in STATES, f"{row.playbook}: state {row.state!r} is none of {sorted(STATES)}"
    if row.state == "later":
        return
    problems = [
        *(f"no file {path}" for path in quoted(row.where) if not (PROJECT / path).exists()),
        *filter(None, map(missing_command, quoted(row.command))),
        *filter(None, map(missing_test, quoted(row.test))),
    ]
    assert problems == [], f"line {row.line}: {row.playbook}"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"line{row.line}")
def test_what_counts_as_met_is_tested_and_measured(row: Row) -> None:
    if row.state != "met":
        return
    assert row.test != NOTHING, f"line {row.line}: {row.playbook} is met without a test"
    if row.playbook.startswith("Criterion"):
        assert re.search(r"\d", row.measured), f"line {row.line}: {row.playbook} is met without a figure"


def test_what_cannot_be_measured_says_why() -> None:
    silent = [row.line for row in ROWS if row.state == "not measurable here" and row.measured == NOTHING]
    assert silent == []


@pytest.mark.parametrize("line", [*COMMANDS, *VARIABLES, *CRITERIA, *ALERTS, *DELIVERABLES])
def test_no_line_of_the_playbook_is_missing(line: str) -> None:
    cells = [f"{row.playbook} {row.where} {row.command}".lower() for row in ROWS]
    assert any(line.lower() in cell for cell in cells)


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("make nothing", "make has no target nothing"),
        ("make test nothing EXPERIMENT=local", "make has no target nothing"),
        ("python eval/nothing.py", "no file eval/nothing.py"),
        ("python -m eval.nothing", "no module eval.nothing"),
        ("rm -rf", "'rm -rf' is neither make nor python"),
        ("make test EXPERIMENT=local", None),
        ("python eval/verdict.py --experiment local", None),
        ("python -m eval.verdict --experiment local", None),
    ],
)
def test_the_check_sees_commands_that_do_not_exist(command: str, problem: str | None) -> None:
    assert missing_command(command) == problem


def test_the_check_sees_tests_that_do_not_exist() -> None:
    here = "tests/docs/test_playbook.py"
    assert missing_test(f"{here}::test_the_check_sees_tests_that_do_not_exist") is None
    assert missing_test(f"{here}::test_nothing") == f"{here} has no test 'test_nothing'"
    assert missing_test(f"{here}::quoted") == f"{here} has no test 'quoted'"
    assert missing_test("tests/nothing.py::test_nothing") == "no file tests/nothing.py"
