"""The whole chain as real processes on this machine: two replicas of the service, Prometheus, Alertmanager, a
controller, and somebody who is paged. Each can be killed, paused and started again, at the address that it had."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import yaml

from engine.document import Document
from engine.store import FolderStore
from retain.monitoring import Monitoring
from retain.release import Release
from retain.rollout import (
    SHADOW,
    Evidence,
    Plan,
    Rollout,
    advance,
    forgive,
    propose,
    release_latch,
    roll_back,
    rollout_key,
)
from retain.signals import SIGNALS
from tests.deploy.fakes import Answer, answering, free_port
from tests.deploy.watching import TOKEN, configured, wait_for
from tests.rollouts import figures, part
from tests.serve.services import OURS, ROOT, Address, Served, get, serve

EXPERIMENT = "toy"
REPLICAS = ("replica-1", "replica-2")
PATIENCE = 120.0  # seconds, for what others who use the machine make slow
DEADLINE = 2.0  # what a customer waits for the arm, so that a busy machine is no fault; serve/service.py has 0.05
# What a test needs beside the fault itself: an arm that can be broken, and is asked again and again; a worker that can
# be, too; and a clock.
PATCH = """
import asyncio, functools, pathlib, time
import serve.arms, serve.circuit, serve.learned, serve.service, serve.state
serve.circuit.MISSES = 10**9
serve.service.CANARY_SECONDS = {deadline}
serve.learned.FIRST_PAUSE = serve.learned.LONGEST_PAUSE = 0.1
serve.arms.LearnedArm = functools.partial(
    serve.learned.LearnedArm, command=("-m", "tests.serve.faulty_arm", {fault!r})
)
shift = pathlib.Path({shift!r})
def clock():
    return time.time_ns() // 1000 + int(shift.read_text())
serve.worker.State = functools.partial(serve.state.State, clock=clock)
trouble = pathlib.Path({trouble!r})
decide = serve.service.Service.decide
async def troubled(*arguments):
    match trouble.read_text():
        case "raises":
            raise RuntimeError("a bug")
        case "is slow":
            await asyncio.sleep(0.7)
    return await decide(*arguments)
