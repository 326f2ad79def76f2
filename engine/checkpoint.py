"""Checkpoints that are complete or ignored. Resume is not a mode: the same fingerprint finds its own.

A checkpoint is a set of named bytes at a step. Its files are written under `<step>-<number of the attempt>/`, the one
that lists their hashes last; a folder without that one is no checkpoint. The newest undamaged checkpoint is used, so
damage or a full disk costs one interval. Two are kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from engine.claim import Claim
from engine.faults import fault
from engine.store import Store

CHECKPOINTS_KEPT = 2
SEAL = "complete.json"


class Preempted(Exception):
    """The stage stopped because it was asked to; its checkpoint carries it on. Exit code 75 (EX_TEMPFAIL)."""

    exit_code = 75


@dataclass(frozen=True)
class Checkpoint:
    step: int
    files: Mapping[str, bytes]


def clear(store: Store, prefix: str) -> None:
    """Removes every checkpoint below `prefix`: the artifact is there."""
    for key in list(store.list(prefix)):
        store.delete(key)


@dataclass(frozen=True)
class Checkpointer:
    """Checkpoints of one fingerprint, below `prefix`; only the claim's owner may save."""

    store: Store
    prefix: str
    claim: Claim

    def save(self, step: int, files: Mapping[str, bytes]) -> None:
        """Writes a checkpoint and removes older ones. Raises Fenced if another attempt has taken over."""
        if any(name.split("/")[-1] == SEAL for name in files):
            raise ValueError(f"{SEAL!r} is no name of a checkpoint's file")
        fault("checkpoint.save")
        self.claim.check()
        folder = f"{self.prefix}/{step:012d}-{self.claim.state.token:06d}"
        for name, data in files.items():
            self.store.write(f"{folder}/{name}", data)
        seal = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        fault("checkpoint.seal")
        self.claim.check()
        self.store.write(f"{folder}/{SEAL}", json.dumps(seal, sort_keys=True).encode())
        fault("checkpoint.prune")
        # If this attempt hung for long, another one has taken over, and newer folders are that one's.
        self.claim.check()
        # This attempt started from an earlier step, so a checkpoint of this step or later could not be loaded: it is
        # damaged, and must not count as one of those that are kept.
        before = [old for old in self._sealed() if _step(old) < step]
        for other in sorted(self._all() - {folder, *before[: CHECKPOINTS_KEPT - 1]}):
            self._remove(other)

    def load(self) -> Checkpoint | None:
        """The newest undamaged checkpoint, or None."""
        for folder in self._sealed():
            files = self._read(folder)
            if files is not None:
                return Checkpoint(step=_step(folder), files=files)
        return None

    def _all(self) -> set[str]:
        """Every folder, also those that a killed attempt never sealed."""
        depth = len(self.prefix.split("/"))
        return {"/".join(key.split("/")[: depth + 1]) for key in self.store.list(self.prefix)}

    def _sealed(self) -> list[str]:
        """Folders of complete checkpoints, the newest first."""
        keys = set(self.store.list(self.prefix))
        return sorted((folder for folder in self._all() if f"{folder}/{SEAL}" in keys), reverse=True)

    def _read(self, folder: str) -> dict[str, bytes] | None:
        seal = self.store.read(f"{folder}/{SEAL}")
        if seal is None:
            return None
        files: dict[str, bytes] = {}
        try:
            for name, digest in json.loads(seal[0]).items():
                content = self.store.read(f"{folder}/{name}")
                if content is None or hashlib.sha256(content[0]).hexdigest() != digest:
                    return None
                files[name] = content[0]
        except (ValueError, AttributeError):  # not JSON, no mapping, or names that are no keys
            return None
        return files

    def _remove(self, folder: str) -> None:
        self.store.delete(f"{folder}/{SEAL}")  # first: from here on it is no checkpoint
        for key in list(self.store.list(folder)):
            self.store.delete(key)


def _step(folder: str) -> int:
    return int(folder.rsplit("/", 1)[1].split("-")[0])
