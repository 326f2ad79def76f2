"""Measured values beside the exit criteria of an experiment.

    python -m eval.verdict --experiment exp_001_mvp [--json] [--all]

The values are those of the artifacts that completed last (current.json), the criteria those of the YAML as it stands
now: a threshold can change without a stage running again. A stage belongs to the experiment once
`execution.time_limit_s` gives it time; criteria of other stages are stated ahead, for parts still to be built. They
are "later": left out of table and JSON unless `--all` asks for them, and never deciding the exit code.

Where the current release judged another value than the stage had measured, since its guard dropped messages, that value
counts, and the measured one stands beside it.

A value stands beside what it is read against, where there is such: an ECE beside what chance would show, a gain in
NRR beside that of the exact bound, which no policy can pass. (The playbook's "+3 % NRR" is there
twice: of the whole cohort, not gating, and of the customers at risk, gating.)

A missed criterion says its kind where it has one: value or safety, which decides whether a part of the release that
misses it runs in the shadow or is left out.

Below the table stands in red what the artifacts warn of, such as a table that was cut off: no criterion asks that.

Exit code: 0 every gating criterion holds, 1 one is missed or its stage has not run, 2 bad input.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from rich import box
from rich.table import Table
from rich.text import Text

from engine.artifact import ArtifactStore
from engine.config import EXPERIMENT_HELP, Resolved, argument, check_lock, experiment_path, load, validate
from engine.criteria import Criterion, Verdict, check_criteria
from engine.errors import RetainError
from engine.output import make_decoration
from engine.stage import IDENTITY
from engine.store import open_store, store_url
from eval.console import make_console

# The metric that no policy can bring above the other one.
BOUNDS = {"nrr_gain": "upper_bound", "nrr_gain_at_risk": "upper_bound_at_risk"}

State = Literal["measured", "not run", "later"]


class _Execution(BaseModel):
    model_config = ConfigDict(strict=True)

    time_limit_s: dict[str, float]


class _Experiment(BaseModel):
    """The part of an experiment that is read here; the whole is checked before a run."""

    model_config = ConfigDict(strict=True)

    criteria: dict[str, dict[str, Criterion]]
    execution: _Execution


@dataclass(frozen=True)
class Row:
    """`chance`: what a perfect model would show by chance on as many rows, where a metric knows that (ECE). `bound`:
    what the exact upper bound reaches, where a stage measured that. `before_drops`: what the stage measured, where the
    current release dropped messages and judged what is left."""

    verdict: Verdict
    state: State
    chance: float | None = None
    bound: float | None = None
    before_drops: float | None = None


def rows(resolved: Resolved, artifacts: ArtifactStore) -> list[Row]:
    """One row for each criterion, in the order of the YAML; ConfigError, ArtifactError for what can't be read."""
    experiment = validate(resolved, _Experiment)
    current = artifacts.current()
    judged = _judged_by_release(artifacts, current)
    result = []
    for stage, criteria in experiment.criteria.items():
        state: State = "measured"
        metrics: Mapping[str, Mapping[str, Any]] = {}
        if stage in current:
            metrics = artifacts.metrics(stage, current[stage])
        else:
            state = "not run" if stage in experiment.execution.time_limit_s else "later"
        measured = {name: metric.get("value") for name, metric in metrics.items()}
        others = {
            name: {"value": value} for name, value in judged.get(stage, {}).items() if value != measured.get(name)
        }
        metrics = {**metrics, **others}
        result += [
            Row(
                verdict,
                state,
                chance=metrics.get(verdict.metric, {}).get("chance"),
                bound=metrics.get(BOUNDS.get(verdict.metric, ""), {}).get("value"),
                before_drops=measured.get(verdict.metric) if verdict.metric in others else None,
            )
            for verdict in check_criteria(stage, metrics, criteria)
        ]
    return result


