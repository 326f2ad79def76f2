"""Frames between a worker and the process of its learned arm, which share a pair of sockets.

A frame is two lengths, a JSON object and a block of plain bytes: questions travel many at once, and what a policy
observes of their customers is a table of float32. The JSON of either side's frames has one key that says what it is.

From the worker:
- {"load": {"folder", "parts", "accepted", "verdicts", "number"}}: once, the first one.
- {"verdicts": {text: verdict}, "number"}: what people said of messages, after it has changed.
- {"ids": [...]}: questions whose observations (n, o) float32 are the block.
- {"customers": [[id, pace, values, history], ...]}: questions about customers whom the arm assesses itself.

From the arm:
- {"problem": text}: the release can't be loaded; the process ends.
- {"out_of_memory": true}: instead of an answer; the process ends.
- {"ready": {"version", "dataset", "offers", "cap", "table", "number"}}: once.
- {"table": [...], "number"}: what is said (spoken.py), after each change of verdicts, with the number of those.
- {"answers": [...], "seconds"}: to all questions of one frame: [id, action, probabilities], and behind them, of a
  customer whom the arm assessed, [situation or null, risk, acceptance, spread]; or [id, kind of failure, detail].
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, TypeAdapter

from retain.decision import CONTACTS, Case, History, told
from retain.parts import Acceptance
from serve.spoken import Row

_LENGTHS = struct.Struct("<II")  # of the JSON, and of the block
_TOLD = struct.Struct(f"<{CONTACTS + 7}f")  # the columns of an observation that follow the features
MAX_FRAME = 8 << 20  # bytes; a full frame of the largest requests has 1 MiB


class FrameError(ValueError):
    """Bytes that are no frame."""


def frame(content: dict[str, Any], block: bytes = b"") -> bytes:
    head = orjson.dumps(content)
    return b"".join((_LENGTHS.pack(len(head), len(block)), head, block))


OUT_OF_MEMORY = frame({"out_of_memory": True})  # made while there was still memory for it


class Frames:
    """Puts frames together from the pieces in which they arrive."""

    def __init__(self) -> None:
        self._received = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[dict[str, Any], bytes]]:
        """The frames that are complete by now. Raises FrameError."""
        self._received += data
        while len(self._received) >= _LENGTHS.size:
            head, block = _LENGTHS.unpack_from(self._received)
            if head + block > MAX_FRAME:
                raise FrameError(f"a frame of {head + block} bytes")
            start, end = _LENGTHS.size + head, _LENGTHS.size + head + block
            if len(self._received) < end:
                return
            try:
                content = orjson.loads(self._received[_LENGTHS.size : start])
            except orjson.JSONDecodeError:
                raise FrameError("a frame that is no JSON") from None
            if not isinstance(content, dict):
                raise FrameError("a frame that is no object")
            rest = bytes(self._received[start:end])
            del self._received[:end]
            yield content, rest


class Ready(BaseModel):
    """What the arm says when it has loaded its release."""

    model_config = ConfigDict(strict=True, extra="forbid")

    version: str
    dataset: str
    offers: dict[str, Any]
    cap: dict[str, Any]
    table: list[Row]
    number: int


READY = TypeAdapter(Ready)
ROWS = TypeAdapter(list[Row])
ACCEPTED = TypeAdapter(tuple[Acceptance, ...])


def observation(case: Case, pace: float) -> bytes:
    """What a policy observes of a customer (retain.decision.observe())."""
    return case.features.tobytes() + _TOLD.pack(*told(case, pace))


def told_of(history: History) -> list[Any]:
    """A history as History() takes it."""
    return [history.contacts, history.running_offer, history.months_left, history.accepted, history.declined]
