"""Services and applications of a release for tests, each with a database of its own that nobody else has."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from engine.approvals import Watch
from retain.release import Release
from serve.app import create_app
from serve.database import Database, wall_clock
from serve.keys import NO_KEYS, Keys
from serve.metrics import Metrics
from serve.router import EVERYBODY_BASELINE, Router
from serve.service import Service
from serve.state import State
from serve.writer import Writer
from tests.serve.arms import InProcessArm

_opened: list[tuple[Database, tempfile.TemporaryDirectory[str] | None]] = []


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
        learned = None if release.policy is None else InProcessArm(version, release)
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
