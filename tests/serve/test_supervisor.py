"""The supervisor and its processes, killed, hung, grown and told to stop."""

from __future__ import annotations

import concurrent.futures
import errno
import http.client
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from engine.errors import RetainError
from retain.release import Release
from serve.child import BEAT_SECONDS
from serve.settings import read
from serve.supervisor import (
    FIRST_DELAY,
    HUNG_CPU_SECONDS,
    HUNG_SECONDS,
    LONGEST_DELAY,
    STARVED_SECONDS,
    Child,
    Restarts,
    Supervisor,
)
from tests.releases import publish, rows
from tests.serve.services import PLENTY, Address, Served, counted, get, serve, until

# A worker that does what the id of a customer says.
MISBEHAVE = """
import time
from serve.service import Service
decide = Service.decide
async def misbehave(self, body, *more):
    if b"HANG" in body:
        while True:
            pass
    if b"GROW" in body:
        self.grown = bytearray(b"x") * (200 << 20)
    if b"SLOW" in body:
        time.sleep(1.0)
    return await decide(self, body, *more)
Service.decide = misbehave
"""


@pytest.fixture
def environment(artifact: Path, store: Path) -> dict[str, str]:
    return {"RELEASE_PATH": str(artifact), "RETAIN_STORE": str(store)}


@pytest.fixture
def service(environment: dict[str, str]) -> Iterator[Served]:
    with serve(environment, MISBEHAVE) as process:
        yield process.begun()


def body(release: Release, name: str = "7590-VHVEG") -> bytes:
    customer = rows(release.spec, 1, seed=4)[0] | {release.spec.roles["id"]: name}
    return json.dumps({"customer": customer}).encode()


def ask(address: Address, body: bytes, timeout: float = PLENTY) -> int:
    """The status of one answer to /retain, on a connection of its own. Raises OSError where the connection breaks."""
    connection = http.client.HTTPConnection(*address, timeout=timeout)
    try:
        connection.request("POST", "/retain", body, {"Content-Type": "application/json"})
        return connection.getresponse().status
    except http.client.HTTPException as error:
        raise ConnectionError(error) from None
    finally:
        connection.close()


def kill(service: Served, name: str) -> None:
    """Returns once another process has been started in its place."""
    victim = service.children("worker")[name]
    victim.kill()
    until(lambda: service.children("worker").get(name, victim).pid != victim.pid)


def counts(service: Served) -> Path:
    """The folder that its processes count in."""
    worker, *_ = service.children("worker").values()
    return Path(worker.environ()["PROMETHEUS_MULTIPROC_DIR"])


def ended(why: str, service: Served) -> float:
    return counted(service)[f'retain_processes_ended_total{{why="{why}"}}']


def test_a_killed_worker_is_replaced_and_the_other_one_answers_meanwhile(service: Served, release: Release) -> None:
    before, asked, stop = service.children("worker"), body(release), threading.Event()
    assert sorted(before) == ["worker-0", "worker-1"]

    def load() -> tuple[int, int]:
        """Requests that were answered, and those whose connection broke, which were sent again."""
        answered = broken = 0
        while not stop.is_set():
            try:
                assert ask(service.api, asked) == 200
                answered += 1
            except OSError:
                broken += 1
                assert ask(service.api, asked) == 200
                answered += 1
        return answered, broken

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        callers = [pool.submit(load) for _ in range(4)]
        for name in ("worker-0", "worker-1", "worker-0"):
            kill(service, name)
            until(lambda: counted(service)["retain_workers_ready"] == 2)
        stop.set()
        results = [caller.result(timeout=PLENTY) for caller in callers]
    assert sum(broken for _, broken in results) <= 3 * 4  # what was being answered by whom was killed, nothing else
    assert ended("died", service) == 3
    # Nothing that a killed worker had counted is lost, but what it was about to count.
    total = counted(service)['retain_requests_total{code="200",path="/retain"}']
    assert abs(sum(answered for answered, _ in results) - total) <= 3 * 4
    service.terminate()
    assert service.wait(PLENTY) == 0
    assert [bool(re.search(r"supervisor .* has ended by signal 9", line)) for line in service.said()].count(True) == 3


