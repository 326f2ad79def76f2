"""The service in containers: what its files say, its secrets, and the faults that `make serve.up` tells in one line."""

from __future__ import annotations

import json
import re
import shutil
import socket
import stat
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from docker.errors import NotFound
from jsonschema import Draft202012Validator

from deploy import rules
from deploy.settings import SETTINGS as CONTROLLER_SETTINGS
from engine.errors import RetainError
from engine.fingerprint import ROOT
from flows import compose, platform, stack
from serve.settings import SETTINGS
from tests.flows.test_platform import stated_secrets

COMPOSE, BUILD = (yaml.safe_load(path.read_text()) for path in (stack.COMPOSE_FILE, stack.BUILD_FILE))
SERVICES: dict[str, Any] = COMPOSE["services"]
SCHEMA = ROOT / "tests" / "compose-spec" / "compose-spec.json"


@pytest.fixture(autouse=True)
def secrets_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (*stack.SECRETS, "DATABASE_URL", "DOCKER_HOST", "EXPERIMENT", "RELEASE_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RETAIN_STORE", str(tmp_path / "store"))
    return tmp_path / "secrets.env"


@pytest.fixture
def ours(secrets_file: Path) -> stack.Stack:
    return stack.SERVING._replace(secrets=secrets_file)


def engine(volume: bool = False, running: tuple[str, ...] = ()) -> Any:
    def get(name: str) -> object:
        if not volume:
            raise NotFound("no such volume")
        return object()

    def listed(filters: dict[str, list[str]], **_: object) -> list[Any]:
        service = filters["label"][1].rpartition("=")[2]
        return [SimpleNamespace(status="running")] if service in running else []

    return SimpleNamespace(volumes=SimpleNamespace(get=get), containers=SimpleNamespace(list=listed))


# -- files


@pytest.mark.parametrize("content", [COMPOSE, BUILD], ids=["compose", "compose.build"])
def test_compose_files_are_what_the_specification_says(content: Any) -> None:
    errors = Draft202012Validator(json.loads(SCHEMA.read_text())).iter_errors(content)
    assert [f"{list(error.absolute_path)}: {error.message}" for error in errors] == []


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="docker-compose isn't installed")
@pytest.mark.parametrize("files", [["compose.yaml"], ["compose.yaml", "compose.build.yaml"]])
def test_docker_compose_reads_the_files(files: list[str]) -> None:
    named = [word for name in files for word in ("--file", str(stack.DEPLOY / name))]
    command = ["docker-compose", *named, "--profile", stack.GRAFANA, "config", "--quiet"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, ""), ended.stderr


def test_every_service_is_one_that_is_started_and_waited_for() -> None:
    assert set(SERVICES) == set(stack.SERVICES)
    assert all(service["healthcheck"]["test"] for service in SERVICES.values())


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_can_do_little(name: str) -> None:
    service = SERVICES[name]
    user = re.sub(r"\$\{\w+:-(\w*)\}", r"\1", service["user"]).partition(":")[0]
    assert user.isdigit()
    assert int(user) > 0
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["restart"] == "unless-stopped"
    assert service["logging"]["options"] == {"max-size": "10m", "max-file": "3"}
    assert "privileged" not in service
    assert not any("docker.sock" in volume for volume in service.get("volumes", []))


def test_only_this_machine_reaches_it_and_no_admin_port() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published.keys() == stack.PORTS.keys()
    for name, (port,) in published.items():
        address, outside, inside = re.fullmatch(r"([\d.]+):\$\{(\w+:-\d+)\}:(\d+)", port).groups()  # type: ignore[union-attr]
        assert outside == f"RETAIN_PORT_{name.upper().replace('-', '_')}:-{stack.PORTS[name]}"
        assert address == "127.0.0.1"
        assert inside not in ("8001", "8002")


def test_replicas_are_alike() -> None:
    first, second = ({**SERVICES[name]} for name in stack.REPLICAS)
    assert first.pop("ports") != second.pop("ports")
    assert first == second
    assert first["environment"]["FORCE_BASELINE"] is None  # the caller's, or else the rollout rules
    assert first["environment"]["RETAIN_ADMIN_HOST"] == "0.0.0.0"
    assert first["volumes"] == ["${RETAIN_HOST_STORE:-../artifacts}:/store:ro"]


