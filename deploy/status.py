"""`status`: where the rollout stands, what each replica really serves, and what is waited for.

Everything but the store may be away: that is shown, not raised. Nothing is changed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from deploy.calls import Unanswered, get_json
from deploy.candidate import Candidate, of_version
from deploy.figures import OLD_SECONDS
from deploy.measured import LEASE, MICROSECOND, PERCENT, Measured, Prometheus, firing, measured
from deploy.people import Desk
from deploy.plan import DEMO, read_plan, time_scale
from engine.errors import RetainError
from retain.rollout import Plan, Rollout, describe
from retain.signals import Verdict

EVENTS = 8  # of the history, the last ones
CONTROLLER_SECONDS = 3.0
STYLES: Mapping[Verdict, str] = {"pass": "green", "hold": "yellow", "fail": "bold red"}

Line = Text | Table


def lines(desk: Desk) -> Iterator[Line]:
    """Raises RetainError where the rollout itself can't be read."""
    scale = time_scale(desk.store)
    if scale != 1:
        text = f"DEMO: this store holds a file {DEMO}, so that watching takes a {scale:g}th of its time. "
        yield Text(text + "Never serve customers from it.", "bold red")
    rollout = desk.rollout.read()
    if rollout is None:
        yield Text(f"Nothing was ever proposed in {desk.settings.experiment}: the services' own settings rule.")
        return
    yield from _stands(rollout)
    if rollout.challenger is not None:
        yield from _tried(desk, rollout, rollout.challenger.release, read_plan(scale))
    yield from _history(rollout)


def _stands(rollout: Rollout) -> Iterator[Line]:
    yield Text.assemble(("phase     ", "dim"), (rollout.phase, "bold"), f", generation {rollout.generation}")
    yield Text.assemble(("now       ", "dim"), describe(rollout))
    if rollout.predecessor is not None:
        text = (
            f"promoted  in place of {rollout.predecessor}, from which services may answer until they are started again"
        )
        yield Text(text)
    if rollout.latched:
        yield Text("LATCHED: nothing can be proposed until a person says `release-latch`.", "bold red")
    for barred in rollout.quarantined:
        yield Text(f"quarantine {barred.release}: rolled back by {barred.by}, {barred.why} ({_when(barred.at)})", "red")
    for acceptance in rollout.accepted:
        missed = ", ".join(acceptance.criteria)
        yield Text(
            f"ACCEPTED  {acceptance.part} ({acceptance.digest}), though it missed {missed}: {acceptance.by}, "
            f"{acceptance.reason}",
            "bold yellow",
        )
    if rollout.accepted_holds:
        yield Text(f"ACCEPTED  without {', '.join(rollout.accepted_holds)} being known", "bold yellow")


def _tried(desk: Desk, rollout: Rollout, release: str, plan: Plan) -> Iterator[Line]:
    """Of a rollout with a challenger."""
    prometheus = Prometheus(desk.settings.prometheus)
    yield from _replicas(desk, rollout, release, prometheus)
    yield from _controller(desk)
    if not rollout.percent:
        yield Text("next      `advance --to canary`, once GET /shadow of each service says that its figures pass")
        return
    try:
        candidate: Candidate = of_version(release, desk.settings.experiment)
        seen = measured(prometheus, rollout, candidate.limits, desk.clock())
        alerts = firing(prometheus, release)
    except RetainError as error:
        yield Text(f"signals   not known: {error}", "red")
        return
    yield from _signals(rollout, seen, plan)
    if alerts:
        yield Text(f"FIRING    {', '.join(alerts)}: the challenger is about to be rolled back", "bold red")


def _replicas(desk: Desk, rollout: Rollout, release: str, prometheus: Prometheus) -> Iterator[Line]:
    try:
        percents = {
            sample.labels.get("instance"): sample.value
            for sample in prometheus.samples(PERCENT)
            if (sample.labels.get("release"), sample.labels.get("generation")) == (release, str(rollout.generation))
        }
        leases = {sample.labels.get("instance"): sample.value for sample in prometheus.samples(LEASE)}
    except Unanswered as error:
        yield Text(f"replicas  what they serve isn't known: {error}", "red")
        return
    for instance in desk.settings.instances:
        yield _replica(instance, percents.get(instance, math.nan), leases.get(instance, math.nan), rollout.percent)


