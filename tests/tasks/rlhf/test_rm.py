"""The stage `rm`: two models of one half, scored as others will score them, whatever interrupts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from engine.errors import DataError, RetainError
from engine.stage import Metrics, Workspace
from tasks.ranking import auc
from tasks.rlhf import rm
from tasks.rlhf.judging import measures
from tasks.rlhf.language import lm
from tasks.rlhf.retention.pairs import Pair, tokenised
from tests.tasks.rlhf.trainable import files, rm_config, write_inputs

Ran = tuple[Metrics, Path]


@pytest.fixture(scope="module")
def inputs(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_inputs(tmp_path_factory.mktemp("inputs"), base)


@pytest.fixture(scope="module")
def ran(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, workspace: Callable[..., Workspace]) -> Ran:
    folder = tmp_path_factory.mktemp("rm")
    return rm.run(rm_config(), inputs, workspace(folder)), folder


def test_it_writes_two_models_that_differ(ran: Ran) -> None:
    found = files(ran[1])
    assert sorted(found) == [
        "curves.parquet",
        "evidence/scores.parquet",
        "training/adapter.json",
        "training/adapter.safetensors",
        "validation/adapter.json",
        "validation/adapter.safetensors",
    ]
    assert found["training/adapter.safetensors"] != found["validation/adapter.safetensors"]
    curve = pq.read_table(ran[1] / "curves.parquet").to_pylist()
    assert [(row["model"], row["step"]) for row in curve] == [
        (name, step) for name in ("training", "validation") for step in range(1, 7)
    ]


def test_evidence_holds_what_lm_scores_says_of_every_held_out_pair(ran: Ran, inputs: dict[str, Path]) -> None:
    rows = pq.read_table(ran[1] / "evidence" / "scores.parquet").to_pylist()
    held_out = {one.id: one for one in rm.held_out_pairs(rm_config(), inputs["preferences"], inputs["prompts"], 42)}
    for name in rm.MODELS:
        of_model = [row for row in rows if row["model"] == name]
        assert {row["id"] for row in of_model} == held_out.keys()
        language = lm.load(inputs["base"], 32, "cpu")
        lm.load_adapter(language, ran[1] / name, "judge")
        for row in of_model:
            pair = held_out[row["id"]]
            both = tokenised(pair, language.text, 48)
            assert [row["chosen"], row["rejected"]] == pytest.approx(
                lm.scores(language, "judge", both).tolist(), abs=1e-4
            )


def test_metrics_are_those_of_the_evidence(ran: Ran) -> None:
    metrics, folder = ran
    rows = pq.read_table(folder / "evidence" / "scores.parquet").to_pylist()
    for prefix, model in (("", "training"), ("validation_", "validation")):
        for suffix, own in (("", True), ("_public", False)):
            of_part = [row for row in rows if row["model"] == model and (row["source"] == "retention") == own]
            chosen, rejected = (np.array([row[key] for row in of_part]) for key in ("chosen", "rejected"))
            for name, wanted in (("auc", auc), ("accuracy", lambda a, b: float(measures.wins(a, b).mean()))):
                found = metrics[f"{prefix}{name}{suffix}"]
                assert found["value"] == pytest.approx(wanted(chosen, rejected))
                assert found["ci"][0] <= found["value"] <= found["ci"][1]
    assert {"accuracy_vague", "accuracy_wrong_offer", "validation_accuracy_vague"} <= metrics.keys()


def test_it_learns_which_reply_is_preferred(base: Path, tmp_path: Path, workspace: Callable[..., Workspace]) -> None:
    """Whatever it is trained on: the loss and the accuracy of pairs that one letter tells apart."""
    every = [Pair(str(i), f"prompt {i}", f"yes {i}", f"no {i}", "no", "retention") for i in range(10, 46)]
    pairs, held_out = every[:24], every[24:]
    place = workspace(tmp_path)
    config = rm_config(max_steps=20)
    found = rm.train_reward(config, base, pairs, 1, place, "training", 0, 20)
    assert np.mean([row["loss"] for row in found.curve[-3:]]) < found.curve[0]["loss"] / 2
    metrics, _ = rm.measure(config, base, {"training": found.files}, held_out, place)
    assert metrics["training_accuracy"]["value"] == 1
    assert metrics["training_accuracy_no"]["value"] == 1


def test_head_adapter_and_order_are_the_seeds(base: Path, tmp_path: Path, workspace: Callable[..., Workspace]) -> None:
    pairs = [Pair(str(i), f"prompt {i}", f"yes {i}", f"no {i}", "no", "retention") for i in range(12)]
    one, again, other = (
        rm.train_reward(rm_config(max_steps=2), base, pairs, seed, workspace(tmp_path / str(at)), "x", 0, 2)
        for at, seed in enumerate((1, 1, 2))
    )
    assert one == again
    assert one.files != other.files


def test_what_an_earlier_training_made_is_in_every_later_checkpoint(
    inputs: dict[str, Path],
    tmp_path: Path,
    workspace: Callable[..., Workspace],
    checkpoints: type[Any],
) -> None:
    kept = checkpoints()
    rm.run(rm_config(), inputs, workspace(tmp_path, kept))
    assert {name.rsplit("/", 1)[0] for name in kept.at(8).files} == {"training", "trainer/validation"}


def test_scores_are_those_of_the_trl_loss(base: Path, tmp_path: Path, workspace: Callable[..., Workspace]) -> None:
    """What is trained is what is scored: TRL's loss of the first step from scores of the untrained model."""
    pairs = [Pair(str(i), f"prompt {i}", "yes " * (i + 1), f"no {i}", "no", "retention") for i in range(4)]
    config = rm_config(max_steps=1, lora={"r": 2, "alpha": 4, "dropout": 0.0, "targets": "attention"})
    found = rm.train_reward(config, base, pairs, 5, workspace(tmp_path / "a"), "x", 0, 1)
    reward = lm.load_reward(base, 32, "cpu", 5)
    scores = torch.tensor(
        [
            [reward.model(input_ids=torch.tensor([[*p, *r]])).logits.item() for p, r in tokenised(one, reward.text, 48)]
            for one in pairs
        ]
    )
    difference = scores[:, 0] - scores[:, 1]
    wanted = -torch.nn.functional.logsigmoid(difference).mean() + 0.01 * (scores.sum(1) ** 2).mean()
    assert found.curve[0]["loss"] == pytest.approx(wanted.item(), abs=1e-5)


