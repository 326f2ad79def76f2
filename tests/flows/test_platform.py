"""The services that deployments run on: what their files say, and the faults that `make up` tells in one line."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import requests
import yaml
from docker.errors import APIError, NotFound
from jsonschema import Draft202012Validator

from engine.environment import SECRETS
from engine.errors import RetainError
from engine.fingerprint import ROOT
from engine.store import FolderStore
from flows import compose, ends, mounts, platform, witness
from flows.guard import SERVER_AUTH
from flows.mounts import KEY, NO_KEY, STORE
from tests.engine.bucket_double import Buckets, serving

FILES = (platform.COMPOSE_FILE, platform.BUILD_FILE, platform.FOLDER_FILE, platform.BUCKET_FILE)
COMPOSE, BUILD, FOLDER, BUCKET = (yaml.safe_load(path.read_text()) for path in FILES)
POOL = json.loads(platform.POOL_FILE.read_text())
SCHEMA = ROOT / "tests" / "compose-spec" / "compose-spec.json"


@pytest.fixture(autouse=True)
def secrets_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (platform.DATABASE_PASSWORD, SERVER_AUTH, platform.CLIENT_AUTH, "RETAIN_BIND", "DOCKER_HOST"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "secrets.env"
    monkeypatch.setattr(platform, "SECRETS_FILE", path)
    return path


def engine(volume: bool = False) -> Any:
    def get(name: str) -> object:
        assert name == platform.VOLUME
        if not volume:
            raise NotFound("no such volume")
        return object()

    return SimpleNamespace(volumes=SimpleNamespace(get=get), containers=SimpleNamespace(list=lambda **_: []))


# -- files


@pytest.mark.parametrize("content", [COMPOSE, BUILD, FOLDER, BUCKET], ids=[path.stem for path in FILES])
def test_compose_files_are_what_the_specification_says(content: Any) -> None:
    """docker-compose 1.29 reads them as well: the test below asks it."""
    errors = Draft202012Validator(json.loads(SCHEMA.read_text())).iter_errors(content)
    assert [f"{list(error.absolute_path)}: {error.message}" for error in errors] == []


def test_the_specification_refuses_what_is_none_of_its() -> None:
    schema = Draft202012Validator(json.loads(SCHEMA.read_text()))
    assert not schema.is_valid({**COMPOSE, "services": {"server": {"imag": "x"}}})


def test_only_the_server_is_reached_from_outside_and_only_from_this_machine() -> None:
    published = {name: service["ports"] for name, service in COMPOSE["services"].items() if "ports" in service}
    assert published == {"server": ["${RETAIN_BIND:-127.0.0.1}:4200:4200"]}


def test_what_compose_starts_is_looked_after() -> None:
    services = COMPOSE["services"]
    assert services.keys() == {"postgres", "server", "worker", "witness"}
    assert all(service["healthcheck"]["test"] for service in services.values())
    restarts = {name: service["restart"] for name, service in services.items()}
    assert restarts == dict.fromkeys(("postgres", "server"), "unless-stopped") | dict.fromkeys(
        ("worker", "witness"), "always"
    )


def test_server_worker_and_witness_have_one_prefect() -> None:
    images = {COMPOSE["services"][name]["image"] for name in ("server", "worker", "witness")}
    assert images == {"${RETAIN_IMAGE_ORCHESTRATOR:-retain/orchestrator}"}


def test_both_postgresqls_read_one_volume() -> None:
    dockerfile = (platform.INFRA / "postgres" / "Dockerfile").read_text()
    (major,) = re.findall(r"^postgres:(\d+)-bookworm$", COMPOSE["services"]["postgres"]["image"])
    assert f"postgresql-{major}" in dockerfile
    assert COMPOSE["services"]["postgres"]["volumes"] == ["postgres:/var/lib/postgresql/data"]
    assert "PGDATA=/var/lib/postgresql/data" in dockerfile
    assert COMPOSE["volumes"] == {"postgres": {"name": platform.VOLUME}}


def test_a_changed_image_of_postgresql_is_built_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (name,) = re.findall(r"^\$\{(\w+):-retain-postgres\}$", BUILD["services"]["postgres"]["image"])
    shutil.copytree(platform.POSTGRES_FOLDER, tmp_path / "postgres")
    before = platform.built_postgres()
    monkeypatch.setattr(platform, "POSTGRES_FOLDER", tmp_path / "postgres")
    assert platform.built_postgres() == before
    with (tmp_path / "postgres" / "start.sh").open("a") as file:
        file.write("# changed\n")
    assert platform.built_postgres() != before
    monkeypatch.setenv("DOCKER_HOST", "unix:///dev/null")
    monkeypatch.setenv("RETAIN_STORE", str(tmp_path / "store"))
    environment = platform._environment("retain/orchestrator:x", "127.0.0.1", {}, mounts.place())
    assert environment[name] == platform.built_postgres()


def stated_secrets(text: str) -> list[str]:
    """The lines of a file that give a secret a value of its own, in YAML, JSON, a Dockerfile, a script or a .env."""
    names = "|".join((*SECRETS, "PREFECT_SERVER_DATABASE_PASSWORD"))
    stated = re.finditer(rf"""\b(?:{names})["']?\s*[:=](?!\?)[ \t]*(.*)""", text)
    return [line.group() for line in stated if not re.match(r"""["']?\$\{[A-Z_]+:-\}["']?,?$|#|$""", line.group(1))]


