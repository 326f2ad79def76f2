"""Checkpoints that a stage hardly waits for: saved to this machine's disk, and copied into the store meanwhile.

A save returns once its files lie in the attempt's work folder. A thread then copies them, reads them back, seals them
and removes older ones (engine/checkpoint.py). It copies one checkpoint at a time; of those that are saved meanwhile
only the newest is copied next. So a stage waits for no store, memory holds no second copy, and a killed attempt loses
one interval and what was still being copied. The last save of an attempt that is asked to stop is waited for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from engine.checkpoint import Checkpoint, Checkpointer, check_names
from engine.claim import Fenced
from engine.errors import StoreUnavailable
from engine.faults import fault
from engine.paths import why_unwritable
from engine.patience import Outage, pauses

COPY = "the copy of a checkpoint"  # what an Outage is told


@dataclass(frozen=True)
class _Saved:
    """A checkpoint on this machine's disk."""

    step: int
    files: Mapping[str, Path]

    def remove(self) -> None:
        for path in self.files.values():
            with suppress(OSError):  # the folder goes with its attempt
                path.unlink(missing_ok=True)


@dataclass
class BackgroundCheckpoints:
    """Checkpoints of one attempt, which its stage saves and loads. `fenced` is called when another one took over.

    `folder` is on this machine. `in_turn`: a save waits for the copy of the one before, so that each is copied, unless
    the store is unavailable. What the thread can't go on after is raised by the next save, or by wait().
    """

    store: Checkpointer
    folder: Path
    outage: Outage
    fenced: Callable[[], None]
    in_turn: bool = False
    saves: int = 0
    copied: int = 0  # so many of them are complete in the store
    saved_bytes: int = 0
    _waiting: _Saved | None = None
    _copying: _Saved | None = None
    _in_vain: bool = False  # the copy waits for the store
    _closing: bool = False
    _error: BaseException | None = None
    _thread: threading.Thread | None = None
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def load(self) -> Checkpoint | None:
        """The newest undamaged checkpoint, or None. One that this attempt saved need not be copied yet."""
        with self._changed:
            newest = self._waiting or self._copying
            if newest is not None:
                return Checkpoint(newest.step, {name: path.read_bytes() for name, path in newest.files.items()})
        return self.outage.call(self.store.load)

    def busy(self) -> bool:
        """Whether a save is not yet in the store."""
        with self._changed:
            return self._waiting is not None or self._copying is not None

    def save(self, step: int, files: Mapping[str, bytes]) -> None:
        """Returns once the files are on this machine's disk.

        Raises StoreUnavailable if that disk can't be written, Fenced if another attempt has taken over.
        """
        self._raise_error()
        check_names(files)
        if self.in_turn:
            with self._changed:
                self._changed.wait_for(lambda: self._in_vain or not (self._waiting or self._copying))
        saved = self._write(step, files)
        self.saves += 1
        self.saved_bytes += sum(map(len, files.values()))
        fault("checkpoint.saved")
        with self._changed:
            superseded, self._waiting = self._waiting, saved
            if self._thread is None:
                self._thread = threading.Thread(target=self._copy_all, name="checkpoints", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        if superseded is not None:
            superseded.remove()

    def wait(self) -> None:
        """Waits until the last save is in the store, however long that takes; raises what keeps it out."""
        with self._changed:
            self._changed.wait_for(lambda: self._error is not None or not (self._waiting or self._copying))
        self._raise_error()

    def close(self, *, drop: bool = False) -> None:
        """Ends the thread: after one more try to copy the last save, or without it if it is to `drop`."""
        with self._changed:
            self._closing = True
            if drop:
                self._waiting = None
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _write(self, step: int, files: Mapping[str, bytes]) -> _Saved:
        """Nothing is synced: after a crash of the machine nobody would look for these files."""
        saved = _Saved(step, {name: self.folder / f"{self.saves}-{at}" for at, name in enumerate(files)})
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for name, path in saved.files.items():
                path.write_bytes(files[name])
        except OSError as error:
            saved.remove()
            raise StoreUnavailable(f"{self.folder}: {why_unwritable(error)}") from None
        return saved

    def _copy_all(self) -> None:
        while saved := self._next():
            try:
                self._copy(saved)
            except Fenced as error:
                self._error = error
                self.fenced()
            except BaseException as error:  # the stage's thread raises it
                self._error = error
            with self._changed:
                saved.remove()
                self._copying, self._in_vain = None, False
                self._changed.notify_all()
            if self._error is not None:
                return

    def _next(self) -> _Saved | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting is not None or self._closing)
            saved, self._waiting = self._waiting, None
            self._copying = saved
            return saved

    def _copy(self, saved: _Saved) -> None:
        """Tries again while the store is unavailable, until there is a newer save or the end."""
        for pause in pauses():
            try:
                self.store.save(saved.step, saved.files)
            except StoreUnavailable as error:
                self.outage.failed(COPY, error)
            else:
                self.outage.succeeded(COPY)
                self.copied += 1
                return
            with self._changed:
                self._in_vain = True
                self._changed.notify_all()
                if self._changed.wait_for(lambda: self._waiting is not None or self._closing, pause):
                    return
