"""Two services on one database, under load, whose processes are killed at random moments.

Every decision that a caller was answered is on record once, with the bytes that were answered, and the wallet has spent
what the records say, to the cent.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from retain.release import Release
from tests.reliability import write_block
from tests.serve.callers import Callers, compare
from tests.serve.databases import postgresql
from tests.serve.services import Served, counted, serve, until

pytestmark = pytest.mark.kills

VICTIMS = ("worker", "both workers", "the arm's process", "admin", "supervisor", "all of one service")
WEIGHTS = (6, 6, 2, 1, 2, 4)  # those that write come first
KILLS = 50
REPLICAS = 2


class Replicas:
    """Services that share a database. One that was killed as a whole is started again, on another port."""

    def __init__(self, environment: dict[str, str], until_end: ExitStack) -> None:
        self._environment, self._until_end = environment, until_end
        starting = [self._start() for _ in range(REPLICAS)]
        self.services = [service.begun() for service in starting]
        self.addresses = [service.api for service in self.services]

    def _start(self) -> Served:
        return self._until_end.enter_context(serve(self._environment))

    def strike(self, victim: str, number: int, rng: random.Random) -> None:
        service = self.services[number]
        children = service.children()
        workers = [process for name, process in children.items() if name.startswith("worker")]
        match victim:
            case "worker":
                kill(rng.choice(workers).pid)
            case "both workers":
                for worker in workers:
                    kill(worker.pid)
            case "the arm's process":
                for arm in rng.choice(workers).children():
                    kill(arm.pid)
            case "admin":
                kill(children["admin-0"].pid)
            case "supervisor":
                service.kill()
                service.wait()
            case _:
                for pid in [service.pid, *(process.pid for process in children.values())]:
                    kill(pid)
                service.wait()

    def heal(self, number: int) -> None:
        """Waits until a service answers as before; another is started for one whose supervisor is gone."""
        service = self.services[number]
        if service.poll() is not None:
            service = self._start().begun()
            self.services[number], self.addresses[number] = service, service.api
        until(lambda: _healthy(service))


def _healthy(service: Served) -> bool:
    with contextlib.suppress(OSError):
        return counted(service)["retain_workers_ready"] == 2
    return False


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def kill_under_load(
    environment: dict[str, str], url: str, release: Release, victims: Sequence[str], seed: int
) -> dict[str, float]:
    """At a random moment one of `victims` after the other. Returns what was counted."""
    rng = random.Random(seed)
    with ExitStack() as until_end:
        replicas = Replicas(environment | {"DATABASE_URL": url, "RETAIN_BUDGET_USD": "1000000"}, until_end)
        with Callers(release, replicas.addresses, count=4, pause=0.005) as callers:
            for victim in victims:
                number = rng.randrange(REPLICAS)
                time.sleep(rng.uniform(0.2, 0.6))
                answered = len(callers.asked)
                replicas.strike(victim, number, rng)
                replicas.heal(number)
                until(lambda answered=answered: len(callers.asked) > answered + 10)  # type: ignore[misc]
        for service in replicas.services:
            service.terminate()
        for service in replicas.services:
            assert service.wait(60) == 0
    callers.check()
    figures = compare(url, callers.asked, callers.suppressed)
    broken = sum(count for tries, count in callers.tries.items() if tries)
    assert broken > 0
    return figures | {"broken": broken, "most tries": max(callers.tries), "requests": sum(callers.tries.values())}


@pytest.fixture
def environment(artifact: Path, store: Path) -> dict[str, str]:
    return {"RELEASE_PATH": str(artifact), "RETAIN_STORE": str(store)}


def test_what_was_answered_before_a_kill_is_on_record(environment: dict[str, str], url: str, release: Release) -> None:
    victims = ["worker", "the arm's process", "supervisor"] if "sqlite" in url else ["worker", "both workers"]
    kill_under_load(environment, url, release, victims, seed=17)


@pytest.mark.slow
def test_what_was_answered_before_fifty_kills_is_on_record(
    environment: dict[str, str], tmp_path: Path, release: Release
) -> None:
    lines = [
        "| database | killed | decisions answered | connections broken | most tries of one request | missing | "
        "doubled | on record, answer unheard | spent by the wallet |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    rng = random.Random(50)
    for name in ("SQLite", "PostgreSQL"):
        victims = [*VICTIMS, *rng.choices(VICTIMS, WEIGHTS, k=KILLS - len(VICTIMS))]
        rng.shuffle(victims)
        with ExitStack() as until_end:
            if name == "SQLite":
                url = f"sqlite:///{tmp_path / 'state' / 'serving.db'}"
            else:
                url = until_end.enter_context(postgresql()).create("kills")
            found = kill_under_load(environment, url, release, victims, seed=rng.randrange(1000))
        killed = ", ".join(f"{victim} {count}" for victim, count in Counter(victims).items())
        lines.append(
            f"| {name} | {killed} | {found['answered']} | {found['broken']} | {found['most tries']} | 0 | 0 | "
            f"{found['nobody heard of']} | {found['spent']:.2f} |"
        )
    write_block("kills of the service", lines)
