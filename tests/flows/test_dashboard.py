"""The costs of a run as Prefect shows them: what is in an artifact, and that Prefect's server has them."""

from __future__ import annotations

import base64
import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine import ledger, records
from engine.prices import load_prices
from eval.costs import lines, spending, to_table, total
from flows import dashboard
from flows.dashboard import Costs, chart, costs, key_of, published
from flows.plan import Plan
from flows.run import Run
from tests.flows.toy_plan import board_of, toy_plan, toy_stage
from tests.flows.toys import said_by

MOST_BYTES = 1_000_000


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Its ledger holds a preempted attempt at `risk`, the one that completed it, and one at `sft` that is open."""
    plan = toy_plan(tmp_path, (toy_stage("risk"),))
    spot = {"cap_usd": 100.0, "experiment": "chaos", "usd_per_hour": 0.28, "overhead_s": 0.0}
    for stage, number, limit_s in (("risk", 1, 3600.0), ("risk", 2, 3600.0), ("sft", 1, 7200.0)):
        attempt_id = f"chaos/{stage}/f/{number}"
        ledger.reserve(
            plan.store,
            "chaos",
            attempt_id=attempt_id,
            stage=stage,
            limit_s=limit_s,
            machine_type="g2-standard-4",
            **spot,  # type: ignore[arg-type]
        )
    ledger.settle(plan.store, "chaos", "chaos/risk/f/1", 900.0, estimated=False, preempted=True)
    ledger.settle(plan.store, "chaos", "chaos/risk/f/2", 1800.0, estimated=False)
    write = plan.store.write
    write(records.key("chaos/risk/f", 1, "progress.jsonl"), b'{"seconds": 600.0, "step": 1, "total": 4}\n')
    write(records.key("chaos/risk/f", 2, "progress.jsonl"), b'{"seconds": 60.0, "step": 2, "total": 4}\n')
    return plan


def test_a_row_has_all_that_is_asked_for(plan: Plan) -> None:
    shown = costs(plan)
    assert [row["Component"] for row in shown.rows] == [
        *(component.name for component in plan.experiment.costs.components),
        "Total",
    ]
    assert shown.rows[0] == {
        "Component": "Risk + Accept Training",
        "Estimated": "$5.00",
        "Reserved": "-",
        "Actual": "$0.2100",
        "Status": "Under estimate",
        "Attempts": "2",
        "Preempted": "1",
        "Repeated": "300 s",
        "Saved": "$0.2633",  # 2,400 s at $0.71, less $0.21
        "Left": "$4.79",
    }
    assert shown.rows[1]["Reserved"] == "$0.5600"
    assert shown.rows[1]["Status"] == "Running, $0.5600 reserved"
    assert shown.percent == pytest.approx(0.77)


def test_terminal_and_prefect_show_the_same(plan: Plan) -> None:
    shown = costs(plan)
    attempts, stated = ledger.entries(plan.store, "chaos"), plan.experiment.costs
    table = to_table(lines(stated.components, spending(plan.store, attempts, load_prices(), stated.region)), "")
    columns = {str(column.header): [*map(str, column.cells), str(column.footer)] for column in table.columns}
    assert columns == {head: [row[head] for row in shown.rows] for head in shown.rows[0]}


def test_the_text_holds_table_chart_and_what_the_columns_mean(plan: Plan) -> None:
    text = costs(plan).text
    assert text.startswith("# Costs of chaos")
    assert "| Risk + Accept Training | $5.00 | - | $0.2100 | Under estimate | 2 | 1 | 300 s | $0.2633 | $4.79 |" in text
    assert "Budget $100.00 (scope chaos): metered $0.2100" in text
    assert "never billed" in text
    assert "Saved: against on-demand machines" in text


def image(text: str) -> ET.Element:
    (encoded,) = re.findall(r"!\[[^\]]+\]\(data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)\)", text)
    return ET.fromstring(base64.b64decode(encoded))


def test_the_chart_draws_metered_and_reserved_to_scale(plan: Plan) -> None:
    svg = image(costs(plan).text)
    bars = [(b.get("fill"), float(b.get("width", 0))) for b in svg.iter() if b.tag.endswith("rect")]
    widths = {colour: [width for fill, width in bars if fill == colour] for colour in dashboard.COLOURS.values()}
    scale = dashboard.CHART / 30  # the largest estimate
    assert widths[dashboard.COLOURS["estimate"]][0] == pytest.approx(5 * scale, abs=0.05)
    assert widths[dashboard.COLOURS["metered"]][0] == pytest.approx(0.21 * scale, abs=0.05)
    assert widths[dashboard.COLOURS["reserved"]][1] == pytest.approx(0.56 * scale, abs=0.05)


def test_names_of_components_can_not_break_out(plan: Plan) -> None:
    """They are an experiment's own words."""
    name = 'a|b <script>alert(1)</script> `c` [d](http://e) & "f"'
    component = plan.experiment.costs.components[0].model_copy(update={"name": name})
    stated = plan.experiment.costs.model_copy(update={"components": (component,)})
    shown = costs(replace(plan, experiment=plan.experiment.model_copy(update={"costs": stated})))
    assert name in [element.text for element in image(shown.text).iter()]
    row = next(line for line in shown.text.splitlines() if "alert" in line)
    assert len(re.findall(r"(?<!\\)\|", row)) == 11
    assert re.findall(r"(?<!\\)[<>`\[\]]", row) == []


