"""Start-up scripts, run as they are: against a double of Google's services, with doubles of the commands they call."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from engine.fingerprint import ROOT
from flows import witness
from tests.infra.google_double import NAME, TOKEN, ZONE, Google, google
from tests.infra.machine import PARTS, RELEASE, STARTUP, SYSTEM, Machine

AUTH = "retain:a password, with spaces"
IMAGE = "us-central1-docker.pkg.dev/retain-example/retain/retain/orchestrator@sha256:0123"
STORE = "gs://retain-example-retain/store"
TOLD = {
    "retain-registry": "us-central1-docker.pkg.dev",
    "retain-image": IMAGE,
    "retain-store": STORE,
    "retain-prefect-secret": "retain-prefect-auth",
}


@pytest.fixture
def cloud() -> Iterator[Google]:
    with google() as server:
        server.secrets = {"retain-prefect-auth": AUTH, "retain-api-keys": "shop:the-key-of-the-shop"}
        server.secrets["retain-page-url"] = "none"
        server.attributes |= TOLD
        yield server


@pytest.fixture
def worker(tmp_path: Path, cloud: Google) -> Machine:
    cloud.attributes |= {
        "retain-pool": "gpu-spot",
        "retain-gpu": "true",
        "retain-server": f"http://{cloud.host}/api",
        "retain-idle-seconds": "0",
    }
    machine = Machine(tmp_path / "machine", cloud, "worker")
    begun = machine.run()
    assert begun.returncode == 0, begun.stderr
    return machine


def watched(machine: Machine) -> str:
    """What it said until it was deleted; the double lets it go on, so that it ends as one that Google didn't delete."""
    ended = machine.run("watch")
    assert ended.returncode == 1, ended.stderr
    assert ended.stderr.splitlines()[-1].endswith("should be gone by now, and is not")
    return ended.stderr


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def end(process: subprocess.Popen[str]) -> str:
    """Ends a process that we started, with those that it started; what it said."""
    os.killpg(process.pid, signal.SIGKILL)
    return process.communicate()[1]


# -- files