def test_no_secret_stands_in_a_file() -> None:
    not_ours = ("secrets.env", ".terraform", "terraform.tf")  # what git ignores
    paths = [path for path in platform.INFRA.rglob("*") if path.is_file()]
    files = [path for path in paths if not any(part.startswith(not_ours) for part in path.parts)]
    for path in (*files, ROOT / "prefect.yaml", ROOT / "prefect.toml", *(ROOT / "images").glob("*Dockerfile")):
        assert stated_secrets(path.read_text(encoding="utf-8")) == [], path


@pytest.mark.parametrize(
    "line",
    [
        "  POSTGRES_PASSWORD: x",
        "PREFECT_API_KEY=x",
        'ENV PREFECT_API_AUTH_STRING="a:b"',
        '"PREFECT_SERVER_DATABASE_PASSWORD": "x",',
        "    env: {RETAIN_STORE: /store, PREFECT_API_KEY: x}",
        "- GOOGLE_APPLICATION_CREDENTIALS=/x.json",
    ],
)
def test_a_secret_is_found_in_whatever_form(line: str) -> None:
    assert stated_secrets(f"first: 1\n{line}\n") != []


def test_the_witness_says_which_store_it_has() -> None:
    assert COMPOSE["services"]["witness"]["labels"] == {platform.STORE_LABEL: "${RETAIN_HOST_STORE:-}"}
    assert FOLDER["services"]["witness"] == {"volumes": [f"${{RETAIN_HOST_STORE:-../artifacts}}:{STORE}"]}
    (key,) = BUCKET["services"]["witness"]["volumes"]
    assert (key["target"], key["read_only"], key["source"]) == (KEY, True, f"${{RETAIN_HOST_KEY:-{NO_KEY}}}")