def _judged_by_release(artifacts: ArtifactStore, current: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """stage -> metric -> the value that the current release judged, of the stages whose current artifact it is made of;
    ArtifactError for a release that can't be read."""
    fingerprint = current.get("release")
    stored = fingerprint and artifacts.store.read(f"{artifacts.prefix('release', fingerprint)}/{IDENTITY}")
    if not fingerprint or not stored:
        return {}
    made_of: dict[str, str] = json.loads(stored[0])["inputs"]
    values: dict[str, dict[str, float]] = {}
    for verdict in artifacts.json("release", fingerprint, "release.json").get("verdicts", []):
        if verdict["value"] is not None:
            values.setdefault(verdict["stage"], {})[verdict["metric"]] = verdict["value"]
    manifests = {stage: artifacts.manifest(stage, current[stage]) for stage in values if stage in current}
    return {
        stage: values[stage]
        for stage, manifest in manifests.items()
        if manifest and made_of.get(stage) == manifest.digest
    }


def missed(table: Sequence[Row]) -> list[Row]:
    """The rows that make the experiment fail."""
    return [row for row in table if row.verdict.gating and not row.verdict.passed and row.state != "later"]


def warnings(artifacts: ArtifactStore) -> list[tuple[str, str]]:
    """(stage, what its current artifact warns of), in the order of the stages' names."""
    return [
        (stage, warning)
        for stage, fingerprint in sorted(artifacts.current().items())
        for warning in artifacts.warnings(stage, fingerprint)
    ]


def to_json(table: Sequence[Row], warned: Sequence[tuple[str, str]]) -> str:
    """`upper_bound` and `before_drops` stand in the rows that have one."""
    rows = [
        row.verdict.as_dict()
        | ({"upper_bound": row.bound} if row.bound is not None else {})
        | ({"before_drops": row.before_drops} if row.before_drops is not None else {})
        for row in table
    ]
    content = {"criteria": rows, "warnings": [{"stage": stage, "warning": warning} for stage, warning in warned]}
    return json.dumps(content, indent=2, allow_nan=False)


def to_table(table: Sequence[Row], title: str) -> Table:
    result = Table(title=title, title_justify="left")
    result.box, result.show_edge, result.pad_edge, result.padding = box.SIMPLE_HEAD, False, False, (0, 1, 0, 0)
    for name in ("stage", "metric"):
        result.add_column(name, no_wrap=True)
    for name in ("value", "95 % CI", "beside", "limit"):
        result.add_column(name, justify="right", no_wrap=True)
    result.add_column("verdict")
    for row in table:
        verdict = row.verdict
        result.add_row(
            verdict.stage,
            verdict.metric,
            _number(verdict.value),
            f"{_number(verdict.ci[0])} .. {_number(verdict.ci[1])}" if verdict.ci else "",
            _beside(row),
            f"{verdict.op} {_number(verdict.limit)}",
            _word(row),
        )
    return result


def _number(value: float | None) -> str:
    """Counts whole, shares to four digits."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value.is_integer() else f"{value:.4f}"


def _beside(row: Row) -> str:
    if row.chance is not None:
        return f"chance {_number(row.chance)}"
    if row.before_drops is not None:
        return f"before drops {_number(row.before_drops)}"
    return f"bound {_number(row.bound)}" if row.bound is not None else ""


def _word(row: Row) -> Text:
    if row.state != "measured":
        return Text(row.state, style="dim")
    if row.verdict.passed:
        return Text("met", style="green")
    if not row.verdict.gating:
        return Text("not met (shown, not gating)", style="yellow")
    about = [row.verdict.kind, "not measured" if row.verdict.value is None else None]
    said = ", ".join(word for word in about if word is not None)
    return Text(f"MISSED ({said})" if said else "MISSED", style="bold red")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m eval.verdict", description="Exit criteria against artifacts.")
    parser.add_argument("--experiment", required=True, help=EXPERIMENT_HELP)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--all", action="store_true", help="show criteria of stages still to be built, too")
    options = parser.parse_args(arguments)
    try:
        resolved = load(experiment_path(options.experiment))
        check_lock(resolved)
        artifacts = ArtifactStore(open_store(store_url()), resolved.tag)
        table, warned = rows(resolved, artifacts), warnings(artifacts)
    except RetainError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    failed = missed(table)
    shown = [row for row in table if options.all or row.state != "later"]
    if options.json:
        print(to_json(shown, warned))
        return 1 if failed else 0
    console = make_console()
    console.print(to_table(shown, f"Exit criteria of {resolved.tag}"))
    later = dict.fromkeys(row.verdict.stage for row in table if row.state == "later")
    if later and not options.all:
        console.print(f"Later, with the stages themselves (--all shows their criteria): {', '.join(later)}")
    gating = sum(row.verdict.gating and row.state != "later" for row in table)
    if failed:
        names = ", ".join(f"{row.verdict.stage}.{row.verdict.metric}" for row in failed)
        console.print(f"{len(failed)} of {gating} gating criteria are missed or not measured: {names}")
        if any(row.state == "not run" for row in failed):
            console.print(f"Some stages have not run. `make run EXPERIMENT={argument(resolved.path)}` runs them")
    else:
        console.print(f"All {gating} gating criteria of the stages that exist are met.")
    for stage, warning in warned:
        console.print(f"WARNING from {stage}: {warning}", style="bold red", soft_wrap=True)
    return 1 if failed else 0


if __name__ == "__main__":
    make_decoration()
    raise SystemExit(main(sys.argv[1:]))
