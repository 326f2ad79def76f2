"""experiment_dryrun is exp_001_mvp's own code path: what differs is what lets it run without a GPU and weights."""

from __future__ import annotations

from typing import Any

import pytest

from engine import config

REWARD_MODELS = ("rm", "judge")
TRAINED = ("sft", *REWARD_MODELS)
DIFFERS = {
    "who it is": {"tag", "costs.scope"},
    # Nobody tunes by it, but the test part is opened by exp_001_mvp alone.
    "what it may see": {"stages.decision.evaluation.part"},
    "device": {"execution.device"},
    "weights": {"stages.base.weights"},
    "tokenizer": {"stages.base.tokenizer"},
    # The files are exp_001_mvp's; one that is missing refuses no run.
    "sources": {"synthetic_data"},
    "three steps": {*(f"stages.{stage}.max_steps" for stage in TRAINED), "stages.ppo_text.iterations"},
    "batch": {f"stages.{stage}.batch" for stage in (*TRAINED, "ppo_text", "text_eval", "messages")},
    "lengths": {
        *(f"stages.{stage}.max_length" for stage in TRAINED),
        *(f"stages.{stage}.max_tokens" for stage in ("ppo_text", "text_eval", "messages")),
        "stages.ppo_text.max_prompt",
    },
    "how many, so that it ends on a CPU": {
        "stages.prompts.targets",
        "stages.prompts.validation_targets",
        "stages.prompts.held_out_pairs",
        "stages.prompts.validation_prompts",
        "stages.prompts.test_prompts",
        "stages.prompts.probes",
        *(f"stages.{stage}.held_out_public" for stage in TRAINED),
        "stages.messages.candidates",
    },
}
LISTED = set().union(*DIFFERS.values())
# What the dry run is about.
KEPT = (
    *(f"stages.base.{key}" for key in ("model", "shape", "precision")),
    *(
        f"stages.{stage}.{key}"
        for stage in TRAINED
        for key in ("lora", "bits", "learning_rate", "warmup_steps", "public")
    ),
    "stages.judge.rule_judge",
    *(
        f"stages.ppo_text.{key}"
        for key in (
            "bits",
            "rewards",
            "kl",
            "stops",
            "learning_rate",
            "max_gradient",
            "clip",
            "gae_lambda",
            "value_weight",
        )
    ),
    *(f"stages.ppo_text.{key}" for key in ("temperature", "epochs", "minibatches", "validate_every")),
    *(f"stages.{stage}.{key}" for stage in ("text_eval", "messages") for key in ("bits", "temperature")),
    "stages.dialogues",
    "stages.preferences",
    "criteria",
    "execution.checkpoint",
)


def flat(value: Any, at: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        return {key: one for name, of in value.items() for key, one in flat(of, f"{at}.{name}" if at else name).items()}
    return {at: value}


def resolved(name: str) -> dict[str, Any]:
    return flat(config.load(config.experiment_path(name)).data)


LOCKED, DRY = resolved("exp_001_mvp"), resolved("dryrun")


def test_what_differs_is_listed() -> None:
    assert LOCKED.keys() == DRY.keys()
    assert {key for key in LOCKED if LOCKED[key] != DRY[key]} == LISTED


@pytest.mark.parametrize("kept", KEPT)
def test_model_lora_eight_bits_losses_and_rewards_stay(kept: str) -> None:
    of_it = [key for key in LOCKED if key == kept or key.startswith(f"{kept}.")]
    assert of_it
    assert {key: DRY[key] for key in of_it} == {key: LOCKED[key] for key in of_it}


def test_it_is_opt_350m_in_eight_bits() -> None:
    assert (DRY["stages.base.shape.hidden_size"], DRY["stages.base.shape.num_hidden_layers"]) == (1024, 24)
    assert {value for key, value in DRY.items() if key.endswith(".bits")} == {8}


def test_three_steps_and_nothing_larger_than_the_locked_experiments() -> None:
    assert {DRY[key] for key in DIFFERS["three steps"]} == {3}
    counts = DIFFERS["batch"] | DIFFERS["lengths"] | DIFFERS["how many, so that it ends on a CPU"]
    assert [key for key in counts if DRY[key] >= LOCKED[key]] == []
