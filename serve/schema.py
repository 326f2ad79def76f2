"""Requests: read strictly, checked against the release's own table, described in OpenAPI from the same source.

A body is JSON as RFC 8259 means it: no NaN, no duplicate keys, finite numbers, valid text. What is refused is told by
type and place alone: neither a value nor a key that the caller made up is repeated. Checks are compiled once per
release, because a customer costs 4 us this way and several times that as a pydantic model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from retain.dataset import MAX_TEXT, Column, DatasetSpec
from retain.decision import NO_HISTORY, History, Terms

LARGEST = 3.4028234663852886e38  # of float32: beyond it a number is infinite to the models
EXACT = 2**53 - 1  # beyond it integers are no longer what the caller wrote, and from 2**64 on orjson refuses them
MAX_ID = 128
MAX_COUNT = 10_000
MAX_ERRORS = 20
BLANK = ("", " ")  # as CSV exports write "no value"; IBM's table has the space

Place = tuple[str | int, ...]


class Invalid(Exception):
    """What is wrong with a request: (type, place) of each fault, ready to be shown."""

    def __init__(self, faults: list[tuple[str, Place]]) -> None:
        super().__init__(f"{len(faults)} faults")
        self.detail = [{"type": kind, "loc": ["body", *place]} for kind, place in faults[:MAX_ERRORS]]


class _Duplicate(Exception):
    pass


class _NotFinite(Exception):
    pass


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Duplicate
    return found


def _constant(name: str) -> Any:
    raise _NotFinite


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)


def parse(body: bytes) -> Any:
    """The JSON of a body. Raises Invalid."""
    # orjson reads the same in a third of the time but keeps the last of two equal keys without a word.
    try:
        return _DECODER.decode(body.decode())
    except UnicodeDecodeError:
        raise Invalid([("not_utf8", ())]) from None
    except _Duplicate:
        raise Invalid([("duplicate_key", ())]) from None
    except _NotFinite:
        raise Invalid([("not_finite", ())]) from None
    except RecursionError:
        raise Invalid([("nested_too_deeply", ())]) from None
    except ValueError:  # a syntax error, or an integer of thousands of digits
        raise Invalid([("not_json", ())]) from None


@dataclass(frozen=True)
class _Fault:
    kind: str


Check = Callable[[Any], Any]  # a value as the models take it, or a _Fault


class RequestReader:
    """Body -> (customer's values, history), for one release."""

    def __init__(self, spec: DatasetSpec, terms: Terms) -> None:
        self._checks = {column.name: _check(column) for column in request_columns(spec)}
        self._refused = {spec.target.column, *(column.name for column in spec.columns if column.leak)}
        self._history = {
            "contacts": _contacts(terms.history_months),
            "running_offer": _whole(0, 100, nullable=True),
            "months_left": _whole(0, 120),
            "answers": _whole_numbers("accepted", "declined", most=terms.months),
        }
        # An accepted contact without a discount runs like any other offer.
        self._free_offers = 0 in terms.offers.levels
        # A total that is blank is that of a customer who has only just come; anybody else's is lost.
        self._total, self._tenure = spec.roles.get("total_charge"), spec.roles.get("tenure")

    def read(self, body: bytes) -> tuple[dict[str, Any], History]:
        """Raises Invalid with everything that is wrong, up to MAX_ERRORS faults."""
        content = parse(body)
        if type(content) is not dict:
            raise Invalid([("not_an_object", ())])
        faults: list[tuple[str, Place]] = []
        if not content.keys() <= {"customer", "history"}:
            faults.append(("unknown_key", ()))
        values: dict[str, Any] = {}
        if "customer" not in content:
            faults.append(("missing", ("customer",)))
        else:
            values = self._customer(content["customer"], faults)
        history = NO_HISTORY
        if content.get("history") is not None:
            history = self._read_history(content["history"], faults)
        if faults:
            raise Invalid(faults)
        return values, history

    def _customer(self, customer: object, faults: list[tuple[str, Place]]) -> dict[str, Any]:
        if type(customer) is not dict:
            faults.append(("not_an_object", ("customer",)))
            return {}
        values = {}
        checks = self._checks
        for name, value in customer.items():
            check = checks.get(name)
            if check is None:
                refused = name in self._refused
                faults.append(("not_accepted", ("customer", name)) if refused else ("unknown_key", ("customer",)))
                continue
            values[name] = found = check(value)
            if type(found) is _Fault:
                faults.append((found.kind, ("customer", name)))
        if len(values) != len(checks):
            faults += [("missing", ("customer", name)) for name in checks if name not in customer]
        elif self._total and self._tenure and values.get(self._total, 0) is None and values[self._tenure] != 0:
            faults.append(("blank", ("customer", self._total)))
        return values

    def _read_history(self, history: object, faults: list[tuple[str, Place]]) -> History:
        if type(history) is not dict:
            faults.append(("not_an_object", ("history",)))
            return NO_HISTORY
        values = {}
        for name, value in history.items():
            check = self._history.get(name)
            if check is None:
                faults.append(("unknown_key", ("history",)))
                continue
            values[name] = found = check(value)
            if type(found) is _Fault:
                faults.append((found.kind, ("history", name)))
        offer, left = values.get("running_offer"), values.get("months_left", 0)
        free = self._free_offers and offer == 0
        if type(offer) is not _Fault and type(left) is not _Fault and bool(offer) != bool(left) and not free:
            lacking = "months_left" if offer else "running_offer"
            faults.append(("contradicts_running_offer" if offer else "contradicts_months_left", ("history", lacking)))
        if faults:
            return NO_HISTORY
        answers = values.get("answers", {})
        return History(
            contacts=values.get("contacts", ()),
            running_offer=offer,
            months_left=left,
            accepted=answers.get("accepted", 0),
            declined=answers.get("declined", 0),
        )


def request_columns(spec: DatasetSpec) -> tuple[Column, ...]:
    """What a request states of a customer: all columns but those known only after the outcome."""
    return tuple(column for column in spec.columns if not column.leak)


def _check(column: Column) -> Check:
    if column.kind == "id":
        return _check_id
    if column.kind == "text":
        return _check_text
    if column.kind == "number":
        return _number(column)
    return _one_of(column.values)


def _check_id(value: Any) -> Any:
    # isprintable() is false for control characters and lone surrogates.
    if type(value) is int:
        return value
    if type(value) is not str:
        return _Fault("string_type")
    return value if 0 < len(value) <= MAX_ID and value.isprintable() else _Fault("string_length_or_characters")


def _check_text(value: Any) -> Any:
    if type(value) is not str:
        return _Fault("string_type")
    return value if len(value) <= MAX_TEXT and value.isprintable() else _Fault("string_length_or_characters")


def _one_of(values: tuple[Any, ...]) -> Check:
    known = {value: value for value in values}
    types = (str,) if type(values[0]) is str else (int, float)

    def check(value: Any) -> Any:
        if type(value) not in types:
            return _Fault("string_type" if types == (str,) else "number_type")
        return known.get(value, _UNSEEN)

    return check


_UNSEEN = _Fault("not_one_of_the_allowed")


def _number(column: Column) -> Check:
    low, high = _bounds(column)
    limit = EXACT if column.integer else LARGEST
    missing, integer, nullable = column.missing, column.integer, is_nullable(column)

    def check(value: Any) -> Any:
        kind = type(value)
        if kind is not int and kind is not float:
            if nullable and (value is None or (kind is str and value in BLANK)):
                return None
            return _Fault("number_type")
        if low <= value <= high or (value == missing and -limit <= value <= limit):
            if not integer:
                return float(value)
            return value if kind is int else int(value) if value.is_integer() else _Fault("integer_type")
        if not -LARGEST <= value <= LARGEST:
            return _Fault("not_finite")
        return _Fault("below_minimum" if value < low else "above_maximum")

    return check


def _bounds(column: Column) -> tuple[float, float]:
    limit = EXACT if column.integer else LARGEST
    low = -limit if column.minimum is None else max(column.minimum, -limit)
    high = limit if column.maximum is None else min(column.maximum, limit)
    return low, high


def is_nullable(column: Column) -> bool:
    return column.blank_value is not None or column.missing is not None


def _whole(low: int, high: int, *, nullable: bool = False) -> Check:
    def check(value: Any) -> Any:
        if value is None and nullable:
            return None
        if type(value) is not int:
            return _Fault("integer_type")
        return value if low <= value <= high else _Fault("below_minimum" if value < low else "above_maximum")

    return check


def _contacts(months: int) -> Check:
    count = _whole(0, MAX_COUNT)

    def check(value: Any) -> Any:
        if type(value) is not list:
            return _Fault("array_type")
        if len(value) > months:
            return _Fault("too_long")
        counts = tuple(count(item) for item in value)
        return next((item for item in counts if type(item) is _Fault), counts)

    return check


def _whole_numbers(*names: str, most: int) -> Check:
    count = _whole(0, most)

    def check(value: Any) -> Any:
        if type(value) is not dict:
            return _Fault("not_an_object")
        if not value.keys() <= set(names):
            return _Fault("unknown_key")
        counts = {name: count(item) for name, item in value.items()}
        return next((item for item in counts.values() if type(item) is _Fault), counts)

    return check


# -- OpenAPI -------------------------------------------------------------------------------------------------------


def request_schema(spec: DatasetSpec, terms: Terms) -> dict[str, Any]:
    """JSON schema of a request, from the same table that RequestReader checks against."""
    columns = request_columns(spec)
    free = 0 in terms.offers.levels
    counts = {"type": "integer", "minimum": 0, "maximum": MAX_COUNT}
    customer = {
        "type": "object",
        "title": spec.title,
        "additionalProperties": False,
        "required": [column.name for column in columns],
        "properties": {column.name: _column_schema(column) for column in columns},
    }
    history = {
        "type": ["object", "null"],
        "title": "Earlier contacts, if the caller knows of any",
        "additionalProperties": False,
        "properties": {
            "contacts": {
                "type": "array",
                "items": counts,
                "maxItems": terms.history_months,
                "description": f"contacts in each of the last {terms.history_months} months, oldest first; the last is "
                "the month that ends now, in which nobody is contacted twice",
            },
            "running_offer": {
                "type": ["integer", "null"],
                "minimum": 0,
                "maximum": 100,
                "description": "discount that runs now, in percent, with its months_left; null: none; 0: none"
                + (", or with months_left an accepted contact without a discount" if free else ""),
            },
            "months_left": {
                "type": "integer",
                "minimum": 0,
                "maximum": 120,
                "description": "months that it still runs; 0 when none does",
            },
            "answers": {
                "type": "object",
                "additionalProperties": False,
                "properties": {name: {**counts, "maximum": terms.months} for name in ("accepted", "declined")},
                "description": f"how often offers were accepted and declined in the last {terms.months} months, at one "
                "decision a month; a policy never learned from more",
            },
        },
        # A discount runs with months left, or there are neither.
        "anyOf": [
            {
                "required": ["running_offer", "months_left"],
                "properties": {
                    "running_offer": {"type": "integer", "minimum": 0 if free else 1},
                    "months_left": {"minimum": 1},
                },
            },
            {"properties": {"running_offer": {"enum": [None, 0]}, "months_left": {"maximum": 0}}},
        ],
    }
    return {
        "type": "object",
        "additionalProperties": False,
        "required": ["customer"],
        "properties": {"customer": customer, "history": history},
    }


def _column_schema(column: Column) -> dict[str, Any]:
    about = {"description": column.about} if column.about else {}
    if column.kind == "id":
        return {"type": ["string", "integer"], "minLength": 1, "maxLength": MAX_ID, **about}
    if column.kind == "text":
        return {"type": "string", "maxLength": MAX_TEXT, **about}
    if column.kind != "number":
        kind = "string" if type(column.values[0]) is str else "integer"
        return {"type": kind, "enum": list(column.values), **about}
    kind = "integer" if column.integer else "number"
    low, high = _bounds(column)
    return {
        "type": [kind, "null"] if is_nullable(column) else kind,
        "minimum": low,
        "maximum": high,
        **about,
    }


def examples(spec: DatasetSpec, terms: Terms) -> dict[str, Any]:
    """Requests that run as they stand: a customer, one with a history, and one who has only just come."""
    customer: dict[str, Any] = {column.name: _example(column) for column in request_columns(spec)}
    history = {
        "contacts": [0] * (terms.history_months - 2) + [1, 0],
        "running_offer": None,
        "months_left": 0,
        "answers": {"accepted": 0, "declined": 1},
    }
    found: dict[str, Any] = {
        "customer": {"summary": "A customer", "value": {"customer": customer}},
        "history": {
            "summary": "A customer with a history of contacts",
            "value": {"customer": customer, "history": history},
        },
    }
    total, tenure = spec.roles.get("total_charge"), spec.roles.get("tenure")
    if total and tenure and any(column.name == total and is_nullable(column) for column in spec.columns):
        newcomer: Mapping[str, Any] = {**customer, tenure: 0, total: None}
        found["newcomer"] = {
            "summary": "A customer of this month, without a total yet",
            "value": {"customer": newcomer},
        }
    return found


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
