"""A rollback, as a story in the terminal: `make demo.rollback`.

The service with what watches it (flows/stack.py) starts on a store of its own, which holds a copy of the current
release. Customers of the release's table ask it. A person takes the learned policy through its shadow to 5 % of them;
then the policy's process hangs, in both replicas. What follows nobody does by hand.

The store is marked as a demo's, so an alert's ten minutes are ten seconds. Nothing else is any faster, and nothing is
played: these are the images, the rules and the commands of a real rollout.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
from docker import DockerClient
from rich.console import Console
from rich.markup import escape

from deploy.candidate import read_candidate
from deploy.plan import DEMO
from deploy.settings import SETTINGS as CONTROLLER_SETTINGS
from engine.artifact import ArtifactStore, canonical
from engine.errors import RetainError
from engine.fingerprint import ROOT
from engine.output import make_decoration
from engine.releases import DEFAULT_EXPERIMENT, current_release, experiment_of, version_of
from engine.store import FolderStore, open_store, store_url
from flows import compose, stack
from flows.callers import Callers, callers_of
from retain.rollout import POLICY
from serve.settings import SETTINGS as SERVICE_SETTINGS

SCALE = 60.0
STORE = ROOT / "build" / "demo"
COPIED = ("release", "customers")  # artifacts
DEMO_STACK = stack.Stack("retain-demo", "make demo.rollback", STORE / "secrets.env", shift=100)
BUDGET = "100000000"  # so that no wallet ends the story
OURS = {
    *(setting.name for setting in SERVICE_SETTINGS),
    *(setting.name for setting in CONTROLLER_SETTINGS),
    *stack.SECRETS,
}
HEALTHY_SECONDS = 20.0  # of the canary, before the fault
PATIENCE = 240.0  # seconds, for whatever is waited for
LOOK_SECONDS = 0.5
# What hangs the policy's processes of a replica. The service starts others; they hang as well.
HANG = """
import psutil
for process in psutil.process_iter(["cmdline"]):
    if "serve.arm" in (process.info["cmdline"] or []):
        process.suspend()