def merged(besides: Path, environment: dict[str, str]) -> Any:
    """What docker-compose makes of the services with the file of a store, and with these variables alone."""
    if shutil.which("docker-compose") is None:
        pytest.skip("docker-compose isn't installed")
    command = ["docker-compose", "--file", str(besides.parent / "compose.yaml"), "--file", str(besides), "config"]
    given = {"PATH": os.environ["PATH"], **environment}
    ended = subprocess.run(command, env=given, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return yaml.safe_load(ended.stdout)["services"]


def test_the_witness_reaches_its_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With the variables that `make up` sets, of a folder and of a bucket."""
    (tmp_path / "docker.sock").touch()
    (tmp_path / "key.json").write_text("{}")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    monkeypatch.setenv("RETAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    for url, besides in ((str(tmp_path / "store"), platform.FOLDER_FILE), ("gs://bucket/p", platform.BUCKET_FILE)):
        monkeypatch.setenv("RETAIN_STORE", url)
        environment = platform._environment("retain/orchestrator:x", "127.0.0.1", {}, mounts.place())
        seen = merged(besides, environment)["witness"]
        assert seen["labels"] == {platform.STORE_LABEL: url}
        others = [str(each) for each in seen["volumes"] if "docker.sock" not in str(each)]
        if besides == platform.FOLDER_FILE:
            assert others == [f"{url}:/store:rw"]
            assert "RETAIN_STORE" not in seen["environment"]  # that of the image
        else:
            assert (len(others), f"{tmp_path}/key.json" in others[0], "store" in others[0]) == (1, True, False)
            assert seen["environment"]["RETAIN_STORE"] == url


def test_a_bucket_that_can_not_be_used_is_told_before_anything_is_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[object] = []
    monkeypatch.setattr(compose, "open_engine", engine)
    monkeypatch.setattr(compose, "compose", lambda *given: started.append(given))
    monkeypatch.setattr(mounts, "LOOPBACK", ("none",))  # where the double is
    monkeypatch.setenv("RETAIN_CACHE", str(tmp_path / "cache"))
    with serving(Buckets("bucket")) as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        monkeypatch.setenv("RETAIN_STORE", "gs://another/retain")
        assert platform.main(["up"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: gs://another/retain: there is no bucket another")
    assert (said.count("\n"), started) == (1, [])


def test_the_pool_makes_containers_as_the_others_expect_them() -> None:
    properties = POOL["variables"]["properties"]
    assert set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(POOL["job_configuration"]))) == properties.keys()
    assert all(each["title"] for each in properties.values())
    assert properties["command"]["default"] == "python -m prefect.engine"
    assert properties["networks"]["default"] == [COMPOSE["networks"]["default"]["name"]]
    (label,) = POOL["job_configuration"]["labels"].items()
    assert label == (witness.POOL_LABEL, witness.POOL)
    assert "=".join(label) == platform.POOL_FILTER
    assert COMPOSE["services"]["worker"]["command"][3:5] == [f"--pool={platform.POOL}", "--type=docker"]
    again = "PREFECT_CLIENT_RETRY_EXTRA_CODES"  # or a flow fails whose state is proposed while the database is away
    assert properties["env"]["default"][again] == COMPOSE["services"]["worker"]["environment"][again] == "500"
    assert POOL["job_configuration"]["auto_remove"] is False  # or nobody could tell how a container ended


def test_a_pool_that_prefects_server_refuses_is_one_line() -> None:
    def refused(pool: Any, overwrite: bool) -> None:
        assert (pool.name, pool.type, pool.base_job_template, overwrite) == ("docker", "docker", POOL, True)
        raise httpx.HTTPError("422 Unprocessable Entity\nof this")

    api: Any = SimpleNamespace(create_work_pool=refused)
    with pytest.raises(RetainError) as told:
        platform.make_pool(api, platform.POOL, "as stated", platform.docker_template(platform.POOL))
    assert str(told.value) == "Prefect's server refused the work pool docker (422 Unprocessable Entity)"


def test_the_prefect_command_finds_the_server() -> None:
    from prefect.settings import get_current_settings

    code = "from prefect.settings import get_current_settings; print(get_current_settings().api.url)"
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={"HOME": "/nonexistent"}, capture_output=True, text=True, check=True
    )
    assert ended.stdout.strip() == platform.api_url()
    assert get_current_settings().api.url != platform.api_url()  # the tests have none but those they make


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="docker-compose isn't installed")
@pytest.mark.parametrize("files", [["compose.yaml"], ["compose.yaml", "compose.build.yaml"]])
def test_docker_compose_reads_the_files(files: list[str]) -> None:
    named = [word for name in files for word in ("--file", str(platform.INFRA / name))]
    ended = subprocess.run(["docker-compose", *named, "config", "--quiet"], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, ""), ended.stderr


# -- secrets


def test_the_password_of_the_database_is_made_once(secrets_file: Path) -> None:
    first = platform._secrets(engine(), "127.0.0.1")
    assert len(first[platform.DATABASE_PASSWORD]) >= 32
    assert stat.S_IMODE(secrets_file.stat().st_mode) == 0o600
    assert platform._secrets(engine(volume=True), "127.0.0.1") == first
    assert [path.name for path in secrets_file.parent.iterdir()] == ["secrets.env"]


def test_a_password_of_the_environment_is_not_written(secrets_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(platform.DATABASE_PASSWORD, "ours")
    assert platform._secrets(engine(volume=True), "127.0.0.1") == {platform.DATABASE_PASSWORD: "ours"}
    assert not secrets_file.exists()


def test_a_database_whose_password_is_lost_is_named() -> None:
    with pytest.raises(RetainError, match=r"POSTGRES_PASSWORD=.* docker volume rm retain-postgres"):
        platform._secrets(engine(volume=True), "127.0.0.1")


def test_secrets_of_the_environment_stay_there(secrets_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the file is written, for the password of a new database."""
    monkeypatch.setenv(SERVER_AUTH, "ann:secret")
    made = platform._secrets(engine(), "127.0.0.1")[platform.DATABASE_PASSWORD]
    assert secrets_file.read_text() == f"{platform.DATABASE_PASSWORD}={made}\n"


def test_secrets_that_others_can_read_are_refused(secrets_file: Path) -> None:
    secrets_file.write_text("POSTGRES_PASSWORD=x\n")
    secrets_file.chmod(0o644)
    with pytest.raises(RetainError, match="chmod 600"):
        platform._secrets(engine(), "127.0.0.1")


def test_another_address_wants_a_name_and_a_password(secrets_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for address in ("0.0.0.0", "192.0.2.1", "127.0.0.2"):
        with pytest.raises(RetainError, match=r"RETAIN_BIND=.*PREFECT_SERVER_API_AUTH_STRING=name:password"):
            platform._secrets(engine(), address)
    monkeypatch.setenv(SERVER_AUTH, "nameless")
    with pytest.raises(RetainError, match="is no name:password"):
        platform._secrets(engine(), "0.0.0.0")
    monkeypatch.setenv(SERVER_AUTH, "ann:secret")
    assert platform._secrets(engine(), "0.0.0.0")[platform.CLIENT_AUTH] == "ann:secret"
    monkeypatch.delenv(SERVER_AUTH)
    with secrets_file.open("a") as file:
        file.write("\n# the server's\nPREFECT_SERVER_API_AUTH_STRING=bob:other=secret\n")
    assert platform._secrets(engine(), "0.0.0.0")[SERVER_AUTH] == "bob:other=secret"


# -- faults in one line


def test_no_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    with pytest.raises(
        RetainError, match=rf"No Docker engine answers at unix://{tmp_path}/docker.sock .*No such file"
    ) as raised:
        platform.up(print)
    assert "\n" not in str(raised.value)


def test_an_engine_that_lets_nobody_in(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(self: socket.socket, address: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "connect", connect)
    with pytest.raises(RetainError, match=r"does not let user \d+ in \(unix:///var/run/docker.sock\).*usermod"):
        platform.up(print)


def test_an_engine_of_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://192.0.2.1:2375")
    with pytest.raises(RetainError, match=r"DOCKER_HOST=tcp://192\.0\.2\.1:2375: "):
        platform.up(print)


def test_the_engine_of_docker_s_own_context_is_everybody_s(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of the SDK, of compose, and of worker and witness, as with colima or an engine without root."""
    theirs = tmp_path / "docker.sock"
    folder = tmp_path / "config" / "contexts" / "meta" / hashlib.sha256(b"mine").hexdigest()
    folder.mkdir(parents=True)
    endpoint = {"Host": f"unix://{theirs}", "SkipTLSVerify": False}
    (tmp_path / "config" / "config.json").write_text("{}")
    (folder / "meta.json").write_text(json.dumps({"Name": "mine", "Metadata": {}, "Endpoints": {"docker": endpoint}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("DOCKER_CONTEXT", "mine")
    monkeypatch.setenv("RETAIN_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(RetainError, match=rf"answers at unix://{theirs} .*DOCKER_HOST"):
        compose.open_engine()
    theirs.touch()
    environment = platform._environment("retain/orchestrator:x", "127.0.0.1", {}, mounts.place())
    assert environment["DOCKER_HOST"] == f"unix://{theirs}"
    assert environment["RETAIN_DOCKER_SOCKET"] == str(theirs)
    assert environment["RETAIN_DOCKER_GID"] == str(theirs.stat().st_gid)


def service(folder: str) -> Any:
    return SimpleNamespace(status="running", labels={"com.docker.compose.project.working_dir": folder})


@pytest.mark.parametrize("command", ["up", "down"])
def test_the_platform_of_another_folder_is_left_alone(
    command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[object] = []
    monkeypatch.setattr(compose, "open_engine", engine)
    monkeypatch.setattr(compose, "compose", lambda *given: started.append(given))
    theirs = tmp_path / "infra"
    monkeypatch.setattr(compose, "services_of", lambda engine, project, name: [service(str(theirs))])
    assert platform.main([command]) == 2
    assert f"{theirs}, which is gone. To remove its containers: docker ps" in capsys.readouterr().err
    theirs.mkdir()
    assert platform.main([command]) == 2
    assert capsys.readouterr().err == (
        f"error: The platform that is there was started in {theirs}: run `make down` there first\n"
    )
    assert started == []
    monkeypatch.setattr(compose, "services_of", lambda engine, project, name: [service(str(platform.INFRA))])
    compose.refuse_other_checkout(engine(), platform.PROJECT)


@pytest.mark.parametrize(
    ("volumes", "env", "other"),
    [
        (["/here:/store"], {"RETAIN_STORE": "/store"}, []),
        (["/there:/store", "/data:/data:ro"], None, ["/there"]),
        (["retain-cache:/cache"], {"RETAIN_STORE": "gs://bucket/retain"}, ["gs://bucket/retain"]),
        (None, "of another project", []),
        ([], {}, []),
    ],
)
def test_deployments_of_another_store_than_the_witness_s_are_told(
    volumes: Any, env: Any, other: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    api = SimpleNamespace(read_deployments=lambda: [SimpleNamespace(job_variables={"volumes": volumes, "env": env})])
    monkeypatch.setattr(platform, "get_client", lambda **_: nullcontext(api))
    assert platform._other_stores("http://127.0.0.1:4200/api", None, "/here") == other


def test_no_compose(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RetainError, match="Neither `docker compose` nor `docker-compose` is installed"):
        compose.program()


@pytest.mark.parametrize(
    ("plugin", "standalone", "program"),
    [(True, True, ["docker", "compose"]), (True, False, ["docker", "compose"]), (False, True, ["docker-compose"])],
)
def test_either_compose_is_used(
    plugin: bool, standalone: bool, program: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, code in (("docker", 0 if plugin else 1), ("docker-compose", 0)):
        if name == "docker" or standalone:
            (tmp_path / name).write_text(f"#!/bin/sh\nexit {code}\n")
            (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert compose.program() == program


def test_what_is_no_service_of_ours_is_left_to_its_owner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Compose removes containers of a project of the same name only if it is asked to."""
    asked: list[list[str]] = []
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    monkeypatch.setattr(compose, "open_engine", engine)
    monkeypatch.setattr(compose, "compose", lambda project, arguments, environment: asked.append(arguments[2:]))
    platform.down(lambda line: None)
    assert asked == [["stop", "worker"], ["down"]]


class Ended:
    """A container of the pool that ends at SIGTERM."""

    def __init__(self, flow_run: UUID, name: str) -> None:
        self.id, self.labels = name, {witness.FLOW_RUN_LABEL: str(flow_run)}
        self.running, self.removed = True, False

    def kill(self, signal: object = None) -> None:
        self.running = False

    def remove(self, force: bool) -> None:
        self.removed = True


def test_a_container_whose_end_nobody_wrote_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An earlier container of the same flow run has an end already, and RETAIN_STORE may say what it likes."""
    known, unknown = Ended(uuid4(), "known"), Ended(uuid4(), "second")
    for flow_run, name in ((known.labels, "known"), (unknown.labels, "first")):
        end = ends.End(
            flow_run=UUID(flow_run[witness.FLOW_RUN_LABEL]),
            container=name,
            image="x",
            host="x",
            started_at=0.0,
            finished_at=1.0,
            exit_code=143,
            oom_killed=False,
        )
        ends.write(FolderStore(tmp_path), end)
    monkeypatch.setenv("RETAIN_STORE", "gs://bucket")
    monkeypatch.setattr(platform, "ENDS_S", 0.1)
    monkeypatch.setattr(platform, "store_of", lambda engine: str(tmp_path))

    def listed(engine: object, all: bool = False) -> list[Ended]:
        return [each for each in (known, unknown) if all or each.running]

    monkeypatch.setattr(platform, "_of_pool", listed)
    said: list[str] = []
    platform._stop_stages(engine(), said.append)
    assert (known.removed, unknown.removed) == (True, False)
    assert said[0].startswith("stopping 2 container(s)")
    assert said[1].startswith("1 container(s) have ended and stay")


@pytest.mark.parametrize(
    "error",
    [
        APIError("409 Conflict", explanation="the network is in use"),
        requests.exceptions.ReadTimeout("the network is in use"),
    ],
)
def test_what_the_engine_refuses_is_told_as_that(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> None:
        raise error

    monkeypatch.setattr(compose, "open_engine", refuse)
    assert platform.main(["down"]) == 2
    assert capsys.readouterr().err == "error: the Docker engine: the network is in use\n"


def test_what_compose_says_last_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "docker-compose").write_text("#!/bin/sh\necho progress >&2; echo no such image >&2; exit 1\n")
    (tmp_path / "docker-compose").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(compose, "program", lambda: ["docker-compose"])
    with pytest.raises(RetainError, match=r"docker-compose .* up` failed: no such image$"):
        compose.compose(platform.PROJECT, ["up"], {"PATH": f"{tmp_path}:/usr/bin:/bin"})


class Answers(BaseHTTPRequestHandler):
    status, body = 200, b'"3.1.0"'

    def do_GET(self) -> None:
        assert self.path == "/api/admin/version"
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Something that listens at the server's port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        monkeypatch.setattr(platform, "PORT", server.server_port)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield
        server.shutdown()
        thread.join()


@pytest.mark.usefixtures("other")
@pytest.mark.parametrize(
    ("status", "body", "what"),
    [
        (200, b'"3.1.0"', r"another Prefect server \(3\.1\.0\)"),
        (401, b"{}", r"another Prefect server \(unknown\)"),
        (404, b"{}", "another program"),
        (200, b"<html>", "another program"),
        (200, b'{"name": "x"}', "another program"),
    ],
)
def test_who_has_taken_the_port(status: int, body: bytes, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Answers, "status", status)
    monkeypatch.setattr(Answers, "body", body)
    with pytest.raises(RetainError, match=rf"^Port \d+ of 127.0.0.1 is taken by {what}: stop that first$"):
        platform._refuse_others(engine(), "127.0.0.1", {})


def test_a_port_that_is_free_is_nobody_s(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setattr(platform, "PORT", listener.getsockname()[1])
    platform._refuse_others(engine(), "127.0.0.1", {})


@pytest.mark.usefixtures("other")
def test_our_own_server_has_the_port() -> None:
    running = SimpleNamespace(containers=SimpleNamespace(list=lambda **_: [SimpleNamespace(status="running")]))
    own: Any = running
    platform._refuse_others(own, "127.0.0.1", {})


def container(status: str, health: str, restarts: int = 0) -> Any:
    state = {"Status": status, "Health": {"Status": health}}
    return SimpleNamespace(
        name="retain_server_1", attrs={"State": state, "RestartCount": restarts}, logs=lambda tail: b"no database\n"
    )


@pytest.mark.parametrize(
    ("status", "restarts", "what"),
    [("exited", 0, "ended"), ("restarting", 9, "ended"), ("running", 0, "isn't healthy")],
)
def test_a_service_that_does_not_get_healthy(
    status: str, restarts: int, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compose, "READY_S", 0.1)
    monkeypatch.setattr(
        compose, "services_of", lambda engine, project, service: [container(status, "starting", restarts)]
    )
    said: list[str] = []
    with pytest.raises(RetainError, match=rf"^server {what}.*\(no database\). See `docker logs retain_server_1`$"):
        compose.wait_until_healthy(engine(), platform.PROJECT, "server", said.append)
    assert said == []


def test_a_healthy_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compose, "services_of", lambda engine, project, service: [container("running", "healthy")])
    said: list[str] = []
    compose.wait_until_healthy(engine(), platform.PROJECT, "server", said.append)
    assert said == ["server: healthy after 0 s"]


# -- the command


def test_a_fault_is_one_line_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://192.0.2.1:2375")
    for command in ("up", "down"):
        assert platform.main([command]) == 2
        assert capsys.readouterr().err.startswith("error: DOCKER_HOST=tcp://192.0.2.1:2375: ")


def test_a_folder_that_can_not_be_written_is_named(
    secrets_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(platform, "SECRETS_FILE", secrets_file.parent / "gone" / "secrets.env")
    monkeypatch.setattr(compose, "open_engine", engine)
    monkeypatch.setattr(platform, "orchestrator", lambda say: "retain/orchestrator:x")
    assert platform.main(["up"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {secrets_file.parent}/gone/secrets.env.")
    assert error.count("\n") == 1
