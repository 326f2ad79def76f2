"""One stage in the foreground, for a debugger: `python -m engine REQUEST.json --debug`.

execute() runs a stage beside threads that take the signals and end it at its time limit, and it publishes the result.
Here the stage runs in the main thread, for as long as it takes, on the same inputs and with the same configuration,
seed and threads. It starts from the beginning, and what it writes stays in the request's own work folder.
"""

from __future__ import annotations

import json
import math
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path

from engine.artifact import ArtifactStore, ArtifactWriter, Manifest
from engine.checkpoint import Checkpointer
from engine.claim import acquire
from engine.interval import Schedule
from engine.stage import COMPLETE, StageRequest, Workspace, load_entry, open_inputs
from engine.store import FolderStore, open_store

A_DAY_S = 86_400.0  # between renewals of a claim that nobody else wants


def debug(request: StageRequest) -> int:
    """Runs the stage, prints its metrics and how its files compare with the stored artifact; returns 0.

    Whatever the stage raises goes through, so that a debugger stops where it was raised.
    """
    work = Path(request.work)
    artifacts = ArtifactStore(open_store(request.store), request.experiment)
    workspace = _workspace(request, work)
    inputs = open_inputs(request, artifacts)
    run = load_entry(request.entry)
    config = load_entry(request.config_model).model_validate_json(json.dumps(request.identity.config))
    metrics = run(config, inputs, workspace)
    workspace.out.json("metrics.json", metrics)
    made = ArtifactStore(FolderStore(work / "artifact"), request.experiment).publish(
        request.stage, request.fingerprint, workspace.out.folder
    )
    for name, metric in metrics.items():
        print(f"  {name}: {metric['value']}")
    print(f"files: {workspace.out.folder}")
    print(_compared(made, request, artifacts))
    return COMPLETE


def _workspace(request: StageRequest, work: Path) -> Workspace:
    """A workspace whose checkpoints lie in the work folder and which never asks the stage to stop."""
    for name in ("out", "scratch", "inputs", "artifact", "checkpoints"):
        shutil.rmtree(work / name, ignore_errors=True)
        (work / name).mkdir(parents=True)
    store = FolderStore(work / "checkpoints")
    claim = acquire(store, "claim.json", request.number, A_DAY_S)
    assert claim is not None  # nobody else knows this folder, which is new

    def report(step: int, total: int, metrics: Mapping[str, float]) -> None:
        print(f"{step}/{total}", *(f"{name} {value:.4g}" for name, value in metrics.items()), flush=True)

    return Workspace(
        out=ArtifactWriter(work / "out"),
        scratch=work / "scratch",
        checkpoints=Checkpointer(store, "kept", claim),
        seed=request.identity.seed,
        threads=request.threads,
        device=request.device,
        deadline=math.inf,
        report=report,
        stopping=threading.Event(),
        schedule=Schedule(request.checkpoint),
    )


def _compared(made: Manifest, request: StageRequest, artifacts: ArtifactStore) -> str:
    """How `made` differs from the stored artifact of the same fingerprint.

    Where code, configuration or inputs are new there is none, and the one that completed last is taken.
    """
    fingerprint = request.fingerprint
    stored = artifacts.manifest(request.stage, fingerprint)
    if stored is None and request.stage in (current := artifacts.current()):
        fingerprint = current[request.stage]
        stored = artifacts.manifest(request.stage, fingerprint)
    if stored is None:
        return "the store has no artifact of this stage to compare with"
    before, now = ({file.path: file.sha256 for file in manifest.files} for manifest in (stored, made))
    different = sorted(path for path in before.keys() | now.keys() if before.get(path) != now.get(path))
    if not different:
        return f"every file has the bytes of the stored artifact {fingerprint}"
    return f"other bytes than in the stored artifact {fingerprint}: {', '.join(different)}"
