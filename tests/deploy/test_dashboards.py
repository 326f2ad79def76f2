"""The dashboards show what there is: every query is of a metric that somebody exposes, and finds it in a real
Prometheus that has scraped real services."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy import rules
from retain.release import Release
from serve.metrics import Metrics
from tests.deploy.chain import Chain, until
from tests.deploy.exposed import exposed
from tests.releases import rows
from tests.serve.callers import Callers
from tests.serve.memory import DAY

GRAFANA = rules.DEPLOY / "grafana"
DASHBOARDS = {path.stem: json.loads(path.read_text()) for path in sorted((GRAFANA / "dashboards").glob("*.json"))}
PANELS = [panel for dashboard in DASHBOARDS.values() for panel in dashboard["panels"] if panel["type"] != "row"]
QUERIES = sorted({target["expr"] for panel in PANELS for target in panel["targets"]})
WIDTH = 24


def named(text: str) -> set[str]:
    """The metrics in PromQL, recorded ones too, without what Prometheus adds to their names."""
    found = set(re.findall(r"\b(?:retain_[a-z_]+|retain:[a-z_:]+)\b(?!\")", text))
    return {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in found}


def recorded() -> set[str]:
    groups = yaml.safe_load(rules.RULES_FILE.read_text())["groups"]
    return {rule["record"] for group in groups for rule in group["rules"] if "record" in rule}


def test_there_are_two() -> None:
    assert {name: dashboard["title"] for name, dashboard in DASHBOARDS.items()} == {
        "business": "Business and drift",
        "rollout": "Rollout and safety",
    }
    assert len({dashboard["uid"] for dashboard in DASHBOARDS.values()}) == len(DASHBOARDS)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_ids_are_unique_and_panels_have_a_place_of_their_own(name: str) -> None:
    panels = DASHBOARDS[name]["panels"]
    ids = [panel["id"] for panel in panels]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= WIDTH
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


@pytest.mark.parametrize("panel", PANELS, ids=[panel["title"] for panel in PANELS])
def test_a_panel_says_what_it_shows(panel: dict[str, Any]) -> None:
    assert len(panel["description"]) > 20
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert [target["refId"] for target in panel["targets"]] == [chr(65 + n) for n in range(len(panel["targets"]))]
    assert all(target["legendFormat"] for target in panel["targets"])
    sources = yaml.safe_load((GRAFANA / "provisioning" / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert {target["datasource"]["uid"] for target in panel["targets"]} == {source["uid"] for source in sources}


def test_alerts_that_panels_name_are_there() -> None:
    alerts = set(re.findall(r"- alert: (\w+)", rules.RULES_FILE.read_text()))
    panels = set(re.findall(r"\bRetain[A-Z]\w+", json.dumps(DASHBOARDS)))
    assert panels <= alerts
    assert {"RetainArmErrors", "RetainArmLatency", "RetainArmUnsafe", "RetainNrrDrop"} <= panels


def test_every_metric_of_a_panel_is_exposed_or_recorded() -> None:
    assert named(" ".join(QUERIES)) <= exposed() | recorded()


def test_every_metric_of_a_rule_is_exposed_or_recorded() -> None:
    groups = yaml.safe_load(rules.RULES_FILE.read_text())["groups"]
    used = named(" ".join(rule["expr"] for group in groups for rule in group["rules"]))
    assert used <= exposed() | recorded()
    assert recorded() <= used | named(" ".join(QUERIES))  # none is recorded for nobody


@pytest.mark.parametrize(
    "series",
    [
        'retain_outcomes_total{kind="complained",status="recorded"}',
        'retain_requests_total{code="503",path="/retain"}',
        'retain_decisions_total{action="no_contact",mode="baseline",why="state_unavailable"}',
        "retain_suppressed_total",
    ],
)
def test_what_alerts_count_begins_at_zero(series: str) -> None:
    """To Prometheus a counter that begins at one has not increased."""
    assert f"\n{series} 0.0\n" in Metrics().text().decode()


def test_the_check_sees_what_is_not_exposed() -> None:
    assert named('sum (rate(retain_gone_total{why="x"}[5m])) / retain:gone:day') == {"retain_gone", "retain:gone:day"}
    assert "retain_gone" not in exposed()
    assert {"retain_arm_decisions", "retain_controller_watchdog_seconds", "retain_workers"} <= exposed()


def asked(prometheus: str, query: str) -> list[Any]:
    """The series that a query finds now, those that are no number left out."""
    plain = query.replace("$__rate_interval", "30s").replace("$__range", "1h")
    url = f"{prometheus}/api/v1/query?{urllib.parse.urlencode({'query': plain})}"
    with urllib.request.urlopen(url, timeout=30) as answer:
        content = json.load(answer)
    assert content["status"] == "success", content
    return [series for series in content["data"]["result"] if series["value"][1] != "NaN"]


def post(chain: Chain, path: str, body: dict[str, Any]) -> Any:
    """What the first replica answers; None for a refusal."""
    api = chain.apis[0]
    request = urllib.request.Request(
        f"http://{api.host}:{api.port}{path}", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with contextlib.suppress(urllib.error.HTTPError), urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)
    return None


@pytest.mark.slow
@pytest.mark.kills
def test_every_query_finds_what_real_services_tell(tmp_path: Path, store: Path, release: Release) -> None:
    """A day is 24 seconds here, so that drift can be told; and decisions are made three weeks ago, so that they have
    matured."""
    shutil.copytree(store, tmp_path / "store")
    chain = Chain(tmp_path, tmp_path / "store", release, scale=3600)
    chain.shift.write_text(str(-21 * DAY))
    person = rows(release.spec, 1, seed=3)[0]
    missing = set(QUERIES)
    with chain, Callers(release, chain.apis, count=2, pause=0.02):
        chain.begin(50.0)
        complaints = 0

        def all_found() -> bool:
            nonlocal complaints
            complaints += 1
            customer = person | {release.spec.roles["id"]: f"who complains {complaints}"}
            decision = post(chain, "/retain", {"customer": customer})
            post(chain, "/outcomes", {"decision_id": decision["decision_id"], "outcome": "complained"})
            post(chain, "/retain", {"customer": customer | {"MonthlyCharges": 1e6}})
            missing.difference_update([query for query in missing if asked(chain.places.prometheus, query)])
            return not missing

        try:
            until(all_found)
        except AssertionError:
            pytest.fail(f"these found nothing: {sorted(missing)}")
