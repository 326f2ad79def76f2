from __future__ import annotations

import asyncio
import json
import random
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from bench.load import measure
from bench.load.bare import echo
from bench.load.requests import CONNECTIONS, MARK, Numbers, Paced, bodies, paced, percentile, script
from bench.load.services import answered
from bench.load.worker import MemoryState
from retain.release import Release, load
from serve.metrics import Metrics
from serve.operations import Answered, Ask, Complete
from serve.schema import RequestReader
from serve.service import Service
from serve.writer import Writer
from tests.releases import dataset, inputs, rows, run_stage


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    base = tmp_path_factory.mktemp("load")
    out = run_stage(base, inputs(base / "inputs", dataset("telco"), dataset("bank")))
    return load({path.relative_to(out).as_posix(): path for path in Path(out).rglob("*") if path.is_file()})


@pytest.fixture(scope="module")
def customers() -> list[dict[str, Any]]:
    return rows(dataset("telco"), 3, seed=1)


def test_every_request_is_about_another_customer(release: Release, customers: list[dict[str, Any]]) -> None:
    column = release.spec.roles["id"]
    reader = RequestReader(release.spec, release.terms)
    asked = [
        reader.read((before + f"bench-{number:010d}" + after).encode()).values
        for before, after in bodies(customers, column)
        for number in (1, 2)
    ]
    assert len({values[column] for values in asked}) == 2
    assert [{**values, column: ""} for values in asked[::2]] == [{**row, column: ""} for row in customers]
    numbers = Numbers()
    assert [numbers.take(5), numbers.take(3), numbers.take(1)] == [0, 5, 8]


@pytest.mark.skipif(shutil.which("luajit") is None and shutil.which("lua") is None, reason="wants Lua")
def test_the_script_states_the_length_of_a_body(tmp_path: Path, customers: list[dict[str, Any]]) -> None:
    lua = script(bodies(customers, "customerID")) + 'init({"41"}) io.write(request())'
    (tmp_path / "script.lua").write_text(lua)
    command = [shutil.which("luajit") or shutil.which("lua") or "", str(tmp_path / "script.lua")]
    out = subprocess.run(command, capture_output=True, check=True).stdout
    head, body = out.split(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert json.loads(body)["customer"]["customerID"] == "bench-0000000042"


def test_a_stated_length_is_that_of_the_body(customers: list[dict[str, Any]]) -> None:
    requests = bodies(customers, "customerID")
    for before, after in requests:
        assert f"{{{len(before + MARK + after)}, " in script(requests)
    assert len(f"bench-{1:010d}") == len(MARK)


def test_the_echo_reads_as_the_service_does(release: Release, customers: list[dict[str, Any]]) -> None:
    client = TestClient(echo(release.spec, release.terms))
    answer = client.post("/retain", json={"customer": customers[0]})
    assert answer.status_code == 200
    assert answer.json() == {"customer": customers[0]}
    assert client.post("/retain", json={"customer": {**customers[0], "Contract": "Lease"}}).status_code == 422
    assert client.post("/retain", json={"customer": customers[0], "more": 1}).status_code == 422


def test_without_a_database_the_wallet_holds_for_what_is_offered(
    release: Release, customers: list[dict[str, Any]]
) -> None:
    state: Any = MemoryState(release.terms)
    asked: list[Ask] = []

    async def test() -> list[bytes]:
        service = Service("v1", release, Metrics(), Writer(state))
        await service.start()
        keep = state.carry_out
        state.carry_out = lambda operations: (asked.extend(operations), keep(operations))[1]
        ids = (dict(customer, customerID=f"c{number}") for number, customer in enumerate(customers * 20))
        replies = [await service.decide(json.dumps({"customer": row}).encode()) for row in ids]
        await service.stop()
        return [reply.body for reply in replies]

    answers = [json.loads(body) for body in asyncio.run(test())]
    assert len({answer["decision_id"] for answer in answers}) == len(asked) == 60
    offers = [answer for answer in answers if answer["offer"] is not None]
    assert offers
    assert state._wallet.open == len(offers)
    assert state.carry_out([Complete("x", b"{}")]) == [None]
    assert isinstance(state.carry_out([replace(asked[0])])[0], Answered)


def test_requests_come_when_they_are_due_though_none_is_answered() -> None:
    """A service that stands still makes all wait that come meanwhile, and each of them counts from when it was due."""
    arrived: list[float] = []
    stood_still = 0.0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal stood_still
        with suppress(asyncio.IncompleteReadError):  # the client is done
            while head := await reader.readuntil(b"\r\n\r\n"):
                await reader.readexactly(int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0]))
                arrived.append(time.perf_counter())
                if len(arrived) == CONNECTIONS:
                    stood_still = time.perf_counter() - arrived[0]
                    goes_on.set()
                await goes_on.wait()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        writer.close()

    async def test() -> Paced:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/retain"
        result = await paced(url, [('{"id": "', '"}')], 100.0, 0.5, 0)
        server.close()
        await server.wait_closed()
        await asyncio.sleep(0.05)
        return result

    goes_on = asyncio.Event()
    result = asyncio.run(test())
    draw, due = random.Random(0), 0.0
    expected = 0
    while (due := due + draw.expovariate(100.0)) < 0.5:
        expected += 1
    assert result.failed == 0
    assert len(result.seconds) == len(arrived) == expected > 2 * CONNECTIONS
    assert max(result.seconds) >= stood_still > 0


