"""Randomised decisions with what became of them: the log from which a later pilot learns, as Parquet.

    python -m serve export | python -m eval.decisions --out decisions.parquet

Of the service's decisions those are written whose action was drawn, so that another one could have been taken
(RETAIN_EXPLORATION): of any other the log can't say what a different action would have brought. One row a decision:

| column | meaning |
|---|---|
| `decision_id` | the decision |
| `customer` | a pseudonym, the same in every row of one customer |
| `at` | when it was decided, UTC |
| `offer` | percent off the monthly charge; null: no contact |
| `pscore` | the chance with which this action was taken |
| `accepted` | whether the offer was accepted; null where there was none, or where it is still open |
| `risk`, `acceptance` | what the models said of the customer |
| `charge` | what she paid a month when it was decided |
| `stays` | by month after the decision, as far as anything was reported: whether she was still there |
| `revenue` | by month after the decision: what she paid; null where nothing was reported |
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from engine.errors import RetainError
from engine.output import make_decoration
from eval.records import lines, records, write
from retain.record import Record

MONTH_DAYS = 365.2425 / 12

SCHEMA = pa.schema(
    [
        ("decision_id", pa.string()),
        ("customer", pa.string()),
        ("at", pa.timestamp("us", "UTC")),
        ("offer", pa.int64()),
        ("pscore", pa.float64()),
        ("accepted", pa.bool_()),
        ("risk", pa.float64()),
        ("acceptance", pa.float64()),
        ("charge", pa.float64()),
        ("stays", pa.list_(pa.bool_())),
        ("revenue", pa.list_(pa.float64())),
    ]
)


def is_randomised(record: Record) -> bool:
    chance = record.detail.pscore
    return chance is not None and chance < 1 and not record.withdrawn


def row(record: Record) -> dict[str, Any]:
    stays, revenue = _months(record)
    return {
        "decision_id": record.decision_id,
        "customer": record.customer,
        "at": datetime.fromisoformat(record.at),
        "offer": record.offer,
        "pscore": record.detail.pscore,
        "accepted": None if record.offer is None or record.answered is None else record.answered == "accepted",
        "risk": record.risk,
        "acceptance": record.acceptance,
        "charge": record.charge,
        "stays": stays,
        "revenue": revenue,
    }


def _months(record: Record) -> tuple[list[bool], list[float | None]]:
    """By month from the first: whether she was still there, and what she paid. Who left is gone from the month on in
    which that was reported."""
    paid = {outcome.month: outcome.amount for outcome in record.outcomes if outcome.kind == "revenue"}
    left = [
        1 + int(_days(record.at, outcome.at) // MONTH_DAYS) for outcome in record.outcomes if outcome.kind == "churned"
    ]
    last = max([*(month for month in paid if month is not None), *left], default=0)
    months = range(1, last + 1)
    return [not left or month < min(left) for month in months], [paid.get(month) for month in months]


def _days(start: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds() / 86_400


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m eval.decisions", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("records", nargs="?", default="-", help="file of decision records; - for standard input")
    parser.add_argument("--out", type=Path, required=True, help="the Parquet file that is written")
    options = parser.parse_args(arguments)
    try:
        read = records(lines(options.records), options.records)
        count = write((row(record) for record in read if is_randomised(record)), SCHEMA, options.out)
    except RetainError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    hint = "" if count else "; the service draws actions where RETAIN_EXPLORATION is above 0"
    print(f"{options.out}: {count:,} randomised decisions{hint}")
    return 0


if __name__ == "__main__":
    make_decoration()
    raise SystemExit(main())
