"""Services and applications of a release for tests, each with a database of its own that nobody else has."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
from fastapi import FastAPI
from pydantic import TypeAdapter

from engine.approvals import Watch
from retain.decision import policy_wants
from retain.message import Message
from retain.policy import PolicyError
from retain.release import Assessment, Release
from serve.app import create_app
from serve.database import Database, wall_clock
from serve.keys import NO_KEYS, Keys
from serve.learned import Failure, Wish
from serve.metrics import Metrics
from serve.router import EVERYBODY_BASELINE, Router
from serve.service import Service
from serve.spoken import NOTHING, Row, judged, table
from serve.state import State
from serve.writer import Writer

_opened: list[tuple[Database, tempfile.TemporaryDirectory[str] | None]] = []


class InProcess:
    """The learned arm of a release in this process, with what a service asks of serve.learned.LearnedArm."""

    def __init__(self, release: Release) -> None:
        self.asked: list[tuple[Assessment, float]] = []  # with the wallet's pace
        self._take(release)

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def state(self) -> dict[str, Any]:
        return {"running": True}

    def warnings(self) -> list[str]:
        return []

    def take_verdicts(self, verdicts: Mapping[str, str]) -> None:
        if verdicts != self.release.verdicts:
            self._take(replace(self.release, verdicts=verdicts))

    def _take(self, release: Release) -> None:
        rows = TypeAdapter(list[Row]).validate_json(orjson.dumps(table(release)))
        self.release, self._cells = release, judged(rows, release.terms, release.guard, release.verdicts)

    async def ask(self, assessment: Assessment, pace: float, deadline: float) -> Wish | Failure:
        return self._heard(assessment, pace)

    def ask_later(self, assessment: Assessment, pace: float, done: Callable[[Wish | Failure], None]) -> None:
        done(self._heard(assessment, pace))

    def message(self, wish: Wish) -> Message | None:
        return None if wish.said is None else self.release.said(wish.said.entry)

    def _heard(self, assessment: Assessment, pace: float) -> Wish | Failure:
        self.asked.append((assessment, pace))
        try:
            assert self.release.policy is not None
            wanted = policy_wants(self.release.policy, self.release.terms, assessment.case, pace)
        except PolicyError:
            return Failure("not_finite")
        except Exception:
            return Failure("error")
        said, chosen, _ = self._cells.get((assessment.situation, wanted.offer or 0), NOTHING)
        if wanted.offer is None:
            said = chosen = None
        return Wish(wanted.offer, wanted.why, (), said, chosen, assessment.case, 0.001, 0.002)  # type: ignore[arg-type]


def service_of(
    release: Release,
    version: str = "v1",
    router: Router = EVERYBODY_BASELINE,
    url: str | None = None,
    learned: Any = "in process",
    clock: Callable[[], int] = wall_clock,
) -> Service:
    """On the database at `url`, or on a file of its own; with the release's learned arm, if it has one, in this
    process, or with the arm given."""
    folder = None
    if url is None:
        folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        url = f"sqlite:///{Path(folder.name).resolve() / 'serving.db'}"
    if learned == "in process":
        learned = None if release.policy is None else InProcess(release)
    database = Database(url, clock=clock)
    _opened.append((database, folder))
    state = State(database, release.terms, clock)
    state.carry_out([])
    return Service(version, release, Metrics(), Writer(state), router, learned)


def close_databases() -> None:
    """Of services that have stopped: a server of PostgreSQL has room for so many connections."""
    while _opened:
        database, folder = _opened.pop()
        database.close()
        if folder is not None:
            folder.cleanup()


def app_of(
    version: str,
    release: Release,
    router: Router = EVERYBODY_BASELINE,
    watch: Watch | None = None,
    keys: Keys = NO_KEYS,
    **service: Any,
) -> FastAPI:
    return create_app(service_of(release, version, router, **service), watch, keys)
