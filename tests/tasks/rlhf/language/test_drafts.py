"""Replies and scores by the part: what stops them, and what can't be read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from engine.checkpoint import Preempted
from engine.errors import DataError, RetainError
from engine.finished import Finished
from engine.stage import Workspace
from tasks.rlhf.language import drafts, lm, upstream
from tests.tasks.conftest import Stopping
from tests.tasks.rlhf.made_language import adapter


@pytest.fixture(scope="module")
def language(base: Path, tmp_path_factory: pytest.TempPathFactory) -> lm.Lm:
    folder = tmp_path_factory.mktemp("adapters")
    for name, seed in (("sft", 1), ("final", 2)):
        adapter(base, folder / name, seed, reward=name == "final")
    return drafts.adapters(base, 32, "cpu", {name: folder / name for name in ("sft", "final")})


def test_a_stop_in_the_middle_of_a_batch_is_answered_there_and_changes_nothing(
    language: lm.Lm, tmp_path: Path, workspace: Callable[..., Workspace]
) -> None:
    """One batch of all replies, of 30 tokens each: the next word is where it ends."""
    asked, how = ["one", "two", "three"], drafts.Sampling(30, 1.0, 8)
    asking = replace(workspace(tmp_path), stopping=Stopping(5))
    with pytest.raises(Preempted):
        drafts.sample(language, "sft", asked, how, [1], Finished.resume(asking, 1), asking)
    assert asking.checkpoints.load() is None
    assert asking.stopping.looks == 5  # type: ignore[attr-defined]
    found = [
        drafts.sample(language, "sft", asked, how, [1], Finished(), workspace(tmp_path / name))
        for name in ("again", "undisturbed")
    ]
    assert found[0] == found[1]
    assert max(draft.tokens for draft in found[0]) > 5


def test_scores_can_be_stopped_before_each_pass(
    language: lm.Lm, tmp_path: Path, workspace: Callable[..., Workspace]
) -> None:
    asking = replace(workspace(tmp_path), stopping=Stopping(1))
    with pytest.raises(Preempted):
        drafts.scores(language, "final", [("a", "b")], 4, Finished.resume(asking, 1), asking)
    assert asking.checkpoints.load() is None


def test_nothing_drops_out(language: lm.Lm) -> None:
    assert not [name for name, module in language.model.named_modules() if module.training]


def test_no_room_for_a_prompt_is_refused(language: lm.Lm, tmp_path: Path, workspace: Callable[..., Workspace]) -> None:
    how = drafts.Sampling(512, 1.0, 4)
    with pytest.raises(RetainError, match="max_tokens with one of a prompt: 513 tokens are more than the 512"):
        drafts.sample(language, "sft", ["a"], how, [1], Finished(), workspace(tmp_path))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"months": "many"}'])
def test_what_prompts_say_of_themselves_is_named_where_it_is_damaged(tmp_path: Path, content: str) -> None:
    folder = tmp_path / "prompts"
    folder.mkdir()
    (folder / "about.json").write_text(content)
    with pytest.raises(DataError, match=r"prompts/about.json: can't be read"):
        upstream.about(folder)