@pytest.mark.parametrize("kind", PARTS)
def test_shellcheck_finds_nothing(kind: str, tmp_path: Path) -> None:
    program = shutil.which("shellcheck") or shutil.which("shellcheck", path=Path(sys.executable).parent)
    assert program is not None, "shellcheck isn't installed; it is part of the extra `dev`"
    script = tmp_path / f"{kind}.sh"
    script.write_text("\n".join((STARTUP / part).read_text() for part in PARTS[kind]))
    command = [program, "--severity=style", "--enable=quote-safe-variables,check-unassigned-uppercase", str(script)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")


def test_terraform_puts_the_parts_together_as_these_tests_do() -> None:
    stated = {part for parts in PARTS.values() for part in parts}
    assert {path.name for path in STARTUP.glob("*.sh")} == stated
    terraform = ROOT / "infra" / "terraform"
    pools, residents = ((terraform / name).read_text() for name in ("pools.tf", "residents.tf"))
    assert 'startup/common.sh"), file("${path.module}/../startup/worker.sh")' in pools
    order = [residents.index(name) for name in ("startup/common.sh", "startup/resident.sh", "startup/${each.value")]
    assert order == sorted(order)


# -- the double


def test_the_metadata_server_answers_only_who_asks_as_google_wants_it(cloud: Google) -> None:
    def ask(path: str, **headers: str) -> int:
        request = urllib.request.Request(f"http://{cloud.host}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    token = "/computeMetadata/v1/instance/service-accounts/default/token"
    assert ask(token) == 403
    assert ask(token, **{"Metadata-Flavor": "Google", "X-Forwarded-For": "10.0.0.1"}) == 403
    assert ask(token, **{"Metadata-Flavor": "Google"}) == 200
    assert ask("/computeMetadata/v1/instance/attributes/nothing", **{"Metadata-Flavor": "Google"}) == 404
    secret = "/v1/projects/retain-example/secrets/retain-prefect-auth/versions/latest:access"
    assert ask(secret) == ask(secret, Authorization="Bearer another") == 401
    assert ask(secret, Authorization=f"Bearer {TOKEN}") == 200


# -- machines of a pool


def test_the_start_hands_over_to_a_service_that_is_stopped_before_docker(worker: Machine) -> None:
    unit = (worker.root / "etc" / "systemd" / "system" / "retain-worker.service").read_text()
    script = worker.state("machine.sh")
    assert f"ExecStart=/bin/bash {script} watch\n" in unit
    assert f"ExecStop=/bin/bash {script} leave\n" in unit
    assert "After=docker.service" in unit
    assert "StandardError=journal+console\n" in unit  # a machine that deletes itself leaves no other trace
    (limit,) = [line.partition("=")[2] for line in unit.splitlines() if line.startswith("TimeoutStopSec")]
    assert int(limit) < 30  # which Google gives
    assert worker.calls("systemctl") == [
        "systemctl daemon-reload",
        "systemctl restart --no-block retain-worker.service",
    ]
    assert stat.S_IMODE(script.stat().st_mode) == 0o700


def test_an_idle_machine_has_worked_for_its_pool_and_deletes_itself(worker: Machine, cloud: Google) -> None:
    cloud.pending = [1, 1, 0]  # an image is being pulled
    worker.stages("", "", "one", "one", "")
    watched(worker)
    assert cloud.deleted == [{"instances": [f"zones/{ZONE}/instances/{NAME}"]}]

    try_gpu, run_witness, run_worker = worker.calls("docker run")
    assert try_gpu == f"docker run --rm --gpus=all {IMAGE} nvidia-smi"
    for run in (run_witness, run_worker):
        assert f"--env-file={worker.state('worker.env')}" in run
        assert "--volume=/var/run/docker.sock:/var/run/docker.sock" in run
    assert f"{IMAGE} python -m flows.witness gpu-spot" in run_witness
    assert f"{IMAGE} prefect worker start --pool=gpu-spot --type=docker --name={NAME} --limit=1" in run_worker
    assert "docker network create retain" in worker.calls("docker network")
    assert worker.calls("nvidia-smi")
    # It looked until there was nothing, stopped the worker, looked again, and only then was it deleted.
    assert [call.split()[1] for call in worker.calls("docker ps", "docker stop")][-3:] == ["ps", "stop", "ps"]
    assert (worker.folder / "stages").read_text() == "\n"

    settings = dict(line.split("=", 1) for line in worker.state("worker.env").read_text().splitlines())
    assert settings["PREFECT_API_URL"] == cloud.attributes["retain-server"]
    assert settings["PREFECT_API_AUTH_STRING"] == AUTH
    assert settings["RETAIN_STORE"] == STORE
    login = json.loads((worker.root / "run/retain/registry/config.json").read_text())["auths"][TOLD["retain-registry"]]
    assert base64.b64decode(login["auth"]).decode() == f"oauth2accesstoken:{TOKEN}"


def test_no_secret_is_an_argument_or_readable_by_others(worker: Machine) -> None:
    watched(worker)
    for secret in (AUTH, base64.b64encode(AUTH.encode()).decode(), TOKEN):
        assert secret not in worker.arguments
    for path in (
        worker.state("worker.env"),
        worker.state("prefect-auth"),
        worker.root / "run/retain/registry/config.json",
    ):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_stage_that_was_taken_at_the_last_moment_is_carried_out(worker: Machine, cloud: Google) -> None:
    (worker.folder / "taken").touch()
    watched(worker)
    assert [call.split()[1] for call in worker.calls("docker start", "docker stop")] == ["stop", "start", "stop"]
    assert len(cloud.deleted) == 1


def test_a_machine_that_has_worked_waits_for_the_next_image_too(worker: Machine, cloud: Google) -> None:
    cloud.pending = [0, 1, 1, 0]
    worker.stages("one", "one", "", "", "", "two", "")
    cloud.attributes["retain-idle-seconds"] = "3"
    watched(worker)
    assert cloud.pending == [0]


def test_a_machine_waits_for_an_image_for_as_long_as_its_witness() -> None:
    """That one takes a flow run for crashed then, and no container is to be waited for any more."""
    (seconds,) = re.findall(r"^PULL_S=(\d+) ", (STARTUP / "worker.sh").read_text(), flags=re.MULTILINE)
    assert float(seconds) == witness.PENDING_S


def test_a_machine_without_a_gpu_looks_for_none(worker: Machine, cloud: Google) -> None:
    cloud.attributes["retain-gpu"] = "false"
    watched(worker)
    assert len(worker.calls("docker run")) == 2
    assert worker.calls("nvidia-smi") == []


def test_an_image_that_is_there_needs_no_registry(worker: Machine) -> None:
    (worker.folder / "has-image").touch()
    (worker.folder / "no-image").touch()
    watched(worker)
    assert worker.calls("docker pull") == []
    assert len(worker.calls("docker run --detach")) == 2


def test_a_restart_carries_on_with_new_containers(worker: Machine, cloud: Google) -> None:
    """/etc is empty after one, as that of Container-Optimized OS is."""
    watched(worker)
    shutil.rmtree(worker.root / "etc")
    assert worker.run().returncode == 0
    assert (worker.root / "etc/systemd/system/retain-worker.service").is_file()
    watched(worker)
    assert [call.split()[1] for call in worker.calls("docker rm", "docker run --detach")] == [
        "rm",
        "rm",
        "run",
        "run",
    ] * 2


def test_a_machine_whose_server_is_gone_does_not_wait_for_it(worker: Machine, cloud: Google) -> None:
    cloud.attributes["retain-server"] = "http://127.0.0.1:1/api"
    watched(worker)
    assert len(cloud.deleted) == 1


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda cloud, machine: cloud.secrets.clear(), "the secret retain-prefect-auth can't be read"),
        (lambda cloud, machine: cloud.secrets.update({"retain-prefect-auth": "x"}), "is no name:password"),
        (lambda cloud, machine: cloud.attributes.pop("retain-store"), "has no attribute retain-store"),
        (lambda cloud, machine: cloud.attributes.pop("retain-gpu"), "has no attribute retain-gpu"),
        (lambda cloud, machine: cloud.attributes.pop("retain-prefect-secret"), "no attribute retain-prefect-secret"),
        (lambda cloud, machine: (machine.folder / "no-image").touch(), "the worker's image can't be pulled"),
        (lambda cloud, machine: (machine.folder / "no-toolkit").touch(), "containers don't see the GPU"),
    ],
    ids=["secret", "password", "attribute", "kind", "name of a secret", "image", "toolkit"],
)
def test_a_machine_that_can_not_work_says_why_and_deletes_itself(
    worker: Machine, cloud: Google, break_it: Callable[[Google, Machine], object], says: str
) -> None:
    break_it(cloud, worker)
    error, _still_here = [line for line in watched(worker).splitlines() if "error: " in line]
    assert says in error
    assert len(cloud.deleted) == 1
    assert worker.calls("docker run --detach") == []


