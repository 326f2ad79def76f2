"""What `make deploy` refuses, and that prefect.yaml describes runs that exist."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import subprocess
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import prefect
import pytest
import yaml
from prefect.cli.deploy._models import PrefectYamlModel
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectNotFound, ParameterTypeError
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.utilities.schema_tools.validation import validate

from engine.config import known_experiments
from engine.environment import SECRETS
from engine.errors import DataError, RetainError
from engine.fingerprint import ROOT
from flows import automations, deploy, google_cloud, mounts, platform
from flows.guard import SERVER_AUTH
from flows.login import logged_in
from flows.mounts import Access, Place
from flows.plan import load_experiment
from flows.pools import RENTED, Pools
from flows.train import train
from tasks.stages import STAGES
from tests.engine.bucket_double import Buckets, Session, serving

DESCRIBED = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))
IMAGES = {"tabular": "retain/tabular:1", "gpu": "retain/gpu:1"}


class Api:
    """What `make deploy` asks of Prefect's server before it deploys."""

    def __init__(self, pool: str | None = "docker") -> None:
        self.pool = pool

    def request(self, method: str, path: str) -> Any:
        return SimpleNamespace(json=lambda: prefect.__version__)

    def read_work_pool(self, name: str) -> Any:
        if self.pool is None:
            raise ObjectNotFound(ValueError(name))
        return SimpleNamespace(type=self.pool)


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of store and data. The platform that is up has the same store."""
    monkeypatch.setenv("RETAIN_STORE", str(tmp_path / "store"))
    for name in ("RETAIN_DATA_DIR", "RETAIN_BIND", "RETAIN_PAGE_URL", *SECRETS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(deploy, "references", lambda root: IMAGES)
    monkeypatch.setattr(deploy, "engine", nullcontext)
    monkeypatch.setattr(deploy, "store_of", lambda engine: str(tmp_path / "store"))
    monkeypatch.setattr(platform, "SECRETS_FILE", tmp_path / "secrets.env")
    return tmp_path


def checked(api: Api | None = None, own: bool = True) -> deploy.Given:
    return deploy._checked(api or Api(), own, Pools(), "")[1]  # type: ignore[arg-type]


def test_everything_that_is_missing_is_said_at_once(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(root: Path) -> None:
        raise RetainError("the Docker engine has no retain/gpu:1. Run `make images`, then this again")

    monkeypatch.setattr(deploy, "references", none)
    monkeypatch.setattr(deploy, "store_of", lambda engine: None)
    monkeypatch.setenv("RETAIN_DATA_DIR", str(folders / "nowhere"))
    with pytest.raises(DataError) as refused:
        checked(Api(pool=None))
    first, *lines = str(refused.value).splitlines()
    assert first == "nothing was deployed:"
    assert [line.split(":")[0].strip() for line in lines] == [
        "there is no work pool docker",
        "the Docker engine has no retain/gpu",
        "no witness of containers is there",
        f"RETAIN_DATA_DIR={folders / 'nowhere'}",
    ]


def test_a_pool_of_another_kind_is_refused(folders: Path) -> None:
    with pytest.raises(DataError, match="pool docker is of type process, not docker"):
        checked(Api(pool="process"))


def test_the_store_is_that_of_the_platform(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked()
    (folders / "same").symlink_to(folders / "store")
    monkeypatch.setattr(deploy, "store_of", lambda engine: str(folders / "same"))
    checked()
    monkeypatch.setattr(deploy, "store_of", lambda engine: str(folders / "other"))
    with pytest.raises(
        DataError, match=r"the store is .*/store, but the platform was started with .*/other: `make up`"
    ):
        checked()
    checked(own=False)  # whose witness is elsewhere


def test_the_data_folder_is_absolute_and_holds_something(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path would be the name of a volume, and that volume empty."""
    (folders / "mine").mkdir()
    monkeypatch.chdir(folders)
    monkeypatch.setenv("RETAIN_DATA_DIR", "mine")
    with pytest.raises(DataError, match="RETAIN_DATA_DIR=mine: an empty folder"):
        checked()
    (folders / "mine" / "telco.csv").touch()
    store = Place(str(folders / "store"), folders / "store")
    assert checked() == deploy.Given(store, str(folders / "mine"), named=True)
    monkeypatch.delenv("RETAIN_DATA_DIR")
    assert checked() == deploy.Given(store, str(folders / "store" / "data"), named=False)


