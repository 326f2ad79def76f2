"""The services that deployments run on, in containers of this machine: `python -m flows.platform up|down`, for make.

PostgreSQL, Prefect's server, a worker of the work pool and the witness (flows/witness.py). infra/compose.yaml states
them, infra/pools/docker.json how the worker makes a container. Compose starts and stops the services; here is what it
can't do: the faults that are told in one line, secrets, images that can't be pulled, and the pool, which has to be
there before the worker.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import docker
import httpx
import yaml
from docker import DockerClient
from docker.context import ContextAPI
from docker.errors import APIError, DockerException, NotFound
from docker.models.containers import Container
from docker.utils import kwargs_from_env
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from requests.exceptions import RequestException

from engine.errors import RetainError
from engine.fingerprint import ROOT
from engine.output import make_decoration
from engine.paths import why_unreadable, why_unwritable
from engine.store import FolderStore, store_url
from flows import ends
from flows.guard import SERVER_AUTH
from images.build import build, references

PROJECT = "retain"
POOL = "docker"
ORCHESTRATOR = "orchestrator"  # the image of worker and witness
# Of the containers that the worker makes: as infra/pools/docker.json says, and of which flow run, by the worker.
POOL_LABEL, FLOW_RUN_LABEL = "retain.pool=docker", "io.prefect.flow-run-id"
PORT = 4200
LOOPBACK = "127.0.0.1"
SERVICES = ("postgres", "server", "worker", "witness")
DEFAULT_ENGINE = "unix:///var/run/docker.sock"
VOLUME = "retain-postgres"  # of the database
INFRA = ROOT / "infra"
COMPOSE_FILE, BUILD_FILE = INFRA / "compose.yaml", INFRA / "compose.build.yaml"
POOL_FILE = INFRA / "pools" / "docker.json"
POSTGRES_FOLDER = INFRA / "postgres"
STORE_LABEL = "retain.store"  # of the witness: the folder that is its store
SECRETS_FILE = INFRA / "secrets.env"
DATABASE_PASSWORD = "POSTGRES_PASSWORD"
CLIENT_AUTH = "PREFECT_API_AUTH_STRING"
READY_S = 120.0  # for a service to become healthy
STOP_S = 30  # for containers of stages, which save a checkpoint
RESTARTS = 3  # of a service, until it is given up
ENDS_S = 5.0  # for the witness to put their ends into the store

Say = Callable[[str], None]


def up(say: Say) -> None:
    """Starts what isn't running yet, or runs as something else than is stated now, and waits until all is healthy.

    Raises RetainError.
    """
    address = bind()
    engine = _engine()
    _refuse_other_checkout(engine)
    environment = _environment(orchestrator(say), address, _secrets(engine, address))
    _refuse_others(engine, address, environment)
    files = _files(engine, say)
    for together in (("postgres", "server"), ("worker", "witness")):
        _compose([*files, "up", "--detach", *together], environment)
        for service in together:
            wait_until_healthy(engine, service, say)
        if "server" in together:
            _make_pool(api_url(address), environment.get(CLIENT_AUTH))
            say(f"work pool {POOL}: as {POOL_FILE.relative_to(ROOT)} states")
            store = _store_folder()
            for other in _other_stores(api_url(address), environment.get(CLIENT_AUTH), store):
                say(f"warning: deployments keep their artifacts in {other}, not in {store}")
                say("  `make deploy` changes that; or start this with the same RETAIN_STORE")
    say(f"Prefect is at {api_url(address).removesuffix('/api')}")


def down(say: Say) -> None:
    """Stops all of it, and before that the stages that are running. The database stays. Raises RetainError."""
    engine = _engine()
    _refuse_other_checkout(engine)
    base, environment = ["--file", str(COMPOSE_FILE)], os.environ | {"DOCKER_HOST": _engine_address()}
    _compose([*base, "stop", "worker"], environment)  # so that it starts nothing more
    _stop_stages(engine, say)
    _compose([*base, "down"], environment)
    say(f"stopped. The database stays in the volume {VOLUME}; `docker volume rm {VOLUME}` removes it")


def orchestrator(say: Say) -> str:
    """The reference of the image of worker and witness, which is built where it isn't there."""
    try:
        return references(ROOT, [ORCHESTRATOR])[ORCHESTRATOR]
    except RetainError:
        return build(ROOT, [ORCHESTRATOR], say=say)[ORCHESTRATOR]


