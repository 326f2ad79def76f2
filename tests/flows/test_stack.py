"""The service in containers: what its files say, its secrets, and the faults that `make serve.up` tells in one line."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from docker.errors import NotFound
from jsonschema import Draft202012Validator

from deploy import rules
from deploy.settings import SETTINGS as CONTROLLER_SETTINGS
from engine.artifact import ArtifactStore, open_artifact
from engine.errors import RetainError
from engine.fingerprint import ROOT
from engine.store import open_store
from flows import compose, mounts, platform, stack
from serve.settings import SETTINGS, read
from tests.engine.bucket_double import Buckets, serving
from tests.flows.test_platform import merged, stated_secrets

FILES = (stack.COMPOSE_FILE, stack.BUILD_FILE, stack.FOLDER_FILE, stack.BUCKET_FILE)
COMPOSE, BUILD, FOLDER, BUCKET = (yaml.safe_load(path.read_text()) for path in FILES)
READERS = (*stack.REPLICAS, "controller")  # of the store
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


@pytest.mark.parametrize("content", [COMPOSE, BUILD, FOLDER, BUCKET], ids=[path.stem for path in FILES])
def test_compose_files_are_what_the_specification_says(content: Any) -> None:
    errors = Draft202012Validator(json.loads(SCHEMA.read_text())).iter_errors(content)
    assert [f"{list(error.absolute_path)}: {error.message}" for error in errors] == []


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="docker-compose isn't installed")
@pytest.mark.parametrize("files", [["compose.yaml"], ["compose.yaml", "compose.build.yaml", "compose.bucket.yaml"]])
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
    for besides in (FOLDER, BUCKET):
        assert besides["services"]["serve-1"] == besides["services"]["serve-2"]


def test_who_reads_the_store_and_who_writes_it() -> None:
    """Of a folder replicas can change nothing. With a bucket they are given no folder, and keep releases in a volume;
    what they may do to the bucket is a matter of their account's rights."""
    folder = "${RETAIN_HOST_STORE:-../artifacts}:/store"
    assert {name: service["volumes"] for name, service in FOLDER["services"].items()} == {
        "serve-1": [f"{folder}:ro"],
        "serve-2": [f"{folder}:ro"],
        "controller": [folder],
    }
    assert BUCKET["services"].keys() == set(READERS)
    for service in BUCKET["services"].values():
        cache, key = service["volumes"]
        assert cache == f"cache:{mounts.CACHE}"
        assert (key["source"], key["target"]) == (f"${{RETAIN_HOST_KEY:-{mounts.NO_KEY}}}", mounts.KEY)
        assert key["read_only"] is True
    assert not any("volumes" in SERVICES[name] for name in READERS)


def test_google_s_machine_keeps_releases_as_this_one_does() -> None:
    """compose.cloud.yaml goes there without compose.bucket.yaml; the machine has an account of its own."""
    cloud = yaml.safe_load((stack.DEPLOY / "compose.cloud.yaml").read_text())
    assert cloud["volumes"] == BUCKET["volumes"]
    for name in READERS:
        assert cloud["services"][name]["volumes"] == BUCKET["services"][name]["volumes"][:1]
        assert cloud["services"][name]["environment"]["RETAIN_STORE"] == "${RETAIN_STORE:-}"


def test_settings_that_containers_get_are_settings() -> None:
    known = {setting.name for setting in SETTINGS}
    # The release is named by its folder, addresses are the containers' own, and SQLite is none of theirs.
    others = {"EXPERIMENT", "RETAIN_HOST", "PORT", "RETAIN_ADMIN_PORT", "RETAIN_SQLITE_SYNCHRONOUS"}
    assert set(SERVICES["serve-1"]["environment"]) == known - others
    controller = SERVICES["controller"]["environment"]
    assert set(controller) == {setting.name for setting in CONTROLLER_SETTINGS} - {"RETAIN_CONTROLLER_PORT"}
    replicas = ",".join(f"http://{replica}:8001" for replica in stack.REPLICAS)
    assert controller["RETAIN_REPLICAS"] == replicas


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
    store = mounts.place()
    environment = stack._environment(stack.SERVING, "local", part, "retain/serve", passwords, store)
    assert environment["PPO_POLICY_PATH"] == environment["RELEASE_PATH"] == "/store/local/decision/1"
    monkeypatch.setenv("CHALLENGER_PATH", str(tmp_path))
    with pytest.raises(RetainError, match=r"CHALLENGER_PATH=.*containers have the store alone"):
        stack._environment(stack.SERVING, "local", part, "retain/serve", passwords, store)


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ArtifactStore]:
    """The artifacts of `local` in a bucket, of which this machine has nothing yet."""
    monkeypatch.setattr(mounts, "LOOPBACK", ("none",))  # where the double is
    monkeypatch.setenv("RETAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RETAIN_STORE", "gs://bucket/retain")
    with serving(Buckets("bucket")) as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        yield ArtifactStore(open_store("gs://bucket/retain"), "local")


