"""release: judges what it is given, and puts together what passed.

Without `risk` and `accept` there is nothing to serve, so a gating criterion missed there ends the stage with
CriteriaMissed and no release is written. What is written loads without pickle, pandas, scikit-learn or XGBoost:
it is loaded here once, as the service will load it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.criteria import Verdict, judge
from engine.errors import CriteriaMissed, DataError
from engine.stage import Metrics, Workspace
from retain.message import template_bank
from retain.release import PARTS, ReleaseError, digest, load

if TYPE_CHECKING:
    from tasks.config import ReleaseConfig


def run(config: ReleaseConfig, inputs: Mapping[str, Path], workspace: Workspace) -> Metrics:
    """Writes release.json, schema.json, risk/, accept/, messages.json and decision.json."""
    verdicts = [
        verdict
        for stage in PARTS
        for verdict in judge(stage, _json(inputs[stage] / "metrics.json"), config.criteria.get(stage, {}))
    ]
    refuse(verdicts)

    files = {f"{part}/{name}": inputs[part] / name for part, names in PARTS.items() for name in names}
    files["schema.json"] = inputs["customers"] / "schema.json"
    for name, path in files.items():
        workspace.out.bytes(name, _bytes(path))
    rule = config.decision.model_dump(mode="json")
    bank = template_bank(config.decision.offers)
    workspace.out.json("decision.json", rule)
    workspace.out.json("messages.json", bank.to_json())
    workspace.out.json(
        "release.json",
        {
            "experiment": config.experiment,
            "parts": {part: {"digest": digest(files, part)} for part in PARTS},
            "verdicts": [verdict.as_dict() for verdict in verdicts],
            "decision": rule,
            "left_out": [],
        },
    )
    written = {path.relative_to(workspace.out.folder).as_posix(): path for path in workspace.out.folder.rglob("*.json")}
    try:
        load(written)
    except ReleaseError as error:
        raise DataError(f"the release can't be read back: {error}") from None
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


def _json(path: Path) -> Any:
    try:
        return json.loads(_bytes(path))
    except ValueError:
        raise DataError(f"{path.parent.name}/{path.name}: is damaged; run that stage again") from None


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        raise DataError(f"{path.parent.name}/{path.name}: is missing; run that stage again") from None
