"""The models refuse what can't be meant, and say where it stands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from engine import config
from engine.criteria import Criterion
from engine.errors import ConfigError
from retain.dataset import DatasetSpec
from tasks.config import Experiment, ReleaseConfig, Split

CONFIGS = Path(__file__).resolve().parents[2] / "ops" / "configs"


def changed(tmp_path: Path, change: dict[str, Any]) -> config.Resolved:
    """exp_001_mvp with `change` over it, as an experiment of its own."""
    configs = tmp_path / "configs"
    configs.mkdir()
    (configs / "experiment_exp_001_mvp.yaml").symlink_to(CONFIGS / "experiment_exp_001_mvp.yaml")
    (tmp_path / "datasets").symlink_to(CONFIGS.parent / "datasets")
    path = configs / "experiment_tried.yaml"
    path.write_text(yaml.safe_dump({"extends": "exp_001_mvp", "tag": "tried", **change}))
    return config.load(path)


def nested(key: str, value: object) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    assert isinstance(value, dict)
    return value


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", -1),
        ("seed", "42"),
        ("seed", 42.5),
        ("synthetic_data", "maybe"),
        ("stages.customers.max_rows", 0),
        ("stages.customers.max_rows", True),
        ("stages.customers.split.test", 0.4),
        ("stages.risk.booster.max_depth", 0),
        ("stages.risk.booster.max_depth", 40),
        ("stages.risk.booster.learning_rate", 0.0),
        ("stages.risk.booster.subsample", 1.5),
        ("stages.risk.booster.max_dpeth", 3),
        ("stages.risk.stop_fraction", 0.5),
        ("stages.risk.folds", 1),
        ("stages.risk.folds", None),
        ("stages.accept.bridge_columns", []),
        ("stages.backtest.first", 1.0),
        ("stages.sft.bits", 7),
        ("stages.ppo_text.kl_target", 0.0),
        ("stages.release.decision.threshold", 1.0),
        ("stages.release.decision.offer", 15),
        ("stages.release.decision.offers", [0, 10, 10]),
        ("stages.nothing", {}),
        ("criteria.risk.auc", {"at_least": 0.78, "below": 0.9}),
        ("criteria.risk.auc", {"at_leats": 0.78}),
        ("criteria.rsik", {"auc": {"at_least": 0.78}}),
        ("costs.budget_usd", 0),
        ("costs.scope", "../elsewhere"),
        ("costs.machines.local.usd_per_hour", -0.1),
        ("costs.components", [{"name": "All", "estimate_usd": 1, "stages": ["risk", "risk"]}]),
        ("execution.heartbeat_s", 0),
        ("execution.time_limit_s.risk", 0),
        ("execution.time_limit_s.judge", {}),
        ("monitoring.error_rate.limit", 1.0),
        ("canary.percent", 101),
        ("canary.percent", float("nan")),
    ],
)
def test_a_value_that_cannot_be_meant_is_named_with_its_file(tmp_path: Path, key: str, value: object) -> None:
    resolved = changed(tmp_path, nested(key, value))
    with pytest.raises(ConfigError) as raised:
        config.validate(resolved, Experiment)
    message = str(raised.value)
    # The split's and the components' own rules name the block, which is where the sum is wrong.
    assert key in message or key.rpartition(".")[0] in message
    assert "experiment_" in message


def test_a_time_limit_without_money_is_refused(tmp_path: Path) -> None:
    one = [{"name": "Risk", "estimate_usd": 5, "stages": ["risk"]}]
    with pytest.raises(ConfigError, match="no component of costs names it"):
        config.validate(changed(tmp_path, {"costs": {"components": one}}), Experiment)


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    resolved = changed(tmp_path, {})
    del resolved.data["stages"]["risk"]["folds"]
    with pytest.raises(ConfigError, match=r"stages\.risk\.folds"):
        config.validate(resolved, Experiment)


def test_every_wrong_key_is_reported_at_once(tmp_path: Path) -> None:
    resolved = changed(tmp_path, {"seed": -1, "canary": {"percent": 80}})
    with pytest.raises(ConfigError) as raised:
        config.validate(resolved, Experiment)
    assert "seed" in str(raised.value)
    assert "canary.percent" in str(raised.value)


def models(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield model
    for field in model.model_fields.values():
        for part in _parts(field.annotation):
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from models(part)


def _parts(annotation: Any) -> Iterator[Any]:
    yield annotation
    for part in getattr(annotation, "__args__", ()):
        yield from _parts(part)


ALL: set[type[BaseModel]] = {*models(Experiment), ReleaseConfig}
OURS = sorted((model for model in ALL if model.__module__ == Experiment.__module__), key=str)


@pytest.mark.parametrize("model", OURS, ids=lambda model: model.__name__)
def test_models_are_frozen_strict_and_without_defaults(model: type[BaseModel]) -> None:
    assert model.model_config.get("frozen")
    assert model.model_config.get("strict")
    assert model.model_config.get("extra") == "forbid"
    assert model.model_config.get("allow_inf_nan") is False
    assert [name for name, field in model.model_fields.items() if not field.is_required()] == []


def _bounded(field: FieldInfo) -> bool:
    rules = {type(rule).__name__ for rule in field.metadata}
    nested_rules = {
        type(rule).__name__
        for part in _parts(field.annotation)
        for item in getattr(part, "__metadata__", ())
        for rule in getattr(item, "metadata", ())
    }
    return bool((rules | nested_rules) & {"Ge", "Gt", "Le", "Lt"})


@pytest.mark.parametrize("model", OURS, ids=lambda model: model.__name__)
def test_every_number_has_bounds(model: type[BaseModel]) -> None:
    numbers = {
        name
        for name, field in model.model_fields.items()
        if any(part in (int, float) for part in _parts(field.annotation))
    }
    unbounded = {name for name in numbers if not _bounded(model.model_fields[name])}
    assert unbounded == set()


def test_the_walk_found_the_nested_models() -> None:
    names = {model.__name__ for model in models(Experiment)}
    assert {"StoppedBooster", "Machine", "RateAlert", "Split", "Component"} <= names
    assert {DatasetSpec, Criterion} <= set(models(Experiment))


def test_a_split_is_whole() -> None:
    Split(train=0.6, validation=0.1, test=0.3)
    with pytest.raises(ValidationError, match=r"add up to 0\.9"):
        Split(train=0.5, validation=0.1, test=0.3)


def test_a_tag_that_is_a_folder_of_the_store_is_refused() -> None:
    content = config.load(config.experiment_path("local")).data | {"tag": "ledger"}
    with pytest.raises(ValidationError, match="tag 'ledger' is a folder of the store"):
        Experiment.model_validate_json(json.dumps(content))
