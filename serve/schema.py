"""Requests: read strictly by a pydantic model of the release's own table, from which OpenAPI describes them as well.

Around the model stand the rules that pydantic has no word for. A body is JSON as RFC 8259 means it: no NaN, no
duplicate keys, valid text. A blank total and a running offer have to fit their neighbours. What is refused is told by
type and place alone: neither a value nor a key that the caller made up is repeated.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, NotRequired
from zoneinfo import available_timezones

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, ValidationError, with_config
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import CoreSchema, PydanticCustomError
from typing_extensions import TypedDict

from retain.dataset import (
    LARGEST,
    MAX_ID,
    MAX_TEXT,
    Column,
    DatasetSpec,
    bounds,
    is_blank,
    is_id,
    is_nullable,
    total_and_tenure,
)
from retain.decision import NO_HISTORY, History, Terms
from retain.offers import Percent
from retain.request import request_columns

MAX_COUNT = 10_000
MAX_ERRORS = 20

Place = tuple[str | int, ...]


class Invalid(Exception):
    """What is wrong with a request: (type, place) of each fault, ready to be shown."""

    def __init__(self, faults: list[tuple[str, Place]], part: str = "body") -> None:
        super().__init__(f"{len(faults)} faults")
        self.detail = [{"type": kind, "loc": [part, *place]} for kind, place in faults[:MAX_ERRORS]]


# -- JSON ----------------------------------------------------------------------------------------------------------


class _Duplicate(Exception):
    pass


class _NotFinite(Exception):
    pass


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise _Duplicate
    return content


def _constant(name: str) -> Any:
    raise _NotFinite


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)


def parse(body: bytes) -> Any:
    """The JSON of a body. Raises Invalid."""
    # pydantic and orjson read the same in a third of the time, but keep the last of two equal keys without a word.
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


# -- the model -----------------------------------------------------------------------------------------------------


def request_type(spec: DatasetSpec, terms: Terms) -> Any:
    """The type of a request. Objects are TypedDicts, since any text may be the name of a column."""
    columns = request_columns(spec)
    customer = _keys("Customer", {column.name: _value(column) for column in columns}, title=spec.title)
    history: Any = Annotated[_history(terms) | None, Field(title="Earlier contacts, if the caller knows of any")]
    about = "where the customer lives, as in America/New_York: a message waits for the day there"
    zone: Any = Annotated[str, Field(min_length=1, max_length=40, description=about), AfterValidator(_zone)]
    optional = {"history": NotRequired[history], "time_zone": NotRequired[zone | None]}
    return _keys("Request", {"customer": customer, **optional})


def _keys(name: str, values: Mapping[str, Any], **config: Any) -> Any:
    """An object with these keys and no others."""
    make: Any = TypedDict  # to mypy its keys are literals
    rules: Any = {"strict": True, "extra": "forbid", **config}
    return with_config(rules)(make(name, values))


def _value(column: Column) -> Any:
    about = Field(description=column.about or None)
    if column.kind == "id":
        text = Annotated[str, Field(min_length=1, max_length=MAX_ID)]
        return Annotated[text | int, AfterValidator(identifier), about]
    if column.kind == "text":
        return Annotated[str, Field(max_length=MAX_TEXT), AfterValidator(printable), about]
    if column.kind == "number":
        return Annotated[_number(column), about]
    literal: Any = Literal
    values = literal[column.values]
    texts = type(column.values[0]) is str
    return Annotated[values, about] if texts else Annotated[values, BeforeValidator(_no_bool), about]


def _number(column: Column) -> Any:
    low, high = bounds(column)
    if column.integer:
        number: Any = Annotated[int, Field(ge=math.ceil(low), le=math.floor(high)), BeforeValidator(_whole)]
    else:
        number = Annotated[float, Field(ge=low, le=high)]
    if column.missing is not None and not low <= column.missing <= high:
        kind = int if column.integer else float
        number |= Annotated[kind, Field(ge=kind(column.missing), le=kind(column.missing)), BeforeValidator(_whole)]
    return Annotated[number | None, BeforeValidator(_none_if_blank)] if is_nullable(column) else number


def _history(terms: Terms) -> Any:
    count: Any = Annotated[int, Field(ge=0, le=MAX_COUNT)]
    answer: Any = Annotated[int, Field(ge=0, le=terms.months)]
    free = _free_offers(terms)
    running = "discount that runs now, in percent, with its months_left; null: none; 0: none" + (
        ", or with months_left an accepted contact without a discount" if free else ""
    )
    contacts = (
        f"contacts in each of the last {terms.history_months} months, oldest first; the last is the month that ends "
        "now, in which nobody is contacted twice"
    )
    answers = (
        f"how often offers were accepted and declined in the last {terms.months} months, at one decision a month; a "
        "policy never learned from more"
    )
    values: dict[str, Any] = {
        "contacts": Annotated[list[count], Field(max_length=terms.history_months, description=contacts)],
        "running_offer": Annotated[Percent | None, Field(description=running)],
        "months_left": Annotated[int, Field(ge=0, le=120, description="months that it still runs; 0 when none does")],
        "answers": Annotated[
            _keys("Answers", {"accepted": NotRequired[answer], "declined": NotRequired[answer]}),
            Field(description=answers),
        ],
    }
    # A discount runs with months left, or there are neither.
    runs = {"running_offer": {"type": "integer", "minimum": 0 if free else 1}, "months_left": {"minimum": 1}}
    none = {"running_offer": {"enum": [None, 0]}, "months_left": {"maximum": 0}}
    either = {"anyOf": [{"required": list(runs), "properties": runs}, {"properties": none}]}
    return _keys("History", {name: NotRequired[value] for name, value in values.items()}, json_schema_extra=either)


def _free_offers(terms: Terms) -> bool:
    """Whether a contact without a discount is an offer, which runs like any other once it is accepted."""
    return 0 in terms.offers.levels


# Before and after pydantic's own checks. Their errors bear the names that callers see.


def printable(value: str) -> str:
    # isprintable() is false for control characters.
    if not value.isprintable():
        raise PydanticCustomError("string_length_or_characters", "unprintable")
    return value


def identifier(value: str | int) -> str | int:
    # Another spelling would draw another arm for the same customer. A number of 4,000 digits takes long to write out.
    text = value if isinstance(value, str) else "" if abs(value) >= 10**MAX_ID else str(value)
    if not is_id(text):
        raise PydanticCustomError("string_length_or_characters", "no id")
    return value


def _zone(value: str) -> str:
    if value not in _zones():
        raise PydanticCustomError("not_one_of_the_allowed", "no time zone")
    return value


@cache
def _zones() -> frozenset[str]:
    return frozenset(available_timezones())


def _no_bool(value: Any) -> Any:
    if type(value) is bool:  # True is 1 to a Literal
        raise PydanticCustomError("number_type", "bool")
    return value


def _whole(value: Any) -> Any:
    return int(value) if type(value) is float and value.is_integer() else value


def _none_if_blank(value: Any) -> Any:
    return None if type(value) is str and is_blank(value) else value


# -- reading -------------------------------------------------------------------------------------------------------

# What callers are told, by pydantic's types.
KINDS = {
    "missing": "missing",
    "extra_forbidden": "unknown_key",
    "dict_type": "not_an_object",
    "list_type": "array_type",
    "too_long": "too_long",
    "string_type": "string_type",
    "string_too_short": "string_length_or_characters",
    "string_too_long": "string_length_or_characters",
    "string_unicode": "string_length_or_characters",  # lone surrogates
    "string_length_or_characters": "string_length_or_characters",
    "number_type": "number_type",
    "float_type": "number_type",
    "int_type": "number_type",
    "not_one_of_the_allowed": "not_one_of_the_allowed",
    "greater_than_equal": "below_minimum",
    "less_than_equal": "above_maximum",
}
NUMERIC = ("float_type", "int_type", "greater_than_equal", "less_than_equal")


class Asked(NamedTuple):
    """A request for a decision, as it was read; `time_zone` is None where it isn't stated."""

    values: dict[str, Any]
    history: History
    time_zone: str | None


