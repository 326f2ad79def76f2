"""The models refuse what can't be meant, and say where it stands."""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from engine import config
from engine.criteria import Criterion
from engine.errors import ConfigError
from engine.stage import load_entry
from retain.dataset import DatasetSpec
from retain.offers import Offers
from tasks.config import Experiment, Split
from tasks.stages import STAGES

CONFIGS = Path(__file__).resolve().parents[2] / "ops" / "configs"


def changed(tmp_path: Path, change: dict[str, Any]) -> config.Resolved:
    """exp_001_mvp with `change` over it, as an experiment of its own."""
    configs = tmp_path / "configs"
    configs.mkdir()
    (configs / "experiment_exp_001_mvp.yaml").symlink_to(CONFIGS / "experiment_exp_001_mvp.yaml")
    for name in ("datasets", "messages"):
        (tmp_path / name).symlink_to(CONFIGS.parent / name)
    path = configs / "experiment_tried.yaml"
    path.write_text(yaml.safe_dump({"extends": "exp_001_mvp", "tag": "tried", **change}))
    return config.load(path)


@pytest.fixture(scope="module")
def mvp() -> config.Resolved:
    return config.load(config.experiment_path("exp_001_mvp"))


def put(resolved: config.Resolved, key: tuple[str | int, ...], value: object) -> config.Resolved:
    """`resolved` with another value at `key`."""
    data = copy.deepcopy(resolved.data)
    block: Any = data
    for part in key[:-1]:
        block = block.setdefault(part, {}) if isinstance(block, dict) else block[part]
    block[key[-1]] = value
    return replace(resolved, data=data)


def nested(key: str, value: object) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    assert isinstance(value, dict)
    return value


# A rule about several keys names the block that holds them.
NAMED_BY_BLOCK = {"stages.customers.split.test": "stages.customers.split", "costs.components": "costs"}


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
        ("stages.preferences.min_vote_ratio", 0.5),
        ("stages.prompts.invited", 1.0),
        ("stages.prompts.gives_in", 1.5),
        ("stages.sft.bits", 7),
        ("stages.sft.bootstrap", 99),
        ("stages.rm.center_rewards", -0.1),
        ("stages.ppo_text.kl.max_change", 0.0),
        ("stages.ppo_text.max_gradient", 0.0),
        ("stages.messages.ranked_on", 0),
        ("stages.ppo_text.kl_target", 0.0),
        ("stages.release.decision.threshold", 0.5),
        ("stages.release.decision.offers", [0, 10]),
        ("stages.release.decision.reasons", 0),
        ("stages.release.overrides", {}),
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
        ("monitoring.latency_p95.limit_ms", 300),
        ("canary.percent", 101),
        ("canary.percent", float("nan")),
    ],
)
def test_a_value_that_cannot_be_meant_is_named_with_its_file(tmp_path: Path, key: str, value: object) -> None:
    resolved = changed(tmp_path, nested(key, value))
    with pytest.raises(ConfigError) as raised:
        config.validate(resolved, Experiment)
    message = str(raised.value)
    assert f"'{NAMED_BY_BLOCK.get(key, key)}" in message
    assert "experiment_" in message


