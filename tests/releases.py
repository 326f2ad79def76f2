"""A small release made of real parts, for tests: boosters trained on rows drawn from a table's description."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xgboost
import yaml

from engine.artifact import ArtifactStore, ArtifactWriter, canonical
from engine.criteria import Criterion
from engine.store import FolderStore
from retain.dataset import DatasetSpec, feature_columns
from retain.decision import Arm, Decision, observed, seen_columns
from retain.features import Featurizer, names_without_gaps
from retain.message import SITUATIONS
from retain.monitoring import Monitoring
from retain.parts import Missed, Standing
from retain.policy import Policy
from retain.quiet import QuietHours
from retain.release import Assessment, Release
from retain.wallet import Wallet
from tasks.release import release
from tests.words import WORDS

DATASETS = Path(__file__).resolve().parent.parent / "ops" / "datasets"
RULE = {"rule": "threshold", "reasons": 5}
LEVELS = (0, 5, 10, 20)
TERMS: dict[str, Any] = {
    "offers": {"levels": list(LEVELS), "months": 6, "contact_cost": 1.0, "currency": "EUR"},
    "cap": {"max_contacts": 2, "window": 3},
    "acceptance": {"level": -1.3, "shrink": 0.5, "slope": 1.1, "unit": 5.0, "slope_sd": 0.2, "fatigue": 0.4},
    "decay": 0.6,
    "wallet": "expected",
    "budget": {"share": 0.03, "months": 12, "amount": 45_000.0},
    "offer": 10,
    "threshold": 0.5,
}
DECISION: dict[str, Any] = {**TERMS, "rule": RULE}
CHARGED = {"monthly_charge": "campaign"}  # roles with which the bank's clients can be offered something
CRITERIA = {
    "customers": {"rows": {"at_least": 100}},
    "risk": {"auc": {"at_least": 0.78}, "ece": {"below": 0.05}},
    "accept": {"auc": {"at_least": 0.70}},
    "decision": {
        "nrr_gain": {"at_least": 0.03, "gating": False, "kind": "value"},
        "lift_gain": {"at_least": 0.12, "kind": "value"},
        "over_cap": {"below": 0.01, "kind": "safety"},
    },
    "sft": {"training_loss": {"below": 2.5, "kind": "value"}},
    "rm": {"auc": {"at_least": 0.70, "kind": "value"}},
    "text_eval": {
        "win_rate_gain": {"at_least": 0.08, "kind": "value"},
        "unsafe": {"below": 0.01, "kind": "safety"},
    },
    "messages": {"coverage": {"at_least": 1.0, "kind": "value"}},
}
PASSED: dict[str, dict[str, Any]] = {
    "customers": {"rows": {"value": 7032.0}},
    "risk": {"auc": {"value": 0.85, "ci": [0.83, 0.87]}, "ece": {"value": 0.02}},
    "accept": {"auc": {"value": 0.8}},
    "decision": {"nrr_gain": {"value": 0.01}, "lift_gain": {"value": 0.3}, "over_cap": {"value": 0.0}},
    "sft": {"training_loss": {"value": 1.5}},
    "rm": {"auc": {"value": 0.9}},
    "text_eval": {"win_rate_gain": {"value": 0.2}, "unsafe": {"value": 0.0}},
    "messages": {"coverage": {"value": 1.0}},
}
MONITORING = Monitoring.model_validate(
    {
        "error_rate": {"limit": 0.01, "min_samples": 100, "min_events": 4},
        "latency_p95": {"limit_ms": 500.0},
        "unsafe_rate": {"limit": 0.005, "min_samples": 500, "min_events": 6},
        "nrr_proxy_drop": {"limit": 0.03, "min_samples": 1300},
    }
)
QUIET_HOURS = QuietHours(start="21:00", end="08:00", zones=("America/New_York", "America/Los_Angeles"))
SENDER = {"name": "Toy Telecom", "address": "1 Example Street"}
FOOTER = "Reply STOP to opt out. Toy Telecom, 1 Example Street"


def bank(source: str, offers: Sequence[int] = LEVELS, situations: Sequence[str] = SITUATIONS) -> list[dict[str, Any]]:
    """Two messages for each situation and offer, as a language model might have written them; the second is the one
    that its scores put first."""
    opening = {"sft": "Hello, and thank you for being with us.", "rlhf": "Many thanks for being with us."}[source]
    discount = "We would like to take {offer} off your charge for {months}."
    return [
        {
            "situation": situation,
            "offer": offer,
            "text": f"{opening} {discount if offer else 'Please tell us what we can do better.'} Reply YES{end}",
            "source": source,
            "score": score,
            "tokens": tokens,
        }
        for situation in situations
        for offer in offers
        for end, score, tokens in ((".", 0.5, 20), (" if you like.", 1.5, 23))
    ]


def standing(release: Release, part: str, standing: Standing, *missed: str) -> Release:
    """The release with another standing of a part, which missed the criteria ("stage.metric") that are named."""
    stated = [Missed(criterion=name, kind="value", verdict=f"{name} 0 (wanted >= 1)") for name in missed]
    changed = release.parts[part].model_copy(update={"standing": standing, "missed": tuple(stated)})
    return replace(release, parts={**release.parts, part: changed})


def approved(release: Release) -> Release:
    """The release, all of whose messages somebody has read and approved."""
    texts = [entry.text for found in release.banks.values() for entry in found.entries]
    return replace(release, verdicts=dict.fromkeys(texts, "approved"))


def scores(*entries: dict[str, Any], sign: int = 1) -> dict[str, dict[str, float]]:
    """What `messages` writes as scores.json: by cell, then by text."""
    found: dict[str, dict[str, float]] = {}
    for entry in entries:
        found.setdefault(f"{entry['situation']}/{entry['offer']}", {})[entry["text"]] = sign * entry["score"]
    return found


class Rule(SimpleNamespace):
    def model_dump(self, mode: str) -> dict[str, Any]:
        return dict(self.__dict__)


def config(**changes: Any) -> Any:
    """What ReleaseConfig gives the stage, with the words of exp_001_mvp."""
    criteria = {
        name: {metric: Criterion(**limit) for metric, limit in limits.items()} for name, limits in CRITERIA.items()
    }
    return SimpleNamespace(
        experiment="toy",
        rules=WORDS.rules,
        guard=WORDS.guard,
        templates=WORDS.templates,
        decision=Rule(**{**RULE, **changes}),
        sender=Rule(**SENDER),
        quiet_hours=QUIET_HOURS,
        monitoring=MONITORING,
        criteria=criteria,
    )


def dataset(name: str, named: str | None = None, **changes: Any) -> DatasetSpec:
    """A table of ops/datasets; with a column more that holds the customer's name, if `named` says what it is called."""
    content = yaml.safe_load((DATASETS / f"{name}.yaml").read_text())
    if named is not None:
        content["columns"].append({"name": named, "kind": "text"})
        content["roles"]["name"] = named
    return DatasetSpec.model_validate_json(json.dumps({**content, **changes}))