def test_a_machine_that_may_not_delete_itself_says_so_and_tries_again(worker: Machine, cloud: Google) -> None:
    cloud.may_delete = False
    watching = worker.start("watch")
    try:
        assert cloud.asked_for_deletion.wait(60)
        cloud.may_delete = True
        until(lambda: len(cloud.deleted) == 1)
    finally:
        said = end(watching)
    assert "could not be deleted, and goes on costing money" in said
    assert "compute.instanceGroupManagers.update" in said


def test_googles_notice_reaches_the_containers_as_sigterm(worker: Machine, cloud: Google) -> None:
    cloud.attributes["retain-idle-seconds"] = "600"
    worker.stages("one")
    (worker.folder / "stages").write_text("one\n")
    watching = worker.start("watch")
    try:
        assert cloud.waiting.wait(60)
        assert worker.calls("docker kill") == []
        cloud.preempted.set()
        until(lambda: bool(worker.calls("docker kill")))
    finally:
        said = end(watching)
    assert worker.calls("docker kill") == ["docker kill --signal=TERM one"]
    assert "docker stop -t 2 retain-worker" in worker.calls("docker stop")
    assert "being taken away" in said
    assert cloud.deleted == []  # the group makes another one in its place


def test_a_shutdown_waits_until_the_containers_have_saved(worker: Machine) -> None:
    (worker.folder / "stages").write_text("one\n")
    (worker.folder / "stubborn").touch()
    assert worker.run("leave").returncode == 0
    looks = [call.split()[1] for call in worker.calls("docker ps", "docker kill")]
    assert looks == ["ps", "kill", "ps", "ps", "ps"]


