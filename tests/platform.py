"""The platform of `make up` for tests: brought up with a store of their own, and taken down again."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from docker import DockerClient
from docker.models.containers import Container
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import PrefectException
from prefect.settings import PREFECT_API_URL, temporary_settings

from engine.errors import RetainError
from engine.store import FolderStore
from flows import platform
from flows.automations import register
from flows.witness import FLOW_RUN_LABEL
from tests.containers import engine_or_skip

TOYS = Path(__file__).parent / "end_to_end"  # mounted into the containers of toy deployments


@dataclass
class Platform:
    engine: DockerClient
    api: SyncPrefectClient
    store: FolderStore
    image: str  # of worker and witness; it has Prefect and nothing of a stage

    def service(self, name: str) -> Container:
        (container,) = platform.services_of(self.engine, name)
        return container

    def deploy_toy(self, flow: str, image: str | None = None) -> UUID:
        """A deployment of the flow in tests/end_to_end/toy_flows.py."""
        return self.api.create_deployment(
            flow_id=self.api.create_flow_from_name(flow),
            name="toy",
            entrypoint=f"toy_flows.py:{flow}",
            path="/toys",
            work_pool_name=platform.POOL,
            job_variables={
                "image": image or self.image,
                "volumes": [f"{TOYS}:/toys:ro"],
                "user": f"{os.geteuid()}:{os.getegid()}",  # so that these tests may kill what runs in it
            },
            enforce_parameter_schema=False,
        )

    def run(self, deployment: UUID, **parameters: object) -> UUID:
        return self.api.create_flow_run_from_deployment(deployment, parameters=parameters).id

    def running(self, deployment: UUID, **parameters: object) -> tuple[UUID, Container]:
        """A new flow run, and its container, once the flow is at work in it."""
        flow_run = self.run(deployment, **parameters)
        self.wait(flow_run, State.is_running)
        (container,) = self.containers(flow_run)
        return flow_run, container

    def containers(self, flow_run: UUID) -> Sequence[Container]:
        """The flow run's containers, the newest first."""
        filters = {"label": f"{FLOW_RUN_LABEL}={flow_run}"}
        return self.engine.containers.list(all=True, filters=filters)  # type: ignore[no-any-return]

    def state(self, flow_run: UUID) -> State[Any] | None:
        try:
            return self.api.read_flow_run(flow_run).state
        except (httpx.HTTPError, PrefectException):  # it is being restarted
            return None

    def wait(self, flow_run: UUID, wanted: Callable[[State[Any]], bool]) -> State[Any]:
        """Waits until the flow run is in such a state."""
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            state = self.state(flow_run)
            if state is not None and wanted(state):
                return state
            time.sleep(0.1)
        raise AssertionError(f"{flow_run} is still {self.state(flow_run)}")


@contextmanager
def running_platform(store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    """Skips the test where there is no Docker engine, or where somebody's own platform is up or has a database."""
    engines = engine_or_skip()
    engine = next(engines)
    if any(platform.services_of(engine, name) for name in ("postgres", "server", "worker", "witness")):
        pytest.skip("a platform is up, which these tests would disturb: make down")
    if platform.has_database(engine):
        pytest.skip(f"a platform's database is there, which these tests would write into: the volume {platform.VOLUME}")
    monkeypatch.setenv("RETAIN_STORE", str(store))
    monkeypatch.delenv("RETAIN_BIND", raising=False)
    try:
        platform.up(print)
        image = platform.orchestrator(print)
        with temporary_settings({PREFECT_API_URL: platform.api_url()}), get_client(sync_client=True) as api:
            register()
            yield Platform(engine, api, FolderStore(store), image)
    except RetainError as error:
        if "is installed" in str(error):
            pytest.skip(str(error))
        raise
    finally:
        platform.down(print)
        if platform.has_database(engine):
            engine.volumes.get(platform.VOLUME).remove()
        for _ in engines:
            pass
