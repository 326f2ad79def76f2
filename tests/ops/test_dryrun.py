"""experiment_dryrun is exp_001_mvp's own code path: what differs is what lets it run without a GPU and weights."""

from __future__ import annotations

from typing import Any

from engine import config

# Where it runs and what it may cost; the rest of a stage is exp_001_mvp's to the letter.
ELSEWHERE = {"tag", "locked", "synthetic_data", "costs.scope", "execution.device"}
DIFFERS = {
    # weights and tokenizer
    "stages.base.weights",
    "stages.base.tokenizer",
    "stages.base.files",
    # sources
    "stages.dialogues.files",
    "stages.dialogues.max_rows",
    "stages.preferences.files",
    # three steps
    "stages.sft.max_steps",
    "stages.rm.max_steps",
    "stages.judge.max_steps",
    "stages.ppo_text.iterations",
    # batch and lengths, and how many of each
    "stages.prompts.targets",
    "stages.prompts.pairs",
    "stages.prompts.held_out_pairs",
    "stages.prompts.train_prompts",
    "stages.prompts.validation_prompts",
    "stages.prompts.test_prompts",
    "stages.prompts.probes",
    *(
        f"stages.{stage}.{key}"
        for stage in ("sft", "rm", "judge")
        for key in ("batch", "max_length", "public", "held_out_public", "checkpoint.every_steps")
    ),
    "stages.ppo_text.batch",
    "stages.ppo_text.minibatches",
    "stages.ppo_text.max_tokens",
    "stages.ppo_text.max_prompt",
    "stages.ppo_text.validate_every",
    "stages.ppo_text.checkpoint.every_steps",
    *(f"stages.{stage}.{key}" for stage in ("text_eval", "messages") for key in ("batch", "max_tokens")),
    "stages.messages.candidates",
    "stages.messages.kept",
}
# What the dry run is about: these may never be among them.
KEPT = (
    "stages.base.model",
    "stages.base.shape",
    "stages.base.precision",
    "stages.sft.lora",
    "stages.sft.bits",
    "stages.rm.lora",
    "stages.rm.bits",
    "stages.ppo_text.bits",
    "stages.ppo_text.rewards",
    "stages.ppo_text.kl",
    "stages.ppo_text.stops",
)


def flat(value: Any, at: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        return {key: one for name, of in value.items() for key, one in flat(of, f"{at}.{name}" if at else name).items()}
    return {at: value}


def resolved(name: str) -> dict[str, Any]:
    return flat(config.load(config.experiment_path(name)).data)


def test_what_differs_is_listed() -> None:
    locked, dry = resolved("exp_001_mvp"), resolved("dryrun")
    differs = {key for key in locked.keys() | dry.keys() if locked.get(key, "-") != dry.get(key, "-")}
    assert differs - ELSEWHERE == DIFFERS


def test_model_lora_eight_bits_losses_and_rewards_stay() -> None:
    assert not [key for key in DIFFERS if key.startswith(KEPT)]
    assert resolved("dryrun")["stages.base.shape.hidden_size"] == 1024
    assert resolved("dryrun")["stages.sft.bits"] == 8
