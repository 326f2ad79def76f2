"""release: judges what it is given, and puts together what passed.

Without `risk` and `accept` there is nothing to serve, so a gating criterion missed there ends the stage with
CriteriaMissed and no release is written. Any other part that missed one has a standing (retain.parts): it is in the
release for the shadow alone, or it is left out. Then the baseline, whose terms and threshold come from the same stage
as the policy, decides about everybody, and instead of a bank of messages the next one speaks, at last the templates.
Messages that the guard refuses by now are dropped from their bank before it is judged. What is written loads without
pickle, pandas, scikit-learn, XGBoost or torch: it is loaded here once, as the service will load it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from engine.artifact import ArtifactWriter, canonical
from engine.criteria import Verdict, check_criteria
from engine.errors import ConfigError, CriteriaMissed, DataError
from engine.paths import NOT_THERE, why_unreadable
from engine.stage import Metrics, Workspace
from retain.dataset import DatasetSpec
from retain.decision import DecisionError, Terms
from retain.guard import Guard, GuardInForce, in_force
from retain.message import Bank, MessageError
from retain.parts import JUDGED_BY, REQUIRED, Missed, Part, standing_of
from retain.plausible import Ranges, ranges, rows_outside, when_outside
from retain.release import PART_FILES, STAGE_OF, TERMS, Release, ReleaseError, digest, load
from retain.rules import Rules, RulesError
from tasks.release.reference import reference
from tasks.release.templates import template_bank

if TYPE_CHECKING:
    from tasks.config import ReleaseConfig

# What `messages` calls the coverage of each bank.
COVERAGE = {"sft": "coverage_sft", "rlhf": "coverage"}


def run(config: ReleaseConfig, inputs: Mapping[str, Path], workspace: Workspace) -> Metrics:
    """Writes release.json, schema.json, ranges.json, risk/, accept/, decision.json, messages.json, guard.json,
    monitoring.json, reference.json, and decision/, sft/ and rlhf/ if they are not left out."""
    refuse([verdict for stage in REQUIRED for verdict in _judged(stage, config, _metrics(inputs, stage))])
    decision = {**_json(inputs["decision"] / TERMS), "rule": config.decision.model_dump(mode="json")}
    terms = _terms(decision)
    guard = _guard(config)
    rules = Guard(guard).rules
    templates = template_bank(config.templates, terms.offers.levels, terms.offers.months, rules)
    banks = {part: _guarded(part, _bank(inputs, part), terms.offers.months, rules) for part in STAGE_OF}

    by_stage = _verdicts(config, inputs, banks, terms.offers.levels)
    stage_files = _stage_files(inputs)
    files = stage_files | _without_dropped(banks, workspace.scratch)
    parts = {
        part: _part(verdicts, digest(files, part), digest(stage_files, part))
        for part, verdicts in _by_part(by_stage).items()
    }
    released = [name for name, part in parts.items() if part.standing != "left_out"]
    _write_parts(files, released, workspace.out)
    workspace.out.bytes("schema.json", _bytes(inputs["customers"] / "schema.json"))
    plausible, warnings = _plausible(inputs["customers"])
    workspace.out.json("ranges.json", plausible.model_dump(mode="json"))
    workspace.out.warnings(warnings)
    workspace.out.json("decision.json", decision)
    sender = config.sender.model_dump(mode="json")
    quiet_hours = config.quiet_hours.model_dump(mode="json")
    workspace.out.json(
        "messages.json", {"sender": sender, "quiet_hours": quiet_hours, "templates": templates.to_json()}
    )
    workspace.out.json("guard.json", guard.model_dump(mode="json"))
    workspace.out.json("monitoring.json", config.monitoring.model_dump(mode="json"))
    verdicts = [verdict for of_stage in by_stage.values() for verdict in of_stage]
    workspace.out.json(
        "release.json",
        {
            "experiment": config.experiment,
            "parts": {name: part.model_dump(mode="json") for name, part in parts.items()},
            "verdicts": [verdict.as_dict() for verdict in verdicts],
            "decision": decision,
            "dropped": [entry for bank in banks.values() for entry in bank.dropped],
        },
    )
    release = _read_back(workspace.out.folder)
    workspace.out.json("reference.json", reference(release, inputs["customers"]).model_dump(mode="json"))
    release = _read_back(workspace.out.folder)
    return {
        "messages": {"value": float(sum(len(bank.entries) for bank in release.banks.values()))},
        "criteria": {"value": float(len(verdicts))},
        "criteria_passed": {"value": float(sum(verdict.passed for verdict in verdicts))},
        "shadow_only": {"value": float(sum(part.standing == "shadow_only" for part in parts.values()))},
        "left_out": {"value": float(sum(part.standing == "left_out" for part in parts.values()))},
        "dropped": {"value": float(sum(len(bank.dropped) for part, bank in banks.items() if part in released))},
    }


def _stage_files(inputs: Mapping[str, Path]) -> dict[str, Path]:
    """The files of all parts as their stages made them, by "part/name". Raises DataError if one is missing."""
    files = {
        f"{part}/{name}": inputs[STAGE_OF.get(part, part)] / name
        for part, names in PART_FILES.items()
        for name in names
    }
    for path in files.values():
        _bytes(path)  # before any digest is taken
    return files


def _by_part(by_stage: Mapping[str, Sequence[Verdict]]) -> dict[str, list[Verdict]]:
    """part -> the verdicts on all stages that decide about it."""
    return {part: [verdict for stage in stages for verdict in by_stage[stage]] for part, stages in JUDGED_BY.items()}


def _write_parts(files: Mapping[str, Path], parts: Sequence[str], out: ArtifactWriter) -> None:
    for name, path in files.items():
        if name.partition("/")[0] in parts:
            out.bytes(name, _bytes(path))


def _terms(decision: Mapping[str, Any]) -> Terms:
    try:
        return Terms.from_json(decision)
    except DecisionError as error:
        raise DataError(f"the release can't be put together: {error}") from None


def _plausible(customers: Path) -> tuple[Ranges, list[str]]:
    """What is plausible of a customer, told from the training part alone, and a warning for each column in which some
    of that part are not."""
    content, data = _bytes(customers / "schema.json"), _bytes(customers / "data.parquet")
    try:
        spec = DatasetSpec.model_validate_json(content)
        numbers = [column.name for column in spec.columns if column.kind == "number"]
        part = pq.read_table(pa.BufferReader(data), columns=numbers, filters=[("split", "=", "train")])
    except (OSError, ValueError):
        raise DataError(f"{customers.name}: schema.json or data.parquet is damaged; run that stage again") from None
    table = {name: part[name].to_numpy() for name in numbers}
    plausible = ranges(spec, table)
    outside = rows_outside(spec, plausible, table)
    return plausible, [_unlike(spec, plausible, name, values, part.num_rows) for name, values in outside.items()]


def _unlike(spec: DatasetSpec, plausible: Ranges, name: str, values: Sequence[float], rows: int) -> str:
    """The warning of training rows whose number isn't plausible beside the others, and of what becomes of the like."""
    low, high = plausible.columns[name]
    fits = " and to fit tenure x charge" if name == spec.roles.get("total_charge") else ""
    largest = ", ".join(f"{value:,.6g}" for value in values[:3])
    become = (
        "refused: correct the rows, or state `outside: warn` for the column in the table's description"
        if when_outside(spec, name) == "refuse"
        else "decided about and warned of"
    )
    return (
        f"{name} isn't plausible in {len(values):,} of {rows:,} training rows: the others make it "
        f"{low:,.6g} to {high:,.6g}{fits}; the largest: {largest}. Requests like them are {become}"
    )


