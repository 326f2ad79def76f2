"""Stages of fractions of a second that use everything the engine gives: for tests of the engine and of flows."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from engine.checkpoint import Preempted
from engine.errors import CriteriaMissed, DataError
from engine.stage import Metrics, Workspace


class WalkConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    steps: int
    pause_s: float
    scale: float = 1.0


def walk(config: WalkConfig, inputs: Mapping[str, Path], workspace: Workspace) -> Metrics:
    """A random walk, a checkpoint a step: its end shows whether a resumed run is an uninterrupted one."""
    rng = np.random.default_rng(workspace.seed)
    begin, place = 0, 0.0
    for folder in inputs.values():
        place += float(json.loads((folder / "place.json").read_text())["place"])
    checkpoint = workspace.checkpoints.load()
    if checkpoint is not None:
        state = json.loads(checkpoint.files["state.json"])
        begin, place, rng.bit_generator.state = checkpoint.step, state["place"], state["rng"]
    for step in range(begin, config.steps):
        place += config.scale * float(rng.normal())
        time.sleep(config.pause_s)
        state = {"place": place, "rng": rng.bit_generator.state}
        workspace.checkpoints.save(step + 1, {"state.json": json.dumps(state).encode()})
        workspace.progress(step + 1, config.steps, place=place)
        if workspace.should_stop():
            raise Preempted
    workspace.out.json("place.json", {"place": place})
    workspace.out.parquet("evidence/steps.parquet", {"step": np.arange(config.steps)})
    return {"place": {"value": place}}


def amble(config: WalkConfig, inputs: Mapping[str, Path], workspace: Workspace) -> Metrics:
    """A random walk that saves when it is told to. It first tells what it reads, and reads it again at the end."""
    print("ambling", flush=True)
    rng = np.random.default_rng(workspace.seed)
    begin, place = 0, 0.0
    checkpoint = workspace.checkpoints.load()
    if checkpoint is not None:
        state = json.loads(checkpoint.files["state.json"])
        begin, place, rng.bit_generator.state = checkpoint.step, state["place"], state["rng"]
    for step in range(begin, config.steps):
        place += config.scale * float(rng.normal())
        time.sleep(config.pause_s)
        if workspace.checkpoint_due() or workspace.should_stop():
            state = {"place": place, "rng": rng.bit_generator.state}
            workspace.save(step + 1, {"state.json": json.dumps(state).encode()})
        workspace.progress(step + 1, config.steps, place=place)
    read = {name: (folder / "place.json").read_text() for name, folder in inputs.items()}
    workspace.out.json("place.json", {"place": place, "read": read})
    return {"place": {"value": place}}


def holds(config: WalkConfig, inputs: Mapping[str, Path], workspace: Workspace) -> Metrics:
    """Has `scale` megabytes to save, which no library could compress, in two files; as a trainer of an adapter does."""
    rng = np.random.default_rng(workspace.seed)
    third = round(config.scale * 1e6 / 3)
    files = {"adapter": rng.bytes(third), "optimizer": rng.bytes(2 * third)}
    for step in range(config.steps):
        time.sleep(config.pause_s)
        workspace.progress(step + 1, config.steps)
        if workspace.checkpoint_due() or workspace.should_stop():
            workspace.save(step + 1, files)
    return {}


def surroundings(config: WalkConfig, inputs: Mapping[str, Path], workspace: Workspace) -> Metrics:
    """Writes down what the libraries read about threads, and which variables there are at all."""
    workspace.out.json("names.json", sorted(os.environ))
    workspace.out.json(
        "threads.json",
        {name: value for name, value in os.environ.items() if "_THREADS" in name or "OMP_" in name},
    )
    return {}


def stubborn(config: WalkConfig, inputs: Mapping[str, Path], workspace: Workspace) -> Metrics:
    """Never asks should_stop()."""
    workspace.progress(0, 1)
    time.sleep(config.pause_s)
    return {}


def broken(config: WalkConfig, inputs: Mapping[str, Path], workspace: Workspace) -> Metrics:
    raise ZeroDivisionError("a bug")


def bad_input(config: WalkConfig, inputs: Mapping[str, Path], workspace: Workspace) -> Metrics:
    raise DataError("table.csv, row 7: no such thing; mend it")


def missed(config: WalkConfig, inputs: Mapping[str, Path], workspace: Workspace) -> Metrics:
    raise CriteriaMissed("risk auc 0.5 (wanted >= 0.78)")


def gives_up(config: WalkConfig, inputs: Mapping[str, Path], workspace: Workspace) -> Metrics:
    """As a stage that is preempted whenever it starts."""
    raise Preempted


def crashes(config: WalkConfig, inputs: Mapping[str, Path], workspace: Workspace) -> Metrics:
    os.kill(os.getpid(), signal.SIGSEGV)
    return {}


def reads_sources(config: WalkConfig, inputs: Mapping[str, Path], workspace: Workspace) -> Metrics:
    """Writes down the texts of its source files by name."""
    source = inputs["source"]
    names = sorted(path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file())
    workspace.out.json("found.json", {name: (source / name).read_text() for name in names})
    return {}