class RequestReader:
    """Body -> Asked, for one release."""

    def __init__(self, spec: DatasetSpec, terms: Terms) -> None:
        self._model = TypeAdapter(request_type(spec, terms))
        self._values: dict[Place, tuple[Any, ...]] = {
            ("customer", column.name): column.values for column in spec.columns if column.values
        }
        self._refused = {spec.target.column, *(column.name for column in spec.columns if column.leak)}
        self._free_offers = _free_offers(terms)
        self._total, self._tenure = total_and_tenure(spec) or ("", "")
        self._id = spec.roles.get("id")

    def read(self, body: bytes) -> Asked:
        """Raises Invalid with everything that is wrong, up to MAX_ERRORS faults; rules between several values are
        looked at when each of them is right."""
        content = parse(body)
        try:
            request = self._model.validate_python(content)
        except ValidationError as error:
            raise Invalid(self._faults(error)) from None
        values, given = request["customer"], request.get("history")
        if values.get(self._total, 0) is None and values.get(self._tenure, 0) != 0:
            raise Invalid([("blank", ("customer", self._total))])
        return Asked(values, self._history(given) if given else NO_HISTORY, request.get("time_zone"))

    def canonical(self, asked: Asked) -> bytes:
        """The same for requests that say the same, however they are written: as a text, an id has all of its digits."""
        values = {
            name: str(value) if name == self._id else _whole(value)  # under another release 5 may be read as 5.0
            for name, value in asked.values.items()
        }
        return json.dumps([values, vars(asked.history), asked.time_zone], sort_keys=True).encode()

    def _history(self, given: Mapping[str, Any]) -> History:
        offer, left = given.get("running_offer"), given.get("months_left", 0)
        if bool(offer) != bool(left) and not (self._free_offers and offer == 0):
            lacking, has = ("months_left", "running_offer") if offer else ("running_offer", "months_left")
            raise Invalid([(f"contradicts_{has}", ("history", lacking))])
        answers = given.get("answers", {})
        return History(
            contacts=tuple(given.get("contacts", ())),
            running_offer=offer,
            months_left=left,
            accepted=answers.get("accepted", 0),
            declined=answers.get("declined", 0),
        )

    def _faults(self, error: ValidationError) -> list[tuple[str, Place]]:
        """One for each value: of a union's branches the first one's, of a list the first item's."""
        faults: dict[Place, tuple[str, Place]] = {}
        for fault in error.errors(include_url=False, include_context=False):
            kind, place = fault["type"], fault["loc"]
            if place not in faults and place[:2] not in faults:
                faults[place if kind == "extra_forbidden" else place[:2]] = self._fault(kind, place, fault["input"])
        return list(faults.values())

    def _fault(self, kind: str, place: Place, value: Any) -> tuple[str, Place]:
        if kind == "extra_forbidden":
            refused = place[0] == "customer" and place[-1] in self._refused
            return ("not_accepted", place) if refused else (KINDS[kind], place[:-1])
        if kind == "string_unicode" and len(place) < 2:  # of a key
            return "unknown_key", place
        place = place[:2]
        number = type(value) in (int, float)
        values = self._values.get(place) if kind != "missing" else None
        if values is not None:
            texts = type(values[0]) is str
            right = type(value) is str if texts else number
            return "not_one_of_the_allowed" if right else "string_type" if texts else "number_type", place
        if kind in NUMERIC and number and not -LARGEST <= value <= LARGEST:
            return "not_finite", place
        if kind == "int_type" and (place[0] == "history" or number):
            return "integer_type", place
        return KINDS[kind], place


# -- OpenAPI -------------------------------------------------------------------------------------------------------


class _Untitled(GenerateJsonSchema):
    """Without the titles that pydantic makes up of names ("Paperlessbilling")."""

    def field_title_should_be_set(self, schema: CoreSchema | Any) -> bool:
        return False


def request_schema(spec: DatasetSpec, terms: Terms) -> dict[str, Any]:
    """JSON schema of a request, of the model that RequestReader reads by, in one piece."""
    schema = TypeAdapter(request_type(spec, terms)).json_schema(schema_generator=_Untitled)
    definitions = schema.pop("$defs")
    whole: dict[str, Any] = _in_one_piece(schema, definitions)
    return whole


def _in_one_piece(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """With the definitions in place of references to them: within OpenAPI those would lead nowhere."""
    if isinstance(schema, list):
        return [_in_one_piece(part, definitions) for part in schema]
    if not isinstance(schema, dict):
        return schema
    name = schema.get("$ref", "").removeprefix("#/$defs/")
    return {
        key: _in_one_piece(part, definitions)
        for key, part in {**definitions.get(name, {}), **schema}.items()
        if key != "$ref"
    }
