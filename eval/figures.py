"""Copies the figures of an experiment from the store into docs/figures/<experiment>.json, from which eval.docs renders.

    python -m eval.figures --experiment local

For each stage the file holds the metrics of the artifact that completed last, its fingerprint, the digest of its
content, and the seconds and dollars of the attempts that made it; of `decision` also the rows of every policy. The
file is committed, so the figures in the documentation change only together with the artifacts they came from.

Exit code: 0 written; 2 bad input, or no stage has completed yet.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from engine import records
from engine.artifact import ArtifactStore, open_artifact
from engine.config import experiment_path, load
from engine.errors import ArtifactError, RetainError
from engine.fingerprint import ROOT
from engine.store import open_store, store_url
from eval.decision import DECISION, Comparison, PolicyRow

FOLDER = ROOT / "docs" / "figures"


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)


class Metric(_Part):
    """A value, its 95 % interval, and what a perfect model would show by chance; the last two where they are known."""

    value: float | None
    ci: tuple[float, float] | None = None
    chance: float | None = None


class StageFigures(_Part):
    """`content` is the digest of the artifact's manifest; `seconds` and `usd` are those of all its attempts."""

    fingerprint: str
    content: str
    seconds: float
    usd: float
    metrics: dict[str, Metric]


class Figures(_Part):
    """`policies`: the rows of the comparison by policy; empty while `decision` has not completed."""

    experiment: str
    stages: dict[str, StageFigures]
    best_baseline: str | None = None
    policies: dict[str, PolicyRow] = {}


def collect(artifacts: ArtifactStore) -> Figures:
    """The figures of every stage that has completed. Raises RetainError where there is none."""
    current = artifacts.current()
    if not current:
        raise RetainError(f"{artifacts.experiment}: no stage has completed in {artifacts.store.url}; `make run` first")
    stages = {stage: _stage(artifacts, stage, fingerprint) for stage, fingerprint in sorted(current.items())}
    if DECISION not in current:
        return Figures(experiment=artifacts.experiment, stages=stages)
    folder = Path(artifacts.store.url) / artifacts.prefix(DECISION, current[DECISION])
    comparison = Comparison.model_validate_json(open_artifact(folder)["comparison.json"].read_bytes())
    return Figures(
        experiment=artifacts.experiment,
        stages=stages,
        best_baseline=comparison.best_baseline,
        policies=comparison.by_policy,
    )


def _stage(artifacts: ArtifactStore, stage: str, fingerprint: str) -> StageFigures:
    manifest = artifacts.manifest(stage, fingerprint)
    if manifest is None:
        raise ArtifactError(f"{artifacts.prefix(stage, fingerprint)}: gone from {artifacts.store.url}; run again")
    prefix = artifacts.prefix(stage, fingerprint)
    numbers = [int(Path(key).stem) for key in artifacts.store.list(f"{prefix}/execution") if key.endswith(".json")]
    attempts = [record for number in numbers if (record := records.read(artifacts.store, prefix, number))]
    return StageFigures(
        fingerprint=fingerprint,
        content=manifest.digest,
        seconds=round(sum(attempt.seconds for attempt in attempts), 1),
        usd=round(sum(attempt.seconds * attempt.usd_per_hour / 3600 for attempt in attempts), 6),
        metrics={
            name: Metric.model_validate(m, strict=False) for name, m in artifacts.metrics(stage, fingerprint).items()
        },
    )


def dump(figures: Figures) -> str:
    """JSON with one line for each metric, so that a change reads well in a diff."""
    content = json.loads(figures.model_dump_json(exclude_defaults=True))
    return _lines(content, depth=4) + "\n"


def _lines(value: object, depth: int, indent: str = "") -> str:
    """Mappings that hold mappings take a line for each key; the innermost ones stay on one line."""
    if depth == 0 or not isinstance(value, dict) or not value:
        return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)
    inner = indent + "  "
    lines = [f"{inner}{json.dumps(key)}: {_lines(value[key], depth - 1, inner)}" for key in sorted(value)]
    return "{\n" + ",\n".join(lines) + f"\n{indent}}}"


def read(experiment: str, folder: Path | None = None) -> Figures:
    """The committed figures, or those in `folder`. Raises RetainError if they are missing or not of this form."""
    path = (folder or FOLDER) / f"{experiment}.json"
    try:
        return Figures.model_validate_json(path.read_bytes())
    except OSError:
        raise RetainError(f"{path}: is missing; `make figures EXPERIMENT={experiment}` writes it") from None
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"]) or "as a whole"
        raise RetainError(
            f"{path}: {where}: {error.errors()[0]['msg']}; `make figures EXPERIMENT={experiment}` writes it anew"
        ) from None


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m eval.figures", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--experiment", required=True, help="NAME of ops/configs/experiment_NAME.yaml")
    options = parser.parse_args(arguments)
    try:
        tag = load(experiment_path(options.experiment)).tag
        figures = collect(ArtifactStore(open_store(store_url()), tag))
    except RetainError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{tag}.json"
    path.write_text(dump(figures))
    print(f"{path}: {len(figures.stages)} stages. `make docs` puts them into the documentation.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