def bind() -> str:
    """The address of this machine that the server is reached at."""
    return os.environ.get("RETAIN_BIND") or LOOPBACK


def api_url(address: str = LOOPBACK) -> str:
    """Where the server's API is reached from this machine."""
    return f"http://{LOOPBACK if address == '0.0.0.0' else address}:{PORT}/api"


def _engine() -> DockerClient:
    address = _engine_address()
    try:
        with socket.socket(socket.AF_UNIX) as connection:  # whose errors are plainer than those of the SDK
            connection.connect(address.removeprefix("unix://"))
        engine = docker.from_env()
        engine.ping()
    except PermissionError:
        raise RetainError(
            f"The Docker engine does not let user {os.geteuid()} in ({address}): add the user to the socket's group "
            "(sudo usermod -aG docker $USER), then log in again"
        ) from None
    except (OSError, DockerException) as error:
        raise RetainError(
            f"No Docker engine answers at {address} ({_first_line(error)}): start it, name another one by DOCKER_HOST, "
            "or install one: https://docs.docker.com/engine/install"
        ) from None
    return engine


def _engine_address() -> str:
    """Where the SDK finds the engine: DOCKER_HOST, otherwise Docker's own context. Compose is told the same.

    A store and data are folders of this machine, so an engine elsewhere is of no use.
    """
    try:
        address: str = (kwargs_from_env() or ContextAPI.kwargs_from_context()).get("base_url") or DEFAULT_ENGINE
    except DockerException as error:
        raise RetainError(
            f"Docker's own settings can't be used ({_first_line(error)}). DOCKER_HOST goes before"
        ) from None
    if not address.startswith("unix://"):
        raise RetainError(
            f"DOCKER_HOST={address}: containers mount folders of this machine, so its own engine is needed"
        )
    return address


def _mounted_socket() -> Path:
    """The socket that worker and witness get. On a Mac the engine runs in a virtual machine and has its own path."""
    if sys.platform == "darwin":
        return Path(DEFAULT_ENGINE.removeprefix("unix://"))
    return Path(_engine_address().removeprefix("unix://"))


def _refuse_other_checkout(engine: DockerClient) -> None:
    """Raises RetainError if the services that are there belong to another folder of Retain."""
    for each in (container for service in SERVICES for container in services_of(engine, service)):
        folder = each.labels.get("com.docker.compose.project.working_dir")
        if folder is None or Path(folder).resolve() == INFRA.resolve():
            continue
        if Path(folder).is_dir():
            raise RetainError(f"The platform that is there was started in {folder}: run `make down` there first")
        raise RetainError(
            f"The platform that is there was started in {folder}, which is gone. To remove its containers: docker ps "
            f"--all --quiet --filter label=com.docker.compose.project={PROJECT} | xargs docker rm --force"
        )


def _environment(image: str, address: str, passwords: Mapping[str, str]) -> dict[str, str]:
    """What infra/compose.yaml names, beside what the caller has set."""
    path = _mounted_socket()
    return {
        **os.environ,
        **passwords,
        "RETAIN_BIND": address,
        "RETAIN_IMAGE_ORCHESTRATOR": image,
        "RETAIN_IMAGE_POSTGRES": built_postgres(),
        "DOCKER_HOST": _engine_address(),
        "RETAIN_DOCKER_SOCKET": str(path),
        # In the virtual machine of a Mac the socket belongs to root.
        "RETAIN_DOCKER_GID": "0" if sys.platform == "darwin" else str(path.stat().st_gid),
        "RETAIN_HOST_STORE": _store_folder(),
        "RETAIN_UID": str(os.geteuid()),
        "RETAIN_GID": str(os.getegid()),
    }