def rows(spec: DatasetSpec, n: int, seed: int) -> list[dict[str, Any]]:
    """Customers drawn evenly from what the table allows."""
    rng = np.random.default_rng(seed)
    found: list[dict[str, Any]] = []
    for i in range(n):
        row: dict[str, Any] = {}
        for column in spec.columns:
            if column.kind == "id":
                row[column.name] = f"{i:04d}-TOY"
            elif column.kind == "text":
                row[column.name] = "Ann"
            elif column.kind == "number":
                low, high = column.minimum or 0.0, min(column.maximum or 100.0, 120.0)
                value = low + (high - low) * float(rng.random())
                row[column.name] = round(value) if column.integer else round(value, 2)
            else:
                row[column.name] = column.values[int(rng.integers(len(column.values)))]
        found.append(row)
    return found


def inputs(folder: Path, spec: DatasetSpec, campaigns: DatasetSpec) -> dict[str, Path]:
    """Folders of what the release reads, as its stages would leave it, with metrics that pass."""
    folders = {name: folder / name for name in PASSED}
    for name, path in folders.items():
        path.mkdir(parents=True)
        (path / "metrics.json").write_bytes(canonical(PASSED[name]))
    (folders["customers"] / "schema.json").write_bytes(canonical(spec.model_dump(mode="json")))
    customers(folders["customers"] / "data.parquet", spec)
    part(folders["risk"], spec, seed=1)
    part(folders["accept"], campaigns, seed=2)
    cells = {f"{a},{b},{c}": {"acceptance": 0.1 + 0.1 * a + 0.05 * b, "rows": 9, "sd": 0.1}
             for a in (0, 1) for b in (0, 1) for c in (0, 1)}  # fmt: skip
    bridge = {"roles": ["senior", "partner", "paperless"], "cells": cells, "overall": 0.12}
    (folders["accept"] / "bridge.json").write_bytes(canonical(bridge))
    (folders["decision"] / "terms.json").write_bytes(canonical(TERMS))
    (folders["decision"] / "policy.json").write_bytes(policy(spec).to_json())
    for source in ("sft", "rlhf"):
        (folders["messages"] / f"{source}.json").write_bytes(canonical(bank(source)))
    (folders["messages"] / "scores.json").write_bytes(canonical(scores(*bank("sft"), *bank("rlhf"))))
    return folders