# Each with a bound of its own, or a type that it isn't.
OUT_OF_BOUNDS: list[tuple[str, object]] = [
    ("months", 0),
    ("months", 13),
    ("offers.levels", []),
    ("offers.levels.0", -5),
    ("offers.levels.3", 51),
    ("offers.levels.1", 5.5),
    ("offers.months", 0),
    ("offers.months", 13),
    ("offers.contact_cost", -1.0),
    ("offers.currency", "usd"),
    ("cap.max_contacts", 0),
    ("cap.window", 0),
    ("cap.window", 13),
    ("cap.max_contacts", 121),
    ("cap.windows", 3),
    ("budget", -0.01),
    ("budget", 1.01),
    ("budget", float("nan")),
    ("wallet", "best_case"),
    ("seeds", 0),
    ("baselines", ["threshold", "uplift_tree", "thompson_sampling"]),
    ("baselines", ["threshold"]),
    ("threshold_offer", -10),
    ("search.evaluations", 1),
    ("search.years", 0),
    ("search.log_years", 0),
    ("ppo.iterations", 0),
    ("ppo.epochs", 0),
    ("ppo.minibatches", 0),
    ("ppo.hidden", []),
    ("ppo.hidden.1", 0),
    ("ppo.learning_rate", 0.0),
    ("ppo.gae_lambda", 1.1),
    ("ppo.clip", 1.0),
    ("ppo.entropy", -0.1),
    ("ppo.value_weight", 0.0),
    ("ppo.contacts", 0.0),
    ("ppo.multipliers", [0.5]),
    ("ppo.multipliers.1", -0.1),
    ("ppo.pid", [0.3, 0.3]),
    ("ppo.price_spread", 2.1),
    ("ppo.validate_every", 0),
    ("ppo.cilp", 0.2),
    ("evaluation.part", "train"),
    ("evaluation.years", 0),
    ("evaluation.bootstrap", 99),
    ("evaluation.cost", 0.0),
    ("evaluation.cost", 1.1),
    ("evaluation.budgets", []),
    ("evaluation.budgets.0", 0.0),
    ("evaluation.budgets.3", 1.0),
    ("evaluation.at_risk_from", 1.0),
    ("evaluation.off_policy.exploration", 1.1),
    ("evaluation.off_policy.min_effective", 0.0),
    ("evaluation.off_policy.max_unsupported", 0.0),
    ("evaluation.off_policy.max_heaviest", 1.0),
    ("evaluation.off_policy.max_weight_errors", 0.0),
    ("evaluation.worlds.tired.fatige", 2.0),
    ("evaluation.worlds.fatigue_doubled.fatigue", 0.0),
    ("evaluation.worlds.Annual label", {"label_months": 12}),
    ("assumptions.label_months", 0),
    ("assumptions.label_months", 13),
    ("assumptions.answered", 0),
    ("assumptions.answered", 31),
    ("assumptions.effect", []),
    ("assumptions.effect.2", -0.1),
    ("assumptions.effect_sd", 1.1),
    ("assumptions.hazard_sd", -0.1),
    ("assumptions.acceptance.mean", 0.0),
    ("assumptions.acceptance.mean", 1.0),
    ("assumptions.acceptance.at", 51),
    ("assumptions.acceptance.shrink", 1.1),
    ("assumptions.acceptance.slope", -0.1),
    ("assumptions.acceptance.unit", 0.0),
    ("assumptions.acceptance.slope_sd", -0.1),
    ("assumptions.acceptance.fatigue", -0.1),
    ("assumptions.sleeping_dogs.share", 1.0),
    ("assumptions.sleeping_dogs.loyalty", -0.1),
    ("assumptions.sleeping_dogs.rate", -0.1),
    ("assumptions.sleeping_dogs.months", 0),
    ("assumptions.fatigue.decay", 1.0),
    ("assumptions.fatigue.rate", -0.1),
]


def test_columns_of_the_bridge_are_those_of_the_campaigns(mvp: config.Resolved) -> None:
    with pytest.raises(ConfigError) as raised:
        config.validate(put(mvp, ("stages", "accept", "bridge_columns", 1), "duration"), Experiment)
    where, _, what = str(raised.value).partition(": key ")
    assert "experiment_exp_001_mvp.yaml:" in where
    assert what.startswith("'stages.accept.bridge_columns.1' is 'duration': no feature of the table 'bank' of stages.")
    assert "among age, job, marital, education" in what


@pytest.mark.parametrize(("key", "value"), OUT_OF_BOUNDS)
def test_a_value_of_the_decision_beyond_its_bounds_is_named_with_file_and_line(
    mvp: config.Resolved, key: str, value: object
) -> None:
    path = ("stages", "decision", *(int(part) if part.isdigit() else part for part in key.split(".")))
    with pytest.raises(ConfigError) as raised:
        config.validate(put(mvp, path, value), Experiment)
    lines = str(raised.value).splitlines()
    where, _, what = lines[0].partition(": key ")
    assert where.rpartition(":")[0].endswith("experiment_exp_001_mvp.yaml")
    assert where.rpartition(":")[2].isdigit()
    assert what.startswith(f"'stages.decision.{key}")
    assert len(lines[0]) < 300


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("offers.levels", [0, 10, 10, 20], "levels [0, 10, 10, 20]: wants rising percentages, each once"),
        ("offers.levels", [20, 10, 5, 0], "levels [20, 10, 5, 0]: wants rising percentages, each once"),
        ("budget", 0.0, "a budget of 0 contacts nobody, so there is nothing to learn: wants a share of revenue"),
        ("threshold_offer", 15, "threshold_offer 15 is not one of levels [0, 5, 10, 20]"),
        ("assumptions.effect", [0.25, 0.55], "assumptions.effect has 2 numbers for 4 levels"),
        ("assumptions.effect", [0.25, 0.85, 0.55, 1.25], "effect [0.25, 0.85, 0.55, 1.25]: falls as the level"),
        ("offers.levels", [0, 10, 20], "assumptions.effect has 4 numbers for 3 levels"),
        ("evaluation.budgets", [0.03, 0.02], "budgets [0.03, 0.02]: wants rising shares of revenue, each once"),
        ("evaluation.budgets", [0.03, 0.03], "budgets [0.03, 0.03]: wants rising shares of revenue, each once"),
        ("evaluation.worlds.as_assumed", {"fatigue": 2.0}, "the unchanged world is always shown"),
        ("evaluation.worlds.tired", {}, "worlds.tired changes nothing"),
        ("evaluation.worlds.label_annual.label_months", 7.5, "label_months 7.5: wants whole months, 1 to 12"),
        ("evaluation.worlds.label_annual.label_months", 24, "label_months 24: wants whole months, 1 to 12"),
        ("evaluation.worlds.risk_shuffled.risk_shuffled", 3, "risk_shuffled 3: is 1, or is left out"),
    ],
)
def test_values_of_the_decision_that_do_not_go_together_are_said_in_a_line(
    mvp: config.Resolved, key: str, value: object, words: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        config.validate(put(mvp, ("stages", "decision", *key.split(".")), value), Experiment)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)
    assert str(raised.value).partition(": key ")[0].rpartition(":")[2].isdigit()


