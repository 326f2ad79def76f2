"""Renders what Prometheus and Alertmanager read: `python -m deploy.rules FOLDER`.

The limits of alerts are those that a release holds as its `monitoring`, or an experiment states: they stand in no other
place. The release is the one that answers, whose address is printed, so that whoever starts the service can hold it to
that one. Durations are divided by the time scale of a demo's store (deploy/plan.py), which then needs minutes and not
hours. Windows, `for` and intervals are divided alike: an alert then says the same of a fault shorter by as much.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from deploy.plan import time_scale
from deploy.settings import page_url
from engine.artifact import open_artifact
from engine.config import experiment_path, load
from engine.document import Document
from engine.errors import RetainError
from engine.paths import why_unwritable
from engine.releases import DEFAULT_EXPERIMENT, current_release, experiment_of, find, folder_of
from engine.store import Store, open_store, store_url
from retain.monitoring import Monitoring
from retain.rollout import Rollout, rollout_key
from retain.signals import SLOW

DEPLOY = Path(__file__).resolve().parent
RULES_FILE = DEPLOY / "prometheus" / "rules.yaml"
PROMETHEUS_FILE = DEPLOY / "prometheus" / "prometheus.yaml"
ALERTMANAGER_FILE = DEPLOY / "alertmanager" / "alertmanager.yaml"
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
# In PromQL a range or an offset, in YAML the value of a key.
DURATION = re.compile(r"(\[|\boffset |\b(?:for|interval|scrape_interval|evaluation_interval): )(\d+)([smhdw])\b")
PLACEHOLDER = re.compile(r"<([a-z_0-9]+(?:\.[a-z_0-9]+)?)>")
# A pending alert outlives a restart of Prometheus; alerts are back within seconds after one of Alertmanager, which
# forgets them.
PROMETHEUS_FLAGS = ("--rules.alert.for-grace-period=0s", "--rules.alert.resend-delay=5s")
ALERTMANAGER_FLAGS = ("--cluster.listen-address=",)  # there is one, which listens for no others
PAGE_URL_LATER = "http://page-url.invalid/"  # what a container puts its RETAIN_PAGE_URL in the place of
RED, PLAIN = "\x1b[31m", "\x1b[0m"


class Places(NamedTuple):
    """Where the parts of the stack reach each other: host:port, and files with bearer tokens. `page_url`: the webhook
    of RETAIN_PAGE_URL, which may hold a secret."""

    replicas: Sequence[str]  # admin ports
    controller: str
    alertmanager: str
    admin_token_file: str
    controller_token_file: str
    page_url: str | None = None


def rules(limits: Monitoring, scale: float = 1) -> str:
    """The rules with these limits."""
    error_rate, unsafe_rate, drop = limits.error_rate, limits.unsafe_rate, limits.nrr_proxy_drop
    values = {
        "error_rate.limit": error_rate.limit,
        "error_rate.min_samples": error_rate.min_samples,
        "error_rate.min_events": error_rate.min_events,
        "latency_p95.le": limits.latency_p95.limit_ms / 1000,  # as prometheus_client writes a bucket's bound
        "latency_p95.limit_ms": f"{limits.latency_p95.limit_ms:g}",
        "latency_p95.share": SLOW,
        "unsafe_rate.limit": unsafe_rate.limit,
        "unsafe_rate.min_samples": unsafe_rate.min_samples,
        "unsafe_rate.min_events": unsafe_rate.min_events,
        "nrr_proxy_drop.limit": drop.limit,
        "nrr_proxy_drop.min_samples": drop.min_samples,
    }
    return _rendered(RULES_FILE, values, scale)


def prometheus(places: Places, scale: float = 1) -> str:
    """Prometheus' own configuration."""
    values = {
        "replicas": json.dumps(list(places.replicas)),
        "controller": json.dumps([places.controller]),
        "alertmanager": json.dumps([places.alertmanager]),
        "admin_token_file": places.admin_token_file,
    }
    return _rendered(PROMETHEUS_FILE, values, scale)


def alertmanager(places: Places) -> str:
    """Alertmanager's configuration. No scale: it waits for nothing that a demo could not wait for."""
    people = [] if places.page_url is None else [{"url": places.page_url, "send_resolved": True}]
    values = {
        "controller": places.controller,
        "controller_token_file": places.controller_token_file,
        "people": json.dumps(people),
    }
    return _rendered(ALERTMANAGER_FILE, values, 1)


