"""What the running trial is worth, told from the records of a real service, and shown on the admin port."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import random
import threading
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.document import Document
from engine.errors import RetainError
from engine.store import FolderStore
from retain.record import Record
from retain.release import Release
from retain.rollout import Rollout, advance, propose, roll_back, rollout_key
from retain.trial import Comparison
from serve.admin import create_admin
from serve.database import Database, StateUnavailable
from serve.keep import exported
from serve.metrics import Metrics
from serve.operations import Outcome, Withdraw
from serve.oversight import Oversight
from serve.router import Router
from serve.standing import Looks
from serve.state import State
from serve.tables import decision
from serve.worth import Looked, TrialGauges, compared
from tests.releases import dataset, policy, rows
from tests.rollouts import ANN, CHAMPION, GOOD, PLAN, evidence
from tests.serve.apps import app_of
from tests.serve.arms import InProcessArm
from tests.serve.client import Client
from tests.serve.memory import DAY, Clock
from tests.serve.services import PLENTY, counted, serve, until

TELCO = dataset("telco")
PEOPLE = rows(TELCO, 60, seed=11)


def asked_about(
    release: Release,
    url: str,
    database: Database,
    clock: Clock,
    percent: float,
    days: int,
    trial: str = "v1",
    seed: int = 1,
) -> None:
    """Customers are asked about again and again. Who is offered something accepts, declines, or doesn't answer, and
    some leave. Some answers nobody receives."""
    rng, state = random.Random(seed), State(database, release.terms, clock)
    here = dataclasses.replace(release, policy=policy(TELCO, 99.0, 20))
    router = Router(force_baseline=False, percent=percent, hold_out=5.0, exploration=0.2)
    client = Client(app_of("v1", here, router, url=url, learned=InProcessArm("v1", here, loads=trial), clock=clock))
    for _ in range(days):
        for number in rng.sample(range(len(PEOPLE)), 12):
            answer = client.post({"customer": PEOPLE[number] | {"customerID": f"Y-{number}"}}).json()
            told = ["accepted", "declined", "churned", "nothing"] if answer["offer"] else ["churned", "nothing"]
            if rng.random() < 0.2:
                state.carry_out([Withdraw(answer["decision_id"])])
            elif (outcome := rng.choice(told)) != "nothing":
                client.post({"decision_id": answer["decision_id"], "outcome": outcome}, "/outcomes")
        clock.now += DAY


def expected(database: Database, trial: str, now: int) -> Comparison:
    """The slow way, from the export."""
    records = [Record.model_validate_json(line) for line in exported(database, None)]
    by_customer: defaultdict[Any, list[Record]] = defaultdict(list)
    for record in records:
        if record.detail.trial == trial and not record.withdrawn:
            by_customer[record.customer, record.detail.percent].append(record)
    comparison = Comparison()
    with database.reading() as connection:
        ages = {row.id: now - row.at for row in connection.execute(decision.select())}
    for (_, percent), hers in by_customer.items():
        first = hers[0]
        if ages[first.decision_id] >= 14 * DAY and not first.detail.explored:
            assert percent is not None
            assert first.detail.assigned is not None
            assert first.nrr_proxy is not None
            comparison.add(percent, first.detail.assigned, first.nrr_proxy)
    return comparison


def figures(comparison: Comparison) -> list[float | None]:
    return [figure for worth in comparison.worth().values() for figure in worth]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def database(url: str, clock: Clock) -> Iterator[Database]:
    database = Database(url, clock=clock)
    yield database
    database.close()


def test_it_is_that_of_each_customer_s_first_decision(
    release: Release, url: str, database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.worth.AT_ONCE", 7)
    asked_about(release, url, database, clock, 30.0, days=10)
    asked_about(release, url, database, clock, 60.0, days=10, seed=2)
    asked_about(release, url, database, clock, 60.0, days=4, trial="v2", seed=3)
    counts = []
    for later in (0, 6, 30):
        now = clock.now + later * DAY
        for trial in ("v1", "v2", "v3"):
            comparison, first = compared(database, trial, 0, now - 14 * DAY)
            assert figures(comparison) == pytest.approx(figures(expected(database, trial, now)))
            counts.append(comparison.worth()["learned"].matured)
            assert (first is None) == (trial == "v3" or (trial == "v2" and later < 30))
    assert 0 < counts[0] < counts[3] <= counts[6]
    assert counts[1] == counts[4] == 0 < counts[7]
    assert counts[2] == counts[5] == counts[8] == 0


def test_who_is_asked_about_every_day_counts_once(release: Release, url: str, database: Database, clock: Clock) -> None:
    asked_about(release, url, database, clock, 50.0, days=40)
    worth = compared(database, "v1", 0, clock.now)[0].worth()
    assert worth["learned"].matured + worth["baseline"].matured <= len(PEOPLE)


# -- the gauges


def shown(gauges: TrialGauges) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value for metric in gauges.collect() for sample in metric.samples
    }


def test_they_are_of_the_release_on_trial_and_gone_without_one(
    release: Release, url: str, database: Database, clock: Clock
) -> None:
    asked_about(release, url, database, clock, 50.0, days=10)
    tried: list[str | None] = ["v1"]
    gauges = TrialGauges(database, lambda: tried[0], clock)
    assert shown(gauges) == {}
    gauges.look()
    assert {key: value for key, value in shown(gauges).items() if len(key) > 1} == {
        ("retain_nrr_matured", "baseline", "v1"): 0,
        ("retain_nrr_matured", "learned", "v1"): 0,
    }
    clock.now += 5 * DAY
    for _ in range(2):  # the second look begins where the trial does
        gauges.look()
        worth = expected(database, "v1", clock.now).worth()
        for arm in ("baseline", "learned"):
            assert shown(gauges)["retain_nrr_matured", arm, "v1"] == worth[arm].matured > 0
            assert shown(gauges)["retain_nrr_proxy", arm, "v1"] == pytest.approx(worth[arm].nrr)
    tried[0] = "v2"
    clock.now += 90 * DAY
    gauges.look()
    gauges.look()
    assert {release for _, _, release in (key for key in shown(gauges) if len(key) > 1)} == {"v2"}
    tried[0] = "v1"  # again
    gauges.look()
    matured = expected(database, "v1", clock.now).worth()["learned"].matured
    assert shown(gauges)["retain_nrr_matured", "learned", "v1"] == matured > 0
    tried[0] = None
    gauges.look()
    assert shown(gauges) == {}


def test_they_are_of_the_rollout_s_challenger_while_customers_meet_it(
    release: Release, database: Database, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    store.mkdir()
    rollout = Document(FolderStore(store), rollout_key("toy"), Rollout)
    oversight = Oversight(database, "v1", release, 400, on_trial=True, looks=Looks(str(store), "toy"))
    assert oversight.on_trial() == "v1"  # where there is no rollout the settings say so
    shadow = propose(None, CHAMPION, GOOD, **ANN)
    canary = advance(shadow, "canary", evidence(shadow), PLAN, **ANN)
    back = roll_back(canary, by="Ann", why="a test", at=1)
    for stands, expected in ((shadow, None), (canary, GOOD), (back, None)):
        rollout.change(lambda _, stands=stands: stands)
        assert oversight.on_trial() == expected
    (store / rollout_key("toy")).write_bytes(b"{}")
    with pytest.raises(RetainError):
        oversight.on_trial()


def test_an_outcome_that_comes_later_counts(release: Release, url: str, database: Database, clock: Clock) -> None:
    asked_about(release, url, database, clock, 50.0, days=3)
    gauges = TrialGauges(database, lambda: "v1", clock)
    clock.now += 20 * DAY
    gauges.look()
    before = shown(gauges)
    state = State(database, release.terms, clock)
    for line in [*exported(database, None)]:
        state.carry_out([Outcome(Record.model_validate_json(line).decision_id, "churned")])
    gauges.look()
    for arm in ("baseline", "learned"):
        assert shown(gauges)["retain_nrr_matured", arm, "v1"] == before["retain_nrr_matured", arm, "v1"]
        assert shown(gauges)["retain_nrr_proxy", arm, "v1"] <= 0 < before["retain_nrr_proxy", arm, "v1"]


def test_what_was_seen_last_is_told_with_its_age_for_an_hour(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While the database doesn't answer, and while what is on trial can't be read."""
    gauges = TrialGauges(database, lambda: "v1")
    now, looks, pauses = [0.0], [0], []

    def look() -> None:
        looks[0] += 1
        if looks[0] == 1:
            gauges._looked = Looked("v1", Comparison().worth(), now[0])
            now[0] += 30.0  # the look
            return
        raise (StateUnavailable("gone"), RetainError("gone"), RuntimeError("a bug"))[looks[0] % 3]

    ages = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        now[0] += 899.0 + seconds
        ages.append(shown(gauges).get(("retain_nrr_age_seconds",)))
        if looks[0] == 7:
            raise asyncio.CancelledError

    monkeypatch.setattr(gauges, "look", look)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr("serve.worth.time", SimpleNamespace(monotonic=lambda: now[0]))
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(gauges.keep_looking())
    assert pauses == [600.0] + [10.0] * 6
    assert ages[0] == 30 + 899 + 600
    assert ages[-1] is None
    assert [age is None for age in ages] == [False, False, False, False, True, True, True]
    assert caplog.messages == ["the trial's records could not be looked at"] * 2  # of the bug alone


