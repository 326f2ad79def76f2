"""What a request may be: told by the table, told by type and place alone."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import jsonschema
import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retain.dataset import DatasetSpec
from retain.decision import History, Terms
from retain.features import Featurizer
from retain.request import examples, request_columns
from serve.schema import MAX_ERRORS, Invalid, RequestReader, parse, request_schema
from tasks.data import checks
from tests.releases import DECISION, dataset, rows

RULES = Terms.from_json(DECISION)
TELCO = dataset("telco")
BANK = dataset("bank")
READER, BANK_READER = RequestReader(TELCO, RULES), RequestReader(BANK, RULES)
DESCRIBED = request_schema(TELCO, RULES)
CUSTOMER: dict[str, Any] = rows(TELCO, 1, seed=3)[0] | {"tenure": 5}


def faults(body: bytes | dict[str, Any], reader: RequestReader = READER) -> list[tuple[str, ...]]:
    with pytest.raises(Invalid) as error:
        reader.read(body if isinstance(body, bytes) else json.dumps(body).encode())
    return [(fault["type"], *fault["loc"][1:]) for fault in error.value.detail]


def changed(**values: Any) -> dict[str, Any]:
    return {"customer": CUSTOMER | values}


def test_a_customer_is_read_as_the_models_take_her() -> None:
    values, history, _ = READER.read(json.dumps({"customer": CUSTOMER}).encode())
    assert values == CUSTOMER
    assert history == History()


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("tenure", "5", "number_type"),
        ("tenure", True, "number_type"),
        ("tenure", None, "number_type"),
        ("tenure", [5], "number_type"),
        ("tenure", {"a": 5}, "number_type"),
        ("tenure", 5.5, "integer_type"),
        ("tenure", -1, "below_minimum"),
        ("tenure", 10**9, "above_maximum"),
        ("tenure", 10**400, "not_finite"),
        ("MonthlyCharges", 1e308, "not_finite"),
        ("MonthlyCharges", -0.01, "below_minimum"),
        ("MonthlyCharges", "", "number_type"),
        ("TotalCharges", "12.5", "number_type"),
        ("Contract", "Three year", "not_one_of_the_allowed"),
        ("Contract", "one year", "not_one_of_the_allowed"),
        ("Contract", 1, "string_type"),
        ("Contract", None, "string_type"),
        ("Contract", ["One year"], "string_type"),
        ("Contract", {}, "string_type"),
        ("SeniorCitizen", "1", "number_type"),
        ("SeniorCitizen", True, "number_type"),
        ("SeniorCitizen", 2, "not_one_of_the_allowed"),
        ("SeniorCitizen", 0.5, "not_one_of_the_allowed"),
        ("SeniorCitizen", 10**30, "not_one_of_the_allowed"),
        ("Contract", "\ud800", "not_one_of_the_allowed"),
        ("customerID", "", "string_length_or_characters"),
        ("customerID", "x" * 129, "string_length_or_characters"),
        ("customerID", "a\nb", "string_length_or_characters"),
        ("customerID", " a", "string_length_or_characters"),
        ("customerID", "a ", "string_length_or_characters"),
        ("customerID", " ", "string_length_or_characters"),
        ("customerID", "a\u00a0", "string_length_or_characters"),
        ("customerID", "a\tb", "string_length_or_characters"),
        ("customerID", 10**128, "string_length_or_characters"),
        ("customerID", -(10**127), "string_length_or_characters"),
        ("customerID", 10**3999, "string_length_or_characters"),
        ("customerID", True, "string_type"),
        ("customerID", "\ud800", "string_length_or_characters"),
        ("customerID", "a\u200bb", "string_length_or_characters"),
        ("customerID", None, "string_type"),
        ("customerID", 1.5, "string_type"),
    ],
)
def test_a_wrong_value_is_told_by_type_and_place(name: str, value: Any, kind: str) -> None:
    assert faults(changed(**{name: value})) == [(kind, "customer", name)]


@pytest.mark.parametrize(
    ("name", "value", "read"), [("tenure", 5.0, 5), ("SeniorCitizen", 1.0, 1), ("MonthlyCharges", 20, 20.0)]
)
def test_a_whole_number_is_one_however_it_is_written(name: str, value: Any, read: Any) -> None:
    found = READER.read(json.dumps(changed(**{name: value})).encode())[0][name]
    assert found == read
    assert type(found) is type(read)


@pytest.mark.parametrize("value", ["x" * 128, 0, -5, 10**128 - 1])
def test_an_id_is_a_text_or_a_number_of_up_to_128_characters(value: Any) -> None:
    assert READER.read(json.dumps(changed(customerID=value)).encode())[0]["customerID"] == value


@pytest.mark.parametrize("blank", [None, "", " ", "  ", "\t"])
def test_a_blank_total_is_that_of_a_customer_of_tenure_0(blank: str | None) -> None:
    values, _, _ = READER.read(json.dumps(changed(tenure=0, TotalCharges=blank)).encode())
    assert values["TotalCharges"] is None
    assert faults(changed(tenure=3, TotalCharges=blank)) == [("blank", "customer", "TotalCharges")]


def test_keys_are_exactly_the_table_s() -> None:
    lacking = {key: value for key, value in CUSTOMER.items() if key not in ("Partner", "customerID")}
    assert faults({"customer": lacking}) == [
        ("missing", "customer", "customerID"),
        ("missing", "customer", "Partner"),
    ]
    assert faults(changed(secret="4111 1111")) == [("unknown_key", "customer")]
    assert faults(changed(Churn="No")) == [("not_accepted", "customer", "Churn")]
    assert faults({"customer": CUSTOMER, "extra": 1}) == [("unknown_key",)]
    assert faults({}) == [("missing", "customer")]
    assert len(faults({"customer": {}})) == min(MAX_ERRORS, len(CUSTOMER))


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("previous", 2**53 - 1, None),
        ("previous", 2**53, "above_maximum"),
        ("previous", float(2**53), "above_maximum"),
        ("previous", 10**30, "above_maximum"),
        ("previous", 10**40, "not_finite"),
        ("previous", -(2**53), "below_minimum"),
        ("pdays", 10**30, "above_maximum"),
        ("nr.employed", 10**30, None),
        ("nr.employed", -(10**38), None),
        ("nr.employed", 10**39, "not_finite"),
    ],
)
def test_a_column_without_bounds_takes_what_can_be_answered(name: str, value: Any, kind: str | None) -> None:
    reader = BANK_READER
    customer = {column.name: rows(BANK, 1, seed=1)[0][column.name] for column in request_columns(BANK)}
    body = {"customer": customer | {name: value}}
    assert jsonschema.Draft202012Validator(request_schema(BANK, RULES)).is_valid(body) == (kind is None)
    if kind is not None:
        assert faults(body, reader) == [(kind, "customer", name)]
        return
    read = reader.read(json.dumps(body).encode())[0][name]
    assert read == (value if type(read) is int else float(value))
    assert orjson.loads(orjson.dumps(read)) == read
    assert np.isfinite(np.float32(read))


def test_what_is_known_only_after_the_outcome_is_not_accepted() -> None:
    reader = BANK_READER
    customer = rows(BANK, 1, seed=1)[0]
    del customer["duration"]
    assert reader.read(json.dumps({"customer": customer}).encode())[0] == customer
    assert faults({"customer": customer | {"duration": 100}}, reader) == [("not_accepted", "customer", "duration")]
    assert faults({"customer": customer | {"y": "yes"}}, reader) == [("not_accepted", "customer", "y")]
    assert reader.read(json.dumps({"customer": customer | {"pdays": 999}}).encode())[0]["pdays"] == 999
    assert reader.read(json.dumps({"customer": customer | {"pdays": None}}).encode())[0]["pdays"] is None


NUMBERS = [-1, -0.5, 0, 0.5, 1, 5.0, 999, -999, 1e6, 1e9, 2**53 - 1, 2**53, 1e38, 3.5e38, -3.5e38, 1e300]
OUTSIDE = dataset(
    "bank",
    columns=[
        column.model_dump(mode="json")
        | {"missing": {"pdays": -999.0, "nr.employed": -0.5}.get(column.name), "minimum": 0.0}
        if column.kind == "number" and not column.bands
        else column.model_dump(mode="json")
        for column in BANK.columns
    ],
)


@pytest.mark.parametrize("spec", [TELCO, BANK, OUTSIDE], ids=["telco", "bank", "missing_outside_the_bounds"])
@pytest.mark.parametrize("value", NUMBERS)
def test_a_number_is_taken_as_training_takes_it(spec: DatasetSpec, value: float) -> None:
    reader, described = RequestReader(spec, RULES), jsonschema.Draft202012Validator(request_schema(spec, RULES))
    row = {column.name: rows(spec, 1, seed=3)[0][column.name] for column in request_columns(spec)}
    numbers = [column for column in request_columns(spec) if column.kind == "number"]
    assert len(numbers) >= 3
    for column in numbers:
        trained = checks.number_fits(column, repr(value))
        body = {"customer": row | {column.name: value}}
        assert described.is_valid(body) == trained, column.name
        if trained:
            assert reader.read(json.dumps(body).encode())[0][column.name] == value
        else:
            assert [place for _, *place in faults(body, reader)] == [["customer", column.name]]


@pytest.mark.parametrize("customer", [None, 1, 1e300, "x", [], [CUSTOMER], True])
def test_a_customer_is_an_object(customer: Any) -> None:
    assert faults({"customer": customer}) == [("not_an_object", "customer")]


def test_a_history_is_read() -> None:
    history = {"contacts": [0, 1, 0], "running_offer": 5, "months_left": 2, "answers": {"accepted": 1, "declined": 2}}
    read = READER.read(json.dumps({"customer": CUSTOMER, "history": history}).encode())[1]
    assert read == History((0, 1, 0), 5, 2, 1, 2)
    for nothing in (None, {}, {"contacts": []}, {"running_offer": None}, {"answers": {}}):
        assert READER.read(json.dumps({"customer": CUSTOMER, "history": nothing}).encode())[1] == History()


def test_a_contact_without_a_discount_runs_where_one_may_be_made() -> None:
    body = {"customer": CUSTOMER, "history": {"running_offer": 0, "months_left": 2}}
    assert READER.read(json.dumps(body).encode())[1] == History(running_offer=0, months_left=2)
    jsonschema.validate(body, DESCRIBED)
    discounts = Terms.from_json(DECISION | {"offers": DECISION["offers"] | {"levels": [7, 10]}})
    assert faults(body, RequestReader(TELCO, discounts)) == [("contradicts_months_left", "history", "running_offer")]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(body, request_schema(TELCO, discounts))


def test_a_history_is_as_long_as_the_cap_and_the_policy_look_back() -> None:
    for window, months in ((1, 3), (3, 3), (5, 5)):
        terms = Terms.from_json(DECISION | {"cap": {"max_contacts": 2, "window": window}})
        reader = RequestReader(TELCO, terms)
        body = {"customer": CUSTOMER, "history": {"contacts": [0] * months}}
        assert reader.read(json.dumps(body).encode())[1] == History(contacts=(0,) * months)
        jsonschema.validate(body, request_schema(TELCO, terms))
        body["history"]["contacts"].append(0)
        assert faults(body, reader) == [("too_long", "history", "contacts")]


@pytest.mark.parametrize(
    ("history", "fault"),
    [
        ([], ("not_an_object", "history")),
        ({"visits": 1}, ("unknown_key", "history")),
        ({"contacts": 1}, ("array_type", "history", "contacts")),
        ({"contacts": [0, 0, 0, 0]}, ("too_long", "history", "contacts")),
        ({"contacts": [True]}, ("integer_type", "history", "contacts")),
        ({"contacts": [0.0]}, ("integer_type", "history", "contacts")),
        ({"contacts": [-1]}, ("below_minimum", "history", "contacts")),
        ({"contacts": [10**30]}, ("above_maximum", "history", "contacts")),
        ({"running_offer": "5"}, ("integer_type", "history", "running_offer")),
        ({"running_offer": 51}, ("above_maximum", "history", "running_offer")),
        ({"months_left": None}, ("integer_type", "history", "months_left")),
        ({"months_left": -1}, ("below_minimum", "history", "months_left")),
        ({"running_offer": 20}, ("contradicts_running_offer", "history", "months_left")),
        ({"running_offer": 20, "months_left": 0}, ("contradicts_running_offer", "history", "months_left")),
        ({"months_left": 2}, ("contradicts_months_left", "history", "running_offer")),
        ({"running_offer": None, "months_left": 2}, ("contradicts_months_left", "history", "running_offer")),
        ({"answers": []}, ("not_an_object", "history", "answers")),
        ({"answers": {"maybe": 1}}, ("unknown_key", "history", "answers")),
        ({"answers": {"accepted": 1.5}}, ("integer_type", "history", "answers")),
        ({"answers": {"accepted": 13}}, ("above_maximum", "history", "answers")),  # of a year, one decision a month
    ],
)
def test_a_wrong_history_is_told_by_type_and_place(history: Any, fault: tuple[str, ...]) -> None:
    body = {"customer": CUSTOMER, "history": history}
    assert faults(body) == [fault]
    if history != {"contacts": [0.0]}:  # an integer to JSON schema
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(body, DESCRIBED)


BODY = json.dumps({"customer": CUSTOMER})


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", "not_json"),
        (b"{", "not_json"),
        (b"{'a': 1}", "not_json"),
        (BODY.encode()[:-1], "not_json"),
        (BODY.encode() + b"{}", "not_json"),
        (b"\xef\xbb\xbf" + BODY.encode(), "not_json"),
        (BODY.replace("5", "9" * 5000, 1).encode(), "not_json"),
        (b'{"customer": "a\tb"}', "not_json"),
        (b"\xff\xfe", "not_utf8"),
        (BODY.encode("utf-16"), "not_utf8"),
        (b'{"customer": "\xc0\xaf"}', "not_utf8"),
        (b'{"customer": "\xed\xa0\x80"}', "not_utf8"),
        (b'{"customer": {}, "customer": {}}', "duplicate_key"),
        (b'{"customer": {"a": 1, "a": 1}}', "duplicate_key"),
        (b'{"customer": {"a": 1, "\\u0061": 1}}', "duplicate_key"),
        (b'{"customer": [{"a": 1, "a": 1}]}', "duplicate_key"),
        (b'{"customer": NaN}', "not_finite"),
        (b'{"customer": -Infinity}', "not_finite"),
        (b"[" * 16_000, "nested_too_deeply"),
        (b'{"a":' * 3_000, "nested_too_deeply"),
        (b"[]", "not_an_object"),
        (b"null", "not_an_object"),
        (b'"text"', "not_an_object"),
        (b"17", "not_an_object"),
    ],
)
def test_a_body_that_is_no_proper_json_is_one_fault(body: bytes, kind: str) -> None:
    assert faults(body) == [(kind,)]


def test_a_number_too_large_for_a_float_is_not_finite() -> None:
    for number in ("1e400", "-1e400", "1e39"):
        body = json.dumps(changed(MonthlyCharges=77777)).replace("77777", number)
        assert faults(body.encode()) == [("not_finite", "customer", "MonthlyCharges")]


def test_nothing_of_the_request_is_repeated() -> None:
    secret = "4111-1111-1111"
    body = {"customer": CUSTOMER | {secret: secret, "Contract": secret, "tenure": secret}, secret: 1}
    with pytest.raises(Invalid) as error:
        READER.read(json.dumps(body).encode())
    assert len(error.value.detail) == 4
    assert secret not in json.dumps(error.value.detail)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize(("spec", "reader"), [(TELCO, READER), (BANK, BANK_READER)], ids=["telco", "bank"])
@given(data=st.data())
def test_whatever_is_accepted_has_features(spec: DatasetSpec, reader: RequestReader, data: st.DataObject) -> None:
    drawn = rows(spec, 1, seed=2)[0]
    row = {column.name: drawn[column.name] for column in request_columns(spec)}
    number = st.integers() | st.floats() | st.sampled_from([-1, 0, 999, 1e39, -0.0])
    row |= data.draw(st.dictionaries(st.sampled_from(list(row)), number | JSON, max_size=4))
    try:
        values, _, _ = reader.read(json.dumps({"customer": row}).encode())
    except Invalid:
        return
    x = Featurizer.fit(spec).row(values)
    assert not np.isinf(x).any()


@given(st.dictionaries(st.sampled_from([*CUSTOMER, "Churn", "x"]), JSON, max_size=4), st.none() | JSON)
def test_what_is_accepted_is_what_the_schema_says(changes: dict[str, Any], history: Any) -> None:
    body: dict[str, Any] = {"customer": CUSTOMER | changes, "history": history}
    try:
        READER.read(json.dumps(body).encode())
    except Invalid:
        return
    for name in ("TotalCharges",):  # " " stands for null in exports; the schema speaks of null alone
        if body["customer"][name] in ("", " "):
            body["customer"][name] = None
    jsonschema.validate(body, DESCRIBED)


@pytest.mark.parametrize("spec", [TELCO, BANK], ids=["telco", "bank"])
def test_examples_are_what_they_show(spec: Any) -> None:
    reader = RequestReader(spec, RULES)
    shown = examples(spec, RULES)
    assert {"customer", "history"} <= set(shown)
    for example in shown.values():
        jsonschema.validate(example["value"], request_schema(spec, RULES))
        reader.read(json.dumps(example["value"]).encode())


@given(st.binary(max_size=200))
def test_no_bytes_break_the_parser(body: bytes) -> None:
    with contextlib.suppress(Invalid):
        json.dumps(parse(body), allow_nan=True)


def test_a_time_zone_is_one_of_the_worlds() -> None:
    body = {"customer": CUSTOMER}
    assert READER.read(json.dumps(body).encode()).time_zone is None
    assert READER.read(json.dumps(body | {"time_zone": None}).encode()).time_zone is None
    assert READER.read(json.dumps(body | {"time_zone": "Europe/Berlin"}).encode()).time_zone == "Europe/Berlin"
    for zone, kind in [
        ("Mars/Base", "not_one_of_the_allowed"),
        ("../etc/passwd", "not_one_of_the_allowed"),
        ("", "string_length_or_characters"),
        ("x" * 41, "string_length_or_characters"),
        (7, "string_type"),
    ]:
        assert faults(body | {"time_zone": zone}) == [(kind, "time_zone")]
