"""Checkpoints that are complete or ignored. Resume is not a mode: the same fingerprint finds its own.

A checkpoint is a set of named bytes at a step. Its files are written under `<step>-<attempt>/`, and the one that
lists their hashes comes last; a folder without it is no checkpoint. The newest that is whole is used, so damage or a
full disk costs one interval. Two are kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from engine.claim import Claim
from engine.faults import fault
from engine.store import Store

KEPT = 2
SEAL = "complete.json"


class Preempted(Exception):
    """The stage stopped because it was asked to; its checkpoint carries it on. Exit code 75 (EX_TEMPFAIL)."""

    exit_code = 75


@dataclass(frozen=True)
class Checkpoint:
    step: int
    files: Mapping[str, bytes]


@dataclass(frozen=True)
class Checkpointer:
    """Checkpoints of one fingerprint, below `prefix`; only the claim's owner may save."""

    store: Store
    prefix: str
    claim: Claim

    def save(self, step: int, files: Mapping[str, bytes]) -> None:
        """Raises engine.claim.Fenced when another attempt has taken over."""
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
        for old in self._folders()[KEPT:]:
            self._remove(old)

    def load(self) -> Checkpoint | None:
        """The newest whole checkpoint, or None."""
        for folder in self._folders():
            files = self._read(folder)
            if files is not None:
                return Checkpoint(step=int(folder.rsplit("/", 1)[1].split("-")[0]), files=files)
        return None

    def clear(self) -> None:
        """Removes all of them: the artifact is there."""
        for key in list(self.store.list(self.prefix)):
            self.store.delete(key)

    def _folders(self) -> list[str]:
        seals = [key for key in self.store.list(self.prefix) if key.endswith(f"/{SEAL}")]
        return sorted((key.removesuffix(f"/{SEAL}") for key in seals), reverse=True)

    def _read(self, folder: str) -> dict[str, bytes] | None:
        found = self.store.read(f"{folder}/{SEAL}")
        try:
            seal = json.loads(found[0]) if found else None
        except ValueError:
            return None
        if not isinstance(seal, dict):
            return None
        files: dict[str, bytes] = {}
        for name, digest in seal.items():
            content = self.store.read(f"{folder}/{name}")
            if content is None or hashlib.sha256(content[0]).hexdigest() != digest:
                return None
            files[name] = content[0]
        return files

    def _remove(self, folder: str) -> None:
        self.store.delete(f"{folder}/{SEAL}")  # first: from here on it is no checkpoint
        for key in list(self.store.list(folder)):
            self.store.delete(key)
