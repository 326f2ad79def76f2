"""What the learned arm's shadow has shown: the playbook's figures with their verdicts, and the records as Parquet.

    python -m serve export | python -m eval.shadow --experiment local

The figures are of the decisions made under one release, whose limits they are held to: that of RELEASE_PATH, else the
champion of the rollout, else the current one. What is told of the learned arm is of CHALLENGER_PATH's, else of the
rollout's challenger, else of the same release, as are the distributions of training. The Parquet file has all records.
Exit code: 0 where every figure passes, 1 where one fails or can't be told yet, 2 for bad input.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import ValidationError
from rich import box
from rich.table import Table
from rich.text import Text

from engine.artifact import open_artifact
from engine.config import EXPERIMENT_HELP
from engine.document import Document
from engine.errors import DataError, RetainError
from engine.output import make_decoration
from engine.releases import current_release, experiment_of, find, folder_of, version_of
from engine.store import open_store, store_url
from eval.console import make_console
from eval.records import lines, records, write
from retain.monitoring import Monitoring
from retain.record import Banks, Record, Said
from retain.reference import Reference, read_reference
from retain.rollout import Rollout, rollout_key
from retain.shadow import Tally, figures, verdict
from retain.signals import Figure

RESULTS = Path("eval") / "results"
STYLES = {"pass": "green", "fail": "bold red", "hold": "yellow"}

_SAID = (("source", pa.string()), ("characters", pa.int64()), ("tokens", pa.int64()), ("score", pa.float64()))
# Of what each bank has for the offer that the learned arm wants to make, or else for the one that was made.
_OF_BANK = (*_SAID[1:], ("withheld", pa.string()))
SCHEMA = pa.schema(
    [
        ("decision_id", pa.string()),
        ("at", pa.string()),
        ("customer", pa.string()),
        ("release", pa.string()),
        ("mode", pa.string()),
        ("offer", pa.int64()),
        ("why", pa.string()),
        ("pscore", pa.float64()),
        ("explored", pa.bool_()),
        ("risk", pa.float64()),
        ("acceptance", pa.float64()),
        ("charge", pa.float64()),
        ("cost", pa.float64()),
        ("liability", pa.float64()),
        ("answered", pa.string()),
        ("nrr_proxy", pa.float64()),
        ("seconds", pa.float64()),
        *((f"said_{name}", kind) for name, kind in _SAID),
        ("learned_offer", pa.int64()),
        ("learned_why", pa.string()),
        ("learned_missing", pa.string()),
        ("learned_release", pa.string()),
        ("learned_seconds", pa.float64()),
        ("learned_waited", pa.float64()),
        ("replied", pa.float64()),
        ("learned_unsafe", pa.bool_()),
        *((f"learned_{name}", kind) for name, kind in _SAID),
        *((f"{bank}_{name}", kind) for bank in ("sft", "rlhf") for name, kind in _OF_BANK),
    ]
)


def row(record: Record) -> dict[str, Any]:
    shadow, wanted = record.shadow, record.shadow and record.shadow.wanted
    return {
        "decision_id": record.decision_id,
        "at": record.at,
        "customer": record.customer,
        "release": record.detail.release,
        "mode": record.arm,
        "offer": record.offer,
        "why": record.why,
        "pscore": record.detail.pscore,
        "explored": record.detail.explored,
        "risk": record.risk,
        "acceptance": record.acceptance,
        "charge": record.charge,
        "cost": record.cost,
        "liability": record.liability,
        "answered": record.answered,
        "nrr_proxy": record.nrr_proxy,
        "seconds": record.detail.seconds,
        **_said("said_", record.detail.said),
        "learned_offer": wanted.offer if wanted else None,
        "learned_why": wanted.why if wanted else None,
        "learned_missing": shadow.missing if shadow else record.detail.unasked or "not_completed",
        "learned_release": shadow.version if shadow else None,
        "learned_seconds": shadow.seconds if shadow else None,
        "learned_waited": shadow.waited if shadow else None,
        "replied": shadow.replied if shadow else None,
        "learned_unsafe": bool(shadow.breaks) if shadow and shadow.chosen else None,
        **_said("learned_", shadow.said if shadow else None),
        **_of_banks(shadow.banks if shadow and shadow.banks else record.detail.banks),
    }


def _said(prefix: str, said: Said | None) -> dict[str, Any]:
    return {f"{prefix}{name}": None if said is None else getattr(said, name) for name, _ in _SAID}


def _of_banks(banks: Banks | None) -> dict[str, Any]:
    names = [name for name, _ in _OF_BANK]
    return (
        {}
        if banks is None
        else {
            f"{bank}_{name}": getattr(found, name)
            for bank, found in (("sft", banks.sft), ("rlhf", banks.rlhf))
            for name in names
        }
    )


def tallied(of: Iterable[Record], tally: Tally) -> Iterator[Mapping[str, Any]]:
    """The rows of the records, which are counted in `tally` on the way."""
    for record in of:
        tally.add(record)
        yield row(record)


def table(found: Sequence[Figure], title: str) -> Table:
    shown = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for name, justify in (("figure", "left"), ("value", "right"), ("limit", "right"), ("samples", "right")):
        shown.add_column(name, justify=justify)  # type: ignore[arg-type]
    shown.add_column("verdict")
    shown.add_column("why", overflow="fold")
    for figure in found:
        shown.add_row(
            figure.name,
            _number(figure.value),
            _number(figure.limit),
            f"{figure.samples:,}",
            Text(figure.verdict, STYLES[figure.verdict]),
            figure.says,
        )
    return shown


def _number(value: float | None) -> str:
    return "—" if value is None else f"{value:.4g}"


def _trained(folder: Path) -> tuple[Monitoring, Reference | None]:
    """The limits and distributions of a release. Raises RetainError."""
    files = open_artifact(folder)
    try:
        return Monitoring.model_validate_json(files["monitoring.json"].read_bytes()), read_reference(files)
    except (KeyError, ValidationError):
        raise DataError(
            f"{folder}: is a release of an older format; a new run of its experiment makes a new one"
        ) from None


def _stated(name: str, environment: Mapping[str, str]) -> Path | None:
    stated = environment.get(name)
    return folder_of(name, stated) if stated else None


def _rolled_out(named: str) -> tuple[Path | None, Path | None]:
    """The folders of the rollout's champion and challenger, where there are some. Raises RetainError."""
    rollout = Document(open_store(store_url()), rollout_key(experiment_of(named)), Rollout).read()
    if rollout is None:
        return None, None
    challenger = None if rollout.challenger is None else find(rollout.challenger.release, named)
    return find(rollout.champion.release, named), challenger


