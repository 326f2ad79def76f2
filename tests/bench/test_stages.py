"""What is scaled from the steps that were run to those of the experiment, and from a chip to an L4."""

from __future__ import annotations

from typing import Any

import pytest

from bench import stages
from flows.plan import load_experiment


def clock(*told: tuple[float, int]) -> stages.Clock:
    return stages.Clock(told=[(at, step, {}) for at, step in told])


def test_a_step_is_timed_from_the_first_to_the_last_of_training() -> None:
    assert clock((10.0, 1), (12.0, 3), (20.0, 11), (90.0, 12)).step_s(11) == 1.0


def test_one_step_times_none() -> None:
    with pytest.raises(ValueError, match="raise --share"):
        clock((10.0, 1), (90.0, 12)).step_s(11)


def test_the_whole_is_what_ran_and_the_steps_that_were_left_out() -> None:
    stated: Any = load_experiment("smollm2").stages
    config = stages.cut("rm", stated.rm, 0.1)
    assert config.max_steps == 17
    row = {"seconds": 40.0, "steps": 34, "step_s": 0.5}
    assert stages.whole_s("rm", row, config, stated) == 40 + (340 - 34) * 0.5
    asked = {"metrics": {"prompts": {"value": 50.0}, "probes": {"value": 50.0}}, "seconds": 10.0}
    assert stages.whole_s("text_eval", asked, stated.text_eval, stated) == 10 * 400 / 100


@pytest.mark.parametrize(
    ("chip", "ratio"), [("NVIDIA H200", 16.0), ("NVIDIA H100 80GB HBM3", 11.2), ("NVIDIA A100-SXM4-80GB", 6.7)]
)
def test_an_l4_is_slower_by_its_memory_at_most(chip: str, ratio: float) -> None:
    found = stages.on_an_l4({"sft": {"whole_s": 3600.0}, "rm": {"failed": "no"}}, chip, 0.28)
    assert found is not None
    assert found["ratio"] == ratio
    assert found["usd_as_here"] == 0.28
    assert found["hours_at_most"] == pytest.approx(ratio, abs=0.06)


def test_of_another_chip_nothing_is_said() -> None:
    assert stages.on_an_l4({"sft": {"whole_s": 3600.0}}, "NVIDIA L40S", 0.28) is None
