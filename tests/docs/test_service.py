"""docs/SERVICE.md states the limits that the code has."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from retain import dataset, plausible, release
from serve import child, logs, metrics, protocol, request_id, routes, schema, settings, supervisor
from tests.deploy.exposed import exposed
from tests.docs.documents import first_cell, lacks, paragraphs, read, row, section

TEXT = read("docs/SERVICE.md")


@pytest.mark.parametrize(
    ("begins", "limits"),
    [
        ("request line and headers", (protocol.MAX_HEAD / 1024, 431)),
        ("time for them", (protocol.HEAD_SECONDS,)),
        ("body", (routes.MAX_BODY / 1024, 413)),
        ("time for it", (routes.READ_SECONDS, 408)),
        ("requests that wait", (protocol.MAX_PIPELINE,)),
        ("connections of a worker", (child.MAX_CONNECTIONS, 503)),
        ("idle time", (settings.KEEP_ALIVE,)),
        ("time to finish", (child.STOP_SECONDS,)),
    ],
)
def test_limits_and_time_outs(begins: str, limits: tuple[float, ...]) -> None:
    assert lacks(row(TEXT, begins), *limits) == set()


def test_rules_of_values() -> None:
    assert lacks(paragraphs(TEXT, "**Ids**"), dataset.MAX_ID) == set()
    numbers = paragraphs(TEXT, "**Plausible numbers.**")
    assert lacks(numbers, plausible.FACTOR, plausible.RATIO) == set()
    assert f"{plausible.RANK}th largest times {plausible.FACTOR:g}" in numbers
    assert lacks(paragraphs(TEXT, "**The cost of one offer.**"), 100 * release.MAX_SHARE) == set()
    assert lacks(paragraphs(TEXT, "Every refusal"), schema.MAX_ERRORS) == set()


def test_rules_of_processes() -> None:
    assert lacks(first_cell(TEXT, "a worker's event loop"), supervisor.HUNG_SECONDS) == set()
    delays = (supervisor.FIRST_DELAY, supervisor.LONGEST_DELAY)
    assert lacks(row(TEXT, "a worker ends again"), *delays) == set()
    assert lacks(row(TEXT, "SIGTERM"), child.STOP_SECONDS, protocol.LAST_SECONDS) == set()
    assert supervisor.LEAVE_SECONDS == child.STOP_SECONDS + child.LATE_SECONDS
    assert lacks(paragraphs(TEXT, "`X-Request-Id`"), request_id.MAX) == set()
    assert f"one line {'a minute' if logs.SECONDS == 60 else logs.SECONDS}" in TEXT


def test_why_processes_end_is_told(tmp_path: Path) -> None:
    settings = SimpleNamespace(release=tmp_path, parts={}, challenger=None)
    counted = supervisor.Supervisor(settings, {}, {}, tmp_path).ended  # type: ignore[arg-type]
    assert [why for why in counted if f"`{why}`" not in row(TEXT, "`retain_processes_ended_total`")] == []


def test_every_reason_and_every_status_that_is_counted_is_told() -> None:
    assert [
        reason for reason in metrics.REFUSALS if f"`{reason}`" not in row(TEXT, "`retain_protocol_errors_total`")
    ] == []
    refusals = TEXT.partition("## Refusals")[2].partition("## Values")[0]
    assert lacks(refusals, *(code for code in metrics.CODES if code != 200)) == set()


def test_every_metric_that_is_exposed_is_told_and_no_other() -> None:
    cells = re.findall(r"^\| ([^|]*) \|", section(TEXT, "What is counted"), flags=re.MULTILINE)
    told = {name.removesuffix("_total") for cell in cells for name in re.findall(r"`(retain_\w+)`", cell)}
    assert told == exposed()
