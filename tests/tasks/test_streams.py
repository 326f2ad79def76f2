"""Two draws that take the same stream would be the same draw: every stream has a name and a number of its own."""

from __future__ import annotations

import ast
from pathlib import Path
from types import ModuleType

import pytest

from engine.fingerprint import ROOT
from tasks.rlhf import streams as rlhf_streams
from tasks.tabular import streams as tabular_streams

# Numbered within their own stage (see tasks/rlhf/streams.py); PPO's differ from each other.
OWN = ("PPO_", "RM_", "RULES_")
MAKERS = ("default_rng", "generator", "SeedSequence")
FAMILIES = ("data", "rlhf", "tabular")


def numbers(module: ModuleType) -> dict[str, int]:
    return {name: value for name, value in vars(module).items() if name.isupper() and isinstance(value, int)}


@pytest.mark.parametrize(
    "streams",
    [
        numbers(tabular_streams),
        {name: number for name, number in numbers(rlhf_streams).items() if not name.startswith(OWN)},
        {name: number for name, number in numbers(rlhf_streams).items() if name.startswith("PPO_")},
    ],
    ids=["tabular", "rlhf", "ppo"],
)
def test_no_two_streams_have_one_number(streams: dict[str, int]) -> None:
    assert len(streams) >= 3
    assert len(set(streams.values())) == len(streams), streams


def test_the_numbers_that_results_rest_on_stand() -> None:
    assert numbers(tabular_streams) == {"INTERVALS": 2, "BRIDGE_INTERVALS": 3, "BACKTEST_INTERVALS": 4}
    assert numbers(rlhf_streams) == {
        "ROWS": 1,
        "ORDER": 2,
        "SFT_INTERVALS": 3,
        "SFT_SAMPLES": 4,
        "PRETRAINING_DIALOGUES": 6,
        "PRETRAINING_MESSAGES": 7,
        "PROMPTS": 20,
        "TEXT_EVAL": 71,
        "MESSAGES": 73,
        "PPO_ORDER": 0,
        "PPO_SAMPLES": 1,
        "PPO_MINIBATCHES": 2,
        "PPO_LOOK": 3,
        "RM_INTERVALS": 0,
        "RULES_INTERVALS": 2,
    }


@pytest.mark.parametrize(
    "path",
    [path for family in FAMILIES for path in sorted((ROOT / "tasks" / family).rglob("*.py"))],
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_no_stream_is_a_bare_number(path: Path) -> None:
    """[seed, 3] says nothing of who else draws from 3."""
    for call in (node for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.Call)):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        if name not in MAKERS or not call.args or not isinstance(call.args[0], ast.List):
            continue
        first, *rest = call.args[0].elts
        if rest and not isinstance(first, ast.Starred):
            assert not isinstance(rest[0], ast.Constant), f"line {call.lineno}: {ast.unparse(call)}"