def test_settings_that_containers_get_are_settings() -> None:
    known = {setting.name for setting in SETTINGS}
    # The release is named by its folder, addresses are the containers' own, and SQLite is none of theirs.
    others = {"EXPERIMENT", "RETAIN_HOST", "PORT", "RETAIN_ADMIN_PORT", "RETAIN_SQLITE_SYNCHRONOUS"}
    assert set(SERVICES["serve-1"]["environment"]) == known - others
    controller = SERVICES["controller"]["environment"]
    assert set(controller) == {setting.name for setting in CONTROLLER_SETTINGS} - {"RETAIN_CONTROLLER_PORT"}
    replicas = ",".join(f"http://{replica}:8001" for replica in stack.REPLICAS)
    assert controller["RETAIN_REPLICAS"] == replicas
    assert SERVICES["controller"]["volumes"] == ["${RETAIN_HOST_STORE:-../artifacts}:/store"]


def test_prometheus_and_alertmanager_are_started_as_in_tests() -> None:
    assert set(rules.PROMETHEUS_FLAGS) <= set(SERVICES["prometheus"]["command"])
    assert set(rules.ALERTMANAGER_FLAGS) <= set(SERVICES["alertmanager"]["command"])
    assert "--storage.tsdb.retention.time=30d" in SERVICES["prometheus"]["command"]
    for name in ("prometheus", "alertmanager"):
        assert f"> {stack.TOKEN_FILE} " in SERVICES[name]["entrypoint"][2]


def test_images_are_pinned() -> None:
    for name, service in SERVICES.items():
        if "RETAIN_IMAGE" not in service["image"]:
            assert service["image"].partition(":")[2] not in ("", "latest"), name
    built = {name: service["image"] for name, service in BUILD["services"].items()}
    assert built == {
        "postgres": "${RETAIN_IMAGE_POSTGRES:-retain-postgres}",
        "prometheus": "${RETAIN_IMAGE_WATCH:-retain-watch}",
        "alertmanager": "${RETAIN_IMAGE_WATCH:-retain-watch}",
    }
    assert SERVICES["postgres"]["image"] == stack.stated_image("postgres", platform.COMPOSE_FILE)


def test_no_secret_stands_in_a_file() -> None:
    for path in stack.DEPLOY.rglob("*"):
        if path.suffix in (".yaml", ".json") or path.name == "Dockerfile":
            assert stated_secrets(path.read_text(encoding="utf-8")) == [], path


# -- secrets


def test_secrets_are_made_once(ours: stack.Stack) -> None:
    first = stack.made_once(engine(), ours)
    assert first.keys() == set(stack.SECRETS)
    assert len(set(first.values())) == len(first)
    assert first["RETAIN_API_KEYS"].startswith("local:")
    assert stat.S_IMODE(ours.secrets.stat().st_mode) == 0o600
    assert stack.made_once(engine(volume=True), ours) == first


