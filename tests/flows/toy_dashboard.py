"""`python -m tests.flows.toy_dashboard ROOT`: runs two toy stages with Prefect, and prints its artifacts."""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

from flows.run import Run
from flows.server import private_server
from tests.flows.toy_plan import board_of, toy_plan, toy_stage


def main(root: str) -> None:
    plan = toy_plan(Path(root) / "store", (toy_stage("risk"), toy_stage("accept")), steps=40, pause_s=0.02)
    run = Run(plan, board_of(plan))
    with private_server(Path(root) / "prefect", threading.Event()):
        from prefect.client.orchestration import get_client

        from flows import dashboard
        from flows.train import train_here

        dashboard.published.__wrapped__.__defaults__ = (0.3,)  # type: ignore[attr-defined]
        train_here(run)
        with get_client(sync_client=True) as client:
            artifacts = [artifact.model_dump(mode="json") for artifact in client.read_artifacts()]
            runs = [str(flow_run.id) for flow_run in client.read_flow_runs()]
    print(json.dumps({"artifacts": artifacts, "runs": runs}))


if __name__ == "__main__":
    main(*sys.argv[1:])
    sys.stdout.flush()
    os._exit(0)
