"""Two draws that take the same stream would be the same draw: every stream has a name and a number of its own."""

from __future__ import annotations

import ast
from pathlib import Path
from types import ModuleType

import pytest

from engine.fingerprint import ROOT
from tasks.rlhf import messages, rm, text_eval
from tasks.rlhf.retention import tables
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
        "PPO_VALIDATION_STREAM": 3,
        "RM_INTERVALS_STREAM": 0,
        "RULES_INTERVALS_STREAM": 2,
    }


def test_what_is_drawn_of_a_stream_has_the_numbers_that_results_rest_on() -> None:
    assert (messages.REPLIES_DRAW, messages.ASKED_DRAW) == ({"sft": 0, "policy": 1}, 2)
    assert messages.REPLIES_DRAW.keys() == messages.WRITERS.keys()
    assert (text_eval.REPLIES_DRAW, text_eval.INTERVALS_DRAW) == ({"sft": 0, "policy": 1}, 2)
    assert text_eval.REPLIES_DRAW.keys() == text_eval.MODELS.keys()
    assert text_eval.EXAMPLES_DRAW == 1
    assert (rm.RETENTION_DRAW, rm.PUBLIC_DRAW) == (0, 1)
    assert tables._TABLE_DRAW == {"prompts": 0, "targets": 1, "pairs": 2, "probes": 3}
    assert tables._PART_DRAW == {"train": 0, "validation": 1, "test": 2}
    assert {"": ord("-"), "A": ord("A"), "B": ord("B")} == tables._HALF_DRAW


def is_seed(node: ast.List, handed_over: set[ast.expr]) -> bool:
    """What a generator is made of: a list that is handed to a maker of one, or that names a stream."""
    names = {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
    names |= {name.attr for name in ast.walk(node) if isinstance(name, ast.Attribute)}
    return node in handed_over or "streams" in names or any(name.endswith("_STREAM") for name in names)


def bare_numbers(tree: ast.AST) -> list[str]:
    """Seeds one of whose elements is a number in digits, the length of a constant, a place in one, or a character's
    code: each says nothing of who else draws from it."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    handed_over = {argument for call in calls if called(call) in MAKERS for argument in call.args}
    return [
        f"line {seed.lineno}: {ast.unparse(seed)}"
        for seed in ast.walk(tree)
        if isinstance(seed, ast.List) and is_seed(seed, handed_over)
        for part in ast.walk(seed)
        if (isinstance(part, ast.Constant) and isinstance(part.value, int))
        or (isinstance(part, ast.Call) and called(part) in ("index", "ord"))
        or (isinstance(part, ast.Call) and called(part) == "len" and ast.unparse(part.args[0]).isupper())
    ]


def called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


@pytest.mark.parametrize(
    "seed",
    [
        "[seed, 3]",
        "[seed, ROWS_STREAM, 0]",
        "[*seed, 1]",
        "[*[seed, 1], number]",
        "[seed, ROWS_STREAM + 1]",
        "[seed, ROWS_STREAM, len(WRITERS)]",
        "[seed, ROWS_STREAM, TABLES.index(table)]",
        "[seed, ROWS_STREAM, ord(half)]",
    ],
)
def test_a_bare_number_is_found(seed: str) -> None:
    assert bare_numbers(ast.parse(f"np.random.default_rng({seed})"))
    assert bool(bare_numbers(ast.parse(f"seed = {seed}"))) == ("_STREAM" in seed)


def test_names_and_counts_of_data_are_no_bare_numbers() -> None:
    code = "default_rng([*seed, ROWS_STREAM + number, REPLIES_DRAW[writer], len(y)]), [1, 2]"
    assert not bare_numbers(ast.parse(code))


@pytest.mark.parametrize(
    "path",
    [path for family in FAMILIES for path in sorted((ROOT / "tasks" / family).rglob("*.py"))],
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_no_stream_is_a_bare_number(path: Path) -> None:
    assert not bare_numbers(ast.parse(path.read_bytes()))
