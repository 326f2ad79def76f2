"""Requests by the thousand, made from the service's own OpenAPI, to real processes.

Whatever comes, there is no 5xx, answers are what OpenAPI says, nothing of a request that was refused is repeated, none
of those reaches the learned arm, and which arm decides is drawn by the customer's id alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi import checks

from retain.release import Release
from serve.bodies import DECISION_ID
from serve.router import Router
from tests.reliability import write_block
from tests.serve.services import Served, counted, serve, until

pytestmark = pytest.mark.kills

CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
PERCENT = 50
ROUTER = Router(force_baseline=False, percent=PERCENT)
# What a request can do about the learned arm, beside being answered: nothing. These come of a slow machine alone.
SLOW = ("deadline", "circuit_open", "overloaded", "not_running")
SHORTEST = 6  # characters of a text that can't be one of the service's own words by chance
GROWTH = 16 << 20  # bytes of a worker, beyond what it has come to after the first tenth of the requests


class Fuzz:
    """Sends cases to a service and looks at what it answers."""

    def __init__(self, service: Served, release: Release) -> None:
        self.url = f"http://{service.api.host}:{service.api.port}"
        self.service, self.release = service, release
        self.codes: Counter[tuple[str, int]] = Counter()
        self.decisions: list[str] = []  # ids that were answered
        self.session = requests.Session()
        self.words = self.session.get(f"{self.url}/openapi.json").text
        schema = schemathesis.openapi.from_url(f"{self.url}/openapi.json")
        self.operations = [found.ok() for found in schema.get_all_operations()]

    def run(self, cases: int, number: int = 0) -> None:
        """As many, of every operation, of those that are meant to be valid and of those that aren't."""
        strategies = [
            operation.as_strategy(generation_mode=mode)
            for operation in self.operations
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
        ]
        retain = [operation for operation in self.operations if operation.path == "/retain"]
        strategies += [operation.as_strategy() for operation in retain]

        @seed(number)
        @settings(
            max_examples=cases,
            phases=[Phase.generate],
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=st.one_of(strategies), place=st.integers(0, 1 << 20))
        def each(case: Any, place: int) -> None:
            if self.decisions and place % 4:
                name_decision(case, self.decisions[place // 4 % len(self.decisions)])
            response = case.call(base_url=self.url, session=self.session)
            case.validate_response(response, checks=CHECKS)
            self.look_at(case.operation.path, case.body, response)

        each()

    def look_at(self, path: str, body: Any, response: Any) -> None:
        text, status = response.text, response.status_code
        self.codes[path, status] += 1
        if status >= 400:
            repeated = [word for word in texts_of(body) if word in text and word not in self.words]
            assert repeated == [], (repeated, text)
        elif path == "/retain":
            answer = response.json()
            self.decisions += [answer["decision_id"]] if answer["decision_id"] else []
            if answer["mode"] == "learned":
                identifier = body["customer"][self.release.spec.roles["id"]]
                assert ROUTER.arm(identifier) == "learned"


def name_decision(case: Any, decision: str) -> None:
    """Has the case be about a decision that there is: an id that is made up never is that of one."""
    if case.path_parameters:
        case.path_parameters["decision_id"] = decision
    if isinstance(case.body, dict) and re.fullmatch(DECISION_ID, str(case.body.get("decision_id"))):
        case.body["decision_id"] = decision


def texts_of(content: Any) -> Iterator[str]:
    """Every text in it that is long enough to be told apart."""
    if isinstance(content, str) and len(content) >= SHORTEST:
        yield content
    elif isinstance(content, dict):
        for key, value in content.items():
            yield from texts_of(key)
            yield from texts_of(value)
    elif isinstance(content, list):
        for value in content:
            yield from texts_of(value)


@pytest.fixture
def fuzz(artifact: Path, store: Path, tmp_path: Path, release: Release) -> Iterator[Fuzz]:
    environment = {
        "RELEASE_PATH": str(artifact),
        "RETAIN_STORE": str(store),
        "DATABASE_URL": f"sqlite:///{tmp_path / 'serving.db'}",
        "FORCE_BASELINE": "false",
        "CANARY_PERCENT": str(PERCENT),
    }
    with serve(environment) as service:
        service.begun()
        until(lambda: counted(service)["retain_arm_running"] == 2)
        yield Fuzz(service, release)


def asked_of_arm(service: Served) -> tuple[float, float]:
    """Questions that the learned arm was asked, and failures that aren't those of a slow machine."""
    counts = counted(service)
    failures = {name: value for name, value in counts.items() if name.startswith("retain_arm_failures_total")}
    bad = sum(value for name, value in failures.items() if not any(kind in name for kind in SLOW))
    return counts["retain_arm_answers_total"] + sum(failures.values()), bad


def test_nothing_that_openapi_allows_or_forbids_breaks_the_service(fuzz: Fuzz) -> None:
    fuzz.run(2_000)
    check(fuzz)


@pytest.mark.slow
def test_twenty_thousand_requests_neither_break_the_service_nor_make_it_grow(fuzz: Fuzz) -> None:
    fuzz.run(2_000)
    before = memory(fuzz.service)
    for number in range(1, 10):
        fuzz.run(2_100, number)
    check(fuzz)
    after = memory(fuzz.service)
    growth = {name: after[name] - before[name] for name in before}
    assert max(growth.values()) < GROWTH
    lines = ["| path | requests | 2xx | 4xx | 5xx |", "|---|---|---|---|---|"]
    for path in sorted({path for path, _ in fuzz.codes}):
        of = [sum(n for (at, code), n in fuzz.codes.items() if at == path and code // 100 == k) for k in (2, 4, 5)]
        lines.append(f"| {path} | {sum(of)} | {of[0]} | {of[1]} | {of[2]} |")
    megabytes = ", ".join(f"{size / 2**20:.1f}" for size in growth.values())
    lines += ["", f"The workers' memory changed by {megabytes} MB after the first 2,000 requests."]
    write_block("requests made from OpenAPI", lines)


def check(fuzz: Fuzz) -> None:
    for path in ("/retain", "/outcomes", "/suppress", "/decisions/{decision_id}"):
        assert fuzz.codes[path, 200] > 10, sorted(fuzz.codes.items())
    accepted = fuzz.codes["/retain", 200]
    asked, bad = asked_of_arm(fuzz.service)
    assert 0 < asked <= accepted
    assert bad == 0
    assert accepted < fuzz.codes.total()
    assert fuzz.service.children("worker").keys() == {"worker-0", "worker-1"}
    ended = [value for name, value in counted(fuzz.service).items() if name.startswith("retain_processes_ended")]
    assert ended == [0] * 4


def memory(service: Served) -> dict[str, int]:
    return {name: process.memory_info().rss for name, process in service.children("worker").items()}