def _verdicts(
    config: ReleaseConfig, inputs: Mapping[str, Path], banks: Mapping[str, _Guarded], levels: Sequence[int]
) -> dict[str, list[Verdict]]:
    """Of each stage that decides about a part. Where messages were dropped, coverage is that of what is left."""
    metrics = {
        stage: _metrics(inputs, stage) for stage in dict.fromkeys(s for part in JUDGED_BY for s in JUDGED_BY[part])
    }
    for part, bank in banks.items():
        if bank.dropped:
            metrics["messages"] = metrics["messages"] | {COVERAGE[part]: {"value": bank.kept.coverage(levels)}}
    return {stage: _judged(stage, config, measured) for stage, measured in metrics.items()}


def _without_dropped(banks: Mapping[str, _Guarded], scratch: Path) -> dict[str, Path]:
    """The files of the banks of which messages were dropped, as they are released."""
    files = {}
    for part, bank in banks.items():
        if bank.dropped:
            path = files[f"{part}/{part}.json"] = scratch / f"{part}.json"
            path.write_bytes(canonical(bank.kept.to_json()))
    return files


def _read_back(folder: Path) -> Release:
    """What was written, as the service will read it."""
    try:
        return load({path.relative_to(folder).as_posix(): path for path in folder.rglob("*.json")})
    except ReleaseError as error:
        raise DataError(f"the release can't be read back: {error}") from None


