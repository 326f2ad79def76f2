"""A process that answers the API: `python -m serve.worker`. The supervisor starts several (supervisor.py)."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from engine.approvals import Watch
from engine.errors import RetainError
from engine.store import store_url
from retain.decision import Terms
from serve.app import create_app
from serve.arms import challenger_arm, learned_arm
from serve.child import begin, run
from serve.database import Database
from serve.folder import VARIABLE
from serve.following import Following
from serve.keys import Keys
from serve.loading import load_release, with_budget
from serve.metrics import Metrics
from serve.place import database_url
from serve.readiness import arms, banks, warnings
from serve.service import Service
from serve.settings import Settings, read
from serve.standing import Looks
from serve.state import State
from serve.writer import Writer

log = logging.getLogger("retain.serve")


def state_of(settings: Settings, terms: Terms, folder: Path) -> State:
    """The memory of the service, on its database, which need not be there yet. `folder`: of its processes. Raises
    RetainError."""
    database = Database(database_url(settings.database_url), settings.sqlite_synchronous, folder=folder)
    state = State(database, terms)
    state.begin()
    if state.problem:
        log.error("nobody is contacted: %s", state.problem)
    return state


def service_of(settings: Settings, state_of: Callable[[Settings, Terms], State]) -> Service:
    """The service that the settings describe, with that memory; a benchmark has another one. Raises RetainError."""
    version, release = load_release(settings)
    release = with_budget(release, settings.budget)
    metrics = Metrics()
    state = state_of(settings, release.terms)
    learned = learned_arm(settings, version, release, metrics)
    router = settings.router if settings.challenger is None else replace(settings.router, force_baseline=True)
    service = Service(version, release, metrics, Writer(state), router, learned)
    if router.learned_percent != settings.router.learned_percent:
        service.warnings.append(
            "FORCE_BASELINE=false, but CHALLENGER_PATH is tried in the shadow alone: everybody gets the baseline"
        )
    return service


def main(arguments: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ) -> int:
    inherited = begin(arguments)
    try:
        settings = read(environment)
        service = service_of(settings, partial(state_of, folder=Path(environment[VARIABLE])))
        looks = Looks(store_url(), service.release.experiment)
        arm_of = partial(challenger_arm, settings, service.bound.versions["release"], service.release, service.metrics)
        following = Following(service, looks, arm_of, settings.force_baseline, settings.canary_percent)
        app = create_app(service, Watch(), Keys(settings.keys), following)
    except RetainError as error:
        return inherited.fail(error)
    replaced = service.release.replaced
    sources = ", ".join([str(settings.release), *(f"{part} of {settings.parts[part]}" for part in replaced)])
    ready = {
        "release": f"release {service.bound.versions['release']} ({sources})",
        "decides": f"{arms(service)}; {banks(service)}",
        "warnings": warnings(service),
    }
    run(inherited, app, service.metrics, settings.keep_alive, ready)
    return 0


if __name__ == "__main__":
    sys.exit(main())
