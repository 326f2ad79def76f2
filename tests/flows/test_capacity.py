"""Rented machines that can't be had are one line before money is reserved, and groups grow with what waits for them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import google.auth
import pytest
import yaml
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import DefaultCredentialsError
from google.oauth2.credentials import Credentials
from prefect.client.schemas.objects import State, StateType
from prefect.states import Scheduled

import flows.container
from engine.errors import RetainError
from engine.fingerprint import ROOT
from engine.stage import FAILED
from engine.store import FolderStore
from flows import capacity
from flows.capacity import Cloud
from flows.container import Container
from flows.launch import NotStarted
from flows.pools import RENTED, Pool
from tests.flows.compute_double import PROJECT, REGION, Compute, compute

CPU, SPOT, ON_DEMAND = (RENTED[name] for name in ("cpu-spot", "gpu-spot", "gpu-on-demand"))
L4 = "nvidia-l4"


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Compute]:
    monkeypatch.setattr(google.auth, "default", lambda scopes: (Credentials(token="token"), PROJECT))
    monkeypatch.setattr(capacity.RETRY, "backoff_factor", 0.0)
    with compute() as server:
        monkeypatch.setattr(capacity, "API", server.url)
        yield server


@pytest.fixture
def cloud(engine: Compute) -> Cloud:
    return Cloud(REGION, engine.url)


def refused(cloud: Cloud, *pools: Pool, gpu: str = L4) -> str:
    with pytest.raises(RetainError) as raised:
        capacity.check(cloud, pools, gpu)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_machines_that_can_be_had_are_not_asked_for_yet(engine: Compute, cloud: Cloud) -> None:
    capacity.check(cloud, [CPU, SPOT, ON_DEMAND, RENTED["gpu-vertex"]], L4)
    assert set(engine.groups.values()) == {0}
    assert not any(asked.startswith("POST") for asked in engine.asked)


def test_a_quota_that_is_used_up_is_told(engine: Compute, cloud: Cloud) -> None:
    engine.quotas["PREEMPTIBLE_NVIDIA_L4_GPUS"] = (2.0, 2.0)
    assert refused(cloud, SPOT).startswith(
        "quota PREEMPTIBLE_NVIDIA_L4_GPUS in us-central1 is used up (2 of 2), so that no machine of gpu-spot can be had"
    )
    capacity.check(cloud, [ON_DEMAND], L4)
    engine.quotas["NVIDIA_L4_GPUS"] = (0.0, 0.0)
    assert "quota NVIDIA_L4_GPUS in us-central1 is used up (0 of 0)" in refused(cloud, ON_DEMAND)
    capacity.check(cloud, [CPU], L4)


def test_spot_machines_of_a_project_without_their_quota_use_up_the_other_one(engine: Compute, cloud: Cloud) -> None:
    engine.quotas["PREEMPTIBLE_NVIDIA_L4_GPUS"] = (0.0, 0.0)
    capacity.check(cloud, [SPOT], L4)
    engine.quotas["NVIDIA_L4_GPUS"] = (1.0, 1.0)
    assert "quota NVIDIA_L4_GPUS in us-central1 is used up (1 of 1)" in refused(cloud, SPOT)


def test_the_quota_of_all_regions_counts_too(engine: Compute, cloud: Cloud) -> None:
    engine.everywhere["GPUS_ALL_REGIONS"] = (0.0, 0.0)
    assert "quota GPUS_ALL_REGIONS in us-central1 is used up (0 of 0)" in refused(cloud, SPOT)


def test_a_machine_that_is_there_has_its_quota(engine: Compute, cloud: Cloud) -> None:
    engine.groups["retain-gpu-spot"] = 1
    engine.quotas["PREEMPTIBLE_NVIDIA_L4_GPUS"] = engine.everywhere["GPUS_ALL_REGIONS"] = (1.0, 1.0)
    capacity.check(cloud, [SPOT], L4)


def test_a_region_without_the_accelerator_is_told(engine: Compute, cloud: Cloud) -> None:
    engine.accelerators[f"zones/{REGION}-a"] = ["nvidia-t4"]
    assert refused(cloud, SPOT).startswith("no zone of us-central1 has nvidia-l4: state another region (costs.region)")


def test_a_region_without_the_group_is_told(engine: Compute) -> None:
    assert "the pool gpu-spot has no group retain-gpu-spot in europe-west4: make it by Terraform" in refused(
        Cloud("europe-west4", engine.url), SPOT
    )


def test_a_right_that_is_missing_is_told(engine: Compute, cloud: Cloud) -> None:
    engine.failing = [403]
    said = refused(cloud, SPOT)
    assert "with 403 (Required 'compute.regions.get' permission for 'x'): the account needs compute.regions.get" in said


def test_a_server_that_fails_for_a_moment_is_asked_again(engine: Compute, cloud: Cloud) -> None:
    engine.failing = [503, 429]
    capacity.check(cloud, [CPU], None)
    assert engine.asked == ["GET retain-cpu-spot"] * 3


def test_nobody_there_is_told(engine: Compute) -> None:
    assert "Compute Engine does not answer" in refused(Cloud(REGION, "http://127.0.0.1:9/compute/v1"), SPOT)


def test_without_an_account_or_a_project_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(scopes: list[str]) -> None:
        raise DefaultCredentialsError("Your default credentials were not found.")

    monkeypatch.setattr(google.auth, "default", none)
    assert "rented machines want an account of Google Cloud: Your default" in refused(Cloud(REGION), SPOT)
    monkeypatch.setattr(google.auth, "default", lambda scopes: (AnonymousCredentials(), None))
    assert refused(Cloud(REGION), SPOT).startswith("GOOGLE_CLOUD_PROJECT is not set")


# -- groups


def test_a_group_grows_and_is_never_made_smaller(engine: Compute, cloud: Cloud) -> None:
    for wanted, size in ((1, 1), (1, 1), (3, 3), (2, 3), (9, capacity.MOST_MACHINES)):
        capacity.grow(cloud, CPU, wanted)
        assert engine.groups["retain-cpu-spot"] == size
    assert engine.asked.count("POST resize") == 3


class Prefect:
    """A server on which an attempt waits for a machine, with others of its pool."""

    def __init__(self, waiting: int) -> None:
        self.waiting = waiting
        self.state: State[Any] = Scheduled()
        self.proposed: list[State[Any]] = []
        self.filters: dict[str, Any] = {}

    def count_flow_runs(self, **filters: Any) -> int:
        self.filters = {name: each.model_dump(mode="json", exclude_unset=True) for name, each in filters.items()}
        return self.waiting

    def read_flow_run(self, flow_run: Any) -> Any:
        return SimpleNamespace(state=self.state, run_count=0, infrastructure_pid=None)

    def set_flow_run_state(self, flow_run: Any, state: State[Any], force: bool = False) -> None:
        self.proposed.append(state)


def start(tmp_path: Any, api: Prefect, monkeypatch: pytest.MonkeyPatch, pool: str = "gpu-spot") -> Container:
    waiting = Container(uuid4(), FolderStore(tmp_path), "e/sft/f", 1, 1.0, api)  # type: ignore[arg-type]
    monkeypatch.setattr(flows.container, "client", lambda: api)
    monkeypatch.setattr(flows.container, "_start", lambda *_: waiting)
    launcher = flows.container.containers(uuid4(), REGION)
    return launcher.start(None, {}, pool)  # type: ignore[arg-type,return-value]


def test_an_attempt_sees_to_it_that_its_pool_has_machines(
    engine: Compute, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = Prefect(waiting=2)
    start(tmp_path, api, monkeypatch)
    assert engine.groups == {"retain-cpu-spot": 0, "retain-gpu-spot": 2, "retain-gpu-on-demand": 0}
    assert api.filters == {
        "flow_run_filter": {"state": {"type": {"any_": ["SCHEDULED", "PENDING", "RUNNING", "CANCELLING"]}}},
        "work_pool_filter": {"name": {"any_": ["gpu-spot"]}},
    }
    for pool in ("", "gpu-vertex"):  # which have no groups
        start(tmp_path, api, monkeypatch, pool)
    assert engine.asked.count("POST resize") == 1


def test_an_attempt_without_a_machine_asks_for_one_again_and_again(
    engine: Compute, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that it was to get has deleted itself, since it had been idle."""
    monkeypatch.setattr(flows.container, "GROW_S", 0.0)
    api = Prefect(waiting=1)
    waiting = start(tmp_path, api, monkeypatch)
    for sizes in ((0, 1), (0, 1)):
        engine.groups["retain-gpu-spot"] = sizes[0]
        waiting._look(time.monotonic() + 1.0)
        assert engine.groups["retain-gpu-spot"] == sizes[1]
    api.state = State(type=StateType.RUNNING)
    engine.groups["retain-gpu-spot"] = 0
    waiting._look(time.monotonic() + 1.0)
    assert engine.groups["retain-gpu-spot"] == 0


