"""The learned arm, in a process of its own: `python -m serve.arm BYTES DESCRIPTOR WORKER`, started by learned.py.

It reads questions from the socket DESCRIPTOR and answers what its policy wants, until the process WORKER is gone. It
may have BYTES of memory. Whether it hangs, crashes or eats all of that, it is this process alone that does. Its worker
trusts it in nothing: mask, wallet, the limit of one offer and the guard are the worker's.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from engine.errors import RetainError
from retain.alike import dataset_digest, what_is_offered
from retain.decision import History, observe
from retain.policy import PolicyError, softmax
from retain.release import Release
from serve.loading import Source, load_release
from serve.spoken import table
from serve.wire import ACCEPTED, OUT_OF_MEMORY, Frames, frame

NICENESS = 5  # of 19: answers to customers come first
PR_SET_PDEATHSIG = 1
READ_BYTES = 1 << 18

Answer = list[Any]


class Mind:
    """Answers the questions of one worker by one release."""

    def __init__(self, version: str, release: Release) -> None:
        if release.policy is None:
            raise RetainError("the release has no learned policy")
        self._version = version
        self._release = release
        self._policy = release.policy

    def ready(self, number: int) -> dict[str, Any]:
        release = self._release
        return {
            "version": self._version,
            "dataset": dataset_digest(release.spec),
            **what_is_offered(release.terms),
            "table": table(release),
            "number": number,
        }

    def reply(self, content: dict[str, Any], block: bytes) -> dict[str, Any]:
        """What answers one frame of the worker's after the first."""
        if "verdicts" in content:
            self._release = replace(self._release, verdicts=content["verdicts"])
            return {"table": table(self._release), "number": content["number"]}
        started = time.perf_counter()
        if "ids" in content:
            ids = content["ids"]
            answers = self._answers(ids, np.frombuffer(block, np.float32).reshape(len(ids), -1))
        else:
            answers = self._assessed(content["customers"])
        return {"answers": answers, "seconds": time.perf_counter() - started}

    def _answers(self, ids: Sequence[int], observations: NDArray[np.float32]) -> list[Answer]:
        """(n, o) observations at once, or one by one if that fails: a bad one spoils no other's answer."""
        try:
            logits = self._policy.logits(observations)
            if not np.isfinite(logits).all():
                raise PolicyError("the network's output is not finite")
            actions, probabilities = logits.argmax(axis=-1).tolist(), softmax(logits).tolist()
        except MemoryError:
            raise
        except Exception as error:  # whatever it is, the worker is told
            if len(ids) == 1:
                return [failure(ids[0], error)]
            return [self._answers([number], row[None])[0] for number, row in zip(ids, observations)]
        return list(map(list, zip(ids, actions, probabilities)))

    def _assessed(self, questions: Sequence[tuple[int, float, dict[str, Any], list[Any]]]) -> list[Answer]:
        """The answers about customers of whom nothing but their values is known."""
        failures, assessments, observations = [], {}, []
        for number, pace, values, (contacts, *history) in questions:
            try:
                assessment = self._release.assess(values, History(tuple(contacts), *history))
                observations.append(observe(assessment.case, pace))
                assessments[number] = assessment
            except MemoryError:
                raise
            except Exception as error:  # as above
                failures.append(failure(number, error))
        answers = self._answers(list(assessments), np.array(observations)) if assessments else []
        for answer in answers:
            assessment = assessments[answer[0]]
            if isinstance(answer[1], int):
                situation = assessment.situation if answer[1] else None  # without an offer nothing is said
                case = assessment.case
                answer.append([situation, case.risk, case.acceptance, case.spread])
        return answers + failures


def failure(number: int, error: Exception) -> Answer:
    """What is told of an exception: nothing of the customer."""
    if isinstance(error, PolicyError):
        return [number, "not_finite", str(error)]
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return [number, "error", f"{type(error).__name__}{place}"]


def serve(line: socket.socket) -> int:
    """Loads what the first frame names, and answers the frames behind it until the worker closes the line."""
    frames = Frames()
    mind: Mind | None = None
    while data := line.recv(READ_BYTES):
        for content, block in frames.feed(data):
            try:
                if mind is None:
                    mind = _loaded(content["load"])
                    line.sendall(frame({"ready": mind.ready(content["load"]["number"])}))
                else:
                    line.sendall(frame(mind.reply(content, block)))
            except RetainError as error:
                line.sendall(frame({"problem": str(error)}))
                return error.exit_code
            except MemoryError:  # what still works here isn't known
                line.sendall(OUT_OF_MEMORY)
                return 1
    return 0


def _loaded(wanted: dict[str, Any]) -> Mind:
    parts = {part: Path(folder) for part, folder in wanted["parts"].items()}
    version, release = load_release(Source(Path(wanted["folder"]), parts), whole=True)
    accepted = ACCEPTED.validate_json(orjson.dumps(wanted["accepted"]))
    return Mind(version, replace(release, accepted=accepted, verdicts=wanted["verdicts"]))


def _end_with(parent: int) -> None:
    """Ends this process when its worker ends, even while it hangs and doesn't see that the line was closed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before that was asked for
            os._exit(1)


def main() -> int:
    memory, descriptor, parent = map(int, sys.argv[1:])
    _end_with(parent)
    for ending in (signal.SIGINT, signal.SIGTERM):  # the worker ends it, once it has answered what it still has to
        signal.signal(ending, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    os.nice(NICENESS)
    with socket.socket(fileno=descriptor) as line:
        try:
            return serve(line)
        except ConnectionError:  # the worker is gone
            return 0


if __name__ == "__main__":
    sys.exit(main())
