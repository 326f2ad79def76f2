"""A project of Docker Compose on this machine: what Compose itself can't do, for `make up` and `make serve.up`.

The faults that are told in one line, secrets that are made once, and images that are built where they can't be pulled.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import docker
from docker import DockerClient
from docker.context import ContextAPI
from docker.errors import APIError, DockerException, NotFound
from docker.models.containers import Container
from docker.utils import kwargs_from_env
from requests.exceptions import RequestException

from engine.errors import RetainError
from engine.paths import why_unreadable, why_unwritable
from images.build import build, references

DEFAULT_ENGINE = "unix:///var/run/docker.sock"
READY_S = 120.0  # for a service to become healthy
RESTARTS = 3  # of a service, until it is given up

Say = Callable[[str], None]


class Project(NamedTuple):
    """`folder` has its compose files, `services` are all that may run, `what` is its name for people, and `down` the
    command that stops it."""

    name: str
    folder: Path
    services: tuple[str, ...]
    what: str
    down: str


# -- the engine ----------------------------------------------------------------------------------------------------


def open_engine() -> DockerClient:
    """The Docker engine of this machine. Raises RetainError."""
    address = engine_address()
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
            f"No Docker engine answers at {address} ({first_line(error)}): start it, name another one by DOCKER_HOST, "
            "or install one: https://docs.docker.com/engine/install"
        ) from None
    return engine


def engine_address() -> str:
    """Where the SDK finds the engine: DOCKER_HOST, otherwise Docker's own context. Compose is told the same.

    A store and data are folders of this machine, so an engine elsewhere is of no use.
    """
    try:
        address: str = (kwargs_from_env() or ContextAPI.kwargs_from_context()).get("base_url") or DEFAULT_ENGINE
    except DockerException as error:
        raise RetainError(
            f"Docker's own settings can't be used ({first_line(error)}). DOCKER_HOST goes before"
        ) from None
    if not address.startswith("unix://"):
        raise RetainError(
            f"DOCKER_HOST={address}: containers mount folders of this machine, so its own engine is needed"
        )
    return address


# -- images --------------------------------------------------------------------------------------------------------


def own_image(name: str, root: Path, say: Say) -> str:
    """The reference of one of this repository's images, which is built where it isn't there. Raises RetainError."""
    try:
        return references(root, [name])[name]
    except RetainError:
        return build(root, [name], say=say)[name]


def has_image(engine: DockerClient, image: str) -> bool:
    try:
        engine.images.get(image)
    except NotFound:
        return False
    return True


def pull(engine: DockerClient, image: str, say: Say) -> bool:
    """Whether the engine has the image, or could pull it."""
    if has_image(engine, image):
        return True
    say(f"pulling {image} ...")
    try:
        engine.images.pull(image)
    except APIError as error:
        say(f"{image} can't be pulled ({first_line(error)})")
        return False
    return True


def tag_of(folder: Path) -> str:
    """A digest of the folder that an image is built from, so that a change of it is built."""
    content = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        content.update(f"{path.name}\n{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return content.hexdigest()[:12]


# -- secrets -------------------------------------------------------------------------------------------------------


def read_secrets(path: Path) -> dict[str, str]:
    """What the file has; nothing where it isn't there. Raises RetainError if others can read it."""
    try:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise RetainError(f"{path} can be read by others: chmod 600 {path}")
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise RetainError(f"{path}: {why_unreadable(error)}") from None
    pairs = (line.partition("=") for line in lines if line.strip() and not line.startswith("#"))
    return {name.strip(): value.strip() for name, _, value in pairs}


def write_secrets(path: Path, values: Mapping[str, str]) -> None:
    """Replaces the file by one that nobody else can read."""
    aside = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.writelines(f"{name}={value}\n" for name, value in values.items())
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def has_volume(engine: DockerClient, name: str) -> bool:
    """Whether there is the volume, such as that of a database of an earlier time."""
    try:
        engine.volumes.get(name)
    except NotFound:
        return False
    return True


# -- services ------------------------------------------------------------------------------------------------------


def services_of(engine: DockerClient, project: Project, service: str) -> list[Container]:
    """The containers of a service: one, or none while it is down."""
    labels = [f"com.docker.compose.project={project.name}", f"com.docker.compose.service={service}"]
    return engine.containers.list(all=True, filters={"label": labels}, ignore_removed=True)  # type: ignore[no-any-return]


def refuse_other_checkout(engine: DockerClient, project: Project) -> None:
    """Raises RetainError if the services that are there belong to another folder of Retain."""
    for each in (container for service in project.services for container in services_of(engine, project, service)):
        folder = each.labels.get("com.docker.compose.project.working_dir")
        if folder is None or Path(folder).resolve() == project.folder.resolve():
            continue
        if Path(folder).is_dir():
            raise RetainError(
                f"The {project.what} that is there was started in {folder}: run `{project.down}` there first"
            )
        raise RetainError(
            f"The {project.what} that is there was started in {folder}, which is gone. To remove its containers: "
            f"docker ps --all --quiet --filter label=com.docker.compose.project={project.name} | "
            "xargs docker rm --force"
        )


def compose(project: Project, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    """Runs Compose. Raises RetainError with the last that it said."""
    command = [*program(), "--project-name", project.name, "--project-directory", str(project.folder), *arguments]
    ended = subprocess.run(
        command, env=dict(environment), stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", check=False
    )
    if ended.returncode:
        lines = ended.stderr.strip().splitlines() or ["it said nothing"]
        raise RetainError(f"`{' '.join(command)}` failed: {lines[-1]}")


def program() -> list[str]:
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


def wait_until_healthy(engine: DockerClient, project: Project, service: str, say: Say) -> None:
    """Waits until a service's container is healthy. Raises RetainError."""
    began = time.monotonic()
    while True:
        container = next(iter(services_of(engine, project, service)), None)
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


def first_line(error: Exception) -> str:
    """Of what the engine, or anything else, says is wrong."""
    text = error.explanation if isinstance(error, APIError) else None
    return next(iter(str(text or error).splitlines()), type(error).__name__)


def carry_out(command: Callable[[Say], None], folder: Path) -> int:
    """The exit code of a command; what went wrong is said in one line. `folder`: where it writes."""
    try:
        command(partial(print, flush=True))
    except RetainError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except (DockerException, RequestException) as error:  # some of them are OSErrors as well
        print(f"error: the Docker engine: {first_line(error)}", file=sys.stderr)
        return RetainError.exit_code
    except OSError as error:
        print(f"error: {error.filename or folder}: {why_unwritable(error)}", file=sys.stderr)
        return RetainError.exit_code
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0
