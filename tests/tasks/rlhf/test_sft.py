"""The stage `sft`: what it imitates, what it writes, and that interruptions change nothing."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from engine.errors import DataError, RetainError
from engine.stage import Metrics, Workspace
from tasks.rlhf import sft
from tasks.rlhf.language import lm
from tests.tasks.rlhf.trainable import files, sft_config, write_inputs

Ran = tuple[Metrics, Path]


@pytest.fixture(scope="module")
def inputs(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_inputs(tmp_path_factory.mktemp("inputs"), base)


@pytest.fixture(scope="module")
def ran(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, workspace: Callable[..., Workspace]) -> Ran:
    folder = tmp_path_factory.mktemp("sft")
    return sft.run(sft_config(), inputs, workspace(folder)), folder


def test_it_writes_an_adapter_that_others_can_load(ran: Ran, inputs: dict[str, Path]) -> None:
    language = lm.load(inputs["base"], 32, "cpu")
    lora = lm.load_adapter(language, ran[1], "policy")
    assert (lora.r, lora.alpha) == (2, 4)
    assert sorted(files(ran[1])) == [
        "adapter.json",
        "adapter.safetensors",
        "curves.parquet",
        "evidence/perplexity.parquet",
        "evidence/samples.parquet",
    ]


def test_its_losses_are_those_of_the_loaded_model(ran: Ran, inputs: dict[str, Path]) -> None:
    metrics, folder = ran
    language = lm.load(inputs["base"], 32, "cpu")
    untouched = lm.load(inputs["base"], 32, "cpu")
    lm.load_adapter(language, folder, "policy")
    wanted = {one.id: one for one in sft.public(inputs["dialogues"], "validation", 1000, 0)}
    rows = pq.read_table(folder / "evidence" / "perplexity.parquet").to_pylist()
    assert len(rows) == 5
    for row in rows:
        one = language.text.row(wanted[row["id"]].prompt, wanted[row["id"]].reply, 48)
        for model, column in ((language, "nll"), (untouched, "nll_untouched")):
            assert row[column] == pytest.approx(-lm.log_probs(model, [one])[0].sum().item(), abs=1e-4)
        assert row["tokens"] == len(one[1])
    ratio = math.exp(sum(row["nll"] for row in rows) / sum(row["tokens"] for row in rows))
    assert metrics["perplexity"]["value"] == pytest.approx(ratio)
    assert metrics["perplexity_untouched_own"] == metrics["perplexity_untouched"]  # these weights have no own format
    change = metrics["perplexity_change"]
    assert change["value"] == pytest.approx(ratio / metrics["perplexity_untouched"]["value"] - 1)
    assert change["ci"][0] <= change["value"] <= change["ci"][1]


def test_it_learns_what_it_is_shown(ran: Ran) -> None:
    metrics, folder = ran
    curve = pq.read_table(folder / "curves.parquet").to_pylist()
    assert [row["step"] for row in curve] == [1, 2, 3, 4, 5, 6]
    assert curve[-1]["loss"] < curve[0]["loss"]
    assert metrics["training_loss"]["value"] == pytest.approx(np.mean([row["loss"] for row in curve]))
    assert metrics["perplexity"]["value"] < metrics["perplexity_untouched"]["value"]


def test_it_imitates_training_customers_and_training_dialogues_alone(inputs: dict[str, Path]) -> None:
    examples = sft.training_examples(sft_config(), inputs, 1)
    of_customers = pq.read_table(inputs["prompts"] / "targets.parquet").to_pylist()
    wanted = {row["id"] for row in of_customers if row["part"] == "train"}
    assert {one.id for one in examples if one.id.startswith("t")} == wanted
    of_people = {row["id"]: row["split"] for row in pq.read_table(inputs["dialogues"] / "pairs.parquet").to_pylist()}
    shown = [one.id for one in examples if one.id.startswith("d")]
    assert len(shown) == 6
    assert {of_people[name] for name in shown} == {"train"}


def test_it_is_measured_on_oasst1_and_on_messages_without_a_flaw(inputs: dict[str, Path]) -> None:
    rows = {row["id"]: row for row in pq.read_table(inputs["dialogues"] / "pairs.parquet").to_pylist()}
    held_out = sft.public(inputs["dialogues"], "validation", 1000, 1, sft.OASST1)
    assert {rows[one.id]["source"] for one in held_out} == {"OASST1"}
    assert {rows[one.id]["split"] for one in held_out} == {"validation"}
    flaws = {row["id"]: row["flaw"] for row in pq.read_table(inputs["prompts"] / "targets.parquet").to_pylist()}
    measured = sft.targets(inputs["prompts"], "validation", flawed=False)
    assert measured
    assert {flaws[one.id] for one in measured} == {""}


def test_prompts_have_no_part_in_the_loss(base: Path) -> None:
    language = lm.load(base, 32, "cpu")
    text = language.text
    one, other = text.row("a b", "yes", 48), text.row("a b", "yes and no", 48)
    assert len(lm.losses(language, [one, other])) == len(one[1]) + len(other[1])
    assert torch.allclose(lm.losses(language, [one, other]), -lm.log_probs(language, [one, other])[0], atol=1e-5)


def test_rows_that_lose_something_are_counted(
    inputs: dict[str, Path], tmp_path: Path, workspace: Callable[..., Workspace]
) -> None:
    metrics = sft.run(sft_config(max_length=20, max_steps=1), inputs, workspace(tmp_path))
    assert 0 < metrics["truncated"]["value"] <= metrics["examples"]["value"]
    assert metrics["truncated_held_out"]["value"] == 5
    assert metrics["oasst1"]["value"] == 1


def test_untouched_weights_are_measured_in_their_own_format_too(
    inputs: dict[str, Path], tmp_path: Path, workspace: Callable[..., Workspace]
) -> None:
    other = tmp_path / "base"
    shutil.copytree(inputs["base"], other)
    about = json.loads((other / lm.ABOUT).read_text())
    (other / lm.ABOUT).write_text(json.dumps(about | {"own_prefix": [1, 7]}))
    metrics = sft.run(sft_config(max_steps=1), inputs | {"base": other}, workspace(tmp_path / "out"))
    language, held_out = lm.load(other, 32, "cpu"), sft.public(inputs["dialogues"], "validation", 5, 42, sft.OASST1)
    assert language.text.frame == (1, 7)
    rows = [language.text.row(one.prompt, one.reply, 48) for one in held_out]
    plain, own = (
        lm.losses(language, [([*frame, *prompt], reply) for prompt, reply in rows]).mean().exp().item()
        for frame in ((), (1, 7))
    )
    assert metrics["perplexity_untouched"]["value"] == pytest.approx(plain, rel=1e-5)
    assert metrics["perplexity_untouched_own"]["value"] == pytest.approx(own, rel=1e-5)
    assert plain != pytest.approx(own, rel=1e-5)
    change = metrics["perplexity"]["value"] / min(plain, own) - 1
    assert metrics["perplexity_change"]["value"] == pytest.approx(change, abs=1e-5)


def test_without_oasst1_it_says_so(
    inputs: dict[str, Path], tmp_path: Path, workspace: Callable[..., Workspace]
) -> None:
    rows = pq.read_table(inputs["dialogues"] / "pairs.parquet").to_pylist()
    (tmp_path / "dialogues").mkdir()
    table = pa.Table.from_pylist([row | {"source": "made up"} for row in rows])
    pq.write_table(table, tmp_path / "dialogues" / "pairs.parquet")
    dialogues = {"dialogues": tmp_path / "dialogues"}
    metrics = sft.run(sft_config(max_steps=1), inputs | dialogues, workspace(tmp_path / "out"))
    assert metrics["oasst1"]["value"] == 0


def test_more_than_the_model_reads_is_refused(
    inputs: dict[str, Path], tmp_path: Path, workspace: Callable[..., Workspace]
) -> None:
    with pytest.raises(RetainError, match=r"stages.sft.max_length: 600 tokens are more than the 512"):
        sft.run(sft_config(max_length=600), inputs, workspace(tmp_path))


def test_nothing_held_out_is_said_before_anything_is_loaded(
    inputs: dict[str, Path], tmp_path: Path, workspace: Callable[..., Workspace]
) -> None:
    rows = pq.read_table(inputs["prompts"] / "targets.parquet").to_pylist()
    lacking = tmp_path / "prompts"
    lacking.mkdir()
    pq.write_table(
        pa.Table.from_pylist([row | {"part": "train"} for row in rows]), lacking / "targets.parquet"
    )  # fmt: skip
    with pytest.raises(DataError, match="no targets are held out"):
        sft.run(sft_config(), inputs | {"prompts": lacking, "base": tmp_path / "none"}, workspace(tmp_path / "out"))


def test_curves_hold_nothing_but_numbers(ran: Ran) -> None:
    table = pq.read_table(ran[1] / "curves.parquet")
    assert table.column_names == ["step", "loss", "learning_rate", "gradient"]
    json.dumps(table.to_pylist(), allow_nan=False)