def test_a_shutdown_of_an_idle_machine_takes_no_time(worker: Machine) -> None:
    assert worker.run("leave").returncode == 0
    assert worker.calls("docker kill") == []


# -- the machines that are always on


def started(machine: Machine) -> Machine:
    begun = machine.run()
    assert begun.returncode == 0, begun.stderr
    assert machine.calls("systemctl")[-1] == "systemctl restart --no-block retain-machine.service"
    return machine


@pytest.fixture
def host(tmp_path: Path, cloud: Google) -> Machine:
    platform = ROOT / "infra"
    cloud.attributes["retain-compose"] = (platform / "compose.yaml").read_text()
    cloud.attributes["retain-compose-cloud"] = (platform / "compose.cloud.yaml").read_text()
    return started(Machine(tmp_path / "machine", cloud, "host"))


@pytest.fixture
def server(tmp_path: Path, cloud: Google) -> Machine:
    stack = ROOT / "deploy"
    cloud.attributes |= {
        "retain-compose": (stack / "compose.yaml").read_text(),
        "retain-compose-cloud": (stack / "compose.cloud.yaml").read_text(),
        "retain-settings": "CANARY_PERCENT=2\nRELEASE_PATH=gs://bucket/a b=c\nRETAIN_EXPERIMENT=exp_001_mvp",
        "retain-keys-secret": "retain-api-keys",
        "retain-page-secret": "retain-page-url",
    }
    return started(Machine(tmp_path / "machine", cloud, "serve"))


def test_prefects_machine_starts_its_services_and_keeps_its_database(host: Machine) -> None:
    begun = host.run("up")
    assert begun.returncode == 0, begun.stderr
    folder = host.state("platform")
    for name in ("compose.yaml", "compose.cloud.yaml"):
        assert (folder / name).read_text() == (ROOT / "infra" / name).read_text()
    (up,) = host.calls("docker-compose")
    assert up.endswith(f"--file {folder}/compose.yaml --file {folder}/compose.cloud.yaml up --detach")
    given = host.environment_of_compose
    assert given["RETAIN_BIND"] == "10.10.0.7"
    assert given["RETAIN_IMAGE_ORCHESTRATOR"] == IMAGE
    assert given["RETAIN_STORE"] == given["RETAIN_HOST_STORE"] == STORE  # what it has, and what its label says
    assert given["PREFECT_SERVER_API_AUTH_STRING"] == given["PREFECT_API_AUTH_STRING"] == AUTH
    assert len(given["POSTGRES_PASSWORD"]) == 32
    assert json.loads((host.root / "etc/docker/daemon.json").read_text()) == {
        "data-root": f"{host.root}/mnt/retain/docker",
        "log-opts": {"max-size": "10m", "max-file": "3"},
    }
    disk = host.disk.read_bytes()

    assert host.run("up").returncode == 0  # after a restart
    assert host.environment_of_compose["POSTGRES_PASSWORD"] == given["POSTGRES_PASSWORD"]
    assert len(host.calls("mkfs")) == 1
    assert host.disk.read_bytes() == disk
    assert len((host.root / "etc/fstab").read_text().splitlines()) == 1
    for secret in (AUTH, TOKEN, given["POSTGRES_PASSWORD"]):
        assert secret not in host.arguments


