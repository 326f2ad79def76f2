"""The controller: a process beside Prometheus and Alertmanager that watches one rollout.

Each of its duties has a thread of its own, so that none keeps another from being done: alerts roll back while
Prometheus hangs, and pages are delivered while the store does. None of them is waited for when the process has to end.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any

import uvicorn
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from rich.console import Console

from deploy.alerts import Notification
from deploy.figures import Figures
from deploy.measured import Prometheus
from deploy.pages import Pages, pages_key
from deploy.paging import Pager
from deploy.people import wall_clock
from deploy.plan import DEMO, time_scale
from deploy.renewal import RENEW_SECONDS, Renewal
from deploy.rollback import Rollbacks
from deploy.settings import Settings
from deploy.webhook import Webhook
from engine.clock import elapsed
from engine.document import Document
from engine.errors import RetainError
from engine.store import Store
from retain.lease import Lease
from retain.rollout import Rollout, lease_key, rollout_key

MAX_CONNECTIONS = 256  # at a time; Alertmanager and Prometheus need a few

log = logging.getLogger("retain.deploy")


@dataclass(frozen=True)
class Controller:
    """Its duties, for one experiment's rollout."""

    renewal: Renewal
    rollbacks: Rollbacks
    pager: Pager
    figures: Figures

    def carry_out(self, notification: Notification) -> None:
        """What follows from a notification that is more than a watchdog. Raises RetainError unless it is on record.

        A page is delivered though a rollback fails, and the other way round.
        """
        pages = self.pager.tell(notification.told)
        self.rollbacks.judge(notification.alerts)
        self.pager.keep(pages)

    def health(self) -> dict[str, Any]:
        outcome, age = self.renewal.outcome, self.renewal.watchdog_age
        return {
            "lease": outcome.why or "renewed",
            "generation": outcome.generation,
            "says": outcome.says,
            "watchdog_seconds": None if age is None else round(age, 1),
            "pages_pending": self.pager.pending,
        }

    def renew_forever(self) -> None:
        """A round every RENEW_SECONDS; each time that the lease is lost for long, somebody is told once."""
        losses, told = 0, False
        while True:
            began = time.monotonic()
            self.renewal.round()
            lost = self.renewal.lost
            if lost is not None and not told:
                losses += 1
                self.pager.tell_lost(lost, losses)
            told = lost is not None
            time.sleep(max(0.0, began + RENEW_SECONDS - time.monotonic()))

    def duties(self) -> Mapping[str, Callable[[], None]]:
        """What each thread does, for ever."""
        return {
            "renewing": self.renew_forever,
            "rolling back": self.rollbacks.again,
            "paging": self.pager.deliver_forever,
            "keeping pages": self.pager.keep_forever,
            "measuring": self.figures.forever,
        }


def controller_of(settings: Settings, store: Store, holder: str) -> Controller:
    experiment, clock = settings.experiment, elapsed
    rollout = Document(store, rollout_key(experiment), Rollout)
    prometheus = Prometheus(settings.prometheus)
    figures = Figures(experiment, rollout, prometheus, clock, wall_clock)
    pages = Document(store, pages_key(experiment), Pages)
    pager = Pager(experiment, settings.page_url, rollout, pages, clock, wall_clock)
    rollbacks = Rollbacks(rollout, figures.of, wall_clock, pager.rolled_back)
    lease = Document(store, lease_key(experiment), Lease)
    renewal = Renewal(rollout, lease, prometheus.samples, settings.instances, holder, rollbacks.owing, clock)
    return Controller(renewal, rollbacks, pager, figures)