def published(artifacts: ArtifactStore, tmp_path: Path, stage: str) -> str:
    made = tmp_path / "made" / stage
    made.mkdir(parents=True)
    (made / "metrics.json").write_text(f'"of {stage}"')
    artifacts.publish(stage, "f" * 32, made)
    artifacts.set_current(stage, "f" * 32)
    return "f" * 32


def test_a_release_in_a_bucket_is_the_same_to_all_replicas(
    bucket: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is pinned by its address, from which a replica brings it, whatever becomes current meanwhile."""
    published(bucket, tmp_path, "release")
    policy = published(bucket, tmp_path, "decision")
    store = mounts.place()
    release = stack._release("local", store)
    assert (release / "manifest.json").is_file()
    monkeypatch.setenv("PPO_POLICY_PATH", f"gs://bucket/retain/local/decision/{policy}/")
    passwords = dict.fromkeys(stack.SECRETS, "secret")
    environment = stack._environment(stack.SERVING, "local", release, "retain/serve", passwords, store)
    named = {name: environment[name] for name in ("RELEASE_PATH", "PPO_POLICY_PATH")}
    assert named == {
        "RELEASE_PATH": f"gs://bucket/retain/local/release/{'f' * 32}",
        "PPO_POLICY_PATH": f"gs://bucket/retain/local/decision/{policy}",
    }
    assert environment["RETAIN_HOST_STORE"] == "gs://bucket/retain"
    assert (environment["RETAIN_HOST_KEY"], environment["RETAIN_UID"]) == ("/dev/null", str(os.geteuid() or 10001))

    monkeypatch.setenv("RETAIN_CACHE", str(tmp_path / "volume"))  # as in a container
    settings = read(named)
    assert settings.release.is_relative_to(tmp_path / "volume")
    assert json.loads(open_artifact(settings.release)["metrics.json"].read_bytes()) == "of release"
    assert json.loads(open_artifact(settings.parts["decision"])["metrics.json"].read_bytes()) == "of decision"


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("gs://bucket/retain/local/release/none-such", "is no folder; it wants the folder of an artifact"),
        (
            "gs://bucket/retain/local/release",
            "is no artifact of RETAIN_STORE; it wants gs://bucket/retain/EXPERIMENT/ST",
        ),
        ("gs://bucket/other/local/release/1", "is no artifact of RETAIN_STORE"),
        ("gs://bucket/retain/local//1", "is no artifact of RETAIN_STORE"),
        ("gs://bucket/retain/../release/1", "is no artifact of RETAIN_STORE"),
    ],
)
def test_an_address_that_is_no_artifact_s_is_one_line(bucket: ArtifactStore, value: str, says: str) -> None:
    with pytest.raises(RetainError, match=rf"^RELEASE_PATH={value}: {says}[^\n]*$"):
        read({"RELEASE_PATH": value})


def test_what_docker_compose_makes_of_a_bucket(
    bucket: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(bucket, tmp_path, "release")
    store = mounts.place()
    passwords = dict.fromkeys(stack.SECRETS, "secret")
    release = stack._release("local", store)
    environment = stack._environment(stack.SERVING, "local", release, "retain/serve", passwords, store)
    services = merged(stack.BUCKET_FILE, environment)
    for name in READERS:
        seen = services[name]
        cache, key = (str(each) for each in seen["volumes"])
        assert cache == "cache:/cache:rw"
        assert "/dev/null" in key
        assert seen["environment"]["RETAIN_STORE"] == "gs://bucket/retain"
        assert seen["environment"]["STORAGE_EMULATOR_HOST"] == os.environ["STORAGE_EMULATOR_HOST"]
        assert seen["read_only"] is True
    pinned = f"gs://bucket/retain/local/release/{'f' * 32}"
    assert services["serve-1"]["environment"]["RELEASE_PATH"] == pinned


def test_a_key_that_the_service_could_not_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Started by root, it runs as nobody; started by anybody else, as whoever has the key."""
    key = tmp_path / "key.json"
    key.touch(0o600)
    store = mounts.Place("gs://bucket", tmp_path, mounts.Access({}, key))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "getegid", lambda: 100)
    assert stack._owner(store) == (1000, 100)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(RetainError, match=rf"{key}: user 10001, as whom the service runs, can't read it: chown 10001"):
        stack._owner(store)
    key.chmod(0o644)
    assert stack._owner(store) == (10001, 100)


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
        stack._release("local", mounts.place())


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