def test_no_request_is_lost_when_workers_are_told_to_leave(service: Served, release: Release) -> None:
    """Neither on connections that are kept, nor on new ones."""
    asked, stop = body(release), threading.Event()

    def kept() -> int:
        answered = 0
        connection = http.client.HTTPConnection(*service.api, timeout=PLENTY)
        while not stop.is_set():
            connection.request("POST", "/retain", asked, {"Content-Type": "application/json"})
            with (
                connection.getresponse() as response
            ):  # one that ends the connection makes the next request open another
                answered += response.status == 200 and bool(response.read())
        connection.close()
        return answered

    def new() -> int:
        answered = 0
        while not stop.is_set():
            answered += ask(service.api, asked) == 200
        return answered

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        callers = [pool.submit(work) for work in (kept, kept, new, new)]
        for number, name in enumerate(("worker-0", "worker-1"), start=1):
            service.children("worker")[name].terminate()
            until(lambda number=number: ended("died", service) == number)  # type: ignore[misc]
            until(lambda: counted(service)["retain_workers_ready"] == 2)
        stop.set()
        answered = [caller.result(timeout=PLENTY) for caller in callers]
    until(lambda: counted(service)['retain_requests_total{code="200",path="/retain"}'] == sum(answered))


def test_counts_of_all_workers_are_added_up(service: Served, release: Release) -> None:
    both = [get(service.api, "/healthz") for _ in range(60)]
    sent = [ask(service.api, body(release)) for _ in range(60)]
    assert sent.count(200) == len(both) == 60
    found = counted(service)
    assert found['retain_requests_total{code="200",path="/retain"}'] == 60
    assert found['retain_requests_total{code="200",path="/healthz"}'] == 60
    assert found["retain_request_seconds_count"] == 60
    assert found[f'retain_release_info{{release="{service.release}"}}'] == 1
    assert (found["retain_workers"], found["retain_workers_ready"]) == (2, 2)


def test_a_worker_whose_loop_hangs_is_killed_and_the_other_one_answers_meanwhile(
    service: Served, release: Release
) -> None:
    before = {process.pid for process in service.children("worker").values()}
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        hung = pool.submit(ask, service.api, body(release, "HANG"))
        broken = 0
        while not hung.done():
            try:
                assert ask(service.api, body(release)) == 200
            except OSError:  # accepted by the same worker, just before
                broken += 1
        assert broken <= 1
        with pytest.raises(OSError):  # noqa: PT011 the connection broke, in one of several ways
            hung.result()
    until(lambda: ended("hung", service) == 1)
    until(lambda: counted(service)["retain_workers_ready"] == 2)
    assert len(before & {process.pid for process in service.children("worker").values()}) == 1


def test_a_worker_that_grows_is_replaced_by_another_one_first(environment: dict[str, str], release: Release) -> None:
    with serve(environment | {"RETAIN_WORKER_MEMORY_MB": "256", "RETAIN_WORKERS": "1"}, MISBEHAVE) as service:
        service.begun()
        (before,) = service.children("worker").values()
        assert ask(service.api, body(release, "GROW")) == 200
        until(lambda: ask(service.api, body(release)) == 200 and before not in service.children("worker").values())
        assert [*service.children("worker")] == ["worker-1"]
        folder = counts(service)
        until(lambda: not (folder / "gauge_livemax_worker-0.db").exists())  # only the living tell of themselves
        assert (folder / "counter_worker-0.db").exists()
        assert ended("too_large", service) == 1
        assert ended("died", service) == 0


def test_what_is_being_answered_is_finished_when_the_service_stops(service: Served, release: Release) -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        slow = pool.submit(ask, service.api, body(release, "SLOW"))
        time.sleep(0.3)
        service.terminate()
        assert slow.result(timeout=PLENTY) == 200
    assert service.wait(PLENTY) == 0
    assert service.said() == []
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(service.api, timeout=PLENTY)