def test_percentiles() -> None:
    assert percentile([float(value) for value in range(100)], 99) == 99
    assert percentile([3.0, 1.0, 2.0], 50) == 2
    assert percentile([1.0], 99) == 1


def test_what_was_counted_in_between() -> None:
    before = {"retain_decisions_total{why=a}": 2.0, "retain_arm_answers_total": 1.0}
    after = {
        "retain_decisions_total{why=a}": 5.0,
        "retain_decisions_total{why=b}": 1.0,
        "retain_answers_again_total{why=repeated}": 1.0,
        "retain_arm_answers_total": 98.0,
        'retain_arm_failures_total{kind="overloaded"}': 3.0,
        'retain_arm_failures_total{kind="deadline"}': 0.0,
    }
    counts = answered(before, after)
    assert counts == {"decisions": 4, "again": 1, "arm answered": 97, "arm overloaded": 3}
    assert measure.unanswered(counts) == {"overloaded": 3.0}


def test_growth_is_that_of_the_settled_part() -> None:
    grows = [(float(n), (100 << 20) + n * 1024.0) for n in range(0, 20_000, 1000)]
    assert measure.growth(grows) == pytest.approx(
        14 * 1000 / 1024, rel=0.01
    )  # MB of 19,000 KB, without the first quarter
    settles = [(float(n), float(min(n, 4000) * 10_000 + (50 << 20))) for n in range(0, 20_000, 1000)]
    assert measure.growth(settles) == pytest.approx(0, abs=0.01)


def test_bytes_a_decision(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "a.db") as connection:
        connection.execute("CREATE TABLE decision (id)")
        connection.executemany("INSERT INTO decision VALUES (?)", [["x" * 1000]] * 64)
    assert 1000 < measure.bytes_a_decision(tmp_path / "a.db") < 1600


def turns(requests: int, worker: float, **counts: float) -> list[dict[str, Any]]:
    one = {"requests": requests, "seconds": 2.0, "failed": 0, "p99_ms": 9.0, "cpu_us": {"worker": worker, "arm": 20.0}}
    return [{**one, "counts": {"decisions": requests, "arm answered": requests, **counts}} for _ in range(3)]


def results(worker: float = 180.0, **others: Any) -> dict[str, Any]:
    bare = [{**turn, "cpu_us": {"worker": 100.0, "arm": 0.0}} for turn in turns(4000, 0)]
    variants = {measure.BARE: measure._summed(bare, bare)}
    for name in (measure.MEMORY, measure.PRODUCT):
        variants[name] = measure._summed(turns(2400, worker, **others.pop("counts", {})), bare)
    found: dict[str, Any] = {
        "variants": variants,
        "paced": {"p99_ms": 5.0, "p50_ms": 1.0, "failed": 0},
        "memory_mb": {"worker": 100.0, "arm": 50.0},
        "start_s": [1.5, 1.6],
        "database_bytes": 2500.0,
    }
    return found | others


def unmet(found: dict[str, Any]) -> list[str]:
    return [check["name"] for check in measure.checks(found) if not check["met"]]


def test_ratios_are_to_the_bare_echo_of_the_same_turn() -> None:
    summed = results()["variants"][measure.PRODUCT]
    assert summed["requests/s"] == 1200
    assert summed["rate_ratio"] == pytest.approx(0.6)
    assert summed["cpu_us"] == 200
    assert summed["cpu_ratio"] == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("spoil", "missed"),
    [
        (dict, []),
        (lambda: {"worker": 190.0}, ["CPU a request, without a database"]),
        (lambda: {"paced": {"p99_ms": 16.0, "p50_ms": 1.0, "failed": 0}}, ["p99 at half of capacity, ms"]),
        (lambda: {"start_s": [2.5, 2.4, 1.0]}, ["start to ready, s"]),
        (lambda: {"memory_mb": {"worker": 150.0, "arm": 51.0}}, ["memory of a worker with its arm, MB"]),
        (lambda: {"counts": {"again": 1.0}}, ["failed or repeated"]),
        (lambda: {"counts": {"arm overloaded": 100.0}}, ["questions that the learned arm left unanswered, %"]),
        (lambda: {"long": {"growth_mb": 9.0, "failed": 0, "counts": {}}}, ["growth over the long load, MB"]),
    ],
)
def test_a_limit_that_is_missed_is_named(spoil: Callable[[], dict[str, Any]], missed: list[str]) -> None:
    assert unmet(results(**spoil())) == missed


def test_tables_show_every_limit() -> None:
    found = results()
    found["checks"] = measure.checks(found)
    first, second = measure.tables(found)
    assert first.row_count == 3
    assert second.row_count == len(found["checks"]) + 2
