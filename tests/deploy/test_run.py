"""The controller as a process, beside a Prometheus, a replica and a webhook that only play theirs."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from deploy import run
from deploy.alerts import parse
from deploy.measured import REPLICAS
from deploy.settings import read
from engine.document import Document
from engine.store import FolderStore
from retain.lease import Lease
from retain.rollout import SHADOW, Evidence, Rollout, advance, lease_key, propose, rollout_key
from tests.deploy.alerting import alert, blaming, body, watchdog
from tests.deploy.fakes import GOOD_PARTS, Answer, FakePrometheus, answering, release
from tests.rollouts import CHAMPION, PLAN, figures

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "s3cret-s3cret-s3cret"
PLENTY = 60.0  # seconds for what takes a few, since others use the machine
LINE = re.compile(r"Retain's controller watches the rollout of toy at http://127\.0\.0\.1:(\d+): .*\n")
ANN: Any = {"by": "Ann", "reason": "a trial", "at": 1}


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + PLENTY
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


class Watched(FakePrometheus):
    """Has a new sample of its replica each time it is asked, while the replica is `up`."""

    def __init__(self, instance: str) -> None:
        super().__init__()
        self.up, self.taken, self.instance = True, 0.0, instance

    def __call__(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        self.taken += 1
        self.series[REPLICAS] = [({"instance": self.instance}, self.taken)] if self.up else []
        return super().__call__(method, path, headers, body)


class Webhook:
    def __init__(self) -> None:
        self.status = 200
        self.pages: list[Any] = []

    def __call__(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        if self.status == 200:
            self.pages.append(json.loads(body))
        return self.status, b""


class Running(subprocess.Popen[str]):
    url = ""

    def notify(self, *alerts: Any, token: str = TOKEN) -> int:
        headers = {"Authorization": f"Bearer {token}"}
        request = urllib.request.Request(f"{self.url}/alerts", body(*alerts), headers)
        try:
            with urllib.request.urlopen(request, timeout=PLENTY) as answer:
                status: int = answer.status
                return status
        except urllib.error.HTTPError as error:
            error.close()
            return error.code

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"{self.url}{path}", timeout=PLENTY) as answer:
            text: bytes = answer.read()
            return text.decode()

    def lease(self) -> str:
        why: str = json.loads(self.get("/healthz"))["lease"]
        return why

    def __exit__(self, *error: Any) -> None:
        if self.poll() is None:
            self.kill()
        super().__exit__(*error)


class World:
    """A canary of a release, and whom its controller needs. Rounds are a fifth of a second."""

    def __init__(self, root: Path, prometheus: Watched, webhook: Webhook, urls: tuple[str, str]) -> None:
        self.root = root
        self.store = FolderStore(root)
        self.prometheus, self.webhook = prometheus, webhook
        self.challenger = release(root, 1, GOOD_PARTS)
        self.rollout = Document(self.store, rollout_key("toy"), Rollout)
        self.lease = Document(self.store, lease_key("toy"), Lease)
        self.environment = {
            "EXPERIMENT": "toy",
            "RETAIN_STORE": str(root),
            "RETAIN_PROMETHEUS_URL": urls[0],
            "RETAIN_REPLICAS": f"http://{prometheus.instance}",
            "RETAIN_CONTROLLER_TOKEN": TOKEN,
            "RETAIN_CONTROLLER_PORT": "0",
            "RETAIN_PAGE_URL": f"{urls[1]}/page-s3cret",
        }
        self.rollout.change(lambda _: self.canary())

    def canary(self) -> Rollout:
        shadow = propose(None, CHAMPION, self.challenger, **ANN)
        seen = Evidence(1, self.challenger, GOOD_PARTS, figures(SHADOW), 0.0)
        return advance(shadow, "canary", seen, PLAN, **ANN)

    @contextlib.contextmanager
    def controller(self, program: str = "", **environment: str) -> Iterator[Running]:
        """`program`: Python that runs first, such as what makes it misbehave."""
        plain = {name: value for name, value in os.environ.items() if not name.startswith("RETAIN_")}
        quick = "import sys, deploy.run, deploy.controller; deploy.run.RENEW_SECONDS = 0.2\n"
        code = f"{quick}{program}\nsys.exit(deploy.controller.main(['run']))"
        with Running(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=plain | self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as running:
            assert running.stdout is not None
            line = running.stdout.readline()
            found = LINE.fullmatch(line)
            assert found, (line, running.stderr and running.stderr.read())
            running.url = f"http://127.0.0.1:{found[1]}"
            yield running

    def renewed(self, running: Running) -> None:
        """Returns once the lease was renewed again by that controller, whose watchdog arrives."""
        counts = set()

        def twice() -> bool:
            running.notify(watchdog(time.monotonic()))
            lease = self.lease.read()
            if running.lease() == "renewed" and lease is not None:
                counts.add(lease.count)
            return len(counts) > 1

        until(twice)

    @property
    def actions(self) -> list[str]:
        rollout = self.rollout.read()
        assert rollout is not None
        return [event.action for event in rollout.history]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    prometheus, webhook = Watched("retain-1:8001"), Webhook()
    with answering(prometheus) as at, answering(webhook) as pages:
        yield World(tmp_path / "store", prometheus, webhook, (at, pages))


def test_the_lease_is_renewed_while_all_is_alive_and_an_alert_ends_it(world: World) -> None:
    with world.controller() as running:
        world.renewed(running)
        text = running.get("/metrics")
        assert "\nretain_controller_lease_renewed 1.0\n" in text
        assert running.notify(blaming("RetainArmUnsafe", world.challenger), token="x" * 20) == 401
        assert world.actions == ["propose", "advance"]
        assert running.notify(blaming("RetainArmUnsafe", world.challenger)) == 200
        assert world.actions == ["propose", "advance", "roll_back"]
        until(lambda: running.lease() == "no_challenger")
        until(lambda: len(world.webhook.pages) == 2)
        assert {page["title"] for page in world.webhook.pages} == {
            "RetainArmUnsafe", f"{world.challenger} was rolled back by controller",
        }  # fmt: skip
        text = running.get("/metrics")
        assert "\nretain_controller_rollbacks_total 1.0\n" in text
        assert '\nretain_controller_refusal{why="no_challenger"} 1.0\n' in text
        assert "\nretain_controller_pages_pending 0.0\n" in text
        running.send_signal(signal.SIGTERM)
        assert running.wait(PLENTY) == 0
        assert running.stderr is not None
        said = running.stderr.read()
    assert "ROLLED BACK" in said
    assert TOKEN not in said
    assert "page-s3cret" not in said
    assert "Traceback" not in said


def test_a_replica_that_is_gone_ends_it_and_its_return_begins_it_anew(world: World) -> None:
    with world.controller() as running:
        world.renewed(running)
        world.prometheus.up = False
        until(lambda: running.lease() == "replica")
        lease = world.lease.read()
        world.prometheus.answers = False
        until(lambda: running.lease() == "prometheus")
        assert world.lease.read() == lease
        world.prometheus.answers = world.prometheus.up = True
        world.renewed(running)


def test_somebody_is_told_once_that_the_lease_is_lost(world: World) -> None:
    pages = world.webhook.pages
    with world.controller("import deploy.renewal; deploy.renewal.LOST_SECONDS = 1.0") as running:
        for _ in range(2):
            world.prometheus.up = True
            world.renewed(running)
            told = len(pages)
            world.prometheus.up = False
            until(lambda before=told: len(pages) == before + 1)  # type: ignore[misc]
            assert pages[-1]["severity"] == "ticket"
            assert "Prometheus can't reach retain-1:8001" in pages[-1]["says"]
            time.sleep(1.0)  # five rounds
            assert len(pages) == told + 1
    assert world.actions == ["propose", "advance"]


def test_an_alert_rolls_back_while_prometheus_hangs_and_nobody_takes_pages(world: World) -> None:
    world.webhook.status = 500
    hang = "import deploy.measured, time; deploy.measured.get_json = lambda *_, **__: time.sleep(1000)"
    with world.controller(hang) as running:
        assert running.notify(blaming("RetainServerErrors"), alert("Ticket", severity="ticket")) == 200
        assert world.actions[-1] == "roll_back"
        until(lambda: "\nretain_controller_pages_pending 3.0\n" in running.get("/metrics"))
        world.webhook.status = 200
        until(lambda: len(world.webhook.pages) == 3)
        assert {page["severity"] for page in world.webhook.pages} == {"page", "ticket"}
        running.send_signal(signal.SIGTERM)
        assert running.wait(PLENTY) == 0


def test_what_it_had_to_tell_is_told_after_it_was_killed(world: World) -> None:
    world.webhook.status = 503
    with world.controller() as running:
        assert running.notify(blaming("RetainArmErrors", world.challenger)) == 200
        running.kill()
        running.wait(PLENTY)
    world.webhook.status = 200
    with world.controller() as running:
        # By their ids: one that was on its way when the process was killed may arrive, and is told again.
        until(lambda: len({page["id"] for page in world.webhook.pages}) == 2)
        assert running.notify(blaming("RetainArmErrors", world.challenger)) == 200  # Alertmanager repeats it
    assert world.actions == ["propose", "advance", "roll_back"]
    assert len({page["id"] for page in world.webhook.pages}) == 2


def test_a_store_that_takes_nothing_is_asked_until_it_does(world: World) -> None:
    full = (
        "import os, engine.store, engine.errors\n"
        "real = engine.store.FolderStore.write\n"
        "def write(*given, **more):\n"
        "    if os.path.exists(os.environ['FULL']):\n"
        "        raise engine.errors.StoreUnavailable('No space left on device')\n"
        "    return real(*given, **more)\n"
        "engine.store.FolderStore.write = write"
    )
    mark = world.root.parent / "full"
    with world.controller(full, FULL=str(mark)) as running:
        world.renewed(running)
        mark.touch()
        assert running.notify(watchdog(), blaming("RetainArmErrors", world.challenger)) == 503
        until(lambda: running.lease() == "rollback")
        until(lambda: [page["title"] for page in world.webhook.pages] == ["RetainArmErrors"])
        assert world.actions == ["propose", "advance"]
        mark.unlink()
        until(lambda: world.actions == ["propose", "advance", "roll_back"])  # nobody sent it again
        until(lambda: len(world.webhook.pages) == 2)


def test_a_store_that_hangs_is_not_waited_for(world: World) -> None:
    hang = (
        "import os, time, engine.store\n"
        "real = engine.store.FolderStore.read\n"
        "def read(*given):\n"
        "    while os.path.exists(os.environ['HANGS']):\n"
        "        time.sleep(0.01)\n"
        "    return real(*given)\n"
        "engine.store.FolderStore.read = read\n"
        "import deploy.webhook, deploy.renewal; deploy.webhook.ANSWER_SECONDS = 0.2\n"
        "deploy.renewal.STUCK_SECONDS = 0.5"
    )
    mark = world.root.parent / "hangs"
    with world.controller(hang, HANGS=str(mark)) as running:
        world.renewed(running)
        mark.touch()
        assert running.notify(blaming("RetainArmErrors", world.challenger)) == 503
        until(lambda: running.lease() == "paused")
        until(lambda: [page["title"] for page in world.webhook.pages] == ["RetainArmErrors"])
        assert running.notify(watchdog(time.monotonic())) == 200
        mark.unlink()
        until(lambda: world.actions[-1] == "roll_back")
        mark.touch()
        running.send_signal(signal.SIGTERM)
        assert running.wait(PLENTY) == 0


def test_a_second_one_is_a_spare_that_still_rolls_back(world: World) -> None:
    with world.controller() as first, world.controller() as second:
        world.renewed(first)
        second.notify(watchdog(time.monotonic()))
        second.notify(watchdog(time.monotonic()))
        until(lambda: second.lease() == "spare")
        assert second.notify(blaming("RetainArmErrors", world.challenger)) == 200
        assert first.notify(blaming("RetainArmErrors", world.challenger)) == 200
        assert world.actions == ["propose", "advance", "roll_back"]
        until(lambda: first.lease() == second.lease() == "no_challenger")


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"RETAIN_CONTROLLER_TOKEN": ""}, "RETAIN_CONTROLLER_TOKEN: has to be set"),
        ({"RETAIN_CONTROLLER_TOKEN": "short"}, "RETAIN_CONTROLLER_TOKEN: wants 16 to 256"),
        ({"RETAIN_CONTROLLER_HOST": "256.0.0.1"}, "can't be listened at"),
        ({"RETAIN_STORE": "s3://x"}, "is neither a folder nor gs://"),
    ],
)
def test_what_it_can_not_begin_with_is_said_in_one_line(world: World, environment: dict[str, str], says: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "deploy.controller", "run"],
        cwd=ROOT, env=os.environ | world.environment | environment, capture_output=True, text=True, timeout=PLENTY,
        check=False,
    )  # fmt: skip
    assert ended.returncode == 2
    assert says in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_a_demo_s_time_scale_and_that_nobody_is_paged_are_said_in_red(world: World) -> None:
    world.store.write("DEMO", b'{"time_scale": 60}')
    with world.controller(RETAIN_PAGE_URL="", FORCE_COLOR="1") as running:
        assert running.notify(alert("RetainScoreDrift", severity="ticket")) == 200
        assert "\nretain_controller_time_scale 60.0\n" in running.get("/metrics")
        until(lambda: "\nretain_controller_pages_pending 1.0\n" in running.get("/metrics"))
        running.send_signal(signal.SIGTERM)
        assert running.wait(PLENTY) == 0
        assert running.stderr is not None
        said = running.stderr.read()
    assert "\x1b[1;31mThis store holds a file DEMO: time runs 60 times as fast." in said
    assert "\x1b[1;31mRETAIN_PAGE_URL isn't set: nobody is paged." in said
    assert "WARNING controller nobody is paged, RetainScoreDrift: RetainScoreDrift is above its limit." in said


def test_a_machine_that_was_suspended_is_no_younger_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 5.0
    monkeypatch.setattr(run, "elapsed", lambda: now)
    renewal = run.controller_of(read({}), FolderStore(tmp_path), "it").renewal
    (sent,) = parse(body(watchdog())).alerts
    renewal.hear(sent)
    now += 7
    assert renewal.watchdog_age == 7


def test_a_port_that_is_taken_is_said(world: World) -> None:
    with world.controller() as running:
        port = running.url.rpartition(":")[2]
        ended = subprocess.run(
            [sys.executable, "-m", "deploy.controller", "run"],
            cwd=ROOT, env=os.environ | world.environment | {"RETAIN_CONTROLLER_PORT": port}, capture_output=True,
            text=True, timeout=PLENTY, check=False,
        )  # fmt: skip
    assert ended.returncode == 2
    assert f"RETAIN_CONTROLLER_PORT={port}: can't be listened at" in ended.stderr
