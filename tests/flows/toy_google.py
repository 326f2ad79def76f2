"""Registers what rented machines need with a Prefect server of its own, and says what is there."""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

from flows.pools import RENTED, Pools
from flows.server import private_server

IMAGES = {name: f"registry.example/retain/{name}@sha256:{'0' * 64}" for name in ("tabular", "gpu")}


def main(root: str, credentials: str, store: str) -> None:
    with private_server(Path(root), threading.Event()) as server:
        from prefect.client.orchestration import get_client

        from flows import deploy, google_cloud
        from flows.deploy import Given
        from flows.mounts import Access, Place

        os.environ |= {"GOOGLE_APPLICATION_CREDENTIALS": credentials, "RETAIN_STORE": store}
        with get_client(sync_client=True) as api:
            google_cloud.register_pools(api, RENTED)
            google_cloud.register_pools(api, RENTED)  # again, as it is with each `make deploy`
            google_cloud.register_blocks("project-1")
            access = Access({}, None)
            given = Given(Place(store, Path("/nowhere"), access), None, named=False, access=access)
            variables = deploy.variables(IMAGES, given, Pools("cpu-spot", "gpu-spot"), "project-1")
            deploy.register(variables, {*RENTED}, {"PREFECT_API_URL": f"{server.address}/api"})
            kept = {
                "pools": {pool.name: pool.model_dump(mode="json") for pool in api.read_work_pools()},
                "deployments": {each.name: each.model_dump(mode="json") for each in api.read_deployments()},
                "blocks": [{"name": each.name, "data": each.data} for each in api.read_block_documents()],
            }
    print(json.dumps(kept))


if __name__ == "__main__":
    main(*sys.argv[1:])
    sys.stdout.flush()
    os._exit(0)
