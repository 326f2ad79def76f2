"""What `make deploy` registers for rented machines, with a real server of Prefect, and what its workers make of it."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from google.api_core.exceptions import PermissionDenied
from prefect_docker.worker import DockerWorkerJobConfiguration
from prefect_gcp import GcpSecret
from prefect_gcp.workers.vertex import VertexAIWorkerJobConfiguration, VertexAIWorkerVariables

from engine import notice
from engine.errors import RetainError
from flows import deploy, google_cloud
from flows.pools import RENTED, Pools
from tests.flows.toy_google import IMAGES
from tests.flows.toys import said_by

# Of nobody: it is read, and never used.
CREDENTIALS = {"type": "authorized_user", "client_id": "i", "client_secret": "s", "refresh_token": "t"}
STORE = "gs://a-bucket/store"


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("google")
    (root / "credentials.json").write_text(json.dumps(CREDENTIALS))
    return said_by("toy_google", root / "prefect", root / "credentials.json", STORE)  # type: ignore[no-any-return]


def configured(kind: Any, registered: dict[str, Any], name: str) -> Any:
    """What a worker of the deployment's pool would start, as Prefect makes it of template and job variables."""
    deployment = registered["deployments"][name]
    template = registered["pools"][deployment["work_pool_name"]]["base_job_template"]
    nobody = object()  # is asked: no job variable refers to a block any more
    return asyncio.run(kind.from_template_and_values(template, deployment["job_variables"], client=nobody))


def test_each_pool_has_its_deployments(registered: dict[str, Any]) -> None:
    assert {name: pool["type"] for name, pool in registered["pools"].items()} == {
        name: "vertex-ai" if name == "gpu-vertex" else "docker" for name in RENTED
    }
    pools = {each["work_pool_name"] for each in registered["deployments"].values()}
    assert pools == RENTED.keys()
    for name, deployment in registered["deployments"].items():
        image, _, pool = name.partition("-on-")
        assert deployment["work_pool_name"] == pool
        assert deployment["job_variables"]["image"] == IMAGES[image]
        assert "$" not in json.dumps(deployment["job_variables"])


@pytest.mark.parametrize(
    ("name", "gpu"),
    [
        ("tabular-on-cpu-spot", False),
        ("gpu-on-cpu-spot", False),
        ("gpu-on-gpu-spot", True),
        ("gpu-on-gpu-on-demand", True),
    ],
)
def test_a_container_of_a_rented_machine(registered: dict[str, Any], name: str, gpu: bool) -> None:
    made = configured(DockerWorkerJobConfiguration, registered, name)
    assert made.labels["retain.pool"] == name.partition("-on-")[2]  # by which the machine's own witness knows it
    assert made.env["RETAIN_STORE"] == STORE
    assert notice.server({"GCE_METADATA_HOST": made.env["GCE_METADATA_HOST"]}) == "169.254.169.254"
    assert made.volumes == [f"retain-cache-{os.getuid()}:/cache"]  # no folder of that machine
    devices = made.container_create_kwargs.get("device_requests")
    assert devices == ([{"Driver": "nvidia", "Count": 1, "Capabilities": [["gpu"]]}] if gpu else None)
    assert made.auto_remove is False


def test_a_job_of_vertex_ai(registered: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "credentials.json").write_text(json.dumps(CREDENTIALS))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "credentials.json"))
    variables = registered["deployments"]["gpu-on-gpu-vertex"]["job_variables"]
    given = VertexAIWorkerVariables.model_fields.keys()
    assert variables.keys() <= given
    assert isinstance(variables["scheduling"]["strategy"], str)  # or prefect-gcp leaves the whole block out
    assert not variables["scheduling"]["restart_job_on_worker_restart"]  # the run retries, and nobody else
    made = configured(VertexAIWorkerJobConfiguration, registered, "gpu-on-gpu-vertex")
    assert (made.region, made.project) == ("us-central1", "project-1")
    (pool,) = made.job_spec["worker_pool_specs"]
    assert pool["machine_spec"] == {
        "machine_type": "g2-standard-4",
        "accelerator_type": "NVIDIA_L4",
        "accelerator_count": 1,
    }
    assert pool["container_spec"]["image_uri"] == IMAGES["gpu"]
    assert made.job_spec["scheduling"]["strategy"] == "SPOT"
    assert made.job_spec["service_account_name"] == "retain-vertex@project-1.iam.gserviceaccount.com"


def test_the_blocks_name_a_project_and_hold_no_key(registered: dict[str, Any]) -> None:
    blocks = {each["name"]: each["data"] for each in registered["blocks"]}
    none = {"service_account_file": None, "service_account_info": None}
    assert blocks == {
        "retain": {"project": "project-1", **none},
        "retain-page-url": {
            "gcp_credentials": {"project": "project-1", **none},
            "secret_name": "retain-page-url",
            "secret_version": "latest",
        },
    }


def test_without_credentials_the_way_to_some_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    with pytest.raises(RetainError, match=r"no credentials for the project p.*gcloud auth application-default login"):
        google_cloud.register_blocks("p")


@pytest.mark.parametrize(
    ("held", "url"), [(b"none\n", None), (b"https://pages.example/hook\n", "https://pages.example/hook")]
)
def test_who_is_told_is_a_secret_of_the_project(monkeypatch: pytest.MonkeyPatch, held: bytes, url: str | None) -> None:
    monkeypatch.setattr(GcpSecret, "load", lambda name: SimpleNamespace(read_secret=lambda: held))
    assert google_cloud.secret_page_url() == url


@pytest.mark.parametrize(
    "held", [b"", b"\n", b"None", b" https://pages.example/hook", b"hooks.example.com/1", b"https://"]
)
def test_a_secret_that_is_no_webhook_pages_nobody_unseen(monkeypatch: pytest.MonkeyPatch, held: bytes) -> None:
    monkeypatch.setattr(GcpSecret, "load", lambda name: SimpleNamespace(read_secret=lambda: held))
    with pytest.raises(
        RetainError, match=r"^the secret retain-page-url wants the address of a webhook, [^\n]*, or none$"
    ):
        google_cloud.secret_page_url()


def test_a_secret_that_can_not_be_read_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> bytes:
        raise PermissionDenied("Permission 'secretmanager.versions.access' denied")

    monkeypatch.setattr(GcpSecret, "load", lambda name: SimpleNamespace(read_secret=refused))
    with pytest.raises(RetainError, match=r"retain-page-url can't be read.*secretmanager\.secretAccessor"):
        google_cloud.secret_page_url()


def test_what_rented_machines_lack_is_said_line_by_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETAIN_STORE", "/a/folder")
    local = {"tabular": "retain/tabular:1", "gpu": IMAGES["gpu"]}
    monkeypatch.setattr(deploy, "accelerator_of", lambda root, name: "cpu")
    lines = deploy._missing_for_rented(local, Pools("cpu-spot", "gpu-spot"), project="")
    assert [line.split(":")[0] for line in lines] == [
        "RETAIN_STORE=/a/folder",
        "GOOGLE_CLOUD_PROJECT is not set",
        "retain/gpu was pushed without CUDA",
        "retain/tabular",
    ]
    monkeypatch.setenv("RETAIN_STORE", STORE)
    assert deploy._missing_for_rented(IMAGES, Pools("cpu-spot"), project="project-1") == []