def test_secrets_of_the_environment_stay_there(ours: stack.Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in stack.SECRETS:
        monkeypatch.setenv(name, "given:of-the-environment")
    assert set(stack.made_once(engine(volume=True), ours).values()) == {"given:of-the-environment"}
    assert not ours.secrets.exists()


def test_a_database_whose_password_is_lost_is_named(ours: stack.Stack) -> None:
    with pytest.raises(RetainError, match=r"POSTGRES_PASSWORD=.* docker volume rm retain-serve-postgres"):
        stack.made_once(engine(volume=True), ours)


def test_the_settings_accept_what_is_made(ours: stack.Stack) -> None:
    made = stack.made_once(engine(), ours)
    for setting in (*SETTINGS, *CONTROLLER_SETTINGS):
        if setting.name in made:
            assert setting.value(made)


# -- faults in one line


def test_no_release(capsys: pytest.CaptureFixture[str]) -> None:
    assert stack.main(["up"]) == 2
    assert "has no release in" in (said := capsys.readouterr().err)
    assert "run `make run` first" in said
    assert len(said.splitlines()) == 1


def test_parts_are_named_where_containers_see_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = tmp_path / "store" / "local" / "decision" / "1"
    part.mkdir(parents=True)
    monkeypatch.setenv("PPO_POLICY_PATH", str(part))
    passwords = dict.fromkeys(stack.SECRETS, "secret")
    environment = stack._environment(stack.SERVING, "local", part, "retain/serve", passwords)
    assert environment["PPO_POLICY_PATH"] == environment["RELEASE_PATH"] == "/store/local/decision/1"
    monkeypatch.setenv("CHALLENGER_PATH", str(tmp_path))
    with pytest.raises(RetainError, match=r"CHALLENGER_PATH=.*containers have the store alone"):
        stack._environment(stack.SERVING, "local", part, "retain/serve", passwords)


@pytest.mark.parametrize("keys", ["local:first-of-all-secrets", "shop:first-of-all-secrets,till:another-one-of-them"])
def test_the_command_that_is_printed_finds_the_key(
    ours: stack.Stack, keys: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack, "ROOT", ours.secrets.parent)
    compose.write_secrets(ours.secrets, {"RETAIN_API_KEYS": keys, "OTHER": "local:a"})
    assert stack.key(ours) == "first-of-all-secrets"
    found = subprocess.run(["bash", "-c", f"echo {stack._key(ours)}"], cwd=ours.secrets.parent, capture_output=True)
    assert found.stdout == b"first-of-all-secrets\n"


def test_a_release_outside_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELEASE_PATH", str(tmp_path / "elsewhere"))
    with pytest.raises(RetainError, match=r"containers have the store alone"):
        stack._release("local")


def test_a_port_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        monkeypatch.setattr(stack, "PORTS", {"serve-1": other.getsockname()[1]})
        with pytest.raises(RetainError, match=r"Port \d+ of 127\.0\.0\.1, where serve-1 is to be, is taken"):
            stack.refuse_taken_ports(engine(), stack.SERVING)
        stack.refuse_taken_ports(engine(running=("serve-1",)), stack.SERVING)
    stack.refuse_taken_ports(engine(), stack.SERVING)


@pytest.mark.parametrize(
    ("had", "shell", "names"),
    [
        ({}, {}, None),
        ({"ASSIGNMENT_KEY": "s3cret"}, {}, "ASSIGNMENT_KEY"),
        ({"ASSIGNMENT_KEY": "s3cret"}, {"ASSIGNMENT_KEY": "another"}, None),
        ({"ASSIGNMENT_KEY": "s3cret", "FORCE_BASELINE": "true"}, {"ASSIGNMENT_KEY": ""}, "FORCE_BASELINE"),
        ({"RETAIN_PAGE_URL": "http://pager"}, {}, "RETAIN_PAGE_URL"),
        ({"DATABASE_URL": "postgresql://elsewhere"}, {}, "DATABASE_URL"),
        ({"DATABASE_URL": "postgresql://elsewhere"}, {"DATABASE_URL": "postgresql://third"}, None),
        ({"RETAIN_ADMIN_HOST": "0.0.0.0", "RELEASE_PATH": "/store/a"}, {}, None),
    ],
)
def test_what_the_shell_no_longer_sets_is_named(
    had: dict[str, str], shell: dict[str, str], names: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ASSIGNMENT_KEY", "FORCE_BASELINE", "RETAIN_PAGE_URL", "DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in shell.items():
        monkeypatch.setenv(name, value)
    own = "postgresql://postgres"
    env = {"DATABASE_URL": own, **had}
    container = SimpleNamespace(
        attrs={"Config": {"Env": ["CANARY_PERCENT", *(f"{name}={value}" for name, value in env.items())]}}
    )
    running = SimpleNamespace(containers=SimpleNamespace(list=lambda **_: [container]))
    environment = {"DATABASE_URL": own, "RELEASE_PATH": "/store/b", **shell}
    if names is None:
        stack.refuse_forgotten(running, stack.SERVING, environment)  # type: ignore[arg-type]
    else:
        with pytest.raises(RetainError, match=rf"^{names}: set when the stack was started, and not now"):
            stack.refuse_forgotten(running, stack.SERVING, environment)  # type: ignore[arg-type]


def test_one_replica_is_replaced_after_the_other() -> None:
    groups = [set(group) & set(stack.REPLICAS) for group in stack.GROUPS]
    assert [len(group) for group in groups if group] == [1, 1]


def test_the_stack_of_another_folder_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    container = SimpleNamespace(labels={"com.docker.compose.project.working_dir": str(tmp_path)})
    monkeypatch.setattr(compose, "services_of", lambda engine, project, name: [container])
    monkeypatch.setattr(compose, "open_engine", engine)
    with pytest.raises(RetainError, match=rf"was started in {tmp_path}: run `make serve\.down` there"):
        stack.down(print)