@pytest.fixture
def buckets(monkeypatch: pytest.MonkeyPatch, folders: Path) -> Iterator[Buckets]:
    with serving(Buckets("bucket")) as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        monkeypatch.setenv("RETAIN_CACHE", str(folders / "cache"))
        monkeypatch.setattr(mounts, "LOOPBACK", ())  # no container calls this server
        yield server.buckets


def test_data_in_a_bucket_has_to_be_there(folders: Path, buckets: Buckets, monkeypatch: pytest.MonkeyPatch) -> None:
    buckets.put(Session("bucket", "data/telco.csv", None, {}))
    monkeypatch.setenv("RETAIN_DATA_DIR", "gs://bucket/data/")
    given = checked()
    assert (given.data, given.named) == ("gs://bucket/data", True)
    for url, says in (
        ("gs://bucket/empty", "nothing lies there"),
        ("gs://other", "there is no bucket other"),
        ("s3://bucket/data", "is neither a folder nor gs://bucket/folder"),
    ):
        monkeypatch.setenv("RETAIN_DATA_DIR", url)
        with pytest.raises(DataError, match=rf"nothing was deployed:\n  RETAIN_DATA_DIR={url}: {says}"):
            checked()


def test_the_data_of_before_may_be_in_a_bucket() -> None:
    api = Registered()
    assert deploy._data_before(api) == "/earlier"  # type: ignore[arg-type]
    api.all[0].job_variables["env"] = {"RETAIN_DATA_DIR": "/data"}
    assert deploy._data_before(api) == "/earlier"  # type: ignore[arg-type]
    api.all[0].job_variables["env"] = {"RETAIN_DATA_DIR": "gs://bucket/data"}
    assert deploy._data_before(api) == "gs://bucket/data"  # type: ignore[arg-type]


ALL_POOLS = {platform.POOL, *RENTED}
IN_FOLDER = deploy.Given(Place("/my/store", Path("/my/store")), "/my/data", named=True)
ACCOUNT = Access({"RETAIN_CACHE_GB": "5"}, Path("/keys/ann.json"))
IN_BUCKET = deploy.Given(
    Place("gs://bucket/retain", Path("/cache/of/ann"), ACCOUNT),
    "/my/data",
    named=True,
    access=ACCOUNT,
)
KEY = {"Type": "bind", "Source": "/keys/ann.json", "Target": mounts.KEY, "ReadOnly": True}
DATA = {"Type": "bind", "Source": "/my/data", "Target": "/data", "ReadOnly": True}


def test_prefect_yaml_names_what_make_deploy_fills_in() -> None:
    filled = deploy.variables(IMAGES, IN_FOLDER)
    text = (ROOT / "prefect.yaml").read_text(encoding="utf-8")
    assert {part.split("}}")[0].strip() for part in text.split("{{ $")[1:]} == set(filled)
    assert (filled["RETAIN_IMAGE_TABULAR"], filled["RETAIN_IMAGE_GPU"]) == ("retain/tabular:1", "retain/gpu:1")
    assert filled["RETAIN_USER"] == f"{os.getuid()}:{os.getgid()}"
    assert "{{ $" not in str(deploy.described(filled, ALL_POOLS))


def given_to_containers(given: deploy.Given, a_run: bool) -> list[Any]:
    """Volumes, mounts and environment of each deployment of the pool `docker`, of runs or of stages."""
    deployments = deploy.described(deploy.variables(IMAGES, given), {platform.POOL})["deployments"]
    variables = [
        each["work_pool"]["job_variables"]
        for each in deployments
        if (not each["entrypoint"].startswith("flows.stage.")) == a_run and each["work_pool"]["name"] == "docker"
    ]
    return [[each[name] for name in ("volumes", "mounts", "env")] for each in variables]


def test_what_a_container_gets_of_folders() -> None:
    """Runs read data and can't change it; a mount, unlike a volume, of a folder that is gone is refused by Docker."""
    stage = [["/my/store:/store"], [], {"RETAIN_STORE": "/store"}]
    stages, runs = (given_to_containers(IN_FOLDER, a_run) for a_run in (False, True))
    assert len(stages) >= 2
    assert [each for each in stages if each != stage] == []
    run = [stage[0], [DATA], {"RETAIN_STORE": "/store", "RETAIN_DATA_DIR": "/data"}]
    assert len(runs) >= 4
    assert [each for each in runs if each != run] == []


