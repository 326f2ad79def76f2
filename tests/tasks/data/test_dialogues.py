"""Prompts and replies from messages in trees, ready pairs and dialogues."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.stage import Workspace
from flows.wanted import Wanted
from tasks.config import DialoguesConfig
from tasks.data import corpus, dialogues
from tests.datasets import needs_real_data, real_file
from tests.tasks.data.texts import Made, make, pairs, text_config, write

Workspaces = Callable[..., Workspace]


def message(name: str, parent: str | None, role: str, text: str = "", **changes: Any) -> dict[str, Any]:
    """As in OASST1's public export."""
    return {
        "message_id": name,
        "parent_id": parent,
        "user_id": "u",
        "text": text or f"text of {name}",
        "role": role,
        "lang": "en",
        "review_result": True,
        "deleted": False,
        "synthetic": False,
        "rank": None,
        "message_tree_id": "t",
        "tree_state": "ready_for_export",
        **changes,
    }


@pytest.fixture
def made(tmp_path: Path, workspace: Workspaces) -> Callable[[list[Any]], Made]:
    """dialogues of the records and of enough others for every part."""

    def run(records: list[Any]) -> Made:
        inputs = write(tmp_path / "source", [*records, *pairs(800)])
        return make(dialogues.run, text_config(DialoguesConfig, "OASST1"), inputs, workspace(tmp_path / "out"))

    return run


def found(made: Made) -> dict[str, str]:
    return {row["prompt"]: row["response"] for row in made.rows if not row["prompt"].startswith("question")}


def test_a_prompt_goes_with_its_best_ranked_reply_and_the_thread_before_it(made: Callable[[list[Any]], Made]) -> None:
    tree = [
        message("root", None, "prompter"),
        message("worse", "root", "assistant", rank=1),
        message("best", "root", "assistant", rank=0),
        message("unranked", "root", "assistant"),
        message("next", "worse", "prompter"),
        message("only", "next", "assistant"),
        message("open", "only", "prompter"),
    ]
    # children may stand before their parents
    for records in (tree, tree[::-1]):
        dialogue = dialogues.Dialogues(text_config(DialoguesConfig, "OASST1").files[0])
        assert [list(dialogue.pairs(record)) for record in records] == [[]] * len(tree)
        got = {pair.prompt: pair for pair in dialogue.rest(corpus.Reading("x"))}
        assert {prompt: pair.replies for prompt, pair in got.items()} == {
            "text of root": ("text of best",),
            "text of root\n\nAssistant: text of worse\n\nHuman: text of next": ("text of only",),
        }
        assert {pair.first for pair in got.values()} == {"text of root"}
    assert made(tree).dropped == {"without_reply": 1}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"lang": "de"}, "not_english"),
        ({"deleted": True}, "deleted_or_refused"),
        ({"review_result": False}, "deleted_or_refused"),
        ({"synthetic": True}, "written_by_a_model"),
        ({"tree_state": "aborted_low_grade"}, "unfinished_tree"),
        ({"tree_state": "prompt_lottery_waiting"}, "unfinished_tree"),
    ],
)
def test_messages_that_are_not_wanted_are_left_out_with_what_hangs_on_them(
    change: dict[str, Any], reason: str, made: Callable[[list[Any]], Made]
) -> None:
    tree = [
        message("root", None, "prompter"),
        message("reply", "root", "assistant", rank=0, **change),
        message("second", "root", "assistant", rank=1),
        message("next", "reply", "prompter"),
        message("last", "next", "assistant"),
    ]
    got = made(tree)
    assert found(got) == {"text of root": "text of second"}
    assert got.dropped == {reason: 1, "without_thread": 1}


@pytest.mark.parametrize("rank", [float("nan"), float("inf"), 10**400, "first", True])
def test_a_rank_that_is_no_number_is_broken(rank: Any, made: Callable[[list[Any]], Made]) -> None:
    tree = [
        message("root", None, "prompter"),
        message("worse", "root", "assistant", rank=3),
        message("odd", "root", "assistant", rank=rank),
        message("best", "root", "assistant", rank=1),
    ]
    got = made(tree)
    assert got.metrics["broken"] == 1
    assert found(got) == {"text of root": "text of best"}


def test_a_message_that_nobody_reviewed_is_taken(made: Callable[[list[Any]], Made]) -> None:
    tree = [message("root", None, "prompter", review_result=None), message("reply", "root", "assistant")]
    assert found(made(tree)) == {"text of root": "text of reply"}


def test_a_message_that_says_nothing_of_its_tree_is_taken(made: Callable[[list[Any]], Made]) -> None:
    tree = [message("root", None, "prompter"), message("reply", "root", "assistant")]
    bare = [{key: of[key] for key in of if key not in ("tree_state", "synthetic")} for of in tree]
    assert found(made(bare)) == {"text of root": "text of reply"}


def test_a_ring_of_messages_ends(made: Callable[[list[Any]], Made]) -> None:
    ring = [message("a", "b", "prompter"), message("b", "a", "assistant")]
    got = made(ring)
    assert found(got) == {}
    assert got.dropped == {"without_thread": 1}


def test_a_dialogue_gives_a_pair_for_each_reply_with_two_turns_before(made: Callable[[list[Any]], Made]) -> None:
    turns = [["user", "u1"], ["system", "s1"], ["user", "u2"], ["system", "s2"], ["user", "u3"], ["system", "s3"]]
    assert found(made([{"id": "1", "turns": turns}])) == {
        "u1": "s1",
        "u1\n\nAssistant: s1\n\nHuman: u2": "s2",
        "u2\n\nAssistant: s2\n\nHuman: u3": "s3",
    }


def test_turns_out_of_order_are_no_context(made: Callable[[list[Any]], Made]) -> None:
    turns = [["system", "s0"], ["user", "u1"], ["user", "u2"], ["system", "s2"], ["system", "s3"]]
    assert found(made([{"turns": turns}])) == {"u2": "s2"}


def test_a_dialogue_of_one_turn_is_empty(made: Callable[[list[Any]], Made]) -> None:
    assert made([{"turns": [["user", "hello"]]}, {"turns": []}]).dropped == {"empty": 2}


@needs_real_data
def test_the_real_trees(tmp_path: Path, workspace: Workspaces) -> None:
    config = text_config(DialoguesConfig, "OASST1", max_rows=100_000, max_characters=4000)
    name = "oasst1-en-validation-messages.jsonl"
    path = real_file(Wanted("file.jsonl", (name,), None, None), tmp_path / "cache").path
    inputs = write(tmp_path / "source", path.read_bytes())
    got = make(dialogues.run, config, inputs, workspace(tmp_path / "out"))
    # 2,022 messages: 692 prompts of which 415 have a reply
    assert got.metrics["records"] == 2022
    assert 350 < len(got.rows) < 500
    assert got.metrics["broken"] == 0
