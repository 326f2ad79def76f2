"""`python -m tests.flows.toy_automations ROOT`: tells a Prefect server that has the automations of an exceeded budget.

Prints which deployments are paused after a warning, and after that.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from uuid import uuid4

from flows import server


def main(root: str) -> None:
    server.UNUSED_SERVICES = tuple(name for name in server.UNUSED_SERVICES if name != "TRIGGERS")
    with server.private_server(Path(root), threading.Event()):
        from prefect.client.orchestration import get_client
        from prefect.events.worker import EventsWorker

        from flows.automations import announcer, register

        register()
        register()
        with get_client(sync_client=True) as client:
            flow = client.create_flow_from_name("train")
            deployments = {name: client.create_deployment(flow, name) for name in ("local", "chaos")}

            def paused() -> list[str]:
                return [name for name, each in deployments.items() if client.read_deployment(each).paused]

            announce = announcer("local", uuid4(), deployments["local"])
            announce("warning", "83 % is spent or reserved")
            time.sleep(3.0)
            after_warning = paused()
            announce("exceeded", "the cap was lowered")
            until = time.monotonic() + 30.0
            while not paused() and time.monotonic() < until:
                time.sleep(0.1)
            print(json.dumps({"after_warning": after_warning, "after_exceeded": paused()}))
        EventsWorker.drain_all()


if __name__ == "__main__":
    main(*sys.argv[1:])
    sys.stdout.flush()
    os._exit(0)
