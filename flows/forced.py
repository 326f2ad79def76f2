"""Artifacts that a run makes again although they are there, because its parameter `force` says so.

An artifact is set aside by removing its manifest, as soon as its stage's turn has come and not before. What is removed
is kept below `forced/<flow run>` until the run ends, and that it was removed for good. So a parent that was killed sets
nothing aside twice when it comes back, however late that is, and where the artifact was not made again, the old one is
put back.
"""

from __future__ import annotations

from contextlib import suppress

from engine.artifact import MANIFEST
from engine.errors import RetainError
from engine.store import ABSENT, Conflict, Store
from flows.run import Run

FOLDER = "forced"
REMOVED = "removed"  # the manifest is: what is there now was made by this run


def set_aside(run: Run, stage: str, flow_run: str) -> None:
    """Removes the stage's artifact, once in a run: whatever is there later stays. Its inputs must have been made."""
    store, prefix = run.plan.store, _prefix(run, stage)
    kept = f"{FOLDER}/{flow_run}/{prefix}"
    if store.read(f"{kept}/{REMOVED}") is not None:
        return
    # In this order, and again from the start if this process is killed: no attempt is made before the last step.
    manifest = store.read(f"{prefix}/{MANIFEST}")
    if manifest is not None:
        store.write(f"{kept}/{MANIFEST}", manifest[0])
        store.delete(f"{prefix}/{MANIFEST}")
    store.write(f"{kept}/{REMOVED}", b"")


def put_back(store: Store, flow_run: str) -> None:
    """Ends what set_aside() began: artifacts that were not made again are as before."""
    folder = f"{FOLDER}/{flow_run}/"
    for key in sorted(store.list(folder.rstrip("/")), reverse=True):  # REMOVED before MANIFEST
        prefix, _, name = key.removeprefix(folder).rpartition("/")
        if name == REMOVED and store.read(f"{prefix}/{MANIFEST}") is not None:
            continue  # made again
        stored = store.read(key)
        if name == MANIFEST and stored is not None:
            with suppress(Conflict):
                store.write(key.removeprefix(folder), stored[0], expect=ABSENT)
        store.delete(key)


def _prefix(run: Run, name: str) -> str:
    plan = run.plan
    stage = next(stage for stage in plan.stages if stage.name == name)
    digests = {}
    for upstream in stage.inputs:
        manifest = plan.artifacts.manifest(upstream, run.made[upstream])
        if manifest is None:
            raise RetainError(f"{upstream}: its artifact is gone from {plan.store.url}; run again")
        digests[upstream] = manifest.digest
    return plan.artifacts.prefix(name, plan.identity(stage, digests).fingerprint)
