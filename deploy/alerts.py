"""What Alertmanager's webhook brings, and what follows from it. Pure.

Strict about what is needed (whether an alert fires, its name, whom it is about), blind to everything else. An alert
that can't be read is left out and named, so that it doesn't keep another one from rolling back.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from hashlib import sha256
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from retain.rollout import Rollout

WATCHDOG = "RetainWatchdog"
EVALUATED = "evaluated"  # the watchdog's annotation: when Prometheus evaluated it, a number that rises
MAX_BODY = 1 << 20  # bytes
MAX_WORDS = 400  # characters of a summary


class AlertError(ValueError):
    """What was sent is no notification, in one line."""


class _Alert(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    status: Literal["firing", "resolved"]
    labels: dict[str, str]
    annotations: Any = None
    starts: Annotated[Any, Field(alias="startsAt")] = None


class Alert(NamedTuple):
    """`id`: the same whenever this alert is sent again, until it has resolved. `rolls_back`: it says that the
    challenger is to be rolled back; `release`: whose fault it is, None where that isn't said."""

    id: str
    name: str
    firing: bool
    severity: str
    rolls_back: bool
    release: str | None
    summary: str
    evaluated: float | None


class Notification(NamedTuple):
    """`unreadable`: what is wrong with the alerts that are left out, a line each."""

    alerts: tuple[Alert, ...]
    unreadable: tuple[str, ...]

    @property
    def watchdog(self) -> Alert | None:
        """The newest, if it is among them and fires."""
        watchdogs = [alert for alert in self.alerts if alert.name == WATCHDOG and alert.firing]
        return max(watchdogs, key=lambda alert: alert.evaluated or 0.0, default=None)

    @property
    def told(self) -> tuple[Alert, ...]:
        """Those that fire, and that somebody has to be told of."""
        return tuple(
            alert
            for alert in self.alerts
            if alert.firing and (alert.severity in ("page", "ticket") or alert.rolls_back)
        )


def parse(body: bytes) -> Notification:
    """Raises AlertError."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise AlertError("the body is no JSON") from None
    sent = content.get("alerts") if isinstance(content, dict) else None
    if not isinstance(sent, list):
        raise AlertError("the body has no list of alerts")
    alerts, unreadable = [], []
    for number, each in enumerate(sent, start=1):
        try:
            alerts.append(_alert(_Alert.model_validate(each)))
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            unreadable.append(f"alert {number}: {'.'.join(map(str, first['loc']))}: {first['msg']}")
        except AlertError as error:
            unreadable.append(f"alert {number}: {error}")
    return Notification(tuple(alerts), tuple(unreadable))


def _alert(sent: _Alert) -> Alert:
    labels = {_line(name): _line(value) for name, value in sent.labels.items()}
    if not labels.get("alertname"):
        raise AlertError("it has no name")
    identity = json.dumps([sorted(labels.items()), str(sent.starts)])
    annotations = sent.annotations if isinstance(sent.annotations, dict) else {}
    summary = annotations.get("summary")
    return Alert(
        id=f"{labels['alertname']}/{sha256(identity.encode()).hexdigest()[:12]}",
        name=labels["alertname"],
        firing=sent.status == "firing",
        severity=labels.get("severity", ""),
        rolls_back=labels.get("rollback") == "challenger",
        release=labels.get("release") or None,
        summary=_line(summary) if isinstance(summary, str) else "",
        evaluated=_number(annotations.get(EVALUATED)),
    )


def _line(text: str) -> str:
    """What of a text can be shown and kept, in one line."""
    return "".join(character if character.isprintable() else " " for character in text).strip()[:MAX_WORDS]


def _number(text: object) -> float | None:
    try:
        number = float(text) if isinstance(text, str) else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def blames(alert: Alert, rollout: Rollout) -> bool:
    """Whether the alert rolls this rollout's challenger back. One about what callers saw names no release: it does so
    only where the rollout wants the challenger served to somebody. Whether it is served now, which takes a lease, too,
    isn't asked: a fault that ends the lease would else protect itself."""
    if not (alert.firing and alert.rolls_back) or rollout.challenger is None:
        return False
    if alert.release is None:
        return rollout.percent > 0
    return alert.release == rollout.challenger.release


def blamed(alerts: Iterable[Alert], rollout: Rollout) -> Alert | None:
    """The first of them that rolls it back."""
    return next((alert for alert in alerts if blames(alert, rollout)), None)


def why(alert: Alert) -> str:
    """For the rollout's history, and for people."""
    summary = alert.summary.rstrip(".")
    return f"{alert.name}: {summary}" if summary else alert.name
