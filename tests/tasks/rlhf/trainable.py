"""Small inputs for the trainers, of the schema that the stages before them write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tasks.config import RewardModelConfig, SftConfig
from tasks.public_tables import DIALOGUES, PREFERENCES
from tasks.rlhf.prompt_tables import PAIRS, PROMPTS, TARGETS
from tests.tasks.rlhf.tables import write

SETTINGS: dict[str, Any] = {
    "lora": {"r": 2, "alpha": 4, "dropout": 0.2, "targets": "attention"},
    "bits": 32,
    "max_steps": 6,
    "batch": 4,
    "learning_rate": 0.02,
    "warmup_steps": 1,
    "max_length": 48,
    "public": 6,
    "held_out_public": 5,
}
WORDS = ("please", "stay", "with", "us", "and", "pay", "less", "every", "month", "from", "now", "on")


def sft_config(**changes: Any) -> SftConfig:
    measured = {
        "held_out_targets": 300,
        "bootstrap": 1000,
        "samples": 8,
        "sample_tokens": 64,
        "sample_temperature": 1.0,
    }
    return SftConfig.model_validate_json(json.dumps(SETTINGS | measured | changes))


def rm_config(**changes: Any) -> RewardModelConfig:
    return RewardModelConfig.model_validate_json(
        json.dumps(SETTINGS | {"center_rewards": 0.01, "bootstrap": 100} | changes)
    )


def write_inputs(folder: Path, base: Path) -> dict[str, Path]:
    """Folders of the stages that `sft` and `rm` read."""
    dialogues, preferences, prompts = (folder / name for name in ("dialogues", "preferences", "prompts"))
    write(
        dialogues,
        DIALOGUES,
        [
            {"id": f"d{i}", "source": "OASST1" if i % 3 else "SGD", "prompt": _say(i, 3),
             "response": _say(i + 1, 4 + i % 9), "split": ("train", "train", "validation", "test")[i % 4]}
            for i in range(40)
        ],
    )  # fmt: skip
    write(
        preferences,
        PREFERENCES,
        [
            {"id": f"p{i}", "source": "HH-RLHF", "prompt": _say(i, 4), "chosen": _say(i, 6),
             "rejected": _say(i + 3, 2 + i % 5), "split": ("train", "train", "test")[i % 3], "half": "AB"[i % 2]}
            for i in range(48)
        ],
    )  # fmt: skip
    parts = ("train", "train", "validation", "test")
    write(
        prompts,
        TARGETS,
        [
            {"id": f"t{i}", "prompt": _say(i, 2), "response": _say(i + 2, 5), "flaw": "vague" if i % 5 == 0 else "",
             "part": parts[i % 4]}
            for i in range(24)
        ],
    )  # fmt: skip
    write(
        prompts,
        PAIRS,
        [
            {"id": f"r{i}", "prompt": _say(i, 2), "chosen": _say(i + 2, 5), "rejected": "no " + _say(i, 3),
             "flaw": ("vague", "wrong offer")[i // 4 % 2], "part": parts[i % 4],
             "half": "AB"[i % 2] if i % 4 < 2 else ""}
            for i in range(32)
        ],
    )  # fmt: skip
    write(prompts, PROMPTS, [{"id": f"q{i}", "prompt": _say(i, 2), "part": parts[i % 4]} for i in range(16)])
    return {"dialogues": dialogues, "preferences": preferences, "prompts": prompts, "base": base}


def files(folder: Path) -> dict[str, bytes]:
    """What a stage wrote, without what it threw away."""
    scratch = ("trainer-", "models/", "sft/")
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: content for name, content in found.items() if not name.startswith(scratch)}


def _say(start: int, words: int) -> str:
    return " ".join(WORDS[(start + at * (1 + start % 3)) % len(WORDS)] for at in range(words))
