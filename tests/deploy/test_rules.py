"""The rules as promtool runs them: each alert fires when it should, and at no other time, at whatever scale."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from prometheus_client import CollectorRegistry
from pydantic import ValidationError

from deploy import rules
from engine.document import Document
from engine.errors import RetainError
from engine.fingerprint import ROOT
from engine.releases import version_of
from engine.store import FolderStore
from retain.monitoring import SECONDS_BOUNDS, LatencyLimit, Monitoring
from retain.rollout import Rollout, propose, rollout_key
from serve.trial_metrics import TrialMetrics
from tests.deploy.fakes import EXPERIMENT, GOOD_PARTS, release
from tests.deploy.programs import program
from tests.releases import MONITORING
from tests.rollouts import ANN

LIMITS = rules.limits_of_experiment("exp_001_mvp")
RELEASE, OTHER = "0123456789ab", "ba9876543210"
WATCHDOG, EVALUATED = "RetainWatchdog", "retain:evaluated"
PLACES = rules.Places(["a:8001", "b:8001"], "c:8002", "d:9093", "/run/admin", "/run/controller")

Curve = Callable[[float], float]  # minute -> how much is added in it


def always(each_minute: float) -> Curve:
    return lambda minute: each_minute


def before(end: float, curve: Curve, then: Curve = lambda minute: 0) -> Curve:
    return lambda minute: (curve if minute < end else then)(minute)


def in_turns(each_minute: float, minutes: float) -> Curve:
    """On and off, for so many minutes each; `each_minute` is the mean of both."""
    return lambda minute: 0 if (minute // minutes) % 2 else 2 * each_minute


class Fires(NamedTuple):
    alert: str
    release: str | None = None
    rolls_back: bool = False


class Case(NamedTuple):
    """`counters`: series -> how much is added each minute; `gauges`: series -> the value at that minute. `firing`:
    minute -> the alerts that fire then."""

    says: str
    counters: dict[str, Curve]
    gauges: dict[str, Curve]
    firing: dict[float, Sequence[Fires]]


def arm(metric: str, release: str = RELEASE, more: str = "") -> str:
    return f'retain_arm_{metric}{{arm="learned",release="{release}",instance="a:8001"{more}}}'


def errors(decisions: Curve, failed: Curve, release: str = RELEASE) -> dict[str, Curve]:
    return {arm("decisions_total", release): decisions, arm("errors_total", release): failed}


def seconds(counted: Curve, slow: Curve) -> dict[str, Curve]:
    return {
        arm("seconds_count"): counted,
        arm("seconds_bucket", more=',le="0.5"'): lambda minute: counted(minute) - slow(minute),
    }


def unsafe(messages: Curve, refused: Curve) -> dict[str, Curve]:
    return {arm("messages_total"): messages, arm("unsafe_total"): refused}


def answers(counted: Curve, failed: Curve, path: str = "/retain") -> dict[str, Curve]:
    by_code = {"200": lambda minute: counted(minute) - failed(minute), "503": failed}
    return {f'retain_requests_total{{path="{path}",code="{code}"}}': curve for code, curve in by_code.items()}


def request_seconds(counted: Curve, slow: Curve) -> dict[str, Curve]:
    return {
        "retain_request_seconds_count": counted,
        'retain_request_seconds_bucket{le="0.5"}': lambda minute: counted(minute) - slow(minute),
    }


def value(learned: float, matured: float, release: str = RELEASE) -> dict[str, Curve]:
    """Of two replicas, which read one database."""
    gauges: dict[str, Curve] = {}
    for instance in ("a:8001", "b:8001"):
        for name, nrr in (("baseline", 0.80), ("learned", learned)):
            labels = f'{{arm="{name}",release="{release}",instance="{instance}"}}'
            gauges[f"retain_nrr_matured{labels}"] = always(matured)
            gauges[f"retain_nrr_proxy{labels}"] = always(nrr)
    return gauges


def wanted(
    percent: Curve, release: str = RELEASE, generation: int = 3, served: Curve | None = None
) -> dict[str, Curve]:
    labels = f'{{release="{release}",generation="{generation}",instance="a:8001"}}'
    return {f"retain_rollout_wanted_percent{labels}": percent, f"retain_rollout_percent{labels}": served or percent}


def risks(each_minute: float, low: Curve) -> dict[str, Curve]:
    """Decisions with a churn risk; `low`: the share of them below .1. The others lie between .2 and .3."""
    bounds = [f"0.{tenth}" for tenth in range(1, 10)] + ["1.0", "+Inf"]
    return {
        f'retain_risk_bucket{{le="{bound}"}}': (
            (lambda minute: each_minute * low(minute)) if bound in ("0.1", "0.2") else always(each_minute)
        )
        for bound in bounds
    }


NONE: Sequence[Fires] = ()
ERRORS, LATENCY, UNSAFE, DROP = (
    [Fires(f"Retain{name}", RELEASE, rolls_back=True)] for name in ("ArmErrors", "ArmLatency", "ArmUnsafe", "NrrDrop")
)
CALLERS_5XX, CALLERS_P95 = [Fires("RetainServerErrors")], [Fires("RetainLatency")]
BLAMED_5XX, BLAMED_P95 = ([*alerts, alerts[0]._replace(rolls_back=True)] for alerts in (CALLERS_5XX, CALLERS_P95))
CONTACT = 'retain_decisions_total{mode="baseline",action="contact",why="risk_at_threshold"}'
COMPLAINED = 'retain_outcomes_total{kind="complained",status="recorded"}'
DAY = 24 * 60.0
HOUR = 60

HEALTHY: dict[str, Curve] = {
    **errors(always(60), always(0.3)),
    **seconds(always(60), always(1.5)),
    **unsafe(always(60), always(0.15)),
    **answers(always(1200), always(6)),
    **request_seconds(always(1200), always(30)),
    'retain_arm_decisions_total{arm="baseline",release="abc",instance="a:8001"}': always(1140),
    CONTACT: always(100),
    COMPLAINED: always(0.1),
    "retain_suppressed_total": always(1),
}
CALM: dict[str, Curve] = {
    **value(0.79, 2000),
    **wanted(always(5)),
    'up{job="retain",instance="a:8001"}': always(1),
    'retain_state_available{instance="a:8001"}': always(1),
    'retain_lease_fresh{instance="a:8001"}': always(1),
    'retain_rollout_problem{instance="a:8001"}': always(0),
}

CASES = [
    Case("nothing is there at all", {}, {}, {1: NONE, 30: NONE}),
    Case("healthy load of three hours", HEALTHY | risks(100, always(0.5)), CALM, {30: NONE, 90: NONE, 179: NONE}),
    Case(
        # 5 % in each minute are 1 % of the last ten after two.
        "errors that stay fire ten minutes after their share passed the limit",
        errors(always(60), before(20, always(0), always(3))),
        {},
        {31: NONE, 33: ERRORS, 60: ERRORS},
    ),
    Case("errors at the limit", errors(always(100), always(1)), {}, {15: NONE, 60: NONE}),
    Case("errors just above it", errors(always(100), always(1.1)), {}, {9: NONE, 15: ERRORS}),
    Case("errors that come and go, just above", errors(always(100), in_turns(1.1, 1)), {}, {40: ERRORS, 59: ERRORS}),
    Case("errors that come and go, just below", errors(always(100), in_turns(0.9, 1)), {}, {40: NONE, 59: NONE}),
    Case("a minute in which all fail, then none", errors(always(60), before(20, always(0), before(21, always(60)))), {},
         dict.fromkeys(range(20, 50), NONE)),
    Case("four minutes in which all fail, then none",
         errors(always(60), before(20, always(0), before(24, always(60)))), {}, dict.fromkeys(range(20, 50), NONE)),
    Case("three errors of a hundred", errors(always(11), before(20, always(0.3), always(0))), {}, {20: NONE, 29: NONE}),
    Case("few decisions and no rollout", errors(always(5), always(2.5)), {}, {60: NONE}),
    Case("few decisions in ten minutes, enough in a day", errors(always(5), always(2.5)), wanted(always(5)),
         {15: NONE, 60: ERRORS}),
    Case("enough decisions in ten minutes, too few errors", errors(always(12), always(0.35)), wanted(always(5)),
         {15: NONE, 90: ERRORS}),
    Case("enough decisions, few errors, at the limit", errors(always(12), always(0.12)), wanted(always(5)),
         {60: NONE, 150: NONE}),
    Case("few decisions, a minute in which all fail", errors(always(5), before(40, always(0), before(41, always(5)))),
         wanted(always(5)), dict.fromkeys(range(40, 90, 5), NONE)),
    Case("few decisions, four minutes in which all fail",
         errors(always(5), before(40, always(0), before(44, always(5)))), wanted(always(5)),
         dict.fromkeys(range(40, 90, 5), NONE)),
    Case("few decisions, bad minutes again and again", errors(always(5), lambda minute: 5 * (minute % 20 < 1)),
         wanted(always(5)), {20: NONE, 90: ERRORS}),
    Case(
        # What it did before it was rolled back is that trial's. Then it fails anew.
        "few decisions, rolled back, forgiven and advanced again",
        errors(before(30, always(30), before(60, always(0), always(5))),
               before(20, always(0), before(30, always(15), before(110, always(0), always(2.5))))),
        wanted(before(32, always(5))) | wanted(before(60, always(0), always(5)), generation=8),
        {31: ERRORS, 62: NONE, 75: NONE, 90: NONE, 110: NONE, 150: ERRORS},
    ),
    Case("few decisions, paused, and advanced again",
         errors(always(5), before(20, always(1))),
         wanted(before(22, always(5))) | wanted(before(40, always(0), always(5)), generation=4), {60: NONE, 90: NONE}),
    Case("few decisions, and more customers since", errors(always(5), always(2.5)),
         wanted(before(60, always(5))) | wanted(before(60, always(0), always(25)), generation=4),
         {59: ERRORS, 75: NONE, 120: ERRORS}),
    Case("few decisions in a day", errors(always(0.04), always(0.02)), wanted(always(5)), {150: NONE}),
    Case("few decisions, few of them wrong", errors(always(5), always(0.04)), wanted(always(5)), {60: NONE, 150: NONE}),
    Case(
        # The rollout removes the challenger, so nothing of it is counted any more: no share, and the day isn't asked.
        "errors end with the rollback",
        errors(before(35, always(60)), before(20, always(0), before(35, always(6)))),
        wanted(before(35, always(5))),
        {34: ERRORS, 50: NONE, 90: NONE},
    ),
    Case("another release is on trial since", errors(before(35, always(60)), before(35, always(6)))
         | errors(before(40, always(0), always(60)), always(0), OTHER),
         wanted(before(35, always(5))) | wanted(before(40, always(0), always(5)), OTHER), {34: ERRORS, 60: NONE}),
    Case("two releases are told apart", errors(always(60), always(3)) | errors(always(60), always(0), OTHER), {},
         {30: ERRORS}),
    Case("slow answers", seconds(always(60), always(3.2)), {}, {9: NONE, 30: LATENCY}),
    Case("slow answers at the limit", seconds(always(60), always(3)), {}, {30: NONE}),
    Case("slow answers, come and gone, just below", seconds(always(60), in_turns(2.8, 1)), {}, {30: NONE, 59: NONE}),
    Case("slow answers, come and gone, just above", seconds(always(60), in_turns(3.3, 1)), {}, {59: LATENCY}),
    Case("few answers, all slow", seconds(always(9), always(9)), {}, {30: NONE}),
    Case("few answers, slow for four minutes, in a rollout",
         seconds(always(5), before(40, always(0), before(44, always(5)))), wanted(always(5)), {60: NONE, 90: NONE}),
    Case("few answers, all slow, in a rollout", seconds(always(9), always(9)), wanted(always(5)), {60: LATENCY}),
    Case("unsafe messages", unsafe(always(200), always(1.2)), {}, {9: NONE, 30: UNSAFE}),
    Case("unsafe messages at the limit", unsafe(always(200), always(1)), {}, {30: NONE}),
    Case("unsafe messages, come and gone, just below", unsafe(always(200), in_turns(0.9, 1)), {}, {30: NONE, 59: NONE}),
    Case("few messages and no rollout", unsafe(always(30), always(3)), {}, {60: NONE}),
    Case("few messages, enough in a day", unsafe(always(30), always(3)), wanted(always(5)), {15: NONE, 60: UNSAFE}),
    Case("enough messages in ten minutes, too few unsafe", unsafe(always(60), always(0.55)), wanted(always(5)),
         {15: NONE, 90: UNSAFE}),
    Case("enough messages, few unsafe, at the limit", unsafe(always(60), always(0.3)), wanted(always(5)),
         {60: NONE, 150: NONE}),
    Case("five unsafe messages of enough", unsafe(always(60), before(10, always(0.5))), {}, {15: NONE, 25: NONE}),
    Case("worth less", {}, value(0.769, 1300), {9: NONE, 12: DROP}),
    Case("worth less by the limit", {}, value(0.7701, 1300), {30: NONE}),
    Case("worth less, told from too few", {}, value(0.5, 1299), {30: NONE}),
    Case("worth is no number", {}, value(float("nan"), 5000), {30: NONE}),
    Case("callers see errors", answers(always(60), always(1)), {}, {9: NONE, 30: CALLERS_5XX}),
    Case("callers see errors of a challenger", answers(always(60), always(1)), wanted(always(5)),
         {9: NONE, 30: BLAMED_5XX}),
    Case("callers see errors, and the challenger is served to nobody", answers(always(60), always(1)),
         wanted(always(5), served=always(0)), {30: CALLERS_5XX}),
    Case("callers see errors of a challenger whose lease comes and goes", answers(always(60), always(1)),
         wanted(always(5), served=in_turns(5, 3)), {30: BLAMED_5XX}),
    Case("callers see errors before there is a challenger", answers(always(60), always(1)),
         wanted(before(20, always(0), always(5))), {29: CALLERS_5XX, 32: BLAMED_5XX}),
    Case("callers see errors at the limit", answers(always(100), always(1)), {}, {30: NONE}),
    Case("callers see errors of few requests", answers(always(9), always(9)), wanted(always(5)), {60: NONE}),
    Case("outcomes are refused", answers(always(600), always(600), path="/outcomes"), {}, {30: NONE}),
    Case("callers wait", request_seconds(always(60), always(4)), {}, {9: NONE, 30: CALLERS_P95}),
    Case("callers wait for a challenger", request_seconds(always(60), always(4)), wanted(always(5)),
         {9: NONE, 30: BLAMED_P95}),
    Case("callers wait at the limit", request_seconds(always(60), always(3)), {}, {30: NONE}),
    Case("a replica is down", {}, {'up{job="retain",instance="a:8001"}': before(5, always(1), always(0))},
         {4: NONE, 5.5: NONE, 7: [Fires("RetainReplicaDown")]}),
    Case("the controller is down", {}, {'up{job="controller",instance="c:8002"}': before(5, always(1), always(0))},
         {4: NONE, 7: [Fires("RetainControllerDown")]}),
    Case("another job is down", {}, {'up{job="node",instance="c:9100"}': always(0)}, {30: NONE}),
    Case("the database is away", {}, {'retain_state_available{instance="a:8001"}': before(5, always(1), always(0))},
         {4: NONE, 7: [Fires("RetainRecordsNotWritten")]}),
    Case("decisions are made without it",
         {'retain_decisions_total{why="state_unavailable",instance="a:8001"}': in_turns(1, 1)}, {},
         {10: [Fires("RetainRecordsNotWritten")]}),
    Case("the lease is lost", {}, wanted(always(5)) | {"retain_lease_fresh": before(5, always(1), always(0))},
         {4: NONE, 7: [Fires("RetainLeaseLost")]}),
    Case("no lease is wanted", {}, wanted(always(0)) | {"retain_lease_fresh": always(0)}, {30: NONE}),
    Case("the rollout can't be read", {}, {'retain_rollout_problem{instance="a"}': before(5, always(0), always(1))},
         {4: NONE, 7: [Fires("RetainRolloutProblem")]}),
    Case("the challenger's share is off", errors(always(20), always(0))
         | {'retain_arm_decisions_total{arm="baseline",release="abc"}': always(80)}, wanted(always(5)),
         {50: [Fires("RetainArmShare")]}),
    Case("the share is off, since it was changed within the hour", errors(always(20), always(0))
         | {'retain_arm_decisions_total{arm="baseline",release="abc"}': always(80)},
         wanted(before(30, always(20), always(5))), {25: NONE, 60: NONE}),
    Case("complaints", {CONTACT: always(10), COMPLAINED: always(0.05)}, {},
         {60: NONE, 150: [Fires("RetainComplaints")]}),
    Case("complaints at the limit", {CONTACT: always(100), COMPLAINED: always(0.3)}, {}, {150: NONE}),
    Case("opt-outs", {CONTACT: always(10), "retain_suppressed_total": always(0.4)}, {},
         {30: NONE, 90: [Fires("RetainOptOuts")]}),
    Case("opt-outs at the limit", {CONTACT: always(10), "retain_suppressed_total": always(0.3)}, {}, {90: NONE}),
    Case("scores drift", risks(10, before(8 * DAY, always(0.8), always(0.4))), {},
         {8 * DAY: NONE, 9 * DAY: [Fires("RetainScoreDrift")]}),
    Case("scores drift a little", risks(10, before(8 * DAY, always(0.8), always(0.7))), {}, {9 * DAY: NONE}),
    Case("scores of few drift", risks(0.5, before(8 * DAY, always(0.8), always(0.1))), {}, {9 * DAY: NONE}),
]  # fmt: skip


def samples(case: Case, step_minutes: float) -> list[dict[str, str]]:
    steps = int(max(case.firing) / step_minutes) + 1
    minutes = [step * step_minutes for step in range(steps)]
    series = {
        name: [0, *accumulate(curve(minute) * step_minutes for minute in minutes[:-1])]
        for name, curve in case.counters.items()
    }
    series |= {name: [curve(minute) for minute in minutes] for name, curve in case.gauges.items()}
    return [
        {"series": name, "values": " ".join("NaN" if each != each else f"{each:.9g}" for each in values)}
        for name, values in series.items()
    ]


def step_seconds(case: Case) -> int:
    """Between two samples, and two evaluations."""
    minutes = max(case.firing)
    return 30 if minutes <= HOUR else 60 if minutes < DAY else 3600


def as_test(case: Case, scale: int) -> dict[str, object]:
    """For promtool: all that fires at each minute, but the watchdog, which always does."""
    step_s = step_seconds(case)
    return {
        "name": case.says,
        "interval": f"{step_s * 1000 // scale}ms",
        "input_series": samples(case, step_s / 60),
        "promql_expr_test": [
            {
                "expr": 'max by (alertname, release, rollback) (ALERTS{alertstate="firing",severity!="none"})',
                "eval_time": f"{int(minute * 60_000 / scale)}ms",
                "exp_samples": [
                    {
                        "labels": f'{{alertname="{fires.alert}"'
                        + (f',release="{fires.release}"' if fires.release else "")
                        + (',rollback="challenger"' if fires.rolls_back else "")
                        + "}",
                        "value": 1,
                    }
                    for fires in alerts
                ],
            }
            for minute, alerts in case.firing.items()
        ],
    }


def promtool(folder: Path, content: dict[str, object]) -> None:
    """Runs tests of rules, and says which of them failed."""
    test = folder / "test.yaml"
    # Else it evaluates them in an order that differs from run to run.
    order = [group["name"] for group in yaml.safe_load(rules.rules(LIMITS))["groups"]]
    test.write_text(json.dumps(content | {"group_eval_order": order}))
    command = [program("promtool"), "test", "rules", test.name]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


# Each is one run of promtool, whose start takes longer than most cases. What takes long says no more at another scale.
RUNS = [
    (scale, step_s)
    for scale in (1, 60)
    for step_s in sorted({step_seconds(case) for case in CASES})
    if scale == 1 or step_s == 30
]


@pytest.mark.parametrize(("scale", "step_s"), RUNS)
def test_what_fires(scale: int, step_s: int, tmp_path: Path) -> None:
    rendered = tmp_path / "rules.yaml"
    rendered.write_text(rules.rules(LIMITS, scale))
    tests = [as_test(case, scale) for case in CASES if step_seconds(case) == step_s]
    promtool(
        tmp_path,
        {"rule_files": [rendered.name], "evaluation_interval": f"{step_s * 1000 // scale}ms", "tests": tests},
    )


def test_the_watchdog_is_that_of_all_groups_that_roll_back(tmp_path: Path) -> None:
    """It rises with the one that was evaluated last, and ends if one of them has not been for long."""
    content = yaml.safe_load(rules.rules(LIMITS))
    evaluated = [rule for group in content["groups"] for rule in group["rules"] if rule.get("record") == EVALUATED]
    groups = {
        group["name"]: group["rules"]
        for group in content["groups"]
        if any("challenger" in json.dumps(rule.get("labels", {})) for rule in group["rules"])
    }
    assert [rule["labels"]["group"] for rule in evaluated] == ["retain-arms", "retain-arms-day", "retain-callers"]
    assert set(groups) == {"retain-arms", "retain-callers"}
    assert all(rules_of[-1].get("record") == EVALUATED for rules_of in groups.values())  # after all that it tells of

    (tmp_path / "rules.yaml").write_text(rules.rules(LIMITS))
    content["groups"] = [group for group in content["groups"] if group["name"] == "retain-service"]
    (tmp_path / "alone.yaml").write_text(yaml.safe_dump(content))
    (watchdog,) = (rule for rule in content["groups"][0]["rules"] if rule.get("alert") == WATCHDOG)

    def alert_tests(values: dict[str, str | None]) -> list[dict[str, object]]:
        return [
            {
                "eval_time": at,
                "alertname": WATCHDOG,
                "exp_alerts": [
                    {
                        "exp_labels": {"severity": "none"},
                        "exp_annotations": watchdog["annotations"] | {"evaluated": value},
                    }
                ]
                if value
                else [],
            }
            for at, value in values.items()
        ]

    def stuck(name: str) -> list[dict[str, str]]:
        rising = " ".join(str(15 * step) for step in range(61))
        until_a_minute = "0 15 30 45 60" + " _" * 56
        return [
            {
                "series": f'{EVALUATED}{{group="{rule["labels"]["group"]}"}}',
                "values": until_a_minute if rule["labels"]["group"] == name else rising,
            }
            for rule in evaluated
        ]

    common: dict[str, object] = {"evaluation_interval": "15s"}
    alive = {"interval": "15s", "alert_rule_test": alert_tests({"2m": "120", "3m15s": "195"})}
    promtool(tmp_path, common | {"rule_files": ["rules.yaml"], "tests": [alive]})
    tests = [
        {
            "name": f"{name} is stuck",
            "interval": "15s",
            "input_series": stuck(name),
            "alert_rule_test": alert_tests({"1m": "60", "2m30s": frozen, "4m30s": None, "10m": None}),
        }
        for name, frozen in (("retain-arms", "60"), ("retain-callers", "60"), ("retain-arms-day", "150"))
    ]
    promtool(tmp_path, common | {"rule_files": ["alone.yaml"], "tests": tests})


def test_an_unscaled_template_keeps_its_durations() -> None:
    """The tests above would not notice rules whose durations were all wrong alike."""
    rendered = yaml.safe_load(rules.rules(LIMITS))
    alerts = [rule for group in rendered["groups"] for rule in group["rules"] if "alert" in rule]
    pages = [rule for rule in alerts if rule["labels"]["severity"] == "page"]
    of_callers = {"RetainServerErrors", "RetainLatency"}
    of_arms = {"RetainArmErrors", "RetainArmLatency", "RetainArmUnsafe", "RetainNrrDrop"}
    assert {rule["for"] for rule in pages} == {"10m"}
    rolling_back = [rule["alert"] for rule in pages if rule["labels"].get("rollback") == "challenger"]
    assert sorted(rolling_back) == sorted(of_arms | of_callers)
    assert {rule["alert"] for rule in pages if "rollback" not in rule["labels"]} == of_callers
    others = [rule for rule in alerts if rule not in pages]
    assert {rule["labels"]["severity"] for rule in others} == {"ticket", "none"}
    assert all("rollback" not in rule["labels"] for rule in others)


def test_every_duration_is_scaled() -> None:
    template = rules.RULES_FILE.read_text()
    durations = len(re.findall(r"\b[0-9]+[smhdw]\b", re.sub(r"#.*", "", template)))
    assert len(rules.DURATION.findall(template)) == durations > 50
    assert not re.search(r"\b[0-9]+[mhdw]\b", re.sub(r"#.*", "", rules.rules(LIMITS, 60)))
    assert "for: 10s" in rules.rules(LIMITS, 60)
    assert "scrape_interval: 1s" in rules.prometheus(PLACES, 60)


def test_the_limits_are_the_experiment_s() -> None:
    changed = LIMITS.model_copy(update={"unsafe_rate": LIMITS.unsafe_rate.model_copy(update={"limit": 0.0123})})
    assert "0.0123" not in rules.rules(LIMITS)
    assert "0.0123" in rules.rules(changed)
    template = re.sub(r"#.*", "", rules.RULES_FILE.read_text())
    for limit in ("0.01 ", "0.005", "0.03 ", "1300", "500 ms"):  # none of them is written a second time
        assert limit not in template.split("retain-business")[0], limit


def test_a_limit_of_latency_is_a_bound_of_the_histograms(tmp_path: Path) -> None:
    """Else no alert on latency would ever fire."""
    registry = CollectorRegistry()
    TrialMetrics(registry).of("learned", RELEASE)
    samples_of_one = [sample for metric in registry.collect() for sample in metric.samples if "le" in sample.labels]
    bounds = {sample.labels["le"] for sample in samples_of_one} - {"+Inf"}
    assert bounds == {str(bound) for bound in SECONDS_BOUNDS}
    for bound in SECONDS_BOUNDS:
        limit = LatencyLimit(limit_ms=bound * 1000)
        text = rules.rules(LIMITS.model_copy(update={"latency_p95": limit}))
        assert set(re.findall(r'le="([0-9.]+)"', text.split("retain-service")[0])) == {str(bound)}
    with pytest.raises(ValidationError, match=r"300 ms is no bound of .* 100, 250, 500, 1000, 2500 ms"):
        LatencyLimit(limit_ms=300)


def test_a_release_whose_limit_is_no_bound_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = LIMITS.model_dump(mode="json") | {"latency_p95": {"limit_ms": 300}}
    (tmp_path / "monitoring.json").write_text(json.dumps(held))
    monkeypatch.setattr(rules, "open_artifact", lambda folder: {"monitoring.json": folder / "monitoring.json"})
    with pytest.raises(RetainError, match=r"monitoring\.json: latency_p95\.limit_ms: 300 ms is no bound .*; a new run"):
        rules.limits_of_release(tmp_path)


def test_a_demo_s_store_alone_is_scaled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETAIN_STORE", str(tmp_path / "store"))
    command = [str(tmp_path), "--stated", "--experiment", "exp_001_mvp", "--admin-token-file", "a",
               "--controller-token-file", "c"]  # fmt: skip
    assert rules.main(command) == 0
    assert (tmp_path / "rules.yaml").read_text() == rules.rules(LIMITS)
    (tmp_path / "store" / "DEMO").write_text('{"time_scale": 60}')
    assert rules.main(command) == 0
    assert (tmp_path / "rules.yaml").read_text() == rules.rules(LIMITS, 60)


def test_every_alert_says_what_it_means_and_where_to_read_on() -> None:
    runbook = (ROOT / "docs" / "OPERATOR_RUNBOOK.md").read_text()
    for group in yaml.safe_load(rules.rules(LIMITS))["groups"]:
        for rule in group["rules"]:
            if "alert" in rule:
                assert {"summary", "description", "runbook"} <= rule["annotations"].keys(), rule["alert"]
                assert rule["annotations"]["runbook"] == f"docs/OPERATOR_RUNBOOK.md#{rule['alert'].lower()}"
                assert rule["annotations"]["summary"].endswith(".")
                assert f"\n### {rule['alert']}\n" in runbook


@pytest.mark.parametrize("scale", [1, 60])
def test_prometheus_and_alertmanager_read_their_files(tmp_path: Path, scale: int) -> None:
    tokens = [tmp_path / "admin", tmp_path / "controller"]
    for token in tokens:
        token.write_text("secret")
    places = PLACES._replace(admin_token_file=str(tokens[0]), controller_token_file=str(tokens[1]))
    said: list[str] = []
    rules.write(tmp_path / "new", LIMITS, places, scale, said.append)
    assert [("DEMO" in line, "\x1b[31m" in line) for line in said] == ([] if scale == 1 else [(True, True)])
    for command in (
        [program("promtool"), "check", "config", "prometheus.yaml"],
        [program("amtool"), "check-config", "alertmanager.yaml"],
    ):
        ended = subprocess.run(command, cwd=tmp_path / "new", capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stdout + ended.stderr
    read = yaml.safe_load((tmp_path / "new" / "prometheus.yaml").read_text())
    assert read["scrape_configs"][0]["static_configs"] == [{"targets": ["a:8001", "b:8001"]}]


def test_what_is_no_release_has_no_limits(tmp_path: Path) -> None:
    with pytest.raises(RetainError, match=r"holds no manifest\.json"):
        rules.limits_of_release(tmp_path)
    assert rules.main([str(tmp_path), "--experiment", "nosuch", "--admin-token-file", "a", "--controller-token-file",
                       "c"]) == 2  # fmt: skip


def test_limits_are_those_of_the_release_that_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    monkeypatch.setenv("RETAIN_STORE", str(store))
    release(store, 1, GOOD_PARTS)
    later = MONITORING.model_copy(update={"latency_p95": LatencyLimit(limit_ms=1000)})
    monkeypatch.setattr("tests.deploy.fakes.MONITORING", later)
    release(store, 2, GOOD_PARTS)  # the current one
    first, second = (store / EXPERIMENT / "release" / f"{number:064x}" for number in (1, 2))
    command = [str(tmp_path), "--experiment", EXPERIMENT, "--admin-token-file", "a", "--controller-token-file", "c"]

    def answers(folder: Path, limits: Monitoring) -> None:
        assert rules.main(command) == 0
        assert capsys.readouterr().out == f"{folder}\n"
        assert (tmp_path / "rules.yaml").read_text() == rules.rules(limits)

    answers(second, later)
    rollout = propose(None, version_of(first), version_of(second), **ANN)
    Document(FolderStore(store), rollout_key(EXPERIMENT), Rollout).change(lambda _: rollout)
    answers(first, MONITORING)  # the champion, though a retrain has made another release since
    monkeypatch.setenv("RELEASE_PATH", str(second))
    answers(second, later)
    (store / EXPERIMENT / "current.json").unlink()
    answers(second, later)


def test_the_routes(tmp_path: Path) -> None:
    """Which receiver an alert goes to, by its labels."""
    path = tmp_path / "alertmanager.yaml"
    path.write_text(rules.alertmanager(PLACES))
    for labels, receiver in (
        (["alertname=RetainWatchdog", "severity=none"], "watchdog"),
        (["alertname=RetainArmErrors", "severity=page"], "people,controller"),
        (["alertname=RetainControllerDown", "severity=page"], "people,controller"),
        (["alertname=RetainControllerDown", "severity=ticket"], "people"),
        (["alertname=RetainOptOuts", "severity=ticket"], "controller"),
    ):
        command = [program("amtool"), "config", "routes", "test", f"--config.file={path}", *labels]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == receiver
    routes = yaml.safe_load(path.read_text())["route"]["routes"]
    assert {route["group_wait"] for route in routes} == {"0s"}
    told = [route for route in routes if route["receiver"] == "people"]
    assert all("repeat_interval" not in route for route in told), "people aren't told each minute"


@pytest.mark.parametrize("url", [None, "https://pager.example/a?key=s3cret&to=|x"])
def test_people_are_told_past_the_controller_where_there_is_an_address(tmp_path: Path, url: str | None) -> None:
    rules.write(tmp_path, LIMITS, PLACES._replace(page_url=url), 1, print)
    path = tmp_path / "alertmanager.yaml"
    receivers = {each["name"]: each["webhook_configs"] for each in yaml.safe_load(path.read_text())["receivers"]}
    assert receivers["people"] == ([] if url is None else [{"url": url, "send_resolved": True}])
    assert bool(path.stat().st_mode & 0o077) == (url is None), "it may hold a secret"
    assert (tmp_path / "prometheus.yaml").stat().st_mode & 0o044
    for name in ("controller", "watchdog"):
        assert [each["url"] for each in receivers[name]] == ["http://c:8002/alerts"]


@pytest.mark.parametrize("url", ["", "https://pager.example/a?key=s3cret&to=|x\\y"])
def test_the_container_puts_the_address_where_it_belongs(tmp_path: Path, url: str) -> None:
    """By its own shell, so that no file of the host has it."""
    later = rules.PAGE_URL_LATER if url else None
    rules.write(tmp_path / "etc", LIMITS, PLACES._replace(page_url=later), 1, print)
    (tmp_path / "run").mkdir()
    stated = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())["services"]["alertmanager"]
    script = stated["entrypoint"][2].replace("$$", "$").replace("exec alertmanager", "exec echo")
    script = script.replace("/run/retain", f"{tmp_path}/run").replace("/etc/retain", f"{tmp_path}/etc")
    environment = os.environ | {"RETAIN_CONTROLLER_TOKEN": "t", "RETAIN_PAGE_URL": url}
    subprocess.run(["sh", "-c", script, "alertmanager"], env=environment, check=True)
    path = tmp_path / "run" / "alertmanager.yaml"
    people = next(each for each in yaml.safe_load(path.read_text())["receivers"] if each["name"] == "people")
    assert [each["url"] for each in people["webhook_configs"]] == ([url.replace("\\", "%5C")] if url else [])
    assert not path.stat().st_mode & 0o077
    assert f"--config.file={path}".replace(f"{tmp_path}/run", "/run/retain") in stated["command"]
