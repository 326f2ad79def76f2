"""The final reward model is of the other half and survives kills; the rule judge is written down as it stands."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.config import experiment_path, load, validate
from engine.errors import DataError, RetainError
from engine.stage import Metrics, Workspace
from retain import message
from tasks.config import Experiment, JudgeConfig
from tasks.rlhf import judge, rm
from tasks.rlhf.judging.rule_judge import cues, frozen
from tasks.rlhf.judging.rule_judge.scoring import WEIGHTS
from tasks.rlhf.retention import pairs
from tests.tasks.rlhf.trainable import SETTINGS, files, rm_config, write_inputs
from tests.words import CUES

GOOD = "Hello, your bill is high, so you can have 20% off it for three months. Would that suit you? Please reply."
BAD = "Hello, your bill is high, so you can have 40% off it for three months. Would that suit you? Please reply."


def config(**changes: Any) -> JudgeConfig:
    settings = (
        SETTINGS
        | {"center_rewards": 0.01, "bootstrap": 100, "rule_judge": frozen.digest(CUES)[:16], "cues": CUES}
        | changes
    )
    return JudgeConfig.model_validate_json(json.dumps(settings))


def judge_inputs(folder: Path, base: Path) -> dict[str, Path]:
    """What the trainers' tests read, with offer and situation, and a rejected reply whose offer is wrong."""
    found = write_inputs(folder, base)
    path = found["prompts"] / "pairs.parquet"
    rows = [{**row, "offer": 20, "situation": "price"} for row in pq.read_table(path).to_pylist()]
    for row in rows:
        if row["part"] == "test" and row["flaw"] == "wrong offer":
            row |= {"chosen": GOOD, "rejected": BAD}
    pq.write_table(pa.Table.from_pylist(rows), path)
    (found["prompts"] / "about.json").write_text(json.dumps({"months": 3}))
    return found


@pytest.fixture(scope="module")
def inputs(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return judge_inputs(tmp_path_factory.mktemp("inputs"), base)


@pytest.fixture(scope="module")
def made(
    inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, workspace: Callable[..., Workspace]
) -> tuple[Path, Metrics]:
    folder = tmp_path_factory.mktemp("made") / "judge"
    return folder, judge.run(config(), inputs, workspace(folder))


def test_it_writes_the_model_the_rules_and_every_score(made: tuple[Path, Metrics]) -> None:
    folder, _ = made
    assert set(files(folder)) == {
        "final/adapter.safetensors", "final/adapter.json", "rules.json", "cues.json", "curves.parquet",
        "evidence/scores.parquet",
    }  # fmt: skip
    rules = json.loads((folder / "rules.json").read_bytes())
    assert rules["digest"] == frozen.digest(CUES)
    assert {name: rule["weight"] for name, rule in rules["rules"].items()} == WEIGHTS
    assert json.loads((folder / "cues.json").read_bytes()) == CUES


def test_every_figure_is_that_of_the_evidence(made: tuple[Path, Metrics]) -> None:
    folder, metrics = made
    rows = pq.read_table(folder / "evidence/scores.parquet").to_pylist()

    def share(model: str, own: bool, flaw: str = "") -> float:
        kept = [row for row in rows if row["model"] == model and (row["source"] == pairs.RETENTION) is own]
        kept = [row for row in kept if not flaw or row["flaw"] == flaw]
        return float(
            np.mean([(row["chosen"] > row["rejected"]) + (row["chosen"] == row["rejected"]) / 2 for row in kept])
        )

    for name, expected in {
        "final_accuracy": share("final", True),
        "final_accuracy_public": share("final", False),
        "final_accuracy_vague": share("final", True, "vague"),
        "rules_accuracy": share("rules", True),
        "rules_accuracy_vague": share("rules", True, "vague"),
        "rules_accuracy_wrong_offer": share("rules", True, "wrong offer"),
    }.items():
        low, high = metrics[name]["ci"]
        assert metrics[name]["value"] == pytest.approx(expected)
        assert low <= expected <= high
    assert {"final_auc", "final_auc_public", "pairs"} <= set(metrics)
    assert metrics["rules_accuracy_wrong_offer"]["value"] == 1


def test_it_learns_from_the_other_half_with_another_seed(
    inputs: dict[str, Path], tmp_path: Path, workspace: Callable[..., Workspace], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}
    whole = rm.train_reward

    def train_reward(config: Any, base: Path, of: Any, seed: int, *more: Any) -> Any:
        seen[f"{seed}"] = {pair.id for pair in of}
        return whole(config, base, of, seed, *more)

    monkeypatch.setattr(rm, "train_reward", train_reward)
    judge.run(config(), inputs, workspace(tmp_path / "judge"))
    rm.run(rm_config(), inputs, workspace(tmp_path / "rm"))
    final, *others = seen.values()
    assert len(seen) == 3
    assert len(final) > 0
    assert all(final.isdisjoint(other) for other in others)


@pytest.mark.parametrize("name", ["exp_001_mvp", "local", "smollm2", "chaos", "dryrun"])
def test_every_experiment_froze_the_rule_judge_as_it_is(name: str) -> None:
    experiment = validate(load(experiment_path(name)), Experiment)
    digest = frozen.digest(experiment.words.cues.model_dump(mode="json"))
    stated = experiment.stages.judge.rule_judge
    assert digest[:16] == stated, "changed before PPO is trained, on purpose? Then state the new digest"


def test_one_changed_cue_is_refused_and_both_digests_are_named(
    inputs: dict[str, Path], tmp_path: Path, workspace: Callable[..., Workspace]
) -> None:
    changed = copy.deepcopy(CUES)
    changed["manners"]["courtesy"]["0.9"] = "grateful, obliged"
    stated, there = frozen.digest(CUES)[:16], frozen.digest(changed)[:16]
    with pytest.raises(RetainError, match=rf"have the digest {there}, the experiment froze {stated}\. .*make lock"):
        judge.run(config(cues=changed), inputs, workspace(tmp_path))
    judge.refuse_another(there, changed)


def test_a_rule_judge_of_other_code_is_refused(
    inputs: dict[str, Path], tmp_path: Path, workspace: Callable[..., Workspace], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config()
    monkeypatch.setattr(frozen, "_code", lambda path: "another")
    with pytest.raises(RetainError, match=f"the experiment froze {settings.rule_judge}"):
        judge.run(settings, inputs, workspace(tmp_path))


def test_it_has_words_for_every_situation_of_the_service() -> None:
    assert set(cues.SITUATIONS) == set(message.SITUATIONS) == set(CUES["topics"])


def test_a_situation_without_words_is_named(inputs: dict[str, Path], tmp_path: Path) -> None:
    table = pq.read_table(inputs["prompts"] / "pairs.parquet").to_pylist()
    pq.write_table(pa.Table.from_pylist([{**row, "situation": "weather"} for row in table]), tmp_path / "pairs.parquet")
    (tmp_path / "about.json").write_text('{"months": 3}')
    with pytest.raises(DataError, match="'weather' is none that the rule judge knows"):
        judge.load_retention_pairs(tmp_path, pairs.retention(tmp_path, "test"))


def test_a_broken_about_is_named(inputs: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "pairs.parquet").write_bytes((inputs["prompts"] / "pairs.parquet").read_bytes())
    (tmp_path / "about.json").write_text("{}")
    with pytest.raises(DataError, match=r"about.json: can't be read"):
        judge.load_retention_pairs(tmp_path, [])
