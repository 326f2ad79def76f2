"""Notifications as Alertmanager's webhook sends them."""

from __future__ import annotations

import json
from typing import Any

WATCHDOG = {"alertname": "RetainWatchdog", "severity": "none"}


def alert(name: str, status: str = "firing", starts: str = "2026-11-30T20:00:00.000Z", **labels: str) -> dict[str, Any]:
    """`severity` is page, unless it is among the labels."""
    return {
        "status": status,
        "labels": {"alertname": name, "severity": "page", **labels},
        "annotations": {"summary": f"{name} is above its limit.", "description": "More."},
        "startsAt": starts,
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus:9090/graph",
        "fingerprint": "0123456789abcdef",
    }


def blaming(name: str, release: str | None = None, **more: str) -> dict[str, Any]:
    """One that rolls back."""
    labels = {"rollback": "challenger"} | ({} if release is None else {"release": release, "arm": "learned"})
    return alert(name, **labels, **more)


def watchdog(evaluated: float | None = None) -> dict[str, Any]:
    sent = alert("RetainWatchdog", severity="none")
    return sent | {"annotations": {} if evaluated is None else {"evaluated": f"{evaluated}"}}


def body(*alerts: Any) -> bytes:
    """Of a notification, as Alertmanager 0.25 sends it."""
    return json.dumps(
        {
            "receiver": "controller", "status": "firing", "alerts": alerts, "groupLabels": {}, "commonLabels": {},
            "commonAnnotations": {}, "externalURL": "http://alertmanager:9093", "version": "4", "groupKey": "{}:{}",
            "truncatedAlerts": 0,
        }
    ).encode()  # fmt: skip
