"""Which pairs a model is trained on, and which it is judged by."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import DataError
from tasks.rlhf.language import lm
from tasks.rlhf.language.upstream import read
from tasks.rlhf.retention import pairs
from tasks.text_tables import Table
from tests.tasks.rlhf.trainable import write_inputs


@pytest.fixture(scope="module")
def inputs(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_inputs(tmp_path_factory.mktemp("pairs"), base)


def test_halves_share_no_pair_and_leave_none_out(inputs: dict[str, Path]) -> None:
    a, b, both = (pairs.retention(inputs["prompts"], "train", half) for half in ("A", "B", ""))
    assert {one.id for one in a} | {one.id for one in b} == {one.id for one in both}
    assert not {one.id for one in a} & {one.id for one in b}
    assert a
    assert b
    assert all(one.source == pairs.RETENTION and one.flaw for one in both)


def test_held_out_pairs_are_of_no_half(inputs: dict[str, Path]) -> None:
    held_out = {one.id for one in pairs.retention(inputs["prompts"], "test")}
    assert held_out
    assert not held_out & {one.id for one in pairs.retention(inputs["prompts"], "train")}


def test_public_pairs_are_a_sample_that_the_seed_draws(inputs: dict[str, Path]) -> None:
    all_of_them = pairs.public(inputs["preferences"], "A", "train", 1000, 1)
    one, again, other = (pairs.public(inputs["preferences"], "A", "train", 5, seed) for seed in (1, 1, 2))
    assert one == again
    assert one != other
    assert len(one) == 5
    assert set(one) <= set(all_of_them)
    assert {one.source for one in all_of_them} == {"HH-RLHF"}
    assert not set(all_of_them) & set(pairs.public(inputs["preferences"], "B", "train", 1000, 1))


def test_both_rows_of_a_pair_fit(inputs: dict[str, Path]) -> None:
    text = lm.load_text(inputs["base"])
    long = pairs.Pair("x", "word " * 100, "yes " * 50, "no", "", "HH-RLHF")
    for prompt, reply in pairs.tokenised(long, text, 40):
        assert len(prompt) + len(reply) <= 40
        assert prompt
        assert reply


def test_both_replies_follow_the_same_prompt(inputs: dict[str, Path]) -> None:
    text = lm.load_text(inputs["base"])
    pair = pairs.Pair("x", "word " * 100, "yes " * 4, "no", "", "HH-RLHF")
    (first, chosen), (second, rejected) = pairs.tokenised(pair, text, 60)
    assert first == second
    assert (chosen, rejected) == (text.reply(pair.chosen), text.reply("no"))


def test_what_cannot_be_read_is_named(tmp_path: Path, inputs: dict[str, Path]) -> None:
    with pytest.raises(DataError, match=r"prompts/pairs.parquet: can't be read"):
        pairs.retention(tmp_path / "prompts", "train")
    (tmp_path / "preferences").mkdir()
    (tmp_path / "preferences" / "pairs.parquet").write_bytes(b"rubbish")
    with pytest.raises(DataError, match=r"preferences/pairs.parquet: can't be read"):
        pairs.public(tmp_path / "preferences", "A", "train", 5, 1)
    with pytest.raises(DataError, match="has no column half"):
        read(inputs["dialogues"], Table("pairs.parquet", ("id", "half")))
