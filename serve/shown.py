"""A decision as it is shown and exported: the rows of the database as retain.record has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

from serve.operations import Record

MICROSECOND = 1_000_000


def shown(record: Record, customer: str | None = None) -> dict[str, Any]:
    """Of a retain.record.Record, ready for JSON. `customer` is the pseudonym, where one may be shown."""
    return {
        "decision_id": record.id,
        "at": utc(record.at),
        "customer": customer,
        "period": utc(record.period),
        "arm": record.arm,
        "offer": record.offer,
        "cost": record.cost,
        "liability": record.liability,
        "charge": record.charge,
        "months": record.months,
        "answer": orjson.Fragment(record.answer),
        "detail": orjson.Fragment(record.detail),
        "shadow": None if record.shadow is None else orjson.Fragment(record.shadow),
        "answered": record.answered,
        "answered_at": None if record.answered_at is None else utc(record.answered_at),
        "withdrawn": record.withdrawn,
        "outcomes": list(_outcomes(record.outcomes)),
    }


def _outcomes(rows: Iterable[Mapping[str, Any]]) -> Iterable[dict[str, Any]]:
    for row in rows:
        revenue = row["kind"] == "revenue"
        yield {
            "kind": row["kind"],
            "month": row["month"] if revenue else None,
            "amount": row["amount"] if revenue else None,
            "given_back": None if revenue else row["amount"],
            "at": utc(row["at"]),
        }


def utc(at: int) -> str:
    """Microseconds since 1970 in ISO 8601."""
    return datetime.fromtimestamp(at / MICROSECOND, UTC).isoformat(timespec="milliseconds")
