"""Copies the figures of an experiment from the store into docs/figures/<experiment>.json, from which eval.docs renders.

    python -m eval.figures --experiment local

For each stage the file holds the metrics of the artifact that completed last, its fingerprint, the digests of its
content and of the code that made it, the commit that this code was checked out from, and the seconds and dollars that
the ledger charged for it. The file is committed, so the figures in the documentation change only together with the
artifacts they came from. They stay those of that commit while the code moves on, until the next `make figures`.

Exit code: 0 written; 2 bad input, or no stage has completed yet.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from engine import records
from engine.artifact import ArtifactStore, canonical
from engine.config import EXPERIMENT_HELP, experiment_path, load, validate
from engine.errors import ArtifactError, RetainError
from engine.fingerprint import ROOT, Identity
from engine.ledger import Entry, entries, scope_of
from engine.output import make_decoration
from engine.paths import why_unreadable
from engine.stage import IDENTITY
from engine.store import open_store, store_url

FOLDER = ROOT / "docs" / "figures"


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)


class Metric(_Part):
    """A value, its 95 % interval, and what a perfect model would show by chance; the last two where they are known."""

    value: float | None
    ci: tuple[float, float] | None = None
    chance: float | None = None


class StageFigures(_Part):
    """`content` is the digest of the artifact's manifest, `code` that of the stage's code (see engine/fingerprint.py).

    `commit` is of the attempt that completed, with "+" if files differed from it. `seconds` and `usd` are what the
    ledger charged for all attempts; `usd` includes the overhead of a machine, `seconds` doesn't.
    """

    fingerprint: str
    content: str
    code: str
    commit: str
    seconds: float
    usd: float
    metrics: dict[str, Metric]


class ExperimentFigures(_Part):
    experiment: str
    stages: dict[str, StageFigures]


class _Costs(BaseModel):
    model_config = ConfigDict(strict=True)

    scope: str


class _Experiment(BaseModel):
    """The part of an experiment that is read here."""

    model_config = ConfigDict(strict=True)

    costs: _Costs


def collect(artifacts: ArtifactStore, scope: str) -> ExperimentFigures:
    """The figures of every stage that has completed. `scope` names the ledger. Raises RetainError without any stage."""
    current = artifacts.current()
    if not current:
        raise RetainError(f"{artifacts.experiment}: no stage has completed in {artifacts.store.url}; `make run` first")
    charged = entries(artifacts.store, scope)
    return ExperimentFigures(
        experiment=artifacts.experiment,
        stages={stage: _stage(artifacts, stage, current[stage], charged) for stage in sorted(current)},
    )


def _stage(artifacts: ArtifactStore, stage: str, fingerprint: str, charged: Sequence[Entry]) -> StageFigures:
    prefix = artifacts.prefix(stage, fingerprint)
    manifest = artifacts.manifest(stage, fingerprint)
    identity = artifacts.store.read(f"{prefix}/{IDENTITY}")
    if manifest is None or identity is None:
        raise ArtifactError(f"{prefix}: gone from {artifacts.store.url}; run again")
    of_stage = [entry for entry in charged if entry.attempt_id.startswith(f"{prefix}/")]
    return StageFigures(
        fingerprint=fingerprint,
        content=manifest.digest,
        code=hashlib.sha256(canonical(Identity.model_validate_json(identity[0]).code)).hexdigest()[:32],
        commit=_commit(artifacts, prefix),
        seconds=round(sum(entry.seconds for entry in of_stage), 1),
        usd=round(sum(entry.metered_usd for entry in of_stage), 6),
        metrics={
            name: Metric.model_validate(metric, strict=False)
            for name, metric in artifacts.metrics(stage, fingerprint).items()
        },
    )


def _commit(artifacts: ArtifactStore, prefix: str) -> str:
    """Of the last attempt that completed; all that completed had the same code, since the fingerprint holds it."""
    attempts = [records.read(artifacts.store, prefix, number) for number in records.numbers(artifacts.store, prefix)]
    commits = [attempt.commit for attempt in attempts if attempt is not None and attempt.status == "complete"]
    return commits[-1] if commits else "unknown"


def dump(figures: ExperimentFigures) -> str:
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


def read(experiment: str, folder: Path | None = None) -> ExperimentFigures:
    """The committed figures, or those in `folder`. Raises RetainError if they are missing or not of this form."""
    path = (folder or FOLDER) / f"{experiment}.json"
    try:
        return ExperimentFigures.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise RetainError(f"{path}: is missing; `make figures EXPERIMENT={experiment}` writes it") from None
    except OSError as error:
        raise RetainError(f"{path}: {why_unreadable(error)}") from None
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"]) or "as a whole"
        raise RetainError(
            f"{path}: {where}: {error.errors()[0]['msg']}; `make figures EXPERIMENT={experiment}` writes it anew"
        ) from None


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m eval.figures", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--experiment", required=True, help=EXPERIMENT_HELP)
    options = parser.parse_args(arguments)
    try:
        experiment = load(experiment_path(options.experiment))
        scope = scope_of(validate(experiment, _Experiment).costs.scope, datetime.now(UTC))
        figures = collect(ArtifactStore(open_store(store_url()), experiment.tag), scope)
    except RetainError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{experiment.tag}.json"
    path.write_text(dump(figures), encoding="utf-8")
    print(f"{path}: {len(figures.stages)} stages. `make docs` puts them into the documentation.")
    return 0


if __name__ == "__main__":
    make_decoration()
    raise SystemExit(main(sys.argv[1:]))