def test_an_empty_ledger_can_be_drawn() -> None:
    shown = lines((), spending(None, (), load_prices(), "us-central1"))  # type: ignore[arg-type]
    assert image(chart(shown)).tag.endswith("svg")
    assert total(shown).metered == 0


@pytest.mark.parametrize(
    ("scope", "key"),
    [("exp_001_mvp", "costs-exp-001-mvp"), ("retrain/2026-11", "costs-retrain-2026-11"), ("a", "costs-a")],
)
def test_keys_are_what_prefect_allows(scope: str, key: str) -> None:
    assert key_of(scope) == key


def test_costs_are_published_when_they_change_and_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = toy_plan(tmp_path)
    run = Run(plan, board_of(plan))
    states = [Costs([{"Component": name}], "", 0.0) for name in ("a", "a", "b", "b", "b", "c")]
    asked: list[int] = []
    told: list[str] = []

    def now(plan: Plan) -> Costs:
        asked.append(1)
        return states[min(len(asked), len(states)) - 1]

    monkeypatch.setattr(dashboard, "costs", now)
    monkeypatch.setattr(dashboard, "publish", lambda shown, scope: told.append(shown.rows[0]["Component"]))
    with published(run, every_s=0.01):
        while len(asked) < 5:
            pass
    assert told == ["a", "b", "c"]


def test_what_can_not_be_shown_fails_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = toy_plan(tmp_path)

    def gone(shown: Costs, scope: str) -> None:
        raise ConnectionError("nobody listens")

    monkeypatch.setattr(dashboard, "publish", gone)
    with published(Run(plan, board_of(plan)), every_s=0.01):
        pass


def test_prefect_has_the_artifacts_of_a_run_with_their_history(tmp_path: Path) -> None:
    """A run with Prefect's own server; its artifacts are read through the API."""
    content = said_by("toy_dashboard", tmp_path)
    (flow_run,) = content["runs"]
    artifacts: dict[str, list[dict[str, Any]]] = {}
    for artifact in content["artifacts"]:
        if artifact["key"]:
            artifacts.setdefault(artifact["key"], []).append(artifact)
            assert artifact["flow_run_id"] == flow_run
            assert len(json.dumps(artifact["data"])) < MOST_BYTES
    kinds = {key: {artifact["type"] for artifact in those} for key, those in artifacts.items()}
    assert kinds == {"costs-chaos": {"table"}, "costs-chaos-chart": {"markdown"}, "costs-chaos-budget": {"progress"}}
    assert len(artifacts["costs-chaos"]) > 1  # while both stages ran, and at the end
    (last,) = (
        a for a in artifacts["costs-chaos"] if a["created"] == max(b["created"] for b in artifacts["costs-chaos"])
    )
    rows = json.loads(last["data"])
    spent = sum(e.metered_usd for e in ledger.entries(toy_plan(tmp_path / "store").store, "chaos"))
    assert rows[-1]["Actual"] == f"${spent:.4f}"
    assert rows[-1]["Attempts"] == "2"
