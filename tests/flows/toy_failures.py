"""`python -m tests.flows.toy_failures ROOT`: what a webhook is told by a real Prefect server, whose automation is
registered twice, of runs that end.

Prints its calls, and how many automations there are once none is wanted any more.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows import server
from tests.deploy.fakes import Answer, answering

CALLED: list[dict[str, Any]] = []


def answer(method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
    CALLED.append({"type": headers["Content-Type"], **json.loads(body)})
    return 200, b""


def main(root: str) -> None:
    server.UNUSED_SERVICES = tuple(name for name in server.UNUSED_SERVICES if name != "TRIGGERS")
    with server.private_server(Path(root), threading.Event()), answering(answer) as address:
        from prefect import flow
        from prefect.client.orchestration import get_client
        from prefect.events.worker import EventsWorker
        from prefect.states import Completed, Crashed, Failed

        from flows.automations import FAILED, register

        register(f"{address}/hook")
        register(f"{address}/hook")

        def ending(name: str, state: Any) -> None:
            flow(name=name, flow_run_name=f"{name}-toy")(lambda: state)(return_state=True)

        ending("retrain", Completed(message="nothing changed"))
        ending("train", Failed(message="of another flow"))
        ending("retrain", Failed(message='risk: "auc" 0.71\n(wanted >= 0.78) <>'))
        ending("retrain", Crashed(message="No sign of life for 90 s."))
        EventsWorker.drain_all()
        until = time.monotonic() + 60.0
        while len(CALLED) < 2 and time.monotonic() < until:
            time.sleep(0.1)
        time.sleep(3.0)  # for calls that should not come
        register(None)
        with get_client(sync_client=True) as client:
            left = len(client.read_automations_by_name(name=FAILED))
        print(json.dumps({"called": CALLED, "left": left}))


if __name__ == "__main__":
    main(*sys.argv[1:])
    sys.stdout.flush()
    os._exit(0)