def _store_folder() -> str:
    url = store_url()
    if "://" in url:
        raise RetainError(f"RETAIN_STORE={url}: only a folder can be a store so far")
    folder = Path(url).absolute()
    folder.mkdir(parents=True, exist_ok=True)  # by us, or Docker would make it, for root
    return str(folder)


def _secrets(engine: DockerClient, address: str) -> dict[str, str]:
    """Passwords: those of the environment, else of infra/secrets.env, where the database's is written once."""
    given = {name: os.environ[name] for name in (DATABASE_PASSWORD, SERVER_AUTH) if os.environ.get(name)}
    written = read_secrets()
    known = written | given
    if DATABASE_PASSWORD not in known:
        if has_database(engine):
            raise RetainError(
                f"The database of an earlier `make up` is there, perhaps of another folder's, but its password isn't: "
                f"put {DATABASE_PASSWORD}=... back into {SECRETS_FILE}, or begin anew without all that it knows of "
                f"runs: docker volume rm {VOLUME}"
            )
        known[DATABASE_PASSWORD] = secrets.token_urlsafe(24)
        _write_secrets(written | {DATABASE_PASSWORD: known[DATABASE_PASSWORD]})
    auth = known.get(SERVER_AUTH)
    if auth is None and address != LOOPBACK:
        raise RetainError(
            f"RETAIN_BIND={address}: others could reach the server there, so it wants a name and a password. Set "
            f"{SERVER_AUTH}=name:password, or add this line to {SECRETS_FILE}"
        )
    if auth is not None:
        if ":" not in auth:
            raise RetainError(f"{SERVER_AUTH} is no name:password")
        known[CLIENT_AUTH] = auth
    return known


def read_secrets() -> dict[str, str]:
    """What infra/secrets.env has; nothing where it isn't there. Raises RetainError if others can read it."""
    try:
        if stat.S_IMODE(SECRETS_FILE.stat().st_mode) & 0o077:
            raise RetainError(f"{SECRETS_FILE} can be read by others: chmod 600 {SECRETS_FILE}")
        lines = SECRETS_FILE.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise RetainError(f"{SECRETS_FILE}: {why_unreadable(error)}") from None
    pairs = (line.partition("=") for line in lines if line.strip() and not line.startswith("#"))
    return {name.strip(): value.strip() for name, _, value in pairs}


def _write_secrets(values: Mapping[str, str]) -> None:
    aside = SECRETS_FILE.with_name(f"{SECRETS_FILE.name}.{os.getpid()}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.writelines(f"{name}={value}\n" for name, value in values.items())
        file.flush()
        os.fsync(file.fileno())
    aside.replace(SECRETS_FILE)


def has_database(engine: DockerClient) -> bool:
    """Whether there is the database of an earlier time."""
    try:
        engine.volumes.get(VOLUME)
    except NotFound:
        return False
    return True


def _refuse_others(engine: DockerClient, address: str, environment: Mapping[str, str]) -> None:
    """Raises RetainError if something else than our own server listens at the address."""
    if any(each.status == "running" for each in services_of(engine, "server")):
        return
    try:
        socket.create_connection((urlsplit(api_url(address)).hostname, PORT), timeout=2).close()
    except OSError:
        return
    found = server_version(api_url(address), environment.get(CLIENT_AUTH))
    what = "another program" if found is None else f"another Prefect server ({found})"
    raise RetainError(f"Port {PORT} of {address} is taken by {what}: stop that first")


def server_version(api_url: str, auth: str | None = None) -> str | None:
    """The version of the Prefect server at that address; "unknown" if it wants a password, None if there is none."""
    request = urllib.request.Request(f"{api_url}/admin/version")
    if auth:
        request.add_header("Authorization", f"Basic {b64encode(auth.encode()).decode()}")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=10) as answer:
            said = json.loads(answer.read(1000))
    except urllib.error.HTTPError as error:
        return "unknown" if error.code == 401 else None
    except (OSError, ValueError):
        return None
    return said if isinstance(said, str) else None


