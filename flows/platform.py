"""The services that deployments run on, in containers of this machine: `python -m flows.platform up|down`, for make.

PostgreSQL, Prefect's server, a worker of the work pool and the witness (flows/witness.py). infra/compose.yaml states
them, infra/pools/docker.json how the worker makes a container. Compose starts and stops the services; here is what it
can't do: the faults that are told in one line, secrets, images that can't be pulled, and the pool, which has to be
there before the worker.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import yaml
from docker import DockerClient
from docker.errors import APIError
from docker.models.containers import Container
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from engine.errors import RetainError
from engine.fingerprint import ROOT
from engine.output import make_decoration
from engine.store import FolderStore, Store, open_store
from flows import compose, ends
from flows.compose import Say
from flows.guard import SERVER_AUTH
from flows.mounts import STORE, Place, place
from flows.witness import FLOW_RUN_LABEL, POOL_LABEL

POOL = "docker"
ORCHESTRATOR = "orchestrator"  # the image of worker and witness
POOL_FILTER = f"{POOL_LABEL}={POOL}"  # by which the engine lists the containers that the worker has made
PORT = 4200
LOOPBACK = "127.0.0.1"
SERVICES = ("postgres", "server", "worker", "witness")
VOLUME = "retain-postgres"  # of the database
INFRA = ROOT / "infra"
COMPOSE_FILE, BUILD_FILE = INFRA / "compose.yaml", INFRA / "compose.build.yaml"
FOLDER_FILE, BUCKET_FILE = INFRA / "compose.folder.yaml", INFRA / "compose.bucket.yaml"  # one of them, for the store
POOL_FILE = INFRA / "pools" / "docker.json"
POSTGRES_FOLDER = INFRA / "postgres"
STORE_LABEL = "retain.store"  # of the witness: its store, a folder of this machine or gs://bucket/prefix
PROJECT = compose.Project("retain", INFRA, SERVICES, what="platform", down="make down")
SECRETS_FILE = INFRA / "secrets.env"
DATABASE_PASSWORD = "POSTGRES_PASSWORD"
CLIENT_AUTH = "PREFECT_API_AUTH_STRING"
STOP_S = 30  # for containers of stages, which save a checkpoint
ENDS_S = 5.0  # for the witness to put their ends into the store


def up(say: Say) -> None:
    """Starts what isn't running yet, or runs as something else than is stated now, and waits until all is healthy.

    Raises RetainError.
    """
    address = bind()
    engine = compose.open_engine()
    compose.refuse_other_checkout(engine, PROJECT)
    store = place()
    if store.access:
        store.open().check()
    environment = _environment(orchestrator(say), address, _secrets(engine, address), store)
    _refuse_others(engine, address, environment)
    files = [*_files(engine, say), "--file", str(BUCKET_FILE if store.access else FOLDER_FILE)]
    for together in (("postgres", "server"), ("worker", "witness")):
        compose.compose(PROJECT, [*files, "up", "--detach", *together], environment)
        for service in together:
            compose.wait_until_healthy(engine, PROJECT, service, say)
        if "server" in together:
            with _client(api_url(address), environment.get(CLIENT_AUTH)) as api:
                make_pool(api, POOL, "Containers of one machine (infra/pools/docker.json)", docker_template(POOL))
            say(f"work pool {POOL}: as {POOL_FILE.relative_to(ROOT)} states")
            for other in _other_stores(api_url(address), environment.get(CLIENT_AUTH), store.url):
                say(f"warning: deployments keep their artifacts in {other}, not in {store.url}")
                say("  `make deploy` changes that; or start this with the same RETAIN_STORE")
    say(f"Prefect is at {api_url(address).removesuffix('/api')}")


def down(say: Say) -> None:
    """Stops all of it, and before that the stages that are running. The database stays. Raises RetainError."""
    engine = compose.open_engine()
    compose.refuse_other_checkout(engine, PROJECT)
    base, environment = ["--file", str(COMPOSE_FILE)], os.environ | {"DOCKER_HOST": compose.engine_address()}
    compose.compose(PROJECT, [*base, "stop", "worker"], environment)  # so that it starts nothing more
    _stop_stages(engine, say)
    compose.compose(PROJECT, [*base, "down"], environment)
    say(f"stopped. The database stays in the volume {VOLUME}; `docker volume rm {VOLUME}` removes it")


def orchestrator(say: Say) -> str:
    """The reference of the image of worker and witness, which is built where it isn't there."""
    return compose.own_image(ORCHESTRATOR, ROOT, say)


def bind() -> str:
    """The address of this machine that the server is reached at."""
    return os.environ.get("RETAIN_BIND") or LOOPBACK


def api_url(address: str = LOOPBACK) -> str:
    """Where the server's API is reached from this machine."""
    return f"http://{LOOPBACK if address == '0.0.0.0' else address}:{PORT}/api"


def _mounted_socket() -> Path:
    """The socket that worker and witness get. On a Mac the engine runs in a virtual machine and has its own path."""
    if sys.platform == "darwin":
        return Path(compose.DEFAULT_ENGINE.removeprefix("unix://"))
    return Path(compose.engine_address().removeprefix("unix://"))


