"""Checkpoints that are complete or ignored. Resume is not a mode: the same fingerprint finds its own.

A checkpoint is a set of named bytes at a step. Its files are written under `<step>-<number of the attempt>/` and read
back, and the one that lists their hashes comes last; a folder without that one is no checkpoint. The newest undamaged
checkpoint is used, so damage or a full disk costs one interval. Two are kept.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from engine.claim import Claim
from engine.errors import StoreUnavailable
from engine.faults import fault
from engine.paths import why_unreadable
from engine.store import Store, has_sha256, sha256_of

CHECKPOINTS_KEPT = 2
SEAL = "complete.json"


class Preempted(Exception):
    """The stage stopped because it was asked to; its checkpoint carries it on. Exit code 75 (EX_TEMPFAIL)."""

    exit_code = 75


@dataclass(frozen=True)
class Checkpoint:
    step: int
    files: Mapping[str, bytes]


class Checkpoints(Protocol):
    """What a stage sees of them."""

    def save(self, step: int, files: Mapping[str, bytes]) -> None: ...

    def load(self) -> Checkpoint | None: ...


def check_names(files: Mapping[str, object]) -> None:
    """Raises ValueError for a name that can't be that of a checkpoint's file."""
    for name in files:
        if name.split("/")[-1] == SEAL or "\0" in name or {"", ".", ".."}.intersection(name.split("/")):
            raise ValueError(f"{name!r} is no name of a checkpoint's file")


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

    def save(self, step: int, files: Mapping[str, bytes | Path]) -> None:
        """Writes a checkpoint, of bytes or of files with the bytes, and removes older ones.

        Raises Fenced if another attempt has taken over, StoreUnavailable if the store can't be written.
        """
        check_names(files)
        fault("checkpoint.save")
        self.claim.check()
        folder = f"{self.prefix}/{step:012d}-{self.claim.state.token:06d}"
        seal = {}
        for name, content in files.items():
            if isinstance(content, Path):
                seal[name] = sha256_of(content)
                self.store.put_file(f"{folder}/{name}", content)
            else:
                seal[name] = hashlib.sha256(content).hexdigest()
                self.store.write(f"{folder}/{name}", content)
        for name, sha256 in seal.items():
            self._read_back(f"{folder}/{name}", sha256)
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
            if _token(other) <= self.claim.state.token:  # later tokens are a successor's, since that check
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

    def _read_back(self, key: str, sha256: str) -> None:
        try:
            with tempfile.TemporaryDirectory() as scratch:
                whole = has_sha256(self.store.local(key, Path(scratch)), sha256)
        except OSError as error:
            raise StoreUnavailable(f"{self.store.url}/{key}: {why_unreadable(error)}") from None
        if not whole:
            raise StoreUnavailable(f"{self.store.url}/{key}: does not read as it was written")

    def _remove(self, folder: str) -> None:
        self.store.delete(f"{folder}/{SEAL}")  # first: from here on it is no checkpoint
        for key in list(self.store.list(folder)):
            self.store.delete(key)


def _step(folder: str) -> int:
    return int(folder.rsplit("/", 1)[1].split("-")[0])


def _token(folder: str) -> int:
    """Of the attempt that wrote the folder; 0 for what no attempt writes."""
    token = folder.rpartition("-")[2]
    return int(token) if token.isdecimal() else 0
