from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from bench import spot
from engine import stage


def test_what_is_shown_is_what_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    trainers = {
        "sft": {"saves": 7, "save_s": 0.5, "train_s": 50.0, "share": 0.01, "load_s": 0.2, "start_s": 6.5},
        "ppo_text": {"saves": 9, "save_s": 1.0, "train_s": 40.0, "share": 0.025, "load_s": 0.4, "start_s": 8.5},
    }
    spot.show({"experiment": "local", "trainers": trainers, "refusal": {"files_s": 3.25, "gpu_s": 2.75}})
    printed = " ".join(capsys.readouterr().out.split())
    for part in ("7 checkpoints", "1.00 %", "9 checkpoints", "2.50 %", "6.5 s", "8.5 s", "3.2 s", "2.8 s"):
        assert part in printed


def test_the_share_of_checkpoints_is_of_training_alone() -> None:
    attempts = [
        {"train_s": [6.0], "save_s": [0.1, 0.2], "kept_s": [0.05, 0.1], "load_s": [100.0]},
        {"train_s": [4.0], "save_s": [0.2], "kept_s": [0.1], "load_s": [100.0]},
    ]
    assert spot.checkpointing(attempts) == {"saves": 3, "save_s": 0.5, "train_s": 10.0, "share": 0.05}


def test_a_start_is_to_the_first_step_without_the_first_loading() -> None:
    assert spot.starting({"load_s": [1.5, 9.0], "first_step_s": 8.0}) == {"load_s": 1.5, "start_s": 6.5}


def test_clocks_count_saves_within_training_and_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(100))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(now)))
    clocks = spot.Clocks()
    store = clocks.around("save_s", clocks.around("kept_s", lambda: None))
    save = clocks.around("save_s", lambda: store())
    train = clocks.around("train_s", lambda: (save(), store()))
    train()
    save()  # of what is measured afterwards
    assert [len(clocks.seconds[name]) for name in ("train_s", "save_s", "kept_s")] == [1, 2, 2]
    assert clocks.seconds["train_s"][0] > sum(clocks.seconds["save_s"]) > sum(clocks.seconds["kept_s"])


def test_every_trainer_is_clocked(monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.background import BackgroundCheckpoints
    from engine.finished import Finished
    from tasks.rlhf import ppo_text
    from tasks.rlhf.language import lm, training

    places = [
        (lm, "load"),
        (training, "train"),
        (ppo_text, "train"),
        (training.ExactTrainer, "_save_checkpoint"),
        (Finished, "keep"),
        (ppo_text.Learner, "files"),
        (BackgroundCheckpoints, "save"),
    ]
    before = [getattr(*place) for place in places]
    for place, function in zip(places, before):
        monkeypatch.setattr(*place, function)  # put back afterwards
    spot.clock_trainers(spot.Clocks())
    assert not [place for place, function in zip(places, before) if getattr(*place) is function]


def test_the_clocks_are_put_once_a_stage_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "progress.jsonl").write_text('{"seconds": 3.5, "step": 1, "total": 2}\n')
    placed: list[spot.Clocks] = []
    monkeypatch.setattr(spot, "clock_trainers", placed.append)
    monkeypatch.setattr(stage, "load_entry", lambda entry: entry)

    def main(arguments: list[str]) -> int:
        assert stage.load_entry("tasks.config:FinetuneConfig")
        assert not placed
        assert stage.load_entry("tasks.rlhf.sft:run")
        return 0

    monkeypatch.setattr("engine.__main__.main", main)
    assert spot.timed_attempt(tmp_path / "request.json", tmp_path / "times.json") == 0
    assert len(placed) == 1
    assert json.loads((tmp_path / "times.json").read_text())["first_step_s"] == 3.5