@pytest.mark.parametrize("paused", [False, True])
def test_nothing_outlives_the_supervisor(service: Served, paused: bool) -> None:
    get(service.admin, "/healthz")
    processes = [*service.children().values()]
    assert len(processes) == 3
    folder = counts(service)
    if paused:  # with words in its ear that it never heard
        service.send_signal(signal.SIGSTOP)
        time.sleep(3 * BEAT_SECONDS)
    service.kill()
    _, alive = psutil.wait_procs(processes, timeout=PLENTY)
    assert alive == []
    assert not folder.exists()


def test_a_process_that_hangs_does_not_outlive_the_supervisor(environment: dict[str, str], release: Release) -> None:
    patch = MISBEHAVE + "import serve.child\nserve.child.STOP_SECONDS = 0"
    with serve(environment, patch) as service:
        service.begun()
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            hanging = pool.submit(ask, service.api, body(release, "HANG"))
            time.sleep(0.3)
            processes = [*service.children().values()]
            service.kill()
            _, alive = psutil.wait_procs(processes, timeout=PLENTY)
            assert alive == []
            assert isinstance(hanging.exception(timeout=PLENTY), OSError)


def test_the_folder_of_counts_is_private_and_goes_with_the_service(service: Served) -> None:
    folder = counts(service)
    assert folder.stat().st_mode & 0o077 == 0
    assert {path.name for path in folder.glob("counter_*")} >= {"counter_worker-0.db", "counter_worker-1.db"}
    service.terminate()
    assert service.wait(PLENTY) == 0
    assert not folder.exists()


def test_a_secret_is_handed_only_to_the_process_that_needs_it(environment: dict[str, str]) -> None:
    secrets = {
        "RETAIN_API_KEYS": "shop:0123456789abcdef",
        "RETAIN_ADMIN_TOKEN": "fedcba9876543210",
        "PSEUDONYM_KEY": "pseudo",
    }
    with serve(environment | secrets) as service:
        service.begun()
        until(lambda: len(service.children()) == 3)
        worker, admin = (service.children(name)[f"{name}-0"].environ() for name in ("worker", "admin"))
        assert {*secrets} & {*worker} == {"RETAIN_API_KEYS"}
        assert {*secrets} & {*admin} == {"RETAIN_ADMIN_TOKEN", "PSEUDONYM_KEY"}


def test_a_worker_that_can_not_begin_ends_the_service(environment: dict[str, str]) -> None:
    process = serve(environment, "raise SystemExit(7)")
    out, err = process.communicate(timeout=PLENTY)
    assert (process.returncode, out) == (1, "")
    assert re.fullmatch(r"worker-\d ended before it was ready \(exit code 7\)\n", err)


def test_a_release_that_can_not_be_loaded_is_one_line(environment: dict[str, str], artifact: Path) -> None:
    process = serve(environment | {"RISK_MODEL_PATH": str(artifact)})
    out, err = process.communicate(timeout=PLENTY)
    assert (process.returncode, out) == (2, "")
    assert re.fullmatch(r"RISK_MODEL_PATH: .* can't be served: .*\n", err)


def test_a_worker_that_can_not_begin_again_is_tried_again_later(environment: dict[str, str], tmp_path: Path) -> None:
    """Whoever calls meanwhile waits, and is not refused."""
    count = tmp_path / "starts"
    patch = f"""
import os, pathlib
starts = pathlib.Path({str(count)!r})
with starts.open("a") as file:
    file.write("x")
if 2 < starts.stat().st_size <= 4:
    raise SystemExit(3)
"""
    with serve(environment, patch) as service:
        service.begun()
        for worker in service.children("worker").values():
            worker.kill()
        assert get(service.api, "/healthz") == '{"status":"alive"}'
        until(lambda: counted(service)["retain_workers_ready"] == 2)
        assert ended("died", service) == 4