def measured(given: dict[str, Path], stage: str, **values: Any) -> None:
    """Other metrics of a stage's folder than PASSED; None takes one away."""
    metrics = {**PASSED[stage], **{name: {"value": value} for name, value in values.items() if value is not None}}
    for name, value in values.items():
        if value is None:
            del metrics[name]
    (given[stage] / "metrics.json").write_bytes(canonical(metrics))


def customers(path: Path, spec: DatasetSpec, times: float = 1) -> None:
    """The table of `customers`, with the part of the split. All that `rows` draws is plausible beside it, if its
    charges are so many `times` as high."""
    table = rows(spec, 600, seed=1)
    numbers = [column.name for column in spec.columns if column.kind == "number"]
    content: dict[str, Any] = {name: [row[name] for row in table] for name in table[0]}
    content["split"] = ["train", "test", "train", "validation"] * 150
    for name in numbers:
        factor = times if name in (spec.roles.get("monthly_charge"), spec.roles.get("total_charge")) else 1
        content[name] = [0 if i % 20 == 0 else row[name] * factor for i, row in enumerate(table)]
    pq.write_table(pa.table(content), path)


def decided(
    release: Release, row: dict[str, Any], wallet: Wallet | None = None, arm: Arm = "baseline"
) -> tuple[Decision, Assessment]:
    """An arm's decision about a customer without a history, and what it follows from; of a whole budget, if no wallet
    is given."""
    assessment = release.assess(row)
    return release.decide(assessment, wallet or release.terms.new_wallet(), 1.0, arm), assessment


def policy(
    spec: DatasetSpec, eager: float | None = None, offer: int | None = None, levels: Sequence[int] = LEVELS
) -> Policy:
    """A small network of random weights, for TERMS or other `levels`; with an `eager` above 0 one that makes that
    `offer` at whatever it observes, with one below 0 one that contacts nobody."""
    features = Featurizer.fit(spec, seen_columns(spec))
    columns = observed(names_without_gaps(features))
    actions = ("no_contact", *(f"offer_{level}" for level in levels))
    rng = np.random.default_rng(5)
    sizes = ((len(columns) + 1, 8), (8, len(actions)))
    layers = [(rng.normal(size=size).astype(np.float32) / 2, np.zeros(size[1], np.float32)) for size in sizes]
    if eager is not None:
        layers[1][0][:] = 0
        layers[1][1][actions.index(f"offer_{offer}")] = eager
    scale = np.full(len(columns), 30, np.float32)
    medians = dict.fromkeys(features.gaps, 6.0)
    return Policy(columns, actions, np.zeros_like(scale), scale, tuple(layers), 0.4, (0.1, 0.9), medians)


def part(folder: Path, spec: DatasetSpec, seed: int) -> None:
    folder.mkdir(exist_ok=True)
    featurizer = Featurizer.fit(spec)
    table = rows(spec, 600, seed)
    x = np.array([featurizer.row(row) for row in table])
    rng = np.random.default_rng(seed)
    pull = np.nan_to_num((x - np.nanmean(x, axis=0)) / (np.nanstd(x, axis=0) + 1e-6)) @ rng.normal(size=x.shape[1])
    y = (pull + rng.normal(size=len(x)) > 0).astype(int)
    parameters = {"objective": "binary:logistic", "max_depth": 3, "eta": 0.1, "seed": seed, "nthread": 1}
    booster = xgboost.train(parameters, xgboost.DMatrix(x, y), 40)
    margins = np.linspace(-4, 4, 17)
    calibration = {"margin": margins.tolist(), "score": (1 / (1 + np.exp(-1.2 * margins))).tolist()}
    (folder / "model.json").write_bytes(bytes(booster.save_raw("json")))
    (folder / "calibration.json").write_bytes(canonical(calibration))
    (folder / "featurizer.json").write_bytes(canonical(featurizer.to_json()))
    (folder / "schema.json").write_bytes(canonical(spec.model_dump(mode="json")))
    assert feature_columns(spec)


def run_stage(folder: Path, given: dict[str, Path], settings: Any = None) -> Path:
    """Runs the release stage; the folder with the files it wrote."""
    out, scratch = folder / "out", folder / "scratch"
    out.mkdir(parents=True)
    scratch.mkdir()
    metrics = release.run(settings or config(), given, SimpleNamespace(out=ArtifactWriter(out), scratch=scratch))  # type: ignore[arg-type]
    (out / "metrics.json").write_bytes(canonical(metrics))
    return out


def publish(store: Path, name: str, folder: Path, fingerprint: str = "f" * 64, experiment: str = "toy") -> Path:
    """The folder's files as an artifact of a store, and that artifact as the current one."""
    artifacts = ArtifactStore(FolderStore(store), experiment)
    artifacts.publish(name, fingerprint, folder)
    artifacts.set_current(name, fingerprint)
    return store / artifacts.prefix(name, fingerprint)
