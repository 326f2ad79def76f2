"""The whole chain: a replica's metrics, a real Prometheus, a real Alertmanager, the controller as a process, a page.

Durations of the rules are a sixtieth of what they are. What becomes of it while its parts die or hang is told by
test_chain_faults.py.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from retain.lease import Lease
from tests.deploy.fakes import Answer, answering, free_port
from tests.deploy.test_run import Running, Watched, Webhook, World
from tests.deploy.watching import TOKEN, watching
from tests.releases import MONITORING

pytestmark = pytest.mark.kills

WAIT_S = 180.0


def wait(what: object) -> None:
    end = time.monotonic() + WAIT_S
    assert callable(what)
    while not what():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.1)


class Replica:
    """GET /metrics of a service with a challenger, whose decisions are counted at each look."""

    def __init__(self) -> None:
        self.release, self.error_share, self.up = "", 0.0, True
        self.decisions = self.errors = 0.0

    def __call__(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        if headers.get("Authorization") != f"Bearer {TOKEN}" or path != "/metrics" or not self.up:
            return 503, b""
        self.decisions += 1000
        self.errors += 1000 * self.error_share
        arm = f'{{arm="learned",release="{self.release}"}}'
        now = f'{{release="{self.release}",generation="2"}}'
        text = (
            f"retain_arm_decisions_total{arm} {self.decisions}\nretain_arm_errors_total{arm} {self.errors}\n"
            f"retain_rollout_percent{now} 5\nretain_rollout_wanted_percent{now} 5\n"
            "retain_state_available 1\nretain_rollout_problem 0\nretain_lease_fresh 1\n"
        )
        return 200, text.encode()


class Chain:
    def __init__(self, world: World, replica: Replica, webhook: Webhook, running: Running) -> None:
        self.world, self.replica, self.webhook, self.running = world, replica, webhook, running

    @property
    def lease(self) -> Lease | None:
        return self.world.lease.read()

    def renewed(self) -> None:
        """Returns once the lease was renewed twice."""
        seen: set[int] = set()

        def twice() -> bool:
            lease = self.lease
            seen.update([] if lease is None or self.running.lease() != "renewed" else [lease.count])
            return len(seen) > 2

        wait(twice)


@contextmanager
def chained(root: Path) -> Iterator[Chain]:
    replica, webhook = Replica(), Webhook()
    with answering(replica) as metrics, answering(webhook) as pages:
        instance, port = metrics.removeprefix("http://"), free_port()
        (root / "watching").mkdir()
        with watching(root / "watching", MONITORING, [instance], f"127.0.0.1:{port}") as urls:
            world = World(root / "store", Watched(instance), webhook, (urls.prometheus, pages))
            replica.release = world.challenger
            with world.controller(RETAIN_CONTROLLER_TOKEN=TOKEN, RETAIN_CONTROLLER_PORT=str(port)) as running:
                yield Chain(world, replica, webhook, running)


def test_an_alert_of_the_challenger_rolls_it_back_and_somebody_is_told_why(tmp_path: Path) -> None:
    with chained(tmp_path) as chain:
        chain.renewed()
        chain.replica.error_share = 0.05
        wait(lambda: chain.world.actions[-1] == "roll_back")
        rollout = chain.world.rollout.read()
        assert rollout is not None
        page = f"rollback/toy/{rollout.generation}/{rollout.history[-1].at}"
        wait(lambda: any(told["id"] == page for told in chain.webhook.pages))
        event = rollout.history[-1]
        assert event.by == "controller"
        assert event.reason == (f"RetainArmErrors: 5% of the decisions of challenger {chain.world.challenger} failed")
        assert rollout.latched
        told = next(told for told in chain.webhook.pages if told["id"] == page)
        assert told["severity"] == "page"
        assert told["says"].startswith("RetainArmErrors: 5%")
        # The alert goes on firing for a while, and ends; the rollback stays.
        chain.replica.error_share = 0.0
        wait(lambda: chain.running.lease() == "no_challenger")
        assert chain.world.actions == ["propose", "advance", "roll_back"]
