"""`status`: what it says in each phase, and who may be away meanwhile."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from deploy.plan import DEMO
from engine.document import Document
from engine.store import FolderStore
from retain.rollout import Rollout, roll_back, rollout_key
from tests.deploy.fakes import EXPERIMENT, MISSED_PARTS, Answer, FakePrometheus, FakeReplica, answering, free_port
from tests.deploy.town import ANN, DAY, Town
from tests.rollouts import LIFT, figures


def status(town: Town, capsys: pytest.CaptureFixture[str]) -> str:
    """What it prints; nobody's controller runs unless the town says where."""
    town.environment.setdefault("RETAIN_CONTROLLER_PORT", str(free_port()))
    capsys.readouterr()
    before = town.rollout
    assert town.run("status") == 0
    assert town.rollout == before
    return capsys.readouterr().out


def canary(town: Town) -> None:
    assert town.run("propose", town.good, *ANN) == 0
    assert town.run("advance", "--to", "canary", *ANN) == 0


def serves(town: Town, prometheus: FakePrometheus, *percents: float, fresh: float = 1.0) -> None:
    """Percents of the replicas, in their order."""
    instances = [url.removeprefix("http://") for url in town.environment["RETAIN_REPLICAS"].split(",")]
    assert town.rollout is not None
    labels = {"release": town.good, "generation": str(town.rollout.generation)}
    prometheus.series["retain_rollout_percent)"] = [
        ({"instance": instance, **labels}, percent) for instance, percent in zip(instances, percents)
    ]
    prometheus.series["retain_lease_fresh"] = [({"instance": instance}, fresh) for instance in instances]