@pytest.mark.parametrize(("levels", "effect"), [((0, 5, 20), (0.2, 0.5, 1.2)), ((10,), (0.8,))])
def test_other_offers_are_taken_once_everything_follows_them(
    mvp: config.Resolved, levels: tuple[int, ...], effect: tuple[float, ...]
) -> None:
    content = put(mvp, ("stages", "decision", "offers", "levels"), list(levels))
    for key, value in {
        ("stages", "decision", "assumptions", "effect"): list(effect),
        ("stages", "decision", "threshold_offer"): levels[-1],
        ("stages", "prompts", "offers"): list(levels),
    }.items():
        content = put(content, key, value)
    assert config.validate(content, Experiment).stages.decision.offers.levels == levels


@pytest.mark.parametrize(
    ("criterion", "kind"),
    [("decision.lift_gain", "worth"), ("decision.lift_gain", None), ("text_eval.tokens", None), ("risk.auc", "worth")],
)
def test_a_criterion_of_a_part_says_whether_it_is_of_value_or_of_safety(
    mvp: config.Resolved, criterion: str, kind: str | None
) -> None:
    path = ("criteria", *criterion.split("."), "kind")
    with pytest.raises(ConfigError, match=rf"criteria\.{re.escape(criterion)}\.kind is .*: wants value or safety"):
        config.validate(put(mvp, path, kind), Experiment)


def test_a_criterion_that_decides_about_no_part_has_no_kind(mvp: config.Resolved) -> None:
    criteria = config.validate(mvp, Experiment).criteria
    assert {stage for stage in criteria if any(limit.kind is None for limit in criteria[stage].values())} == {
        "customers", "campaigns", "dialogues", "preferences", "risk", "accept", "backtest"
    }  # fmt: skip


def test_a_time_limit_without_money_is_refused(tmp_path: Path) -> None:
    one = [{"name": "Risk", "estimate_usd": 5, "stages": ["risk"]}]
    with pytest.raises(ConfigError, match="no component of costs names it"):
        config.validate(changed(tmp_path, {"costs": {"components": one}}), Experiment)


@pytest.mark.parametrize("prompts", [{"offers": [0, 10, 20]}, {"months": 3}])
def test_messages_for_other_offers_than_are_made_are_refused(tmp_path: Path, prompts: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"stages\.prompts writes for offers .* they are to be the same"):
        config.validate(changed(tmp_path, {"stages": {"prompts": prompts}}), Experiment)


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


def models(model: Any) -> Iterator[Any]:
    """A model, or a dataclass of pydantic's, and those of its fields."""
    yield model
    for field in model.__pydantic_fields__.values():
        for part in _parts(field.annotation):
            if isinstance(part, type) and hasattr(part, "__pydantic_fields__"):
                yield from models(part)


def _parts(annotation: Any) -> Iterator[Any]:
    yield annotation
    for part in getattr(annotation, "__args__", ()):
        yield from _parts(part)


ALL = {*models(Experiment), *(load_entry(stage.config) for stage in STAGES.values())}
OURS = sorted((model for model in ALL if model.__module__ in (Experiment.__module__, Offers.__module__)), key=str)


