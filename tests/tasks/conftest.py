"""What tests of stages share: the described tables, a workspace that needs no engine, small synthetic data."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from engine.artifact import ArtifactWriter
from engine.checkpoint import Checkpoint
from engine.errors import RetainError
from engine.interval import CheckpointInterval, Schedule
from engine.stage import Workspace
from tasks.config import TableConfig
from tasks.data import campaigns, customers
from tests.datasets import described

SPLIT = {"train": 0.6, "validation": 0.1, "test": 0.3}


class Stopping(threading.Event):
    """Counts how often a stage looks whether it has to stop: from its `at_look`-th look on, it has to (0: never)."""

    def __init__(self, at_look: int = 0) -> None:
        super().__init__()
        self.at_look, self.looks = at_look, 0

    @property
    def asked(self) -> bool:
        """Whether the stage has to stop; reading it is not counted as a look."""
        return super().is_set()

    def is_set(self) -> bool:
        self.looks += 1
        if self.looks == self.at_look:
            self.set()
        return self.asked


@dataclass
class Checkpoints:
    """Keeps what was saved last, as a store would, and remembers all of it in `kept`.

    The stage is asked to stop at its `stop_at_look`-th look, or when it tries to save for the `stop_at_save`-th time.
    `full`: nothing more can be written; `fills`: nothing from the moment on at which it is asked to stop. A checkpoint
    is due every `every_steps` or `every_s`, whichever comes first.
    """

    saved: Checkpoint | None = None
    kept: list[Checkpoint] = field(default_factory=list)
    stop_at_look: int = 0
    stop_at_save: int = 0
    full: bool = False
    fills: bool = False
    every_steps: int = 2
    every_s: float = 1000.0
    tries: int = 0
    stopping: Stopping = field(init=False)

    def __post_init__(self) -> None:
        self.stopping = Stopping(self.stop_at_look)

    @property
    def saves(self) -> int:
        return len(self.kept)

    def load(self) -> Checkpoint | None:
        return self.saved

    def at(self, step: int) -> Checkpoint:
        """What whoever is killed after it and before the next one leaves."""
        (found,) = [checkpoint for checkpoint in self.kept if checkpoint.step == step]
        return found

    def save(self, step: int, files: Mapping[str, bytes]) -> None:
        self.tries += 1
        if self.tries == self.stop_at_save:
            self.stopping.set()
        if self.full or (self.fills and self.stopping.asked):
            raise RetainError("can't be written (No space left on device). Free some space")
        self.saved = Checkpoint(step, dict(files))
        self.kept.append(self.saved)


def table_config(name: str, max_rows: int = 50_000) -> TableConfig:
    data = {"dataset": described(name).model_dump(mode="json"), "max_rows": max_rows, "split": SPLIT}
    return TableConfig.model_validate_json(json.dumps(data))


def make_workspace(folder: Path, checkpoints: Any = None, seed: int = 42) -> Workspace:
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints = checkpoints or Checkpoints()
    interval = CheckpointInterval(
        mean_hours_between_preemptions=4.0, every_s=checkpoints.every_s, every_steps=checkpoints.every_steps
    )
    return Workspace(
        out=ArtifactWriter(folder),
        scratch=folder,
        checkpoints=checkpoints,
        seed=seed,
        threads=1,
        device="cpu",
        deadline=float("inf"),
        report=lambda step, total, metrics: None,
        stopping=checkpoints.stopping,
        schedule=Schedule(interval),
    )


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of small synthetic artifacts, under the name of the stage that made them."""
    root = tmp_path_factory.mktemp("tables")
    customers.run(table_config("telco", 1500), {}, make_workspace(root / "customers"))
    campaigns.run(table_config("bank", 3000), {}, make_workspace(root / "campaigns"))
    return {"customers": root / "customers", "campaigns": root / "campaigns"}


@pytest.fixture(scope="session")
def workspace() -> Callable[..., Workspace]:
    return make_workspace


@pytest.fixture(scope="session")
def checkpoints() -> type[Checkpoints]:
    return Checkpoints


@pytest.fixture(scope="session")
def config() -> Callable[..., TableConfig]:
    return table_config