def _environment(image: str, address: str, passwords: Mapping[str, str], store: Place) -> dict[str, str]:
    """What the compose files name, beside what the caller has set."""
    path = _mounted_socket()
    return {
        **os.environ,
        **passwords,
        "RETAIN_BIND": address,
        "RETAIN_IMAGE_ORCHESTRATOR": image,
        "RETAIN_IMAGE_POSTGRES": built_postgres(),
        "DOCKER_HOST": compose.engine_address(),
        "RETAIN_DOCKER_SOCKET": str(path),
        # In the virtual machine of a Mac the socket belongs to root.
        "RETAIN_DOCKER_GID": "0" if sys.platform == "darwin" else str(path.stat().st_gid),
        "RETAIN_HOST_STORE": store.url,
        "RETAIN_HOST_KEY": store.key,
        "RETAIN_UID": str(os.geteuid()),
        "RETAIN_GID": str(os.getegid()),
    }


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
        compose.write_secrets(SECRETS_FILE, written | {DATABASE_PASSWORD: known[DATABASE_PASSWORD]})
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
    """What infra/secrets.env has. Raises RetainError if others can read it."""
    return compose.read_secrets(SECRETS_FILE)


def has_database(engine: DockerClient) -> bool:
    """Whether there is the database of an earlier time."""
    return compose.has_volume(engine, VOLUME)


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
    if compose.has_image(engine, built_postgres()):
        return base + building
    image = yaml.safe_load(COMPOSE_FILE.read_text(encoding="utf-8"))["services"]["postgres"]["image"]
    if compose.pull(engine, image, say):
        return base
    say("building PostgreSQL from Debian's packages instead ...")
    return base + building


def built_postgres() -> str:
    """The reference of the image of infra/postgres/."""
    return f"retain-postgres:{compose.tag_of(POSTGRES_FOLDER)}"


def services_of(engine: DockerClient, service: str) -> list[Container]:
    """The containers of a service: one, or none while it is down."""
    return compose.services_of(engine, PROJECT, service)


def store_of(engine: DockerClient) -> str | None:
    """The store of the platform that is there, into which its witness writes: a folder, or gs://bucket/prefix. None
    without a platform."""
    witness = next(iter(services_of(engine, "witness")), None)
    return (witness.labels.get(STORE_LABEL) or None) if witness is not None else None


def store_of_deployment(job_variables: Mapping[str, Any]) -> str | None:
    """The store that containers with these variables get; None where they get none of ours."""
    env = job_variables.get("env")
    url = str(env.get("RETAIN_STORE", "")) if isinstance(env, dict) else ""
    if "://" in url:
        return url
    volumes = (str(each) for each in job_variables.get("volumes") or [])
    return next((each.removesuffix(f":{STORE}") for each in volumes if each.endswith(f":{STORE}")), None)


@contextmanager
def _client(url: str, auth: str | None) -> Iterator[SyncPrefectClient]:
    with temporary_settings({PREFECT_API_URL: url, PREFECT_API_AUTH_STRING: auth}), get_client(sync_client=True) as api:
        yield api


def docker_template(pool: str) -> dict[str, Any]:
    """The base job template of a work pool of containers: infra/pools/docker.json, with the pool as their label, by
    which its witness knows them."""
    stated: dict[str, Any] = json.loads(POOL_FILE.read_text(encoding="utf-8"))
    stated["job_configuration"]["labels"] = {POOL_LABEL: pool}
    return stated


def make_pool(
    api: SyncPrefectClient, name: str, description: str, template: Mapping[str, Any], kind: str = "docker"
) -> None:
    """Creates the work pool, or brings it to that base job template. `kind`: of Prefect's workers.

    Raises RetainError.
    """
    pool = WorkPoolCreate(name=name, description=description, type=kind, base_job_template=dict(template))
    try:
        api.create_work_pool(pool, overwrite=True)
    except httpx.HTTPError as error:
        raise RetainError(f"Prefect's server refused the work pool {name} ({compose.first_line(error)})") from None


def _other_stores(url: str, auth: str | None, store: str) -> list[str]:
    """The stores of deployments, other than the witness's `store`: none of their stages would be seen to end."""
    with _client(url, auth) as api:
        try:
            deployments = api.read_deployments()
        except httpx.HTTPError:
            return []  # what it would be warned of is seen by `make deploy` as well
    stores = {store_of_deployment(each.job_variables or {}) for each in deployments}
    return sorted(each for each in stores if each not in (None, store))


def _stop_stages(engine: DockerClient, say: Say) -> None:
    """Ends the containers of stages and runs, which save checkpoints, and waits for the witness to note it.

    Only containers whose end is in the store are removed: the next `make up` notes the others.
    """
    url = store_of(engine)
    store = _opened(url) if url is not None else None
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
    while store is not None and time.monotonic() < deadline and any(not _noted(store, each) for each in running):
        time.sleep(0.25)
    kept = 0
    for container in _of_pool(engine, all=True):
        if store is None or not _noted(store, container):
            kept += 1
            continue
        with suppress(APIError):  # the witness was faster
            container.remove(force=True)
    if kept:
        say(f"{kept} container(s) have ended and stay, since the witness has not noted how: the next `make up` does")


def _of_pool(engine: DockerClient, all: bool = False) -> list[Container]:
    return engine.containers.list(all=all, filters={"label": POOL_FILTER}, ignore_removed=True)  # type: ignore[no-any-return]


def _opened(url: str) -> Store | None:
    """The store, where it can be looked into; a folder isn't made anew."""
    if "://" not in url:
        return FolderStore(Path(url))
    with suppress(RetainError):
        return open_store(url)
    return None


def _noted(store: Store, container: Container) -> bool:
    """Whether the store knows how the container ended. One that can't be read doesn't know."""
    with suppress(RetainError):
        return ends.is_written(store, UUID(container.labels[FLOW_RUN_LABEL]), container.id)
    return False


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m flows.platform", description=__doc__)
    parser.add_argument("command", choices=["up", "down"])
    commands = {"up": up, "down": down}
    return compose.carry_out(commands[parser.parse_args(arguments).command], INFRA)


if __name__ == "__main__":
    make_decoration()
    sys.exit(main())
