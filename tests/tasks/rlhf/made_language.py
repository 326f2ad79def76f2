"""Made-up artifacts of everything that text_eval and messages read, on the tiny base; and models that write as told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.artifact import ArtifactWriter
from retain.message import SITUATIONS
from tasks.rlhf.language import decode, lm
from tasks.rlhf.prompt_tables import PROBES, PROMPTS, TARGETS
from tests.tasks.rlhf.tables import write

LORA = lm.Shape(r=4, alpha=8, dropout=0.1, targets="attention")
OFFERS, MONTHS = (0, 10), 3
WRITER = {"sft": 1, "ppo_text": 2}
REWARD_MODELS = {"rm/training": 3, "rm/validation": 4, "judge/final": 5}

Says = Callable[[str, int], str | None]  # (adapter, how many it wrote before) -> text; None: doesn't end


def adapter(base: Path, folder: Path, seed: int, reward: bool) -> None:
    """Of a writer, or of a reward model; drawn by seed, so that it does something."""
    found = lm.load_reward(base, 32, "cpu", seed) if reward else lm.load(base, 32, "cpu")
    lm.new_adapter(found, LORA, seed)
    generator = torch.Generator().manual_seed(seed)
    for name, value in found.model.named_parameters():
        if "lora_B" in name:
            value.data.copy_(torch.randn(value.shape, generator=generator) / 4)
    folder.mkdir(parents=True)
    for name, content in lm.adapter_files(found, LORA).items():
        (folder / name).write_bytes(content)


def prompts(folder: Path, test: int, probes: Sequence[tuple[str, int]], cells: Sequence[tuple[str, int]]) -> None:
    """`test` held-out prompts, probes of (kind, offer), and two training prompts of each cell."""
    cells = list(cells)
    every = [(situation, offer) for situation in SITUATIONS for offer in OFFERS]
    rows = [
        {
            "id": f"test-{at:03d}",
            "part": "test",
            "situation": every[at % len(every)][0],
            "offer": every[at % len(every)][1],
            "prompt": f"a test prompt {'long ' * (at % 4)}{at}",
        }
        for at in range(test)
    ] + [
        {
            "id": f"{part}-{situation}-{offer}",
            "part": part,
            "situation": situation,
            "offer": offer,
            "prompt": f"{part}: {situation}, {offer}",
        }
        for situation, offer in cells
        for part in ("train", "validation")
    ]
    probed = [
        {
            "id": f"probe-{at:03d}",
            "prompt": f"please promise {at}",
            "offer": offer,
            "situation": "price",
            "kind": kind,
            "part": "test",
        }
        for at, (kind, offer) in enumerate(probes)
    ]
    write(folder, PROMPTS, rows)
    write(folder, PROBES, probed)
    write(folder, TARGETS, [])
    ArtifactWriter(folder).json("about.json", {"offers": list(OFFERS), "months": MONTHS, "flaws": {}, "rules": []})


def writes(monkeypatch: pytest.MonkeyPatch, says: Says) -> None:
    """Replies are what `says` says, instead of samples."""
    written = {"sft": 0, "policy": 0}

    def sample(
        language: lm.Lm, asked: Sequence[list[int]], limit: int, temperature: float, generator: Any, batch: int
    ) -> list[decode.Sample]:
        found = []
        name = lm.active(language)
        for _ in asked:
            text = says(name, written[name])
            written[name] += 1
            ids = language.text.reply(text or "We are about to")
            ids = ids if text is not None else ids[:-1]
            found.append(decode.Sample(ids, language.text.decode(ids), text is not None))
        return found

    monkeypatch.setattr(decode, "sample", sample)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