def test_before_anything_was_proposed(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    assert "Nothing was ever proposed in toy" in status(town, capsys)


def test_in_the_shadow_it_says_what_comes_next(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    town.run("propose", town.good, *ANN)
    shown = status(town, capsys)
    assert "phase     shadow, generation 1" in shown
    assert "next      `advance --to canary`, once GET /shadow" in shown
    assert "nobody is known to renew it: the controller at http://127.0.0.1:" in shown


def test_in_the_canary_it_says_what_is_served_and_what_is_waited_for(
    town: Town, prometheus: FakePrometheus, capsys: pytest.CaptureFixture[str]
) -> None:
    canary(town)
    town.measures(watched_s=DAY / 2, matured=212)
    serves(town, prometheus, 5.0, 5.0)
    shown = status(town, capsys)
    assert shown.count("5 % of customers are the challenger's\n") == 2
    assert "212 decisions of an arm have matured, where 1300 are wanted" in shown
    assert "hold" in shown
    assert "watched   12.0 h of 24.0 h at 5 %" in shown
    assert "next      `advance --to canary`, to 25 %" in shown
    assert "advance by Ann: the weekly release" in shown


def test_a_replica_that_serves_something_else_is_named_with_why(
    town: Town, prometheus: FakePrometheus, capsys: pytest.CaptureFixture[str]
) -> None:
    canary(town)
    serves(town, prometheus, 0.0, fresh=0.0)
    shown = status(town, capsys)
    assert "0 % of customers are the challenger's, where 5 % are wanted: sees no fresh lease" in shown
    assert "serves nothing of this generation, or can't be reached" in shown
    serves(town, prometheus, 1.0, 5.0)
    assert "1 % of customers are the challenger's, where 5 % are wanted: by FORCE_BASELINE" in status(town, capsys)


def test_of_one_that_decides_about_everybody_it_says_how_it_becomes_the_champion(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    canary(town)
    town.measures(matured=1_300)
    town.run("advance", "--to", "canary", *ANN)
    town.run("advance", "--to", "full", *ANN)
    assert f"next      `promote {town.good}`, which makes it the champion" in status(town, capsys)
    town.run("promote", town.good, *ANN)
    shown = status(town, capsys)
    assert f"now       {town.good}, which is the champion, for 100 % of customers" in shown
    assert f"promoted  in place of {town.champion}, from which services may answer until" in shown
    assert f"next      nothing, until another release is proposed in place of {town.good}" in shown


def test_why_the_lease_is_not_renewed_and_what_could_not_be_told(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    canary(town)
    health = {
        "lease": "watchdog",
        "says": "The lease isn't renewed: the alerts' watchdog is silent",
        "pages_pending": 2,
    }

    def controller(method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        return 200, json.dumps(health).encode()

    with answering(controller) as url:
        town.environment["RETAIN_CONTROLLER_PORT"] = url.rpartition(":")[2]
        shown = status(town, capsys)
        assert "lease     The lease isn't renewed: the alerts' watchdog is silent" in shown
        assert "pages     2 could not be delivered yet" in shown
        health.clear()
        assert "the controller answers with something else" in status(town, capsys)


def test_without_prometheus_it_says_what_is_not_known(
    town: Town, prometheus: FakePrometheus, capsys: pytest.CaptureFixture[str]
) -> None:
    canary(town)
    prometheus.answers = False
    shown = status(town, capsys)
    assert "what they serve isn't known: Prometheus at" in shown
    assert "signals   not known: Prometheus at" in shown
    assert "phase     canary, generation 2" in shown


def test_an_alert_that_fires_is_shown(
    town: Town, prometheus: FakePrometheus, capsys: pytest.CaptureFixture[str]
) -> None:
    canary(town)
    prometheus.series["ALERTS"] = [({"alertname": "RetainArmUnsafe", "release": town.good}, 1.0)]
    assert "FIRING    RetainArmUnsafe: the challenger is about to be rolled back" in status(town, capsys)


def test_what_was_accepted_and_what_is_in_quarantine_are_shown(
    town: Town, replicas: list[FakeReplica], capsys: pytest.CaptureFixture[str]
) -> None:
    for replica in replicas:
        replica.answer["learned"] = town.missed
    digest = MISSED_PARTS["decision"].digest
    town.run("propose", town.missed, *ANN)
    assert town.run("accept", "decision", "--criteria", ",".join(LIFT), "--digest", digest, *ANN) == 0
    assert f"ACCEPTED  decision ({digest}), though it missed {', '.join(LIFT)}: Ann" in status(town, capsys)
    town.run("rollback", "--by", "Ann", "--reason", "too many complaints")
    shown = status(town, capsys)
    assert "LATCHED" in shown
    assert f"quarantine {town.missed}: rolled back by Ann, too many complaints" in shown
    assert "ACCEPTED" not in shown


def test_a_rollback_is_shown_with_the_figures_of_then(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    canary(town)
    seen = figures(["errors"], errors="fail")
    before = town.rollout
    assert before is not None
    after = roll_back(before, by="controller", why="RetainArmErrors: 4 % failed", at=77, figures=seen)
    Document(town.store, rollout_key(EXPERIMENT), Rollout).change(lambda _: after)
    lines = status(town, capsys).splitlines()
    (place,) = (number for number, line in enumerate(lines) if "roll_back by controller" in line)
    assert lines[place + 1 : place + 3] == [
        "    as it was measured last, within 120 s before:",
        f"    errors: fail, {seen[0].says}",
    ]
    assert not any(line.startswith("    ") for line in lines[: place + 1])


def test_a_long_history_is_cut_and_says_so(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    town.run("propose", town.good, *ANN)
    for _ in range(4):
        town.run("rollback", *ANN)
        town.run("release-latch", *ANN)
        town.run("forgive", town.good, *ANN)
        town.run("propose", town.good, *ANN)
    assert "history, without 9 events before these" in status(town, capsys)


def test_a_demo_is_said(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    town.store.write(DEMO, b'{"time_scale": 60}')
    canary(town)
    town.measures(watched_s=60)
    shown = status(town, capsys)
    assert "DEMO: this store holds a file DEMO, so that watching takes a 60th of its time" in shown
    assert "watched   1.0 min of 24.0 min" in shown


def test_a_rollout_that_can_not_be_read_is_no_status(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    town.store.write(rollout_key(EXPERIMENT), b"{}")
    assert town.run("status") == 2
    monkeypatch.setattr("deploy.people.open_store", lambda _: FolderStore(town.store.root / "gone", made=True))
    assert town.run("status") == 3
