from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench import rlhf
from engine import config
from engine.prices import load_prices
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
    price = load_prices().usd_per_hour("g2-standard-4", "nvidia-l4", stated.costs.region, preemptible=True)
    assert expected["usd"] == pytest.approx(expected["total_hours"] * price, abs=0.01)
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
    rlhf.show({"opt_350m_bf16": shape, "opt_350m_8bit": shape, "ppo": ppo, "l4": expected})
    printed = " ".join(capsys.readouterr().out.split())
    for part in ("tiny on 2 CPU threads", "0.95 x"):
        assert part in printed
    assert f"${expected['usd']:.2f}" in printed


def test_what_is_drawn_elsewhere_is_there_and_its_failure_is_told(tmp_path: Path) -> None:
    rlhf._in_a_process(Path.write_text, tmp_path / "drawn", "something")
    assert (tmp_path / "drawn").read_text() == "something"
    with pytest.raises(RuntimeError, match="exit code 1"):
        rlhf._in_a_process(Path.read_text, tmp_path / "missing")