def test_what_a_container_gets_of_a_bucket() -> None:
    """No folder of the store, but a volume for the cache, and the key of an account where it is in a file."""
    env = {"RETAIN_STORE": "gs://bucket/retain", "RETAIN_CACHE_GB": "5"}
    stage = [[f"retain-cache-{os.getuid()}:/cache"], [KEY], env]
    assert [each for each in given_to_containers(IN_BUCKET, False) if each != stage] == []
    run = [stage[0], [KEY, DATA], env | {"RETAIN_DATA_DIR": "/data"}]
    assert [each for each in given_to_containers(IN_BUCKET, True) if each != run] == []
    without = replace(IN_BUCKET, data=None, named=False)
    assert [each for each in given_to_containers(without, True) if each != stage] == []


@pytest.mark.parametrize("store", [IN_FOLDER, IN_BUCKET], ids=["folder", "bucket"])
def test_data_in_a_bucket_is_fetched_by_runs_into_the_cache(store: deploy.Given) -> None:
    given = replace(store, data="gs://bucket/data", access=ACCOUNT)
    for volumes, mounted, env in given_to_containers(given, True):
        assert volumes == [*dict.fromkeys([*store.store.volumes, f"retain-cache-{os.getuid()}:/cache"])]
        assert mounted == [KEY]
        assert env == {**store.store.environment, "RETAIN_CACHE_GB": "5", "RETAIN_DATA_DIR": "gs://bucket/data"}
    assert given_to_containers(given, False) == given_to_containers(store, False)


def test_a_rented_machine_has_no_file_of_this_one() -> None:
    described = deploy.described(deploy.variables(IMAGES, IN_BUCKET, project="project-1"), {*RENTED})["deployments"]
    assert described
    for each in described:
        variables = each["work_pool"]["job_variables"]
        assert "mounts" not in variables
        assert variables["env"]["RETAIN_STORE"] == "gs://bucket/retain"
        if each["work_pool"]["name"] != "gpu-vertex":  # whose jobs have no volumes
            assert variables["volumes"] == [f"retain-cache-{os.getuid()}:/cache"]


def test_a_store_in_a_bucket_is_that_of_the_platform(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = folders / "key.json"
    key.write_text("{}")
    monkeypatch.setenv("RETAIN_STORE", "gs://bucket/retain/")
    monkeypatch.setenv("RETAIN_CACHE", str(folders / "cache"))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key))
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setattr(deploy, "store_of", lambda engine: "gs://bucket/retain")
    given = checked()
    assert (given.store.url, given.data, given.named) == ("gs://bucket/retain", None, False)
    assert [each["Source"] for each in given.store.mounts] == [str(key)]
    assert checked(own=False).store.mounts == []
    for other in ("gs://bucket", str(folders / "store")):
        monkeypatch.setattr(deploy, "store_of", lambda engine, other=other: other)
        with pytest.raises(DataError, match=rf"the store is gs://bucket/retain, but .* started with {other}: `make"):
            checked()
    monkeypatch.setenv("RETAIN_STORE", "gs://Bucket")
    with pytest.raises(DataError, match=r"gs://Bucket: is no address of a bucket") as raised:
        checked()
    assert len(str(raised.value).splitlines()) == 2


