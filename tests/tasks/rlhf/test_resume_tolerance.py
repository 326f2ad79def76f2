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
from tasks.rlhf import ppo_text, rm, sft
from tests.tasks.rlhf.test_ppo_text import config as ppo_config
from tests.tasks.rlhf.test_ppo_text import inputs as ppo_inputs  # noqa: F401 - a fixture
from tests.tasks.rlhf.trainable import rm_config, sft_config, write_inputs

LOSS = 0.01  # share of the undisturbed run's held-out loss

ON_A_GPU = [pytest.mark.slow, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")]
PLACES = [("cpu", 32), *(pytest.param("cuda", bits, marks=ON_A_GPU) for bits in (32, 8))]


@pytest.mark.parametrize(("device", "bits"), PLACES)
@pytest.mark.parametrize("stage", ["sft", "rm"])
def test_a_resumed_training_ends_where_an_undisturbed_one_does(
    base: Path,
    tmp_path: Path,
    workspace: Callable[..., Workspace],
    checkpoints: type[Any],
    stage: str,
    device: str,
    bits: int,
) -> None:
    inputs = write_inputs(tmp_path / "inputs", base)

    def run(name: str, kept: Any) -> Metrics:
        place = replace(workspace(tmp_path / name, kept), device=device)
        if stage == "sft":
            return sft.run(sft_config(bits=bits), inputs, place)
        return rm.run(rm_config(bits=bits), inputs, place)

    kept = checkpoints()
    undisturbed = run("undisturbed", kept)
    step = {"sft": 4, "rm": 10}[stage]  # of rm, in the second of its two models, of six steps each
    resumed = run("resumed", checkpoints(saved=kept.at(step)))

    assert resumed.keys() == undisturbed.keys()
    if stage == "sft":
        assert resumed["held_out_loss"]["value"] == pytest.approx(undisturbed["held_out_loss"]["value"], rel=LOSS)
    rates = [name for name, metric in undisturbed.items() if "ci" in metric]
    assert rates
    for name in rates:
        low, high = undisturbed[name]["ci"]
        assert low <= resumed[name]["value"] <= high, name
    before, after = (curve(tmp_path / name) for name in ("undisturbed", "resumed"))
    places = [[(row.get("model"), row["step"], row["learning_rate"]) for row in rows] for rows in (before, after)]
    assert places[0] == places[1]
    # Another order of the data would show: every step's loss is that of its examples.
    assert [row["loss"] for row in after] == pytest.approx([row["loss"] for row in before], rel=LOSS)


@pytest.mark.parametrize(("device", "bits"), PLACES)
def test_ppo_goes_on_with_the_next_iteration_as_if_nothing_had_been(
    ppo_inputs: dict[str, Path],  # noqa: F811
    device: str,
    bits: int,
) -> None:
    """What is restored is what was kept, to the last bit on every device; what is computed from it then, about."""
    undisturbed, resumed = (ppo_text.Learner.start(ppo_config(bits=bits), ppo_inputs, device, 42) for _ in range(2))
    undisturbed.measure_reference()
    undisturbed.iterate()
    undisturbed.iterate()
    kept = undisturbed.files()
    resumed.restore(kept)
    assert resumed.files() == kept
    for learner in (undisturbed, resumed):
        learner.iterate()
    before, after = (learner.state.traces for learner in (undisturbed, resumed))
    assert after[2]["coefficient"] == before[2]["coefficient"]
    for name in ("reward", "kl", "entropy", "tokens", "value_loss"):
        assert after[2][name] == pytest.approx(before[2][name], rel=LOSS, abs=1e-3), name


def curve(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(folder / "curves.parquet").to_pylist()
    return rows