"""


class Story:
    """Told line by line, each with its second."""

    def __init__(self) -> None:
        self.console = Console(highlight=False)
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def chapter(self, title: str) -> None:
        self.console.print(f"\n[bold]{escape(title)}[/bold]")

    def healthy(self, text: str) -> None:
        """Of what is said as the stack starts, what belongs to the story."""
        if ": healthy" in text or ": built" in text:
            self.say(text)

    def say(self, text: str, style: str = "") -> None:
        self.console.print(f"[dim][{self.seconds:6.1f}][/dim] " + escape(text), style=style, soft_wrap=True)


class Demo:
    """Of one stack that runs."""

    def __init__(self, story: Story, engine: DockerClient, callers: Callers, key: str) -> None:
        self._story = story
        self._engine = engine
        self._callers = callers
        self._key = key

    def controller(self, *arguments: str, quietly: bool = False) -> subprocess.CompletedProcess[str]:
        """What a person types, and what it says."""
        name = stack.container(self._engine, DEMO_STACK, "controller")
        command = ["docker", "exec", name, "python", "-m", "deploy.controller", *arguments]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", env=_docker(), check=False)
        if not quietly:
            self._story.say(f"$ controller {' '.join(arguments)}", style="bold cyan")
            for line in (done.stdout + done.stderr).splitlines():
                self._story.say(f"  {line}")
        return done

    def signed(self, *arguments: str, reason: str, quietly: bool = False) -> subprocess.CompletedProcess[str]:
        return self.controller(*arguments, "--by", "Ann", "--reason", reason, quietly=quietly)

    def percents(self) -> list[float]:
        """Of customers that the challenger decides about, by replica."""
        percents = []
        for replica in stack.REPLICAS:
            address = f"{DEMO_STACK.addresses[replica]}/readyz"
            ready = httpx.get(address, headers={"Authorization": f"Bearer {self._key}"}, timeout=10).json()
            percents.append(float(ready["learned_percent"]))
        return percents

    def alerts(self) -> dict[str, str]:
        """State by name, of the alerts that would roll back and fire, or are about to."""
        answer = httpx.get(f"{DEMO_STACK.addresses['prometheus']}/api/v1/alerts", timeout=10).json()
        blaming = [alert for alert in answer["data"]["alerts"] if "rollback" in alert["labels"]]
        return {alert["labels"]["alertname"]: str(alert["state"]) for alert in blaming}

    def hang(self) -> None:
        for replica in stack.REPLICAS:
            name = stack.container(self._engine, DEMO_STACK, replica)
            subprocess.run(["docker", "exec", name, "python", "-c", HANG], env=_docker(), check=True)

    def until(self, what: str, true: Callable[[], Any]) -> Any:
        """What `true` returns, once that is something. Raises RetainError."""
        end = time.monotonic() + PATIENCE
        while not (result := true()):
            if time.monotonic() > end:
                raise RetainError(f"the story stops here: {what} has not come within {PATIENCE:.0f} s")
            time.sleep(LOOK_SECONDS)
        return result

    def answered(self) -> str:
        modes = ", ".join(f"{count:,} by {mode}" for mode, count in sorted(self._callers.answers.items()))
        wrong = self._callers.broken + sum(count for code, count in self._callers.codes.items() if code != 200)
        return f"{self._callers.answers.total():,} customers were answered ({modes}), {wrong} were not"


def tell(story: Story, demo: Demo, version: str, release: Path) -> None:
    """Raises RetainError."""
    story.chapter("The baseline decides")
    time.sleep(5)
    story.say(demo.answered())

    story.chapter("Into the shadow: the policy is asked about everybody, and nobody meets it")
    demo.signed("propose", version, reason="the release of this week")
    part = read_candidate(release).parts[POLICY]
    accepted: list[str] = []
    if part.standing == "shadow_only":
        missed = f"{POLICY}:" + ",".join(missed.criterion for missed in part.missed)
        accepted = ["--accept-missed", missed, "--digest", part.digest]
    advance = ("advance", "--to", "canary", *accepted)
    refusals: list[str] = []

    def forward() -> bool:
        done = demo.signed(*advance, reason="the shadow passed", quietly=True)
        if done.returncode and (refusal := done.stderr.strip()) not in refusals:
            refusals.append(refusal)
            story.say(refusal)
        elif not done.returncode:
            story.say(f"$ controller {' '.join(advance)}", style="bold cyan")
            for line in done.stdout.splitlines():
                story.say(f"  {line}")
        return not done.returncode

    demo.until("a shadow that passes", forward)

    story.chapter("The canary: 5 % of customers")
    demo.until("the canary", lambda: demo.percents() == [5.0, 5.0])
    story.say("both replicas serve it; the controller vouches for it every 5 seconds")
    time.sleep(HEALTHY_SECONDS)
    story.say(demo.answered())
    story.say(f"alerts: {', '.join(demo.alerts()) or 'none'}")

    story.chapter("The fault: the policy's process hangs, in both replicas")
    broken = story.seconds
    seen: dict[str, str] = {}

    def over() -> bool:
        demo.hang()
        for name, state in demo.alerts().items():
            if seen.get(name) != state:
                seen[name] = state
                story.say(f"{name} is {state}", style="bold red" if state == "firing" else "yellow")
        return demo.percents() == [0.0, 0.0] and demo.controller("status", quietly=True).returncode == 0

    demo.until("the rollback", over)
    story.say(
        f"the baseline decides about everybody again, {story.seconds - broken:.0f} s after the fault", "bold green"
    )
    story.say(demo.answered())

    story.chapter("What is on record")
    demo.controller("status")
    story.chapter("And it stays: the release is in quarantine until a person says otherwise")
    demo.signed("propose", version, reason="again, without a look at why")


@contextmanager
def running(story: Story, named: str) -> Iterator[Demo]:
    """The stack on its own store, with customers; all of it is gone afterwards. Raises RetainError."""
    engine = compose.open_engine()
    with suppress(RetainError):
        stack.down(_quiet, DEMO_STACK, forget=True)  # of a demo that was killed
    copy_of_store(named)
    for name in OURS:  # of the shell: no database, webhook or limit of a real service has a part in this
        os.environ.pop(name, None)
    os.environ.update(EXPERIMENT=named, RETAIN_STORE=str(STORE), RETAIN_BUDGET_USD=BUDGET, RETAIN_HOLD_OUT_PERCENT="0")
    callers = None
    try:
        story.chapter("The service, and what watches it")
        story.say("images are built first, which takes minutes the first time")
        stack.up(story.healthy, DEMO_STACK)
        key = stack.key(DEMO_STACK)
        callers = callers_of(named, [DEMO_STACK.addresses[replica] for replica in stack.REPLICAS], key)
        callers.start()
        yield Demo(story, engine, callers, key)
    finally:
        if callers is not None:
            callers.stop()
        stack.down(_quiet, DEMO_STACK, forget=True)
        shutil.rmtree(STORE, ignore_errors=True)


def copy_of_store(named: str) -> None:
    """What the service needs, marked as a demo's. Raises RetainError."""
    shutil.rmtree(STORE, ignore_errors=True)
    current_release(named)  # says what is missing
    artifacts = ArtifactStore(open_store(store_url()), experiment_of(named))
    copy = ArtifactStore(FolderStore(STORE), artifacts.experiment)
    current = artifacts.current()
    for name in COPIED:
        if name not in current:
            where = f"experiment {artifacts.experiment} has no {name} in {artifacts.store.url}"
            raise RetainError(f"{where}: `make run` makes one")
        shutil.copytree(artifacts.folder(name, current[name]), copy.folder(name, current[name]))
        copy.set_current(name, current[name])
    copy.store.write(DEMO, canonical({"time_scale": SCALE}))


def main() -> int:
    story = Story()
    named = os.environ.get("EXPERIMENT") or DEFAULT_EXPERIMENT
    story.console.print(
        f"A demo: time runs {SCALE:g} times as fast for alerts, so ten minutes are ten seconds.", style="bold red"
    )

    def carry_out(_: compose.Say) -> None:
        release = current_release(named)
        version = version_of(release)
        with running(story, named) as demo:
            tell(story, demo, version, release)
        story.say("all of the demo is gone again", "dim")

    return compose.carry_out(carry_out, STORE)


def _quiet(_: str) -> None:
    pass


def _docker() -> dict[str, str]:
    return {**os.environ, "DOCKER_HOST": compose.engine_address()}


if __name__ == "__main__":
    make_decoration()
    sys.exit(main())