def test_a_process_that_can_not_be_started_ends_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the service begins it is one line; later it is tried again."""

    def fails(self: Supervisor, kind: str, name: str) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(Supervisor, "_popen", fails)
    supervisor = Supervisor(read({"RELEASE_PATH": str(tmp_path)}), {}, {}, tmp_path)
    with pytest.raises(RetainError, match=r"^worker-0 can't be started \(Cannot allocate memory\)$"):
        supervisor._start("worker", 0.0)
    supervisor.announced = True
    for _ in range(3):
        supervisor._start("worker", 0.0)
    assert supervisor.children == []
    assert supervisor._restarts["worker"].not_before == 2 * FIRST_DELAY


def test_a_process_that_is_started_later_serves_what_the_others_do(
    store: Path, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though another release has become the current one meanwhile, and a link leads to another folder."""
    copied = shutil.copytree(store / "toy", tmp_path / "store" / "toy").parent
    monkeypatch.setenv("RETAIN_STORE", str(copied))
    link, there = tmp_path / "link", {"RELEASE_PATH": "", "RETAIN_STORE": str(copied), "EXPERIMENT": "toy"}
    link.symlink_to(artifact)
    there |= {"CHALLENGER_PATH": str(link), "RISK_MODEL_PATH": str(link)}
    started = []

    def popen(command: list[str], env: dict[str, str], **_: object) -> None:
        started.append(read(env))

    monkeypatch.setattr(subprocess, "Popen", popen)
    with socket.socket() as listening:
        supervisor = Supervisor(read(there), there, {"worker": listening, "admin": listening}, tmp_path)
        for kind in ("worker", "admin"):
            supervisor._popen(kind, f"{kind}-0")[1].close()
        publish(copied, "release", artifact / "files", "e" * 64)
        link.unlink()
        link.symlink_to(tmp_path)
        assert read(there).release.name == "e" * 64
        for kind in ("worker", "admin"):
            supervisor._popen(kind, f"{kind}-0")[1].close()
    assert [settings.release for settings in started] == [copied / "toy" / "release" / ("f" * 64)] * 4
    assert {settings.challenger for settings in started} == {artifact}
    assert {settings.parts["risk"] for settings in started} == {artifact}


def test_delays_grow_only_while_processes_end_as_they_begin() -> None:
    def child(**known: Any) -> Child:
        return Child("worker", 0, None, None, 0.0, **known)  # type: ignore[arg-type]

    restarts = Restarts()
    delays = []
    for number in range(9):
        now = 100.0 * number
        restarts.ended(child(), now)
        delays.append(max(0.0, restarts.not_before - now))
    assert delays[:4] == [0.0, FIRST_DELAY, 2 * FIRST_DELAY, 4 * FIRST_DELAY]
    assert delays[-1] == LONGEST_DELAY
    restarts.ended(child(ready={}, ready_at=900.0), 1_000.0)
    restarts.ended(child(), 1_001.0)
    assert restarts.not_before < 1_001.0


def test_ctrl_c_on_a_terminal_reaches_the_supervisor_alone(service: Served) -> None:
    assert os.getpgid(service.pid) not in {os.getpgid(process.pid) for process in service.children().values()}
    service.send_signal(signal.SIGINT)
    assert service.wait(PLENTY) == 0
    assert service.said() == []


def silent_child(program: str, silent: float) -> tuple[Child, subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline()
    mine, other = socket.socketpair()
    other.close()
    child = Child("worker", 0, process, mine, 0.0, ready={}, silent=silent)
    child.used = sum(psutil.Process(process.pid).cpu_times()[:2])
    return child, process


@pytest.mark.parametrize(
    ("program", "hangs"),
    [
        ("import time; print(1, flush=True); time.sleep(60)", True),
        # Until it has had a second on a core it may be one that others keep from running.
        ("print(1, flush=True)\nwhile True: pass", False),
    ],
)
def test_a_silent_worker_hangs_unless_it_waits_for_a_core(program: str, hangs: bool) -> None:
    child, process = silent_child(program, HUNG_SECONDS + 0.1)
    try:
        until(lambda: child.hangs == hangs)
        child.used -= HUNG_CPU_SECONDS + 0.1
        assert child.hangs
        child.used, child.silent = math.inf, STARVED_SECONDS + 0.1
        assert child.hangs
        child.silent = HUNG_SECONDS
        assert not child.hangs
    finally:
        process.kill()
        process.communicate()
        child.channel.close()