def test_a_disk_that_has_something_on_it_is_not_formatted(host: Machine) -> None:
    subprocess.run(["mkfs.ext4", "-q", host.disk], check=True, capture_output=True, env={"PATH": SYSTEM})
    before = host.disk.read_bytes()
    assert host.run("up").returncode == 0
    with host.disk.open("r+b") as disk:  # a second signature, as of a disk that was used for something else
        disk.seek(4096 - len(b"SWAP-SPACE"))
        disk.write(b"SWAP-SPACE")
    ended = host.run("up")
    assert ended.returncode == 1
    assert "is left alone" in ended.stderr.splitlines()[-1]
    assert host.calls("mkfs") == []
    assert host.disk.read_bytes()[4096:] == before[4096:]


def test_a_disk_that_is_not_there_is_told_before_anything_is_started(host: Machine) -> None:
    host.disk.unlink()
    ended = host.run("up")
    assert ended.returncode == 1
    assert "the disk retain-data can't be read" in ended.stderr.splitlines()[-1]
    assert host.calls("mkfs", "docker") == []


def test_every_variable_of_the_platform_is_given(host: Machine) -> None:
    assert host.run("up").returncode == 0
    assert missing(host, "infra") == set()


def missing(machine: Machine, folder: str) -> set[str]:
    """Variables of both compose files that have no value, and no default that will do there."""
    text = "".join((ROOT / folder / name).read_text() for name in ("compose.yaml", "compose.cloud.yaml"))
    used = set(re.findall(r"(?<!\$)\$\{(\w+)", text))
    free = {"RETAIN_DOCKER_SOCKET", "RETAIN_STACK", "RETAIN_UID", "RETAIN_GID"}
    free |= {"RETAIN_SERVICE_UID", "RETAIN_SERVICE_GID"} | {name for name in used if name.startswith("RETAIN_PORT_")}
    return used - free - machine.environment_of_compose.keys()


def test_the_service_s_machine_renders_what_prometheus_reads_and_starts(server: Machine, cloud: Google) -> None:
    begun = server.run("up")
    assert begun.returncode == 0, begun.stderr
    assert missing(server, "deploy") == set()
    (rendered,) = server.calls("docker run")
    assert f"--env=RETAIN_STORE={STORE}" in rendered
    assert "python -m deploy.rules /rendered --experiment exp_001_mvp --replicas serve-1:8001,serve-2:8001" in rendered
    given = server.environment_of_compose
    assert given["RETAIN_API_KEYS"] == "shop:the-key-of-the-shop"
    assert given["DATABASE_URL"] == f"postgresql://retain:{given['POSTGRES_PASSWORD']}@postgres/retain"
    own = ("POSTGRES_PASSWORD", "RETAIN_ADMIN_TOKEN", "RETAIN_CONTROLLER_TOKEN", "ASSIGNMENT_KEY")
    assert len({given[name] for name in own}) == 4
    assert (given["CANARY_PERCENT"], given["RELEASE_PATH"]) == ("2", "gs://bucket/a b=c")
    assert "RETAIN_PAGE_URL" not in given
    assert "nobody is paged: the secret retain-page-url says none" in begun.stderr
    for name in ("RETAIN_API_KEYS", *own):
        assert given[name] not in server.arguments

    cloud.secrets["retain-page-url"] = "https://page.example.com/hook?key=secret"
    assert server.run("up").returncode == 0
    assert server.environment_of_compose["RETAIN_PAGE_URL"] == "https://page.example.com/hook?key=secret"
    assert "page.example.com" not in server.arguments
    # Filled in inside the container, where nobody else reads it.
    assert server.state("serve/rendered/alertmanager.yaml").read_text() == "page: http://page-url.invalid/\n"
    assert {name: server.environment_of_compose[name] for name in own} == {name: given[name] for name in own}


