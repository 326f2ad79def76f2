"""A month of customers through a real service with the learned policy in its shadow: answered, told and exported."""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from engine.releases import version_of
from retain.record import Record
from tests.releases import dataset, rows
from tests.reliability import write_block
from tests.serve.memory import DAY
from tests.serve.services import ROOT, Address, Served, counted, get, serve

TELCO = dataset("telco")
PEOPLE = 400  # different ones; the id is each request's own
DAYS, LATER = 30, 15  # the days with requests, and those after which no offer is open
# The workers' clock is that of the machine, and as many microseconds as the file says.
CLOCK = """
import functools, pathlib, time
import serve.state
shift = pathlib.Path({shift!r})
def clock():
    return time.time_ns() // 1000 + int(shift.read_text())
serve.worker.State = functools.partial(serve.state.State, clock=clock)
"""
SHADOW = re.compile(r"shadow: (pass|fail: .+|can't tell yet: .+); records in ", re.MULTILINE)


class Caller:
    def __init__(self, address: Address) -> None:
        self._connection = http.client.HTTPConnection(address.host, address.port, timeout=60)

    def close(self) -> None:
        self._connection.close()

    def post(self, path: str, body: Any, status: int = 200) -> Any:
        self._connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        response = self._connection.getresponse()
        content = json.loads(response.read())
        assert response.status == status, content
        return content


def month(service: Served, shift: Path, customers: int) -> Counter[str]:
    """What was answered, by action, and what was told of it. Customers accept as the models think they would."""
    rng, counts = random.Random(30), Counter[str]()
    people = rows(TELCO, PEOPLE, seed=30)
    with closing(Caller(service.api)) as caller:
        for number in range(customers):
            shift.write_text(str(number * DAYS * DAY // customers))
            answer = caller.post("/retain", {"customer": rng.choice(people) | {"customerID": f"M-{number}"}})
            counts["contact" if answer["offer"] is not None else "no contact"] += 1
            decision = {"decision_id": answer["decision_id"]}
            if answer["offer"] is not None and rng.random() < 0.7:
                outcome = "accepted" if rng.random() < answer["acceptance"] else "declined"
                assert caller.post("/outcomes", decision | {"outcome": outcome}) == {"status": "recorded"}
                counts[outcome] += 1
            if rng.random() < 0.1 * answer["risk"]:
                caller.post("/outcomes", decision | {"outcome": "churned"})
                counts["churned"] += 1
            if rng.random() < 0.01:
                caller.post("/suppress", {"customer": f"M-{number}"})
                counts["opted out"] += 1
        shift.write_text(str((DAYS + LATER) * DAY))
        caller.post("/retain", {"customer": people[0] | {"customerID": "the last"}})  # open offers expire
    return counts


@pytest.fixture
def served(artifact: Path, store: Path, tmp_path: Path) -> Iterator[tuple[Served, dict[str, str], Path]]:
    shift = tmp_path / "shift"
    shift.write_text("0")
    environment = {
        "RELEASE_PATH": str(artifact),
        "RETAIN_STORE": str(store),
        "DATABASE_URL": f"sqlite:///{tmp_path / 'state' / 'serving.db'}",
        "RETAIN_EXPLORATION": "0.3",
    }
    with serve(environment, CLOCK.format(shift=str(shift))) as service:
        yield service.begun(), environment, shift


def run(environment: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, env=os.environ | environment, capture_output=True, text=True
    )


def look(service: Served, environment: dict[str, str], artifact: Path, folder: Path) -> dict[str, Any]:
    """What the commands of `make shadow` and `make decisions.export` say, which has to be what the service says."""
    exported = run(environment, "serve", "export")
    assert exported.returncode == 0, exported.stderr
    (folder / "records.jsonl").write_text(exported.stdout)
    records = [Record.model_validate_json(line) for line in exported.stdout.splitlines()]

    out = folder / "shadow.parquet"
    told = run(environment, "eval.shadow", str(folder / "records.jsonl"), "--experiment", "toy", "--out", str(out))
    verdict = SHADOW.search(" ".join(told.stdout.split()))
    assert verdict, (told.stdout, told.stderr)
    assert told.returncode == (0 if verdict[1] == "pass" else 1)
    shadow = json.loads(get(service.admin, "/shadow"))
    assert (shadow["release"], shadow["decisions"]) == (version_of(artifact), len(records))
    assert {"pass": "pass", "fail": "fail", "hold": "can't"}[shadow["verdict"]] == re.split("[: ]", verdict[1])[0]
    assert [row["decision_id"] for row in pq.read_table(out).to_pylist()] == [each.decision_id for each in records]

    out = folder / "decisions.parquet"
    assert run(environment, "eval.decisions", str(folder / "records.jsonl"), "--out", str(out)).returncode == 0
    by_id = {record.decision_id: record for record in records}
    drawn = pq.read_table(out).to_pylist()
    for row in drawn:
        record = by_id[row["decision_id"]]
        assert (row["offer"], row["pscore"], row["charge"]) == (record.offer, record.detail.pscore, record.charge)
        assert row["accepted"] == (None if record.offer is None else record.answered == "accepted")

    spent = sum(record.cost + record.liability * (record.answered == "accepted") for record in records)
    spent -= sum(outcome.given_back or 0.0 for record in records for outcome in record.outcomes)
    assert {record.answered for record in records if record.offer is not None} == {"accepted", "declined", "expired"}
    committed = counted(service)["retain_wallet_committed"]
    assert committed == pytest.approx(spent, abs=0.001)
    completed = sum(record.shadow is not None and record.shadow.wanted is not None for record in records)
    return {
        "decisions": len(records),
        "expired": sum(record.answered == "expired" for record in records),
        "completed": completed,
        "drawn": len(drawn),
        "committed": committed,
        "spent": spent,
        "verdict": verdict[1],
    }


@pytest.mark.slow
def test_a_month_of_many_customers_is_told_and_exported(
    served: tuple[Served, dict[str, str], Path], artifact: Path, tmp_path: Path
) -> None:
    service, environment, shift = served
    counts = month(service, shift, 6000)
    found = look(service, environment, artifact, tmp_path)
    assert found["decisions"] == 6001
    write_block(
        "a month of customers",
        [
            "| | |",
            "|---|---|",
            f"| decisions on record | {found['decisions']:,} |",
            f"| with an offer | {counts['contact']:,} |",
            f"| accepted, declined, expired | {counts['accepted']:,}, {counts['declined']:,}, {found['expired']:,} |",
            f"| customers who left, and who opted out | {counts['churned']:,}, {counts['opted out']:,} |",
            f"| completed by the learned policy's shadow | {found['completed']:,} |",
            f"| randomised, and read back from the export | {found['drawn']:,} |",
            f"| spent by the wallet, and by the records | {found['committed']:.2f}, {found['spent']:.2f} |",
            f"| `make shadow` | {found['verdict']} |",
        ],
    )
