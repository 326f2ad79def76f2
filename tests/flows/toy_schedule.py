"""`python -m tests.flows.toy_schedule ROOT`: of each run that Prefect's server has planned, whether by itself."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from flows import server


def main(root: str) -> None:
    server.UNUSED_SERVICES = tuple(name for name in server.UNUSED_SERVICES if name != "SCHEDULER")
    with server.private_server(Path(root), threading.Event()):
        from prefect.client.orchestration import get_client
        from prefect.client.schemas.actions import DeploymentScheduleCreate
        from prefect.client.schemas.schedules import IntervalSchedule

        due = IntervalSchedule(interval=timedelta(days=1), anchor_date=datetime.now(UTC) + timedelta(minutes=1))
        with get_client(sync_client=True) as client:
            flow = client.create_flow_from_name("retrain")
            client.create_deployment(flow, "weekly", schedules=[DeploymentScheduleCreate(schedule=due, active=True)])
            until = time.monotonic() + 30.0
            while not (planned := client.read_flow_runs()) and time.monotonic() < until:
                time.sleep(0.2)
        print(json.dumps([run.auto_scheduled for run in planned]))


if __name__ == "__main__":
    main(*sys.argv[1:])
    sys.stdout.flush()
    os._exit(0)