def main(arguments: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ) -> int:
    parser = argparse.ArgumentParser(prog="python -m eval.shadow", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("records", nargs="?", default="-", help="file of decision records; - for standard input")
    parser.add_argument("--experiment", required=True, help=EXPERIMENT_HELP)
    parser.add_argument(
        "--out", type=Path, help="the Parquet file that is written (eval/results/EXPERIMENT/shadow.parquet)"
    )
    options = parser.parse_args(arguments)
    try:
        champion, tried = _rolled_out(options.experiment)
        folder = _stated("RELEASE_PATH", environment) or champion or current_release(options.experiment)
        limits, reference = _trained(folder)
        tally = Tally(version_of(folder), version_of(folder))
        if challenger := _stated("CHALLENGER_PATH", environment) or tried:
            _, reference = _trained(challenger)
            tally.arm = version_of(challenger)
        out = options.out or RESULTS / Path(options.experiment).stem / "shadow.parquet"
        read = records(lines(options.records), options.records)
        count = write(tallied(read, tally), SCHEMA, out)
    except RetainError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    found = figures(tally, limits, reference)
    whole = verdict(found)
    console = make_console()
    others = f"; {count - tally.decisions:,} of other releases are not counted" if count > tally.decisions else ""
    beside = "" if tally.arm == tally.release else f" under release {tally.release}"
    title = f"Shadow of the learned arm of release {tally.arm}: {tally.decisions:,} decisions{beside}, "
    console.print(table(found, f"{title}{tally.asked:,} with its answer awaited{others}"))
    lacking = ", ".join(figure.name for figure in found if figure.verdict == whole)
    says = {"pass": "pass", "fail": f"fail: {lacking}", "hold": f"can't tell yet: {lacking}"}[whole]
    console.print(Text.assemble("shadow: ", (says, STYLES[whole]), f"; records in {out}"))
    return 0 if whole == "pass" else 1


if __name__ == "__main__":
    make_decoration()
    raise SystemExit(main())