class Gauges(Collector):
    """How the controller is, for /metrics."""

    def __init__(self, controller: Controller, scale: float) -> None:
        self._controller = controller
        self._scale = scale

    def collect(self) -> Iterator[Metric]:
        renewal, pager = self._controller.renewal, self._controller.pager
        outcome, age = renewal.outcome, renewal.watchdog_age
        yield _gauge("lease_renewed", "1: the last round renewed the lease", outcome.why is None)
        refusal = GaugeMetricFamily(
            "retain_controller_refusal", "Why the last round did not renew the lease", labels=["why"]
        )
        if outcome.why is not None:
            refusal.add_metric([outcome.why], 1.0)
        yield refusal
        yield CounterMetricFamily("retain_controller_renewals", "Renewals of the lease", renewal.renewals)
        yield CounterMetricFamily(
            "retain_controller_rollbacks", "Rollbacks by this process", self._controller.rollbacks.count
        )
        if age is not None:
            yield _gauge("watchdog_seconds", "Seconds since the alerts' watchdog showed life", age)
        yield _gauge("pages_pending", "Pages that nobody has taken yet", pager.pending)
        yield _gauge("time_scale", "How many times as fast a demo's time runs; 1 elsewhere", self._scale)


def _gauge(name: str, about: str, value: float) -> Metric:
    return GaugeMetricFamily(f"retain_controller_{name}", about, float(value))


def run(settings: Settings, store: Store) -> int:
    """Serves until it is told to stop. Raises RetainError if it can't begin."""
    if settings.token is None:
        raise RetainError("RETAIN_CONTROLLER_TOKEN: has to be set, since Alertmanager's notifications roll back")
    configure_log()
    listening = _listen(settings.host, settings.port)
    port = listening.getsockname()[1]
    scale = _time_scale(store)
    # Another one each time: whoever was killed has not renewed the lease since, and another host may have this name.
    controller = controller_of(settings, store, f"{socket.gethostname()}:{port}/{secrets.token_hex(4)}")
    registry = CollectorRegistry()
    registry.register(Gauges(controller, scale))
    webhook = Webhook(settings.token, controller.renewal.hear, controller.carry_out, controller.health, registry)
    print(
        f"Retain's controller watches the rollout of {settings.experiment} at http://{settings.host}:{port}: alerts to "
        f"/alerts, by Prometheus at {settings.prometheus}, of {', '.join(settings.instances)}; pages "
        + ("are lines of this log" if settings.page_url is None else "by webhook"),
        flush=True,
    )
    if settings.page_url is None:
        _say_in_red("RETAIN_PAGE_URL isn't set: nobody is paged. Pages wait until it is.")
    for name, duty in controller.duties().items():
        threading.Thread(target=duty, name=name, daemon=True).start()
    config = uvicorn.Config(
        webhook.app(), lifespan="off", http="httptools", loop="asyncio", ws="none", log_config=None, access_log=False,
        server_header=False, timeout_keep_alive=75, limit_concurrency=MAX_CONNECTIONS,
    )  # fmt: skip
    server = uvicorn.Server(config)

    def stop(sig: int, frame: FrameType | None) -> None:
        server.should_exit = server.force_exit = True  # every write is whole or isn't there

    server.handle_exit = stop  # type: ignore[method-assign]
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    server.run(sockets=[listening])
    return 0


def configure_log() -> None:
    handler = logging.StreamHandler(sys.stderr)
    formatter = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)s controller %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    log.setLevel(logging.INFO)


def say_scale(scale: float) -> None:
    """In red, if it is a demo's."""
    if scale != 1:
        _say_in_red(
            f"This store holds a file {DEMO}: time runs {scale:g} times as fast. Never serve customers from it."
        )


def _say_in_red(text: str) -> None:
    Console(stderr=True, highlight=False).print(text, style="bold red", soft_wrap=True)


def _time_scale(store: Store) -> float:
    try:
        scale = time_scale(store)
    except RetainError as error:  # nothing that runs here depends on it
        log.error("%s", error)
        return 1.0
    say_scale(scale)
    return scale


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)
        listening.setblocking(False)
        os.set_inheritable(listening.fileno(), False)
    except OSError as error:
        raise RetainError(
            f"RETAIN_CONTROLLER_HOST={host}, RETAIN_CONTROLLER_PORT={port}: can't be listened at ({error.strerror})"
        ) from None
    return listening
