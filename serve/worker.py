"""A process that answers the API: `python -m serve.worker`. The supervisor starts several (supervisor.py)."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

from engine.approvals import Watch
from engine.errors import RetainError
from serve.app import create_app
from serve.child import begin, run
from serve.keys import Keys
from serve.loading import load_release
from serve.settings import read


def main(arguments: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ) -> int:
    inherited = begin(arguments)
    try:
        settings = read(environment)
        version, release = load_release(settings)
        app = create_app(version, release, settings.router, Watch(), Keys(settings.keys))
    except RetainError as error:
        return inherited.fail(error)
    service = app.state.service
    sources = ", ".join([str(settings.release), *(f"{part} of {settings.parts[part]}" for part in release.replaced)])
    ready = {
        "release": f"release {version} ({sources})",
        "decides": f"{service.arms}; {service.banks}",
        "warnings": service.ready()["warnings"],
    }
    run(inherited, app, service.metrics, settings.keep_alive, ready)
    return 0


if __name__ == "__main__":
    sys.exit(main())