def test_eight_bits_train_and_score(
    inputs: dict[str, Path], tmp_path: Path, workspace: Callable[..., Workspace]
) -> None:
    metrics = rm.run(rm_config(bits=8, max_steps=2), inputs, workspace(tmp_path))
    assert 0 <= metrics["auc"]["value"] <= 1


def test_without_held_out_pairs_there_is_nothing_to_measure(
    base: Path, tmp_path: Path, workspace: Callable[..., Workspace]
) -> None:
    with pytest.raises(DataError, match="no pair of part test"):
        rm.measure(rm_config(), base, {}, [Pair("1", "a", "b", "c", "", "HH-RLHF")], workspace(tmp_path))


def test_more_than_the_model_reads_is_refused(base: Path, tmp_path: Path, workspace: Callable[..., Workspace]) -> None:
    with pytest.raises(RetainError, match="max_length of the x reward model: 513 tokens are more than the 512"):
        rm.train_reward(rm_config(max_length=513), base, [], 5, workspace(tmp_path), "x", 0, 1)


def test_scores_are_kept_block_by_block(
    ran: Ran,
    inputs: dict[str, Path],
    tmp_path: Path,
    workspace: Callable[..., Workspace],
    checkpoints: type[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A batch at a time; that they are the same wherever a run was stopped is in tests/tasks/contract."""
    files_of = {
        "training": {name: (ran[1] / "training" / name).read_bytes() for name in (lm.ADAPTER, lm.ADAPTER_ABOUT)}
    }
    pairs = rm.held_out_pairs(rm_config(), inputs["preferences"], inputs["prompts"], 42)
    monkeypatch.setattr(rm, "BLOCK", 1)
    kept = checkpoints()
    rm.score(rm_config(), inputs["base"], files_of, pairs, workspace(tmp_path, kept))
    assert kept.saves == -(-2 * len(pairs) // 4)


def test_groups_of_pairs_keep_both_replies_together(
    base: Path, tmp_path: Path, workspace: Callable[..., Workspace], monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = [Pair(str(i), f"prompt {i}", "yes " * (i + 1), f"no {i}", "no", "retention") for i in range(8)]
    config = rm_config(max_steps=3, lora={"r": 2, "alpha": 4, "dropout": 0.0, "targets": "attention"})
    whole = rm.train_reward(config, base, pairs, 5, workspace(tmp_path / "a"), "x", 0, 3)
    monkeypatch.setattr(lm, "ROOM", {"cpu": 30})
    parts = rm.train_reward(config, base, pairs, 5, workspace(tmp_path / "b"), "x", 0, 3)
    losses = [[row["loss"] for row in found.curve] for found in (whole, parts)]
    assert np.allclose(losses[0], losses[1], atol=1e-4)
