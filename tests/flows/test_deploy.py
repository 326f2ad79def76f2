"""What `make deploy` refuses, and that prefect.yaml describes runs that exist."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import prefect
import pytest
import yaml
from prefect.exceptions import ObjectNotFound, ParameterTypeError
from prefect.utilities.schema_tools.validation import validate

from engine.config import known_experiments
from engine.environment import taken
from engine.errors import DataError, RetainError
from engine.fingerprint import ROOT
from flows import deploy
from flows.plan import load_experiment
from flows.train import train
from tasks.stages import STAGES

DESCRIBED = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))
IMAGES = {"tabular": "retain/tabular:1", "gpu": "retain/gpu:1"}


class Api:
    """What `make deploy` asks of Prefect's server before it deploys."""

    def __init__(self, version: str = prefect.__version__, pool: str | None = "docker", answers: bool = True) -> None:
        self.version, self.pool, self.answers = version, pool, answers

    def request(self, method: str, path: str) -> Any:
        if not self.answers:
            raise httpx.ConnectError("Connection refused")
        return SimpleNamespace(json=lambda: self.version)

    def read_work_pool(self, name: str) -> Any:
        if self.pool is None:
            raise ObjectNotFound(ValueError(name))
        return SimpleNamespace(type=self.pool)


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RETAIN_STORE", str(tmp_path / "store"))
    monkeypatch.delenv("RETAIN_DATA_DIR", raising=False)
    monkeypatch.setattr(deploy, "references", lambda root: IMAGES)
    return tmp_path


def test_everything_that_is_missing_is_said_at_once(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(root: Path) -> None:
        raise RetainError("the Docker engine has no retain/gpu:1. Run `make images`, then this again")

    monkeypatch.setattr(deploy, "references", none)
    monkeypatch.setenv("RETAIN_DATA_DIR", str(folders / "nowhere"))
    with pytest.raises(DataError) as refused:
        deploy._named(Api(pool=None))  # type: ignore[arg-type]
    first, *lines = str(refused.value).splitlines()
    assert first == "nothing was deployed:"
    assert [line.split(":")[0].strip() for line in lines] == [
        "there is no work pool docker",
        "the Docker engine has no retain/gpu",
        f"RETAIN_DATA_DIR={folders / 'nowhere'}",
    ]


def test_a_pool_of_another_kind_is_refused(folders: Path) -> None:
    with pytest.raises(DataError, match="pool docker is of type process, not docker"):
        deploy._named(Api(pool="process"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("api", "words"),
    [(Api(version="3.6.0"), "is of version 3.6.0, and this is made for"), (Api(answers=False), "no Prefect server")],
)
def test_another_server_or_none_is_said(api: Api, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deploy, "PREFECT_API_URL", SimpleNamespace(value=lambda: "http://127.0.0.1:4200/api"))
    with pytest.raises(RetainError, match=words):
        deploy._check_server(api)  # type: ignore[arg-type]


def test_prefect_yaml_names_what_make_deploy_fills_in(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETAIN_DATA_DIR", str(folders))
    filled = deploy._named(Api())  # type: ignore[arg-type]
    text = (ROOT / "prefect.yaml").read_text(encoding="utf-8")
    assert {part.split("}}")[0].strip() for part in text.split("{{ $")[1:]} == set(filled)
    assert filled["RETAIN_HOST_DATA"] == str(folders)
    assert taken(filled, ("RETAIN_IMAGE_*",)).keys() == {"RETAIN_IMAGE_TABULAR", "RETAIN_IMAGE_GPU"}


@pytest.mark.parametrize("deployment", DESCRIBED["deployments"], ids=lambda each: each["name"])
def test_each_deployment_is_of_a_flow_that_takes_its_parameters(deployment: dict[str, Any]) -> None:
    path, _, name = deployment["entrypoint"].partition(":")
    flow = getattr(importlib.import_module(path.removesuffix(".py").replace("/", ".")), name)
    given = deployment.get("parameters", {})
    assert given.keys() <= inspect.signature(flow.fn).parameters.keys()
    if "experiment" in given:
        load_experiment(given["experiment"])
        assert deployment["name"] == given["experiment"].replace("_", "-")


def test_every_image_of_a_stage_has_a_deployment() -> None:
    attempts = {each["name"] for each in DESCRIBED["deployments"] if each["entrypoint"].startswith("flows/stage.py")}
    assert attempts == {stage.image for stage in STAGES.values()}


FORM = train.parameters.model_dump()["properties"]


def test_the_form_of_a_run_explains_each_parameter() -> None:
    assert FORM.keys() == {"experiment", "stages", "force", "budget_usd"}
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
    stages, none = FORM["stages"]["anyOf"]
    assert stages["items"]["enum"] == list(STAGES)
    assert none == {"type": "null"}
    budget, none = FORM["budget_usd"]["anyOf"]
    assert budget["exclusiveMinimum"] == 0
    assert none == {"type": "null"}


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ({"experiment": "chaos"}, True),
        ({"experiment": "/data/experiment_mine.yaml", "stages": ["risk", "accept"], "budget_usd": 5}, True),
        ({"stages": None, "budget_usd": None}, True),
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