serve.service.Service.decide = troubled
"""


class Pager:
    """Whoever is paged. `status`: what it answers."""

    def __init__(self) -> None:
        self.pages: list[dict[str, Any]] = []
        self.status = 200

    def __call__(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        if self.status == 200:
            self.pages.append(json.loads(body))
        return self.status, b""


class Chain:
    """`folder` is its own; `store` holds the release of the experiment EXPERIMENT. `limits` are those of the alerts,
    `deadline` what customers wait for the learned arm, in seconds. `spare`: there is a second controller, "spare", whom
    Alertmanager tells the same.
    """

    def __init__(
        self,
        folder: Path,
        store: Path,
        release: Release,
        *,
        scale: float = 60,
        limits: Monitoring | None = None,
        deadline: float = DEADLINE,
        url: str | None = None,
        spare: bool = False,
    ) -> None:
        self.folder, self.store, self.release = folder, store, release
        self.url = url or f"sqlite:///{folder / 'state' / 'serving.db'}"
        self.fault, self.trouble, self.shift = folder / "fault", folder / "trouble", folder / "shift"
        self.fault.write_text("")
        self.trouble.write_text("")
        self.shift.write_text("0")
        self._deadline = deadline
        self.settings: dict[str, str] = {}  # more of them, for replicas that are started from now on
        self.clock_was_set = False
        if scale != 1:
            (store / "DEMO").write_text(json.dumps({"time_scale": scale}))
        self.ports = {name: (free_port(), free_port()) for name in REPLICAS}
        self.controllers = {name: free_port() for name in ("controller", *(["spare"] if spare else []))}
        self.pager = Pager()
        self.processes: dict[str, subprocess.Popen[Any]] = {}
        admins = [f"127.0.0.1:{admin}" for _, admin in self.ports.values()]
        self.places, self.commands = configured(
            folder, limits or release.monitoring, admins, f"127.0.0.1:{self.controllers['controller']}", scale
        )
        if spare:
            self._tell_both()
        self.page_url = ""
        self._stack = ExitStack()

    def _tell_both(self) -> None:
        path = self.folder / "alertmanager.yaml"
        content = yaml.safe_load(path.read_text())
        for receiver in content["receivers"]:
            receiver["webhook_configs"] += [
                webhook | {"url": f"http://127.0.0.1:{self.controllers['spare']}/alerts"}
                for webhook in receiver["webhook_configs"]
            ]
        path.write_text(yaml.safe_dump(content))

    # -- processes -------------------------------------------------------------------------------------------------

    def __enter__(self) -> Chain:
        self.page_url = self._stack.enter_context(answering(self.pager))
        self.start(*self.parts)
        return self

    @property
    def parts(self) -> list[str]:
        """All of its processes."""
        return [*REPLICAS, "prometheus", "alertmanager", *self.controllers]

    def __exit__(self, *error: Any) -> None:
        for name in list(self.processes):
            self.kill(name)
        self._stack.close()

    def start(self, *names: str) -> None:
        for name in names:
            assert name not in self.processes
            self.processes[name] = self._started(name)
        for name in names:
            process = self.processes[name]
            if isinstance(process, Served):
                process.begun()
                self._drain(process, name)
            else:
                path = "/healthz" if name in self.controllers else "/-/ready"
                wait_for(f"{self._url(name)}{path}", [process])

    def _drain(self, process: Served, name: str) -> None:
        """Into a file what it says, which nobody would read before it ends."""

        def drain() -> None:
            assert process.stderr is not None
            with (self.folder / f"{name}.log").open("a") as log, contextlib.suppress(ValueError):
                log.writelines(process.stderr)

        threading.Thread(target=drain, daemon=True).start()

    def kill(self, name: str) -> None:
        """Not told to stop: it is gone at once, with what it has started."""
        all_of_it = self._all(name)
        process = self.processes.pop(name)
        for each in all_of_it:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        process.__exit__(None, None, None)

    def break_arm(self, fault: str) -> None:
        """Whatever tests.serve.faulty_arm can do; its processes begin anew, since some faults are met at the start."""
        self.fault.write_text(fault)
        for name in REPLICAS:
            for worker in self.processes[name].children("worker").values():
                for process in worker.children():
                    process.kill()

    def set_clock(self, shift: int) -> None:
        """`shift`: microseconds that the workers' clock is ahead."""
        self.clock_was_set |= shift != 0
        aside = self.shift.with_suffix(".new")
        aside.write_text(str(shift))
        aside.replace(self.shift)

    def pause(self, name: str) -> None:
        """It hangs, with all its processes, and its connections stay open."""
        for process in self._all(name):
            process.send_signal(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        for process in self._all(name):
            process.send_signal(signal.SIGCONT)

    def _all(self, name: str) -> list[psutil.Process]:
        try:
            process = psutil.Process(self.processes[name].pid)
            return [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _url(self, name: str) -> str:
        if name in self.controllers:
            return f"http://127.0.0.1:{self.controllers[name]}"
        return self.places.prometheus if name == "prometheus" else self.places.alertmanager

    def _started(self, name: str) -> subprocess.Popen[Any]:
        if name in self.ports:
            api, admin = self.ports[name]
            environment = {
                "EXPERIMENT": EXPERIMENT,
                "RETAIN_STORE": str(self.store),
                "DATABASE_URL": self.url,
                "RETAIN_BUDGET_USD": "100000000",
                "RETAIN_HOLD_OUT_PERCENT": "0",
                "RETAIN_WORKERS": "1",
                "RETAIN_ADMIN_TOKEN": TOKEN,
                "PORT": str(api),
                "RETAIN_ADMIN_PORT": str(admin),
                **self.settings,
            }
            files = {"fault": str(self.fault), "trouble": str(self.trouble), "shift": str(self.shift)}
            return serve(environment, PATCH.format(**files, deadline=self._deadline))
        with (self.folder / f"{name}.log").open("ab") as log:
            if name in self.controllers:
                environment = self.environment | {"RETAIN_CONTROLLER_PORT": str(self.controllers[name])}
                command = [sys.executable, "-m", "deploy.controller", "run"]
                return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
            return subprocess.Popen(self.commands[name], stdout=log, stderr=log)

    @property
    def environment(self) -> dict[str, str]:
        """Of the controller and of the commands that people give."""
        plain = {name: value for name, value in os.environ.items() if not OURS.match(name)}
        admins = [f"http://127.0.0.1:{admin}" for _, admin in self.ports.values()]
        return plain | {
            "EXPERIMENT": EXPERIMENT,
            "RETAIN_STORE": str(self.store),
            "RETAIN_PROMETHEUS_URL": self.places.prometheus,
            "RETAIN_REPLICAS": ",".join(admins),
            "RETAIN_ADMIN_TOKEN": TOKEN,
            "RETAIN_CONTROLLER_TOKEN": TOKEN,
            "RETAIN_PAGE_URL": self.page_url,
        }

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """What a person does: `python -m deploy.controller ...`."""
        signed = [] if arguments[0] == "status" else ["--by", "Ann", "--reason", "a test"]
        return subprocess.run(
            [sys.executable, "-m", "deploy.controller", *arguments, *signed],
            cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=PATIENCE,
        )  # fmt: skip

    # -- what is seen ----------------------------------------------------------------------------------------------

    @property
    def document(self) -> Document[Rollout]:
        return Document(FolderStore(self.store), rollout_key(EXPERIMENT), Rollout)

    @property
    def rollout(self) -> Rollout:
        rollout = self.document.read()
        assert rollout is not None
        return rollout

    @property
    def apis(self) -> list[Address]:
        return [Address("127.0.0.1", api) for api, _ in self.ports.values()]

    def percents(self) -> list[float]:
        """What each replica that runs serves of the challenger now."""
        return [
            json.loads(get(Address("127.0.0.1", self.ports[name][0]), "/readyz"))["learned_percent"]
            for name in REPLICAS
            if name in self.processes
        ]

    def served(self, percent: float) -> bool:
        return self.percents() == [percent] * len(self.percents())

    def counted(self, name: str, replica: str = REPLICAS[0]) -> dict[str, float]:
        """The samples of one metric, by their labels as they are written."""
        address = Address("127.0.0.1", self.ports[replica][1])
        text = get(address, "/metrics", Authorization=f"Bearer {TOKEN}")
        lines = [line.rsplit(" ", 1) for line in text.splitlines() if line.startswith(name)]
        return {sample.removeprefix(name): float(value) for sample, value in lines}

    def asked(self, path: str) -> Any:
        """What Prometheus answers."""
        address = Address("127.0.0.1", int(self.places.prometheus.rsplit(":", 1)[1]))
        return json.loads(get(address, f"/api/v1/{path}"))["data"]

    def alert(self, name: str) -> dict[str, Any] | None:
        """One that is pending or fires."""
        alerts = self.asked("alerts")["alerts"]
        return next((alert for alert in alerts if alert["labels"]["alertname"] == name), None)

    def state(self, name: str) -> str | None:
        """Of an alert: pending, firing, or neither."""
        alert = self.alert(name)
        return None if alert is None else alert["state"]

    def pending_since(self, name: str) -> float:
        """From when on an alert was pending, in seconds since 1970."""
        alert = self.alert(name)
        assert alert is not None
        return datetime.fromisoformat(alert["activeAt"]).timestamp()

    def ever(self, state: str = "firing") -> set[str]:
        """The alerts that page and were ever seen in that state, by Prometheus' own records."""
        query = quote(f'count_over_time(ALERTS{{severity="page",alertstate="{state}"}}[1d])')
        return {series["metric"]["alertname"] for series in self.asked(f"query?query={query}")["result"]}

    def health(self, controller: str = "controller") -> dict[str, Any]:
        """What a controller says of itself."""
        health: dict[str, Any] = json.loads(get(Address("127.0.0.1", self.controllers[controller]), "/healthz"))
        return health

    def try_out(self, percent: float, challenger: str | None = None) -> Rollout:
        """Puts a challenger on that many customers, as if people had taken every step."""
        champion = self.version
        release, steps = challenger or champion, Plan(percents=(percent % 100 or 5.0,), watch_s=0)
        signed: dict[str, Any] = {"by": "Ann", "reason": "a test"}

        def tried(rollout: Rollout | None) -> Rollout:
            at = time.time_ns() // 1000
            rollout = propose(rollout, champion, release, **signed, at=at)
            for to, names in (("canary", SHADOW), ("full", SIGNALS)):
                if rollout.percent < percent:
                    seen = Evidence(rollout.generation, release, {"decision": part("served")}, figures(names), 0.0)
                    rollout = advance(rollout, to, seen, steps, **signed, at=at)  # type: ignore[arg-type]
            return rollout

        return self.document.change(tried)

    def begin(self, percent: float) -> Rollout:
        """As try_out(), until both replicas serve it."""
        rollout = self.try_out(percent)
        until(lambda: self.served(percent))
        return rollout

    def clear(self) -> Rollout:
        """Rolled back, unless it is, and as if people had let everything be proposed again."""
        at = time.time_ns() // 1000

        def cleared(rollout: Rollout | None) -> Rollout:
            assert rollout is not None
            rollout = release_latch(roll_back(rollout, by="Ann", why="a test", at=at), by="Ann", reason="a test", at=at)
            for barred in rollout.quarantined:
                rollout = forgive(rollout, barred.release, by="Ann", reason="a test", at=at)
            return rollout

        return self.document.change(cleared)

    @property
    def learned(self) -> str:
        """The labels of the challenger's arm, where it is the champion's own."""
        return f'{{arm="learned",release="{self.version}"}}'

    @property
    def version(self) -> str:
        replica = self.processes[REPLICAS[0]]
        assert isinstance(replica, Served)
        return replica.release


def until(true: Callable[[], bool], patience: float = PATIENCE) -> float:
    """The seconds until it is true; fails if that takes longer than any machine should."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < patience
        time.sleep(0.05)
    return time.monotonic() - began