def test_an_attempt_whose_machines_all_delete_themselves_is_given_up(
    engine: Compute, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They can't work, for want of a secret perhaps, and each of them costs money."""
    monkeypatch.setattr(flows.container, "GROW_S", 0.0)
    api = Prefect(waiting=1)
    waiting = start(tmp_path, api, monkeypatch)
    assert waiting._look(time.monotonic() + 1.0) is None  # one that is late is waited for
    for _ in range(flows.container.MACHINES_GONE):
        engine.groups["retain-gpu-spot"] = 0
        assert waiting._look(time.monotonic() + 1.0) is None
    engine.groups["retain-gpu-spot"] = 0
    assert waiting._look(time.monotonic() + 1.0) == FAILED  # those that follow would do the same
    assert waiting.never_began
    assert "4 machines of its pool deleted themselves without taking it" in waiting.message
    assert [state.type for state in api.proposed] == [StateType.CANCELLED]


def test_an_attempt_that_can_ask_for_no_machine_is_taken_back(
    engine: Compute, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    del engine.groups["retain-gpu-spot"]
    api = Prefect(waiting=1)
    with pytest.raises(NotStarted, match="the pool gpu-spot has no group"):
        start(tmp_path, api, monkeypatch)
    assert [state.type for state in api.proposed] == [StateType.CANCELLED]
    api.state = State(type=StateType.RUNNING)  # of a run that has come back to it
    start(tmp_path, api, monkeypatch)
    assert len(api.proposed) == 1


def test_an_attempt_whose_machine_can_not_be_asked_for_now_asks_later(
    engine: Compute, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.failing = [503] * 50
    monkeypatch.setattr(flows.container, "GROW_S", 0.0)
    api = Prefect(waiting=1)
    waiting = start(tmp_path, api, monkeypatch)
    assert api.proposed == []
    engine.failing = []
    waiting._look(time.monotonic() + 1.0)
    assert engine.groups["retain-gpu-spot"] == 1


def test_what_nobody_witnesses_has_ended_when_its_record_says_so(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = start(tmp_path, Prefect(waiting=1), monkeypatch, "gpu-vertex")
    assert waiting.begins_s > flows.container.BEGINS_S
    record = SimpleNamespace(ended=True, status="complete", seconds=9.0)
    for witnessed in (True, False):
        waiting.witnessed, waiting._beat = witnessed, record  # type: ignore[assignment]
        assert waiting.end_seen == (not witnessed)
    assert waiting.seconds == 9.0


def test_the_groups_are_terraforms() -> None:
    stated = (ROOT / "infra" / "terraform" / "pools.tf").read_text()
    assert 'name                             = "retain-${each.key}"' in stated
    described = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    assert {each["work_pool"]["name"] for each in described} >= {pool.name for pool in (CPU, SPOT, ON_DEMAND)}
