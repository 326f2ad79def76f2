"""Start-up scripts as root, at the paths where they write on a machine, in a container of the Debian that the machines
which are always on have. Google is the double; curl is Python's, since the image has none.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from docker import DockerClient

from engine.fingerprint import ROOT
from images.table import BASE
from tests.containers import engine_or_skip
from tests.infra.google_double import Google, google
from tests.infra.machine import SYSTEM, Machine

pytestmark = pytest.mark.docker

STATE, LOGIN = "/var/lib/retain", "/run/retain/registry/config.json"
CURL = """#!/usr/local/bin/python3
import sys, urllib.error, urllib.request
alone = {"--silent", "--show-error", "--fail", "--fail-with-body", "--retry-connrefused"}
words, headers, given = sys.argv[1:], {}, {"--max-time": "20"}
while words:
    word = words.pop(0)
    if word == "--header":
        header = words.pop(0)
        for line in sys.stdin.read().splitlines() if header == "@-" else [header]:
            name, _, value = line.partition(": ")
            headers[name] = value
    elif word.startswith("--") and word not in alone:
        given[word] = words.pop(0)
    elif not word.startswith("--"):
        url = word
data = given.get("--data")
request = urllib.request.Request(url, data and data.encode(), headers, method=given.get("--request"))
try:
    with urllib.request.urlopen(request, timeout=float(given["--max-time"])) as answer:
        sys.stdout.write(answer.read().decode())
except urllib.error.HTTPError as error:
    sys.stdout.write(error.read().decode() if "--fail-with-body" in sys.argv else "")
    sys.exit(22)
except OSError as error:
    sys.exit(7)
"""
# The first try finds the lock of the system's own updates.
APT = """#!/bin/bash
printf 'apt-get %s\\n' "$*" >> "$MACHINE/calls"
[ "$(grep --count '^apt-get.* update' "$MACHINE/calls")" -gt 1 ] || exit 100
case "$*" in *" install "*) cp /machine/later/* /machine/bin/ && touch /var/run/docker.sock ;; esac
"""


@pytest.fixture(scope="module")
def engine() -> Iterator[DockerClient]:
    yield from engine_or_skip()


@pytest.fixture
def cloud() -> Iterator[Google]:
    with google() as server:
        server.secrets = {"retain-prefect-auth": "retain:a password"}
        server.attributes |= {
            "retain-registry": "us-central1-docker.pkg.dev",
            "retain-image": "us-central1-docker.pkg.dev/retain-example/retain/retain/orchestrator@sha256:0123",
            "retain-store": "gs://retain-example-retain/store",
            "retain-prefect-secret": "retain-prefect-auth",
        }
        yield server


def bare(folder: Path, cloud: Google, kind: str) -> Machine:
    """Without Docker, which apt-get brings."""
    machine = Machine(folder, cloud, kind)
    programs, later = folder / "bin", folder / "later"
    later.mkdir()
    for name in ("docker", "docker-compose"):
        shutil.move(programs / name, later / name)
    (programs / "chown").unlink()
    (programs / "apt-get").write_text(APT)
    (folder / "python-curl").write_text(CURL)
    (folder / "python-curl").chmod(0o755)
    return machine


def run(engine: DockerClient, machine: Machine, *commands: str) -> list[str]:
    """What the last of the commands printed."""
    real = shutil.which("curl", path=SYSTEM)
    environment = machine.environment | {"MACHINE": "/machine", "PATH": "/machine/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    del environment["RETAIN_ROOT"]
    printed = engine.containers.run(
        BASE,
        ["bash", "-c", "\n".join(commands)],
        environment=environment,
        network_mode="host",
        volumes=[f"{machine.folder}:/machine", f"{machine.folder}/python-curl:{real}:ro"],
        remove=True,
    )
    lines: list[str] = printed.decode().splitlines()
    return lines


def test_a_machine_of_a_pool(engine: DockerClient, cloud: Google, tmp_path: Path) -> None:
    cloud.attributes |= {
        "retain-pool": "gpu-spot",
        "retain-gpu": "true",
        "retain-server": f"http://{cloud.host}/api",
        "retain-idle-seconds": "0",
    }
    machine = bare(tmp_path / "machine", cloud, "worker")
    there = run(
        engine,
        machine,
        "bash /machine/startup-script || exit",
        f"bash {STATE}/machine.sh watch",
        f"stat --format='%n %a %u' {STATE}/* {LOGIN} /etc/systemd/system/retain-worker.service",
    )
    assert there == [
        f"{STATE}/machine.sh 700 0",
        f"{STATE}/prefect-auth 600 0",
        f"{STATE}/worker.env 600 0",
        f"{LOGIN} 600 10001",
        "/etc/systemd/system/retain-worker.service 644 0",
    ]
    assert [call.split()[-1] for call in machine.calls("apt-get")] == ["update", "update", "docker.io"]
    assert len(machine.calls("docker run --detach")) == 2
    assert len(cloud.deleted) == 1


def test_prefects_machine_after_a_restart(engine: DockerClient, cloud: Google, tmp_path: Path) -> None:
    for name in ("compose.yaml", "compose.cloud.yaml"):
        cloud.attributes[f"retain-{name.removesuffix('.yaml').replace('.', '-')}"] = (ROOT / "infra" / name).read_text()
    machine = bare(tmp_path / "machine", cloud, "host")
    disk = "/dev/disk/by-id/google-retain-data"
    first, again, *rest = run(
        engine,
        machine,
        f"mkdir --parents {disk.rpartition('/')[0]} && truncate --size=4M {disk} || exit",
        "bash /machine/startup-script || exit",
        f"bash {STATE}/machine.sh up || exit",
        f"sha256sum < {disk}",
        f"bash {STATE}/machine.sh up || exit",
        f"sha256sum < {disk}",
        f"stat --format='%n %a %u' /mnt/retain/secrets/* {LOGIN}",
        "grep --count /mnt/retain /etc/fstab",
        "cat /etc/docker/daemon.json",
    )
    assert first == again
    assert rest[:3] == ["/mnt/retain/secrets/postgres 600 0", f"{LOGIN} 600 10001", "1"]
    assert json.loads(rest[3])["data-root"] == "/mnt/retain/docker"
    assert len(machine.calls("mkfs")) == 1
    assert len(machine.calls("docker-compose")) == 2