def _replica(instance: str, percent: float, lease: float, wanted: float) -> Text:
    if math.isnan(percent):
        return Text(f"replica   {instance}: serves nothing of this generation, or can't be reached", "red")
    says = f"replica   {instance}: {percent:g} % of customers are the challenger's"
    if percent == wanted:
        return Text(says, "green")
    why = "sees no fresh lease" if not lease else "by FORCE_BASELINE, CANARY_PERCENT or its release"
    return Text(f"{says}, where {wanted:g} % are wanted: {why}", "yellow")


def _controller(desk: Desk) -> Iterator[Line]:
    try:
        health: Any = get_json(f"{desk.settings.controller}/healthz", seconds=CONTROLLER_SECONDS, who="the controller")
        renewed, says = health["lease"] == "renewed", str(health["says"])
        pending = int(health["pages_pending"])
    except (Unanswered, KeyError, TypeError, ValueError) as error:
        says = str(error) if isinstance(error, Unanswered) else "the controller answers with something else"
        yield Text(f"lease     nobody is known to renew it: {says}", "red")
        return
    yield Text(f"lease     {says}", "green" if renewed else "red")
    if pending:
        yield Text(f"pages     {pending} could not be delivered yet", "bold red")


def _signals(rollout: Rollout, seen: Measured, plan: Plan) -> Iterator[Line]:
    table = Table(box=None, pad_edge=False)
    for column in ("signal", "verdict", "value", "limit", "samples", ""):
        table.add_column(column, justify="right" if column in ("value", "limit", "samples") else "left")
    for figure in seen.figures:
        table.add_row(
            figure.name,
            Text(figure.verdict, STYLES[figure.verdict]),
            "-" if figure.value is None else f"{figure.value:.4f}",
            "-" if figure.limit is None else f"{figure.limit:g}",
            f"{figure.samples:,}",
            figure.says,
        )
    yield table
    watched = f"watched   {_hours(seen.watched_s)} of {_hours(plan.watch_s)} at {rollout.percent:g} %"
    yield Text(watched, "green" if seen.watched_s >= plan.watch_s else "yellow")
    yield Text(f"next      {_next(rollout, plan)}")


def _next(rollout: Rollout, plan: Plan) -> str:
    higher = [percent for percent in plan.percents if percent > rollout.percent]
    if rollout.phase == "full" and rollout.challenger is not None:
        release = rollout.challenger.release
        if rollout.champion.release == release:
            return f"nothing, until another release is proposed in place of {release}"
        return (
            f"`promote {release}`, which makes it the champion, once it was watched for that long and no signal fails"
        )
    if higher:
        return f"`advance --to canary`, to {higher[0]:g} %, once it was watched for that long and no signal fails"
    return "`advance --to full`, once it was watched for that long and all four pass, or with --accept-hold nrr"


def _history(rollout: Rollout) -> Iterator[Line]:
    events: Sequence[Any] = rollout.history[-EVENTS:]
    left_out = len(rollout.history) - len(events)
    yield Text("history" + (f", without {left_out} events before these" if left_out else ""), "dim")
    for event in events:
        yield Text.assemble(
            f"  {_when(event.at)}  ",
            (event.action, "bold red" if event.action == "roll_back" else "bold"),
            f" by {event.by}: {event.reason} -> {event.after}",
        )
        if event.action == "roll_back" and event.figures:
            yield Text(f"    as it was measured last, within {OLD_SECONDS:.0f} s before:", "dim")
            for figure in event.figures:
                yield Text.assemble(
                    f"    {figure.name}: ", (figure.verdict, STYLES[figure.verdict]), f", {figure.says}"
                )


def _when(at: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at / MICROSECOND))


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"