def test_prefect_registers_what_is_described(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As its command reads the file; no server is there."""
    asked: list[tuple[list[str], dict[str, str], Any]] = []

    def run(command: list[str], *, env: dict[str, str], **_: Any) -> Any:
        asked.append((command, env, yaml.safe_load(Path(command[-1]).read_text(encoding="utf-8"))))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", run)
    variables = deploy.variables(IMAGES, IN_BUCKET)
    deploy.register(variables, {platform.POOL}, {"PREFECT_API_URL": "http://server/api"})
    ((command, env, written),) = asked
    assert command[1:-1] == ["-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file"]
    assert env["PREFECT_API_URL"] == "http://server/api"
    assert written == deploy.described(variables, {platform.POOL})
    assert (
        PrefectYamlModel.model_validate(written).model_dump(exclude_unset=True, mode="json")["deployments"]
        == (written["deployments"])
    )
    assert not Path(command[-1]).exists()


# -- the server


def answering(monkeypatch: pytest.MonkeyPatch, answer: Callable[[], httpx.Response]) -> list[httpx.Request]:
    """What is asked of Prefect's server, wherever that is; it gives the same answer each time."""
    asked: list[httpx.Request] = []

    def send(self: object, request: httpx.Request, **_: object) -> httpx.Response:
        asked.append(request)
        response = answer()
        response.request = request
        return response

    monkeypatch.setattr(httpx.Client, "send", send)
    return asked


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (httpx.Response(200, text="<html>"), "is no Prefect server: stop it"),
        (httpx.Response(200, json={"name": "x"}), "is no Prefect server: stop it"),
        (httpx.Response(200, json="3.6.0"), "is of version 3.6.0, and this is made for"),
        (httpx.Response(401, json={}), "wants a name and a password"),
        (httpx.Response(404, json={}), "refuses with 404 Not Found"),
        (httpx.Response(302, headers={"location": "/login"}), "refuses with 302 Found"),
        (httpx.ConnectError("refused"), r"no Prefect server answers at .* \(refused\)\. `make up` starts one"),
    ],
    ids=["html", "json", "version", "password", "missing", "elsewhere", "nobody"],
)
def test_what_answers_instead_of_our_server_is_one_line(
    folders: Path, answer: Any, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def given() -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]

    answering(monkeypatch, given)
    assert deploy.main([]) == 2
    said = capsys.readouterr().err
    assert re.search(words, said)
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    "address", ["https://api.prefect.cloud/api/accounts/1/workspaces/2", "http://127.0.0.1:4201/api"]
)
def test_another_server_has_to_be_stated(
    folders: Path, address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = answering(monkeypatch, lambda: httpx.Response(200, json="3.6.0"))
    (folders / "secrets.env").write_text(f"{SERVER_AUTH}=ann:secret\n")
    (folders / "secrets.env").chmod(0o600)
    with temporary_settings({PREFECT_API_URL: address}):
        assert deploy.main([]) == 2
        assert f"PREFECT_API_URL is {address}, and `make up` has its server at" in capsys.readouterr().err
        assert asked == []
        assert deploy.main(["--server", address]) == 2
        assert f"{address} is of version 3.6.0" in capsys.readouterr().err
    assert all(str(request.url).startswith(address) for request in asked)
    assert not any("authorization" in request.headers for request in asked)  # our password is nobody else's business


@pytest.mark.parametrize(("bind", "host"), [(None, "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("192.0.2.1", "192.0.2.1")])
@pytest.mark.parametrize("stated", ["", "http://127.0.0.1:4200/api", "http://localhost:4200/api"])
def test_our_own_server_is_asked_with_its_password(
    folders: Path, bind: str | None, host: str, stated: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if bind is not None:
        monkeypatch.setenv("RETAIN_BIND", bind)
    asked = answering(monkeypatch, lambda: httpx.Response(200, json="3.6.0"))
    (folders / "secrets.env").write_text(f"{SERVER_AUTH}=ann:secret\n")
    (folders / "secrets.env").chmod(0o600)
    with temporary_settings({PREFECT_API_URL: stated or None}):
        deploy.main([])
        with logged_in(None) as variables:
            assert variables == {"PREFECT_API_URL": f"http://{host}:4200/api", "PREFECT_API_AUTH_STRING": "ann:secret"}
    basic = b64encode(b"ann:secret").decode()
    assert {(request.url.host, request.headers["authorization"]) for request in asked} == {(host, f"Basic {basic}")}


# -- the whole command


class Registered(Api):
    """A server that already has deployments, with the data of an earlier time."""

    def __init__(self) -> None:
        super().__init__()
        run = {"image": "retain/tabular:1", "mounts": [{"Source": "/earlier", "Target": "/data"}]}
        self.all = [
            SimpleNamespace(id=1, flow_id=1, name="local", entrypoint="flows.train.train", job_variables=run),
            SimpleNamespace(id=2, flow_id=2, name="gpu", entrypoint="flows.stage.x", job_variables={"user": "1:1"}),
        ]
        self.updated: dict[int, Any] = {}

    def __enter__(self) -> Registered:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def read_deployments(self) -> list[Any]:
        return self.all

    def read_flow(self, flow_id: int) -> Any:
        return SimpleNamespace(name={1: "train", 2: "stage"}[flow_id])

    def read_deployment_by_name(self, name: str) -> Any:
        assert name == "stage/gpu"
        return self.all[1]

    def update_deployment(self, deployment: int, update: Any) -> None:
        self.updated[deployment] = update.model_dump(exclude_unset=True)


@pytest.mark.parametrize("accelerator", ["cpu", "cuda"])
def test_what_is_mounted_is_said_and_a_gpu_is_asked_for(
    accelerator: str, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api, registered, said = Registered(), [], list[str]()
    monkeypatch.setattr(deploy, "client", lambda: api)
    monkeypatch.setattr(deploy, "register", lambda variables, pools, login: registered.append(login))
    told: list[str | None] = []
    monkeypatch.setattr(automations, "register", told.append)
    monkeypatch.setattr(deploy, "accelerator_of", lambda root, name: accelerator)
    deploy.deploy(say=said.append)
    assert registered[0]["PREFECT_API_URL"] == platform.api_url()
    assert [line.split()[0] for line in said[:2]] == ["stage/gpu", "train/local"]
    assert said[2:] == [
        f"store: {folders / 'store'}",
        "data:  as downloaded; RETAIN_DATA_DIR is not set",
        "nobody is told when a retrain fails: RETAIN_PAGE_URL is not set",
        "warning: until now runs read their data from /earlier",
    ]
    monkeypatch.setenv("RETAIN_PAGE_URL", "https://pages.example/hook")
    deploy.deploy(say=said.append)
    assert not any("nobody is told" in line for line in said[6:])
    assert told == [None, "https://pages.example/hook"]
    gpu = {"user": "1:1", "device_requests": [{"Driver": "nvidia", "Count": 1, "Capabilities": [["gpu"]]}]}
    assert api.updated == ({2: {"job_variables": gpu}} if accelerator == "cuda" else {})


@pytest.fixture
def rented(folders: Path, monkeypatch: pytest.MonkeyPatch) -> Registered:
    """The server of a project with machines of Google Cloud, all of which is there. Its secret names who is told."""
    api, pushed = Registered(), {name: f"registry.example/retain/{name}@sha256:0" for name in IMAGES}
    (folders / "key.json").write_text("{}")
    for name, value in {
        "RETAIN_STORE": "gs://bucket/retain",
        "RETAIN_CACHE": str(folders / "cache"),
        "GOOGLE_APPLICATION_CREDENTIALS": str(folders / "key.json"),
        "GOOGLE_CLOUD_PROJECT": "project-1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setattr(deploy, "store_of", lambda engine: "gs://bucket/retain")
    monkeypatch.setattr(deploy, "client", lambda: api)
    monkeypatch.setattr(deploy, "references", lambda root: pushed)
    monkeypatch.setattr(deploy, "accelerator_of", lambda root, name: "cuda")
    monkeypatch.setattr(deploy, "register", lambda variables, pools, login: None)
    monkeypatch.setattr(automations, "register", lambda notified: None)
    monkeypatch.setattr(google_cloud, "register_pools", lambda api, names: None)
    monkeypatch.setattr(google_cloud, "register_blocks", lambda project: None)
    monkeypatch.setattr(google_cloud, "secret_page_url", lambda: "https://pages.example/of-the-project")
    return api


@pytest.mark.parametrize("stated", [None, "https://pages.example/hook"])
def test_rented_pools_are_registered_whoever_is_told(
    stated: str | None, rented: Registered, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RETAIN_PAGE_URL goes before the project's secret."""
    made, told = list[Any](), list[str | None]()
    monkeypatch.setattr(google_cloud, "register_pools", lambda api, names: made.append(names))
    monkeypatch.setattr(google_cloud, "register_blocks", made.append)
    monkeypatch.setattr(automations, "register", told.append)
    monkeypatch.setenv("RETAIN_CPU_POOL", "cpu-spot")
    if stated is not None:
        monkeypatch.setenv("RETAIN_PAGE_URL", stated)
    deploy.deploy(say=lambda line: None)
    assert made == [{"cpu-spot"}, "project-1"]
    assert told == [stated or "https://pages.example/of-the-project"]


@pytest.mark.parametrize(("variable", "pool", "asked"), [("CPU", "cpu-spot", True), ("GPU", "gpu-spot", False)])
def test_where_gpus_are_rented_this_machine_needs_none(
    variable: str, pool: str, asked: bool, rented: Registered, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The image has to be the one for CUDA then, while `stage/gpu` of this machine has the stages without a GPU."""
    monkeypatch.setenv(f"RETAIN_{variable}_POOL", pool)
    deploy.deploy(say=lambda line: None)
    assert bool(rented.updated) is asked


# -- prefect.yaml


@pytest.mark.parametrize("deployment", DESCRIBED["deployments"], ids=lambda each: each["name"])
def test_each_deployment_is_of_a_flow_that_takes_its_parameters(deployment: dict[str, Any]) -> None:
    path, _, name = deployment["entrypoint"].rpartition(".")
    assert ":" not in deployment["entrypoint"]  # of a file Prefect puts the folder before all that is imported after it
    flow = getattr(importlib.import_module(path), name)
    given = deployment.get("parameters", {})
    assert given.keys() <= inspect.signature(flow.fn).parameters.keys()
    if "experiment" in given:
        load_experiment(given["experiment"])
        flow_name, name = deployment["entrypoint"].rpartition(".")[2], given["experiment"].replace("_", "-")
        assert deployment["name"] == {"train": name, "retrain": "weekly"}[flow_name]


def test_every_image_of_a_stage_has_a_deployment() -> None:
    attempts = {each["name"] for each in DESCRIBED["deployments"] if each["entrypoint"].startswith("flows.stage.")}
    images = {stage.image for stage in STAGES.values()}
    with_gpu = {stage.image for stage in STAGES.values() if stage.resources.gpu}
    rented = {f"{image}-on-{pool.name}" for pool in RENTED.values() for image in (with_gpu if pool.gpu else images)}
    assert attempts == images | rented


def test_the_retrain_is_due_every_week_by_a_stated_clock() -> None:
    due = {each["name"]: each["schedules"] for each in DESCRIBED["deployments"] if "schedules" in each}
    assert due == {"weekly": [{"cron": "0 3 * * 1", "timezone": "Etc/UTC"}]}
    schedule = CronSchedule(**due["weekly"][0])
    assert (schedule.cron, schedule.timezone) == ("0 3 * * 1", "Etc/UTC")


FORM = train.parameters.model_dump()["properties"]


def test_the_form_of_a_run_explains_each_parameter() -> None:
    assert FORM.keys() == {"experiment", "stages", "force", "budget_usd", "cpu_pool", "gpu_pool"}
    for name, each in FORM.items():
        assert each["description"], name
        assert "default" in each, name
    assert not train.parameters.required


def test_the_form_of_a_run_offers_what_there_is() -> None:
    named, path = FORM["experiment"]["anyOf"]
    assert named["enum"] == known_experiments()
    assert {"local", "exp_001_mvp", "chaos"} <= set(named["enum"])
    assert path == {"title": "path", "type": "string"}
    assert FORM["experiment"]["default"] in named["enum"]
    assert FORM["stages"]["type"] == "array"
    assert FORM["stages"]["items"]["enum"] == list(STAGES)
    assert FORM["stages"]["default"] == []
    budget, none = FORM["budget_usd"]["anyOf"]
    assert budget["exclusiveMinimum"] == 0
    assert none == {"type": "null"}


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ({"experiment": "chaos"}, True),
        ({"experiment": "/data/experiment_mine.yaml", "stages": ["risk", "accept"], "budget_usd": 5}, True),
        ({"stages": [], "budget_usd": None}, True),
        ({"stages": ["none_such"]}, False),
        ({"budget_usd": 0}, False),
        ({"budget_usd": -1}, False),
    ],
)
def test_a_run_of_a_deployment_takes_what_its_form_allows(given: dict[str, Any], taken: bool) -> None:
    """Prefect's server validates by the schema before it accepts a run."""
    errors = validate(given, {"type": "object", "properties": FORM}, raise_on_error=False)
    assert (not errors) is taken


@pytest.mark.parametrize("budget_usd", [0, -1])
def test_a_budget_below_nothing_is_refused_by_the_flow_as_well(budget_usd: float) -> None:
    with pytest.raises(ParameterTypeError, match="budget_usd: Input should be greater than 0"):
        train.validate_parameters({"budget_usd": budget_usd})
