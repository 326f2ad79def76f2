from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench import rlhf
from engine import config
from tasks.config import Experiment, OptShape


@pytest.fixture(scope="module")
def stated() -> Experiment:
    return config.validate(config.load(config.experiment_path("exp_001_mvp")), Experiment)


@pytest.fixture
def expected(stated: Experiment, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the model expects of exp_001_mvp; whether that is as it was locked is for others to ask."""
    monkeypatch.setattr("flows.plan.load_experiment", lambda name: stated)
    return rlhf.hours_and_dollars()


def test_parameters_are_those_of_the_published_model(stated: Experiment) -> None:
    shape = stated.stages.base.shape
    assert shape is not None
    assert rlhf.parameters(shape) == 331_196_416


def test_parameters_are_those_that_transformers_makes() -> None:
    from transformers import AutoModelForCausalLM, OPTConfig

    shape = OptShape(
        vocab_size=300,
        hidden_size=32,
        num_hidden_layers=2,
        ffn_dim=48,
        num_attention_heads=2,
        word_embed_proj_dim=32,
        max_position_embeddings=64,
        do_layer_norm_before=True,
    )
    made = AutoModelForCausalLM.from_config(OPTConfig(**shape.model_dump(), pad_token_id=0))
    assert rlhf.parameters(shape) == made.num_parameters()


def test_hours_are_passes_and_decoded_tokens_over_the_stated_speed(
    stated: Experiment, expected: dict[str, Any]
) -> None:
    sft, messages = stated.stages.sft, stated.stages.messages
    launch = 24 * 6 * 7.3e-4 * 1.5
    assert expected["hours"]["sft"] == pytest.approx(sft.max_steps * 3 * launch / 3600, abs=1e-3), "in one pass"
    assert expected["hours"]["judge"] == pytest.approx(1000 * 3 * 2 * launch / 3600, abs=1e-3), "in two"
    token_s = launch + 331_196_416 / 300e9 / 0.5
    replies = 2 * 6 * 4 * messages.candidates  # of SFT and RLHF, in six situations, with four offers
    assert expected["hours"]["messages"] == pytest.approx(
        replies / messages.batch * messages.max_tokens * token_s / 3600, abs=1e-3
    )


def test_where_launching_costs_nothing_training_is_arithmetic(
    stated: Experiment, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(rlhf.L4, "matrix_s", 0.0)
    without, sft = rlhf.hours_and_dollars()["hours"], stated.stages.sft
    operations = 4 * 331_196_416 * sft.max_steps * sft.batch * sft.max_length / 3
    assert without["sft"] == pytest.approx(operations / (121e12 * 0.15) / 3600, abs=1e-3)
    assert all(without[stage] < expected["hours"][stage] for stage in without)


def test_dollars_are_hours_at_the_price_of_the_gpus_machine(stated: Experiment, expected: dict[str, Any]) -> None:
    assert expected["total_hours"] == pytest.approx(sum(expected["hours"].values()), abs=0.01)
    assert expected["usd"] == pytest.approx(expected["total_hours"] * stated.costs.machines.gpu.usd_per_hour, abs=0.01)
    assert set(expected["hours"]) == {"sft", "rm", "judge", "ppo_text", "text_eval", "messages"}


def test_what_is_shown_is_what_was_found(expected: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    shape = {"device": "2 CPU threads", "step_s": 7.5, "memory_gb": 1.25}
    seconds = {"generation": 2.0, "scoring": 1.0, "update": 3.0, "generate": 1.9}
    ppo = {
        "model": "tiny",
        "device": "2 CPU threads",
        "seconds": seconds,
        "samples_per_s": 8.0,
        "against_generate": 0.95,
    }
    trainers = {
        "sft": {"saves": 7, "save_s": 0.5, "train_s": 50.0, "share": 0.01, "load_s": 0.2, "start_s": 6.5},
        "ppo_text": {"saves": 9, "save_s": 1.0, "train_s": 40.0, "share": 0.025, "load_s": 0.4, "start_s": 8.5},
    }
    safe = {"experiment": "local", "trainers": trainers}
    found = {"opt_350m_bf16": shape, "opt_350m_8bit": shape, "ppo": ppo, "spot_safe": safe, "l4": expected}
    rlhf.show(found | {"refusal": {"files_s": 3.25, "gpu_s": 2.75}})
    printed = " ".join(capsys.readouterr().out.split())
    for part in (
        "tiny on 2 CPU threads",
        "7 checkpoints",
        "1.00 %",
        "9 checkpoints",
        "2.50 %",
        "6.5 s",
        "8.5 s",
        "3.2 s",
        "2.8 s",
        "0.95 x",
    ):
        assert part in printed
    assert f"${expected['usd']:.2f}" in printed


def test_the_share_of_checkpoints_is_of_training_alone() -> None:
    attempts = [
        {"train_s": [6.0], "save_s": [0.1, 0.2], "kept_s": [0.05, 0.1], "load_s": [100.0]},
        {"train_s": [4.0], "save_s": [0.2], "kept_s": [0.1], "load_s": [100.0]},
    ]
    assert rlhf.checkpointing(attempts) == {"saves": 3, "save_s": 0.5, "train_s": 10.0, "share": 0.05}


def test_a_start_is_to_the_first_step_without_the_first_loading() -> None:
    assert rlhf.starting({"load_s": [1.5, 9.0], "first_step_s": 8.0}) == {"load_s": 1.5, "start_s": 6.5}


def test_clocks_count_saves_within_training_and_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(100))
    monkeypatch.setattr(rlhf.time, "monotonic", lambda: float(next(now)))
    clocks = rlhf.Clocks()
    store = clocks.around("save_s", clocks.around("kept_s", lambda: None))
    save = clocks.around("save_s", lambda: store())
    train = clocks.around("train_s", lambda: (save(), store()))
    train()
    save()  # of what is measured afterwards
    assert [len(clocks.seconds[name]) for name in ("train_s", "save_s", "kept_s")] == [1, 2, 2]
    assert clocks.seconds["train_s"][0] > sum(clocks.seconds["save_s"]) > sum(clocks.seconds["kept_s"])


def test_every_trainer_is_clocked(monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.checkpoint import Checkpointer
    from tasks.rlhf import ppo_text
    from tasks.rlhf.language import lm, training

    places = [
        (lm, "load"),
        (training, "train"),
        (ppo_text, "train"),
        (training.ExactTrainer, "_save_checkpoint"),
        (training.Finished, "keep"),
        (ppo_text.Learner, "files"),
        (Checkpointer, "save"),
    ]
    before = [getattr(*place) for place in places]
    for place, one in zip(places, before):
        monkeypatch.setattr(*place, one)  # put back afterwards
    rlhf.clock_trainers(rlhf.Clocks())
    assert not [place for place, one in zip(places, before) if getattr(*place) is one]


def test_what_is_drawn_elsewhere_is_there_and_its_failure_is_told(tmp_path: Path) -> None:
    rlhf._in_a_process(Path.write_text, tmp_path / "drawn", "something")
    assert (tmp_path / "drawn").read_text() == "something"
    with pytest.raises(RuntimeError, match="exit code 1"):
        rlhf._in_a_process(Path.read_text, tmp_path / "missing")
