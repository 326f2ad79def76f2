"""What docs/WORDS.md promises of a resumed training where bytes are not promised: on a GPU. A CPU keeps it as well."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from engine.stage import Metrics, Workspace
from tasks.rlhf import sft
from tests.tasks.rlhf.trainable import Killed, killed_at, sft_config, write_inputs

LOSS = 0.01  # share of the undisturbed run's held-out loss

ON_A_GPU = pytest.param(
    "cuda", marks=[pytest.mark.slow, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")]
)


@pytest.mark.parametrize("device", ["cpu", ON_A_GPU])
def test_a_resumed_training_ends_where_an_undisturbed_one_does(
    base: Path,
    tmp_path: Path,
    workspace: Callable[..., Workspace],
    checkpoints: type[Any],
    monkeypatch: pytest.MonkeyPatch,
    device: str,
) -> None:
    inputs = write_inputs(tmp_path / "inputs", base)

    def run(name: str, kept: Any) -> Metrics:
        return sft.run(sft_config(), inputs, replace(workspace(tmp_path / name, kept), device=device))

    undisturbed = run("undisturbed", checkpoints())
    kept = checkpoints()
    with killed_at(5, monkeypatch), pytest.raises(Killed):
        run("killed", kept)
    assert kept.load().step == 4
    resumed = run("resumed", kept)

    assert resumed["held_out_loss"]["value"] == pytest.approx(undisturbed["held_out_loss"]["value"], rel=LOSS)
    low, high = undisturbed["perplexity_change"]["ci"]
    assert low <= resumed["perplexity_change"]["value"] <= high
    before, after = (curve(tmp_path / name) for name in ("undisturbed", "resumed"))
    assert [(row["step"], row["learning_rate"]) for row in after] == [
        (row["step"], row["learning_rate"]) for row in before
    ]
    # Another order of the data would show: every step's loss is that of its examples.
    assert [row["loss"] for row in after] == pytest.approx([row["loss"] for row in before], rel=LOSS)


def curve(folder: Path) -> list[dict[str, float]]:
    rows: list[dict[str, float]] = pq.read_table(folder / "curves.parquet").to_pylist()
    return rows
