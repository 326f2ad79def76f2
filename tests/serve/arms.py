"""A learned arm without a process, for tests of what asks it."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from retain.decision import Case
from retain.parts import Acceptance
from retain.release import Assessment, Release
from serve.arm import Mind
from serve.arm_process import Ending
from serve.learned import Done, Failure, Heard, LearnedArm
from serve.loading import Loaded, Source
from serve.metrics import Metrics
from serve.wire import Frames


class InProcessArm(LearnedArm):
    """Asks the same Mind through the same frames, but in this process: who asks has the answer at once. While `failure`
    is set, it is every answer. `asked` has what it was asked, with the wallet's pace."""

    failure: Failure | None = None

    def __init__(
        self,
        version: str,
        release: Release,
        own: Release | None = None,
        loads: str | None = None,
        *,
        known: Release | None = None,
        accepted: tuple[Acceptance, ...] = (),
    ) -> None:
        """`own`: the worker's release, where the arm loads another one, of the version `loads`; `known`: that one as
        the worker has loaded it itself."""
        source = Source(Path("nowhere"), {})
        challenger = None if known is None else Loaded(source, loads or version, known)
        super().__init__(source, version, own or release, Metrics(), challenger=challenger, accepted=accepted)
        self.release_version = loads or version
        self.asked: list[tuple[Assessment, float]] = []
        self._mind = Mind(loads or version, replace(release, accepted=accepted))

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self._process = self  # type: ignore[assignment]
        self.processes += 1
        self._heard({"ready": self._mind.ready(self._number)})

    async def stop(self) -> None:
        self.end(Ending("died", "the service stops"))

    def send(self, data: bytes) -> None:
        for content, block in Frames().feed(data):
            self._heard(self._mind.reply(content, block))

    def end(self, ending: Ending) -> None:
        self._lost(ending)

    def _heard(self, content: Mapping[str, Any]) -> None:
        self._hear(orjson.loads(orjson.dumps(content)))

    def ask_later(self, assessment: Assessment, pace: float, done: Done, case: Case | None = None) -> None:
        super().ask_later(assessment, pace, done, case)
        self._flush()

    def _ask(self, assessment: Assessment, case: Case, pace: float, done: Done, seconds: float) -> int | None:
        self.asked.append((assessment, pace))
        failure = self.failure
        return super()._ask(assessment, case, pace, done if failure is None else lambda _: done(failure), seconds)


async def heard(arm: LearnedArm, assessment: Assessment, pace: float = 0.0) -> Heard:
    """What ask_later() tells."""
    answer: asyncio.Future[Heard] = asyncio.get_running_loop().create_future()
    arm.ask_later(assessment, pace, answer.set_result)
    return await answer