def _files(engine: DockerClient, say: Say) -> list[str]:
    """The compose files: with the one that builds PostgreSQL, where its image isn't there and can't be pulled."""
    base, building = ["--file", str(COMPOSE_FILE)], ["--file", str(BUILD_FILE)]
    if _has_image(engine, built_postgres()):
        return base + building
    image = yaml.safe_load(COMPOSE_FILE.read_text(encoding="utf-8"))["services"]["postgres"]["image"]
    if _has_image(engine, image):
        return base
    say(f"pulling {image} ...")
    try:
        engine.images.pull(image)
    except APIError as error:
        say(f"{image} can't be pulled ({_first_line(error)})")
        say("building PostgreSQL from Debian's packages instead ...")
        return base + building
    return base


def built_postgres() -> str:
    """The reference of the image of infra/postgres/: a digest of its content, so that a change of it is built."""
    content = hashlib.sha256()
    for path in sorted(POSTGRES_FOLDER.iterdir()):
        content.update(f"{path.name}\n{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return f"retain-postgres:{content.hexdigest()[:12]}"


def _has_image(engine: DockerClient, image: str) -> bool:
    try:
        engine.images.get(image)
    except NotFound:
        return False
    return True


def _compose(arguments: list[str], environment: Mapping[str, str]) -> None:
    command = [*_compose_program(), "--project-name", PROJECT, "--project-directory", str(INFRA), *arguments]
    ended = subprocess.run(
        command, env=dict(environment), stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", check=False
    )
    if ended.returncode:
        lines = ended.stderr.strip().splitlines() or ["it said nothing"]
        raise RetainError(f"`{' '.join(command)}` failed: {lines[-1]}")


def _compose_program() -> list[str]:
    """`docker compose`, or `docker-compose` where only that is installed."""
    if shutil.which("docker"):
        known = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
        if known.returncode == 0:
            return ["docker", "compose"]
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    raise RetainError(
        "Neither `docker compose` nor `docker-compose` is installed (on Debian and Ubuntu, apt install docker-compose)"
    )


def services_of(engine: DockerClient, service: str) -> list[Container]:
    """The containers of a service: one, or none while it is down."""
    labels = [f"com.docker.compose.project={PROJECT}", f"com.docker.compose.service={service}"]
    return engine.containers.list(all=True, filters={"label": labels}, ignore_removed=True)  # type: ignore[no-any-return]


def store_of(engine: DockerClient) -> Path | None:
    """The folder that is the store of the platform that is there, into which its witness writes; None without one."""
    witness = next(iter(services_of(engine, "witness")), None)
    folder = witness.labels.get(STORE_LABEL) if witness is not None else None
    return Path(folder) if folder else None


def wait_until_healthy(engine: DockerClient, service: str, say: Say) -> None:
    """Waits until a service's container is healthy."""
    began = time.monotonic()
    while True:
        container = next(iter(services_of(engine, service)), None)
        state = container.attrs["State"] if container is not None else {}
        if state.get("Health", {}).get("Status") == "healthy":
            say(f"{service}: healthy after {time.monotonic() - began:.0f} s")
            return
        ended = state.get("Status") in ("exited", "dead") or (container and container.attrs["RestartCount"] > RESTARTS)
        if ended or time.monotonic() - began > READY_S:
            name = container.name if container is not None else service
            what = "ended" if ended else f"isn't healthy after {READY_S:.0f} s"
            raise RetainError(f"{service} {what}{_last_line(container)}. See `docker logs {name}`")
        time.sleep(0.25)


def _last_line(container: Container | None) -> str:
    lines = container.logs(tail=1).decode(errors="replace").strip().splitlines() if container is not None else []
    return f" ({lines[-1]})" if lines else ""


def _make_pool(url: str, auth: str | None) -> None:
    """Creates the work pool, or brings it to what infra/pools/docker.json says."""
    pool = WorkPoolCreate(
        name=POOL,
        description="Containers of one machine (infra/pools/docker.json)",
        type="docker",
        base_job_template=json.loads(POOL_FILE.read_text(encoding="utf-8")),
    )
    with temporary_settings({PREFECT_API_URL: url, PREFECT_API_AUTH_STRING: auth}), get_client(sync_client=True) as api:
        try:
            api.create_work_pool(pool, overwrite=True)
        except httpx.HTTPError as error:
            raise RetainError(f"Prefect's server refused the work pool {POOL} ({_first_line(error)})") from None


def _other_stores(url: str, auth: str | None, store: str) -> list[str]:
    """The stores of deployments, other than the witness's `store`: none of their stages would be seen to end."""
    with temporary_settings({PREFECT_API_URL: url, PREFECT_API_AUTH_STRING: auth}), get_client(sync_client=True) as api:
        try:
            deployments = api.read_deployments()
        except httpx.HTTPError:
            return []  # what it would be warned of is seen by `make deploy` as well
    volumes = {str(each) for one in deployments for each in (one.job_variables or {}).get("volumes") or []}
    stores = {each.removesuffix(":/store") for each in volumes if each.endswith(":/store")}
    return sorted(stores - {store})


def _stop_stages(engine: DockerClient, say: Say) -> None:
    """Ends the containers of stages and runs, which save checkpoints, and waits for the witness to note it.

    Only containers whose end is in the store are removed: the next `make up` notes the others.
    """
    folder = store_of(engine)
    running = _of_pool(engine)
    if running:
        say(f"stopping {len(running)} container(s) of runs and stages; they go on with the next `make up`")
    for container in running:
        with suppress(APIError):  # it has just ended
            container.kill(signal.SIGTERM)
    deadline = time.monotonic() + STOP_S
    while _of_pool(engine) and time.monotonic() < deadline:
        time.sleep(0.25)
    for container in _of_pool(engine):
        with suppress(APIError):
            container.kill()
    deadline = time.monotonic() + ENDS_S
    while folder is not None and time.monotonic() < deadline and any(not _noted(folder, each) for each in running):
        time.sleep(0.25)
    kept = 0
    for container in _of_pool(engine, all=True):
        if folder is None or not _noted(folder, container):
            kept += 1
            continue
        with suppress(APIError):  # the witness was faster
            container.remove(force=True)
    if kept:
        say(f"{kept} container(s) have ended and stay, since the witness has not noted how: the next `make up` does")


def _of_pool(engine: DockerClient, all: bool = False) -> list[Container]:
    return engine.containers.list(all=all, filters={"label": POOL_LABEL}, ignore_removed=True)  # type: ignore[no-any-return]


def _noted(folder: Path, container: Container) -> bool:
    """Whether the store knows how the container ended. One that can't be read doesn't know."""
    with suppress(RetainError):
        return ends.is_written(FolderStore(folder), UUID(container.labels[FLOW_RUN_LABEL]), container.id)
    return False


def _first_line(error: Exception) -> str:
    text = error.explanation if isinstance(error, APIError) else None
    return next(iter(str(text or error).splitlines()), type(error).__name__)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m flows.platform", description=__doc__)
    parser.add_argument("command", choices=["up", "down"])
    commands = {"up": up, "down": down}
    try:
        commands[parser.parse_args(arguments).command](partial(print, flush=True))
    except RetainError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except (DockerException, RequestException) as error:  # some of them are OSErrors as well
        print(f"error: the Docker engine: {_first_line(error)}", file=sys.stderr)
        return RetainError.exit_code
    except OSError as error:
        print(f"error: {error.filename or INFRA}: {why_unwritable(error)}", file=sys.stderr)
        return RetainError.exit_code
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


if __name__ == "__main__":
    make_decoration()
    sys.exit(main())
