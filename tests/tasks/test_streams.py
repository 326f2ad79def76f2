"""Two draws that take the same stream would be the same draw: every stream has a name and a number of its own."""

from __future__ import annotations

import ast
from pathlib import Path
from types import ModuleType

import pytest

from engine.fingerprint import ROOT
from tasks.tabular import streams as tabular_streams

# PPO, the reward models and the rules' measures numbered their streams before the others were told apart by number, and
# repeat numbers of those. PPO draws nothing from the others' streams. The intervals share a generator with rows that
# were drawn before them (ROWS), which does no harm: which rows were taken says nothing about which of them a resample
# repeats.
OWN = ("PPO_", "RM_", "RULES_")
MAKERS = ("default_rng", "generator", "SeedSequence")
FAMILIES = ("data", "rlhf", "tabular")


def numbers(module: ModuleType) -> dict[str, int]:
    return {name: value for name, value in vars(module).items() if name.isupper() and isinstance(value, int)}


def streams_of_family(family: str) -> dict[str, int]:
    """The constants called *_STREAM of all its modules; no name stands in two of them."""
    streams: dict[str, int] = {}
    for path in sorted((ROOT / "tasks" / family).rglob("*.py")):
        for node in ast.parse(path.read_bytes()).body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                name = node.targets[0].id
                if name.endswith("_STREAM"):
                    assert name not in streams, path
                    streams[name] = ast.literal_eval(node.value)
    return streams


RLHF = streams_of_family("rlhf")


@pytest.mark.parametrize(
    "streams",
    [
        numbers(tabular_streams),
        {name: number for name, number in RLHF.items() if not name.startswith(OWN)},
        {name: number for name, number in RLHF.items() if name.startswith("PPO_")},
    ],
    ids=["tabular", "rlhf", "ppo"],
)
def test_no_two_streams_have_one_number(streams: dict[str, int]) -> None:
    assert len(streams) >= 3
    assert len(set(streams.values())) == len(streams), streams


def test_the_numbers_that_results_rest_on_stand() -> None:
    assert numbers(tabular_streams) == {"INTERVALS": 2, "BRIDGE_INTERVALS": 3, "BACKTEST_INTERVALS": 4}
    assert RLHF == {
        "ROWS_STREAM": 1,
        "ORDER_STREAM": 2,
        "SFT_INTERVALS_STREAM": 3,
        "SFT_SAMPLES_STREAM": 4,
        "PRETRAINING_DIALOGUES_STREAM": 6,
        "PRETRAINING_MESSAGES_STREAM": 7,
        "PROMPTS_STREAM": 20,
        "TEXT_EVAL_STREAM": 71,
        "MESSAGES_STREAM": 73,
        "PPO_ORDER_STREAM": 0,
        "PPO_SAMPLES_STREAM": 1,
        "PPO_MINIBATCHES_STREAM": 2,
        "PPO_LOOK_STREAM": 3,
        "RM_INTERVALS_STREAM": 0,
        "RULES_INTERVALS_STREAM": 2,
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