def test_replicas_are_held_to_the_release_that_answers(server: Machine, cloud: Google) -> None:
    """So that another champion makes other containers of them, both, when the service is started again."""
    cloud.attributes["retain-settings"] = "RETAIN_EXPERIMENT=exp_001_mvp"
    assert server.run("up").returncode == 0
    assert server.environment_of_compose["RELEASE_PATH"] == RELEASE
    promoted = RELEASE.replace("0123", "4567")
    (server.folder / "champion").write_text(f"{promoted}\n")
    assert server.run("up").returncode == 0
    assert server.environment_of_compose["RELEASE_PATH"] == promoted


def test_one_replica_after_the_other_is_replaced(server: Machine) -> None:
    begun = server.run("up")
    assert begun.returncode == 0, begun.stderr
    groups = [call.partition("up --detach --no-deps ")[2] for call in server.calls("docker-compose") if " up " in call]
    assert groups == ["postgres", "serve-1", "serve-2", "controller prometheus alertmanager"]
    asked = [call.split()[-1] for call in server.calls("docker-compose", "docker inspect")]
    assert asked.index("serve-1-id") < asked.index("serve-2")  # which is left alone until the first one is healthy
    stated = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())["services"]
    started = {service for group in groups for service in group.split()}
    assert started == {name for name, service in stated.items() if "profiles" not in service}


@pytest.mark.parametrize(
    ("state", "looks"), [("running 0 starting", 24), ("restarting 4 unhealthy", 1), ("exited 0 unhealthy", 1)]
)
def test_a_replica_that_is_not_healthy_is_told_and_the_other_one_stays(server: Machine, state: str, looks: int) -> None:
    (server.folder / "sick").write_text(f"{state}\n")
    ended = server.run("up")
    assert ended.returncode == 1
    status, restarts, _ = state.split()
    assert ended.stderr.splitlines()[-1] == (
        f"retain: error: serve-1 isn't healthy ({status}, {restarts} restarts), so nothing after it was replaced: "
        "docker logs serve-1-id"
    )
    assert not [call for call in server.calls("docker-compose") if call.endswith("serve-2")]
    assert len([call for call in server.calls("docker inspect") if call.endswith("serve-1-id")]) == looks


@pytest.mark.parametrize("held", ["", "None", " https://pages.example/hook", "hooks.example.com/1", "https:///hook"])
def test_a_secret_that_is_no_webhook_starts_nothing(server: Machine, cloud: Google, held: str) -> None:
    cloud.secrets["retain-page-url"] = held
    ended = server.run("up")
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == (
        "retain: error: the secret retain-page-url wants the address of a webhook, http:// or https://, or none"
    )
    assert server.calls("docker") == []


def test_what_is_no_setting_starts_nothing(server: Machine, cloud: Google) -> None:
    cloud.attributes["retain-settings"] += "\nwhat is this"
    ended = server.run("up")
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].endswith("is no setting of the service: what is this")
    assert server.calls("docker") == []


def test_the_service_waits_for_a_release_and_begins_by_itself(server: Machine) -> None:
    (server.folder / "no-release").touch()
    watching = server.start("watch")
    try:
        until(lambda: len(server.calls("docker run")) > 1)
        assert server.calls("docker-compose") == []
        (server.folder / "no-release").unlink()
        until(lambda: bool(server.calls("docker-compose")))
    finally:
        said = end(watching)
    assert "has no release of exp_001_mvp that can be served" in said
    assert "tries again in a minute" in said


def test_a_secret_without_a_version_is_told_and_waited_for(host: Machine, cloud: Google) -> None:
    cloud.secrets.clear()
    watching = host.start("watch")
    try:
        until(lambda: host.arguments.count("secretmanager") > 1)
        cloud.secrets["retain-prefect-auth"] = AUTH
        until(lambda: bool(host.calls("docker-compose")))
    finally:
        said = end(watching)
    assert "the secret retain-prefect-auth can't be read" in said


def test_the_login_at_the_registry_is_renewed(host: Machine) -> None:
    login = host.root / "run/retain/registry/config.json"
    watching = host.start("watch")
    try:
        until(lambda: bool(host.calls("docker-compose")))
        login.unlink()
        until(login.is_file)
    finally:
        end(watching)