@pytest.mark.parametrize("model", OURS, ids=lambda model: model.__name__)
def test_models_are_frozen_strict_and_without_defaults(model: Any) -> None:
    rules = model.model_config if issubclass(model, BaseModel) else model.__pydantic_config__
    assert rules.get("frozen") or model.__dataclass_params__.frozen
    assert rules.get("strict")
    assert rules.get("extra") == "forbid"
    assert rules.get("allow_inf_nan") is False
    assert [name for name, field in model.__pydantic_fields__.items() if not field.is_required()] == []


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
def test_every_number_has_bounds(model: Any) -> None:
    fields = model.__pydantic_fields__
    numbers = {name for name, field in fields.items() if any(part in (int, float) for part in _parts(field.annotation))}
    unbounded = {name for name in numbers if not _bounded(fields[name])}
    assert unbounded == set()


def test_the_walk_found_the_nested_models() -> None:
    names = {model.__name__ for model in models(Experiment)}
    assert {
        "StoppedBooster",
        "Machine",
        "RateLimit",
        "Split",
        "Component",
        "Assumptions",
        "Offers",
        "Cap",
    } <= names
    assert {DatasetSpec, Criterion} <= set(models(Experiment))


def test_a_split_is_whole() -> None:
    Split(train=0.6, validation=0.1, test=0.3)
    with pytest.raises(ValidationError, match=r"add up to 0\.9"):
        Split(train=0.5, validation=0.1, test=0.3)


def test_a_tag_that_is_a_folder_of_the_store_is_refused() -> None:
    content = config.load(config.experiment_path("local")).data | {"tag": "ledger"}
    with pytest.raises(ValidationError, match="tag 'ledger' is a folder of the store"):
        Experiment.model_validate_json(json.dumps(content))


# -- words ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "before", "after", "says"),
    [
        (
            "guard",
            "words: {}",
            "words: {promise: ['(free']}",
            "'words.guard.words.promise.0' is '(free': is no regular",
        ),
        ("guard", "harmless: []", "harmless: ['as ever', 'a)']", "'words.guard.harmless.1' is 'a)': is no regular"),
        ("guard", "harmless: []", "harmles: []", "'words.guard.harmles' is unknown here"),
        (
            "rules",
            "  insult:\n    - 'stupid\\w*'",
            "  insults:\n    - 'stupid\\w*'",
            "'words.rules.words.insults' is ['stupid",
        ),
        ("rules", "- 'gifts?'", "- 'a <gft>'", "'words.rules.words.promise.1' is 'a <gft>': names the piece <gft>, wh"),
        ("rules", "- 'gifts?'", "- '(sure'", "'words.rules.words.promise.1' is '(sure': is no regular"),
        ("rules", "- 'gifts?'", "- Gifts", "'words.rules.words.promise.1' is 'Gifts': holds 'G' and would never"),
        (
            "rules",
            "    - 'ipads?'",
            "    - 'iPads?'",
            "'words.rules.pieces.gift.6' is 'iPads?': holds 'P' and would never",
        ),
        ("guard", "  link: holds a link\n", "", "'words.guard.sentences' is {'characters': 'holds a"),
        ("guard", "    a about", "    A about", "'words.guard.names.ordinary' is 'A about"),
        ("rules", "- 'gifts?'", "- 7", "'words.rules.words.promise.1' is 7: input should be a valid string"),
        (
            "templates",
            "  no_offer: >-\n    Your bill",
            "  without: >-\n    Your bill",
            "'words.templates.price.without' is unk",
        ),
    ],
)
def test_a_broken_word_is_named_with_its_file_and_entry(
    tmp_path: Path, file: str, before: str, after: str, says: str
) -> None:
    for folder in ("configs", "datasets", "messages"):
        shutil.copytree(CONFIGS.parent / folder, tmp_path / folder)
    path = tmp_path / "messages" / f"{file}.yaml"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))
    with pytest.raises(ConfigError) as raised:
        config.validate(config.load(tmp_path / "configs" / "experiment_exp_001_mvp.yaml"), Experiment)
    line = next(line for line in str(raised.value).splitlines() if says in line)
    assert line.startswith(f"{path}:")


def test_a_guard_that_the_rules_do_not_fit_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"'words.guard.words.promse' is \['gift'\]: is no kind of the rules \(characters, "
    ):
        config.validate(changed(tmp_path, {"words": {"guard": {"words": {"promse": ["gift"]}}}}), Experiment)
