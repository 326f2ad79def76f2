"""A table with a column for the customer's name: from the request to the greeting, and nowhere else."""

from __future__ import annotations

import dataclasses
import json
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from retain.release import Release, load
from serve.database import Database
from serve.keep import exported
from serve.router import Router
from serve.schema import request_schema
from tests.names import BAD_NAMES, names
from tests.releases import FOOTER, approved, dataset, decided, inputs, rows, run_stage
from tests.serve.apps import app_of
from tests.serve.client import Client
from tests.serve.memory import Clock
from tests.words import check, clean_name

NAME = "FirstName"
NOBODY_HELD_OUT = Router(hold_out=0.0)
_numbers = count()


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Release:
    base = tmp_path_factory.mktemp("named")
    out = run_stage(base, inputs(base / "in", dataset("telco", named=NAME), dataset("bank")))
    return approved(load({path.relative_to(out).as_posix(): path for path in out.rglob("*") if path.is_file()}))


@pytest.fixture(scope="module")
def months(named: Release) -> int:
    """How long an offer holds."""
    return named.terms.offers.months


@pytest.fixture
def client(named: Release) -> Client:
    return Client(app_of("v1", named, NOBODY_HELD_OUT))


@pytest.fixture
def templates(named: Release) -> Client:
    """The release that speaks in templates alone; the others' banks greet by themselves."""
    return Client(
        app_of("v1", dataclasses.replace(named, banks={"template": named.banks["template"]}), NOBODY_HELD_OUT)
    )


@pytest.fixture(scope="module")
def risky(named: Release) -> dict[str, Any]:
    return max(rows(named.spec, 100, seed=6), key=lambda row: decided(named, row)[0].risk)


@pytest.fixture
def bare(templates: Client, risky: dict[str, Any]) -> Any:
    """The answer without a name."""
    return answer(templates, risky, "")


def answer(client: Client, customer: dict[str, Any], name: object) -> Any:
    """To a customer whom nobody has asked about yet."""
    return client.post({"customer": customer | {NAME: name, "customerID": f"N-{next(_numbers)}"}}).json()


def test_a_name_is_greeted_and_changes_nothing_else(templates: Client, risky: dict[str, Any]) -> None:
    plain, greeted = answer(templates, risky, ""), answer(templates, risky, "Ann")
    assert greeted["message"]["text"] == "Hello Ann. " + plain["message"]["text"]
    for found in (plain, greeted):
        del found["message"]["text"], found["decision_id"]
    assert plain == greeted


def test_no_name_is_on_record(named: Release, risky: dict[str, Any], tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'serving.db'}"
    templates = dataclasses.replace(named, banks={"template": named.banks["template"]})
    client = Client(app_of("v1", templates, NOBODY_HELD_OUT, url=url, clock=Clock()))
    key = {"Idempotency-Key": "k"}
    customer = risky | {NAME: "Unmistakable", "customerID": "N"}
    first = client.post({"customer": customer}, **key)
    assert "Hello Unmistakable. " in first.text
    repeated = client.post({"customer": customer}).json()
    assert client.post({"customer": customer}, **key).json() == first.json() == repeated | {"repeated": False}
    assert client.post({"customer": customer | {NAME: "Ann"}}).json()["message"]["text"].startswith("Hello Ann. ")
    database = Database(url)
    (line,) = exported(database, "key")
    database.close()
    for text in (client.get(f"/decisions/{first.json()['decision_id']}").text, line.decode()):
        assert "Unmistakable" not in text
        said = first.json()["message"]["text"].removeprefix("Hello Unmistakable. ")
        assert json.loads(text)["answer"]["message"]["text"] == said


def test_a_message_that_greets_by_itself_is_not_greeted_twice(client: Client, risky: dict[str, Any]) -> None:
    found = answer(client, risky, "Ann")["message"]
    assert found["source"] == "sft"
    assert found["text"].startswith("Hello, and thank you")


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=names())
def test_whatever_the_name_what_is_sent_keeps_the_rules(
    templates: Client, risky: dict[str, Any], bare: Any, months: int, name: str
) -> None:
    found = answer(templates, risky, name)
    if "detail" in found:
        assert found["detail"][0] == {"type": "string_length_or_characters", "loc": ["body", "customer", NAME]}
        assert len(name) > 200 or not name.isprintable()
        return
    body, _, below = found["message"]["text"].partition("\n")
    plain = bare["message"]["text"].partition("\n")[0]
    assert body in (plain, f"Hello {clean_name(name)}. {plain}")
    assert below == FOOTER
    assert check(body, found["offer"], months) == []
    del found["message"]
    assert NAME not in json.dumps(found)


@pytest.mark.parametrize("name", [name for name in BAD_NAMES if name.isprintable()])
def test_what_is_no_name_is_not_greeted(templates: Client, risky: dict[str, Any], bare: Any, name: str) -> None:
    assert answer(templates, risky, name)["message"] == bare["message"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [(7, "string_type"), (None, "string_type"), ("A" * 201, "string_length_or_characters")],
)
def test_what_is_no_text_is_refused(client: Client, risky: dict[str, Any], name: object, kind: str) -> None:
    assert answer(client, risky, name)["detail"] == [{"type": kind, "loc": ["body", "customer", NAME]}]


def test_a_name_is_described_and_is_neither_a_feature_nor_seen_by_a_policy(named: Release) -> None:
    schema = request_schema(named.spec, named.terms)["properties"]["customer"]
    assert schema["properties"][NAME] == {"type": "string", "maxLength": 200}
    assert NAME not in named.risk.featurizer.sources
    assert named.policy is not None
    assert NAME not in named.policy.to_json().decode()
