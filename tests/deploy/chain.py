"""The whole chain as real processes on this machine: two replicas of the service, Prometheus, Alertmanager, a
controller, and somebody who is paged. Each can be killed, paused and started again, at the address that it had."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil

from engine.document import Document
from engine.store import FolderStore
from retain.release import Release
from retain.rollout import Rollout, propose, rollout_key
from tests.deploy.fakes import Answer, answering
from tests.deploy.watching import TOKEN, configured, free_port, wait_for
from tests.serve.services import OURS, ROOT, Address, Served, get, serve

EXPERIMENT = "toy"
REPLICAS = ("replica-1", "replica-2")
PATIENCE = 120.0  # seconds, for what others who use the machine make slow
# What a test needs beside the fault itself: an arm that can be broken, is asked again and again, and a clock.
PATCH = """
import functools, pathlib, time
import serve.arms, serve.circuit, serve.learned, serve.state
serve.circuit.MISSES = {misses}
serve.learned.FIRST_PAUSE = serve.learned.LONGEST_PAUSE = 0.1
serve.arms.LearnedArm = functools.partial(
    serve.learned.LearnedArm, command=("-m", "tests.serve.faulty_arm", {fault!r})
)
shift = pathlib.Path({shift!r})
def clock():
    return time.time_ns() // 1000 + int(shift.read_text())
serve.worker.State = functools.partial(serve.state.State, clock=clock)
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
    """`folder` is its own; `store` holds the release of the experiment EXPERIMENT."""

    def __init__(self, folder: Path, store: Path, release: Release, *, scale: float = 60, misses: int = 99) -> None:
        self.folder, self.store, self.release = folder, store, release
        self.fault, self.shift = folder / "fault", folder / "shift"
        self.fault.write_text("")
        self.shift.write_text("0")
        self.misses = misses
        if scale != 1:
            (store / "DEMO").write_text(json.dumps({"time_scale": scale}))
        self.ports = {name: (free_port(), free_port()) for name in REPLICAS}
        self.controllers = {"controller": free_port()}
        self.pager = Pager()
        self.processes: dict[str, subprocess.Popen[Any]] = {}
        admins = [f"127.0.0.1:{admin}" for _, admin in self.ports.values()]
        self.places, self.commands = configured(
            folder, release.monitoring, admins, f"127.0.0.1:{self.controllers['controller']}", scale
        )
        self.page_url = ""
        self._stack = ExitStack()

    # -- processes -------------------------------------------------------------------------------------------------

    def __enter__(self) -> Chain:
        self.page_url = self._stack.enter_context(answering(self.pager))
        self.start(*REPLICAS)
        self.start("prometheus", "alertmanager", "controller")
        return self

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
            else:
                path = "/healthz" if name in self.controllers else "/-/ready"
                wait_for(f"{self._url(name)}{path}", [process])

    def kill(self, name: str) -> None:
        """Not told to stop: it is gone at once."""
        process = self.processes.pop(name)
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(process.pid).resume()
        process.kill()
        process.__exit__(None, None, None)

    def break_arm(self, fault: str) -> None:
        """Whatever tests.serve.faulty_arm can do; its processes begin anew, since some faults are met at the start."""
        self.fault.write_text(fault)
        for name in REPLICAS:
            for worker in self.processes[name].children("worker").values():
                for process in worker.children():
                    process.kill()

    def pause(self, name: str) -> None:
        """It hangs, with all its processes, and its connections stay open."""
        for process in self._all(name):
            process.send_signal(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        for process in self._all(name):
            process.send_signal(signal.SIGCONT)

    def _all(self, name: str) -> list[psutil.Process]:
        process = psutil.Process(self.processes[name].pid)
        return [process, *process.children(recursive=True)]

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
                "DATABASE_URL": f"sqlite:///{self.folder / 'serving.db'}",
                "RETAIN_BUDGET_USD": "100000000",
                "RETAIN_HOLD_OUT_PERCENT": "0",
                "RETAIN_WORKERS": "1",
                "RETAIN_ADMIN_TOKEN": TOKEN,
                "PORT": str(api),
                "RETAIN_ADMIN_PORT": str(admin),
            }
            patch = PATCH.format(fault=str(self.fault), shift=str(self.shift), misses=self.misses)
            return serve(environment, patch)
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

    def alerts(self) -> dict[str, str]:
        """State by name, of those that are pending or firing."""
        text = get(Address("127.0.0.1", int(self.places.prometheus.rsplit(":", 1)[1])), "/api/v1/alerts")
        return {alert["labels"]["alertname"]: alert["state"] for alert in json.loads(text)["data"]["alerts"]}

    def begin(self, percent: float) -> Rollout:
        """A canary at that percentage, as if people had taken every step; once both replicas serve it."""
        version = self.version
        at = time.time_ns() // 1000

        def canary(_: Rollout | None) -> Rollout:
            shadow = propose(None, version, version, by="Ann", reason="a test", at=at)
            return shadow.model_copy(update={"percent": percent, "phase": "full" if percent == 100 else "canary"})

        self.document.change(canary)
        until(lambda: self.served(percent))
        return self.rollout

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
