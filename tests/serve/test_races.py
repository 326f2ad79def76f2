"""Several processes that write at the same time, and processes that are killed while they write."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from serve.batch import digest_of
from serve.database import Database
from serve.tables import decision, suppression
from tests.serve.memory import DAY, MONTH, balance
from tests.serve.racer import Job

PROJECT = Path(__file__).resolve().parents[2]

Racer = subprocess.Popen[str]


@contextmanager
def racers(*jobs: Job) -> Iterator[list[Racer]]:
    """Processes that have begun their jobs at the same time."""
    command = [sys.executable, "-m", "tests.serve.racer"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "encoding": "utf-8"}
    processes = [subprocess.Popen(command, cwd=PROJECT, **pipes) for _ in jobs]
    try:
        for process, job in zip(processes, jobs):
            write(process, json.dumps(asdict(job)))
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            write(process, "go")
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(BrokenPipeError):
                        pipe.close()


def write(process: Racer, line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


def race(*jobs: Job) -> list[list[Any]]:
    """[kind, customer, key, result] of all that each process was answered."""
    with racers(*jobs) as processes:
        outputs = [process.communicate(timeout=120)[0] for process in processes]
        assert [process.returncode for process in processes] == [0] * len(jobs)
    return [[one for line in output.splitlines() for one in json.loads(line)] for output in outputs]


def asks(customers: Sequence[str], keyed: bool = False) -> list[tuple[str, str, str | None]]:
    return [("ask", name, f"key-{name}" if keyed else None) for name in customers]


def test_two_processes_have_one_budget(url: str) -> None:
    """Everybody accepts at once, and not a cent is spent twice."""
    errands = {
        side: [
            (kind, f"{side}{number + n}", None)
            for number in range(0, 200, 8)
            for kind in ("ask", "accepted")
            for n in range(8)
        ]
        for side in "ab"
    }
    jobs = [Job(url, errands[side], budget=3333.33, batch=8, terms={"wallet": "worst_case"}) for side in "ab"]
    first, second = race(*jobs)
    with closing(Database(url)) as database:
        spent, opened = balance(database)
    assert opened == 0
    assert 3333.33 - 32 < spent <= 3333.33
    for results in (first, second):
        assert any(result == "recorded" for *_, result in results)


def test_one_key_has_one_decision_in_two_processes(url: str) -> None:
    names = [f"c{number}" for number in range(150)]
    first, second = race(Job(url, asks(names, True)), Job(url, asks(names, True)))
    for (*_, one), (*_, other) in zip(first, second, strict=True):
        assert (one["decision_id"], one["answer"]) == (other["decision_id"], other["answer"])
        assert one["replayed"] != other["replayed"]
    with closing(Database(url)) as database, database.reading() as connection:
        assert len(connection.execute(select(decision.c.id)).all()) == 150


def test_an_open_offer_is_made_once_by_two_processes(url: str) -> None:
    names = [f"c{number}" for number in range(150)]
    first, second = race(Job(url, asks(names)), Job(url, asks(names)))
    for (*_, one), (*_, other) in zip(first, second, strict=True):
        assert one["decision_id"] == other["decision_id"]
        assert one["repeated"] != other["repeated"]
    with closing(Database(url)) as database:
        assert balance(database) == (150.0, 150)


def test_two_processes_keep_one_cap_though_their_clocks_differ(url: str) -> None:
    """A year in steps of five days, one process ahead of the other, and every offer refused at once."""
    names = [f"c{number}" for number in range(6)]
    year = [(kind, name, None) for _ in range(73) for name in names for kind in ("ask", "declined")]
    race(*[Job(url, list(year), batch=12, step=step * DAY) for step in (5, 4)])
    contacts: defaultdict[bytes, list[int]] = defaultdict(list)
    with closing(Database(url)) as database:
        balance(database)
        with database.reading() as connection:
            for customer, at in connection.execute(
                select(decision.c.customer, decision.c.at).where(decision.c.offer >= 0)
            ):
                contacts[customer].append(at)
    assert len(contacts) == 6
    for times in map(sorted, contacts.values()):
        assert len(times) >= 6
        assert min(later - earlier for earlier, later in zip(times, times[1:])) >= MONTH  # noqa: RUF007
        assert min(later - earlier for earlier, later in zip(times, times[2:])) >= 3 * MONTH


def test_who_opted_out_in_one_process_is_not_contacted_by_another(url: str) -> None:
    names = [f"c{number}" for number in range(120)]
    opting = [("suppress", name, None) for name in reversed(names)]
    race(Job(url, asks(names)), Job(url, opting))
    with closing(Database(url)) as database, database.reading() as connection:
        since = dict(connection.execute(select(suppression.c.customer, suppression.c.at)).all())
        made = connection.execute(select(decision.c.customer, decision.c.at, decision.c.offer)).all()
        assert len(since) == len(made) == 120
        assert set(since) == {digest_of(name, database.salt) for name in names}
    assert {(offer is None) for customer, at, offer in made if at > since[customer]} == {True}
    assert {(offer is None) for customer, at, offer in made if at < since[customer]} == {False}


# -- kills ---------------------------------------------------------------------------------------------------------


def kill_and_look(url: str, kills: int, seed: int) -> None:
    """Two processes write until both are killed, again and again. All that was answered has to be on record, once."""
    rng = random.Random(seed)
    acknowledged: dict[str, dict[str, Any]] = {}
    for kill in range(kills):
        jobs = [
            Job(url, _errands(rng, f"{kill}{side}", list(acknowledged)), batch=rng.choice([1, 4, 16])) for side in "ab"
        ]
        with racers(*jobs) as processes:
            streams = [process.stdout for process in processes if process.stdout]
            outputs = [stream.readline() for stream in streams for _ in range(rng.randint(1, 8))]
            time.sleep(rng.uniform(0.0, 0.02))  # they are anywhere in a batch
            for process in rng.sample(processes, 2):
                process.kill()
            outputs += [stream.read() for stream in streams]
        results = [
            one
            for output in outputs
            for line in output.splitlines(True)
            if line.endswith("\n")
            for one in json.loads(line)
        ]
        for kind, _, key, result in results:
            if kind == "ask":
                before = acknowledged.setdefault(key, result)
                assert (before["decision_id"], before["answer"]) == (result["decision_id"], result["answer"])
        _look(url, acknowledged)
    assert len(acknowledged) > 10 * kills  # they were killed at their work


def _errands(rng: random.Random, side: str, known: list[str]) -> list[tuple[str, str, str | None]]:
    """More than can be done before the kill; also the keys that were answered before another one."""
    errands: list[tuple[str, str, str | None]] = []
    for number in range(5000):
        if known and rng.random() < 0.1:
            key = rng.choice(known)
            errands.append(("ask", key.removeprefix("key-"), key))
        name = f"{side}-{number}"
        errands.append(("ask", name, f"key-{name}"))
        if number >= 20 and (kind := rng.choice(["accepted", "declined", "churned", "complete", ""])):
            errands.append((kind, f"{side}-{number - 20}", None))
    return errands


def _look(url: str, acknowledged: dict[str, dict[str, Any]]) -> None:
    with closing(Database(url)) as database:
        balance(database)
        with database.reading() as connection:
            rows = connection.execute(select(decision.c.id, decision.c.customer, decision.c.answer)).all()
    answers = {row.id: row.answer for row in rows}
    assert len(answers) == len({row.customer for row in rows}) == len(rows)  # nobody has two
    for result in acknowledged.values():
        assert answers[result["decision_id"]] == result["answer"]


def test_what_was_answered_before_a_kill_is_on_record(url: str) -> None:
    kill_and_look(url, kills=3, seed=1)


@pytest.mark.slow
def test_what_was_answered_before_fifty_kills_is_on_record(url: str) -> None:
    kill_and_look(url, kills=50, seed=2)
