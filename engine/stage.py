"""Stage, StageRequest and Workspace: what a stage is, what an attempt at one is handed, and what a stage sees.

A stage is `run(config, inputs, workspace) -> Metrics`. It sees no environment, clock, network or money.
"""

from __future__ import annotations

import importlib
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from engine.artifact import ArtifactStore, ArtifactWriter, bring
from engine.checkpoint import Checkpoints, Preempted
from engine.errors import RetainError, StoreUnavailable
from engine.fingerprint import Identity
from engine.interval import CheckpointInterval, Schedule
from engine.paths import why_unreadable
from engine.store import has_sha256

Metric = dict[str, Any]  # {"value": float, "ci": [low, high], ...}
Metrics = dict[str, Metric]

GRACE_S = 10.0  # for a stage to stop once it is asked to, and for its last checkpoint to get into the store
IDENTITY, CLAIM, CHECKPOINTS = "identity.json", "claim.json", "checkpoints"

COMPLETE, FAILED, BAD_INPUT, REFUSED = 0, 1, 2, 3
CLAIMED, UNAVAILABLE, PREEMPTED, FENCED, OVERDUE = 73, 74, 75, 76, 77
ALREADY_THERE = "was there already"  # message of an attempt that found its artifact complete


@dataclass(frozen=True)
class Resources:
    """What one attempt needs. Threads are part of how a result is made reproducible on a CPU.

    Nothing reads `memory_gb` yet: containers are limited by their deployment.
    """

    threads: int
    memory_gb: float
    gpu: bool


@dataclass(frozen=True)
class Stage:
    """A row of the table of stages; `entry` and `config` are strings, so reading the table imports no stage.

    `image` is the name of the container image that has its libraries, and of the deployment that runs it.
    """

    name: str
    entry: str
    config: str
    inputs: tuple[str, ...]
    image: str
    resources: Resources
    libraries: tuple[str, ...]
    source: bool = False


class StageRequest(BaseModel):
    """All that a machine needs to run one attempt (see engine/records.py); read from request.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    experiment: str
    stage: str
    entry: str
    config_model: str
    identity: Identity
    inputs: dict[str, str]  # stage -> fingerprint
    sources: dict[str, str]  # name of a source file -> its key, which ends in its sha256
    number: int  # the attempt's
    store: str
    work: str  # a folder of this machine that no other attempt uses
    threads: int
    device: str
    time_limit_s: float
    heartbeat_s: float
    checkpoint: CheckpointInterval
    # Attempt and parent have nothing in common but the store, which may be far away: log and progress go there while
    # the attempt runs, and inputs are copied to `work`.
    shared: bool
    store_patience_s: float  # for which the store may be unavailable

    @property
    def fingerprint(self) -> str:
        return self.identity.fingerprint


@dataclass
class Workspace:
    """A stage's only door to the world, apart from its inputs."""

    out: ArtifactWriter
    scratch: Path
    checkpoints: Checkpoints
    seed: int
    threads: int
    device: str
    deadline: float  # time.monotonic() at which the attempt stops itself
    report: Callable[[int, int, Mapping[str, float]], None]
    stopping: threading.Event
    schedule: Schedule

    def progress(self, step: int, total: int, **metrics: float) -> None:
        """One line for terminal, Prefect and the report."""
        self.report(step, total, metrics)

    def should_stop(self) -> bool:
        """True once the attempt has to end: `save` a checkpoint, which then raises Preempted."""
        return self.stopping.is_set()

    def checkpoint_due(self) -> bool:
        """Whether to `save` now; to be asked once after every step. Results must not depend on the answer."""
        return self.schedule.due()

    def save(self, step: int, files: Mapping[str, bytes]) -> None:
        """Saves a checkpoint of `step`. Raises Preempted if the attempt has to end, RetainError on a full disk.

        It returns once the files are on this machine's disk; they are copied into the store meanwhile.
        """
        with self.saving():
            self.checkpoints.save(step, files)

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Around whatever saves a checkpoint. If the attempt has to end, raises Preempted afterwards.

        It does so also where nothing could be written (RetainError), since an older checkpoint serves: a stop that
        counted as an error would not be tried again.
        """
        began = self.schedule.clock()
        try:
            yield
            self.schedule.saved(began)
        except RetainError as error:
            if not self.should_stop():
                raise
            print(f"stopped without a last checkpoint: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        if self.should_stop():
            raise Preempted


def open_inputs(request: StageRequest, artifacts: ArtifactStore) -> dict[str, Path]:
    """stage -> a folder with the files of its artifact, checked; "source" -> the folder of the source files.

    They are copied where the store is shared: it may be unavailable when the stage reads them. Raises StoreUnavailable,
    and may then be called again.
    """
    folder = Path(request.work) / "inputs"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    inputs = {}
    for stage, fingerprint in request.inputs.items():
        inputs[stage] = artifacts.open(stage, fingerprint, folder / stage, copied=request.shared)
        manifest = artifacts.manifest(stage, fingerprint)
        if manifest is None or manifest.digest != request.identity.inputs[stage]:
            raise RetainError(f"{request.stage}: its input {stage} has other bytes than the request was made for")
    if request.sources:
        inputs["source"] = folder / "source"
    for name, key in request.sources.items():
        source = artifacts.store.local(key, folder)
        try:
            whole = has_sha256(source, key.rsplit("/", 1)[1])
        except OSError as error:
            raise StoreUnavailable(f"{source}: {why_unreadable(error)}") from None
        if not whole:
            raise RetainError(f"{artifacts.store.url}/{key}: damaged in the store; remove it and run again")
        place = inputs["source"] / name
        place.parent.mkdir(parents=True, exist_ok=True)
        bring(source, place, copied=request.shared)
    return inputs


def load_entry(entry: str) -> Any:
    """What "package.module:name" names."""
    module, _, name = entry.partition(":")
    return getattr(importlib.import_module(module), name)