def test_they_are_on_the_admin_port_and_hold_up_nothing(
    release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, over = threading.Event(), threading.Event()

    def look(gauges: TrialGauges) -> None:
        begun.set()
        assert over.wait(PLENTY)
        gauges._looked = Looked("v1", Comparison().worth(), 0.0)

    monkeypatch.setattr(TrialGauges, "look", look)
    database = Database(f"sqlite:///{tmp_path / 'serving.db'}")
    oversight = Oversight(database, "v1", release, 400, on_trial=True)
    assert oversight.on_trial() == "v1"
    assert Oversight(database, "v1", release, 400).on_trial() is None
    (tmp_path / "counts").mkdir()
    admin = Client(create_admin(Metrics(), tmp_path / "counts", None, oversight))

    def told() -> str:
        return admin.request("GET", "/metrics", headers={"host": "localhost"}).text

    assert "retain_nrr" not in told()
    assert begun.wait(PLENTY)
    over.set()
    for _ in range(1000):
        if 'retain_nrr_matured{arm="learned",release="v1"} 0.0' in told():
            break
        time.sleep(PLENTY / 1000)
    else:
        pytest.fail("nothing was told")
    database.close()


# Three weeks ago, by the workers' clock; the admin process goes by that of the machine.
CLOCK = f"""
import functools, time
import serve.state
clock = lambda: time.time_ns() // 1000 - 21 * {DAY}
serve.worker.State = functools.partial(serve.state.State, clock=clock)
"""


@pytest.mark.slow
def test_a_service_tells_what_its_trial_is_worth(artifact: Path, store: Path, tmp_path: Path) -> None:
    environment = {
        "RELEASE_PATH": str(artifact),
        "RETAIN_STORE": str(store),
        "DATABASE_URL": f"sqlite:///{tmp_path / 'state' / 'serving.db'}",
        "FORCE_BASELINE": "false",
        "CANARY_PERCENT": "50",
    }
    with serve(environment, CLOCK) as service:
        service.begun()
        until(lambda: counted(service)["retain_arm_running"] == 2)
        for number, row in enumerate([*PEOPLE, *PEOPLE]):  # twice
            body = json.dumps({"customer": row | {"customerID": f"Y-{number % len(PEOPLE)}"}}).encode()
            request = urllib.request.Request(
                f"http://{service.api.host}:{service.api.port}/retain", body, {"content-type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=PLENTY) as answer:
                assert answer.status == 200
        names = {arm: f'{{arm="{arm}",release="{service.release}"}}' for arm in ("baseline", "learned")}

        def matured() -> list[float]:
            told = counted(service)
            return [told.get(f"retain_nrr_matured{name}", 0.0) for name in names.values()]

        until(lambda: sum(matured()) == pytest.approx(len(PEOPLE)))  # the next look has all
        told = counted(service)
        assert min(matured()) > 10
        assert all(0 < told[f"retain_nrr_proxy{name}"] < 1 for name in names.values())
        assert told["retain_nrr_age_seconds"] < PLENTY
