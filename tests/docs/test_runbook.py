"""The runbook has a section for each alert, and names metrics that there are."""

from __future__ import annotations

import json
import re
import subprocess

import pytest
import yaml

from tests.docs.documents import PROJECT, quoted, read, section

RUNBOOK = read("docs/OPERATOR_RUNBOOK.md")
ALERTS = re.findall(r"^ *- alert: (\w+)$", read("deploy/prometheus/rules.yaml"), flags=re.MULTILINE)
POINTS = ("Means", "Look at", "Do", "It worked when")


def test_every_alert_has_a_section_and_every_section_an_alert() -> None:
    assert sorted(re.findall(r"^### (Retain\w+)$", RUNBOOK, flags=re.MULTILINE)) == sorted(set(ALERTS))


@pytest.mark.parametrize("alert", sorted(set(ALERTS) - {"RetainWatchdog"}))
def test_it_says_what_an_alert_means_and_what_to_do(alert: str) -> None:
    assert tuple(re.findall(r"^- \*\*(.+?)\*\*", section(RUNBOOK, alert), flags=re.MULTILINE)) == POINTS


def test_the_playbook_s_sections_are_there() -> None:
    for heading in ("Model version updates", "Canary management", "Dashboard reading", "Common remediations"):
        assert f"\n## {heading}\n" in RUNBOOK
    cells = section(RUNBOOK, "Common remediations")
    assert re.findall(r"^\| (high latency|many 5xx|unsafe messages|NRR drop) \|", cells, flags=re.MULTILINE) == [
        "high latency", "many 5xx", "unsafe messages", "NRR drop",
    ]  # fmt: skip


def test_panels_are_those_of_the_dashboards() -> None:
    titles = {
        panel["title"]
        for path in (PROJECT / "deploy" / "grafana" / "dashboards").glob("*.json")
        for panel in json.loads(path.read_text())["panels"]
    }
    table = section(RUNBOOK, "Dashboard reading")
    named = re.findall(r"^\| ([^|]+) \|", table, flags=re.MULTILINE)[1:]
    assert len(named) > 8
    assert {*named, *re.findall(r"\*([A-Z][^*|]+\?|Why[^*|]+)\*", table)} <= titles | {"Rollout and safety"}


def test_metrics_are_those_of_the_service() -> None:
    counted = read("docs/SERVICE.md").partition("## What is counted")[2]
    named = {name for name in quoted(RUNBOOK) if re.fullmatch(r"retain_\w+", name)}
    assert named
    assert [name for name in sorted(named) if f"`{name}`" not in counted] == []


def test_its_blocks_are_bash() -> None:
    blocks = re.findall(r"^```bash\n(.*?)^```", RUNBOOK, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 5
    checked = subprocess.run(["bash", "-n"], input="\n".join(blocks), capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_containers_that_it_names_are_those_of_the_stack() -> None:
    named = re.findall(r"(?:\(container |`logs |compose\.service=)([a-z][a-z0-9-]*)", RUNBOOK)
    assert len(named) > 8
    assert set(named) <= set(yaml.safe_load(read("deploy/compose.yaml"))["services"])


def test_the_rollback_in_a_hurry_needs_nothing_that_was_defined_before() -> None:
    hurry = RUNBOOK.partition("**In a hurry?**")[2].partition("```bash")[0]
    commands = re.findall(r"^```text\n(.*?)\n```", hurry, flags=re.MULTILINE | re.DOTALL)
    assert [command.split()[:2] for command in commands] == [["docker", "exec"], ["docker", "stop"]]
    assert commands[0].endswith("python -m deploy.controller rollback --by NAME --reason TEXT")
