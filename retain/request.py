"""What a request states of a customer, and requests that run as they stand: for the API's page, a terminal, tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from retain.dataset import Column, DatasetSpec, is_nullable, total_and_tenure
from retain.dataset import column as column_of

if TYPE_CHECKING:
    from retain.decision import Terms


def request_columns(spec: DatasetSpec) -> tuple[Column, ...]:
    """What a request states of a customer: all columns but those known only after the outcome."""
    return tuple(column for column in spec.columns if not column.leak)


def examples(spec: DatasetSpec, terms: Terms) -> dict[str, Any]:
    """Requests that run as they stand, by name, as OpenAPI wants them: a customer, one with a history, and, where a
    table has totals that may be blank, one who has only just come."""
    customer = {column.name: _example(column) for column in request_columns(spec)}
    history = {
        "contacts": [0] * (terms.history_months - 2) + [1, 0],
        "running_offer": None,
        "months_left": 0,
        "answers": {"accepted": 0, "declined": 1},
    }
    shown: dict[str, Any] = {
        "customer": {"summary": "A customer", "value": {"customer": customer}},
        "history": {
            "summary": "A customer with a history of contacts",
            "value": {"customer": customer, "history": history},
        },
    }
    names = total_and_tenure(spec)
    if names and set(names) <= customer.keys() and is_nullable(column_of(spec, names[0])):
        total, tenure = names
        shown["newcomer"] = {
            "summary": "A customer of this month, without a total yet",
            "value": {"customer": {**customer, tenure: 0, total: None}},
        }
    return shown


def _example(column: Column) -> Any:
    if column.example is not None:
        return column.example
    if column.kind == "id":
        return "C-0001"
    if column.kind == "text":
        return "Ann Smith"
    if column.kind != "number":
        return column.values[0]
    number = max(column.minimum or 0.0, 0.0)
    if column.maximum is not None:
        number = min(number, column.maximum)
    return int(number) if column.integer else number