def _rendered(template: Path, values: Mapping[str, object], scale: float) -> str:
    text = PLACEHOLDER.sub(lambda match: str(values[match[1]]), template.read_text(encoding="utf-8"))
    if scale == 1:
        return text
    return DURATION.sub(lambda match: match[1] + _scaled(match, scale), text)


def _scaled(match: re.Match[str], scale: float) -> str:
    """No shorter than a second, which is as often as anything is looked at; a range needs a few samples."""
    shortest = 5 if match[1] == "[" else 1
    return f"{max(shortest, round(int(match[2]) * UNITS[match[3]] / scale))}s"


def _answering(named: str, store: Store) -> tuple[str, Path]:
    """The address and the folder of the release that answers: RELEASE_PATH, or the champion of the rollout in the
    experiment that EXPERIMENT names, or the current one. Raises RetainError."""
    if given := os.environ.get("RELEASE_PATH"):
        return given, folder_of("RELEASE_PATH", given)
    rollout = Document(store, rollout_key(experiment_of(named)), Rollout).read()
    folder = current_release(named) if rollout is None else find(rollout.champion.release, named)
    return f"{store.url}/{folder.relative_to(store.here).as_posix()}", folder


def limits_of_release(folder: Path) -> Monitoring:
    """What a release holds. Raises RetainError."""
    try:
        return Monitoring.model_validate_json(open_artifact(folder)["monitoring.json"].read_bytes())
    except KeyError:
        raise RetainError(f"{folder}: is no release, or one of an older format; a new run makes a new one") from None
    except ValidationError as error:
        raise RetainError(f"{folder}/monitoring.json: {_wrong(error)}; a new run makes a new release") from None


def limits_of_experiment(named: str) -> Monitoring:
    """What an experiment's file states. Raises RetainError."""
    resolved = load(experiment_path(named))
    try:
        return Monitoring.model_validate(resolved.data["monitoring"])
    except KeyError:
        raise RetainError(f"experiment {named}: its `monitoring` is missing") from None
    except ValidationError as error:
        raise RetainError(f"experiment {named}: monitoring.{_wrong(error)}") from None


def _wrong(error: ValidationError) -> str:
    """The first key that can't be used, and why."""
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg'].removeprefix('Value error, ')}"


def write(folder: Path, limits: Monitoring, places: Places, scale: float, say: Callable[[str], None]) -> None:
    """Writes rules.yaml, prometheus.yaml and alertmanager.yaml into the folder, each as a whole, the last for nobody
    else to read if it has `page_url`. Raises RetainError."""
    if scale != 1:
        say(f"{RED}DEMO: an alert's 10 minutes are {600 / scale:g} seconds here (time scale {scale:g}){PLAIN}")
    files = {
        RULES_FILE.name: rules(limits, scale),
        PROMETHEUS_FILE.name: prometheus(places, scale),
        ALERTMANAGER_FILE.name: alertmanager(places),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            aside = folder / f".{name}.{os.getpid()}"
            aside.unlink(missing_ok=True)
            aside.touch(0o600 if name == ALERTMANAGER_FILE.name and places.page_url else 0o666)
            aside.write_text(text, encoding="utf-8")
            aside.replace(folder / name)
    except OSError as error:
        raise RetainError(f"{folder}: {why_unwritable(error)}") from None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy.rules", description=__doc__)
    parser.add_argument("folder", type=Path, help="where the three files are written")
    parser.add_argument(
        "--experiment", default=DEFAULT_EXPERIMENT, help="whose release holds the limits, unless RELEASE_PATH names one"
    )
    parser.add_argument("--stated", action="store_true", help="take the limits from the experiment's file")
    parser.add_argument("--replicas", default="127.0.0.1:8001", help="admin ports, with commas between them")
    parser.add_argument("--controller", default="127.0.0.1:8002")
    parser.add_argument("--alertmanager", default="127.0.0.1:9093")
    parser.add_argument("--admin-token-file", required=True)
    parser.add_argument("--controller-token-file", required=True)
    given = parser.parse_args(arguments)
    try:
        store = open_store(store_url())
        if given.stated:
            address, limits = "", limits_of_experiment(given.experiment)
        else:
            address, folder = _answering(given.experiment, store)
            limits = limits_of_release(folder)
        places = Places(
            given.replicas.split(","),
            given.controller,
            given.alertmanager,
            given.admin_token_file,
            given.controller_token_file,
            page_url(os.environ),
        )
        write(given.folder, limits, places, time_scale(store), partial(print, file=sys.stderr, flush=True))
    except RetainError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if address:
        print(address)
    return 0


if __name__ == "__main__":
    sys.exit(main())