def refuse(verdicts: Sequence[Verdict]) -> None:
    """Raises CriteriaMissed that names each gating criterion that was missed, with its value and its limit."""
    if missed := _missed(verdicts):
        raise CriteriaMissed("no release: " + "; ".join(map(str, missed)))


def _metrics(inputs: Mapping[str, Path], stage: str) -> Metrics:
    metrics: Metrics = _json(inputs[stage] / "metrics.json")
    return metrics


def _judged(stage: str, config: ReleaseConfig, metrics: Metrics) -> list[Verdict]:
    return check_criteria(stage, metrics, config.criteria.get(stage, {}))


def _missed(verdicts: Sequence[Verdict]) -> list[Verdict]:
    return [verdict for verdict in verdicts if verdict.gating and not verdict.passed]


def _guard(config: ReleaseConfig) -> GuardInForce:
    """The guard as the release holds it."""
    try:
        return in_force(config.rules, config.guard)
    except RulesError as error:
        raise ConfigError(f"words.guard.{'.'.join(map(str, error.path))}: {error}") from None


class _Guarded(NamedTuple):
    """A bank of messages without those that the guard refuses; `dropped` says which, and what they break."""

    kept: Bank
    dropped: list[dict[str, Any]]


def _bank(inputs: Mapping[str, Path], part: str) -> Bank:
    path = inputs[STAGE_OF[part]] / f"{part}.json"
    try:
        return Bank.from_json(json.loads(_bytes(path)), f"{path.parent.name}/{path.name}")
    except MessageError as error:
        raise DataError(f"{error}; run that stage again") from None
    except ValueError:
        raise DataError(f"{path.parent.name}/{path.name}: is damaged; run that stage again") from None


def _guarded(part: str, bank: Bank, months: int, rules: Rules) -> _Guarded:
    kept, refused = bank.without_refused(months, rules)
    dropped = [{"part": part, **entry.as_dict(), "breaks": broken} for entry, broken in refused]
    return _Guarded(kept, dropped)


def _part(verdicts: Sequence[Verdict], released: str, artifact: str) -> Part:
    """A part with these verdicts, whose files have the digest `released` in the release and `artifact` as its stage
    made them. One that is left out isn't released, so the second stands for both."""
    missed = [
        Missed(criterion=f"{verdict.stage}.{verdict.metric}", kind=verdict.kind, verdict=str(verdict))
        for verdict in _missed(verdicts)
    ]
    standing = standing_of(each.kind for each in missed)
    return Part(
        standing=standing,
        digest=artifact if standing == "left_out" else released,
        artifact=artifact,
        missed=tuple(missed),
    )


def _json(path: Path) -> Any:
    try:
        content = json.loads(_bytes(path))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise DataError(f"{path.parent.name}/{path.name}: is damaged; run that stage again")
    return content


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except NOT_THERE:
        raise DataError(f"{path.parent.name}/{path.name}: is missing; run that stage again") from None
    except OSError as error:
        raise DataError(f"{path.parent.name}/{path.name}: {why_unreadable(error)}") from None
