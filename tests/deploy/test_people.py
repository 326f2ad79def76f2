"""What people tell a rollout: proposed, accepted, advanced by what was shown and measured; and back, asking nobody."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from deploy import people
from deploy.people import Signature, desk, shadow_figures
from deploy.plan import DEMO
from deploy.settings import read
from engine.errors import RetainError
from engine.store import FolderStore
from retain.rollout import rollout_key
from retain.signals import SIGNALS
from tests.deploy.fakes import EXPERIMENT, MISSED_PARTS, FakePrometheus, FakeReplica, free_port, make_current
from tests.deploy.town import ANN, DAY, Town
from tests.engine.processes import killed_at
from tests.rollouts import LIFT


def test_the_whole_way_forward(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    assert town.run("propose", town.good, *ANN) == 0
    assert town.state() == f"{town.good} in the shadow of {town.champion}"
    assert town.run("advance", "--to", "canary", *ANN) == 0
    assert town.state() == f"{town.good} for 5 % of customers"
    town.measures()
    assert town.run("advance", "--to", "canary", *ANN) == 0
    assert town.state() == f"{town.good} for 25 % of customers"
    town.measures(matured=1_300)
    assert town.run("advance", "--to", "full", *ANN) == 0
    assert town.state() == f"{town.good} for 100 % of customers"
    rollout = town.rollout
    assert rollout is not None
    assert [(event.action, event.by) for event in rollout.history] == [("propose", "Ann"), *[("advance", "Ann")] * 3]
    assert [figure.name for figure in rollout.history[-1].figures] == list(SIGNALS)
    shown = capsys.readouterr()
    assert "nrr: pass" in shown.out
    assert shown.err.count("what the shadow has shown") == 2  # each replica is asked, once


def test_full_wants_all_four_signals_or_a_person_s_word(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    town.run("propose", town.good, *ANN)
    town.run("advance", "--to", "canary", *ANN)
    town.measures(matured=212)
    town.run("advance", "--to", "canary", *ANN)
    assert town.run("advance", "--to", "full", *ANN) == 1
    assert "Refused: nrr: hold, 212 decisions" in capsys.readouterr().err
    assert town.run("advance", "--to", "full", "--accept-hold", "nrr", *ANN) == 0
    assert town.rollout is not None
    assert town.rollout.accepted_holds == ("nrr",)


def to_full(town: Town) -> None:
    town.run("propose", town.good, *ANN)
    town.run("advance", "--to", "canary", *ANN)
    town.measures(matured=1_300)
    town.run("advance", "--to", "canary", *ANN)
    assert town.run("advance", "--to", "full", *ANN) == 0


def test_the_one_that_decides_about_everybody_is_promoted_and_another_follows(
    town: Town, prometheus: FakePrometheus, capsys: pytest.CaptureFixture[str]
) -> None:
    to_full(town)
    assert town.run("propose", town.missed, *ANN) == 1
    assert town.run("promote", town.missed, *ANN) == 1
    assert f"Refused: {town.missed} is not the challenger, that is {town.good}" in capsys.readouterr().err
    assert town.run("promote", town.good, *ANN) == 0
    rollout = town.rollout
    assert rollout is not None
    assert (rollout.champion.release, rollout.predecessor) == (town.good, town.champion)
    assert town.state() == f"{town.good}, which is the champion, for 100 % of customers"
    assert (
        f"Start the services again, so that {town.good} answers in place of {town.champion}" in capsys.readouterr().out
    )
    assert town.run("promote", town.good, *ANN) == 0  # as after a kill, of which nobody knows what it left
    assert f"{town.good} is the champion already" in capsys.readouterr().out
    assert town.rollout == rollout
    assert town.run("propose", town.missed, "--in-place-of", town.good, *ANN) == 0
    assert town.state() == f"{town.missed} in the shadow of {town.good}"
    assert f"answer from {town.champion}, and the champion is {town.good}" in capsys.readouterr().out
    assert town.rollout is not None
    assert (town.rollout.quarantined, town.rollout.latched) == ((), False)


def test_a_promotion_wants_figures_and_no_alert(
    town: Town, prometheus: FakePrometheus, capsys: pytest.CaptureFixture[str]
) -> None:
    to_full(town)
    before = town.rollout
    town.measures(watched_s=DAY - 600)
    assert town.run("promote", town.good, *ANN) == 1
    assert "it was watched at 100 % for 23.8 of 24.0 hours: wait" in capsys.readouterr().err
    town.measures(errors=80.0)
    assert town.run("promote", town.good, *ANN) == 1
    assert "errors: fail" in capsys.readouterr().err
    town.measures()
    prometheus.series["ALERTS"] = [({"alertname": "RetainArmUnsafe", "release": town.good}, 1.0)]
    assert town.run("promote", town.good, *ANN) == 1
    assert "RetainArmUnsafe: would roll it back" in capsys.readouterr().err
    prometheus.answers = False
    assert town.run("promote", town.good, *ANN) == 3
    assert town.rollout == before
    prometheus.answers = True
    prometheus.series["ALERTS"] = []
    assert town.run("promote", town.good, *ANN) == 0
    assert town.run("rollback", *ANN) == 0
    assert town.state() == f"latched, baseline of {town.champion} for everybody"


@pytest.mark.kills
@pytest.mark.parametrize("point", ["store.write", "store.rename", "store.renamed"])
def test_a_promotion_that_is_killed_is_done_or_not_begun(town: Town, point: str) -> None:
    to_full(town)
    before = town.rollout
    assert before is not None
    assert killed_at(point, town.run, "promote", town.good, *ANN) == -signal.SIGKILL
    between = town.rollout
    assert between is not None
    assert between == before or between.champion.release == town.good
    assert between.challenger == before.challenger
    assert town.run("promote", town.good, *ANN) == 0
    after = town.rollout
    assert after is not None
    assert [event.action for event in after.history].count("promote") == 1
    assert after.champion.release == town.good


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({"errors": 80.0}, "errors: fail"),
        ({"seconds_bucket": 3_700.0}, "latency_p95: fail"),
        ({"unsafe": 20.0}, "unsafe: fail"),
        ({"matured": 1_300.0, "drop": 0.04}, "nrr: fail"),
        ({"decisions": 90.0, "errors": 0.0}, "errors: hold"),
        ({"watched_s": DAY - 600}, "23.8 of 24.0 hours: wait"),
    ],
)
def test_what_prometheus_has_measured_can_hold_it_back(
    town: Town, capsys: pytest.CaptureFixture[str], told: dict[str, float], says: str
) -> None:
    town.run("propose", town.good, *ANN)
    town.run("advance", "--to", "canary", *ANN)
    town.measures(**told)
    assert town.run("advance", "--to", "canary", *ANN) == 1
    assert says in capsys.readouterr().err
    assert town.state() == f"{town.good} for 5 % of customers"


def test_nothing_measured_holds_it_back(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    town.run("propose", town.good, *ANN)
    town.run("advance", "--to", "canary", *ANN)
    assert town.run("advance", "--to", "canary", *ANN) == 1
    assert "it was watched at 5 % for 0.0 of 24.0 hours: wait" in capsys.readouterr().err


def test_in_a_demo_time_runs_faster(town: Town) -> None:
    town.store.write(DEMO, b'{"time_scale": 60}')
    town.run("propose", town.good, *ANN)
    town.run("advance", "--to", "canary", *ANN)
    town.measures(watched_s=DAY / 60)
    assert town.run("advance", "--to", "canary", *ANN) == 0


def test_no_answer_is_a_refusal(town: Town, prometheus: FakePrometheus, replicas: list[FakeReplica]) -> None:
    town.run("propose", town.good, *ANN)
    replicas[1].status = 503
    assert town.run("advance", "--to", "canary", *ANN) == 3
    replicas[1].status = 200
    replicas[1].token = "another-token-of-it"
    assert town.run("advance", "--to", "canary", *ANN) == 3
    replicas[1].token = None
    replicas[1].answer["figures"] = [{"name": "unsafe"}]
    assert town.run("advance", "--to", "canary", *ANN) == 3
    replicas[1].answer["figures"] = replicas[0].answer["figures"]
    prometheus.answers = False  # whether an alert fires isn't known
    assert town.run("advance", "--to", "canary", *ANN) == 3
    assert town.state() == f"{town.good} in the shadow of {town.champion}"
    prometheus.answers = True
    assert town.run("advance", "--to", "canary", *ANN) == 0
    prometheus.answers = False
    assert town.run("advance", "--to", "canary", *ANN) == 3
    assert town.state() == f"{town.good} for 5 % of customers"


def test_of_each_figure_the_worst_replica_counts(town: Town, replicas: list[FakeReplica]) -> None:
    settings = read(town.environment)
    replicas[0].answer["figures"] = FakeReplica(town.good, unsafe="fail").answer["figures"]
    replicas[1].answer["figures"] = FakeReplica(town.good, latency_p95="hold").answer["figures"]
    figures = {figure.name: figure.verdict for figure in shadow_figures(desk(settings, lambda _: None), town.good)}
    assert figures == {
        "latency_p95": "hold", "unsafe": "fail", "answers_missed": "pass", "unavailable": "pass", "value": "hold",
    }  # fmt: skip
    town.run("propose", town.good, *ANN)
    assert town.run("advance", "--to", "canary", *ANN) == 1


def test_a_replica_with_another_challenger_in_its_shadow_is_named(
    town: Town, replicas: list[FakeReplica], capsys: pytest.CaptureFixture[str]
) -> None:
    town.run("propose", town.good, *ANN)
    replicas[1].answer["learned"] = None
    assert town.run("advance", "--to", "canary", *ANN) == 1
    assert f"has nothing in its shadow, not {town.good}" in capsys.readouterr().err


def test_an_alert_that_would_roll_it_back_holds_it_back(
    town: Town, prometheus: FakePrometheus, capsys: pytest.CaptureFixture[str]
) -> None:
    town.run("propose", town.good, *ANN)
    prometheus.series["ALERTS"] = [({"alertname": "RetainArmUnsafe", "release": "0" * 12}, 1.0)]  # of one that is gone
    prometheus.series["ALERTS"] += [({"alertname": "RetainServerErrors"}, 1.0)]
    assert town.run("advance", "--to", "canary", *ANN) == 1
    assert "Refused: RetainServerErrors: would roll it back and fires now" in capsys.readouterr().err
    prometheus.series["ALERTS"].pop()
    assert town.run("advance", "--to", "canary", *ANN) == 0


def test_a_part_that_missed_value_is_accepted_first_or_on_the_way(
    town: Town, replicas: list[FakeReplica], capsys: pytest.CaptureFixture[str]
) -> None:
    for replica in replicas:
        replica.answer["learned"] = town.missed
    digest, criteria = MISSED_PARTS["decision"].digest, ",".join(LIFT)
    assert town.run("propose", town.missed, *ANN) == 0
    assert f"accept decision --criteria {criteria} --digest {digest}" in capsys.readouterr().out
    assert town.run("advance", "--to", "canary", *ANN) == 1
    assert town.run("accept", "decision", "--criteria", LIFT[0], "--digest", digest, *ANN) == 1
    assert town.run("accept", "decision", "--criteria", criteria, "--digest", "9" * 12, *ANN) == 1
    assert town.run("accept", "decision", "--criteria", criteria, "--digest", "nonsense", *ANN) == 1
    assert (
        town.run("advance", "--to", "canary", "--accept-missed", f"decision:{LIFT[0]}", "--digest", digest, *ANN) == 1
    )
    assert town.run("advance", "--to", "canary", "--accept-missed", f"decision:{criteria}", *ANN) == 2
    assert town.state() == f"{town.missed} in the shadow of {town.champion}"
    both = ("--accept-missed", f"decision:{criteria}", "--digest", digest)
    assert town.run("advance", "--to", "canary", *both, *ANN) == 0
    assert town.rollout is not None
    assert [event.action for event in town.rollout.history] == ["propose", "accept", "advance"]
    assert town.rollout.accepted[0].criteria == LIFT
    assert town.run("rollback", *ANN) == 0
    assert town.run("release-latch", *ANN) == 0
    assert town.run("forgive", town.missed, *ANN) == 0
    assert town.run("propose", town.missed, *ANN) == 0
    assert town.run("accept", "decision", "--criteria", criteria, "--digest", digest, *ANN) == 0
    assert town.run("advance", "--to", "canary", *ANN) == 0


def test_back_asks_nobody(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    town.run("propose", town.good, *ANN)
    town.run("advance", "--to", "canary", *ANN)
    town.environment |= {
        "RETAIN_PROMETHEUS_URL": f"http://127.0.0.1:{free_port()}",
        "RETAIN_REPLICAS": f"http://127.0.0.1:{free_port()}",
    }
    assert town.run("set-percent", "1", *ANN) == 0
    assert town.state() == f"{town.good} for 1 % of customers"
    assert town.run("set-percent", "2", *ANN) == 1
    assert town.run("rollback", *ANN) == 0
    assert town.state() == f"latched, baseline of {town.champion} for everybody"
    before = town.rollout
    assert town.run("rollback", *ANN) == 0
    assert town.rollout == before
    assert "There is no challenger to roll back" in capsys.readouterr().out


def test_after_a_rollback_people_have_to_speak_first(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    town.run("propose", town.good, *ANN)
    town.run("rollback", "--by", "Ann", "--reason", "too many complaints")
    assert town.run("propose", town.missed, *ANN) == 1
    assert "the rollout is latched" in capsys.readouterr().err
    assert town.run("release-latch", *ANN) == 0
    assert town.run("propose", town.good, *ANN) == 1
    assert "in quarantine, since Ann rolled it back: too many complaints" in capsys.readouterr().err
    assert town.run("forgive", town.missed, *ANN) == 1
    assert town.run("forgive", town.good, *ANN) == 0
    assert town.run("propose", town.good, *ANN) == 0


def test_what_has_nothing_to_try_is_not_proposed(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    assert town.run("propose", town.none, *ANN) == 1
    assert "has no learned policy to try, since it missed decision.overspend" in capsys.readouterr().err
    assert town.run("propose", "0" * 12, *ANN) == 2
    assert town.run("propose", "latest", *ANN) == 2
    assert town.rollout is None


def test_a_release_made_since_is_no_champion_before_a_person_says_so(town: Town) -> None:
    def champion() -> str:
        assert town.rollout is not None
        return town.rollout.champion.release

    town.run("propose", town.good, *ANN)
    town.run("rollback", *ANN)
    town.run("release-latch", *ANN)
    make_current(town.store.root, 3)
    assert town.run("propose", town.missed, *ANN) == 0
    assert champion() == town.champion
    town.run("rollback", *ANN)
    town.run("release-latch", *ANN)
    town.run("forgive", town.missed, *ANN)
    assert town.run("propose", town.missed, "--champion", "0" * 12, *ANN) == 2
    assert town.run("propose", town.missed, "--champion", town.missed, *ANN) == 0
    assert champion() == town.missed


def test_services_that_answer_from_another_release_are_warned_of(
    town: Town, prometheus: FakePrometheus, capsys: pytest.CaptureFixture[str]
) -> None:
    prometheus.series["retain_release_info"] = [({"release": town.champion}, 1.0), ({"release": "0" * 12}, 1.0)]
    assert town.run("propose", town.good, *ANN) == 0
    assert f"Warning: the services answer from {'0' * 12}, and the champion is" in capsys.readouterr().out


@pytest.mark.parametrize(
    "command",
    [
        ("accept", "decision", "--criteria", "a", "--digest", "1" * 12),
        ("advance", "--to", "canary"),
        ("rollback",),
        ("set-percent", "0"),
        ("release-latch",),
        ("forgive", "0" * 12),
    ],
)
def test_without_a_rollout_there_is_nothing_to_change(town: Town, command: tuple[str, ...]) -> None:
    assert town.run(*command, *ANN) == 1
    assert town.rollout is None


@pytest.mark.parametrize("reason", ["", "a\nb", "x" * 501])
def test_a_reason_is_one_line(town: Town, reason: str) -> None:
    assert town.run("propose", town.good, "--by", "Ann", "--reason", reason) == 1
    assert town.rollout is None


def test_nobody_does_anything_without_a_name(town: Town) -> None:
    with pytest.raises(SystemExit) as ended:
        town.run("rollback", "--reason", "why")
    assert ended.value.code == 2
    with pytest.raises(SystemExit) as ended:
        town.run("set-percent", "nan", *ANN)
    assert ended.value.code == 2


def test_a_bad_setting_and_a_damaged_rollout_are_said(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    town.environment["RETAIN_REPLICAS"] = "x"
    assert town.run("rollback", *ANN) == 2
    del town.environment["RETAIN_REPLICAS"]
    town.store.write(rollout_key(EXPERIMENT), b"{}")
    assert town.run("rollback", *ANN) == 2
    assert "is damaged" in capsys.readouterr().err


def test_a_store_that_is_gone_is_no_refusal(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.people.open_store", lambda _: FolderStore(Path("/nonexistent"), made=True))
    assert town.run("rollback", *ANN) == 3


def test_two_people_at_once_do_one_thing_each_or_nothing(town: Town) -> None:
    """Between what one looked at and did, another did something: it is looked at again."""
    town.run("propose", town.good, *ANN)
    at_work = desk(read(town.environment), lambda _: None)
    real = people._evidence

    def meanwhile(*given: Any) -> Any:
        evidence = real(*given)
        town.run("rollback", *ANN)
        return evidence

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(people, "_evidence", meanwhile)
        with pytest.raises(ValueError, match="there is no challenger"):
            people.advance_to(at_work, "canary", Signature("Bob", "x"))
    assert town.state() == f"latched, baseline of {town.champion} for everybody"


def test_a_store_that_may_not_be_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETAIN_STORE", "s3://bucket")
    with pytest.raises(RetainError, match="RETAIN_STORE"):
        desk(read({}), lambda _: None)
