"""release: judges what it is given, and puts together what passed.

Without `risk` and `accept` there is nothing to serve, so a gating criterion missed there ends the stage with
CriteriaMissed and writes no release. What is written loads without pickle, pandas, scikit-learn or XGBoost, and is
loaded here once, as the service will load it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from engine.criteria import Verdict, judge
from engine.errors import CriteriaMissed, DataError
from engine.stage import Metrics, Workspace
from retain.dataset import DatasetSpec
from retain.decision import Bridge, DecisionError, ThresholdRule
from retain.message import template_bank
from retain.score import ModelError, Scorer

if TYPE_CHECKING:
    from tasks.config import ReleaseConfig

# What the service needs of each part, by name.
PARTS = {
    "risk": ("model.json", "calibration.json", "featurizer.json", "schema.json"),
    "accept": ("model.json", "calibration.json", "featurizer.json", "schema.json", "bridge.json"),
}


def run(config: ReleaseConfig, inputs: Mapping[str, Path], workspace: Workspace) -> Metrics:
    """Writes release.json, schema.json, risk/, accept/, messages.json and decision.json."""
    verdicts = [
        verdict
        for stage in ("customers", *PARTS)
        for verdict in judge(stage, _json(inputs[stage] / "metrics.json"), config.criteria.get(stage, {}))
    ]
    refuse(verdicts)

    files = {f"{part}/{name}": inputs[part] / name for part, names in PARTS.items() for name in names}
    spec = _loads(files, inputs["customers"] / "schema.json")
    rule = config.decision.model_dump(mode="json")
    offers, months = config.decision.offers, config.decision.offer_months
    bank = template_bank(offers)
    if problems := bank.problems(offers, months):
        raise DataError("the message bank can't be released: " + "; ".join(problems[:20]))
    try:
        ThresholdRule.from_json(rule)
    except DecisionError as error:
        raise DataError(f"stages.release.decision: {error}") from None

    content = {name: path.read_bytes() for name, path in files.items()}
    content["schema.json"] = (inputs["customers"] / "schema.json").read_bytes()
    for name, data in content.items():
        workspace.out.bytes(name, data)
    workspace.out.json("messages.json", bank.to_json())
    workspace.out.json("decision.json", rule)
    workspace.out.json(
        "release.json",
        {
            "experiment": config.experiment,
            "dataset": spec.name,
            "parts": {part: {"digest": part_digest(files, part)} for part in PARTS},
            "verdicts": [verdict.as_dict() for verdict in verdicts],
            "decision": rule,
            "left_out": [],
        },
    )
    return {
        "messages": {"value": float(len(bank.entries))},
        "criteria": {"value": float(len(verdicts))},
        "criteria_passed": {"value": float(sum(verdict.passed for verdict in verdicts))},
    }


def refuse(verdicts: list[Verdict]) -> None:
    """Raises CriteriaMissed that names each gating criterion that was missed, with its value and its limit."""
    missed = [str(verdict) for verdict in verdicts if verdict.gating and not verdict.passed]
    if missed:
        raise CriteriaMissed("no release: " + "; ".join(missed))


def part_digest(files: Mapping[str, Path], part: str) -> str:
    """sha256 over a part's files, the version that every answer of the service names."""
    digest = hashlib.sha256()
    for name in sorted(PARTS[part]):
        digest.update(f"{name}\0{hashlib.sha256(files[f'{part}/{name}'].read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def _loads(files: Mapping[str, Path], schema: Path) -> DatasetSpec:
    """Reads the parts as the service will; DataError for one that can't be."""
    try:
        spec = DatasetSpec.model_validate_json(schema.read_bytes())
        for part in PARTS:
            Scorer.load(files, f"{part}/")
        Bridge(_json(files["accept/bridge.json"]), spec)
    except ValidationError as error:
        raise DataError(f"{schema.name}: {error.errors()[0]['msg']}") from None
    except (ModelError, DecisionError) as error:
        raise DataError(f"a part of the release can't be read: {error}") from None
    return spec


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        raise DataError(f"{path.parent.name}/{path.name}: is missing or damaged; run that stage again") from None
